"""The page that shows a store: files that `npm run build` in viewer/ made, and their headers."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import html
import os
import re
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from isles24_zarr.errors import DestinationError, NotAStoreError

INDEX: Final = "index.html"
_CONNECT_SELF: Final = "connect-src 'self'"
_CONNECT_ANY: Final = "connect-src 'self' http: https:"
_STORE_META: Final = '<meta name="isles24-store" content="">'
_POLICY: Final = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]+)"')
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """A file of the page as it is served, plain and compressed."""

    content: bytes
    compressed: bytes
    headers: dict[str, str]
    etag: str


def page_files() -> dict[str, PageFile]:
    """Return the files of the page by name."""
    contents = _contents()
    policy = _POLICY.search(contents[INDEX].decode())
    assert policy is not None, "the page has a policy"  # noqa: S101 - of a file of this package
    shared = {
        # what a policy within the page cannot say: nobody may put it into a frame
        "Content-Security-Policy": f"{policy[1]}; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return {
        name: PageFile(
            content=content,
            compressed=gzip.compress(content, mtime=0),
            headers={**shared, "Content-Type": _TYPES[Path(name).suffix]},
            etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )
        for name, content in contents.items()
    }


def _contents() -> dict[str, bytes]:
    folder = resources.files("isles24_zarr.serving") / "page"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}


def write_page(folder: str | os.PathLike[str], store: str | os.PathLike[str] | None = None) -> str:
    """Write the page into a folder, to lie beside a store in a bucket or on a web server.

    Such a page may read from other sites, since its store may be there: ``index.html?store=URL`` says where. Both must
    answer byte ranges, and the store's site must let the page read (CORS).

    Parameters
    ----------
    folder
        Made if need be; files of the page that are there are replaced, and nothing else is touched.
    store
        What it shows where the address names no store: an ``http(s)`` URL, or a folder, written into the page as it
        lies from there. By default what lies in the folder of the page.

    Returns
    -------
    str
        Path of its ``index.html``.

    Raises
    ------
    NotAStoreError
        The store is at a URL that browsers cannot read.
    DestinationError
        The folder cannot be written.

    Examples
    --------
    >>> from isles24_zarr.serving import write_page
    >>> path = write_page("page", "isles24.zarr")
    """
    target = Path(folder)
    named = "" if store is None else _store_address(os.fspath(store), target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in _contents().items():
            (target / name).write_bytes(_exported(content, named) if name == INDEX else content)
    except OSError as error:
        raise DestinationError(str(target), f"cannot be written ({error.strerror})") from error
    return str(target / INDEX)


def _store_address(store: str, folder: Path) -> str:
    """Return where a store lies, as a page in a folder names it."""
    if "://" in store:
        if urlsplit(store).scheme not in ("http", "https"):
            raise NotAStoreError(store, "cannot be read by a browser, which wants the https URL of the same place")
        return store.rstrip("/") + "/"
    path = os.path.relpath(Path(store).resolve(), folder.resolve())
    return quote(Path(path).as_posix()) + "/"


def _exported(page: bytes, store: str) -> bytes:
    """Return the page as it may read from other sites, and what it shows by default."""
    text = page.decode()
    assert _CONNECT_SELF in text  # noqa: S101 - of a file of this package
    assert _STORE_META in text  # noqa: S101
    text = text.replace(_CONNECT_SELF, _CONNECT_ANY, 1)
    return text.replace(_STORE_META, f'<meta name="isles24-store" content="{html.escape(store)}">', 1).encode()
