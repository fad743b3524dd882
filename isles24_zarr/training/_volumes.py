"""Whole images as frameworks take them, (x, y, z) with an affine; and back onto the grid of a scan."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from nibabel.volumeutils import shape_zoom_affine

from isles24_zarr.analysis import SPATIAL, label_rule, name_of
from isles24_zarr.errors import GeometryError, OtherGridError, UnknownNameError
from isles24_zarr.format import record_of
from isles24_zarr.geometry import (
    Grid,
    Orientation,
    canonical_from_file,
    canonical_grid,
    canonical_orientation,
    corner_displacement,
    file_from_canonical,
    file_grid,
    same_grid,
    scan_grid,
)
from isles24_zarr.store import reading
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """An image in memory.

    Parameters
    ----------
    values
        (x, y, z), or (time, x, y, z); x to the patient's Right, y Anterior, z Superior.
    affine
        4 x 4, voxel indices (i, j, k) along x, y, z to RAS mm.
    file_affine, file_shape
        Affine and (x, y, z) shape that it has in the axes of the file that it comes from.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    file_affine: NDArray[np.float64]
    file_shape: tuple[int, int, int]

    @property
    def channels(self) -> NDArray[Any]:
        """The values with an axis of channels, (channel, x, y, z)."""
        return self.values if self.values.ndim == 4 else self.values[None]


def ras_affine(grid: Grid) -> NDArray[np.float64]:
    """Return 4 x 4, indices (i, j, k) to RAS mm; of an unknown orientation, what nibabel makes up for the file."""
    return grid.affine if grid.oriented else np.asarray(shape_zoom_affine(grid.shape, grid.spacing))


def volume_of(image: xr.DataArray, *, threshold: float | None = None, labels: bool = False) -> Volume:
    """Read an image of a scan, or what was computed from one.

    Parameters
    ----------
    image
        (z, y, x), or with time before them.
    threshold
        From which fraction on voxels of a soft mask belong to it; None for 0.5, with a `SoftMaskWarning`.
    labels
        Whether it must be a mask. Masks of the release and those that were added become labels in any case.

    Raises
    ------
    GeometryError
        It has other axes, or its coordinates are gone.
    MaskError
        It is a mask whose values are no labels.
    StoreDamageError
        Voxels cannot be read.
    """
    others = [str(dim) for dim in image.dims if dim not in SPATIAL]
    if set(SPATIAL) - set(image.dims) or len(others) > 1:
        raise GeometryError(name_of(image), f"has the axes {', '.join(map(str, image.dims))}, not (time,) z, y and x")
    grid = scan_grid(image)
    # read in the order of the store: what is lazy and transposed, xarray asks for voxel by voxel
    if image.chunks is None:
        with reading(image.encoding.get("source", name_of(image))):
            read = image.copy(data=image.values)
    else:
        read = image.compute()
    loaded = read.transpose(*others, *reversed(SPATIAL))
    values = loaded.values
    if labels or _is_mask(image):
        values = label_rule(loaded, threshold).labels(values)
    placed = dataclasses.replace(grid, affine=ras_affine(grid))
    codes = image.attrs.get("file_orientation")
    in_file = file_grid(placed, Orientation.from_codes(codes)) if codes and grid.oriented else placed
    return Volume(values=values, affine=placed.affine, file_affine=in_file.affine, file_shape=in_file.shape)


def _is_mask(image: xr.DataArray) -> bool:
    known = IMAGES.get(str(image.name))
    return "mask" in (record_of(image) or {}) or (known is not None and known.is_mask)


def images_of(scan: xr.Dataset, names: Mapping[str, str]) -> dict[str, xr.DataArray]:
    """Return images of a scan by key, each with the path that it is read from.

    Parameters
    ----------
    scan
        With the coordinates x, y and z of a store.
    names
        Name of each image, by key.

    Raises
    ------
    UnknownNameError
        There is no such image.
    """
    absent = [name for name in names.values() if name not in scan.data_vars]
    if absent:
        has = ", ".join(map(str, scan.data_vars))
        raise UnknownNameError("scan", f"has no {', '.join(map(str, absent))}; there are {has}")
    found = {}
    for key, name in names.items():
        found[key] = scan[name].copy(deep=False)
        if "source" in scan.encoding:
            found[key].encoding["source"] = f"{scan.encoding['source']}/{name}"
    return found


def array_on_scan(tensor: Any, affine: NDArray[np.float64], scan: xr.Dataset | xr.DataArray, name: str) -> xr.DataArray:
    """Return an image of a framework on the grid of a scan. Axes are flipped and swapped, nothing is resampled.

    Parameters
    ----------
    tensor
        Of PyTorch, (x, y, z), or (channel, x, y, z) with one channel, or as many as the scan has frames.
    affine
        4 x 4, indices along the three axes to RAS mm.
    scan
        With the coordinates x, y and z of a store.
    name
        Of the result.

    Returns
    -------
    xarray.DataArray
        (z, y, x) or (time, z, y, x), with the coordinates of the scan.

    Raises
    ------
    OtherGridError
        No flips and swaps bring it onto the grid.
    UnknownNameError
        It has several channels.
    GeometryError
        The coordinates of the scan are gone.
    """
    detached = tensor.detach().cpu()
    # the one type of PyTorch for images that NumPy does not have
    values = (detached.float() if str(detached.dtype) == "torch.bfloat16" else detached).numpy()
    frames = scan.sizes.get("time")
    if values.ndim == 4 and values.shape[0] == 1 and frames != 1:
        values = values[0]
    if values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[0] != frames):
        what = f"has the shape {tuple(values.shape)}; give one channel of one image, as image[:1], (1, x, y, z)"
        raise UnknownNameError(name, what)
    if not (np.isfinite(affine).all() and np.linalg.det(affine[:3, :3])):
        raise OtherGridError(name, "has an affine that places no voxels")
    grid = scan_grid(scan)
    wanted = dataclasses.replace(grid, affine=ras_affine(grid))
    x, y, z = values.shape[-3:]
    own = Grid(shape=(x, y, z), affine=np.asarray(affine, np.float64), oriented=grid.oriented)
    # both with axes in one order: those of an unknown orientation need not be canonical
    turned, target = canonical_orientation(own.affine), canonical_orientation(wanted.affine)
    _check_place(canonical_grid(own, turned), canonical_grid(wanted, target), scan, name)
    canonical = canonical_from_file(values.swapaxes(-1, -3), turned)
    dims = ("time", *SPATIAL) if values.ndim == 4 else SPATIAL
    coords = {key: each for key, each in scan.coords.items() if set(each.dims) <= set(dims)}
    return xr.DataArray(file_from_canonical(canonical, target), dims=dims, coords=coords, name=name)


def _check_place(own: Grid, wanted: Grid, scan: xr.Dataset | xr.DataArray, name: str) -> None:
    if same_grid(wanted, own):
        return
    whose = str(scan.coords["subject"].values) if "subject" in scan.coords else "the scan"
    if own.shape != wanted.shape:
        mine, others = (" x ".join(map(str, grid.shape)) for grid in (own, wanted))
        raise OtherGridError(name, f"has {mine} voxels along x, y and z, the grid of {whose} has {others}")
    apart = corner_displacement(wanted, own)
    raise OtherGridError(name, f"lies elsewhere than {whose}, its corners are up to {apart:.3g} mm apart")
