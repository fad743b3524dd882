"""Where the voxels of xarray objects lie: their coordinates as grids, and voxels by position.

``x``, ``y`` and ``z`` hold millimetres along the axes, and their attributes the direction of each axis: that is right
after any selection. What they cannot tell is how thick a single slice is that was made of several, as by ``coarsen``,
nor that arrays of two heads were put together. For that there are coordinates beside them: ``i``, ``j`` and ``k``
number the voxels of the grid, in whole numbers which any mean turns into others; ``subject`` becomes an axis of its
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.errors import GeometryError
from isles24_zarr.geometry.grid import Grid, grid_from_coordinates, voxel_from_world

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

VOXEL_NUMBERS: Final = {"x": "i", "y": "j", "z": "k"}
"""Coordinates that number the voxels along each axis."""

UNKNOWN_ORIENTATION: Final = "unknown"
"""Attribute ``orientation`` of coordinates and of groups, where the file does not say where its axes point."""


def voxel_numbers(sizes: Mapping[Any, int]) -> dict[str, xr.Variable]:
    """Return the coordinates that number the voxels of a grid.

    Parameters
    ----------
    sizes
        Number of voxels along x, y and z.
    """
    return {
        name: xr.Variable(axis, np.arange(sizes[axis], dtype=np.int32), {"long_name": f"voxel along {axis}"})
        for axis, name in VOXEL_NUMBERS.items()
        if axis in sizes
    }


def scan_grid(scan: xr.Dataset | xr.DataArray) -> Grid:
    """Return the grid of a scan or image, whatever part of it is left.

    Parameters
    ----------
    scan
        With the coordinates x, y and z of a store.

    Raises
    ------
    GeometryError
        A coordinate is gone, or what is left of it is not evenly spaced; or it is one slice made of several, whose
        thickness is not known; or there is more than one subject.
    """
    missing = [name for name in "xyz" if name not in scan.coords]
    if missing:
        raise GeometryError(_name_of(scan), f"has no coordinate {', '.join(missing)}")
    if "subject" in scan.coords and np.unique(scan.coords["subject"].values).size > 1:
        raise GeometryError(_name_of(scan), "holds several subjects, each of which has a grid of its own")
    axes = [scan.coords[name] for name in "xyz"]
    for axis in axes:
        _check_thickness(scan, axis)
    try:
        direction = np.column_stack([axis.attrs["direction"] for axis in axes])
        return grid_from_coordinates(
            {str(axis.name): axis.values for axis in axes},
            direction=direction,
            spacing=[axis.attrs["spacing"] for axis in axes],
            oriented=all(axis.attrs.get("orientation") != UNKNOWN_ORIENTATION for axis in axes),
        )
    except KeyError as error:
        raise GeometryError(_name_of(scan), f"its coordinates have lost the attribute {error}") from None
    except ValueError as error:
        raise GeometryError(_name_of(scan), str(error)) from None


def _check_thickness(scan: xr.Dataset | xr.DataArray, axis: xr.DataArray) -> None:
    """Raise where a single voxel along an axis was made of several: it is not as thick as it was."""
    number = scan.coords.get(VOXEL_NUMBERS[str(axis.name)])
    if axis.size == 1 and number is not None and number.dtype.kind not in "iu":
        what = f"has one voxel along {axis.name} that was computed from several, which does not tell its thickness"
        raise GeometryError(_name_of(scan), f"{what}; keep two or more")


def nearest_voxels(scan: Any, positions: ArrayLike) -> Any:
    """Select the voxels nearest to positions in physical space.

    Parameters
    ----------
    scan
        A Dataset or DataArray with the coordinates and dimensions x, y and z.
    positions
        (3,) or (n, 3), RAS in mm, of the grid that ``scan`` is on. Positions of another one are the same place only as
        far as both headers are right, which those of images as acquired often are not, by some mm or more.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        At one voxel, or over ``point``.

    Raises
    ------
    GeometryError
        A position lies outside of the volume.
    """
    grid = scan_grid(scan)
    wanted = np.asarray(positions, dtype=np.float64)
    if wanted.ndim not in (1, 2) or wanted.shape[-1] != 3:
        raise GeometryError(_name_of(scan), f"positions must be (3,) or (n, 3), not {wanted.shape}")
    voxels = np.rint(voxel_from_world(grid.affine, wanted)).astype(np.int64)
    outside = ((voxels < 0) | (voxels >= grid.shape)).any(axis=-1)
    if outside.any():
        first = wanted.reshape(-1, 3)[np.flatnonzero(outside)[0]].tolist()
        raise GeometryError(_name_of(scan), f"does not reach the position {first} mm")
    dims = () if wanted.ndim == 1 else ("point",)
    # an axis that was reduced to one voxel has a coordinate, but is no dimension any more
    indexers = {name: xr.Variable(dims, voxels[..., axis]) for axis, name in enumerate("xyz") if name in scan.dims}
    return scan.isel(indexers)


def _name_of(scan: xr.Dataset | xr.DataArray) -> str:
    name = getattr(scan, "name", None) or scan.attrs.get("subject")
    return str(name or type(scan).__name__)
