"""``.isles`` on xarray objects: short names for functions of other modules. Accessors hold no state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr import (
    analysis,
    arteries,
    blocks,
    charts,
    cohort,
    coordinates,
    curves,
    dataset,
    grid,
    images,
    masks,
    metrics,
    perfusion,
    plot,
    records,
    summary,
    traces,
)
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.vocabulary import CT_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import datasets
    import nibabel as nib
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from isles24_zarr.summary import SubjectSummary
    from isles24_zarr.training import PatchDataset


class _Geometry:
    """What scans and single images have in common."""

    def __init__(self, scan: xr.Dataset | xr.DataArray) -> None:
        self._scan: Any = scan

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4, indices (x, y, z) of these data to RAS millimetres, right after any slicing."""
        return coordinates.scan_grid(self._scan).affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels of these data along (x, y, z), in mm."""
        return coordinates.scan_grid(self._scan).spacing

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel of these data in mm^3."""
        return coordinates.scan_grid(self._scan).voxel_volume

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
        return coordinates.nearest_voxels(self._scan, positions)


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

    def to_nifti(self, name: str, *, like: str | xr.DataArray | None = None) -> nib.Nifti1Image | nib.Nifti2Image:
        """Return an image of this scan for nibabel (see `images.nifti_image`).

        Parameters
        ----------
        name
            Of the image.
        like
            ``"file"``, or an image of a scan: in the axes of that file.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        """
        return images.nifti_image(self._image(name), like=like)

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

    def volume(self, name: str = "lesion_mask", *, label: int | None = None, threshold: float | None = None) -> float:
        """Return the volume of a mask in mL (see `analysis.mask_volume`).

        Parameters
        ----------
        name
            Of the mask.
        label
            Count this label alone.
        threshold
            From which fraction on voxels of a soft mask count; 0.5 where none is given, with a `SoftMaskWarning`.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        MaskError
            Its values are neither labels nor fractions between 0 and 1.
        """
        return analysis.mask_volume(self._image(name), self.voxel_volume, label=label, threshold=threshold)

    def volumes(self, name: str = "cow_mask", *, threshold: float | None = None) -> pd.DataFrame:
        """Return a row for each label of a mask: name, voxels, volume in mL (see `analysis.label_volumes`)."""
        return analysis.label_volumes(self._image(name), self.voxel_volume, threshold=threshold)

    def statistics(self, name: str, mask: str | ArrayLike = "lesion_mask", **options: Any) -> pd.DataFrame:
        """Describe an image inside of a mask of this scan, or of another (see `analysis.mask_statistics`)."""
        return analysis.mask_statistics(self._image(name), self._mask(mask), self.voxel_volume, **options)

    def perfusion_lesions(self, **options: float) -> perfusion.PerfusionLesions:
        """Measure hypoperfusion, core and mismatch by Tmax and CBF (see `perfusion.perfusion_lesions`)."""
        return perfusion.perfusion_lesions(self._image("tmax"), self._image("cbf"), **options)

    def perfusion_masks(self, **options: float) -> xr.Dataset:
        """Return the masks of hypoperfusion and core, lazy (see `perfusion.perfusion_masks`)."""
        return perfusion.perfusion_masks(self._image("tmax"), self._image("cbf"), **options)

    def overlaps(
        self, mask: str | ArrayLike = "lesion_mask", *, threshold: float | None = None, **options: float
    ) -> pd.DataFrame:
        """Measure how a mask overlaps with hypoperfusion and core (see `analysis.mask_overlaps`)."""
        lesions = self.perfusion_masks(**options).data_vars
        return analysis.mask_overlaps(self._mask(mask), lesions, self.voxel_volume, threshold=threshold)

    def time_curve(self, region: str | ArrayLike, *, series: str = "ctp", **options: Any) -> xr.DataArray:
        """Return the mean of a series in a region over time (see `curves.region_curve`).

        Parameters
        ----------
        region
            The name of a mask, or a mask, or one or several positions in RAS mm.
        series
            Its name.
        **options
            ``label`` of a mask, ``threshold`` of a soft one, ``radius`` about positions in mm.

        Raises
        ------
        UnknownNameError
            The scan has no such mask or series.
        """
        return curves.region_curve(self._image(series), self._mask(region), **options)

    def arterial_inputs(self, **options: Any) -> pd.DataFrame:
        """Return candidates for the arterial input of the CTP (see `arteries.arterial_input_candidates`)."""
        return arteries.arterial_input_candidates(self._image("ctp"), **options)

    def _mask(self, mask: str | ArrayLike) -> Any:
        return self._image(mask) if isinstance(mask, str) else mask


@xr.register_dataarray_accessor("isles")
class ImageAccessor(_Geometry):
    """``scan["ctp"].isles``: geometry of one image."""

    def to_nifti(self, *, like: str | xr.DataArray | None = None) -> nib.Nifti1Image | nib.Nifti2Image:
        """Return this image, what is left of it, or what was computed, for nibabel (see `images.nifti_image`).

        Parameters
        ----------
        like
            ``"file"``: in the axes of the file that it comes from. An image of a scan: in those of its file.
        """
        return images.nifti_image(self._scan, like=like)

    def labels(self, *, threshold: float | None = None) -> xr.DataArray:
        """Return this mask as labels, whatever its values are (see `masks.labelled`)."""
        return masks.labelled(self._scan, threshold)

    def computed(self) -> xr.DataArray:
        """Return where this image holds values: not where perfusion software left 0 or, in Tmax, less.

        Returns
        -------
        xarray.DataArray
            Booleans of the same shape, lazy if the image is; see `blocks.computed_voxels`.
        """
        where: xr.DataArray = blocks.computed_voxels(self._scan, str(self._scan.name))
        return where.rename("computed")

    def volume(self, *, label: int | None = None, threshold: float | None = None) -> float:
        """Return the volume of this mask in mL (see `analysis.mask_volume`)."""
        return analysis.mask_volume(self._scan, self.voxel_volume, label=label, threshold=threshold)

    def volumes(self, *, threshold: float | None = None) -> pd.DataFrame:
        """Return a row for each label of this mask (see `analysis.label_volumes`)."""
        return analysis.label_volumes(self._scan, self.voxel_volume, threshold=threshold)

    def statistics(self, mask: ArrayLike, **options: Any) -> pd.DataFrame:
        """Describe this image inside of a mask (see `analysis.mask_statistics`)."""
        return analysis.mask_statistics(self._scan, mask, self.voxel_volume, **options)

    def challenge_metrics(self, reference: ArrayLike, **options: Any) -> metrics.ChallengeMetrics:
        """Compare this mask with the true one as ISLES'24 does (see `metrics.challenge_metrics` for the options)."""
        return metrics.challenge_metrics(self._scan, reference, **options)

    def time_curve(self, region: ArrayLike, **options: Any) -> xr.DataArray:
        """Return the mean of this series in a mask, or about positions (see `curves.region_curve`)."""
        return curves.region_curve(self._scan, region, **options)

    def enhancement(self, **options: int) -> xr.DataArray:
        """Subtract the frames before the contrast agent (see `curves.enhancement`)."""
        return curves.enhancement(self._scan, **options)

    def time_to_peak(self) -> xr.DataArray:
        """Return when this series is highest (see `curves.time_to_peak`)."""
        return curves.time_to_peak(self._scan)

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
        return cohort.subject_names(self._cohort)

    @property
    def table(self) -> pd.DataFrame:
        """One row a subject, one column a clinical variable; missing values are NaN or None."""
        return cohort.clinical_table(self._cohort)

    def select(self, which: str | ArrayLike) -> xr.DataTree:
        """Return a smaller cohort.

        Parameters
        ----------
        which
            A pandas query over the columns of `table`, such as ``"nihss_admission > 15 and sex == 'F'"``, or a
            boolean for each subject (see `cohort.selected_cohort`).
        """
        return cohort.selected_cohort(self._cohort, which)

    def train_test_split(self, test_size: float = 0.2, **options: Any) -> tuple[xr.DataTree, xr.DataTree]:
        """Split at random into two cohorts alike in centre and outcome; see `cohort.split_cohort` for the options."""
        return cohort.split_cohort(self._cohort, test_size, **options)

    def scan(self, subject: str, space: str = "ncct", **options: Any) -> xr.Dataset:
        """Open a scan of a subject; see `dataset.open_scan` for the options."""
        target = cohort.cohort_target(self._cohort)
        return dataset.open_scan(target.url, subject, space, storage_options=target.storage_options, **options)

    def map(self, function: Callable[[xr.Dataset], Any], **options: Any) -> pd.DataFrame:
        """Run a function of a scan for every subject on Dask; see `cohort.mapped_subjects` for the options."""
        return cohort.mapped_subjects(self._cohort, function, **options)

    @property
    def examples(self) -> records.Records:
        """One record a subject with the keys of the dataset card, images lazy (see `records.Record`)."""
        return records.cohort_records(self._cohort)

    def to_hf_dataset(self, **options: Any) -> datasets.Dataset:
        """Return a Hugging Face Dataset with the schema of the card; see `records.hf_dataset` for the options."""
        return records.hf_dataset(self._cohort, **options)

    def torch_dataset(self, images: Sequence[str], label: str = "lesion_mask", **options: Any) -> PatchDataset:
        """Return patches as a PyTorch Dataset; see `training.torch_dataset` for the options."""
        from isles24_zarr.training import torch_dataset

        return torch_dataset(self._cohort, images, label, **options)

    def summary(self, subject: str) -> SubjectSummary:
        """Gather one page on a subject, which a notebook shows and ``.save`` writes (see `summary.subject_summary`)."""
        return summary.subject_summary(self._cohort, subject)

    def missingness(self) -> Figure:
        """Draw which clinical variables and images are missing (see `charts.missingness`)."""
        return charts.missingness(self._cohort)
