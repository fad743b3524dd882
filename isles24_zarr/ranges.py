"""Parts of a shard in few requests: ranges of chunks that lie near each other are read as one.

zarr-python reads a part of a shard chunk by chunk, which costs an object store's answer time for each. `RangeReads` is
its codec pipeline with one thing done before: what the chunks need is fetched, and handed to it from memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline

from isles24_zarr.containers import ABSENT, ChunkFormat, index_bytes, index_from_bytes
from isles24_zarr.errors import StoreDamageError
from isles24_zarr.layout import KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from zarr.abc.codec import Codec
    from zarr.abc.store import ByteGetter, ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

GAP_BYTES: Final = 2**18
"""What may be read in vain between two ranges: it takes less time than another request would."""

MOST_RANGES: Final = 3
"""Requests for the chunks of a shard: where they lie further apart, more is read in vain."""

_SHARDS_AT_ONCE: Final = 8


def merged_ranges(
    ranges: Iterable[tuple[int, int]], *, gap: int = GAP_BYTES, most: int = MOST_RANGES
) -> list[tuple[int, int]]:
    """Merge ranges that lie near each other.

    Parameters
    ----------
    ranges
        Start and end of each, in any order; they may overlap.
    gap
        Bytes between two that are merged at most, unless there would be too many.
    most
        Number of ranges to return at most; the widest gaps stay.

    Returns
    -------
    list of tuple
        In order, each of the given ones within one of them.
    """
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    widths = {at: joined[at][0] - joined[at - 1][1] for at in range(1, len(joined))}
    wide = sorted((at for at in widths if widths[at] > gap), key=lambda at: -widths[at])[: most - 1]
    cuts = [0, *sorted(wide), len(joined)]
    return [(joined[first][0], joined[last - 1][1]) for first, last in itertools.pairwise(cuts) if first < last]


def touched_chunks(selection: Any, shard: Sequence[int], chunk: Sequence[int]) -> NDArray[np.int64]:
    """Return the numbers of the chunks that hold a selection, in C order within their shard.

    Parameters
    ----------
    selection
        Within the shard, for each axis a number, a slice or an array of numbers; arrays for all axes pick points.
    shard, chunk
        Their shapes.
    """
    chosen = selection if isinstance(selection, tuple) else (selection,)
    axes: list[NDArray[np.int64]] = []
    for cut, count, size in zip(chosen, shard, chunk, strict=True):
        if isinstance(cut, slice):
            axes.append(np.unique(np.arange(*cut.indices(count)) // size))
        else:
            axes.append(np.asarray(cut, np.int64) // size)
    grid = tuple(count // size for count, size in zip(shard, chunk, strict=True))
    points = all(isinstance(cut, np.ndarray) for cut in chosen)
    places = np.broadcast_arrays(*axes) if points else np.ix_(*(np.unique(axis) for axis in axes))
    return np.unique(np.ravel_multi_index(tuple(places), grid))


class FetchedShard:
    """A shard of which a part is in memory; the rest stays where it is.

    Parameters
    ----------
    place
        The shard, as Zarr reads it.
    pieces
        What was fetched, by its offset.
    index
        The end of the shard.
    whole
        The one piece is all of it.
    """

    def __init__(self, place: ByteGetter, pieces: dict[int, Buffer], index: Buffer, *, whole: bool = False) -> None:
        self._place, self._pieces, self._index, self._whole = place, pieces, index, whole

    async def get(self, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what is asked for, from memory if it is there."""
        if byte_range is None and self._whole:
            return self._pieces[0]
        if isinstance(byte_range, SuffixByteRequest) and byte_range.suffix == len(self._index):
            return self._index
        if isinstance(byte_range, RangeByteRequest):
            for offset, piece in self._pieces.items():
                if offset <= byte_range.start and byte_range.end <= offset + len(piece):
                    return piece[byte_range.start - offset : byte_range.end - offset]
        return await self._place.get(prototype, byte_range)


@dataclasses.dataclass(frozen=True)
class RangeReads(BatchedCodecPipeline):
    """The codec pipeline of zarr-python for the shards of one array, which are fetched in few requests.

    The index of a shard is read once, whoever else reads from the shard at the same time. It is asked for by where it
    begins: not all file systems read the end of an object.
    """

    format: ChunkFormat | None = dataclasses.field(default=None, compare=False)
    """What each chunk is: what is not is refused before zarr-python sees it."""
    sizes: dict[str, int] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """Bytes of each shard, by its key."""
    indexes: dict[str, Buffer | None] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    locks: dict[str, asyncio.Lock] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of_array(cls, codecs: Iterable[Codec], path: str, document: Mapping[str, Any]) -> Self:
        """Make the pipeline of an array.

        Parameters
        ----------
        codecs
            Of its metadata.
        path
            Of the array in its store.
        document
            Of the array, as `convert` writes it.
        """
        sizes = {f"{path}/{key}": size for key, size in document["attributes"][KEY]["shards"].items()}
        return dataclasses.replace(cls.from_codecs(codecs), sizes=sizes, format=ChunkFormat.of_image(document))

    async def read(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> Any:
        """Read chunks of several shards into an array, some shards at a time so that memory stays bounded."""
        batch = list(batch_info)
        results: list[Any] = []
        for first in range(0, len(batch), _SHARDS_AT_ONCE):
            some = batch[first : first + _SHARDS_AT_ONCE]
            fetched = await asyncio.gather(*(self._fetched(*info[:3]) for info in some))
            ready = [(getter, *info[1:]) for getter, info in zip(fetched, some, strict=True)]
            # later versions of zarr-python tell what became of each chunk, earlier ones return nothing
            reading: Any = super().read(ready, out, drop_axes)
            results += await reading or ()
        return tuple(results)

    async def _fetched(self, place: Any, spec: Any, selection: Any) -> ByteGetter:
        """Fetch what a selection needs of one shard."""
        chunk = self.array_bytes_codec.chunk_shape  # type: ignore[attr-defined]
        chunks = math.prod(count // size for count, size in zip(spec.shape, chunk, strict=True))
        count = index_bytes(chunks)
        wanted = touched_chunks(selection, spec.shape, chunk)
        if len(wanted) == chunks:
            shard = await place.get(default_buffer_prototype())
            if shard is None:
                return place  # type: ignore[no-any-return]
            index = shard[max(0, len(shard) - count) :]
            self._check(place, self._ranges(place, index, wanted, len(shard)), {0: shard})
            return FetchedShard(place, {0: shard}, index, whole=True)
        index = await self._index(place, count)
        if index is None:  # of a shard that is lost
            return place  # type: ignore[no-any-return]
        ranges = self._ranges(place, index, wanted, self.sizes.get(place.path, 2**63))
        merged = merged_ranges(ranges)
        read = functools.partial(place.get, default_buffer_prototype())
        pieces = await asyncio.gather(*(read(RangeByteRequest(*each)) for each in merged))
        found = {start: piece for (start, _), piece in zip(merged, pieces, strict=True) if piece is not None}
        self._check(place, ranges, found)
        return FetchedShard(place, found, index)

    def _ranges(self, place: Any, index: Buffer, wanted: NDArray[np.int64], shard_bytes: int) -> list[tuple[int, int]]:
        known = self.sizes.get(place.path, shard_bytes)
        if shard_bytes != known:
            raise StoreDamageError(place, f"has {shard_bytes:,} of {known:,} bytes")
        return chunk_ranges(index, wanted, shard_bytes=shard_bytes, path=str(place))

    def _check(self, place: Any, ranges: Iterable[tuple[int, int]], pieces: Mapping[int, Buffer]) -> None:
        """Make sure that what was fetched are chunks of this array."""
        if self.format is None:
            return
        for start, end in ranges:
            offset = max((begin for begin in pieces if begin <= start), default=start)
            frame = pieces[offset][start - offset : end - offset].to_bytes() if offset in pieces else b""
            try:
                self.format.container(frame)
            except (RuntimeError, ValueError) as error:
                raise StoreDamageError(place, f"has a damaged chunk ({error})") from error

    async def _index(self, place: Any, count: int) -> Buffer | None:
        key = str(place)
        async with self.locks.setdefault(key, asyncio.Lock()):
            if key not in self.indexes:
                size: Any = self.sizes.get(place.path)
                known = isinstance(size, int) and size >= count
                end = RangeByteRequest(size - count, size) if known else SuffixByteRequest(count)
                self.indexes[key] = await place.get(default_buffer_prototype(), end)
            return self.indexes[key]


def chunk_ranges(index: Buffer, chunks: NDArray[np.int64], *, shard_bytes: int, path: str) -> list[tuple[int, int]]:
    """Return where chunks begin and end in their shard.

    Parameters
    ----------
    index
        Offset and length of each chunk as unsigned 64-bit numbers, and their CRC-32C.
    chunks
        Their numbers.
    shard_bytes, path
        Size of the shard, and where it is, for errors.

    Raises
    ------
    StoreDamageError
        The index is damaged, or a chunk is not there.
    """
    table = index_from_bytes(index.to_bytes(), shard_bytes=shard_bytes)
    if table is None or len(table) <= int(chunks.max(initial=0)):
        raise StoreDamageError(path, "has a damaged index")
    found = table[chunks].tolist()
    if any(offset == ABSENT for offset, _ in found):
        raise StoreDamageError(path, "lacks a chunk")
    return [(offset, offset + length) for offset, length in found]
