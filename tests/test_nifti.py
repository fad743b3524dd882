"""Headers and streams against files written by nibabel and gzip; damage of every kind."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from isles24_zarr import errors
from isles24_zarr.nifti.files import GZIP_LEVEL, VoxelStream, write_nifti
from isles24_zarr.nifti.header import MAX_HEADER_BYTES, header_from_bytes
from tests.nifti_files import OBLIQUE, random_voxels, write

if TYPE_CHECKING:
    from pathlib import Path

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def read_all(data: bytes, name: str = "image.nii.gz", pieces: int = 3) -> tuple[np.ndarray[Any, Any], VoxelStream, Any]:
    stream = VoxelStream(io.BytesIO(data), path=name, size=len(data))
    voxels = np.empty(stream.header.voxel_bytes, np.uint8)
    for piece in np.array_split(voxels, pieces):
        stream.readinto(piece)
    digest = stream.finish()
    return voxels.view(stream.header.dtype).reshape(stream.header.shape[::-1]).T, stream, digest


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_are_those_of_nibabel(tmp_path: Path, dtype: str, byte_order: str, version: int, suffix: str) -> None:
    voxels = random_voxels((5, 6, 7, 3), f"{byte_order}{dtype}")
    path = write(tmp_path / f"a{suffix}", voxels, byte_order=byte_order, version=version)
    found, stream, digest = read_all(path.read_bytes(), path.name)
    image = nib.load(path)
    assert found.tobytes() == image.dataobj.get_unscaled().tobytes()
    assert stream.header.dtype == image.get_data_dtype()
    assert stream.header.shape == image.shape
    np.testing.assert_array_equal(stream.header.affine, image.affine)
    plain = gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes()
    offset = image.dataobj.offset
    assert stream.header.raw == plain[:offset]
    assert digest.voxel_xxh3 == xxhash.xxh3_128_hexdigest(plain[offset:])
    assert digest.file_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("shape", "volume", "frames"),
    [
        ((4, 5, 6), (4, 5, 6), None),
        ((4, 5, 1), (4, 5, 1), None),
        ((4, 5, 6, 1), (4, 5, 6), None),
        ((4, 5, 6, 7), (4, 5, 6), 7),
        ((4, 5, 6, 7, 1, 1), (4, 5, 6), 7),
    ],
)
def test_trailing_singleton_axes(
    tmp_path: Path, shape: tuple[int, ...], volume: tuple[int, ...], frames: int | None
) -> None:
    path = write(tmp_path / "a.nii", random_voxels(shape, "<i2"))
    header = VoxelStream(io.BytesIO(path.read_bytes()), path="a.nii").header
    assert (header.volume_shape, header.frames, header.shape) == (volume, frames, shape)


@pytest.mark.parametrize(
    ("fields", "slope", "intercept"),
    [
        ({"scl_slope": np.nan, "scl_inter": np.nan}, None, None),
        ({"scl_slope": 0, "scl_inter": 7}, None, None),
        ({"scl_slope": 1, "scl_inter": 0}, None, None),
        ({"scl_slope": 2, "scl_inter": -1024}, 2.0, -1024.0),
        ({"scl_slope": 1, "scl_inter": -1024}, 1.0, -1024.0),
        ({"scl_slope": np.inf, "scl_inter": 0}, None, None),
    ],
)
def test_scaling_as_nibabel_understands_it(
    tmp_path: Path, fields: dict[str, float], slope: float | None, intercept: float | None
) -> None:
    path = write(tmp_path / "a.nii.gz", random_voxels((2, 3, 4), "<i2"), **fields)
    header = read_all(path.read_bytes())[1].header
    assert (header.slope, header.intercept) == (slope, intercept)
    proxy = nib.load(path).dataobj
    assert (proxy.slope, proxy.inter) == (slope or 1.0, intercept or 0.0)


def test_a_slope_without_an_intercept_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", random_voxels((2, 3, 4), "<i2"), scl_slope=2, scl_inter=np.nan)
    with pytest.raises(errors.HeaderError, match="intercept"):
        read_all(path.read_bytes(), "a.nii")


@pytest.mark.parametrize(
    ("codes", "source"), [((1, 0), "sform"), ((0, 1), "qform"), ((2, 1), "sform"), ((0, 0), "none")]
)
def test_which_affine(tmp_path: Path, codes: tuple[int, int], source: str) -> None:
    rotated = np.eye(4)
    rotated[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([0.5, 0.5, 2])
    rotated[:3, 3] = -100, 90, 10
    path = write(tmp_path / "a.nii", random_voxels((4, 5, 6), "<i2"), rotated, codes=codes)
    header = VoxelStream(io.BytesIO(path.read_bytes()), path="a.nii").header
    assert header.affine_source == source
    if source == "none":
        np.testing.assert_allclose(header.affine, np.diag([0.5, 0.5, 2, 1]), rtol=1e-6)
        assert any("orientation is unknown" in notice for notice in header.notices)
    else:
        np.testing.assert_array_equal(header.affine, nib.load(path).affine)
        assert header.notices == ()


def test_contradicting_forms_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", random_voxels((4, 5, 6), "<i2"), OBLIQUE, codes=(1, 1), qoffset_x=50)
    header = VoxelStream(io.BytesIO(path.read_bytes()), path="a.nii").header
    assert header.affine_source == "sform"
    assert any("place the voxels differently" in notice for notice in header.notices)


@pytest.mark.parametrize(
    ("units", "pixdim", "seconds"),
    [
        (2, 1.0, 1.0),
        (2, 0.0, None),
        (2 + 8, 2.5, 2.5),
        (2 + 16, 1500.0, 1.5),
        (2 + 24, 5e5, 0.5),
        (2, -1, None),
        (2 + 32, 1, None),
    ],
)
def test_frame_time(tmp_path: Path, units: int, pixdim: float, seconds: float | None) -> None:
    voxels = random_voxels((2, 3, 4, 5), "<i2")
    sizes = [1, 0.5, 0.5, 2, pixdim, 0, 0, 0]
    path = write(tmp_path / "a.nii", voxels, xyzt_units=units, pixdim=sizes)
    header = VoxelStream(io.BytesIO(path.read_bytes()), path="a.nii").header
    assert header.frame_seconds == (None if seconds is None else pytest.approx(seconds))


def test_extensions_are_part_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", random_voxels((2, 3, 4), "<i2"), extension=b"spoken of by the scanner" * 99)
    header = read_all(path.read_bytes())[1].header
    assert b"spoken of by the scanner" in header.raw
    assert len(header.raw) == nib.load(path).dataobj.offset


def header_fields(**fields: Any) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((3, 4, 5))
    header.set_sform(np.diag([1, 1, 1, 1]), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, errors.HeaderError, "impossible dimensions"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, errors.HeaderError, "impossible dimensions"),
        ({"dim": [3, 0, 5, 6, 1, 1, 1, 1]}, errors.HeaderError, "impossible dimensions"),
        ({"dim": [2, 4, 5, 1, 1, 1, 1, 1]}, errors.UnsupportedImageError, "2 dimensions"),
        ({"dim": [5, 4, 5, 6, 1, 2, 1, 1]}, errors.UnsupportedImageError, "4 x 5 x 6 x 1 x 2"),
        ({"dim": [4, 32767, 32767, 32767, 32767, 1, 1, 1]}, errors.TruncatedFileError, "cannot hold"),
        ({"datatype": 32}, errors.UnsupportedImageError, "complex"),
        ({"datatype": 128}, errors.UnsupportedImageError, "RGB"),
        ({"datatype": 1536}, errors.UnsupportedImageError, "float128"),
        ({"datatype": 1}, errors.UnsupportedImageError, "binary"),
        ({"datatype": 77}, errors.HeaderError, "unknown voxel type 77"),
        ({"vox_offset": 0}, errors.HeaderError, "vox_offset is 0"),
        ({"vox_offset": -352}, errors.HeaderError, "vox_offset"),
        ({"vox_offset": np.nan}, errors.HeaderError, "vox_offset"),
        ({"vox_offset": 352.5}, errors.HeaderError, "vox_offset"),
        ({"vox_offset": 1e9}, errors.UnsupportedImageError, "bytes of header"),
        ({"vox_offset": 4096}, errors.TruncatedFileError, "4,096 header bytes"),
        ({"magic": b"ni1"}, errors.UnsupportedImageError, ".hdr/.img"),
        ({"magic": b"abc"}, errors.HeaderError, "magic"),
        ({"srow_x": [np.nan, 0, 0, 0]}, errors.HeaderError, "non-finite"),
        ({"srow_x": [0, 0, 0, 0]}, errors.HeaderError, "singular"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2}, errors.HeaderError, "qform"),
        ({"sform_code": 0, "pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, errors.HeaderError, "pixdim is singular"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_lying_headers(fields: dict[str, Any], error: type[Exception], words: str, *, packed: bool) -> None:
    data = header_fields(**fields) + bytes(3 * 4 * 5 * 2)
    name = "image.nii.gz" if packed else "image.nii"
    with pytest.raises(error, match=words.replace(".", r"\.")) as caught:
        read_all(gzip.compress(data) if packed else data, name)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


GOOD = header_fields() + random_voxels((3, 4, 5), "<i2").tobytes()
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", errors.TruncatedFileError, "empty (0 bytes)"),
        (PACKED[:-30], errors.TruncatedFileError, "breaks off after"),
        (PACKED[:-3], errors.TruncatedFileError, "breaks off after"),
        (PACKED[:1], errors.TruncatedFileError, "breaks off after 1 "),
        (PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:], errors.CorruptFileError, "checksum"),
        (PACKED[:-1] + b"\1", errors.CorruptFileError, "damaged"),
        (PACKED + b"garbage", errors.TrailingDataError, "no gzip data"),
        (gzip.compress(GOOD[:-1], mtime=0), errors.TruncatedFileError, "holds 119 of the 120 voxel bytes"),
        (gzip.compress(GOOD + b"1", mtime=0), errors.TrailingDataError, "decompresses to more"),
        (gzip.compress(GOOD[:200], mtime=0), errors.TruncatedFileError, "200 of 352 header bytes"),
        (GOOD, errors.CorruptFileError, "not gzip data"),
        (b"<html>404</html>", errors.CorruptFileError, "not gzip data"),
        (bytes(400), errors.CorruptFileError, "not gzip data"),
        (
            gzip.compress(GOOD[:400], mtime=0) + gzip.compress(GOOD[400:], mtime=0)[:-2],
            errors.TruncatedFileError,
            "breaks off",
        ),
    ],
)
def test_damaged_gzip(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        read_all(data)
    assert words in str(caught.value)
    assert str(caught.value).startswith("image.nii.gz: ")


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", errors.TruncatedFileError, "empty (0 bytes)"),
        (GOOD[:-1], errors.TruncatedFileError, "cannot hold the 472"),
        (GOOD + b"12", errors.TrailingDataError, "2 bytes after the 472"),
        (PACKED, errors.HeaderError, "not a NIfTI file"),
    ],
)
def test_damaged_plain_files(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        read_all(data, "image.nii")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(GOOD[:100], mtime=0) + gzip.compress(GOOD[100:], mtime=0),
        PACKED + bytes(512),
        b"".join(gzip.compress(GOOD[start : start + 64], mtime=0) for start in range(0, len(GOOD), 64))
        + gzip.compress(b"", mtime=0),
    ],
)
def test_members_and_padding_that_gzip_allows(data: bytes) -> None:
    assert read_all(data)[0].T.tobytes() == GOOD[352:]


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed_or_harmless(position: int, mask: int) -> None:
    damaged = bytearray(PACKED)
    damaged[position] ^= mask
    try:
        found = read_all(bytes(damaged))[0]
    except errors.SourceError:
        return
    # bytes of the gzip header that mean nothing to the data: time, system, flags of the compressor; and the bits that
    # fill the last byte before CRC and length
    assert position < 10 or position == len(PACKED) - 9
    assert found.T.tobytes() == GOOD[352:]


@given(st.integers(0, len(PACKED) - 1))
def test_any_truncation_is_noticed(length: int) -> None:
    with pytest.raises(errors.SourceError):
        read_all(PACKED[:length])


@given(st.binary(max_size=700) | st.binary(min_size=544, max_size=600).map(lambda tail: header_fields()[:40] + tail))
def test_any_bytes_are_a_header_or_an_error(data: bytes) -> None:
    try:
        header = header_from_bytes(data, path="x")
    except errors.SourceError as error:
        assert str(error).startswith("x: ")  # noqa: PT017
        return
    assert len(header.raw) <= MAX_HEADER_BYTES
    assert np.isfinite(header.affine).all()


def test_a_bomb_stops_at_the_declared_size() -> None:
    bomb = gzip.compress(GOOD + bytes(200_000_000))
    tracemalloc.start()
    with pytest.raises(errors.TrailingDataError):
        read_all(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_written_files_are_read_by_nibabel(tmp_path: Path, name: str) -> None:
    voxels = random_voxels((3, 4, 5, 6), "<i2")
    raw = header_fields(dim=[4, 3, 4, 5, 6, 1, 1, 1])
    blocks = [np.ascontiguousarray(voxels.T[start : start + 2]) for start in (0, 2, 4)]
    write_nifti(tmp_path / name, raw, blocks)
    np.testing.assert_array_equal(nib.load(tmp_path / name).dataobj.get_unscaled(), voxels)
    first = (tmp_path / name).read_bytes()
    write_nifti(tmp_path / name, raw, blocks)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"before")

    def blocks() -> Any:
        yield np.zeros((2, 2, 2), np.int16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_nifti(path, header_fields(), blocks())
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0, 1, 10, 1000]),
    offset=st.integers(0, 63),
    pieces=st.integers(1, 9),
)
def test_equal_voxels_give_equal_bytes_wherever_they_lie(
    tmp_path_factory: pytest.TempPathFactory, seed: int, spread: int, offset: int, pieces: int
) -> None:
    folder = tmp_path_factory.mktemp("written")
    voxels = (spread * np.random.default_rng(seed).standard_normal((9, 40, 30))).astype(np.int16)
    buffer = np.zeros(voxels.nbytes + 64, np.uint8)
    moved = buffer[offset : offset + voxels.nbytes].view(voxels.dtype).reshape(voxels.shape)
    moved[...] = voxels
    write_nifti(folder / "a.nii.gz", header_fields(), [voxels])
    write_nifti(folder / "b.nii.gz", header_fields(), np.array_split(moved, pieces))
    assert (folder / "a.nii.gz").read_bytes() == (folder / "b.nii.gz").read_bytes()


def test_compressed_bytes_do_not_depend_on_where_the_compressor_lies() -> None:
    """At the levels 1 and 2 of ISA-L, about 1 in 3,000 and 1 in 20,000 of such pairs differ."""
    rng = np.random.default_rng(0)
    for _ in range(60_000):
        start = rng.bytes(40)
        content = (start + bytes(2000)) * 3
        # both are alive at once, at two addresses
        first, second = (isal_zlib.compressobj(level=GZIP_LEVEL) for _ in range(2))
        assert first.compress(content) + first.flush() == second.compress(content) + second.flush()
