"""``.isles`` on xarray objects: short names for functions of other modules. Accessors hold no state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr import analysis, charts, dataset, grid, plot, summary, traces
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.vocabulary import CT_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import nibabel as nib
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from isles24_zarr.summary import SubjectSummary


class _Geometry:
    """What scans and single images have in common."""

    def __init__(self, scan: xr.Dataset | xr.DataArray) -> None:
        self._scan: Any = scan

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4, indices (x, y, z) of these data to RAS millimetres, right after any slicing."""
        return dataset.scan_grid(self._scan).affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels of these data along (x, y, z), in mm."""
        return dataset.scan_grid(self._scan).spacing

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel of these data in mm^3."""
        return dataset.scan_grid(self._scan).voxel_volume

    def to_world(self, voxels: ArrayLike) -> NDArray[np.float64]:
        """Return the positions of voxels.

        Parameters
        ----------
        voxels
            (..., 3), indices along (x, y, z) of these data.

        Returns
        -------
        numpy.ndarray
            (..., 3), RAS in mm.
        """
        return grid.world_from_voxel(self.affine, voxels)

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
        """
        return dataset.nearest_voxels(self._scan, positions)


@xr.register_dataset_accessor("isles")
class ScanAccessor(_Geometry):
    """``scan.isles``: geometry and volumes of a scan."""

    def window(self, name: str) -> xr.Dataset:
        """Map a CT window of the images in HU to 0 .. 1 (see `analysis.windowed`).

        Parameters
        ----------
        name
            One of `vocabulary.CT_WINDOWS`, such as ``"brain"``.

        Raises
        ------
        UnknownNameError
            There is no such window.
        """
        in_hu = [name for name, image in self._scan.data_vars.items() if image.attrs.get("units") == "HU"]
        windowed: xr.Dataset = self._scan[in_hu].map(analysis.windowed, args=_window(name))
        return windowed

    def to_nifti(self, name: str) -> nib.Nifti1Image | nib.Nifti2Image:
        """Return an image of this scan for nibabel (see `dataset.nifti_image`).

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        """
        return dataset.nifti_image(self._image(name))

    def montage(self, **options: Any) -> Figure:
        """Draw axial slices of the scan (see `plot.montage`)."""
        return plot.montage(self._scan, **options)

    def plot_time_curves(self, regions: Mapping[str, xr.DataArray], **options: Any) -> Figure:
        """Draw time curves of regions beside the slices that show them (see `traces.time_curves`)."""
        return traces.time_curves(self._scan, regions, **options)

    def _image(self, name: str) -> xr.DataArray:
        if name not in self._scan:
            raise UnknownNameError(repr(name), f"is not in this scan, which has {', '.join(self._scan.data_vars)}")
        image: xr.DataArray = self._scan[name]
        return image

    def volume(self, name: str = "lesion_mask", *, label: int | None = None) -> float:
        """Return the volume of a mask in mL (see `analysis.mask_volume`).

        Parameters
        ----------
        name
            Of the mask.
        label
            Count this label alone.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        """
        return analysis.mask_volume(self._image(name), self.voxel_volume, label=label)


@xr.register_dataarray_accessor("isles")
class ImageAccessor(_Geometry):
    """``scan["ctp"].isles``: geometry of one image."""

    def to_nifti(self) -> nib.Nifti1Image | nib.Nifti2Image:
        """Return this image, or what is left of it, for nibabel (see `dataset.nifti_image`)."""
        return dataset.nifti_image(self._scan)

    def volume(self, *, label: int | None = None) -> float:
        """Return the volume of this mask in mL (see `analysis.mask_volume`)."""
        return analysis.mask_volume(self._scan, self.voxel_volume, label=label)

    def window(self, name: str) -> xr.DataArray:
        """Map a CT window to 0 .. 1; see the same method of a scan."""
        return analysis.windowed(self._scan, *_window(name))


def _window(name: str) -> tuple[float, float]:
    if name not in CT_WINDOWS:
        raise UnknownNameError(repr(name), f"is no CT window, there are {', '.join(CT_WINDOWS)}")
    return CT_WINDOWS[name]


@xr.register_datatree_accessor("isles")
class CohortAccessor:
    """``cohort.isles``: subjects, the clinical table and their scans."""

    def __init__(self, cohort: xr.DataTree) -> None:
        self._cohort = cohort

    @property
    def subjects(self) -> list[str]:
        """Names of the subjects."""
        return dataset.subject_names(self._cohort)

    @property
    def table(self) -> pd.DataFrame:
        """One row a subject, one column a clinical variable; missing values are NaN or None."""
        return dataset.clinical_table(self._cohort)

    def select(self, which: str | ArrayLike) -> xr.DataTree:
        """Return a smaller cohort.

        Parameters
        ----------
        which
            A pandas query over the columns of `table`, such as ``"nihss_admission > 15 and sex == 'F'"``, or a
            boolean for each subject.
        """
        return dataset.selected_cohort(self._cohort, which)

    def scan(self, subject: str, space: str = "ncct", **options: Any) -> xr.Dataset:
        """Open a scan of a subject; see `dataset.open_scan` for the options."""
        target = dataset.cohort_target(self._cohort)
        return dataset.open_scan(target.url, subject, space, storage_options=target.storage_options, **options)

    def summary(self, subject: str) -> SubjectSummary:
        """Gather one page on a subject, which a notebook shows and ``.save`` writes (see `summary.subject_summary`)."""
        return summary.subject_summary(self._cohort, subject)

    def missingness(self) -> Figure:
        """Draw which clinical variables and images are missing (see `charts.missingness`)."""
        return charts.missingness(self._cohort)
