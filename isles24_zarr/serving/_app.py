"""The ASGI application: documents and chunks of a folder of Zarr and the page that shows them, and nothing else."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import MissingExtraError, StoreDamageError
from isles24_zarr.serving._page import INDEX, PageFile, page_files
from isles24_zarr.store import ZARR_JSON, opened_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from starlette.applications import Starlette

_KEY: Final = re.compile(rf"(.+/)?{re.escape(ZARR_JSON)}|.+/c([./][0-9]+)*", re.ASCII)
_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_EXPOSED: Final = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag", "Last-Modified")
_ROOT: Final = "."
"""What Starlette makes of the path ``/``."""
LOOPBACK_ORIGINS: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


def store_app(folder: Path, origins: Sequence[str] = ("*",), hosts: Collection[str] | None = None) -> Starlette:
    """Return an ASGI application that serves a folder of Zarr and the page that shows it, to run under any ASGI server.

    Parameters
    ----------
    folder
        Of the store. Links that lead out of it are not followed.
    origins
        Web sites whose pages may read it, as ``https://example.org``; ``*`` for all. Without any, those of
        this machine.
    hosts
        Names by which it may be asked for; all by default. A page of any site can give an address of this machine a
        name of its own, and then reads as if it came from there (DNS rebinding).

    Raises
    ------
    MissingExtraError
        The extra ``serve`` is not installed.
    """
    try:
        from anyio import to_thread
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.cors import CORSMiddleware
        from starlette.responses import FileResponse, Response
        from starlette.routing import Mount
        from starlette.staticfiles import StaticFiles
    except ImportError as error:
        raise MissingExtraError("serving", "run: pip install 'isles24-zarr[serve]'") from error

    pages = page_files()

    class StoreFiles(StaticFiles):
        async def get_response(self, path: str, scope: Any) -> Response:
            if scope["method"] not in _METHODS:
                raise HTTPException(405, headers={"Allow": ", ".join(_METHODS)})
            if hosts is not None and _host_name(scope["headers"]) not in hosts:
                raise HTTPException(421, "it is served to this machine alone; --origin names sites that may ask")
            if scope["method"] == "OPTIONS":  # not of a browser, which the middleware answers
                return Response(status_code=204, headers={"Allow": ", ".join(_METHODS)})
            page = pages.get(INDEX if path == _ROOT else path)
            if page:
                return Response(*_answer(page, dict(scope["headers"])))
            if not _KEY.fullmatch(path):
                raise HTTPException(404)
            response = await super().get_response(path, scope)
            if isinstance(response, FileResponse):  # which begins to answer before it opens the file
                try:
                    os.close((await to_thread.run_sync(opened_file, response.path))[0])
                except (StoreDamageError, OSError) as error:
                    raise HTTPException(403, "cannot be read") from error
            return response

    readers = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_origin_regex=None if origins else LOOPBACK_ORIGINS,
        allow_methods=list(_METHODS),
        allow_headers=["*"],
        expose_headers=list(_EXPOSED),
    )
    files = StoreFiles(directory=folder, follow_symlink=False)
    return Starlette(routes=[Mount("/", app=files)], middleware=[readers])


def _answer(page: PageFile, asked: dict[bytes, bytes]) -> tuple[bytes, int, dict[str, str]]:
    """Return body, status and headers for a file of the page."""
    headers = {**page.headers, "ETag": page.etag, "Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
    if asked.get(b"if-none-match", b"").decode("latin-1") == page.etag:
        return b"", 304, headers
    if b"gzip" in asked.get(b"accept-encoding", b""):
        return page.compressed, 200, {**headers, "Content-Encoding": "gzip"}
    return page.content, 200, headers


def _host_name(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return by what name a server is asked, without its port."""
    host = next((value.decode("latin-1") for name, value in headers if name == b"host"), "")
    found = re.fullmatch(r"\[?([\w.\-]+|(?<=\[)[0-9a-fA-F:.]+(?=\]))\]?(:[0-9]*)?", host, re.ASCII)
    return found[1].lower() if found else ""
