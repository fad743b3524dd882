"""The voxels of an array, read by TensorStore: the one module that knows it.

Shards of a folder are read by TensorStore itself. Of any other store, it gets what a read needs of each shard as
shards in memory, so that one library decodes, checks and places all voxels.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import math
import os
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath

from isles24_zarr.errors import ForkedProcessError, SlowReadWarning, StaleReadError, StoreDamageError
from isles24_zarr.format import ABSENT, index_bytes, index_from_bytes, merged_ranges, partial_shard
from isles24_zarr.places import is_left_behind
from isles24_zarr.store.files import FileStamp, shard_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayRecord

    Index = int | slice | NDArray[np.intp]
    Touched = dict[str, NDArray[np.intp]]
    """Numbers of chunks in C order within their shard, by the key of the shard."""

_SHARDS_AT_ONCE: Final = 8
"""Of which bytes are asked for at the same time."""

_FORKED: Final = (
    f"this process was forked from one that had read voxels, and reads them slowly: {ForkedProcessError.advice}"
)
_FROM: Final = re.compile(r'"[^"]*?(c(?:[/.]\d+)+)"')
"""Where an error of TensorStore names the key of a shard."""


class StoredVoxels:
    """The voxels of one array of a store.

    Parameters
    ----------
    store
        Where it is.
    record
        Its metadata.
    seen
        What the file system said of its shards, by key, when the document was read: one that was replaced since holds
        voxels that the document does not describe.
    """

    def __init__(self, store: Store, record: ArrayRecord, seen: Mapping[str, FileStamp] | None = None) -> None:
        self._store, self._path = store, record.path
        self._where = f"{store.root if isinstance(store, LocalStore) else store}/{record.path}"
        self._shape = record.shape
        self._chunk = np.array(record.chunk_shape)
        self._grid = tuple((np.array(record.shard_shape) // self._chunk).tolist())
        self._document = {name: value for name, value in record.document.items() if name != "attributes"}
        self._sizes = record.shard_bytes
        self._separator = record.separator
        self._seen = seen
        self._opened: Any = None
        self._tables: dict[str, NDArray[np.uint64]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def read(self, selection: Sequence[Index]) -> NDArray[Any]:
        """Read what is selected along each axis, independently of the others.

        Parameters
        ----------
        selection
            For each axis a whole number, which drops it, a slice with a positive step, or whole numbers in any order.

        Raises
        ------
        StoreDamageError
            A shard is lost, cut short or damaged.
        """
        index = tuple(_absolute(each, count) for each, count in zip(selection, self._shape, strict=True))
        axes = [_touched(each, size) for each, size in zip(index, self._chunk.tolist(), strict=True)]
        return self._taken(lambda array: array.oindex[index], self._touched_by_axes(axes))

    def pick(self, points: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
        """Read voxels here and there.

        Parameters
        ----------
        points
            For each axis their positions, arrays of one shape, which is that of what is returned.

        Raises
        ------
        StoreDamageError
            As for `read`.
        """
        index = tuple(_within(each, count) for each, count in zip(points, self._shape, strict=True))
        chunks = np.unique(np.stack([np.ravel(each) for each in index]) // self._chunk[:, None], axis=1)
        return self._taken(lambda array: array.vindex[index], self._touched_by_points(chunks))

    def _touched_by_axes(self, axes: Sequence[NDArray[np.intp]]) -> Touched:
        """Return the chunks that have a number on each axis among those given."""
        split = [
            [(shard, axis[axis // count == shard] % count) for shard in np.unique(axis // count).tolist()]
            for axis, count in zip(axes, self._grid, strict=True)
        ]
        return {
            self._key(shard for shard, _ in parts): np.ravel_multi_index(
                np.ix_(*(inside for _, inside in parts)), self._grid
            ).ravel()
            for parts in itertools.product(*split)
        }

    def _touched_by_points(self, chunks: NDArray[np.intp]) -> Touched:
        shards, inside = np.divmod(chunks, np.array(self._grid)[:, None])
        numbers = np.ravel_multi_index(tuple(inside), self._grid)
        places, which = np.unique(shards, axis=1, return_inverse=True)
        return {self._key(place): numbers[which.ravel() == at] for at, place in enumerate(places.T.tolist())}

    def _key(self, place: Iterable[int]) -> str:
        return self._separator.join(["c", *map(str, place)])

    def _taken(self, take: Callable[[Any], Any], touched: Touched) -> NDArray[Any]:
        """Read from the array, and make sure that its files are those that its document describes."""
        local, forked = isinstance(self._store, LocalStore), is_left_behind("tensorstore")
        if local:
            self._check(touched)
        if forked or not local:
            shards = dict(zip(touched, sync(self._fetched(touched)), strict=True))
            return self._read_without_threads(take, shards) if forked else self._read_parts(take, shards)
        if self._opened is None:
            place = {"driver": "file", "path": f"{self._where}/"}
            self._opened = self._usable(place, _context(_threads()))
        found = self._read(take, self._opened)
        self._check(touched)  # what was read by path was there before this look
        return found

    def _usable(self, place: Mapping[str, Any], context: Any) -> Any:
        try:
            return _opened(self._document, place, context)
        except ValueError as error:
            why = str(error).splitlines()[0].rpartition(": ")[2]
            raise StoreDamageError(self._where, f"has metadata that cannot be used ({why})") from error

    def _read(self, take: Callable[[Any], Any], array: Any) -> NDArray[Any]:
        try:
            return np.asarray(take(array).read(order="C").result())
        except ValueError as error:
            raise self._damage(error) from error

    def _damage(self, error: ValueError) -> StoreDamageError:
        text = str(error)
        place = _FROM.search(text)
        path = f"{self._where}/{place[1]}" if place else self._where
        if text.startswith("NOT_FOUND"):
            return StoreDamageError(path, "lacks a chunk")
        if "shard index" in text:
            return StoreDamageError(path, "has a damaged index")
        why = text.rpartition('": ')[2]
        return StoreDamageError(path, f"has a damaged chunk ({why})")

    def _check(self, touched: Touched) -> None:
        """Make sure that shards are there, whole, and the ones that were there when the document was read."""
        for key in touched:
            status = shard_status(f"{self._where}/{key}", self._sizes[key])
            if self._seen is not None and not self._seen[key].is_of(status):
                what = "was replaced after it was opened: its voxels may be others now"
                raise StaleReadError(f"{self._where}/{key}", what)

    # --- stores that are no folder ---

    def _read_parts(self, take: Callable[[Any], Any], shards: Mapping[str, bytes]) -> NDArray[Any]:
        array = self._usable({"driver": "memory"}, _new_context(_threads()))
        for key, shard in shards.items():
            array.kvstore[key] = shard
        return self._read(take, array)

    def _read_without_threads(self, take: Callable[[Any], Any], shards: Mapping[str, bytes]) -> NDArray[Any]:
        """Read where TensorStore cannot, as its threads were left behind in the parent: by zarr-python, slowly."""
        warnings.warn(_FORKED, SlowReadWarning, stacklevel=2)
        memory = {key: default_buffer_prototype().buffer.from_bytes(shard) for key, shard in shards.items()}
        try:
            metadata = ArrayV3Metadata.from_dict({**self._document, "attributes": {}})
            return np.asarray(take(zarr.Array(zarr.AsyncArray(metadata, StorePath(MemoryStore(memory))))))
        except (TypeError, ValueError, RuntimeError) as error:
            raise StoreDamageError(self._where, f"cannot be read ({error})") from error

    async def _fetched(self, touched: Touched) -> list[bytes]:
        turns = asyncio.Semaphore(_SHARDS_AT_ONCE)

        async def fetched(key: str, wanted: NDArray[np.intp]) -> bytes:
            async with turns:
                return await self._part(key, wanted)

        return await asyncio.gather(*itertools.starmap(fetched, touched.items()))

    async def _part(self, key: str, wanted: NDArray[np.intp]) -> bytes:
        """Return a shard that has the wanted chunks: the index is read once, the chunks in few requests."""
        size, tail = self._sizes[key], index_bytes(math.prod(self._grid))
        whole = await self._range(key, 0, size) if len(wanted) == math.prod(self._grid) else b""
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._tables:
                end = whole[-tail:] or await self._range(key, size - tail, size)
                table = index_from_bytes(end, shard_bytes=size)
                if table is None:
                    raise StoreDamageError(f"{self._where}/{key}", "has a damaged index")
                self._tables[key] = table
        table = self._tables[key]
        if (table[wanted, 0] == ABSENT).any():  # which zarr-python would take for zeros
            raise StoreDamageError(f"{self._where}/{key}", "lacks a chunk")
        if whole:
            return whole
        offsets, lengths = table[wanted].astype(np.int64).T
        ranges = merged_ranges(zip(offsets.tolist(), (offsets + lengths).tolist(), strict=True))
        found = await asyncio.gather(*(self._range(key, *each) for each in ranges))
        return partial_shard(table, wanted, [(start, piece) for (start, _), piece in zip(ranges, found, strict=True)])

    async def _range(self, key: str, start: int, end: int) -> bytes:
        wanted = RangeByteRequest(start, end)
        found = await self._store.get(f"{self._path}/{key}", default_buffer_prototype(), wanted)
        if found is None:
            raise StoreDamageError(f"{self._where}/{key}", "is lost")
        if len(found) != end - start:
            raise StoreDamageError(f"{self._where}/{key}", f"has fewer than {self._sizes[key]:,} bytes")
        return found.to_bytes()


def _opened(document: Mapping[str, Any], place: Mapping[str, Any], context: Any) -> Any:
    """Open an array by its metadata alone; nothing is read."""
    spec = {
        "driver": "zarr3",
        "kvstore": place,
        "metadata": document,
        "fill_missing_data_reads": False,
    }
    return _tensorstore().open(spec, open=True, assume_metadata=True, context=context).result()


def _tensorstore() -> Any:
    # where it is used: to import it takes 0.15 s, and a process that is forked before can still use it
    return importlib.import_module("tensorstore")


def _new_context(threads: int) -> Any:
    limit = {"limit": threads}
    return _tensorstore().Context({"data_copy_concurrency": limit, "file_io_concurrency": limit})


_context: Final = functools.lru_cache(1)(_new_context)


def _threads() -> int:
    """Return how many threads read in this process: as many as zarr may use, by default one for each core."""
    limit: int | None = zarr.config.get("threading.max_workers", None)
    return limit or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _touched(index: Index, size: int) -> NDArray[np.intp]:
    """Return the numbers of the chunks along an axis that an index from the start reads of, ascending."""
    if isinstance(index, slice):
        voxels = range(index.start, index.stop, index.step)
        if voxels and index.step <= size:  # steps over no chunk: the usual way, without a look at each voxel
            return np.arange(voxels[0] // size, voxels[-1] // size + 1)
        return np.unique(np.array(voxels, dtype=np.intp) // size)
    return np.unique(index // size)


def _absolute(index: Index, count: int) -> Index:
    """Return an index along an axis, whatever of it counts from the end counted from the start."""
    if isinstance(index, slice):
        start, stop, step = index.indices(count)
        return slice(start, max(start, stop), step)
    if isinstance(index, np.ndarray):
        return _within(index, count)
    return range(count)[index]


def _within(index: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    if index.size and not -count <= np.min(index) <= np.max(index) < count:
        raise IndexError(f"an index is out of bounds for an axis of {count}")
    return np.where(index < 0, index + count, index)
