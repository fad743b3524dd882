"""Shards are what Zarr's specification says: other clients read them, and their bytes are taken apart here by hand."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from isles24_zarr.layout import subject_plan
from isles24_zarr.nifti import VoxelStream, read_header
from isles24_zarr.release import SourceFile, Subject
from isles24_zarr.shards import ShardEncoder, encoded_chunk
from isles24_zarr.store import write_array
from tests.fuzz import header_bytes

if TYPE_CHECKING:
    from pathlib import Path

# of axes of any direction, each longer or shorter than a chunk
AFFINES = [np.diag([-0.5, -0.5, 2]), np.diag([0.5, -0.5, -2]), np.eye(3)[[2, 0, 1]] * 2, -np.eye(3)[[1, 2, 0]]]


def written(folder: Path, shape: tuple[int, ...], dtype: str, affine: Any, seed: int) -> tuple[Any, Any]:
    """Write random voxels of a file (x, y, z[, t]); return them as they lie in the file, and the plan."""
    fields = {f"srow_{name}": [*row, 0] for name, row in zip("xyz", affine, strict=True)}
    dims = [len(shape), *shape, *[1] * (7 - len(shape))]
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 200, shape[::-1]).astype(dtype)
    data = header_bytes(1, dtype[0] if dtype[0] in "<>" else "<", dtype, dim=dims, **fields) + voxels.tobytes()
    file = SourceFile(path="x.nii", size=len(data), stamp="")
    header = read_header(io.BytesIO(data), path="x.nii", size=len(data))
    plan = subject_plan(Subject(name="sub-a", images={("ncct", "ncct"): file}, tables={}), {"x.nii": header})
    (array,) = plan.arrays
    counts: list[int] = []
    write_array(LocalStore(folder), array, VoxelStream(io.BytesIO(data), path="x.nii"), counts.append)
    assert sum(counts) == voxels.nbytes
    return voxels, array


def canonical(voxels: Any, affine: Any) -> Any:
    """By the definition: move each axis of the file to the one it is nearest to, and turn it where it runs down."""
    turned = voxels
    for axis in range(3):
        step = affine[:, axis]
        if step[np.argmax(abs(step))] < 0:
            turned = np.flip(turned, voxels.ndim - 1 - axis)
    target = [int(np.argmax(abs(affine[:, axis]))) for axis in range(3)]
    places = [voxels.ndim - 1 - axis for axis in range(3)]
    return np.moveaxis(turned, places, [voxels.ndim - 1 - axis for axis in target])


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 140), st.integers(1, 20), st.integers(1, 7)),
    rank=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["<i2", ">i2", "<f4", ">f4", "|u1", "<f8"]),
    affine=st.sampled_from(AFFINES),
    seed=st.integers(0, 9),
)
def test_any_volume_is_read_by_other_clients(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], rank: int, dtype: str, affine: Any, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    voxels, plan = written(folder, shape[:rank], dtype, affine, seed)
    wanted = canonical(voxels.reshape(voxels.shape[-3:]) if len(plan.shape) == 3 else voxels, affine)
    by_zarr = zarr.open_array(folder / plan.path, mode="r")[...]
    np.testing.assert_array_equal(by_zarr, wanted)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / plan.path)}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), wanted)


def test_chunks_of_a_slice_are_neighbours(tmp_path: Path) -> None:
    """By the specification: offset and length of each chunk, as unsigned 64-bit numbers, then a CRC-32C."""
    _, plan = written(tmp_path, (300, 300, 20, 5), "<i2", np.eye(3), 0)
    (shard,) = [path for path in (tmp_path / plan.path / "c").rglob("*") if path.is_file()]
    data = shard.read_bytes()
    grid = tuple(size // chunk for size, chunk in zip(plan.shards, plan.chunks, strict=True))
    assert grid == (3, 3, 3, 3)
    end = 16 * int(np.prod(grid))
    assert int.from_bytes(data[-4:], "little") == google_crc32c.value(data[-4 - end : -4])
    index = np.frombuffer(data[-4 - end : -4], "<u8").reshape(-1, 2)
    assert index[0, 0] == 0
    np.testing.assert_array_equal(index[1:, 0], index[:-1].sum(axis=1))
    assert index[-1].sum() + end + 4 == len(data)


def test_chunks_beyond_the_array_are_not_stored() -> None:
    chunk, shard = (1, 4, 4), (3, 8, 4)
    voxels = np.arange(32, dtype="<i2").reshape(2, 4, 4)
    with ThreadPoolExecutor(1) as threads:
        encoder = ShardEncoder(threads, shard=shard, chunk=chunk)
        encoder.add(voxels[:1])
        encoder.add(voxels[1:], first=1)
        data = encoder.finish()
    index = np.frombuffer(data[-4 - 6 * 16 : -4], "<u8").reshape(3, 2, 1, 2)
    absent = (index == 2**64 - 1).all(axis=-1)[..., 0]
    np.testing.assert_array_equal(absent, [[False, True], [False, True], [True, True]])


def test_the_same_voxels_give_the_same_bytes_in_any_order_of_memory() -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (4, 6, 8)).astype("<i2")
    cut = (slice(0, 4), slice(0, 4), slice(4, 8))
    once = encoded_chunk(voxels, cut, (4, 4, 4))
    assert encoded_chunk(np.asfortranarray(voxels), cut, (4, 4, 4)) == once
    assert encoded_chunk(voxels[::-1].copy()[::-1], cut, (4, 4, 4)) == once
