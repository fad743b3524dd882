"""Hostile files and names without end: ``python -m tests.fuzz --seconds 60``.

What must hold of any input is written here once, as a strategy and a check; tests/test_hostile.py runs a few hundred
examples of each, this module runs new ones until the time is up. It prints what it did, and exits with 1 and the
smallest failing example.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import logging
import os
import struct
import sys
import time
import traceback
import warnings
import zlib
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
import xxhash
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from isles24_zarr.errors import Problem, SourceError, UnsafePathError
from isles24_zarr.format.chunking import MAX_SHARD_BYTES
from isles24_zarr.format.layout import subject_plan
from isles24_zarr.nifti.files import VoxelStream
from isles24_zarr.nifti.header import MAX_PLANE_BYTES
from isles24_zarr.release.extra_images import is_image_name
from isles24_zarr.release.names import DictionaryName, ImageName, Stray, TableName, classified
from isles24_zarr.release.paths import SourceFile, Subject, release_from_files
from tests import fuzz_store, fuzz_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG_SECONDS: Final = 60
CLASSES: Final = {1: (nib.Nifti1Header, nib.Nifti1Image), 2: (nib.Nifti2Header, nib.Nifti2Image)}
TYPES: Final = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def header_bytes(
    version: int = 1, byte_order: str = "<", dtype: str = "i2", extension: bytes | None = None, **fields: Any
) -> bytes:
    """A header by nibabel for (3, 4, 5) voxels, then the fields as they are; ready for the voxels."""
    header = CLASSES[version][0](endianness=byte_order)
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape((3, 4, 5))
    header.set_sform(np.diag([-0.5, -0.5, 2, 1]), code=1)
    header.set_xyzt_units(2, 8)
    end = header.single_vox_offset + (0 if extension is None else len(extension))
    header["magic"], header["vox_offset"] = header.single_magic, end
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + (bytes(4) if extension is None else bytes([1, 0, 0, 0]) + extension)


# --- NIfTI files: any header, compared with nibabel ---

_INTEGERS: Final = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    348,
    540,
    2**15 - 1,
    2**15,
    2**31 - 1,
    2**32,
    2**62,
    2**63 - 1,
    -1,
    -(2**63),
]
_FLOATS: Final = [0.0, -0.0, 1.0, -1.0, 0.5, 352.0, 351.0, 544.0, 1e-45, 1e-300, 3e38, 1e300, 1.7e308]
_FLOATS += [float("inf"), float("-inf"), float("nan")]
_NOTES: Final = {"data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str"}
_AFFINES: Final = st.lists(st.sampled_from([0, 1, -1, 1e-3, 0.5, 200]) | st.floats(-2, 2), min_size=12, max_size=12)


@st.composite
def _field_values(draw: st.DrawFn, version: int, byte_order: str) -> tuple[int, bytes]:
    """Where in the header, and the bytes to put there: extremes of the field's own type."""
    fields = CLASSES[version][0].template_dtype.fields
    name = draw(st.sampled_from([name for name in fields if name not in _NOTES]))
    base, start = fields[name][:2]
    dtype = base.base.newbyteorder(byte_order)
    place = start + dtype.itemsize * draw(st.integers(0, base.itemsize // dtype.itemsize - 1))
    if dtype.kind == "f":
        value = draw(st.sampled_from(_FLOATS) | st.floats(-100, 100))
        if draw(st.integers(0, 9)) == 0:  # a signalling NaN
            return place, (0x7FA00000 << 8 * (dtype.itemsize - 4)).to_bytes(dtype.itemsize, _order(byte_order))
        with np.errstate(over="ignore", under="ignore"):
            return place, np.array(value, dtype).tobytes()
    if dtype.kind == "S":
        return place, draw(st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize))
    value = draw(st.sampled_from(_INTEGERS) | st.integers(0, 80))
    return place, (value % 2 ** (8 * dtype.itemsize)).to_bytes(dtype.itemsize, _order(byte_order))


def _order(byte_order: str) -> Any:
    return "little" if byte_order == "<" else "big"


@st.composite
def nifti_files(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A good file with some of its fields and bytes replaced, and whether it is to be packed."""
    version, byte_order = draw(st.sampled_from([1, 2])), draw(st.sampled_from("<>"))
    dtype = draw(st.sampled_from(TYPES))
    extension = draw(
        st.none() | st.just(struct.pack(f"{byte_order}ii", 32, 6) + b"spoken by a scanner.."[:24].ljust(24))
    )
    codes = {"sform_code": draw(st.integers(0, 1)), "qform_code": draw(st.integers(0, 1))}
    data = bytearray(header_bytes(version, byte_order, dtype, extension, **codes))
    data += np.random.default_rng(0).bytes(60 * np.dtype(dtype).itemsize)
    if draw(st.booleans()):
        base, start = CLASSES[version][0].template_dtype.fields["srow_x"][:2]
        affine = np.array(draw(_AFFINES), base.base.newbyteorder(byte_order)).tobytes()
        data[start : start + len(affine)] = affine
    for place, value in draw(st.lists(_field_values(version, byte_order), max_size=4)):
        data[place : place + len(value)] = value
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[place] = byte
    end = draw(st.integers(0, len(data) + 9)) if draw(st.integers(0, 9)) == 9 else len(data)
    return bytes(data[:end]) + bytes(max(0, end - len(data))), draw(st.booleans())


def check_nifti(file: tuple[bytes, bool]) -> None:
    """It is read as nibabel reads it and can be planned for, or it is a `SourceError`; no warning, no other error."""
    data, packed = file
    name = "hostile.nii.gz" if packed else "hostile.nii"
    content = gzip.compress(data, 1) if packed else data
    try:
        with strict():
            stream = VoxelStream(io.BytesIO(content), path=name, size=len(content))
    except SourceError as error:
        assert_one_line(error, name)
        return
    image = by_nibabel(data)
    assert stream.header.shape == image.shape
    assert stream.header.dtype == image.get_data_dtype()
    with strict():
        check_plan(stream.header, name)
    try:
        with strict():
            digest = stream.read_to_end()
    except SourceError as error:
        assert_one_line(error, name)
        return
    assert digest.voxel_xxh3 == xxhash.xxh3_128_hexdigest(image.dataobj.get_unscaled().tobytes("F"))
    assert len(data) == len(stream.header.raw) + image.dataobj.get_unscaled().nbytes


def check_plan(header: Any, name: str) -> None:
    """Whatever header is accepted, a store can be planned for it: in finite numbers and blocks of bounded size."""
    file = SourceFile(path=name, size=1, stamp="")
    plan = subject_plan(Subject(name="sub-a", images={("ncct", "ncct"): file}, tables={}), {name: header})
    (grid,) = plan.grids
    (array,) = grid.arrays
    json.dumps([dict(grid.attributes), dict(array.attributes)], allow_nan=False)
    assert all(np.isfinite(values).all() for values in grid.grid.coordinates().values())
    assert np.isfinite(grid.frame_seconds or 0.0).all()
    block = next(array.blocks())
    assert np.prod(block.file_shape, dtype=object) * header.dtype.itemsize <= max(MAX_SHARD_BYTES, MAX_PLANE_BYTES)
    assert sorted(array.shape[-3:]) == sorted(header.volume_shape)


def by_nibabel(data: bytes) -> Any:
    """Read a file, without what nibabel looks at and nobody uses: extensions, and the qform where there is a sform."""
    little, big = (int.from_bytes(data[:4], order) for order in ("little", "big"))
    version, byte_order = (1 if 348 in (little, big) else 2), (">" if big in (348, 540) else "<")
    header_class, image_class = CLASSES[version]
    header = header_class(data[: 348 if version == 1 else 540], byte_order, check=False)
    if header["sform_code"] > 0:
        header["qform_code"] = 0
    without = bytes(header.binaryblock) + b"\0" + data[header["sizeof_hdr"] + 1 :]
    with warnings.catch_warnings(), np.errstate(all="ignore"), silent(nib.imageglobals.logger):
        warnings.simplefilter("ignore")
        return image_class.from_bytes(without)


@contextlib.contextmanager
def silent(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def assert_one_line(error: SourceError, name: str) -> None:
    for text in (str(error), str(Problem.from_error(error))):
        assert text.startswith(f"{name}: ")
        assert text.isprintable()
        assert len(text) < 1000


# --- gzip files: any members, compared with the standard library ---

GOOD: Final = header_bytes() + np.random.default_rng(1).bytes(120)


def _member(
    data: bytes, level: int, *, name: bytes = b"", extra: bytes = b"", comment: bytes = b"", crc: bool = False
) -> bytes:
    """One gzip member with any of the optional fields of its header (RFC 1952)."""
    flags = 2 * crc + 4 * bool(extra) + 8 * bool(name) + 16 * bool(comment)
    head = b"\x1f\x8b\x08" + bytes([flags, 0, 0, 0, 0, 0, 255])
    head += struct.pack("<H", len(extra)) + extra if extra else b""
    head += (name + b"\0" if name else b"") + (comment + b"\0" if comment else b"")
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if crc else b""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return head + packer.compress(data) + packer.flush() + struct.pack("<II", zlib.crc32(data), len(data))


_TEXT: Final = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b""))


@st.composite
def gzip_files(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A good file in members with all kinds of headers, perhaps cut, spliced and flipped; and whether it is whole."""
    cuts = sorted(draw(st.lists(st.integers(0, len(GOOD)), max_size=4)))
    members = [
        _member(
            GOOD[start:end],
            draw(st.sampled_from([0, 1, 9])),
            name=draw(_TEXT),
            extra=draw(st.binary(max_size=40)),
            comment=draw(_TEXT),
            crc=draw(st.booleans()),
        )
        for start, end in zip([0, *cuts], [*cuts, len(GOOD)], strict=True)
    ]
    whole = b"".join(members) + bytes(draw(st.integers(0, 20)))
    data = bytearray(whole)
    for kind, place, piece in draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "cut", "insert", "repeat"]),
                st.integers(0, len(data)),
                st.binary(min_size=1, max_size=8),
            ),
            max_size=3,
        )
    ):
        if kind == "flip":
            data[place : place + len(piece)] = piece
        elif kind == "cut":
            del data[place : place + len(piece)]
        else:
            data[place:place] = piece if kind == "insert" else data[place : place + 40]
    return bytes(data), data == whole


def check_gzip(file: tuple[bytes, bool]) -> None:
    """It is read as the standard library reads it, or it is a `SourceError`; a whole one is never refused."""
    data, whole = file
    name = "hostile.nii.gz"
    try:
        with strict():
            stream = VoxelStream(io.BytesIO(data), path=name, size=len(data))
            digest = stream.read_to_end()
    except SourceError as error:
        assert_one_line(error, name)
        if whole:
            raise
        return
    content = gzip.decompress(data)
    voxels = content[len(stream.header.raw) :]
    assert stream.header.raw + voxels == content
    assert digest.voxel_xxh3 == xxhash.xxh3_128_hexdigest(voxels)
    assert digest.file_bytes == len(data)


# --- names ---

_S: Final = "sub-stroke0001"
_PARTS: Final = [_S, "raw_data", "rawdata", "derivatives", "phenotype", "train", "ses-01", "ses-02", "ses-0001"]
_PARTS += ["perfusion-maps", f"{_S}_ses-01_ncct.nii.gz", f"{_S}_ses-01_space-ncct_cta.nii", f"{_S}_ses-02_outcome.xlsx"]
_PARTS += [
    "..",
    ".",
    "",
    "C:",
    "c:\\x",
    "\\\\host",
    "~",
    "a" * 255,
    "sub-\u00e9",
    "sub-e\u0301",
    "sub-\u05d0",
    "\u202egz.iin",
]
_PARTS += [
    "sub-\u0661",
    "ses-\u0661",
    "sub-a\n",
    "ses-01\n",
    f"{_S}\u200b",
    "\x1b]0;x\x07",
    "\udcff\udcfe",
    "sub-\uff41",
    "%2e%2e",
    "$HOME",
]
_ANY_TEXT: Final = st.text(st.characters(exclude_categories=()), max_size=40)
names = (
    st.lists(st.sampled_from(_PARTS) | _ANY_TEXT, max_size=8).map("/".join)
    | _ANY_TEXT
    | st.binary(max_size=60).map(os.fsdecode)
    | st.sampled_from(_PARTS).map(lambda part: "/".join([part] * 300))
)


def check_name(path: str) -> None:
    """It is a known kind of file or is refused; what is used of it is plain; all messages are one printable line."""
    try:
        kind = classified(path)
    except UnsafePathError:
        kind = None
    leads_out = path.startswith(("/", "\\")) or ".." in path.split("/") or "\\" in path
    assert kind is None or not (leads_out or not path.isprintable())
    assert kind is None or isinstance(kind, ImageName | TableName | DictionaryName | Stray)
    release = release_from_files("x", [SourceFile(path=path, size=1, stamp="")])
    assert all(str(problem).isprintable() for problem in release.problems)
    used = isinstance(kind, ImageName | TableName | DictionaryName)
    assert len(release.problems) == (0 if used else 1)
    for name in release.subjects:
        assert isinstance(kind, ImageName | TableName)
        assert name in path.split("/")
        assert name.isascii()
        assert name.removeprefix("sub-").isalnum()
        for space, image in release.subjects[name].images:
            assert space.isascii()
            assert space.isalnum()
            assert is_image_name(image)


# --- without end ---

PROPERTIES: Final[dict[str, tuple[Callable[[Any], None], Any]]] = {
    "headers": (check_nifti, nifti_files()),
    "gzip": (check_gzip, gzip_files()),
    "names": (check_name, names),
    "tables": (fuzz_tables.check_table, fuzz_tables.tables()),
    "documents": (fuzz_store.check_document, fuzz_store.documents),
    "csv": (fuzz_tables.check_csv, fuzz_tables.cells),
}


def run(name: str, *, examples: int, start: int) -> int:
    """Check one property on new examples; return how many there were."""
    check, strategy = PROPERTIES[name]
    count = 0

    def counted(example: Any) -> None:
        nonlocal count
        count += 1
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        check(example)
        faulthandler.cancel_dump_traceback_later()

    limits = settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    seed(start)(limits(given(strategy)(counted)))()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="of the first run; each further one adds 1")
    options = parser.parse_args()
    began, counts, start = time.monotonic(), dict.fromkeys(PROPERTIES, 0), options.seed
    while time.monotonic() - began < options.seconds:
        for name in PROPERTIES:
            try:
                counts[name] += run(name, examples=200, start=start)
            except (Exception, BaseExceptionGroup):  # noqa: BLE001 - whatever it is, it is the finding
                faulthandler.cancel_dump_traceback_later()
                traceback.print_exc(file=sys.stdout)
                sys.stdout.write(f"{name}: fails; again by: python -m tests.fuzz --seconds 1 --seed {start}\n")
                return 1
        start += 1
    done = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    sys.stdout.write(f"{done} in {time.monotonic() - began:.0f} s from seed {options.seed}: nothing found\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
