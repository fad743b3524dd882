"""What scans and single images have in common: where their voxels lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from isles24_zarr.errors import UnknownNameError
from isles24_zarr.vocabulary import CT_WINDOWS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from isles24_zarr.analysis import ResamplingMethod
    from isles24_zarr.geometry import Grid


class GeometryAccessor:
    """Positions of the voxels of a scan or an image."""

    def __init__(self, scan: xr.Dataset | xr.DataArray) -> None:
        self._scan: Any = scan

    def _grid(self) -> Grid:
        from isles24_zarr.geometry import scan_grid

        return scan_grid(self._scan)

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4: from voxel indices (x, y, z) of these data to RAS mm, right after any slicing.

        Examples
        --------
        >>> scan.isles.affine.round(1).tolist()[2]
        [0.0, 0.8, 12.1, -80.5]
        """
        return self._grid().affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels of these data along (x, y, z), in mm.

        Examples
        --------
        >>> [round(distance, 2) for distance in scan.isles.spacing]
        [4.48, 4.39, 12.33]
        """
        return self._grid().spacing

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel of these data, in mm^3.

        Examples
        --------
        >>> round(scan.isles.voxel_volume, 1)
        242.7
        """
        return self._grid().voxel_volume

    def to_world(self, voxels: ArrayLike) -> NDArray[np.float64]:
        """Return the positions of voxels.

        Parameters
        ----------
        voxels
            (..., 3), indices along (x, y, z) of these data; they may lie between voxels.

        Returns
        -------
        numpy.ndarray
            (..., 3), RAS in mm.

        Examples
        --------
        >>> scan.isles.to_world([0, 0, 1]).round(1).tolist()
        [-105.3, -108.8, -68.4]
        """
        from isles24_zarr.geometry import world_from_voxel

        return world_from_voxel(self.affine, voxels)

    def sel_world(self, positions: ArrayLike) -> Any:
        """Select the voxels nearest to positions.

        Parameters
        ----------
        positions
            (3,) or (n, 3), RAS in mm.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            Without x, y and z for one position; over ``point`` for several.

        Raises
        ------
        GeometryError
            A position lies outside of the volume.

        Examples
        --------
        >>> dict(scan["ctp"].isles.sel_world(scan.isles.to_world([[3, 4, 5], [6, 7, 8]])).sizes)
        {'time': 12, 'point': 2}
        """
        from isles24_zarr.geometry import nearest_voxels

        return nearest_voxels(self._scan, positions)

    def resample_like(self, reference: xr.Dataset | xr.DataArray, *, method: ResamplingMethod = "nearest") -> Any:
        """Return these data on the grid of others, through both affines, lazily.

        Parameters
        ----------
        reference
            A scan or an image, whose grid the result has.
        method
            ``"nearest"``, or ``"linear"`` for images that are no labels.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            On Dask. Outside of these data, masks are 0 and all else is NaN. See `analysis.resampled_like`, which says
            what headers do not promise.

        Raises
        ------
        GeometryError
            An axis is gone, or the orientation of one of both is not known.
        MaskError
            Labels cannot be interpolated linearly.
        UnknownNameError
            There is no such method.

        Examples
        --------
        >>> acquired = cohort.isles.scan("sub-stroke0001", space="ctp")
        >>> scan["lesion_mask"].isles.resample_like(acquired).shape == acquired["tmax"].shape
        True
        """
        from isles24_zarr.analysis import resampled_like

        if isinstance(self._scan, xr.Dataset):
            return self._scan.map(resampled_like, args=(reference,), method=method)
        return resampled_like(self._scan, reference, method=method)


def ct_window(name: str) -> tuple[float, float]:
    """Return centre and width of a CT window, in HU."""
    if name not in CT_WINDOWS:
        raise UnknownNameError(repr(name), f"is no CT window, there are {', '.join(CT_WINDOWS)}")
    return CT_WINDOWS[name]
