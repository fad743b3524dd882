"""Shards are what Zarr's specification says: other clients read them, and their bytes are taken apart here by hand."""

from __future__ import annotations

import io
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import Blosc
from zarr.storage import LocalStore

from isles24_zarr import errors
from isles24_zarr.format.layout import subject_plan
from isles24_zarr.format.records import ArrayRecord
from isles24_zarr.format.shards import joined_shard, merged_ranges
from isles24_zarr.nifti.files import VoxelStream, read_header
from isles24_zarr.release.files import SourceFile
from isles24_zarr.release.paths import Subject
from isles24_zarr.store.remote import RemoteStore
from isles24_zarr.store.voxels import StoredVoxels
from isles24_zarr.writing import write_array
from isles24_zarr.writing._encoding import encoded_shard
from tests.fuzz import header_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# of axes of any direction, each longer or shorter than a chunk
AFFINES = [np.diag([-0.5, -0.5, 2]), np.diag([0.5, -0.5, -2]), np.eye(3)[[2, 0, 1]] * 2, -np.eye(3)[[1, 2, 0]]]


def written(
    folder: Path, shape: tuple[int, ...], dtype: str, affine: Any, seed: int, *, noise: bool = False
) -> tuple[Any, Any]:
    """Write random voxels of a file (x, y, z[, t]); return them as they lie in the file, and the plan.

    Noise cannot be packed: it is stored as it is.
    """
    fields = {f"srow_{name}": [*row, 0] for name, row in zip("xyz", affine, strict=True)}
    dims = [len(shape), *shape, *[1] * (7 - len(shape))]
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 200, shape[::-1]).astype(dtype)
    if noise:
        voxels = np.frombuffer(rng.bytes(voxels.nbytes), dtype).reshape(voxels.shape)
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


def selections(length: int) -> st.SearchStrategy[Any]:
    """What may select along an axis: a number, a slice, or numbers in any order, from either end."""
    numbers = st.integers(-length, length - 1)
    edges = st.none() | st.integers(-length - 1, length + 1)
    return st.one_of(
        numbers,
        st.builds(slice, edges, edges, st.none() | st.integers(1, length)),
        st.lists(numbers, max_size=6).map(lambda chosen: np.array(chosen, np.intp)),
    )


def selected(voxels: Any, selection: tuple[Any, ...]) -> Any:
    """Select along one axis after the other, from the last one on, as a number drops its axis."""
    for axis in reversed(range(len(selection))):
        voxels = voxels[(slice(None),) * axis + (selection[axis],)]
    return voxels


def voxels_of(store: Path, path: str) -> StoredVoxels:
    return StoredVoxels(LocalStore(store), ArrayRecord.from_checked(document_of(store / path), path))


def document_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())
    return found


@settings(max_examples=60)
@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 150), st.integers(1, 140), st.integers(1, 20), st.integers(1, 7)),
    rank=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["<i2", ">f4", "|u1", "<f8"]),
    affine=st.sampled_from(AFFINES),
    noise=st.booleans(),
)
def test_any_selection_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    shape: tuple[int, ...],
    rank: int,
    dtype: str,
    affine: Any,
    *,
    noise: bool,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    voxels, plan = written(folder, shape[:rank], dtype, affine, 0, noise=noise)
    wanted = canonical(voxels.reshape(voxels.shape[-3:]) if len(plan.shape) == 3 else voxels, affine)
    array = voxels_of(folder, plan.path)
    for _ in range(4):
        selection = data.draw(st.tuples(*map(selections, wanted.shape)))
        found = array.read(selection)
        right = selected(wanted, selection)
        assert found.shape == right.shape
        assert found.tobytes() == np.ascontiguousarray(right, found.dtype).tobytes()
    points = [data.draw(st.lists(st.integers(-n, n - 1), min_size=6, max_size=6)) for n in wanted.shape]
    where = [np.array(each).reshape(2, 3) for each in points]
    np.testing.assert_array_equal(array.pick(where), wanted[tuple(where)])


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (1, 1, 1, 7), (4, 4, 4, 3), (6, 5, 3, 2), (7, 9, 2, 2), (8, 8, 1)])
@pytest.mark.parametrize("dtype", ["|u1", "<i2", "<f8"])
def test_chunks_of_a_few_bytes_are_read(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    # Blosc makes no block of less than 128 bytes, whatever it is asked for
    voxels, plan = written(tmp_path, shape, dtype, np.eye(3), 0)
    wanted = canonical(voxels.reshape(voxels.shape[-3:]) if len(plan.shape) == 3 else voxels, np.eye(3))
    array = voxels_of(tmp_path, plan.path)
    np.testing.assert_array_equal(array.read((slice(None),) * wanted.ndim), wanted)
    for place in np.ndindex(wanted.shape):
        assert array.read(place) == wanted[place]


@pytest.mark.parametrize("index", [300, -301, np.array([0, 300]), np.array([-301])])
def test_a_selection_out_of_bounds(tmp_path: Path, index: Any) -> None:
    _, plan = written(tmp_path, (300, 10, 10), "<i2", np.eye(3), 0)
    array = voxels_of(tmp_path, plan.path)
    with pytest.raises(IndexError):
        array.read((0, 0, index))


def damaged_byte(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def without_first_chunk(data: bytes) -> bytes:
    """What a writer leaves that has no chunk to store: an index that says so, and its checksum."""
    index = b"\xff" * 16 + data[-4 - 27 * 16 + 16 : -4]
    return data[: -4 - 27 * 16] + index + google_crc32c.value(index).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: None, "is lost"),
        (lambda data: data[:-1], "has .* bytes"),
        (lambda data: data + b"x", "has .* bytes"),
        (lambda data: damaged_byte(data, 300), "has a damaged chunk"),
        (lambda data: damaged_byte(data, 5000), "has a damaged chunk"),
        (lambda data: damaged_byte(data, len(data) - 2), "has a damaged index"),
        (lambda data: damaged_byte(data, len(data) - 4 - 27 * 16 + 3), "has a damaged index"),
        (without_first_chunk, "lacks a chunk"),
    ],
)
@pytest.mark.parametrize("selection", [(0, 0, 0), (slice(None),) * 3, (np.array([7, 0]), slice(5), 1)])
def test_damage_is_an_error(tmp_path: Path, damage: Any, message: str, selection: Any) -> None:
    _, plan = written(tmp_path, (150, 150, 20), "<i2", np.eye(3), 0)
    assert tuple(size // chunk for size, chunk in zip(plan.shards, plan.chunks, strict=True)) == (3, 3, 3)
    path = tmp_path / plan.path
    array = voxels_of(tmp_path, plan.path)
    before = array.read(selection)
    (shard,) = [each for each in (path / "c").rglob("*") if each.is_file()]
    data = damage(shard.read_bytes())
    shard.unlink()
    if data is not None:
        shard.write_bytes(data)
    for reader in (array, voxels_of(tmp_path, plan.path)):
        with pytest.raises(errors.StoreDamageError, match=f"{re.escape(str(shard))}: {message}"):
            reader.read(selection)
    assert before.size


def test_chunks_of_a_slice_are_neighbours(tmp_path: Path) -> None:
    """By the specification: offset and length of each chunk, as unsigned 64-bit numbers, then a CRC-32C."""
    _, plan = written(tmp_path, (150, 150, 20, 5), "<i2", np.eye(3), 0)
    (shard,) = [path for path in (tmp_path / plan.path / "c").rglob("*") if path.is_file()]
    data = shard.read_bytes()
    grid = tuple(size // chunk for size, chunk in zip(plan.shards, plan.chunks, strict=True))
    assert grid == (5, 3, 3, 3)
    end = 16 * int(np.prod(grid))
    assert int.from_bytes(data[-4:], "little") == google_crc32c.value(data[-4 - end : -4])
    index = np.frombuffer(data[-4 - end : -4], "<u8").reshape(-1, 2)
    assert index[0, 0] == 0
    np.testing.assert_array_equal(index[1:, 0], index[:-1].sum(axis=1))
    assert index[-1].sum() + end + 4 == len(data)


def document_for(voxels: np.ndarray[Any, Any], chunk: Sequence[int], shard: Sequence[int]) -> dict[str, Any]:
    """Metadata by the specification."""
    ends = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    size = voxels.itemsize
    sizes = {"typesize": size, "blocksize": int(np.prod(chunk)) * size}
    options = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", **sizes}
    codecs = [ends[0], {"name": "blosc", "configuration": options}, ends[1]]
    sharding = {"chunk_shape": list(chunk), "codecs": codecs, "index_codecs": ends, "index_location": "end"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(voxels.shape),
        "data_type": voxels.dtype.name,
        "fill_value": 0,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def test_parts_put_together_are_the_shard_that_is_written_at_once(tmp_path: Path) -> None:
    """Of two frames and one, where the shard has four: chunks beyond the array are not there."""
    voxels = np.random.default_rng(0).integers(0, 99, (3, 5, 9, 10)).astype("<i2")
    document = document_for(voxels, (1, 4, 4, 4), (4, 8, 12, 12))
    data = joined_shard([encoded_shard(document, voxels[:2]), encoded_shard(document, voxels[2:])], total=4 * 2 * 3 * 3)
    index = np.frombuffer(data[-4 - 72 * 16 : -4], "<u8").reshape(4, 2, 3, 3, 2)
    present = (index != 2**64 - 1).all(axis=-1)
    assert present[:3].all()
    assert not present[3:].any()
    for name, content in (("zarr.json", json.dumps({**document, "attributes": {}}).encode()), ("c/0/0/0/0", data)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(zarr.open_array(tmp_path, mode="r")[...], voxels)
    spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": document, "create": True}
    whole = tensorstore.open({**spec, "store_data_equal_to_fill_value": True}).result()
    whole.write(voxels).result()
    assert whole.kvstore["c/0/0/0/0"] == data


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20)),
    dtype=st.sampled_from(["<i2", "<f4", "|u1", "<f8"]),
    backwards=st.sets(st.sampled_from([0, 1, 2])),
    seed=st.integers(0, 99),
)
def test_shards_are_the_same_whichever_way_their_voxels_lie_in_memory(
    shape: tuple[int, int, int], dtype: str, backwards: set[int], seed: int
) -> None:
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    voxels = bits.view(dtype)[..., 0].copy()
    turned = np.flip(np.flip(voxels, tuple(backwards)).copy(), tuple(backwards))
    document = document_for(voxels, (1, 2, 4), (3, 4, 20))
    once = encoded_shard(document, voxels)
    assert encoded_shard(document, turned) == once
    assert encoded_shard(document, np.asfortranarray(voxels)) == once


# --- chunks that lie: made by hand, with all checksums right ---


def made_shard(chunks: list[bytes], *, entries: list[tuple[int, int]] | None = None) -> bytes:
    """A shard by the specification, whatever its chunks are."""
    places = [(sum(map(len, chunks[:at])), len(chunk)) for at, chunk in enumerate(chunks)]
    index = np.array(entries or places, "<u8").tobytes()
    return b"".join([*chunks, index, google_crc32c.value(index).to_bytes(4, "little")])


def chunk_of(container: bytes) -> bytes:
    return container + google_crc32c.value(container).to_bytes(4, "little")


def container_of(voxels: np.ndarray[Any, Any], codec: str = "zstd") -> bytes:
    return bytes(Blosc(codec, 1, Blosc.SHUFFLE, blocksize=4000).encode(voxels))


def lying(packed: bytes, size: int) -> bytes:
    """A container that claims to hold so many bytes."""
    return packed[:4] + size.to_bytes(4, "little") + packed[8:]


def rewritten(folder: Path, data: bytes) -> None:
    """Put a shard in the place of the only one of an array, as its document has it."""
    (path,) = [each for each in (folder / "c").rglob("*") if each.is_file()]
    path.write_bytes(data)
    document = document_of(folder)
    document["attributes"]["isles24_zarr"]["shards"] = {path.relative_to(folder).as_posix(): len(data)}
    (folder / "zarr.json").write_text(json.dumps(document))


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path, np.ndarray[Any, Any]]:
    """An array of one chunk of 40 x 50 x 7 voxels, the folder of its store, and its voxels."""
    voxels, plan = written(tmp_path, (50, 40, 7), "<i2", np.eye(3), 0)
    return tmp_path, tmp_path / plan.path, canonical(voxels, np.eye(3))


def read_both(folder: Path) -> np.ndarray[Any, Any]:
    """Read from a folder, and as a store behind a URL is read; both say the same."""
    document = document_of(folder)
    remote = RemoteStore.at(f"local://{folder.parent}", {}, read_only=True)
    points = np.meshgrid(*map(np.arange, document["shape"]), indexing="ij")
    results: list[Any] = []
    for store in (LocalStore(folder.parent), remote):
        array = StoredVoxels(store, ArrayRecord.from_checked(document, folder.name))
        for read in (lambda array=array: array.read((slice(None),) * 3), lambda array=array: array.pick(points)):
            try:
                results.append(read())
            except errors.StoreDamageError:
                results.append(None)
    assert len({each is None for each in results}) == 1, results
    if results[0] is None:
        raise errors.StoreDamageError(folder, "is damaged")
    for each in results[1:]:
        np.testing.assert_array_equal(each, results[0])
    return np.asarray(results[0])


LYING_CHUNKS: dict[str, Any] = {
    "fewer bytes": lambda v: chunk_of(container_of(v.ravel()[:100].copy())),
    "more bytes": lambda v: chunk_of(container_of(np.concatenate([v.ravel(), v.ravel()[:9]]))),
    "nothing": lambda v: chunk_of(container_of(v.ravel()[:1].copy())),
    "no container": lambda _: chunk_of(b"12345"),
    "a claim of fewer bytes": lambda v: chunk_of(lying(container_of(v), v.nbytes - 2)),
    "a claim of two gigabytes": lambda v: chunk_of(lying(container_of(v), 2**31 - 17)),
    "a claim of four gigabytes": lambda v: chunk_of(lying(container_of(v), 2**32 - 1)),
    "another checksum": lambda v: container_of(v) + b"\0\0\0\0",
    "noise": lambda _: b"x" * 100,
}


@pytest.mark.parametrize("name", LYING_CHUNKS)
def test_a_chunk_that_lies_is_an_error(small: tuple[Path, Path, np.ndarray[Any, Any]], name: str) -> None:
    _, folder, voxels = small
    rewritten(folder, made_shard([chunk_of(container_of(voxels))]))
    np.testing.assert_array_equal(read_both(folder), voxels)
    rewritten(folder, made_shard([LYING_CHUNKS[name](voxels)]))
    with pytest.raises(errors.StoreDamageError):
        read_both(folder)


@pytest.mark.parametrize(
    "entry",
    [(0, 2**64 - 1), (2**64 - 1, 5), (2**63, 2**63), (0, 2**63), (10**6, 10), (2**64 - 2, 3), (2**64 - 1, 2**64 - 1)],
)
def test_an_index_that_lies_is_an_error(small: tuple[Path, Path, np.ndarray[Any, Any]], entry: tuple[int, int]) -> None:
    _, folder, voxels = small
    rewritten(folder, made_shard([chunk_of(container_of(voxels))], entries=[entry]))
    with pytest.raises(errors.StoreDamageError):
        read_both(folder)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    at=st.integers(0, 15) | st.integers(0, 400),
    value=st.integers(0, 255),
    end=st.integers(0, 200),
    codec=st.sampled_from(["zstd", "lz4"]),
)
def test_a_container_made_by_hand_gives_voxels_or_an_error(
    small: tuple[Path, Path, np.ndarray[Any, Any]], at: int, value: int, end: int, codec: str
) -> None:
    """Its checksum is right: whoever can make that can make any voxels. Nothing crashes."""
    _, folder, voxels = small
    packed = bytearray(container_of(voxels, codec))
    packed[at % len(packed)] = value
    rewritten(folder, made_shard([chunk_of(bytes(packed[: len(packed) - end]))]))
    try:
        found = read_both(folder)
    except errors.StoreDamageError:
        return
    assert found.shape == voxels.shape


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
