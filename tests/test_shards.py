"""Shards are what Zarr's specification says: other clients read them, and their bytes are taken apart here by hand."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Zstd
from zarr.storage import LocalStore

from isles24_zarr import errors
from isles24_zarr.arrays import StoredArray
from isles24_zarr.containers import ChunkFormat, frame_content, unpack_into
from isles24_zarr.layout import subject_plan
from isles24_zarr.nifti import VoxelStream, read_header
from isles24_zarr.release import SourceFile, Subject
from isles24_zarr.remote import RemoteStore
from isles24_zarr.shards import ShardEncoder, encoded_chunk, scratch
from isles24_zarr.store import write_array
from isles24_zarr.unpacking import ShardedVoxels, block_bytes, blosc_blocks, can_unpack
from tests.fuzz import header_bytes

if TYPE_CHECKING:
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
def test_any_selection_is_unpacked(
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
    document = document_of(folder / plan.path)
    assert can_unpack(document)
    array = ShardedVoxels(folder / plan.path, document)
    for _ in range(4):
        selection = data.draw(st.tuples(*map(selections, wanted.shape)))
        found = array.read(selection)
        right = selected(wanted, selection)
        assert found.shape == right.shape
        assert found.tobytes() == np.ascontiguousarray(right, found.dtype).tobytes()


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (1, 1, 1, 7), (4, 4, 4, 3), (6, 5, 3, 2), (7, 9, 2, 2), (8, 8, 1)])
@pytest.mark.parametrize("dtype", ["|u1", "<i2", "<f8"])
def test_chunks_of_a_few_bytes_are_unpacked(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    # Blosc makes no block of less than 128 bytes, whatever it is asked for
    voxels, plan = written(tmp_path, shape, dtype, np.eye(3), 0)
    wanted = canonical(voxels.reshape(voxels.shape[-3:]) if len(plan.shape) == 3 else voxels, np.eye(3))
    array = ShardedVoxels(tmp_path / plan.path, document_of(tmp_path / plan.path))
    np.testing.assert_array_equal(array.read((slice(None),) * wanted.ndim), wanted)
    for place in np.ndindex(wanted.shape):
        assert array.read(place) == wanted[place]


@pytest.mark.parametrize("index", [300, -301, np.array([0, 300]), np.array([-301])])
def test_a_selection_out_of_bounds(tmp_path: Path, index: Any) -> None:
    _, plan = written(tmp_path, (300, 10, 10), "<i2", np.eye(3), 0)
    array = ShardedVoxels(tmp_path / plan.path, document_of(tmp_path / plan.path))
    with pytest.raises(IndexError):
        array.read((0, 0, index))


@settings(max_examples=100)
@given(
    data=st.data(),
    size=st.integers(1, 40_000),
    block=st.integers(200, 9000),
    typesize=st.sampled_from([1, 2, 4, 8]),
    codec=st.sampled_from(["zstd", "zlib", "lz4", "blosclz"]),
    shuffle=st.sampled_from([0, 1, 2]),
    noise=st.booleans(),
)
def test_some_blocks_of_a_container(
    data: st.DataObject, size: int, block: int, typesize: int, codec: str, shuffle: int, *, noise: bool
) -> None:
    rng = np.random.default_rng(size)
    values = rng.integers(0, 256 if noise else 3, size * typesize, "u1").view(f"u{typesize}")
    packed = Blosc(codec, 5, shuffle, blocksize=block).encode(values)
    real = int.from_bytes(packed[8:12], "little")  # Blosc rounds it
    count = -(-values.nbytes // real)
    first = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(first + 1, count))
    try:
        found = Blosc().decode(blosc_blocks(packed, first, end))
    except ValueError:  # each byte of an element is a stream of its own
        assert codec != "zstd"
        assert typesize > 1
    else:
        assert found == values.tobytes()[first * real : end * real]


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
    _, plan = written(tmp_path, (300, 300, 20), "<i2", np.eye(3), 0)
    assert tuple(size // chunk for size, chunk in zip(plan.shards, plan.chunks, strict=True)) == (3, 3, 3)
    path = tmp_path / plan.path
    array = ShardedVoxels(path, document_of(path))
    before = array.read(selection)
    (shard,) = [each for each in (path / "c").rglob("*") if each.is_file()]
    data = damage(shard.read_bytes())
    shard.unlink()
    if data is not None:
        shard.write_bytes(data)
    for reader in (array, ShardedVoxels(path, document_of(path))):
        with pytest.raises(errors.StoreDamageError, match=f"{re.escape(str(shard))}: {message}"):
            reader.read(selection)
    assert before.size


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["codecs"][0].update(name="bytes"),
        lambda document: document["codecs"][0]["configuration"].update(index_location="start"),
        lambda document: document["codecs"][0]["configuration"]["codecs"].pop(),
        lambda document: document["codecs"][0]["configuration"]["codecs"][0]["configuration"].update(endian="big"),
        lambda document: document["codecs"][0]["configuration"]["index_codecs"].pop(),
        lambda document: document.update(codecs=[{"name": "bytes"}]),
        lambda document: document["chunk_key_encoding"].update(name="v2"),
        lambda document: document["attributes"].clear(),
    ],
)
def test_what_others_have_written_is_left_to_zarr(tmp_path: Path, change: Any) -> None:
    _, plan = written(tmp_path, (9, 9, 9), "<i2", np.eye(3), 0)
    document = document_of(tmp_path / plan.path)
    assert can_unpack(document)
    change(document)
    assert not can_unpack(document)


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


@settings(max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20)),
    fill=st.integers(0, 3),
    dtype=st.sampled_from(["<i2", "<f4", "|u1", "<f8"]),
    backwards=st.sets(st.sampled_from([0, 1, 2])),
    seed=st.integers(0, 99),
)
def test_chunks_are_the_same_whichever_way_their_voxels_lie_in_memory(
    shape: tuple[int, int, int], fill: int, dtype: str, backwards: set[int], seed: int
) -> None:
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    voxels = bits.view(dtype)[..., 0].copy()
    turned = np.flip(np.flip(voxels, tuple(backwards)).copy(), tuple(backwards))
    chunk = (shape[0] + fill, shape[1], shape[2] + fill)
    packed = encoded_chunk(turned, (slice(None), slice(None), slice(None)), chunk)
    # what was there before must not show where the array ends
    encoded_chunk(np.full(chunk, 77, dtype), (slice(None), slice(None), slice(None)), chunk)
    assert encoded_chunk(turned, (slice(None), slice(None), slice(None)), chunk) == packed
    unpacked = np.frombuffer(Blosc().decode(Zstd().decode(packed)), dtype).reshape(chunk)
    wanted = np.zeros(chunk, dtype)
    wanted[: shape[0], : shape[1], : shape[2]] = voxels
    assert unpacked.tobytes() == wanted.tobytes()


@settings(max_examples=300, deadline=None)
@example(size=0, values=1, level=-10, checksum=True, damage=None)  # numcodecs takes no frame of nothing
@given(
    size=st.one_of(st.integers(0, 600), st.sampled_from([65_791, 65_792, 100_000, 131_072, 131_073, 300_000])),
    values=st.sampled_from([1, 3, 256]),
    level=st.sampled_from([-10, 1]),
    checksum=st.booleans(),
    damage=st.one_of(
        st.none(),
        st.tuples(st.just("bit"), st.integers(0, 2**20), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, 2**20), st.just(0)),
        st.tuples(st.just("more"), st.just(0), st.integers(0, 255)),
    ),
)
def test_frames_are_read_as_zstandard_does(
    size: int, values: int, level: int, checksum: bool, damage: tuple[str, int, int] | None
) -> None:
    content = np.random.default_rng(size).integers(0, values, size, dtype=np.uint8).tobytes()
    frame = bytearray(Zstd(level=level, checksum=checksum).encode(content))
    if damage and damage[0] == "bit":
        # the header has most of what can go wrong
        frame[damage[1] % (min(len(frame), 24) if damage[1] % 2 else len(frame))] ^= 1 << damage[2]
    elif damage and damage[0] == "cut":
        del frame[damage[1] % len(frame) :]
    elif damage:
        frame.append(damage[2])
    try:
        wanted = Zstd().decode(bytes(frame))
    except (RuntimeError, ValueError):
        with pytest.raises((RuntimeError, ValueError)):
            frame_content(bytes(frame))
        return
    assert frame_content(bytes(frame)) == wanted
    assert damage or wanted == content


# --- chunks that lie: made by hand, with all checksums right ---


def made_shard(chunks: list[bytes], *, entries: list[tuple[int, int]] | None = None) -> bytes:
    """A shard by the specification, whatever its chunks are."""
    places = [(sum(map(len, chunks[:at])), len(chunk)) for at, chunk in enumerate(chunks)]
    index = np.array(entries or places, "<u8").tobytes()
    return b"".join([*chunks, index, google_crc32c.value(index).to_bytes(4, "little")])


def frame_of(content: bytes) -> bytes:
    return bytes(Zstd(level=-10, checksum=True).encode(content))


def container_of(voxels: np.ndarray[Any, Any], block: int) -> bytes:
    return bytes(Blosc("zstd", 1, Blosc.SHUFFLE, blocksize=block).encode(voxels))


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
    """Read by threads, and as a store behind a URL is read; both say the same."""
    document = document_of(folder)
    whole = (slice(None),) * 3
    results: list[Any] = []
    remote = RemoteStore.at(f"local://{folder.parent}", {}, read_only=True)
    for read in (
        lambda: ShardedVoxels(folder, document).read(whole),
        lambda: StoredArray(remote, folder.name, document).read(whole),
        lambda: ShardedVoxels(folder, document).pick(np.meshgrid(*map(np.arange, document["shape"]), indexing="ij")),
    ):
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
    "fewer bytes": lambda v, b: frame_of(container_of(v.ravel()[:100].copy(), b)),
    "more bytes": lambda v, b: frame_of(container_of(np.concatenate([v.ravel(), v.ravel()[:9]]), b)),
    "nothing": lambda v, b: frame_of(container_of(v.ravel()[:1].copy(), b)),
    "no container": lambda *_: frame_of(b"12345"),
    "another type": lambda v, b: frame_of(container_of(v.view("u1"), b)),
    "not shuffled": lambda v, b: frame_of(bytes(Blosc("zstd", 1, Blosc.NOSHUFFLE, blocksize=b).encode(v))),
    "a frame of 2^63 bytes": lambda *_: b"\x28\xb5\x2f\xfd\xe0" + (2**63).to_bytes(8, "little") + b"\x01\0\0",
    "a frame of a terabyte": lambda *_: b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little") + b"\x01\0\0",
    "a frame that does not say": lambda *_: b"\x28\xb5\x2f\xfd\x00\xff\x01\0\0",
    "no frame": lambda *_: b"x" * 100,
}


@pytest.mark.parametrize("name", LYING_CHUNKS)
def test_a_chunk_that_lies_is_an_error(small: tuple[Path, Path, np.ndarray[Any, Any]], name: str) -> None:
    _, folder, voxels = small
    block = document_of(folder)["codecs"][0]["configuration"]["codecs"][1]["configuration"]["blocksize"]
    rewritten(folder, made_shard([frame_of(container_of(voxels, block))]))
    np.testing.assert_array_equal(read_both(folder), voxels)
    rewritten(folder, made_shard([LYING_CHUNKS[name](voxels, block)]))
    with pytest.raises(errors.StoreDamageError):
        read_both(folder)


@pytest.mark.parametrize(
    "entry",
    [(0, 2**64 - 1), (2**64 - 1, 5), (2**63, 2**63), (0, 2**63), (10**6, 10), (2**64 - 2, 3), (2**64 - 1, 2**64 - 1)],
)
def test_an_index_that_lies_is_an_error(small: tuple[Path, Path, np.ndarray[Any, Any]], entry: tuple[int, int]) -> None:
    _, folder, voxels = small
    rewritten(folder, made_shard([frame_of(container_of(voxels, 4000))], entries=[entry]))
    with pytest.raises(errors.StoreDamageError):
        read_both(folder)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    at=st.integers(0, 15) | st.integers(0, 400),
    value=st.integers(0, 255),
    end=st.integers(0, 200),
    codec=st.sampled_from(["zstd", "lz4"]),
)
def test_a_corrupted_container_gives_the_right_voxels_or_an_error(
    small: tuple[Path, Path, np.ndarray[Any, Any]], at: int, value: int, end: int, codec: str
) -> None:
    """Its frame's checksum is right, so that only what the container says tells of it; memory is full of others."""
    _, folder, _ = small
    voxels = np.arange(50 * 40 * 7, dtype="<i2").reshape(7, 40, 50)
    packed = bytearray(bytes(Blosc(codec, 1, Blosc.SHUFFLE, blocksize=4000).encode(voxels)))
    packed[at % 16] = value  # the header alone: what is in a block has the checksum of no one but the frame
    data = bytes(packed[: len(packed) - end] if at > 15 else packed)
    document = document_of(folder)
    rewritten(folder, made_shard([frame_of(data)]))
    document = document_of(folder)
    scratch(0, (7, 40, 50), np.dtype("<i2"))[...] = -1
    try:
        found = ShardedVoxels(folder, document).read((slice(None),) * 3)
    except errors.StoreDamageError:
        return
    np.testing.assert_array_equal(found, voxels)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("at", range(16))
def test_any_byte_of_a_container_s_header(codec: str, at: int) -> None:
    """Every value of every byte: the right voxels block by block and as a whole, or an error."""
    voxels = np.arange(14_000, dtype="<i2")
    good = bytes(Blosc(codec, 1, Blosc.SHUFFLE, blocksize=4000).encode(voxels))
    known = ChunkFormat(nbytes=voxels.nbytes, typesize=2, shuffle=1)
    for value in range(256):
        memory = np.full(voxels.nbytes, 0xEE, np.uint8)
        try:
            packed = known.container(frame_of(good[:at] + bytes([value]) + good[at + 1 :]))
            if block_bytes(packed) == 4000:
                for block in range(7):
                    unpack_into(blosc_blocks(packed, block, block + 1), memory[block * 4000 : (block + 1) * 4000])
            else:
                unpack_into(packed, memory)
        except (ValueError, RuntimeError):
            continue
        assert memory.tobytes() == voxels.tobytes(), value
