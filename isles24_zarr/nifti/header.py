"""The header of a NIfTI-1 or NIfTI-2 file, from bytes: nothing in it is believed that cannot be.

The rules that this module rests on (https://nifti.nimh.nih.gov/nifti-1, /nifti-2):

- ``sform`` outranks ``qform``; where both codes are 0 only the voxel size is known, not the orientation.
- A slope of 0 or NaN means that there is no scaling.

nibabel takes the header apart.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Literal

import nibabel as nib
import numpy as np

from isles24_zarr.errors import HeaderError, TruncatedFileError, UnsupportedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER_BYTES: Final = 2**20
"""Extensions beyond this are refused: the headers of a whole release are held at once, and kept in attributes."""

MAX_AXIS: Final = 2**15 - 1
"""Voxels along an axis, and frames: what NIfTI-1 can declare. Coordinates and chunks are made for every one."""

MAX_PLANE_BYTES: Final = 256 * 2**20
"""Bytes of a plane (x, y): a worker holds one at least, so that a header must not choose how much that is."""

MAX_DEFLATE_RATIO: Final = 1032
"""No deflate stream expands by more (RFC 1951: 258 bytes from 2 bits)."""

_GEOMETRY_TOLERANCE_MM: Final = 1e-3
_FARTHEST_MM: Final = 1e9
_SMALLEST_VOXEL_MM: Final = 1e-9
_LONGEST_FRAME_SECONDS: Final = 1e9
_TYPES: Final[Any] = nib.nifti1.data_type_codes
_HEADER_CLASSES: Final[dict[int, Any]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
SMALLEST_HEADER: Final = 352
_SPATIAL_UNITS: Final = {0: "unknown", 1: "metre", 2: "millimetre", 3: "micrometre"}
_SECONDS_UNIT: Final = 8
_SECONDS_PER_UNIT: Final = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}


AffineSource = Literal["sform", "qform", "none"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a NIfTI header says of its voxels, checked to be possible.

    Parameters
    ----------
    raw
        Every byte before the voxels, extensions included.
    dtype
        Type of the voxels, in the byte order of the file.
    shape
        Dimensions as declared, (x, y, z) or (x, y, z, t), with trailing singleton axes.
    affine
        4 x 4, from voxel indices (x, y, z) to RAS millimetres.
    affine_source
        Which part of the header gave it. ``"none"``: voxel sizes alone, the orientation is unknown.
    slope, intercept
        Physical value = slope * voxel + intercept; ``None`` where there is no scaling to apply.
    frame_seconds
        Time between frames in seconds; ``None`` where the header gives no time step.
    notices
        What is odd and was not changed, a clause each.
    """

    raw: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    affine_source: AffineSource
    slope: float | None
    intercept: float | None
    frame_seconds: float | None
    notices: tuple[str, ...]

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Voxels along the file's (x, y, z) axes."""
        x, y, z = self.shape[:3]
        return x, y, z

    @property
    def frames(self) -> int | None:
        """Number of frames, ``None`` for a single volume."""
        return self.shape[3] if len(self.shape) > 3 and self.shape[3] > 1 else None

    @property
    def voxel_bytes(self) -> int:
        """Length of the voxels in the decompressed file."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def header_from_bytes(start: bytes, *, path: str) -> Header:
    """Parse a header.

    Parameters
    ----------
    start
        The first bytes of the decompressed file, at least up to the voxels (see `header_length`).
    path
        The file's name, for errors.

    Raises
    ------
    HeaderError
        These bytes contradict the standard or themselves.
    UnsupportedImageError
        Valid, and of a kind that is not converted.
    """
    fields = _fields_from_bytes(start, path=path)
    raw = start[: header_length(start, path=path)]
    _check_extensions(raw, fields, path=path)
    dtype = _dtype_from_fields(fields, path=path)
    shape = _shape_from_fields(fields, path=path)
    affine, source, notices = _affine_from_fields(fields, path=path)
    if fields["bitpix"] != 8 * dtype.itemsize:
        notices += (f"declares {int(fields['bitpix'])} bits for voxels of type {dtype.name}; the type was used",)
    slope, intercept = _scaling_from_fields(fields, path=path)
    return Header(
        raw=raw,
        dtype=dtype,
        shape=shape,
        affine=affine,
        affine_source=source,
        slope=slope,
        intercept=intercept,
        frame_seconds=_frame_seconds_from_fields(fields),
        notices=notices,
    )


def result_header(
    reference: bytes, *, dtype: np.dtype[Any], shape: tuple[int, ...], frame_seconds: float | None = None
) -> bytes:
    """Return the header of an image that was computed on the grid of another one.

    Parameters
    ----------
    reference
        Header of the other image, which was checked.
    dtype
        Of the voxels.
    shape
        (x, y, z) as the other image has them, or with the number of frames behind.
    frame_seconds
        Between frames.

    Returns
    -------
    bytes
        Little endian, without extensions: place and orientation are those of the other image, byte for byte; values
        are not scaled.
    """
    fields = _fields_from_bytes(reference, path="reference").as_byteswapped("<")
    kind = type(fields)
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    for name in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        header[name] = fields[name]
    for name in ("qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units"):
        header[name] = fields[name]
    header["pixdim"][:4] = fields["pixdim"][:4]
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.single_vox_offset
    if len(shape) > 3 and frame_seconds is not None:
        header["pixdim"][4] = frame_seconds
        header["xyzt_units"] = int(fields["xyzt_units"]) % 8 + _SECONDS_UNIT
    return bytes(header.binaryblock) + bytes(4)


def header_length(start: bytes, *, path: str) -> int:
    """Length of the header with its extensions: where the voxels begin.

    Parameters
    ----------
    start
        At least 352 bytes of a NIfTI-1 file, 544 of a NIfTI-2 file.
    path
        The file's name, for errors.

    Raises
    ------
    HeaderError
        Not a single-file NIfTI header, or ``vox_offset`` is impossible.
    UnsupportedImageError
        The extensions are larger than `MAX_HEADER_BYTES`.
    """
    fields = _fields_from_bytes(start, path=path)
    offset = float(fields["vox_offset"])
    smallest = int(fields["sizeof_hdr"]) + 4
    if not np.isfinite(offset) or offset != int(offset) or offset < smallest:
        raise HeaderError(path, f"vox_offset is {offset:g}, the voxels cannot begin before byte {smallest}")
    if offset > MAX_HEADER_BYTES:
        raise UnsupportedImageError(path, f"has {int(offset):,} bytes of header, more than {MAX_HEADER_BYTES:,}")
    return int(offset)


def _fields_from_bytes(start: bytes, *, path: str) -> Any:
    byte_order: Literal["little", "big"]
    for byte_order in ("little", "big"):
        size = int.from_bytes(start[:4], byte_order)
        if size in _HEADER_CLASSES:
            break
    else:
        raise HeaderError(path, f"is not a NIfTI file (its first bytes are {start[:4].hex(' ') or 'missing'})")
    if len(start) < size + 4:
        raise TruncatedFileError(path, f"ends after {len(start)} of {size + 4} header bytes")
    fields: Any = _HEADER_CLASSES[size](start[:size], endianness=byte_order, check=False)
    magic: bytes = fields["magic"].item()  # without the NULs at its end
    if magic == fields.pair_magic:
        raise UnsupportedImageError(path, "is the header of a .hdr/.img pair")
    if magic != fields.single_magic:
        raise HeaderError(path, f"is not a NIfTI file (its magic string is {magic!r})")
    if size == 540 and bytes(fields["eol_check"]) not in {b"\r\n\x1a\n", bytes(4)}:
        raise HeaderError(path, "was damaged on its way (line ends within its magic string were changed)")
    return fields


def _check_extensions(raw: bytes, fields: Any, *, path: str) -> None:
    """Check that they fill the header: they are kept as they are, and are for others to read."""
    position = int(fields["sizeof_hdr"])
    if not raw[position]:
        return
    position += 4
    sizes = np.dtype("i4").newbyteorder(fields.endianness)
    while len(raw) - position >= 16:
        size = int(np.frombuffer(raw, sizes, 1, position)[0])
        if not 8 <= size <= len(raw) - position:
            raise HeaderError(path, f"has an extension of {size:,} bytes at byte {position:,} of {len(raw):,}")
        position += size


def _dtype_from_fields(fields: Any, *, path: str) -> np.dtype[Any]:
    code = int(fields["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(_TYPES.dtype[code])
    except KeyError:
        raise HeaderError(path, f"has the unknown voxel type {code}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype.itemsize == 0:
        name = _TYPES.label[code]
        raise UnsupportedImageError(path, f"has voxels of type {name}, not of a real scalar type up to 64 bits")
    return np.dtype(dtype.newbyteorder(fields.endianness))


def _shape_from_fields(fields: Any, *, path: str) -> tuple[int, ...]:
    dims = [int(n) for n in fields["dim"]]
    rank, shape = dims[0], tuple(dims[1 : dims[0] + 1])
    if not 1 <= rank <= 7 or any(n < 1 for n in shape):
        raise HeaderError(path, f"declares the impossible dimensions {dims}")
    if rank < 3:
        raise UnsupportedImageError(path, f"has {rank} dimensions, {' x '.join(map(str, shape))}")
    if any(n > 1 for n in shape[4:]):
        raise UnsupportedImageError(path, f"has more than four dimensions, {' x '.join(map(str, shape))}")
    return shape


# what overflows, and NaNs of all kinds, are looked for in the results
@np.errstate(over="ignore", invalid="ignore")
def _affine_from_fields(fields: Any, *, path: str) -> tuple[NDArray[np.float64], AffineSource, tuple[str, ...]]:
    notices = []
    if fields["pixdim"][0] == 0:
        fields["pixdim"][0] = 1  # as the standard takes it
    sform, sform_code = fields.get_sform(coded=True)
    try:
        qform, qform_code = fields.get_qform(coded=True)
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        if sform_code <= 0:
            raise HeaderError(path, f"has an impossible qform ({error})") from error
        qform, qform_code = None, 0
        notices.append("its qform is impossible and was left out, the sform was used")
    source: AffineSource
    if sform_code > 0:
        affine, source = sform, "sform"
    elif qform_code > 0:
        affine, source = qform, "qform"
    else:
        sizes = np.abs(np.asarray(fields["pixdim"][1:4], dtype=np.float64))
        affine, source = np.diag([*sizes, 1.0]), "none"
        notices.append("has neither sform nor qform: its orientation is unknown, only voxel sizes are used")
    affine = np.asarray(affine, dtype=np.float64)
    _check_affine(affine, source=source, path=path)
    if sform_code > 0 and qform_code > 0 and not _same_positions(affine, qform, fields["dim"][1:4]):
        notices.append("its sform and qform place the voxels differently, the sform was used")
    units = int(fields["xyzt_units"]) % 8
    if units not in (0, 2):
        name = _SPATIAL_UNITS.get(units, f"code {units}")
        notices.append(f"declares the spatial unit {name}; the numbers of its affine are taken as millimetres")
    return affine, source, tuple(notices)


def _check_affine(affine: NDArray[np.float64], *, source: AffineSource, path: str) -> None:
    what = "pixdim" if source == "none" else source
    if not np.isfinite(affine).all():
        raise HeaderError(path, f"its {what} has non-finite entries")
    if np.abs(affine).max() > _FARTHEST_MM:
        raise HeaderError(path, f"its {what} leads {np.abs(affine).max():.3g} mm away")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    # relative to the voxel sizes, so that small voxels are not taken for a singular matrix
    if (sizes < _SMALLEST_VOXEL_MM).any() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise HeaderError(path, f"its {what} is singular: {affine[:3].round(4).tolist()}")


def _same_positions(first: NDArray[np.float64], second: NDArray[np.float64] | None, shape: Any) -> bool:
    if second is None or not np.isfinite(second).all():
        return False
    steps = np.abs(first - second)[:3] @ np.array([*np.asarray(shape, dtype=np.float64), 1.0])
    smallest = np.min(np.linalg.norm(first[:3, :3], axis=0))
    return bool(np.max(steps) <= max(0.1 * smallest, _GEOMETRY_TOLERANCE_MM))


def _scaling_from_fields(fields: Any, *, path: str) -> tuple[float | None, float | None]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return None, None
    if not np.isfinite(intercept):
        raise HeaderError(path, f"has a scaling slope of {slope:g} with an intercept of {intercept}")
    if slope == 1 and intercept == 0:
        return None, None
    return slope, intercept


def _frame_seconds_from_fields(fields: Any) -> float | None:
    step = float(fields["pixdim"][4])
    unit = _SECONDS_PER_UNIT.get(int(fields["xyzt_units"]) & 0x38)
    if unit is None or not 0 < step * unit < _LONGEST_FRAME_SECONDS:
        return None
    return step * unit
