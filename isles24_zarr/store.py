"""The only module that touches a Zarr store to write it: arrays by plan, groups by commit.

What makes a commit is the order of writing. A Zarr node exists once its ``zarr.json`` does, so the chunks of an array
come before its document, the arrays of a grid before the grid's, the grids of a subject before the subject's: a
subject that has a document is whole. Documents of grids and subjects hold those of all that is below them
(consolidated metadata, as zarr-python writes it), so that opening one is one read.

Objects are written by the stores of zarr-python: its LocalStore renames every one into place.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import math
import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import fsspec
import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from isles24_zarr.errors import (
    DestinationError,
    NotAStoreError,
    StoreDamageError,
    StoreLockedError,
    StoreVersionError,
    StoreWriteError,
)
from isles24_zarr.grid import canonical_from_file
from isles24_zarr.layout import FORMAT_VERSION, KEY, final_attributes, seal, shard_key
from isles24_zarr.lease import LOCK, leased
from isles24_zarr.remote import RemoteStore
from isles24_zarr.repository import Place, is_versioned, opened_version
from isles24_zarr.shards import ENCODERS, ShardEncoder, compressors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    import xarray as xr
    from numpy.typing import NDArray
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from isles24_zarr.layout import ArrayPlan, GridPlan
    from isles24_zarr.nifti import Digest, VoxelStream

DOCUMENT: Final = "zarr.json"
_BUFFERS: Final = 2
"""Of voxels: one is filled while the other is encoded."""

PARTIAL: Final = ".partial"
"""How the names of objects end that LocalStore is writing, or was when it was killed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A place for a store, which any process can open for itself.

    Parameters
    ----------
    url
        An absolute path, an fsspec URL, or that of a version of an Icechunk repository (see `repository`).
    storage_options
        For fsspec.
    """

    url: str
    storage_options: Mapping[str, Any]

    @classmethod
    def of(cls, store: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Target:
        """Make a target of what a caller gives: a folder or a URL. Options are for URLs; a path takes none."""
        text = os.fspath(store)
        if not text:
            raise NotAStoreError(repr(text), "names no place")
        if text.startswith(("file://", "local://")):
            text = fsspec.core.url_to_fs(text)[1]
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
            It is a version of an Icechunk repository, and to be written.
        """
        if is_versioned(self.url):
            if not read_only:
                raise DestinationError(self.url, "is written by commits: convert into a folder, and add --icechunk")
            return opened_version(self.url, self.storage_options)
        if "://" not in self.url:
            if Path(self.url).exists() and not Path(self.url).is_dir():
                raise NotAStoreError(self.url, "is a file")
            return LocalStore(self.url, read_only=read_only)
        try:
            return RemoteStore.at(self.url, self.storage_options, read_only=read_only)
        except (ValueError, ImportError) as error:
            raise NotAStoreError(self.url, f"cannot be opened ({error})") from error

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
        Path(self.url).mkdir(parents=True, exist_ok=True)
        folder = os.open(self.url, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise StoreLockedError(self.url, "another conversion is writing into it") from None
        except OSError as error:
            warnings.warn(f"{self.url} cannot be locked ({error}): run no second conversion into it", stacklevel=3)
        try:
            yield lambda: None
        finally:
            os.close(folder)


class WholeStore(WrapperStore[Any]):
    """A store in which a chunk that is not there is an error: Zarr would read it as zeros, and none is left out."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Return what is stored; raise `StoreDamageError` where a chunk is not."""
        found: Buffer | None = await super().get(key, prototype, byte_range)
        if found is None and not key.endswith(DOCUMENT):
            raise StoreDamageError(f"{self._store}/{key}", "is lost")
        return found


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
        It is not what a ``zarr.json`` holds.
    """
    key = f"{path}/{DOCUMENT}" if path else DOCUMENT
    return document_from_bytes(read_objects(store, [key])[key], path=f"{store}/{key}")


def document_from_bytes(data: bytes | None, *, path: str) -> dict[str, Any] | None:
    """Parse a ``zarr.json``; one that is not there is ``None``.

    Raises
    ------
    StoreDamageError
        It is not what a ``zarr.json`` holds.
    """
    if data is None:
        return None
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("attributes", {}), dict):
        raise StoreDamageError(path, "is not a Zarr document")
    return document


def read_objects(store: Store, keys: Sequence[str]) -> dict[str, bytes | None]:
    """Read small objects, all at the same time; one that is not there is ``None``."""

    async def read(key: str) -> bytes | None:
        try:
            buffer = await store.get(key, default_buffer_prototype())
        except (FileNotFoundError, NotADirectoryError):  # of a folder that is not there at all
            return None
        return None if buffer is None else buffer.to_bytes()

    async def read_all() -> list[bytes | None]:
        return await asyncio.gather(*map(read, keys))

    return dict(zip(keys, sync(read_all()), strict=True))


def read_root(store: Store) -> dict[str, Any]:
    """Return the attributes of the root of an isles24-zarr store.

    Raises
    ------
    NotAStoreError
        It is something else, or nothing.
    StoreVersionError
        A newer version wrote it.
    """
    document = read_document(store, "")
    attributes: dict[str, Any] = (document or {}).get("attributes", {})
    if KEY not in attributes:
        if document is None and isinstance(store, RemoteStore):
            store.check_place()
        what = "is a Zarr group, but not an isles24-zarr store" if document else "there is no isles24-zarr store"
        raise NotAStoreError(store, what)
    version = attributes.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreVersionError(store, f"has format version {version}, this package reads up to {FORMAT_VERSION}")
    return attributes


def write_group(
    store: Store, path: str, attributes: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Write the document of a group: the act that makes it exist.

    Parameters
    ----------
    store, path
        Where.
    attributes
        JSON values.
    members
        Documents of all that is below, by path from here, to be consolidated; ``None`` for none.

    Returns
    -------
    dict
        The document.
    """
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if members is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: dict(document) for name, document in members.items()},
        }
    document["attributes"][KEY] = {**document["attributes"].get(KEY, {}), "seal": seal(document)}
    _write_document(store, path, document)
    return document


def remove(store: Store, path: str) -> None:
    """Delete a node with all below it; its document goes first, so that it is never half there."""
    sync(store.delete(f"{path}/{DOCUMENT}"))
    sync(store.delete_dir(path))


def remove_partial_objects(store: Store, path: str) -> None:
    """Delete what an interrupted write left right below a path."""
    for name in child_names(store, path):
        if name.endswith(PARTIAL):
            sync(store.delete(f"{path}/{name}" if path else name))


def child_names(store: Store, path: str) -> list[str]:
    """Return the names of everything right below a path; documents and the lock of a conversion are left out."""

    async def listed() -> list[str]:
        return [name async for name in store.list_dir(path)]

    return sorted(name.rstrip("/") for name in sync(listed()) if name not in (DOCUMENT, LOCK))


def listed_keys(store: Store, path: str) -> dict[str, int]:
    """Return the size of every object below a path, by key."""
    if isinstance(store, RemoteStore):
        return dict(sorted(store.sizes(path).items()))

    async def listed() -> dict[str, int]:
        return {key: await store.getsize(key) async for key in store.list_prefix(f"{path}/")}

    return dict(sorted(sync(listed()).items()))


def write_array(store: Store, plan: ArrayPlan, stream: VoxelStream, on_piece: Callable[[int], None]) -> Digest:
    """Stream a file into its array.

    Memory holds two pieces of the file, each as thick as a chunk, or a single volume, and the encoding of two shards.

    Parameters
    ----------
    store, plan
        Where to and how; the place is empty.
    stream
        Of the file, with nothing read yet.
    on_piece
        Called after every piece with its bytes of voxels.

    Returns
    -------
    Digest
        Of the file. The array's document is written after the end of the file has been checked, not before.
    """
    sizes = {}
    with ThreadPoolExecutor(ENCODERS) as threads:
        for key, shard in _encoded_shards(plan, stream, threads, on_piece):
            sync(store.set(f"{plan.path}/{key}", default_buffer_prototype().buffer.from_bytes(shard)))
            sizes[key] = len(shard)
    digest = stream.finish()
    attributes = final_attributes(plan, digest, dict(sorted(sizes.items())))
    _write_document(store, plan.path, _array_document(plan, attributes))
    return digest


def _encoded_shards(
    plan: ArrayPlan, stream: VoxelStream, threads: Executor, on_piece: Callable[[int], None]
) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the bytes of each shard. While one is encoded, the first piece of the next is read."""
    dtype = stream.header.dtype
    buffers: deque[tuple[NDArray[Any], list[Future[bytes]]]] = deque()
    before: tuple[str, ShardEncoder] | None = None
    for block in plan.blocks():
        encoder = ShardEncoder(threads, shard=plan.shards, chunk=plan.chunks)
        for first, shape in block.pieces(plan.chunks):
            buffer, users = buffers.popleft() if len(buffers) == _BUFFERS else (np.empty(math.prod(shape), dtype), [])
            wait(users)
            voxels = buffer[: math.prod(shape)].reshape(shape)
            stream.readinto(voxels)
            count = voxels.nbytes
            if dtype.byteorder == ">":
                voxels = voxels.byteswap(inplace=True).view(plan.dtype)
            buffers.append((buffer, encoder.add(canonical_from_file(voxels, plan.orientation), first=first)))
            on_piece(count)
            if before:
                yield before[0], before[1].finish()
                before = None
        before = shard_key(block, plan.shards), encoder
    if before:
        yield before[0], before[1].finish()


def _array_document(plan: ArrayPlan, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an array, as zarr-python would write them."""
    draft = zarr.create_array(
        MemoryStore(),
        shape=plan.shape,
        chunks=plan.chunks,
        shards=plan.shards,
        dtype=plan.dtype,
        fill_value=0,
        compressors=compressors(np.dtype(plan.dtype), plan.chunks),
        dimension_names=plan.dimension_names,
    )
    text = draft.metadata.to_buffer_dict(default_buffer_prototype())[DOCUMENT].to_bytes()
    document: dict[str, Any] = json.loads(text)
    return {**document, "attributes": dict(attributes)}


def written_source(store: Store, plan: ArrayPlan) -> dict[str, Any] | None:
    """Return path, size and SHA-256 of the file that an array was written from.

    Returns
    -------
    dict or None
        ``None`` where the array is missing, unfinished, or not as this plan would write it from a file of the same
        name.
    """
    try:
        document = read_document(store, plan.path) or {}
    except StoreDamageError:
        return None
    ours = dict(document.get("attributes", {}).get(KEY, {}))
    source, shards = ours.get("source", {}), ours.pop("shards", None)
    if not (ours.pop("checksum", None) and shards and source.get("sha256")):
        return None
    sizes = listed_keys(store, plan.path)
    if any(sizes.get(f"{plan.path}/{key}") != size for key, size in shards.items()):
        return None
    found = {**document["attributes"], KEY: {**ours, "source": plan.attributes[KEY]["source"]}}
    planned = _array_document(plan, plan.attributes)
    same = {**document, "attributes": found} == planned and source["path"] == plan.source.path
    return source if same else None


def write_grid(store: Store, path: str, plan: GridPlan, images: Iterable[str]) -> dict[str, Any]:
    """Write the coordinates and then the document of a grid whose arrays are there.

    Parameters
    ----------
    store, path
        Where the group is.
    plan
        Of the group.
    images
        The arrays of it that were converted.

    Returns
    -------
    dict
        The document, which holds those of its arrays.
    """
    draft = zarr.create_group(MemoryStore())
    for axis, (name, values) in enumerate(plan.grid.coordinates().items()):
        attributes = {
            "long_name": f"position along {name}",
            "units": "mm",
            "axis": name.upper(),
            "direction": plan.grid.direction[:, axis].tolist(),
            "spacing": plan.grid.spacing[axis],
        }
        _add_coordinate(draft, name, values, attributes)
    images = list(images)
    if any(len(array.shape) == 4 for array in plan.arrays if array.image in images):
        _add_coordinate(draft, "time", np.array(plan.frame_seconds), plan.time_attributes)
    copy_nodes(draft.store, store, path)
    coordinates = [name for name in ("time", "z", "y", "x") if name in draft]
    documents = {name: _written_document(store, f"{path}/{name}") for name in (*coordinates, *images)}
    return write_group(store, path, plan.attributes, documents)


def _written_document(store: Store, path: str) -> dict[str, Any]:
    document = read_document(store, path)
    if document is None:
        raise StoreWriteError(
            f"{store}/{path}", "was written by a worker, but is not there: all must see the same store"
        )
    return document


def _add_coordinate(group: zarr.Group, name: str, values: Any, attributes: Mapping[str, Any]) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        compressors=compressors(values.dtype, values.shape),
        dimension_names=(name,),
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[:] = values


def write_subject(
    store: Store, path: str, attributes: Mapping[str, Any], grids: Mapping[str, Mapping[str, Any]]
) -> None:
    """Commit a subject.

    Parameters
    ----------
    store, path
        Where its group is.
    attributes
        Clinical values and the record of the conversion.
    grids
        Documents of its grids by name, as from `write_grid`.
    """
    members: dict[str, Mapping[str, Any]] = {}
    for name, grid in grids.items():
        own = dict(grid)
        below = own.pop("consolidated_metadata")["metadata"]
        members |= {name: own, **{f"{name}/{array}": document for array, document in below.items()}}
    write_group(store, path, attributes, members)


def withdraw(store: Store, path: str, grids: Iterable[str]) -> None:
    """Take back a commit before anything below it is changed: the subject's document first, then its grids'."""
    for group in (path, *(f"{path}/{grid}" for grid in grids)):
        sync(store.delete(f"{group}/{DOCUMENT}"))


def committed_subjects(store: Store) -> dict[str, dict[str, Any]]:
    """Return the attributes of all subjects that were committed, by name."""
    names = [name for name in child_names(store, "") if name.startswith("sub-")]
    documents = read_objects(store, [f"{name}/{DOCUMENT}" for name in names])
    found: dict[str, dict[str, Any]] = {}
    for name, data in zip(names, documents.values(), strict=True):
        # one that cannot be read is not committed
        with contextlib.suppress(StoreDamageError):
            attributes = (document_from_bytes(data, path=name) or {}).get("attributes", {})
            if "arrays" in attributes.get(KEY, {}):
                found[name] = attributes
    return found


def write_dataset(store: Store, path: str, dataset: xr.Dataset) -> None:
    """Write a small Dataset as a group, replacing what was there.

    Parameters
    ----------
    store, path
        Where.
    dataset
        In memory. Chunks are whole arrays.
    """
    draft = MemoryStore()
    encoding = {
        str(name): {"chunks": variable.shape, "compressors": compressors()}
        for name, variable in dataset.variables.items()
    }
    dataset.to_zarr(draft, zarr_format=3, consolidated=False, encoding=encoding, write_empty_chunks=True)
    remove(store, path)
    copy_nodes(draft, store, path)
    names = [str(name) for name in dataset.variables]
    write_group(store, path, dataset.attrs, {name: _written_document(store, f"{path}/{name}") for name in names})


def copy_nodes(source: Store, target: Store, path: str) -> None:
    """Copy the arrays of a group into a path, each with its document last; the group's own stays behind."""

    async def copy() -> None:
        keys = [key async for key in source.list() if key != DOCUMENT]
        for key in sorted(keys, key=lambda key: (key.endswith(DOCUMENT), key)):
            buffer = await source.get(key, default_buffer_prototype())
            if buffer is not None:
                await target.set(f"{path}/{key}", buffer)

    sync(copy())


def encoded_document(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a ``zarr.json``."""
    return json.dumps(document, indent=2, allow_nan=False).encode()


def _write_document(store: Store, path: str, document: Mapping[str, Any]) -> None:
    key = f"{path}/{DOCUMENT}" if path else DOCUMENT
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(encoded_document(document))))
