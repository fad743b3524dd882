"""From the series to the maps: what `.isles` of scans and of series have of CT perfusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isles24_zarr.accessors._geometry import GeometryAccessor
from isles24_zarr.conventions import CBF_FRACTION, HAEMATOCRIT, TISSUE_DENSITY, TMAX_THRESHOLD
from isles24_zarr.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    import xarray as xr
    from distributed import Client
    from numpy.typing import ArrayLike

    from isles24_zarr.perfusion import DeconvolutionMethod, PerfusionInputs


class SeriesAccessor(GeometryAccessor):
    """From a series, as ``scan["ctp"]``, to maps."""

    def _series(self) -> xr.DataArray:
        series: xr.DataArray = self._scan
        return series

    def _within(self) -> xr.DataArray | None:
        """Return where maps are computed by default; None for everywhere."""
        return None

    def perfusion_inputs(
        self,
        arterial_input: xr.DataArray | ArrayLike | None = None,
        venous_output: xr.DataArray | ArrayLike | None = None,
    ) -> PerfusionInputs:
        """Find, or take, the arterial input and the venous output of the CTP.

        Parameters
        ----------
        arterial_input, venous_output
            Curves over time in HU, masks, or positions in RAS mm; by default they are found.

        Returns
        -------
        PerfusionInputs
            Their curves, where they are, the arrival of the bolus, and what is wrong with the series. See
            `perfusion.perfusion_inputs`, whose errors it raises.

        Raises
        ------
        UnknownNameError
            The scan has no ctp.

        Examples
        --------
        >>> inputs = scan.isles.perfusion_inputs()
        >>> figure = scan.isles.plot_time_curves({"artery": inputs.arterial_input})
        """
        from isles24_zarr.perfusion import perfusion_inputs

        return perfusion_inputs(self._series(), arterial_input, venous_output)

    def perfusion_maps(
        self,
        arterial_input: xr.DataArray | ArrayLike | PerfusionInputs | None = None,
        venous_output: xr.DataArray | ArrayLike | None = None,
        *,
        method: DeconvolutionMethod = "bcsvd",
        truncation: float = 0.1,
        haematocrit: tuple[float, float] = HAEMATOCRIT,
        density: float = TISSUE_DENSITY,
        mask: xr.DataArray | ArrayLike | None = None,
        smoothing: float | tuple[float, float] | None = None,
    ) -> xr.Dataset:
        """Compute Tmax, CBF, CBV, MTT and time to peak of the CTP, lazily.

        Parameters
        ----------
        arterial_input, venous_output
            Curves over time in HU, masks, or positions in RAS mm; by default they are found at once, see
            `perfusion.perfusion_inputs`, whose result for the same frames is taken too.
        method
            ``"bcsvd"`` or ``"osvd"``.
        truncation
            Of ``"bcsvd"``: singular values below this part of the largest are left out.
        haematocrit
            Of large and of small vessels.
        density
            Of tissue, in g/mL.
        mask
            (z, y, x), booleans, labels or fractions: where maps are computed. By default, of a scan its `brain_mask`;
            of a series all that holds a curve.
        smoothing
            Full width at half maximum in mm; or that and one in s.

        Returns
        -------
        xarray.Dataset
            ``tmax``, ``mtt``, ``ttp`` in s, ``cbf`` in mL/100 g/min, ``cbv`` in mL/100 g, float32 (z, y, x), NaN
            outside of the brain. See `perfusion.perfusion_maps`.

        Raises
        ------
        PerfusionError
            There is no arterial input to be found, no bolus in it, or it is of other frames.
        GeometryError, MaskError, UnknownNameError
            The scan has no ctp, the mask is not on its grid or none, or an argument is out of its range.

        Examples
        --------
        >>> maps = scan.isles.perfusion_maps(smoothing=(8, 3))
        >>> list(maps.data_vars)
        ['tmax', 'cbf', 'cbv', 'mtt', 'ttp']
        """
        from isles24_zarr.perfusion import perfusion_maps

        return perfusion_maps(
            self._series(),
            arterial_input,
            venous_output,
            method=method,
            truncation=truncation,
            haematocrit=haematocrit,
            density=density,
            mask=self._within() if mask is None else mask,
            smoothing=smoothing,
        )


class ScanPerfusionAccessor(SeriesAccessor):
    """Brain and maps of a scan."""

    def brain_mask(self) -> xr.DataArray:
        """Find the brain: in the NCCT, or in the CTP before the bolus where the scan has no NCCT.

        Returns
        -------
        xarray.DataArray
            (z, y, x), booleans, lazy if the scan is. See `analysis.brain_mask`.

        Raises
        ------
        UnknownNameError
            The scan has neither.
        GeometryError
            There is nothing like a brain.

        Examples
        --------
        >>> brain = scan.isles.brain_mask()
        >>> brain.dtype, bool(brain.any())
        (dtype('bool'), True)
        """
        brain = self._brain()
        if brain is None:
            raise UnknownNameError("brain_mask", "takes an NCCT or a CTP, and this scan has none")
        return brain

    def _brain(self) -> xr.DataArray | None:
        from isles24_zarr.perfusion import scan_brain

        return scan_brain(self._scan)

    def _within(self) -> xr.DataArray | None:
        return self._brain()

    def _series(self) -> xr.DataArray:
        return self._image("ctp")

    def _image(self, name: str) -> xr.DataArray:
        if name not in self._scan:
            raise UnknownNameError(repr(name), f"is not in this scan, which has {', '.join(self._scan.data_vars)}")
        image: xr.DataArray = self._scan[name]
        return image


class CohortPerfusionAccessor:
    """Perfusion of all subjects of a cohort."""

    _cohort: xr.DataTree

    def perfusion_table(
        self,
        maps: str | Callable[[xr.Dataset], xr.Dataset] | None = None,
        *,
        space: str = "ncct",
        subjects: Sequence[str] | str | None = None,
        tmax_threshold: float = TMAX_THRESHOLD,
        cbf_fraction: float = CBF_FRACTION,
        client: Client | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Measure core, penumbra and their mismatch in every subject, by the maps of the release or by others.

        Parameters
        ----------
        maps
            Whose: by default those of the release; the name of a pipeline; or a function of a scan that makes them.
        space
            As for `scan`.
        subjects
            Names; all of the cohort by default.
        tmax_threshold
            In s: tissue above is hypoperfused.
        cbf_fraction
            Hypoperfused tissue below this fraction of the median CBF of the other hemisphere is core.
        client
            Where to run: by default the current Dask client, and without one the threads of this process.
        progress
            Show a bar on stderr.

        Returns
        -------
        pandas.DataFrame
            One row a subject: volumes in mL, ratios, side, coverage of the brain; of other maps than those of the
            release also how well they agree; and ``error``. See `cohorts.perfusion_table`.

        Raises
        ------
        UnknownNameError
            There are no such subjects.
        ClusterLostError, NoWorkersError, WorkerMismatchError
            The cluster cannot do it.

        Examples
        --------
        >>> table = cohort.isles.perfusion_table(progress=False)
        >>> table["side"].tolist()
        ['left', 'right', 'left']
        """
        from isles24_zarr.cohorts import perfusion_table

        return perfusion_table(
            self._cohort,
            maps,
            space=space,
            subjects=subjects,
            tmax_threshold=tmax_threshold,
            cbf_fraction=cbf_fraction,
            client=client,
            progress=progress,
        )
