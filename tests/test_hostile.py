"""Files and names made to harm: each is one clear problem, in bounded memory and time, and the rest goes on."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.format import ArrayRecord
from isles24_zarr.nifti.files import VoxelStream
from isles24_zarr.nifti.header import MAX_HEADER_BYTES
from isles24_zarr.release.files import SourceFile
from isles24_zarr.release.source import Source
from tests import fuzz, fuzz_store
from tests.fuzz import GOOD, by_nibabel, header_bytes
from tests.limits import HEADROOM, MIB, allocated, limited_process
from tests.oracle import arrays_by_source, assert_same_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of memory, and names of any bytes, as Linux has them"
)
S = "sub-stroke0001"
RAW = f"raw_data/{S}/ses-01"


# --- under a limit of memory, in a process of its own ---


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    error: str | None
    text: str
    consumed: int
    produced: int
    seconds: float


class Endless(io.RawIOBase):
    """A file that begins as given, then repeats a piece forever. Who reads on and on is stopped."""

    def __init__(self, start: bytes, piece: bytes) -> None:
        self.ahead, self.piece, self.consumed = start, piece, 0

    def read(self, size: int = -1) -> bytes:
        assert 0 < size <= MIB, "a file is read in pieces"
        assert self.consumed < 64 * MIB, "it was read on and on"
        while len(self.ahead) < size:
            self.ahead += self.piece * (1 + size // len(self.piece))
        given, self.ahead = self.ahead[:size], self.ahead[size:]
        self.consumed += size
        return given


def outcome_of(start: bytes, piece: bytes, name: str, size: int | None) -> Outcome:
    """What becomes of a file that a worker reads to its end."""
    file: Any = Endless(start, piece) if piece else io.BytesIO(start)
    began, stream, error = time.monotonic(), None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            stream = VoxelStream(file, path=name, size=size)
            stream.read_to_end()
    except Exception as raised:  # noqa: BLE001 - a MemoryError and all others are told to the test
        error = raised
    return Outcome(
        error=type(error).__name__ if error else None,
        text=str(error),
        consumed=file.consumed if piece else file.tell(),
        produced=stream._bytes.produced if stream else 0,
        seconds=time.monotonic() - began,
    )


def warm() -> None:
    outcome_of(gzip.compress(GOOD), b"", "warm.nii.gz", None)


@pytest.fixture(scope="module")
def limited() -> Iterator[Callable[..., Any]]:
    with limited_process(warm) as run:
        yield run


def test_the_limit_limits(limited: Callable[..., Any]) -> None:
    assert limited(allocated, HEADROOM // 2) == HEADROOM // 2
    with pytest.raises(MemoryError):
        limited(allocated, 2 * HEADROOM)


# --- headers that lie ---

TERABYTES = {"v1": [4, 32767, 32767, 32767, 32767, 1, 1, 1], "v2": [3, *[2**31 - 1] * 3, 1, 1, 1, 1]}
NAN, INF = float("nan"), float("inf")
QFORM = {"sform_code": 0, "qform_code": 1}

LIES: list[tuple[int, dict[str, Any], str, str]] = [
    # sizes: products that overflow 64 bits to 0, to a negative and to a small positive number among them
    (1, {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "TruncatedFileError", "cannot hold"),
    (1, {"dim": [3, -32768, -32768, 4, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (1, {"dim": [-1, 3, 4, 5, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (1, {"dim": [0, 3, 4, 5, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (1, {"dim": [0x300, 3, 4, 5, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (1, {"dim": [7, 3, 4, 5, 1, 1, 1, 32767]}, "UnsupportedImageError", "more than four"),
    (2, {"dim": TERABYTES["v2"]}, "TruncatedFileError", "cannot hold"),
    (2, {"dim": [4, 2**62, 2**62, 4, 4, 1, 1, 1]}, "TruncatedFileError", "cannot hold"),
    (2, {"dim": [3, 2**32, 2**32, 1, 1, 1, 1, 1]}, "TruncatedFileError", "cannot hold"),
    (2, {"dim": [3, 2**32, 2**32 + 1, 1, 1, 1, 1, 1]}, "TruncatedFileError", "cannot hold"),
    (2, {"dim": [3, 3037000500, 3037000500, 1, 1, 1, 1, 1]}, "TruncatedFileError", "cannot hold"),
    (2, {"dim": [3, 2**63 - 1, 1, 1, 1, 1, 1, 1]}, "TruncatedFileError", "cannot hold"),
    (2, {"dim": [3, -(2**63), 1, 1, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (2, {"dim": [3, -1, -1, 60, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (2, {"dim": [3, 3, 0, 5, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (2, {"dim": [2**32 + 3, 3, 4, 5, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (2, {"dim": [-(2**63), 3, 4, 5, 1, 1, 1, 1]}, "HeaderError", "impossible dimensions"),
    (2, {"dim": [5, 3, 4, 5, 1, 2**40, 1, 1]}, "UnsupportedImageError", "more than four"),
    # places
    (1, {"srow_y": [0, INF, 0, 0]}, "HeaderError", "sform has non-finite"),
    (1, {"srow_z": [0, 0, 1, -INF]}, "HeaderError", "sform has non-finite"),
    (1, {"srow_y": [-0.5, 0, 0, 0]}, "HeaderError", "sform is singular"),
    (1, {"srow_x": [1e-45, 0, 0, 0]}, "HeaderError", "sform is singular"),
    (1, {"srow_x": [3e38, 0, 0, 0]}, "HeaderError", "sform leads 3e+38 mm away"),
    (2, {"srow_x": [NAN, 0, 0, 0]}, "HeaderError", "sform has non-finite"),
    (2, {"srow_x": [0, 0, 0, 0]}, "HeaderError", "sform is singular"),
    (2, {"srow_x": [1e-170, 0, 0, 0]}, "HeaderError", "sform is singular"),
    (2, {"srow_x": [1e300, 0, 0, 0]}, "HeaderError", "sform leads 1e+300 mm away"),
    (2, {"srow_z": [0, 0, 1, -1.7e308]}, "HeaderError", "sform leads 1.7e+308 mm away"),
    (1, {**QFORM, "quatern_c": NAN}, "HeaderError", "qform has non-finite"),
    (1, {**QFORM, "quatern_c": INF}, "HeaderError", "impossible qform"),
    (1, {**QFORM, "quatern_c": 3e38}, "HeaderError", "impossible qform"),
    (1, {**QFORM, "qoffset_y": -INF}, "HeaderError", "qform has non-finite"),
    (1, {**QFORM, "pixdim": [NAN, 1, 1, 1, 1, 1, 1, 1]}, "HeaderError", "impossible qform"),
    (1, {**QFORM, "pixdim": [1, 1, -1, 1, 1, 1, 1, 1]}, "HeaderError", "impossible qform"),
    (1, {**QFORM, "pixdim": [1, 1, 0, 1, 1, 1, 1, 1]}, "HeaderError", "qform is singular"),
    (2, {**QFORM, "quatern_b": 1e200}, "HeaderError", "impossible qform"),
    (2, {**QFORM, "pixdim": [1, 1e308, 1e308, 1e308, 1, 1, 1, 1]}, "HeaderError", "qform leads"),
    (2, {**QFORM, "qoffset_x": NAN}, "HeaderError", "qform has non-finite"),
    (2, {**QFORM, "pixdim": [1, NAN, 1, 1, 1, 1, 1, 1]}, "HeaderError", "qform has non-finite"),
    (2, {"sform_code": 0, "pixdim": [1, INF, 1, 1, 1, 1, 1, 1]}, "HeaderError", "pixdim has non-finite"),
    (2, {"sform_code": 0, "pixdim": [1, 1e-308, 1, 1, 1, 1, 1, 1]}, "HeaderError", "pixdim is singular"),
    # where the voxels begin
    (1, {"vox_offset": 348}, "HeaderError", "before byte 352"),
    (1, {"vox_offset": 351}, "HeaderError", "before byte 352"),
    (1, {"vox_offset": INF}, "HeaderError", "vox_offset is inf"),
    (1, {"vox_offset": -INF}, "HeaderError", "vox_offset is -inf"),
    (1, {"vox_offset": 3e38}, "UnsupportedImageError", "bytes of header"),
    (1, {"vox_offset": MAX_HEADER_BYTES}, "TruncatedFileError", "header bytes"),
    (2, {"vox_offset": 0}, "HeaderError", "before byte 544"),
    (2, {"vox_offset": 543}, "HeaderError", "before byte 544"),
    (2, {"vox_offset": -(2**63)}, "HeaderError", "before byte 544"),
    (2, {"vox_offset": 2**63 - 1}, "UnsupportedImageError", "bytes of header"),
    (2, {"vox_offset": MAX_HEADER_BYTES}, "TruncatedFileError", "header bytes"),
    # types
    (1, {"datatype": 0}, "UnsupportedImageError", "type none"),
    (1, {"datatype": 255}, "UnsupportedImageError", "type all"),
    (1, {"datatype": 0x0400}, "TruncatedFileError", "promises"),  # 4 in the other byte order
    (1, {"datatype": 1792}, "UnsupportedImageError", "complex128"),
    (1, {"datatype": 2304}, "UnsupportedImageError", "RGBA"),
    (1, {"datatype": -1}, "HeaderError", "unknown voxel type -1"),
    (2, {"datatype": 128}, "UnsupportedImageError", "RGB"),
    (2, {"datatype": 1536}, "UnsupportedImageError", "float128"),
    (2, {"datatype": 2048}, "UnsupportedImageError", "complex256"),
    # values
    (2, {"scl_slope": 1e300, "scl_inter": INF}, "HeaderError", "intercept of inf"),
    (1, {"scl_slope": 1e-45, "scl_inter": NAN}, "HeaderError", "intercept of nan"),
    # what kind of file
    (1, {"magic": b"n+2"}, "HeaderError", "magic"),
    (1, {"magic": b"n+1x"}, "HeaderError", "magic"),
    (1, {"magic": b""}, "HeaderError", "magic"),
    (2, {"magic": b"n+1"}, "HeaderError", "magic"),
    (2, {"magic": b"ni2"}, "UnsupportedImageError", ".hdr/.img"),
    (2, {"eol_check": [10, 26, 10, 0]}, "HeaderError", "line ends"),
    (1, {"sizeof_hdr": 0}, "HeaderError", "not a NIfTI file"),
    (1, {"sizeof_hdr": 540}, "TruncatedFileError", "544 header bytes"),
    (1, {"sizeof_hdr": 0x5C010000}, "HeaderError", "vox_offset"),  # 348 in the other byte order than all the rest
    (2, {"sizeof_hdr": 0x1C020000}, "UnsupportedImageError", "bytes of header"),
    (2, {"sizeof_hdr": 348}, "HeaderError", "magic"),
]


@pytest.fixture(scope="module")
def lies_told(limited: Callable[..., Any]) -> Callable[..., Outcome]:
    def told(version: int, fields: dict[str, Any], name: str, size: int | None = -1) -> Outcome:
        data = header_bytes(version, **fields) + bytes(120)
        if "sizeof_hdr" in fields and fields["sizeof_hdr"] == 540:
            data = data[:500]
        content = gzip.compress(data) if name.endswith("gz") else data
        return limited(outcome_of, content, b"", name, len(content) if size == -1 else size)

    return told


@pytest.mark.parametrize(
    ("version", "fields", "error", "words"), LIES, ids=[f"{version}-{fields}" for version, fields, *_ in LIES]
)
@pytest.mark.parametrize("name", ["of a liar.nii", "of a liar.nii.gz"])
def test_headers_that_lie(
    lies_told: Callable[..., Outcome], version: int, fields: dict[str, Any], error: str, words: str, name: str
) -> None:
    outcome = lies_told(version, fields, name)
    assert (outcome.error, words in outcome.text) == (error, True), outcome
    assert issubclass(getattr(errors, error), errors.SourceError)
    assert outcome.text.startswith(f"{name}: ")
    assert outcome.text.isprintable()
    assert outcome.seconds < 5


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (1, {"dim": TERABYTES["v1"], "datatype": 64}),
        (1, {"dim": [3, 32767, 32767, 1, 1, 1, 1, 1]}),
        (2, {"dim": TERABYTES["v2"]}),
        (2, {"dim": [3, 1, 1, 2**40, 1, 1, 1, 1]}),
        (2, {"dim": [4, 1, 1, 1, 2**40, 1, 1, 1]}),
        (2, {"dim": [3, 2**40, 1, 1, 1, 1, 1, 1]}),
    ],
)
def test_sizes_that_no_scan_has(lies_told: Callable[..., Outcome], version: int, fields: dict[str, Any]) -> None:
    for size in (None, 2**200):  # as a sparse file could have
        outcome = lies_told(version, fields, "x.nii.gz", size)
        assert outcome.error == "UnsupportedImageError", outcome
        assert "along an axis or" in outcome.text


def test_terabytes_are_read_in_pieces(limited: Callable[..., Any]) -> None:
    header = header_bytes(1, dim=[4, 512, 512, 512, 32767, 1, 1, 1])
    for name, content in (("x.nii", header), ("x.nii.gz", gzip.compress(header))):
        outcome = limited(outcome_of, content, b"", name, None)
        assert outcome.error == "TruncatedFileError", outcome
        assert outcome.text.startswith(f"{name}: holds 0 of the 8,795,824,586,752 voxel bytes")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("size", [32, 24, 16, 8])
def test_extensions_that_nibabel_reads(version: int, byte_order: str, size: int) -> None:
    one = struct.pack(f"{byte_order}ii", size, 6) + bytes(size - 8)
    data = header_bytes(version, byte_order, extension=(one * (32 // size)).ljust(32, b"\0")) + bytes(120)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 24 is no multiple of 16
        assert len(fuzz.CLASSES[version][1].from_bytes(data).header.extensions) == max(1, (32 - 16) // size + 1)
    assert VoxelStream(io.BytesIO(data), path="x.nii").header.raw == data[:-120]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("size", [0, 7, 33, 48, 2**31 - 1, -16, -(2**31)])
def test_impossible_extensions(version: int, byte_order: str, size: int) -> None:
    extension = struct.pack(f"{byte_order}ii", size, 6) + bytes(24)
    data = header_bytes(version, byte_order, extension=extension) + bytes(120)
    with pytest.raises(errors.HeaderError, match=f"^x.nii: has an extension of {size:,} bytes at byte"):
        VoxelStream(io.BytesIO(data), path="x.nii")


@pytest.mark.parametrize("bits", [0, -1, 8, 32])
def test_contradicting_bits_are_told(bits: int) -> None:
    data = header_bytes(bitpix=bits) + bytes(120)
    stream = VoxelStream(io.BytesIO(data), path="x.nii")
    assert stream.header.notices == (f"declares {bits} bits for voxels of type int16; the type was used",)
    assert stream.header.dtype == by_nibabel(data).get_data_dtype()
    stream.read_to_end()


@pytest.mark.parametrize("codes", [(0, 1), (1, 1)])
def test_an_undeclared_handedness_is_right_handed(codes: tuple[int, int]) -> None:
    fields = {"sform_code": codes[0], "qform_code": codes[1], "pixdim": [0, 0.5, 0.5, 2, 1, 1, 1, 1], "quatern_d": 1}
    data = header_bytes(**fields) + bytes(120)
    header = VoxelStream(io.BytesIO(data), path="x.nii").header
    np.testing.assert_array_equal(header.affine, by_nibabel(data).affine)
    assert header.notices == ()


@pytest.mark.parametrize(("pixdim", "units"), [(1e308, 8), (1e12, 16), (5e-324, 24)])
def test_impossible_frame_times_are_none(pixdim: float, units: int) -> None:
    data = header_bytes(2, dim=[4, 3, 4, 5, 2, 1, 1, 1], pixdim=[1, 1, 1, 1, pixdim, 1, 1, 1], xyzt_units=2 + units)
    assert VoxelStream(io.BytesIO(data), path="x.nii").header.frame_seconds is None


# --- bombs ---


def deflated_zeros() -> tuple[bytes, bytes]:
    """The head of a gzip member, and a piece of it that can be repeated: each is 256 KiB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    pieces = [packer.compress(bytes(MIB // 4)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(3)]
    assert pieces[1] == pieces[2]
    return gzip.compress(b"")[:10], pieces[1]


def declaring(offset: int) -> bytes:
    return header_bytes(vox_offset=offset)


HEAD, ZEROS = deflated_zeros()
PACKED = gzip.compress(GOOD, mtime=0)
EMPTY = gzip.compress(b"", mtime=0)


@pytest.mark.parametrize(
    ("start", "piece", "error", "words", "most_consumed", "produced"),
    [
        # each of these files goes on forever
        (PACKED + HEAD, ZEROS, "TrailingDataError", "decompresses to more than the 472", 2 * MIB, 472),
        (
            PACKED,
            gzip.compress(bytes(MIB), mtime=0),
            "TrailingDataError",
            "decompresses to more than the 472",
            2 * MIB,
            472,
        ),
        (HEAD, ZEROS, "HeaderError", "not a NIfTI file", 2 * MIB, 0),
        (PACKED, b"\0", "TrailingDataError", "zeros or more after 472", 8 * MIB, 472),
        (PACKED, b"A", "TrailingDataError", "no gzip data after 472", MIB, 472),
        (
            gzip.compress(declaring(MAX_HEADER_BYTES), mtime=0) + HEAD,
            ZEROS,
            "TrailingDataError",
            f"{MAX_HEADER_BYTES + 120:,}",
            2 * MIB,
            MAX_HEADER_BYTES + 120,
        ),
        (
            gzip.compress(declaring(MAX_HEADER_BYTES + 64), mtime=0) + HEAD,
            ZEROS,
            "UnsupportedImageError",
            "bytes of header",
            20_000,
            0,
        ),
    ],
    ids=["within a member", "further members", "no header", "padding", "garbage", "extension", "huge extension"],
)
def test_gzip_bombs(
    limited: Callable[..., Any], start: bytes, piece: bytes, error: str, words: str, most_consumed: int, produced: int
) -> None:
    outcome = limited(outcome_of, start, piece, "bomb.nii.gz", None)
    assert (outcome.error, words in outcome.text) == (error, True), outcome
    assert outcome.text.startswith("bomb.nii.gz: ")
    assert (outcome.consumed <= most_consumed, outcome.produced) == (True, produced), outcome
    assert outcome.seconds < 5


def test_a_bomb_in_one_member_stops_at_the_declared_size(limited: Callable[..., Any]) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = HEAD + packer.compress(GOOD) + packer.flush(zlib.Z_FULL_FLUSH)
    outcome = limited(outcome_of, start, ZEROS, "bomb.nii.gz", None)
    assert outcome.error == "TrailingDataError", outcome
    # ten thousand times 472 bytes would be 4.7 MB: 5 KB of this file
    assert (outcome.consumed <= 2**14, outcome.produced) == (True, 472), outcome


@pytest.mark.parametrize("piece", [b"\0", b"A"])
def test_endless_plain_files(limited: Callable[..., Any], piece: bytes) -> None:
    outcome = limited(outcome_of, GOOD, piece, "endless.nii", None)
    assert outcome.error == "TrailingDataError", outcome
    assert "bytes after the 472 that its header promises" in outcome.text
    assert outcome.consumed <= 8 * MIB


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_many_empty_members(limited: Callable[..., Any], where: str) -> None:
    many = EMPTY * 50_000
    data = {
        "before": many + PACKED,
        "within": gzip.compress(GOOD[:400]) + many + gzip.compress(GOOD[400:]),
        "after": PACKED + many,
    }[where]
    outcome = limited(outcome_of, data, b"", "many.nii.gz", len(data))
    assert (outcome.error, outcome.produced, outcome.consumed) == (None, len(GOOD), len(data)), outcome
    assert outcome.seconds < 10


def outcome_of_a_name_of(count: int) -> Outcome:
    data = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * count
    return outcome_of(data, b"", "named.nii.gz", len(data))


def test_a_name_without_end_in_the_gzip_header(limited: Callable[..., Any]) -> None:
    outcome = limited(outcome_of_a_name_of, 16 * MIB)
    assert outcome.error == "TruncatedFileError", outcome
    assert outcome.seconds < 10


# --- any bytes, any names (tests/fuzz.py goes on for longer) ---


@settings(max_examples=200)
@given(fuzz.nifti_files())
def test_any_header_is_read_as_by_nibabel_or_refused(file: tuple[bytes, bool]) -> None:
    fuzz.check_nifti(file)


@settings(max_examples=200)
@given(fuzz.gzip_files())
def test_any_members_are_read_as_by_gzip_or_refused(file: tuple[bytes, bool]) -> None:
    fuzz.check_gzip(file)


@settings(max_examples=200)
@given(fuzz.names)
def test_any_name_is_known_or_refused(path: str) -> None:
    fuzz.check_name(path)


@pytest.fixture(scope="module")
def fuzzed_store(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz_store.with_results(shutil.copytree(store, tmp_path_factory.mktemp("fuzzed") / "copy.zarr"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(fuzz_store.documents)
def test_any_document_is_used_right_or_refused(fuzzed_store: Path, example: tuple[str, int, Any]) -> None:
    fuzz_store.check_document(example, fuzzed_store)


@pytest.mark.parametrize("number", range(0, 4000, 53))
@pytest.mark.parametrize("value", [None, [2**40] * 3, fuzz_store._GONE], ids=["null", "huge", "gone"])
def test_any_document_of_a_grid_is_used_right_or_refused(fuzzed_store: Path, number: int, value: Any) -> None:
    fuzz_store.check_document((f"{S}/space-ncct/zarr.json", number, value), fuzzed_store)


@pytest.mark.parametrize("name", fuzz_store.DOCUMENTS)
@pytest.mark.parametrize("value", [fuzz_store._GONE, {}], ids=["gone", "empty"])
def test_any_document_without_a_part_is_used_right_or_refused(fuzzed_store: Path, name: str, value: Any) -> None:
    for number in fuzz_store.at_the_top((fuzzed_store / name).read_bytes()):
        fuzz_store.check_document((name, number, value), fuzzed_store)


@pytest.mark.parametrize("listed", [(), ("z",), ("time", "z", "y"), ("x", "z")])
def test_a_grid_that_lists_no_coordinates_is_damaged(fuzzed_store: Path, listed: tuple[str, ...]) -> None:
    path = fuzzed_store / S / "space-ncct/zarr.json"
    data = path.read_bytes()
    document = json.loads(data)
    members = document["consolidated_metadata"]["metadata"]
    document["consolidated_metadata"]["metadata"] = {name: members[name] for name in listed}
    path.write_text(json.dumps(document))
    try:
        with pytest.raises(errors.StoreDamageError, match="space-ncct: lists no coordinate"):
            isles24_zarr.open_scan(fuzzed_store, S)
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("axes", [[-0.0, 1, 2], [False, True, 2], [0, 1], [0, 1, 1], ["0", 1, 2], {}, None])
def test_axes_are_whole_numbers(fuzzed_store: Path, axes: Any) -> None:
    document = json.loads((fuzzed_store / S / "space-ncct/ctp/zarr.json").read_bytes())
    document["attributes"]["isles24_zarr"]["orientation"]["axes"] = axes
    with pytest.raises(errors.StoreDamageError, match="orientation that convert does not write"):
        ArrayRecord.from_document(document, "ctp")


# --- names, in a folder and in an archive ---

HOSTILE_NAMES = [
    b"raw_data/mark00\x1b]0;owned\x07\x1b[2J\x1b[31m",
    b"raw_data/mark01\nerror: sub-stroke0001: all is lost",
    b"raw_data/mark02\r\x08\x08\x08\x7f",
    b"raw_data/\xff\xfemark03/ses-01/x.nii.gz",
    "raw_data/sub-mark04e\u0301/ses-01/sub-mark04e\u0301_ses-01_ncct.nii.gz".encode(),
    "raw_data/sub-mark05\u202ezg.iin/ses-01/x.nii.gz".encode(),
    f"raw_data/{S}\u200b/ses-01/mark06.nii.gz".encode(),
    f"raw_data/{S} /ses-01/{S} _ses-01_mark07.nii.gz".encode(),
    f"derivatives/{S}/ses-01/ {S}_ses-01_mark08.nii.gz".encode(),
    b"derivatives/..mark09/...",
    b"derivatives/C:/mark10.nii.gz",
    b"C:mark11.nii.gz",
    b"raw_data/sub-x\\..\\..\\mark12.nii.gz",
    b"raw_data/sub-mark13" + b"a" * 240 + b"/ses-01/x",
    f"phenotype/{S}/ses-01/{S}_ses-01_mark14\n_demographic_baseline.xlsx".encode(),
    f"{RAW}/{S}_ses-01_mark15.nii.gz\n".encode(),
    b"raw_data/" + b"/".join(b"mark16" + b"d" * 190 for _ in range(18)) + b"/x",
    "derivatives/sub-\u05d0\u05d1mark17/ses-01/\u05d2.nii.gz".encode(),
    f"derivatives/{S}/ses-\u0661/mark18.nii.gz".encode(),
    b"~mark19/$(reboot)/`reboot`/%2e%2e%2f",
    b"-rf mark20 --",
]


@pytest.fixture
def good_release(release: Path, tmp_path: Path) -> Path:
    """One subject, in a place of its own with a file beside it that is nobody's business."""
    place = tmp_path / "place" / "train"
    for section in ("raw_data", "derivatives", "phenotype"):
        shutil.copytree(release / section / S, place / section / S)
    (tmp_path / "place" / "secret.nii.gz").write_bytes(b"secret")
    return place


def listing(folder: Path) -> dict[bytes, tuple[int, int]]:
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(place, name))  # noqa: PTH118 - bytes
            found[os.path.join(place, name)] = (status.st_size, status.st_mtime_ns)  # noqa: PTH118
    return found


def assert_converts(source: Path, original: Path, marks: set[str], client: Client, images: int) -> None:
    """The good images are there; every hostile name is one line of the report; nothing else has changed."""
    parent = source.parent
    store = parent / "out.zarr"
    before = listing(parent)
    report = isles24_zarr.convert(source, store, client=client, progress=False)
    inside = os.fsencode(store)
    after = {path: value for path, value in listing(parent).items() if not path.startswith(inside)}
    assert after == before
    assert report.converted == (S,)
    arrays = arrays_by_source(store)
    assert len(arrays) == images
    for name, array in arrays.items():
        assert_same_image(original / name, array, shift=1e-3)
    assert {path.name for path in store.iterdir()} == {S, "phenotype", "zarr.json"}
    assert all(path.name.isascii() and path.name.isprintable() for path in store.rglob("*"))
    lines = [str(problem) for problem in report.problems]
    assert all(line.isprintable() for line in lines)
    told = [mark for mark in marks for line in lines if mark in line]
    assert sorted(told) == sorted(marks)
    assert len(lines) == len(marks), lines


def test_hostile_names_in_a_folder(good_release: Path, client: Client) -> None:
    root = os.fsencode(good_release)
    for name in HOSTILE_NAMES:
        path = os.path.join(root, name)  # noqa: PTH118 - bytes
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"hostile")
    marks = {f"mark{number:02d}" for number in range(len(HOSTILE_NAMES))}
    assert_converts(good_release, good_release, marks, client, images=18)


def test_hostile_members_of_an_archive(good_release: Path, client: Client) -> None:
    archive_path = good_release.parent / "release.zip"
    shutil.make_archive(str(archive_path.with_suffix("")), "zip", good_release)
    names = [name.decode() for name in HOSTILE_NAMES if b"\xff" not in name]
    names += ["../../mark21.nii.gz", "/etc/mark22.nii.gz", f"{RAW}/../../../../mark23.nii.gz", "\\\\host\\mark24"]
    names += [
        f"/{RAW}/{S}_ses-01_mark25.nii.gz",
        "raw_data/mark26" + "n" * 60_000,
        "raw_data/" + "mark27/" + "d/" * 400 + "x",
    ]
    link = zipfile.ZipInfo(f"{RAW}/{S}_ses-02_mark28.nii.gz")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive_path, "a") as archive:
        for name in names:
            archive.writestr(name, b"hostile")
        archive.writestr(link, "../../../../secret.nii.gz")
    marks = {f"mark{number:02d}" for number in range(29)} - {"mark03"}
    assert_converts(archive_path, good_release, marks, client, images=18)


def test_an_archive_with_a_very_deep_folder(good_release: Path) -> None:
    archive_path = good_release.parent / "release.zip"
    name = f"{RAW}/{S}_ses-01_ncct.nii.gz"
    with zipfile.ZipFile(archive_path, "w") as archive:
        archive.write(good_release / name, name)
        archive.writestr("raw_data/" + "d/" * 2000 + "x", b"hostile")
    with pytest.raises(errors.SourceNotFoundError, match=r"release\.zip: has folders that are too deep"):
        isles24_zarr.scan(archive_path)


def test_hostile_names_on_a_terminal(good_release: Path) -> None:
    for name in (b"mark00\x1b[31m", b"[red]mark01", b":skull:mark02", "\u05d0mark03".encode(), b"\xffmark04"):
        (good_release / os.fsdecode(name)).write_bytes(b"hostile")
    command = [sys.executable, "-m", "isles24_zarr", "scan", str(good_release)]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    lines = [line for line in done.stdout.decode("ascii").splitlines() if "mark" in line]
    assert (done.returncode, done.stderr) == (1, b"")
    assert all(line.isprintable() for line in lines)
    for name in ("mark00\\x1b[31m", "[red]mark01", ":skull:mark02", "mark03", "mark04"):
        assert [name in line for line in lines].count(True) == 1


def test_paths_longer_than_the_system_takes(good_release: Path, client: Client) -> None:
    """Made from folder to folder, each step of a length that is allowed."""
    part = "mark00" + "d" * 200
    top = folder = os.open(good_release / "raw_data", os.O_RDONLY)
    for _ in range(25):
        os.mkdir(part, dir_fd=folder)
        below = os.open(part, os.O_RDONLY, dir_fd=folder)
        if folder != top:
            os.close(folder)
        folder = below
    os.close(os.open("x.nii.gz", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    os.close(top)
    report = isles24_zarr.convert(good_release, good_release.parent / "out.zarr", client=client, progress=False)
    assert len(arrays_by_source(good_release.parent / "out.zarr")) == 18
    (problem,) = report.problems
    assert "mark00" in str(problem)
    assert str(problem).isprintable()


# --- archives that are damaged where an image is ---


def damaged_archive(path: Path, source: Path, how: str) -> str:
    """An archive of a release in which one image cannot be read; returns which."""
    name = f"{RAW}/{S}_ses-01_ncct.nii.gz"
    method = {"lzma": zipfile.ZIP_LZMA, "deflate": zipfile.ZIP_DEFLATED}.get(how, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*.*")):
            member = file.relative_to(source).as_posix()
            archive.write(file, member, compress_type=method if member == name else zipfile.ZIP_STORED)
        info = archive.getinfo(name)
    directory = archive.start_dir
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(name)
    central = data.index(name.encode(), directory) - 46
    assert data[central : central + 4] == b"PK\1\2"
    if how in ("stored", "deflate", "lzma"):
        middle = start + info.compress_size // 2
        data[middle : middle + 64] = b"\xff" * 64
    elif how == "encrypted":
        data[info.header_offset + 6] |= 1
        data[central + 8] |= 1
    elif how == "unknown method":
        data[info.header_offset + 8 : info.header_offset + 10] = struct.pack("<H", 97)
        data[central + 10 : central + 12] = struct.pack("<H", 97)
    elif how == "no local header":
        data[info.header_offset : info.header_offset + 4] = b"evil"
    elif how == "beyond the end":
        data[central + 42 : central + 46] = struct.pack("<I", len(data) + 1000)
    path.write_bytes(bytes(data))
    return name


@pytest.mark.parametrize(
    "how", ["stored", "deflate", "lzma", "encrypted", "unknown method", "no local header", "beyond the end"]
)
def test_damaged_archives(good_release: Path, client: Client, how: str) -> None:
    shutil.rmtree(good_release / "derivatives")
    archive = good_release.parent / "release.zip"
    name = damaged_archive(archive, good_release, how)
    report = isles24_zarr.convert(archive, good_release.parent / "out.zarr", client=client, progress=False)
    (problem,) = report.problems
    assert (problem.path, problem.severity, problem.subject) == (name, "error", S)
    assert str(problem).isprintable()
    arrays = arrays_by_source(good_release.parent / "out.zarr")
    assert len(arrays) == 6
    for path, array in arrays.items():
        assert_same_image(good_release / path, array, shift=1e-3)


def outcome_in(archive: Path, name: str) -> str:
    source = Source.of(archive)
    try:
        with source.opened(SourceFile(path=name, size=0, stamp="")) as opened:
            VoxelStream(opened, path=name).read_to_end()
    except errors.SourceError as error:
        return str(error)
    return "read"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_bombs_in_an_archive(limited: Callable[..., Any], tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", compression=method) as archive, archive.open("x.nii", "w") as member:
        member.write(GOOD)
        for _ in range(300):
            member.write(bytes(MIB))
    assert (tmp_path / "x.zip").stat().st_size < MIB
    assert limited(outcome_in, tmp_path / "x.zip", "x.nii").startswith("x.nii: ")


# --- whole files in a release ---


def test_hostile_images_of_a_subject(good_release: Path, client: Client) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = HEAD + packer.compress(GOOD) + packer.flush(zlib.Z_FULL_FLUSH) + ZEROS * 10_000
    contents = {
        f"{RAW}/{S}_ses-01_ncct.nii.gz": (bomb, "decompresses to more than the 472"),
        f"{RAW}/{S}_ses-01_cta.nii.gz": (gzip.compress(header_bytes(2, dim=TERABYTES["v2"])), "cannot hold"),
        f"{RAW}/{S}_ses-01_ctp.nii.gz": (gzip.compress(declaring(MAX_HEADER_BYTES) + bytes(MIB // 2)), "header bytes"),
        f"{RAW}/perfusion-maps/{S}_ses-01_tmax.nii.gz": (PACKED + EMPTY * 1000 + b"PK", "no gzip data"),
    }
    for name, (data, _) in contents.items():
        (good_release / name).write_bytes(data)
    sparse = good_release / f"{RAW}/perfusion-maps/{S}_ses-01_mtt.nii"
    (sparse.with_suffix(".nii.gz")).unlink()
    with sparse.open("wb") as file:
        file.write(GOOD)
        file.truncate(2**40)
    store = good_release.parent / "out.zarr"
    report = isles24_zarr.convert(good_release, store, client=client, progress=False)
    found = {problem.path: problem.message for problem in report.problems if problem.severity == "error"}
    wanted = {
        **{name: words for name, (_, words) in contents.items()},
        sparse.relative_to(good_release).as_posix(): "bytes after",
    }
    assert found.keys() == wanted.keys()
    assert all(words in found[name] for name, words in wanted.items()), found
    assert len(arrays_by_source(store)) == 18 - len(wanted)
