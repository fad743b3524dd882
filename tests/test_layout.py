"""Chunk plans: every voxel goes where it belongs, once, in blocks that a worker can hold."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isles24_zarr.format import chunking
from isles24_zarr.format.chunking import chunks_and_shards
from isles24_zarr.format.layout import ArrayPlan
from isles24_zarr.geometry.grid import Orientation, canonical_from_file
from isles24_zarr.release.files import SourceFile

ORIENTATIONS = [
    Orientation(axes=axes, flips=flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def plan_of(file_shape: tuple[int, ...], orientation: Orientation, dtype: str = "<i2") -> ArrayPlan:
    *frames, z, y, x = file_shape
    shape = (*frames, *(np.array((x, y, z))[list(orientation.axes)][::-1].tolist()))
    slow = 2 - orientation.axes.index(2)
    chunks, shards = chunks_and_shards(shape, np.dtype(dtype).itemsize, slow_axis=slow)
    return ArrayPlan(
        subject="sub-1",
        group="space-ncct",
        image="ctp",
        source=SourceFile(path="x", size=1, stamp=""),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        orientation=orientation,
        attributes={},
    )


sides = st.tuples(*[st.integers(1, 9)] * 3)
file_shapes = st.one_of(sides, st.tuples(st.integers(2, 11), *[st.integers(1, 9)] * 3))


@given(file_shapes, st.sampled_from(ORIENTATIONS), st.integers(8, 4000))
def test_blocks_rebuild_the_volume(file_shape: tuple[int, ...], orientation: Orientation, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "MAX_SHARD_BYTES", most)
        plan = plan_of(file_shape, orientation)
        blocks = list(plan.blocks())
    voxels = np.arange(1, math.prod(file_shape) + 1, dtype=np.int64).reshape(file_shape)
    stream, array = voxels.ravel(), np.zeros(plan.shape, np.int64)
    for block in blocks:
        target = array[block.region]
        assert not target.any()
        for first, shape in block.pieces(plan.chunks, np.dtype(plan.dtype).itemsize):
            count = math.prod(shape)
            piece, stream = stream[:count].reshape(shape), stream[count:]
            turned = canonical_from_file(piece, orientation)
            assert first % plan.chunks[0] == 0
            assert shape[0] <= plan.chunks[0] or turned.shape == target.shape
            target[first : first + turned.shape[0]] = turned
    assert stream.size == 0
    np.testing.assert_array_equal(array, canonical_from_file(voxels, orientation))


@given(file_shapes, st.sampled_from(ORIENTATIONS), st.integers(8, 4000))
def test_a_block_is_a_whole_shard(file_shape: tuple[int, ...], orientation: Orientation, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "MAX_SHARD_BYTES", most)
        plan = plan_of(file_shape, orientation)
        blocks = list(plan.blocks())
    assert all(shard % chunk == 0 for shard, chunk in zip(plan.shards, plan.chunks, strict=True))
    assert len(blocks) == plan.shard_count
    for block in blocks:
        for cut, shard, count in zip(block.region, plan.shards, plan.shape, strict=True):
            assert cut.start % shard == 0
            assert cut.stop == min(cut.start + shard, count)
    plane = math.prod(plan.shape[-3:]) // plan.shape[-3 + 2 - orientation.axes.index(2)] * 2
    assert max(math.prod(block.file_shape) for block in blocks) * 2 <= max(most, plane)


@pytest.mark.parametrize(
    ("shape", "itemsize"),
    [
        ((45, 74, 586, 512), 2),
        ((135, 74, 586, 512), 2),
        ((60, 101, 616, 512), 2),
        ((45, 16, 256, 256), 2),
        ((45, 320, 512, 512), 4),
        ((300, 512, 512), 2),
        ((74, 586, 512), 8),
        ((2000, 512, 512), 8),
    ],
)
@pytest.mark.parametrize("slow_axis", [0, 1, 2])
def test_sizes_that_occur(shape: tuple[int, ...], itemsize: int, slow_axis: int) -> None:
    chunks, shards = chunks_and_shards(shape, itemsize, slow_axis=slow_axis)
    held = math.prod(min(shard, count) for shard, count in zip(shards, shape, strict=True)) * itemsize
    assert held <= 192e6
    assert 2**15 <= math.prod(chunks) * itemsize <= 4 * 2**20
    padded = math.prod(math.ceil(n / c) * c for n, c in zip(shape, chunks, strict=True))
    assert padded <= 1.2 * math.prod(shape)


def test_the_reference_series_has_twelve_shards() -> None:
    chunks, shards = chunks_and_shards((45, 74, 586, 512), 2, slow_axis=0)
    assert (chunks[0], shards[0]) == (1, 4)
    plan: Any = plan_of((45, 74, 586, 512), Orientation(axes=(0, 1, 2), flips=(True, False, False)))
    assert plan.shard_count == 12
