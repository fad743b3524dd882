"""Which parts of a shard are fetched, against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isles24_zarr.ranges import merged_ranges, touched_chunks

SHARD, CHUNK = (4, 6, 8), (2, 3, 2)


def numbered_chunks() -> np.ndarray[Any, Any]:
    """For every voxel of a shard, the number of its chunk."""
    numbers = np.empty(SHARD, int)
    grid = [range(count // size) for count, size in zip(SHARD, CHUNK, strict=True)]
    for number, place in enumerate(itertools.product(*grid)):
        cut = tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, CHUNK, strict=True))
        numbers[cut] = number
    return numbers


@pytest.mark.parametrize(
    "selection",
    [
        np.s_[:, :, :],
        np.s_[1, :, :],
        np.s_[:, :, 5],
        np.s_[1:3, ::5, 7:2:-2],
        np.s_[:, 2:3, np.array([1, 6])],
        np.ix_([0, 3], [5], [2, 7]),
        (np.array([0, 3]), np.array([1, 5]), np.array([7, 0])),
    ],
    ids=str,
)
def test_the_chunks_that_hold_a_selection(selection: Any) -> None:
    assert touched_chunks(selection, SHARD, CHUNK).tolist() == np.unique(numbered_chunks()[selection]).tolist()


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), max_size=30),
    st.integers(0, 50),
    st.integers(1, 4),
)
def test_merged_ranges_hold_all_and_are_few(cuts: list[tuple[int, int]], gap: int, most: int) -> None:
    ranges = [(start, start + length) for start, length in cuts]
    merged = merged_ranges(ranges, gap=gap, most=most)
    assert len(merged) <= most
    assert all(any(start <= first and last <= end for start, end in merged) for first, last in ranges)
    assert all(before[1] + gap < after[0] for before, after in itertools.pairwise(merged))
    wanted = {byte for start, end in ranges for byte in range(start, end)}
    if len(merged) < most:  # nothing is read in vain beyond narrow gaps
        read = {byte for start, end in merged for byte in range(start, end)}
        vain = sorted(read - wanted)
        assert all({byte - gap, *range(byte - gap, byte)} & wanted for byte in vain)
