"""What is measured in a scan: volumes, statistics, perfusion lesions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isles24_zarr.accessors._perfusion import ScanPerfusionAccessor
from isles24_zarr.conventions import CBF_FRACTION, TMAX_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import xarray as xr
    from numpy.typing import ArrayLike

    from isles24_zarr.analysis import PerfusionLesions


class MeasuresAccessor(ScanPerfusionAccessor):
    """Numbers of the images and masks of a scan."""

    def volume(self, name: str = "lesion_mask", *, label: int | None = None, threshold: float | None = None) -> float:
        """Return the volume of a mask, in mL.

        Parameters
        ----------
        name
            Of the mask.
        label
            Count this label alone.
        threshold
            Fraction from which on voxels of a soft mask count; 0.5 where none is given, with a `SoftMaskWarning`.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        MaskError
            Its values are neither labels nor fractions between 0 and 1.

        Examples
        --------
        >>> round(scan.isles.volume("lesion_mask", threshold=0.5), 1)
        30.8
        """
        from isles24_zarr.analysis import mask_volume

        return mask_volume(self._image(name), self.voxel_volume, label=label, threshold=threshold)

    def volumes(self, name: str = "cow_mask", *, threshold: float | None = None) -> pd.DataFrame:
        """Return the volume of every label of a mask.

        Parameters
        ----------
        name
            Of the mask.
        threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        pandas.DataFrame
            A row for each label: ``name``, ``present``, ``voxels``, and ``volume`` in mL.

        Raises
        ------
        UnknownNameError, MaskError
            As for `volume`.

        Examples
        --------
        >>> scan.isles.volumes("cow_mask").loc[1, "name"]
        'BA'
        """
        from isles24_zarr.analysis import label_volumes

        return label_volumes(self._image(name), self.voxel_volume, threshold=threshold)

    def statistics(
        self,
        name: str,
        mask: str | ArrayLike = "lesion_mask",
        *,
        by_label: bool = False,
        percentiles: Sequence[float] = (5, 25, 50, 75, 95),
        threshold: float | None = None,
        computed: bool | None = None,
    ) -> pd.DataFrame:
        """Describe the values of an image inside of a mask.

        Parameters
        ----------
        name
            Of the image, (z, y, x).
        mask
            Name of a mask of this scan, or a mask on its grid: booleans, labels or fractions.
        by_label
            Describe the voxels of each label apart.
        percentiles
            From 0 to 100.
        threshold
            Fraction from which on voxels of a soft mask count.
        computed
            Leave out voxels of perfusion maps in which nothing was computed; by default of maps as they were opened,
            and not of what was computed from them. See `analysis.mask_statistics`.

        Returns
        -------
        pandas.DataFrame
            One row, or one for each label: ``voxels``, ``left_out``, ``volume`` in mL, ``mean``, ``std``, ``min``, a
            column for each percentile, ``max``, in units of the image. See `analysis.mask_statistics`.

        Raises
        ------
        UnknownNameError
            The scan has no such image or mask, or a percentile is not between 0 and 100.
        GeometryError, MaskError
            The mask is on another grid, or no mask.

        Examples
        --------
        >>> table = scan.isles.statistics("tmax", threshold=0.5)
        >>> int(table["voxels"].iloc[0])
        127
        """
        from isles24_zarr.analysis import mask_statistics

        return mask_statistics(
            self._image(name),
            self._mask(mask),
            self.voxel_volume,
            by_label=by_label,
            percentiles=percentiles,
            threshold=threshold,
            computed=computed,
        )

    def perfusion_lesions(
        self,
        *,
        brain: str | ArrayLike | None = None,
        tmax_threshold: float = TMAX_THRESHOLD,
        cbf_fraction: float = CBF_FRACTION,
    ) -> PerfusionLesions:
        """Measure hypoperfusion, ischaemic core and their mismatch by Tmax and CBF.

        Parameters
        ----------
        brain
            Mask of booleans, labels or fractions, or its name, outside of which nothing counts; by default that of
            `brain_mask` where the scan has an NCCT, and all of the maps where not, as derived ones stop at the brain by
            themselves.
        tmax_threshold
            In s: tissue above is hypoperfused.
        cbf_fraction
            Hypoperfused tissue below this fraction of the median CBF of the other hemisphere is core.

        Returns
        -------
        PerfusionLesions
            Volumes in mL. See `analysis.perfusion_lesions` for what it does not do.

        Raises
        ------
        UnknownNameError
            The scan has no tmax or cbf.

        Examples
        --------
        >>> lesions = scan.isles.perfusion_lesions()
        >>> lesions.hypoperfusion > lesions.core > 0, lesions.side
        (True, 'left')
        """
        from isles24_zarr.analysis import perfusion_lesions

        return perfusion_lesions(
            self._image("tmax"),
            self._image("cbf"),
            brain=self._brain_or(brain),
            tmax_threshold=tmax_threshold,
            cbf_fraction=cbf_fraction,
        )

    def perfusion_masks(
        self,
        *,
        brain: str | ArrayLike | None = None,
        tmax_threshold: float = TMAX_THRESHOLD,
        cbf_fraction: float = CBF_FRACTION,
    ) -> xr.Dataset:
        """Return where tissue is hypoperfused, and where it is core.

        Parameters
        ----------
        brain, tmax_threshold, cbf_fraction
            As for `perfusion_lesions`, which is computed at once.

        Returns
        -------
        xarray.Dataset
            Booleans ``hypoperfusion`` and ``core`` (z, y, x), lazy if the maps are.

        Raises
        ------
        UnknownNameError
            The scan has no tmax or cbf.

        Examples
        --------
        >>> list(scan.isles.perfusion_masks().data_vars)
        ['hypoperfusion', 'core']
        """
        from isles24_zarr.analysis import perfusion_masks

        return perfusion_masks(
            self._image("tmax"),
            self._image("cbf"),
            brain=self._brain_or(brain),
            tmax_threshold=tmax_threshold,
            cbf_fraction=cbf_fraction,
        )

    def overlaps(
        self,
        mask: str | ArrayLike = "lesion_mask",
        *,
        threshold: float | None = None,
        brain: str | ArrayLike | None = None,
        tmax_threshold: float = TMAX_THRESHOLD,
        cbf_fraction: float = CBF_FRACTION,
    ) -> pd.DataFrame:
        """Measure how a mask overlaps with hypoperfusion and core.

        Parameters
        ----------
        mask
            Name of a mask of this scan, or a mask on its grid: booleans, labels or fractions.
        threshold
            Fraction from which on voxels of a soft mask count.
        brain, tmax_threshold, cbf_fraction
            As for `perfusion_lesions`.

        Returns
        -------
        pandas.DataFrame
            Rows ``hypoperfusion`` and ``core``: ``volume`` and ``overlap`` in mL, ``inside``, ``covered``, ``dice``.
            See `analysis.mask_overlaps`.

        Raises
        ------
        UnknownNameError
            The scan has no such mask, no tmax or no cbf.
        GeometryError, MaskError
            The mask is on another grid, or no mask.

        Examples
        --------
        >>> scan.isles.overlaps(threshold=0.5).index.tolist()
        ['hypoperfusion', 'core']
        """
        from isles24_zarr.analysis import mask_overlaps

        lesions = self.perfusion_masks(brain=brain, tmax_threshold=tmax_threshold, cbf_fraction=cbf_fraction)
        return mask_overlaps(self._mask(mask), lesions.data_vars, self.voxel_volume, threshold=threshold)

    def _brain_or(self, brain: str | ArrayLike | None) -> Any:
        return self._brain() if brain is None else self._mask(brain)

    def _mask(self, mask: str | ArrayLike) -> Any:
        return self._image(mask) if isinstance(mask, str) else mask
