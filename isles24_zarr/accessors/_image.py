"""``scan["ctp"].isles``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from isles24_zarr.accessors._geometry import ct_window
from isles24_zarr.accessors._perfusion import SeriesAccessor
from isles24_zarr.conventions import BASELINE_FRAMES, MATCHING_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    import nibabel as nib
    import pandas as pd
    from numpy.typing import ArrayLike

    from isles24_zarr.analysis import ChallengeMetrics


@xr.register_dataarray_accessor("isles")
class ImageAccessor(SeriesAccessor):
    """``scan["ctp"].isles``: geometry and numbers of one image."""

    def to_nifti(self, *, like: str | xr.DataArray | None = None) -> nib.Nifti1Image | nib.Nifti2Image:
        """Return this image, what is left of it, or what was computed, for nibabel.

        Parameters
        ----------
        like
            Whose axes the voxels are given in: by default those of this image; ``"file"``, those of the file that it
            comes from; or another image, those of its file.

        Returns
        -------
        nibabel image
            See `scans.nifti_image`.

        Raises
        ------
        GeometryError, VoxelTypeError
            It cannot be a NIfTI image.

        Examples
        --------
        >>> (scan["tmax"] > 6).isles.to_nifti().get_data_dtype()
        dtype('uint8')
        """
        from isles24_zarr.scans import nifti_image

        return nifti_image(self._scan, like=like)

    def labels(self, *, threshold: float | None = None) -> xr.DataArray:
        """Return this mask as labels, whatever its values are.

        Parameters
        ----------
        threshold
            Fraction from which on voxels of a soft mask count; 0.5 where none is given, with a `SoftMaskWarning`.

        Returns
        -------
        xarray.DataArray
            An unsigned integer type, same axes, lazy if the mask is. Of a soft mask, its attribute ``threshold`` says
            which one was taken.

        Raises
        ------
        MaskError
            Its values are neither labels nor fractions between 0 and 1.

        Examples
        --------
        >>> sorted(set(scan["lesion_mask"].isles.labels(threshold=0.5).values.ravel().tolist()))
        [0, 1]
        """
        from isles24_zarr.analysis import labelled

        return labelled(self._scan, threshold)

    def computed(self) -> xr.DataArray:
        """Return where this image holds values: not where perfusion software left 0 or, in Tmax, less.

        Returns
        -------
        xarray.DataArray
            Booleans of the same shape, lazy if the image is; see `analysis.computed_voxels`. Of what was computed from
            a map, also by ``where``, all that is finite: see `analysis.map_name`.

        Examples
        --------
        >>> scan["tmax"].isles.computed().dtype
        dtype('bool')
        """
        from isles24_zarr.analysis import computed_voxels, map_name

        where: xr.DataArray = computed_voxels(self._scan, map_name(self._scan))
        return where.rename("computed")

    def volume(self, *, label: int | None = None, threshold: float | None = None) -> float:
        """Return the volume of this mask, in mL.

        Parameters
        ----------
        label
            Count this label alone.
        threshold
            Fraction from which on voxels of a soft mask count; 0.5 where none is given, with a `SoftMaskWarning`.

        Raises
        ------
        MaskError
            Its values are neither labels nor fractions between 0 and 1.

        Examples
        --------
        >>> scan["lvo_mask"].isles.volume() >= 0
        True
        """
        from isles24_zarr.analysis import mask_volume

        return mask_volume(self._scan, self.voxel_volume, label=label, threshold=threshold)

    def volumes(self, *, threshold: float | None = None) -> pd.DataFrame:
        """Return the volume of every label of this mask.

        Parameters
        ----------
        threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        pandas.DataFrame
            A row for each label: ``name``, ``present``, ``voxels``, and ``volume`` in mL.

        Raises
        ------
        MaskError
            As for `volume`.

        Examples
        --------
        >>> scan["cow_mask"].isles.volumes().columns.tolist()
        ['name', 'present', 'voxels', 'volume']
        """
        from isles24_zarr.analysis import label_volumes

        return label_volumes(self._scan, self.voxel_volume, threshold=threshold)

    def statistics(
        self,
        mask: ArrayLike,
        *,
        by_label: bool = False,
        percentiles: Sequence[float] = (5, 25, 50, 75, 95),
        threshold: float | None = None,
        computed: bool | None = None,
    ) -> pd.DataFrame:
        """Describe the values of this image inside of a mask.

        Parameters
        ----------
        mask
            On the same grid: booleans, labels or fractions.
        by_label, percentiles, threshold, computed
            As for `ScanAccessor.statistics`.

        Returns
        -------
        pandas.DataFrame
            One row, or one for each label, in units of the image. See `analysis.mask_statistics`.

        Raises
        ------
        UnknownNameError
            A percentile is not between 0 and 100.
        GeometryError, MaskError
            The mask is on another grid, or no mask.

        Examples
        --------
        >>> scan["ncct"].isles.statistics(scan["ncct"] > 0, percentiles=[50]).columns.tolist()
        ['voxels', 'left_out', 'volume', 'mean', 'std', 'min', 'p50', 'max']
        """
        from isles24_zarr.analysis import mask_statistics

        return mask_statistics(
            self._scan,
            mask,
            self.voxel_volume,
            by_label=by_label,
            percentiles=percentiles,
            threshold=threshold,
            computed=computed,
        )

    def challenge_metrics(
        self,
        reference: ArrayLike,
        *,
        voxel_volume: float | None = None,
        brain: ArrayLike | None = None,
        matching_threshold: float = MATCHING_THRESHOLD,
        threshold: float | None = None,
    ) -> ChallengeMetrics:
        """Compare this mask, a prediction, with the true one as ISLES'24 does.

        Parameters
        ----------
        reference
            The true mask, (z, y, x), on the same grid.
        voxel_volume
            In mm^3; by default that of the grid.
        brain
            Mask (z, y, x) outside of which nothing counts, as of ``scan.isles.brain_mask()``.
        matching_threshold
            Intersection over union from which on two lesions match.
        threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        ChallengeMetrics
            See `analysis.challenge_metrics`.

        Raises
        ------
        GeometryError, MaskError
            The masks are on different grids, or no masks.

        Examples
        --------
        >>> mask = scan["lesion_mask"].isles.labels(threshold=0.5)
        >>> mask.isles.challenge_metrics(mask).dice
        1.0
        """
        from isles24_zarr.analysis import challenge_metrics

        return challenge_metrics(
            self._scan,
            reference,
            voxel_volume,
            brain=brain,
            matching_threshold=matching_threshold,
            threshold=threshold,
        )

    def time_curve(
        self,
        region: ArrayLike,
        *,
        label: int | None = None,
        radius: float | None = None,
        threshold: float | None = None,
    ) -> xr.DataArray:
        """Return the mean of this series in a mask, or about positions, over time.

        Parameters
        ----------
        region
            A mask (z, y, x), or one or several positions (3,) or (n, 3) in RAS mm.
        label, radius, threshold
            As for `ScanAccessor.time_curve`.

        Returns
        -------
        xarray.DataArray
            (time,), in units of the series.

        Raises
        ------
        GeometryError, MaskError
            The region is on another grid, outside of the volume, or no mask.

        Examples
        --------
        >>> scan["ctp"].isles.time_curve(scan.isles.to_world([8, 8, 4]), radius=12).sizes["time"]
        12
        """
        from isles24_zarr.analysis import region_curve

        return region_curve(self._scan, region, label=label, radius=radius, threshold=threshold)

    def enhancement(self, *, baseline_frames: int = BASELINE_FRAMES) -> xr.DataArray:
        """Subtract the mean of the frames before the contrast agent.

        Parameters
        ----------
        baseline_frames
            How many frames at the start.

        Returns
        -------
        xarray.DataArray
            (time, ...), same shape, lazy if the series is.

        Raises
        ------
        GeometryError
            There is no time axis.
        UnknownNameError
            The series does not have so many frames.

        Examples
        --------
        >>> scan["ctp"].isles.enhancement(baseline_frames=2).shape == scan["ctp"].shape
        True
        """
        from isles24_zarr.analysis import enhancement

        return enhancement(self._scan, baseline_frames=baseline_frames)

    def time_to_peak(self) -> xr.DataArray:
        """Return when this series is highest, in s.

        Returns
        -------
        xarray.DataArray
            Without time, float32, lazy if the series is; NaN where a curve is constant.

        Raises
        ------
        GeometryError
            There is no time axis.

        Examples
        --------
        >>> scan["ctp"].isles.time_to_peak().dims
        ('z', 'y', 'x')
        """
        from isles24_zarr.analysis import time_to_peak

        return time_to_peak(self._scan)

    def window(self, name: str) -> xr.DataArray:
        """Map a CT window to 0 .. 1, as on a display.

        Parameters
        ----------
        name
            One of `vocabulary.CT_WINDOWS`: ``"brain"``, ``"stroke"``, ``"bone"`` or ``"angio"``.

        Returns
        -------
        xarray.DataArray
            float32, same shape, lazy if the image is.

        Raises
        ------
        UnknownNameError
            There is no such window.

        Examples
        --------
        >>> float(scan["ncct"].isles.window("stroke").max())
        1.0
        """
        from isles24_zarr.analysis import windowed

        return windowed(self._scan, *ct_window(name))
