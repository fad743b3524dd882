"""How an array is cut into shards and chunks: pure functions of shapes.

A shard is the unit of writing: one task writes it whole, from one block of the file, so it is as large as a block
may be. A chunk is the unit of reading. Blocks follow the order of the file, whole frames where one frame fits and
slabs across the file's slowest axis where it does not, so shards are cut along time or along the one canonical axis
that the file's slowest axis became.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from isles24_zarr.geometry import Orientation

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SHARD_BYTES: Final = 192 * 10**6
"""Raw voxels of a shard at most: a worker holds its encoding."""

PIECE_BYTES: Final = 32 * 10**6
"""Raw voxels that are read and encoded at once, where a plane of chunks is not larger: a worker holds two pieces."""

CHUNK_FRAMES: Final = 1
CHUNK_ZYX: Final = (8, 64, 64)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileBlock:
    """A piece of a file that becomes one shard.

    Parameters
    ----------
    file_shape
        Its shape in the order of the file, (z, y, x) or (t, z, y, x).
    region
        Where it goes in the array, one slice per axis, (z, y, x) or (time, z, y, x).
    step
        In which direction pieces of the block, which follow each other in the file, do so along the first axis of the
        array: 1, -1, or 0 where they do neither.
    """

    file_shape: tuple[int, ...]
    region: tuple[slice, ...]
    step: int

    def pieces(self, chunks: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Cut a block into pieces, between chunks of the first axis.

        Parameters
        ----------
        chunks
            Shape of a chunk.
        itemsize
            Bytes of an element of the file.

        Yields
        ------
        tuple
            Where the piece begins within the block along the first axis of the array, and its shape in the order of the
            file.
        """
        count, *inner = self.file_shape
        if not self.step:
            yield 0, self.file_shape
            return
        plane = chunks[0] * math.prod(inner) * itemsize
        spans = list(_spans(count, chunks[0] * max(1, PIECE_BYTES // plane)))
        for first, last in spans[:: self.step]:
            yield first, (last - first, *inner)


def blocks_of_array(shape: tuple[int, ...], shards: tuple[int, ...], orientation: Orientation) -> Iterator[FileBlock]:
    """Yield the blocks of the file that an array comes from, in its order; each is a whole shard.

    Parameters
    ----------
    shape, shards
        Of the array and of its shards, (z, y, x) or (time, z, y, x).
    orientation
        How the file's axes became the array's.
    """
    slow = slow_axis(orientation) - 3
    slabs = list(_spans(shape[slow], shards[slow]))
    reverse = orientation.flips[-1 - slow]
    if reverse:
        slabs.reverse()
    step = 1 if len(shape) == 4 else 0 if slow != -3 else -1 if reverse else 1
    file_volume = tuple(shape[-1 - axis] for axis in np.argsort(orientation.axes)[::-1])
    frames = [slice(*span) for span in _spans(shape[0], shards[0])] if len(shape) == 4 else [None]
    for frame in frames:
        for start, stop in slabs:
            region = [slice(0, count) for count in shape[-3:]]
            region[slow] = slice(start, stop)
            file_shape: tuple[int, ...] = (stop - start, *file_volume[1:])
            if frame:
                file_shape = (frame.stop - frame.start, *file_shape)
                region.insert(0, frame)
            yield FileBlock(file_shape=file_shape, region=tuple(region), step=step)


def shard_key(block: FileBlock, shards: tuple[int, ...], separator: str = "/") -> str:
    """Return the key of the shard that a block becomes, below its array."""
    return separator.join(["c", *(str(cut.start // size) for cut, size in zip(block.region, shards, strict=True))])


def chunks_and_shards(
    shape: tuple[int, ...], itemsize: int, *, slow_axis: int, unit: int = 1
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose how an array is cut up.

    Parameters
    ----------
    shape
        (z, y, x) or (time, z, y, x).
    itemsize
        Bytes of an element.
    slow_axis
        0, 1 or 2 for z, y or x: the axis that the file's slowest spatial axis became.
    unit
        Voxels along that axis that are computed together: shards are cut between them where that is possible.

    Returns
    -------
    tuple
        Shapes of chunks and of shards. Shards are multiples of chunks and hold at most `MAX_SHARD_BYTES` of voxels
        (or one plane across `slow_axis`, or one frame of it, where that is more); chunks are near `CHUNK_ZYX`, evened
        out so that the last one of an axis is hardly padded.
    """
    *times, z, y, x = shape
    volume = (z, y, x)
    chunk = [even_chunk(count, most) for count, most in zip(volume, CHUNK_ZYX, strict=True)]
    shard = [rounded_up(count, size) for count, size in zip(volume, chunk, strict=True)]
    frame_bytes = math.prod(volume) * itemsize
    if frame_bytes > MAX_SHARD_BYTES:
        planes = max(1, MAX_SHARD_BYTES * volume[slow_axis] // frame_bytes)
        chunk[slow_axis] = min(chunk[slow_axis], planes)
        step = math.lcm(chunk[slow_axis], unit)
        shard[slow_axis] = planes - planes % (step if step <= planes else chunk[slow_axis])
    if not times:
        return tuple(chunk), tuple(shard)
    most_frames = max(1, MAX_SHARD_BYTES // frame_bytes)
    chunk_frames = even_chunk(times[0], min(CHUNK_FRAMES, most_frames))
    shard_frames = min(rounded_up(times[0], chunk_frames), most_frames - most_frames % chunk_frames)
    return (chunk_frames, *chunk), (shard_frames, *shard)


def even_chunk(count: int, most: int) -> int:
    """Return the smallest chunk that needs no more chunks than ``most`` does."""
    return math.ceil(count / math.ceil(count / most))


def rounded_up(count: int, multiple: int) -> int:
    """Return the smallest multiple that is not less."""
    return math.ceil(count / multiple) * multiple


def _spans(count: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, step):
        yield start, min(start + step, count)


def slow_axis(orientation: Orientation) -> int:
    """Return which of (z, y, x) the file's slowest spatial axis became."""
    return 2 - orientation.axes.index(2)
