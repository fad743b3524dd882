"""Voxels from the shards of a folder on this machine: read, checked and unpacked by threads, only as far as asked for.

What `shards` writes is taken apart here without Zarr: a chunk is found by the index of its shard, the checksums of the
index and of the chunk are verified, and of the chunk only those of Blosc's blocks are unpacked that hold voxels of the
selection. Blosc's container is described in https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from isles24_zarr.containers import (
    ABSENT,
    BLOSC_HEADER,
    BLOSC_STORED,
    ChunkFormat,
    index_bytes,
    index_from_bytes,
    unpack_into,
)
from isles24_zarr.documents import is_as_converted
from isles24_zarr.errors import StaleReadError, StoreDamageError
from isles24_zarr.files import FileStamp, opened_file
from isles24_zarr.layout import KEY
from isles24_zarr.shards import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Index = int | slice | NDArray[np.intp]

_UNSPLIT: Final = 0x10
"""Flag: a block is one stream, not one for each byte of an element."""

SERIAL_BYTES: Final = 2 << 20
"""Reads that unpack less stay in the thread that asks for them: to wake others takes as long."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """What of a selection along one axis lies in one chunk, and where it goes."""

    chunk: int
    inside: slice | NDArray[np.intp]
    to: slice | NDArray[np.intp]
    bounds: tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """What of a selection lies in one chunk: the blocks to unpack, first and behind the last, and what to take."""

    shard: _Shard
    place: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    inside: tuple[Any, ...]
    to: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that is open, with offset and size of each of its chunks."""

    path: Path
    file: int
    index: NDArray[np.uint64]
    format: ChunkFormat

    def chunk(self, place: tuple[int, ...]) -> bytes:
        """Return a chunk as Blosc packed it."""
        offset, size = self.index[place].tolist()
        if offset == ABSENT:
            raise StoreDamageError(self.path, "lacks a chunk")
        try:
            return self.format.container(os.pread(self.file, size, offset))
        except (RuntimeError, ValueError, OSError) as error:
            raise StoreDamageError(self.path, f"has a damaged chunk ({error})") from error


class ShardedVoxels:
    """The voxels of one array of a store in a folder.

    Parameters
    ----------
    folder
        Of the array.
    document
        Its metadata; `can_unpack` is true of it.
    seen
        What the file system said of its shards, by key, when the document was read: one that was replaced since holds
        voxels that the document does not describe.
    """

    def __init__(self, folder: Path, document: Mapping[str, Any], seen: Mapping[str, FileStamp] | None = None) -> None:
        (sharding,) = document["codecs"]
        _, blosc, _ = sharding["configuration"]["codecs"]
        self._shape: tuple[int, ...] = tuple(document["shape"])
        self._dtype = np.dtype(document["data_type"]).newbyteorder("<")
        self._folder = folder
        self._chunk: tuple[int, ...] = tuple(sharding["configuration"]["chunk_shape"])
        shard = document["chunk_grid"]["configuration"]["chunk_shape"]
        self._grid = tuple(count // size for count, size in zip(shard, self._chunk, strict=True))
        self._block: int = blosc["configuration"]["blocksize"]
        self._format = ChunkFormat.of_image(document)
        self._sizes: Mapping[str, int] = document["attributes"][KEY]["shards"]
        self._seen: Mapping[str, FileStamp] = seen or {}
        self._indices: dict[str, tuple[FileStamp, NDArray[np.uint64]]] = {}

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
        axes = [_parts(*each) for each in zip(selection, self._shape, self._chunk, strict=True)]
        counts = [count for count, _ in axes]
        found = np.empty(counts, self._dtype)
        with contextlib.ExitStack() as stack:
            self._unpack_all(list(self._pieces([parts for _, parts in axes], stack)), found)
        return found.reshape([count for count, each in zip(counts, selection, strict=True) if not _is_number(each)])

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
        where = [_within(each, length).ravel() for each, length in zip(points, self._shape, strict=True)]
        found = np.empty(len(where[0]), self._dtype)
        with contextlib.ExitStack() as stack:
            self._unpack_all(list(self._picked(where, stack)), found)
        return found.reshape(np.shape(points[0]))

    def _picked(self, where: Sequence[NDArray[np.intp]], stack: contextlib.ExitStack) -> Iterator[_Piece]:
        shards: dict[tuple[int, ...], _Shard] = {}
        chunks, number = np.unique(
            np.stack([each // size for each, size in zip(where, self._chunk, strict=True)]), axis=1, return_inverse=True
        )
        order = np.argsort(number.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(number.ravel(), minlength=chunks.shape[1]))
        for chunk, end, start in zip(chunks.T.tolist(), ends.tolist(), [0, *ends.tolist()], strict=False):
            to = order[start:end]
            inside = tuple(each[to] - at * size for each, at, size in zip(where, chunk, self._chunk, strict=True))
            bounds = tuple((int(each.min()), int(each.max())) for each in inside)
            yield self._piece(shards, stack, tuple(chunk), bounds, inside, (to,))

    def _unpack_all(self, pieces: Sequence[_Piece], found: NDArray[Any]) -> None:
        """Unpack pieces into what was asked for, by threads where there is enough to do."""
        blocks = sum(end - first for piece in pieces for first, end in piece.runs)
        pool, threads = _threads() if blocks * self._block > SERIAL_BYTES and len(pieces) > 1 else (None, 1)
        if pool is None:
            self._unpack(pieces, found)
        else:
            # a few turns for each thread: large enough to be worth one, small enough that all end together
            turn = max(1, math.ceil(len(pieces) / (4 * threads)))
            turns = [pieces[start : start + turn] for start in range(0, len(pieces), turn)]
            futures = [pool.submit(self._unpack, each, found) for each in turns]
            wait(futures)  # files stay open until no thread reads them
            for future in futures:
                future.result()

    def _pieces(self, axes: Sequence[Sequence[_Part]], stack: contextlib.ExitStack) -> Iterator[_Piece]:
        listed = any(isinstance(part.to, np.ndarray) for parts in axes for part in parts)
        shards: dict[tuple[int, ...], _Shard] = {}
        for parts in itertools.product(*axes):
            inside, to = tuple(part.inside for part in parts), tuple(part.to for part in parts)
            yield self._piece(
                shards,
                stack,
                tuple(part.chunk for part in parts),
                tuple(part.bounds for part in parts),
                _mesh(inside) if listed else inside,
                _mesh(to) if listed else to,
            )

    def _piece(
        self,
        shards: dict[tuple[int, ...], _Shard],
        stack: contextlib.ExitStack,
        chunk: tuple[int, ...],
        bounds: tuple[tuple[int, int], ...],
        inside: tuple[Any, ...],
        to: tuple[Any, ...],
    ) -> _Piece:
        split = [divmod(at, count) for at, count in zip(chunk, self._grid, strict=True)]
        where, place = tuple(shard for shard, _ in split), tuple(at for _, at in split)
        if where not in shards:
            shards[where] = stack.enter_context(self._opened("/".join(map(str, ("c", *where)))))
        runs = _runs(bounds, self._chunk, self._block // self._dtype.itemsize)
        return _Piece(shards[where], place, runs, inside, to)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[_Shard]:
        """Open a shard, which is whole as far as its size and the checksum of its index tell."""
        path = self._folder / key
        try:
            file, status = opened_file(path)
        except FileNotFoundError:
            raise StoreDamageError(path, "is lost") from None
        try:
            if status.st_size == self._sizes[key] and key in self._seen and not self._seen[key].is_of(status):
                raise StaleReadError(path, "was replaced after it was opened: its voxels may be others now")
            known, index = self._indices.get(key, (None, None))
            if index is None or known is None or not known.is_of(status):
                index = self._read_index(path, file, status.st_size, self._sizes[key])
                self._indices[key] = FileStamp.of(status), index
            yield _Shard(path, file, index, self._format)
        finally:
            os.close(file)

    def _read_index(self, path: Path, file: int, size: int, wanted: int) -> NDArray[np.uint64]:
        if size != wanted:
            raise StoreDamageError(path, f"has {size:,} of {wanted:,} bytes")
        length = index_bytes(math.prod(self._grid))
        index = index_from_bytes(os.pread(file, length, size - length), shard_bytes=size) if size >= length else None
        if index is None:
            raise StoreDamageError(path, "has a damaged index")
        return index.reshape(*self._grid, 2)

    def _unpack(self, pieces: Sequence[_Piece], found: NDArray[Any]) -> None:
        voxels = scratch(0, self._chunk, self._dtype)
        octets, size = voxels.reshape(-1).view(np.uint8), voxels.nbytes
        for piece in pieces:
            packed = piece.shard.chunk(piece.place)
            try:
                # those of a few bytes have blocks of another size
                as_planned = block_bytes(packed) == self._block
                for first, end in piece.runs if as_planned else ((0, math.ceil(size / self._block)),):
                    start, stop = first * self._block, min(end * self._block, size)
                    part = blosc_blocks(packed, first, end) if as_planned else packed
                    unpack_into(part, octets[start:stop])
            except (RuntimeError, ValueError, struct.error) as error:
                raise StoreDamageError(piece.shard.path, f"has a damaged chunk ({error})") from error
            found[piece.to] = voxels[piece.inside]


def can_unpack(document: Mapping[str, Any]) -> bool:
    """Whether an array is stored as `convert` stores images.

    Parameters
    ----------
    document
        Its metadata.
    """
    return hasattr(os, "pread") and is_as_converted(document)


def _is_number(index: Index) -> bool:
    return isinstance(index, int | np.integer)


def _parts(index: Index, length: int, size: int) -> tuple[int, list[_Part]]:
    """Cut a selection along an axis at the edges of chunks.

    Parameters
    ----------
    index
        What is selected.
    length, size
        Of the axis and of a chunk.

    Returns
    -------
    tuple
        How many are selected, and the parts.
    """
    if isinstance(index, np.ndarray):
        return len(index), list(_listed_parts(index, length, size))
    if not isinstance(index, slice):
        start = range(length)[index]
        index = slice(start, start + 1)
    selected = range(*index.indices(length))
    parts = []
    for chunk in range(selected.start // size, selected[-1] // size + 1) if selected else ():
        first = max(0, math.ceil((chunk * size - selected.start) / selected.step))
        end = min(len(selected), math.ceil(((chunk + 1) * size - selected.start) / selected.step))
        if first < end:
            low, high = selected[first] - chunk * size, selected[end - 1] - chunk * size
            parts.append(_Part(chunk, slice(low, high + 1, selected.step), slice(first, end), (low, high)))
    return len(selected), parts


def _listed_parts(index: NDArray[np.intp], length: int, size: int) -> Iterator[_Part]:
    chunks, inside = np.divmod(_within(index, length), size)
    for chunk in np.unique(chunks).tolist():
        (to,) = np.nonzero(chunks == chunk)
        found = inside[to]
        yield _Part(chunk, found, to, (int(np.min(found)), int(np.max(found))))


def _within(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Return positions along an axis, those from its end as from its start."""
    if index.size and not -length <= np.min(index) <= np.max(index) < length:
        raise IndexError(f"an index is out of bounds for an axis of {length}")
    return np.where(index < 0, index + length, index)


def _mesh(parts: Sequence[slice | NDArray[np.intp]]) -> tuple[NDArray[np.intp], ...]:
    return np.ix_(*(np.arange(p.start, p.stop, p.step) if isinstance(p, slice) else p for p in parts))


@functools.lru_cache(4096)
def _runs(bounds: tuple[tuple[int, int], ...], chunk: tuple[int, ...], block: int) -> tuple[tuple[int, int], ...]:
    """Say which blocks of a chunk hold a region of it.

    Parameters
    ----------
    bounds
        First and last voxel along each axis.
    chunk
        Its shape, of at least two axes.
    block
        Number of voxels in a block; the last one may have fewer.

    Returns
    -------
    tuple
        Runs of blocks: the first, and the one behind the last.
    """
    *outer, (top, bottom), (left, right) = bounds
    *_, rows, columns = chunk
    needed: set[int] = set()
    for place in itertools.product(*(range(low, high + 1) for low, high in outer)):
        plane = 0
        for at, count in zip(place, chunk, strict=False):
            plane = plane * count + at
        origin = plane * rows * columns
        needed.update(range((origin + top * columns + left) // block, (origin + bottom * columns + right) // block + 1))
    starts = sorted(number for number in needed if number - 1 not in needed)
    ends = sorted(number + 1 for number in needed if number + 1 not in needed)
    return tuple(zip(starts, ends, strict=True))


def block_bytes(packed: bytes) -> int:
    """Return how many bytes a block of a container of Blosc has, unpacked; the last one may have fewer."""
    size: int = BLOSC_HEADER.unpack_from(packed)[5]
    return size


def blosc_blocks(packed: bytes, first: int, end: int) -> bytes:
    """Return a container of Blosc with some of the blocks of another.

    Parameters
    ----------
    packed
        A container whose blocks are single streams.
    first, end
        The first block, and the one behind the last.
    """
    *kind, flags, typesize, size, block, _ = BLOSC_HEADER.unpack_from(packed)
    if (first, end) == (0, math.ceil(size / block)):
        return packed
    size = min(end * block, size) - first * block
    if flags & BLOSC_STORED:
        voxels = packed[BLOSC_HEADER.size + first * block :][:size]
        return BLOSC_HEADER.pack(*kind, flags, typesize, size, min(block, size), BLOSC_HEADER.size + size) + voxels
    if not flags & _UNSPLIT:
        raise ValueError("its blocks are several streams")
    offsets = struct.unpack_from(f"<{end - first}I", packed, BLOSC_HEADER.size + 4 * first)
    streams = [packed[at : at + 4 + int.from_bytes(packed[at : at + 4], "little")] for at in offsets]
    place = BLOSC_HEADER.size + 4 * len(streams)
    starts = itertools.accumulate(map(len, streams[:-1]), initial=place)
    total = place + sum(map(len, streams))
    header = BLOSC_HEADER.pack(*kind, flags, typesize, size, min(block, size), total)
    return b"".join([header, struct.pack(f"<{len(streams)}I", *starts), *streams])


def _threads() -> tuple[ThreadPoolExecutor | None, int]:
    """Return the threads that unpack in this process, as many as zarr may use, by default one for each core."""
    limit = zarr.config.get("threading.max_workers", None) or _cores()
    # those of the parent are not there in a forked child
    return (_pool(os.getpid(), limit), limit) if limit > 1 else (None, 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(1)
def _pool(process: int, count: int) -> ThreadPoolExecutor:  # noqa: ARG001
    return ThreadPoolExecutor(count, thread_name_prefix="isles24-unpack")
