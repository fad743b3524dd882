"""What lies in a store: its place, its documents and objects, read and listed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from isles24_zarr.errors import (
    DestinationError,
    NotAStoreError,
    OldStoreError,
    PartOfStoreError,
    StoreDamageError,
    StoreLockedError,
    StoreVersionError,
)
from isles24_zarr.format import (
    ATTRIBUTE_KEY,
    DERIVATIVES,
    FORMAT_VERSION,
    PHENOTYPE,
    RootRecord,
    SubjectRecord,
    check_seal,
    checked_document,
    listed_members,
)
from isles24_zarr.places import local_path, lock_file
from isles24_zarr.store._lease import LOCK, leased
from isles24_zarr.store.files import FileStamp, file_content, files_below, folder_entries
from isles24_zarr.store.remote import RemoteStore
from isles24_zarr.store.repository import Place, is_versioned, opened_version
from isles24_zarr.vocabulary import REFERENCE_SPACE, SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

ZARR_JSON: Final = "zarr.json"
_READERS: Final = 8
"""Files that are read at the same time: on a network each takes as long as its answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """A place for a store, which any process can open for itself.

    Parameters
    ----------
    url
        An absolute path, a URL, or that of a version of an Icechunk repository (see `repository`).
    storage_options
        For a URL, see `options`.
    """

    url: str
    # which may be secrets: a place is in the encoding of what was opened from it
    storage_options: Mapping[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, store: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> StorePlace:
        """Make a target of what a caller gives: a folder or a URL. Options are for URLs; a path takes none."""
        text = local_path(os.fspath(store))
        if not text:
            raise NotAStoreError(repr(text), "names no place")
        if is_versioned(text):
            text = Place.of(text).url
        if "://" in text:
            return cls(url=text.rstrip("/"), storage_options=dict(storage_options or {}))
        return cls(url=os.path.realpath(Path(text).expanduser()), storage_options={})

    def opened(self, *, read_only: bool) -> Store:
        """Return it as a place for Zarr.

        Raises
        ------
        NotAStoreError
            It is a file, or there is no file system for its URL.
        DestinationError
            It is to be written, and is a version of an Icechunk repository, or in no bucket.
        StoreAccessError
            Its server is out of reach.
        """
        if is_versioned(self.url):
            if not read_only:
                raise DestinationError(self.url, "is written by commits: convert into a folder, and add --icechunk")
            return opened_version(self.url, self.storage_options)
        if "://" not in self.url:
            if os.path.exists(self.url) and not Path(self.url).is_dir():  # noqa: PTH110 - of pathlib, some names raise
                raise NotAStoreError(self.url, "is a file")
            return LocalStore(self.url, read_only=read_only)
        try:
            return RemoteStore.at(self.url, self.storage_options, read_only=read_only)
        except (ValueError, ImportError) as error:
            raise NotAStoreError(self.url, f"cannot be opened ({error})") from error

    def check_outside(self, place: str | os.PathLike[str]) -> None:
        """Make sure that what is written to another place does not come among the objects of this store.

        Parameters
        ----------
        place
            A folder or URL, which need not be there. Links and relative paths are followed.

        Raises
        ------
        DestinationError
            It is the store, or lies inside it.
        """
        if f"{_root(StorePlace.of(place).url)}/".startswith(f"{_root(self.url)}/"):
            raise DestinationError(place, f"is in the store {self.url}; give a place of its own")

    @contextlib.contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Hold the store for writing.

        The lock of a folder is the kernel's, and dies with this process; that of a URL is an object that runs out.

        Yields
        ------
        callable
            Raises `StoreLockedError` where the lock was lost; to be called before a commit.

        Raises
        ------
        StoreLockedError
            Another process holds it.
        """
        if "://" in self.url:
            with leased(self.url, self.storage_options) as confirm:
                yield confirm
            return
        is_new = not os.path.lexists(self.url)
        Path(self.url).mkdir(parents=True, exist_ok=True)
        folder = os.open(self.url, os.O_RDONLY)
        try:
            _lock_folder(folder)
        except BlockingIOError:
            os.close(folder)
            raise StoreLockedError(self.url, "another process is writing into it") from None
        except OSError as error:
            warnings.warn(f"{self.url} cannot be locked ({error}): run no second conversion into it", stacklevel=3)
        try:
            yield lambda: None
        finally:
            if is_new:
                with contextlib.suppress(OSError):  # something was written: it stays
                    os.rmdir(self.url)  # noqa: PTH106 - of a string, as in `os.open`
            os.close(folder)


def _root(url: str) -> str:
    """Return below which all of a store lies: a folder, or bucket and prefix."""
    if not is_versioned(url):
        return url
    place = Place.of(url)
    return f"s3://{place.root}" if place.in_bucket else place.root


def _lock_folder(descriptor: int) -> None:
    lock_file(descriptor)
    if not os.fstat(descriptor).st_nlink:  # who made it has just found nothing to write, and taken it away
        raise BlockingIOError


def document_stamp(store: LocalStore, path: str) -> object:
    """Return what changes when the document of a node in a folder is replaced; ``None`` where there is none."""
    try:
        status = os.stat(f"{store.root}/{path}/{ZARR_JSON}")  # noqa: PTH116 - as in `arrays.check_shards`
    except OSError:
        return None
    # the last one of copies that keep the time of what they copy
    return FileStamp.of(status), status.st_ctime_ns


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Name the array whose voxels cannot be read: the errors of codecs do not.

    Raises
    ------
    StoreDamageError
        What happens inside is an error of reading.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise StoreDamageError(path, f"cannot be read ({why})") from error


def read_document(store: Store, path: str) -> dict[str, Any] | None:
    """Return the metadata of a group or array, ``None`` where there is none.

    Raises
    ------
    StoreDamageError
        It is not what `convert` writes.
    """
    key = f"{path}/{ZARR_JSON}" if path else ZARR_JSON
    document = document_from_bytes(read_objects(store, [key])[key], path=f"{store}/{key}")
    if document is not None and path:  # what the root is, `read_root` says
        checked_document(document, f"{store}/{path}")
    return document


def read_members(store: Store, path: str) -> dict[str, dict[str, Any]]:
    """Return the documents of all that a group lists: each is still to be checked, so that a bad one stands alone.

    Raises
    ------
    StoreDamageError
        The group is lost, or its document lists nothing.
    """
    key = f"{path}/{ZARR_JSON}"
    document = document_from_bytes(read_objects(store, [key])[key], path=f"{store}/{key}")
    if document is None:
        raise StoreDamageError(f"{store}/{key}", "is lost")
    return listed_members(document, f"{store}/{path}")


def document_from_bytes(data: bytes | None, *, path: str) -> dict[str, Any] | None:
    """Parse a ``zarr.json``; one that is not there is ``None``.

    Parameters
    ----------
    data
        What is stored.
    path
        Where, for errors.

    Raises
    ------
    StoreDamageError
        It is not what a ``zarr.json`` holds: strict JSON (RFC 8259), as orjson has it, of an object.
    """
    if data is None:
        return None
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.setdefault("attributes", {}), dict):
        raise StoreDamageError(path, "is not a Zarr document")
    return document


def read_objects(store: Store, keys: Sequence[str]) -> dict[str, bytes | None]:
    """Read small objects, all at the same time; one that is not there is ``None``."""
    if isinstance(store, LocalStore):
        # Zarr's way there, through an event loop, takes longer than the files do
        paths = [f"{store.root}/{key}" for key in keys]
        return dict(zip(keys, _readers(os.getpid()).map(file_content, paths), strict=True))

    async def read(key: str) -> bytes | None:
        try:
            buffer = await store.get(key, default_buffer_prototype())
        except (FileNotFoundError, NotADirectoryError):  # of a folder that is not there at all
            return None
        return None if buffer is None else buffer.to_bytes()

    async def read_all() -> list[bytes | None]:
        return await asyncio.gather(*map(read, keys))

    return dict(zip(keys, sync(read_all()), strict=True))


@functools.lru_cache(1)
def _readers(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - those of the parent are not there in a forked child
    return ThreadPoolExecutor(_READERS, thread_name_prefix="isles24-documents")


def read_root(store: Store) -> RootRecord:
    """Return what the root of an isles24-zarr store says.

    Raises
    ------
    NotAStoreError
        It is something else, or nothing; or, as `PartOfStoreError`, a part of a store.
    StoreVersionError
        A newer version wrote it, or one whose format is not read any more (`OldStoreError`).
    """
    document = read_document(store, "")
    root = RootRecord.from_document(document)
    if document is not None and "format_version" not in root.attributes:
        check_not_inside(str(store).removeprefix("file://"))
    if not isinstance(root.attributes.get(ATTRIBUTE_KEY), dict):
        if document is None and isinstance(store, RemoteStore):
            store.check_place()
        what = "is a Zarr group, but not an isles24-zarr store" if document else "there is no isles24-zarr store"
        raise NotAStoreError(store, what)
    check_version(store, root.attributes.get("format_version"))
    return root


def check_not_inside(place: str) -> None:
    """Say what to open instead of a place that is part of a store.

    Parameters
    ----------
    place
        Path or URL of something of Zarr that is no root of a store.

    Raises
    ------
    PartOfStoreError
        A subject, the table or results are on the way to it.
    """
    parts = place.rstrip("/").split("/")
    depth = next((n for n, part in enumerate(parts) if SUBJECT_NAME.fullmatch(part)), None)
    if depth is not None:
        grid = next((part for part in parts[depth:] if part.startswith("space-")), REFERENCE_SPACE)
        root = depth - 2 if parts[depth - 2 : depth - 1] == [DERIVATIVES] else depth
        store, subject, space = "/".join(parts[:root]), parts[depth], grid.removeprefix("space-")
        what = f"is part of the subject {subject} in the store {store}: open_scan({store!r}, {subject!r}, {space!r})"
        raise PartOfStoreError(place, f"{what} opens its scan, open_cohort({store!r}) the cohort")
    depth = next((n for n, part in enumerate(parts) if n and part in (PHENOTYPE, DERIVATIVES)), None)
    if depth is not None:
        store = "/".join(parts[:depth])
        raise PartOfStoreError(place, f"is part of the store {store}: open_cohort({store!r}) opens it")


def check_version(where: object, version: object) -> None:
    """Raise where a store, or a subject of it, has another format version than the one that is read."""
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreVersionError(where, f"has format version {version}, this package reads version {FORMAT_VERSION}")
    if version < FORMAT_VERSION:
        raise OldStoreError(where, f"has format version {version}, in which masks need not be labels")


def child_names(store: Store, path: str) -> list[str]:
    """Return the names of everything right below a path; documents and the lock of a conversion are left out."""
    if isinstance(store, LocalStore):
        return sorted({entry.name for entry in folder_entries(f"{store.root}/{path}")} - {ZARR_JSON, LOCK})

    async def listed() -> list[str]:
        return [name async for name in store.list_dir(path)]

    return sorted(name.rstrip("/") for name in sync(listed()) if name not in (ZARR_JSON, LOCK))


def listed_keys(store: Store, path: str) -> dict[str, int]:
    """Return the size of every object below a path, by key; `NO_FILE` of what is none."""
    if isinstance(store, RemoteStore):
        return dict(sorted(store.sizes(path).items()))
    if isinstance(store, LocalStore):
        return dict(sorted(files_below(str(store.root), path)))

    async def listed() -> dict[str, int]:
        return {key: await store.getsize(key) async for key in store.list_prefix(f"{path}/")}

    return dict(sorted(sync(listed()).items()))


def committed_subjects(
    store: Store, damaged: list[tuple[str, StoreDamageError]] | None = None
) -> dict[str, SubjectRecord]:
    """Return the records of all subjects that were committed, by name.

    Parameters
    ----------
    store
        Where they are.
    damaged
        What takes the names of those whose documents cannot be used, each with what is wrong.
    """
    found: dict[str, SubjectRecord] = {}
    for name in (name for name in child_names(store, "") if name.startswith("sub-")):
        key = f"{name}/{ZARR_JSON}"
        try:
            document = document_from_bytes(read_objects(store, [key])[key], path=name)
            if document is not None:
                record = SubjectRecord.from_attributes(document.get("attributes", {}), name)
                # what an older version left stands aside until it is converted again
                if record.format_version == FORMAT_VERSION:
                    check_seal(document, name)
                    found[name] = record
        except StoreDamageError as error:  # it is as if it were not committed
            if damaged is not None:
                damaged.append((name, error))
    return found


def encoded_document(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a ``zarr.json``."""
    return json.dumps(document, indent=2, allow_nan=False).encode()
