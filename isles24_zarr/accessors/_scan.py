"""``scan.isles``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from isles24_zarr.accessors._frameworks import ScanFrameworksAccessor
from isles24_zarr.accessors._geometry import ct_window
from isles24_zarr.accessors._measures import MeasuresAccessor
from isles24_zarr.accessors._results import SavingAccessor
from isles24_zarr.conventions import BASELINE_FRAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import nibabel as nib
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike


@xr.register_dataset_accessor("isles")
class ScanAccessor(MeasuresAccessor, SavingAccessor, ScanFrameworksAccessor):
    """``scan.isles``: geometry, volumes, curves and figures of a scan."""

    def window(self, name: str) -> xr.Dataset:
        """Map a CT window of the images in HU to 0 .. 1, as on a display.

        Parameters
        ----------
        name
            One of `vocabulary.CT_WINDOWS`: ``"brain"``, ``"stroke"``, ``"bone"`` or ``"angio"``.

        Returns
        -------
        xarray.Dataset
            The images in HU, float32 of the same shapes, lazy if they are.

        Raises
        ------
        UnknownNameError
            There is no such window.

        Examples
        --------
        >>> list(scan.isles.window("brain").data_vars)
        ['ncct', 'cta', 'ctp']
        """
        from isles24_zarr.analysis import windowed

        in_hu = [each for each, image in self._scan.data_vars.items() if image.attrs.get("units") == "HU"]
        result: xr.Dataset = self._scan[in_hu].map(windowed, args=ct_window(name))
        return result

    def to_nifti(self, name: str, *, like: str | xr.DataArray | None = None) -> nib.Nifti1Image | nib.Nifti2Image:
        """Return an image of this scan for nibabel.

        Parameters
        ----------
        name
            Of the image.
        like
            Whose axes the voxels are given in: by default those of the scan; ``"file"``, those of the file that the
            image comes from; or another image, those of its file.

        Returns
        -------
        nibabel image
            See `scans.nifti_image`.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        GeometryError, VoxelTypeError
            It cannot be a NIfTI image.

        Examples
        --------
        >>> scan.isles.to_nifti("ncct").shape == scan["ncct"].transpose("x", "y", "z").shape
        True
        """
        from isles24_zarr.scans import nifti_image

        return nifti_image(self._image(name), like=like)

    def montage(
        self,
        images: str | Sequence[str] | None = None,
        *,
        overlay: xr.DataArray | None = None,
        slices: int = 4,
        title: str | None = None,
        threshold: float | None = None,
    ) -> Figure:
        """Draw axial slices of the scan, with outlines of the infarct and of the occlusion.

        Parameters
        ----------
        images
            Names of the images to show, from top to bottom; one name, too. Maps of your own are variables of the scan.
        overlay
            A map of your own, (z, y, x), on the grid of the scan: floating-point numbers are laid in colours over the
            images, booleans and whole numbers are outlined.
        slices
            How many; all, where the scan has fewer.
        title
            Stands in for the subject and the volume of its infarct in mL.
        threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        matplotlib.figure.Figure
            See `figures.montage`, whose errors it raises.

        Examples
        --------
        >>> figure = scan.isles.montage(images=["ncct", "tmax"], slices=2, threshold=0.5)
        >>> figure.savefig("montage.png")  # doctest: +SKIP
        >>> figure = scan.isles.montage("ncct", overlay=scan["tmax"].where(scan["tmax"] > 6), threshold=0.5)
        """
        from isles24_zarr.figures import montage

        return montage(self._scan, images, overlay=overlay, slices=slices, title=title, threshold=threshold)

    def plot_time_curves(
        self,
        regions: Mapping[str, xr.DataArray],
        *,
        curves: Mapping[str, xr.DataArray] | None = None,
        image: str = "ctp",
        title: str | None = None,
        threshold: float | None = None,
    ) -> Figure:
        """Draw time curves of regions beside the slices that show where the regions are.

        Parameters
        ----------
        regions
            Name of each region and its mask (z, y, x) on the grid of the scan, or its curve (time,).
        curves
            Curves that have been measured before, (time,), by the name of the region.
        image
            Name of the series, (time, z, y, x).
        title
            Stands in for the subject.
        threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        matplotlib.figure.Figure
            See `figures.time_curves`, whose errors it raises.

        Examples
        --------
        >>> figure = scan.isles.plot_time_curves({"infarct": scan["lesion_mask"]}, threshold=0.5)
        """
        from isles24_zarr.figures import time_curves

        return time_curves(self._scan, regions, curves=curves, image=image, title=title, threshold=threshold)

    def time_curve(
        self,
        region: str | ArrayLike,
        *,
        series: str = "ctp",
        label: int | None = None,
        radius: float | None = None,
        threshold: float | None = None,
    ) -> xr.DataArray:
        """Return the mean of a series in a region over time.

        Parameters
        ----------
        region
            The name of a mask, or a mask (z, y, x), or one or several positions (3,) or (n, 3) in RAS mm.
        series
            Its name.
        label
            Of a mask, take this label alone.
        radius
            About positions, in mm.
        threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        xarray.DataArray
            (time,), in units of the series. See `analysis.time_curve`.

        Raises
        ------
        UnknownNameError
            The scan has no such mask or series.
        GeometryError, MaskError
            The region is on another grid, outside of the volume, or no mask.

        Examples
        --------
        >>> scan.isles.time_curve("lesion_mask", threshold=0.5).dims
        ('time',)
        """
        from isles24_zarr.analysis import region_curve

        return region_curve(self._image(series), self._mask(region), label=label, radius=radius, threshold=threshold)

    def arterial_inputs(
        self, *, count: int = 10, baseline_frames: int = BASELINE_FRAMES, lowest_peak: float = 100.0
    ) -> pd.DataFrame:
        """Return voxels of the CTP whose curves look like those of arteries: early, high and narrow.

        Parameters
        ----------
        count
            How many to return at most.
        baseline_frames
            Frames at the start whose mean is the baseline.
        lowest_peak
            Enhancement in HU that makes a vessel.

        Returns
        -------
        pandas.DataFrame
            The best first: ``x``, ``y``, ``z`` in RAS mm, ``baseline``, ``peak`` in HU, ``time_to_peak``, ``width``
            in s. See `analysis.arterial_input_candidates`.

        Raises
        ------
        UnknownNameError
            The scan has no ctp, or fewer frames than that, or the count is not positive.

        Examples
        --------
        >>> scan.isles.arterial_inputs(count=3)["peak"].is_monotonic_increasing
        False
        """
        from isles24_zarr.analysis import arterial_input_candidates

        return arterial_input_candidates(
            self._image("ctp"), count=count, baseline_frames=baseline_frames, lowest_peak=lowest_peak
        )
