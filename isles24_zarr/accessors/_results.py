"""What is kept of scans and cohorts: ``scan.isles.save``, ``cohort.isles.derive``, ``cohort.isles.pipelines``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    import xarray as xr
    from distributed import Client


class SavingAccessor:
    """Results of a scan, kept beside it."""

    _scan: Any

    def save(
        self,
        arrays: xr.Dataset | xr.DataArray | Mapping[str, xr.DataArray] | Iterable[xr.DataArray],
        pipeline: str,
        *,
        description: str = "",
        version: str | None = None,
        generated_by: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        sources: Sequence[str] | None = None,
        overwrite: bool = False,
        client: Client | None = None,
        progress: bool = False,
    ) -> xr.Dataset:
        """Save results of this scan in its store, beside the images, which stay as they are.

        Parameters
        ----------
        arrays
            A Dataset, DataArrays with names, or a mapping of names to DataArrays: (z, y, x) or (time, z, y, x), on the
            whole grid of the scan. What is lazy is computed region by region, and never as a whole.
        pipeline
            Whose results they are: letters, digits and hyphens.
        description, version
            What the pipeline is, and which version of it.
        generated_by
            Programs that made the results, as ``GeneratedBy`` of BIDS; by default one with the name of the pipeline.
        sources
            Names of the images that the results were made from; all of the grid by default.
        overwrite
            Replace results of the same names. Until the new ones are there as a whole, the old ones are read.
        client
            Where to compute: by default the current Dask client, and without one the threads of this process.
        progress
            Show a bar on stderr.

        Returns
        -------
        xarray.Dataset
            What the pipeline has now on this grid, opened. See `derivatives.save_results`.

        Raises
        ------
        UnknownNameError, GeometryError, VoxelTypeError
            A name cannot be used, an array is not on the grid, or of a type that is not stored.
        DestinationError, StoreLockedError, StoreWriteError
            There is such a result already, another process writes into the store, or writing failed.

        Examples
        --------
        >>> late = scan["tmax"] > 6
        >>> saved = scan.isles.save({"late": late}, "delays", description="Tmax above 6 s", overwrite=True)
        >>> saved["late"].dtype, bool((saved["late"] == late).all())
        (dtype('uint8'), True)
        """
        from isles24_zarr.derivatives import save_results

        return save_results(
            self._scan,
            arrays,
            pipeline,
            description=description,
            version=version,
            generated_by=generated_by,
            sources=sources,
            overwrite=overwrite,
            client=client,
            progress=progress,
        )


class DerivingAccessor:
    """Results of all subjects of a cohort."""

    _cohort: xr.DataTree

    @property
    def pipelines(self) -> list[str]:
        """Names of the pipelines whose results are in the store, sorted.

        Examples
        --------
        >>> names = cohort.isles.pipelines
        """
        from isles24_zarr.cohorts import cohort_target
        from isles24_zarr.derivatives import pipeline_names

        return pipeline_names(cohort_target(self._cohort))

    def derive(
        self,
        function: Callable[[xr.Dataset], Any],
        pipeline: str,
        *,
        space: str = "ncct",
        subjects: Sequence[str] | str | None = None,
        description: str = "",
        version: str | None = None,
        generated_by: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        overwrite: bool = False,
        client: Client | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Run a function of a scan for every subject, on Dask, and save what it returns.

        Parameters
        ----------
        function
            Called with the scan of a subject. Returns what `ScanAccessor.save` takes, lazy or not.
        pipeline
            Whose results they are.
        space
            As for `scan`.
        subjects
            Names; all by default.
        description, version, generated_by
            As for `ScanAccessor.save`.
        overwrite
            Derive all anew, and replace what is there.
        client
            Where to run: by default the current Dask client, and without one the threads of this process.
        progress
            Show a bar on stderr.

        Returns
        -------
        pandas.DataFrame
            A row a subject: ``state``, ``"written"``, ``"kept"`` or ``"failed"``, and ``error``, None or why. What was
            made by the same function, parameters and version, of the images that are there now, is kept: a run that
            was killed is resumed. See `derivatives.derived_subjects`.

        Raises
        ------
        UnknownNameError, StoreLockedError
            There are no such subjects, or another process writes into the store.
        ClusterLostError, NoWorkersError, WorkerMismatchError
            The cluster cannot do it.

        Examples
        --------
        >>> def core(scan):
        ...     return {"core": scan["cbf"] < 0.3 * scan["cbf"].max()}
        >>> cohort.isles.derive(core, "thresholds", overwrite=True, progress=False)["state"].tolist()
        ['written', 'written', 'written']
        >>> cohort.isles.scan(cohort.isles.subjects[0], pipeline="thresholds")["core"].dims
        ('z', 'y', 'x')
        """
        from isles24_zarr.derivatives import derived_subjects

        return derived_subjects(
            self._cohort,
            function,
            pipeline,
            space=space,
            subjects=subjects,
            description=description,
            version=version,
            generated_by=generated_by,
            overwrite=overwrite,
            client=client,
            progress=progress,
        )
