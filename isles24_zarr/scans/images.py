"""Images for nibabel, out of xarray objects: what was computed is what is written.

An image is given the bytes of the file that it comes from only where its type, its coordinates and the checksum of its
voxels prove that it still is what the file holds. Anything else gets a header of its own, with the values as they are.
What an image says of itself proves nothing: xarray keeps attributes through arithmetic, and encodings through copies.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
import xarray as xr
import xxhash

from isles24_zarr.analysis import SPATIAL, name_of
from isles24_zarr.errors import GeometryError, UnknownNameError, VoxelTypeError
from isles24_zarr.format import ASSUMED_FRAME_SECONDS, record_of, recorded_orientation
from isles24_zarr.geometry import Grid, Orientation, file_from_canonical, file_grid, same_positions, scan_grid
from isles24_zarr.nifti import MAX_AXIS, header_from_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    NiftiImage = nib.Nifti1Image | nib.Nifti2Image

_SAME_STEP: Final = 1e-6
"""By which fraction the steps between frames may differ: NIfTI has one, in single precision."""

_SAME_TYPE: Final = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"})
"""Types of NumPy that all readers of NIfTI know."""

_MM_AND_SECONDS: Final = ("mm", "sec")


def nifti_image(image: xr.DataArray, *, like: str | xr.DataArray | None = None) -> NiftiImage:
    """Return an image of a scan, any part of it, or what was computed from it, for nibabel.

    Parameters
    ----------
    image
        (z, y, x), or with one axis more, which comes first, such as time; with the coordinates x, y and z of a store.
        It is loaded.
    like
        Whose axes the voxels are given in. By default those of the image: x to the patient's Right, y Anterior, z
        Superior. ``"file"``: those of the file that the image, or what it was computed from, was converted from, for
        programs that lay one image over another by index. Another image of a scan: those of its file.

    Returns
    -------
    nibabel image
        Of an image that is what its file holds and is not scaled: header, axes and voxels of the file, whatever
        ``like`` says of it. Of anything else: the values, each as it is; the affine of the voxels that are left (sform,
        and qform where it can hold it) in mm, both with the code 0 where the orientation is not known; the time of the
        first frame and the step between frames in s. Booleans are uint8, float16 is float32, and 64-bit integers are
        int32 or uint32 where all of them fit.

    Raises
    ------
    GeometryError
        A spatial axis or its coordinate is gone, there is more than one other axis, frames are not evenly spaced, or it
        is not known whose file is meant.
    VoxelTypeError
        NIfTI does not hold values of this type.
    """
    missing = [name for name in SPATIAL if name not in image.dims]
    if missing:
        raise GeometryError(name_of(image), f"has no axis {', '.join(missing)}; select a slice of one, as z=[5]")
    others = [str(dim) for dim in image.dims if dim not in SPATIAL]
    if len(others) > 1:
        raise GeometryError(name_of(image), f"has the axes {', '.join(others)} besides z, y and x, NIfTI takes one")
    if like is not None:  # axes of a file are told from ascending ones
        image = image.isel({axis: slice(None, None, -1) for axis in SPATIAL if _descends(image, axis)})
    grid = scan_grid(image)
    values = np.asarray(image.transpose(..., *SPATIAL).values)
    orientation = _orientation(image, like)
    of_file = _image_of_file(image, values, grid)
    if of_file is not None and (like is None or isinstance(like, str)):
        return of_file
    if orientation:
        values, grid = file_from_canonical(values, orientation), file_grid(grid, orientation)
    return _image_of_values(_nifti_values(values, name_of(image)), grid, *_time_axis(image))


def is_of_file(image: xr.DataArray, values: NDArray[Any], grid: Grid, record: Mapping[str, Any]) -> bool:
    """Tell whether an image is, in type, place and value, what its file holds.

    Parameters
    ----------
    image
        Of a scan.
    values
        Its voxels, ((time,) z, y, x).
    grid
        Its grid.
    record
        What was recorded of the file.
    """
    header = header_from_bytes(base64.b64decode(record["header"]), path=name_of(image))
    if header.slope is not None or values.dtype != header.dtype.newbyteorder("="):
        return False
    whole = Grid(shape=grid.shape, affine=np.array(record["affine"]), oriented=grid.oriented)
    orientation = recorded_orientation(record)
    turned = file_from_canonical(values, orientation)
    if turned.shape[-3:] != header.volume_shape[::-1] or values.size != np.prod(header.shape):
        return False
    if not same_positions(grid, whole) or (header.affine_source == "none") == grid.oriented:
        return False
    if header.frames:
        step = header.frame_seconds or ASSUMED_FRAME_SECONDS
        if "time" not in image.coords or not np.array_equal(image["time"], step * np.arange(header.frames)):
            return False
    voxels = np.ascontiguousarray(turned, header.dtype)
    return bool(xxhash.xxh3_128_hexdigest(voxels.data) == record["checksum"]["value"])


def _image_of_file(image: xr.DataArray, values: NDArray[Any], grid: Grid) -> NiftiImage | None:
    record = record_of(image)
    if record is None or "affine" not in record or not is_of_file(image, values, grid, record):
        return None
    header = base64.b64decode(record["header"])
    voxels = np.ascontiguousarray(file_from_canonical(values, recorded_orientation(record)), record["file_dtype"])
    return nifti_class(header).from_bytes(header + voxels.tobytes())


def nifti_class(header: bytes) -> type[NiftiImage]:
    """Return the class of nibabel for a file that begins so."""
    second = len(header) >= 544 and header[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c")
    return nib.Nifti2Image if second else nib.Nifti1Image


def _descends(image: xr.DataArray, axis: str) -> bool:
    return axis in image.coords and bool(image[axis][0] > image[axis][-1])


def _orientation(image: xr.DataArray, like: str | xr.DataArray | None) -> Orientation | None:
    """Return how the axes of a file became canonical ones, None where they stay as they are."""
    if like is None:
        return None
    of = image
    if isinstance(like, xr.DataArray):
        of = like
    elif like != "file":
        raise UnknownNameError(repr(like), "is neither 'file' nor an image of a scan")
    codes = of.attrs.get("file_orientation")
    if codes is not None:
        try:
            return Orientation.from_codes(str(codes))
        except ValueError as error:
            raise GeometryError(name_of(of), f"its attribute file_orientation is wrong ({error})") from None
    if not scan_grid(of).oriented:
        return None  # its axes were left as they are
    raise GeometryError(name_of(of), "does not tell any more how the axes of its file run; give like=scan['ncct']")


def _nifti_values(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return values in a type that NIfTI holds, each as it is."""
    dtype = values.dtype
    if dtype.name in _SAME_TYPE or dtype.name in ("complex64", "complex128"):
        return values
    if dtype.kind == "b":
        return values.astype(np.uint8)
    if dtype == np.float16:
        return values.astype(np.float32)
    if dtype.kind in "iu":
        least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
        smaller = np.dtype(np.int32 if dtype.kind == "i" else np.uint32)
        limits = np.iinfo(smaller)
        return values.astype(smaller) if limits.min <= least and most <= limits.max else values
    if dtype.kind == "f":
        shorter = values.astype(np.float64)
        if np.array_equal(shorter.astype(dtype), values, equal_nan=True):
            return shorter
    raise VoxelTypeError(name, f"has values of type {dtype}, which NIfTI does not hold")


def _time_axis(image: xr.DataArray) -> tuple[float, float]:
    """Return the time of the first frame and the step between frames, in s; 0 where there is none."""
    if "time" not in image.dims or "time" not in image.coords:
        return 0.0, 0.0
    times = np.asarray(image["time"].values)
    if times.dtype.kind not in "iuf":
        raise GeometryError(name_of(image), "has times that are no numbers of seconds")
    if times.size == 1:
        return float(times[0]), 0.0
    step = float(times[-1] - times[0]) / (times.size - 1)
    if step <= 0 or not np.allclose(np.diff(times), step, rtol=_SAME_STEP, atol=_SAME_STEP * step):
        raise GeometryError(name_of(image), "has frames that are not evenly spaced in time, and NIfTI has one step")
    return float(times[0]), step


def _image_of_values(values: NDArray[Any], grid: Grid, start: float, step: float) -> NiftiImage:
    """Return an image with a header of its own; values are ((t,) z, y, x) on the grid."""
    header = _header_on_grid(values.shape, values.dtype, grid)
    if values.ndim > 3:
        header["pixdim"][4], header["toffset"] = step, start
    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # of an unknown orientation nibabel makes up an affine, as it does when it loads the file
    return kind(values.T, grid.affine if grid.oriented else header.get_best_affine(), header)  # type: ignore[no-any-return]


def grid_header(grid: Grid, dtype: np.dtype[Any]) -> bytes:
    """Return the header of a volume on a grid: that which `nifti_image` gives to values that were computed.

    Parameters
    ----------
    grid
        Of the voxels, in the order of its axes.
    dtype
        Of the voxels, which NIfTI holds.

    Returns
    -------
    bytes
        Every byte before the voxels, little endian: the affine in mm (sform, and qform where it can hold it), both with
        the code 0 where the orientation is not known; values are not scaled.
    """
    header = _header_on_grid(grid.shape[::-1], dtype, grid).as_byteswapped("<")
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    return bytes(header.binaryblock) + bytes(4)


def _header_on_grid(shape: tuple[int, ...], dtype: np.dtype[Any], grid: Grid) -> Any:
    """Return a header of nibabel for values of a shape, ((t,) z, y, x)."""
    kind: Any = nib.Nifti2Header if max(shape, default=0) > MAX_AXIS else nib.Nifti1Header
    header = kind()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape[::-1])
    header.set_xyzt_units(*_MM_AND_SECONDS)
    header["pixdim"][1:4] = grid.spacing
    if grid.oriented:
        header.set_sform(grid.affine, "aligned")
        # a quaternion holds no shear
        right_angled = np.allclose(grid.direction.T @ grid.direction, np.eye(3), atol=1e-5)
        header.set_qform(grid.affine, "aligned" if right_angled else "unknown")
    return header
