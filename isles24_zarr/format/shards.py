"""Shards as bytes: their index, shards put together of parts, and parts of shards. Pure functions.

The format is Zarr's codec ``sharding_indexed`` (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed):
encoded chunks, then the index, offset and length of each as unsigned 64-bit numbers, both 2^64 - 1 for a chunk that is
not there, and a CRC-32C. Chunks are in C order, so that those of an axial slice are neighbours and come in one read.
Nothing of what an index says is believed: chunks lie within their shard.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

ABSENT: Final = 2**64 - 1
"""Offset and length of a chunk that is not there."""

CHECKSUM_BYTES: Final = 4
"""Of a CRC-32C."""

GAP_BYTES: Final = 2**18
"""What may be read in vain between two ranges: it takes less time than another request would."""

MOST_RANGES: Final = 3
"""Requests for the chunks of a shard: where they lie further apart, more is read in vain."""


def index_bytes(chunks: int) -> int:
    """Return the length of the index of a shard with so many chunks."""
    return 16 * chunks + CHECKSUM_BYTES


def index_from_bytes(data: bytes, *, shard_bytes: int) -> NDArray[np.uint64] | None:
    """Return offset and length of each chunk of a shard, (chunks, 2) in C order; ``None`` where the index is damaged.

    Parameters
    ----------
    data
        The index with its checksum.
    shard_bytes
        Size of the shard: each chunk is there before the index, or is marked as absent.
    """
    entries, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(entries) % 16 or google_crc32c.value(entries).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        return None
    table = np.frombuffer(entries, "<u8").reshape(-1, 2)
    end = np.uint64(max(0, shard_bytes - len(data)))
    offsets, lengths = table[:, 0], table[:, 1]
    absent = (offsets == ABSENT) & (lengths == ABSENT)
    # no sum, which may overflow: the difference is looked at only where it is none
    inside = (offsets <= end) & (lengths <= end - np.minimum(offsets, end))
    return table if bool((absent | inside).all()) else None


def with_index(pieces: Iterable[bytes | memoryview], table: NDArray[np.uint64]) -> bytes:
    """Return chunks, one after the other, with the index behind them: offset and length of each, (chunks, 2)."""
    end = table.astype("<u8").tobytes()
    return b"".join([*pieces, end, google_crc32c.value(end).to_bytes(CHECKSUM_BYTES, "little")])


def joined_shard(parts: Sequence[tuple[bytes, int]], *, total: int) -> bytes:
    """Put a shard together of others that follow each other along the first axis.

    Parameters
    ----------
    parts
        Shards, and how many chunks each has.
    total
        How many the shard has; those behind the last part are not there.
    """
    table = np.full((total, 2), ABSENT, np.uint64)
    pieces, offset, first = [], 0, 0
    for part, count in parts:
        size = len(part) - index_bytes(count)
        own = np.frombuffer(part, "<u8", 2 * count, size).reshape(count, 2).astype(np.uint64)
        own[:, 0][own[:, 0] != ABSENT] += np.uint64(offset)
        table[first : first + count] = own
        pieces.append(memoryview(part)[:size])
        offset, first = offset + size, first + count
    return with_index(pieces, table)


def partial_shard(table: NDArray[np.uint64], wanted: NDArray[np.intp], pieces: Sequence[tuple[int, bytes]]) -> bytes:
    """Put a shard together that holds some chunks of another.

    Parameters
    ----------
    table
        Offset and length of all chunks, (chunks, 2).
    wanted
        Numbers of those to be there.
    pieces
        Offset and bytes of what was read of the shard, in order: each of the chunks lies within one of them.
    """
    starts = np.array([start for start, _ in pieces], np.uint64)
    places = np.array([0, *itertools.accumulate(len(piece) for _, piece in pieces)], np.uint64)
    found = np.full_like(table, ABSENT)
    offsets, lengths = table[wanted].T
    within = np.searchsorted(starts, offsets, side="right") - 1
    found[wanted, 0] = offsets - starts[within] + places[within]
    found[wanted, 1] = lengths
    return with_index([piece for _, piece in pieces], found)


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
