"""```cohort.isles```."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from isles24_zarr.accessors._frameworks import CohortFrameworksAccessor
from isles24_zarr.accessors._nnunet import NnunetAccessor
from isles24_zarr.accessors._parts import PartsAccessor
from isles24_zarr.accessors._perfusion import CohortPerfusionAccessor
from isles24_zarr.accessors._results import DerivingAccessor
from isles24_zarr.accessors._training import TrainingAccessor

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import datasets
    import pandas as pd
    from distributed import Client
    from matplotlib.figure import Figure

    from isles24_zarr.cohorts import Records
    from isles24_zarr.figures import SubjectSummary
    from isles24_zarr.training import ChannelLike


@xr.register_datatree_accessor("isles")
class CohortAccessor(
    PartsAccessor,
    CohortPerfusionAccessor,
    DerivingAccessor,
    TrainingAccessor,
    CohortFrameworksAccessor,
    NnunetAccessor,
):
    """```cohort.isles```: subjects, the clinical table and their scans."""

    def __init__(self, cohort: xr.DataTree) -> None:
        self._cohort = cohort

    @property
    def subjects(self) -> list[str]:
        """Names of the subjects.

        Examples
        --------
        >>> cohort.isles.subjects
        ['sub-stroke0001', 'sub-stroke0002', 'sub-stroke0004']
        """
        from isles24_zarr.cohorts import subject_names

        return subject_names(self._cohort)

    def scan(
        self, subject: str | int, space: str = "ncct", *, pipeline: str | None = None, chunks: Any = "auto"
    ) -> xr.Dataset:
        """Open a scan of a subject; no voxel is read.

        Parameters
        ----------
        subject
            Its name, or its number in this cohort, from 0.
        space
            ``"ncct"`` for registered images; ``"ctp"``, ``"cta"`` ... for images as acquired.
        pipeline
            The results that were saved under this name, in place of the images.
        chunks
            ``"auto"``: Dask chunks of tens of MB. ``None``: no Dask, lazy NumPy. Else as for `xarray.Dataset.chunk`.

        Returns
        -------
        xarray.Dataset
            Images (z, y, x), series (time, z, y, x). See `open_scan`.

        Raises
        ------
        UnknownNameError, StoreDamageError
            There is no such subject, space or pipeline, or part of it is lost.

        Examples
        --------
        >>> cohort.isles.scan("sub-stroke0002")["ctp"].dims
        ('time', 'z', 'y', 'x')
        """
        from isles24_zarr.cohorts import cohort_target
        from isles24_zarr.scans import open_scan

        target = cohort_target(self._cohort)
        options = target.storage_options
        name = subject if isinstance(subject, str) else self._name(subject)
        return open_scan(target.url, name, space, pipeline=pipeline, chunks=chunks, storage_options=options)

    def map(
        self,
        function: Callable[[xr.Dataset], Any],
        *,
        subjects: Sequence[str] | str | None = None,
        space: str = "ncct",
        client: Client | None = None,
        with_table: bool = False,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Run a function of a scan once for every subject, on Dask.

        Parameters
        ----------
        function
            Called with the scan of a subject. Returns a number or text, or a mapping of such, which become columns.
        subjects
            Names; all by default.
        space
            As for `scan`.
        client
            Where to run: by default the current Dask client, and without one the threads of this process.
        with_table
            Put the columns of `table` before those of the function.
        progress
            Show a bar on stderr.

        Returns
        -------
        pandas.DataFrame
            A row a subject, in order. The last column is ``error``: None, or in one line why there are no values. See
            `cohorts.mapped_subjects`.

        Raises
        ------
        UnknownNameError
            There are no such subjects.
        ClusterLostError, NoWorkersError, WorkerMismatchError
            The cluster cannot do it.

        Examples
        --------
        >>> found = cohort.isles.map(lambda scan: {"peak": scan["ctp"].max()}, progress=False)
        >>> found.columns.tolist()
        ['peak', 'error']
        """
        from isles24_zarr.cohorts import mapped_subjects

        return mapped_subjects(
            self._cohort,
            function,
            subjects=subjects,
            space=space,
            client=client,
            with_table=with_table,
            progress=progress,
        )

    @property
    def examples(self) -> Records:
        """One record a subject with the keys of the dataset card, images lazy (see `cohorts.Record`).

        Examples
        --------
        >>> cohort.isles.examples[0]["ncct"].ndim
        3
        """
        from isles24_zarr.cohorts import cohort_records

        return cohort_records(self._cohort)

    def to_hf_dataset(
        self,
        images: Sequence[str] | str | None = None,
        *,
        streaming: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        files: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> datasets.Dataset | datasets.IterableDataset:
        """Return a Hugging Face Dataset with the schema of the dataset card.

        Parameters
        ----------
        images
            Names; all by default.
        streaming
            Return an IterableDataset, which makes rows when they are asked for and writes nothing.
        cache_dir
            Folder for the Arrow file that backs the Dataset, by default that of the ``datasets`` library.
        files
            A folder to write the images to, which the Dataset then names; without it, it holds them.
        progress
            Say on stderr how much is going to be written, and where.

        Returns
        -------
        datasets.Dataset or datasets.IterableDataset
            See `cohorts.hf_dataset`.

        Raises
        ------
        MissingExtraError
            The ``datasets`` library is not installed.
        UnknownNameError
            There is no such image.
        StoreDamageError
            An image cannot be read, or is not what was converted.

        Examples
        --------
        >>> cohort.isles.to_hf_dataset("ncct", streaming=True).features["sex"]  # doctest: +SKIP
        ClassLabel(names=['F', 'M'])
        """
        from isles24_zarr.cohorts import hf_dataset

        return hf_dataset(
            self._cohort, images, streaming=streaming, cache_dir=cache_dir, files=files, progress=progress
        )

    def intensities(
        self,
        images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
        *,
        mask: ChannelLike | None = None,
        percentiles: Sequence[float] = (0.5, 50, 99.5),
        computed: bool = False,
        label_threshold: float | None = None,
        missing: str = "error",
        space: str = "ncct",
        client: Client | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Return mean, standard deviation and percentiles of all voxels of the cohort, exact, on Dask.

        Parameters
        ----------
        images
            Names of images, ``"ctp[12]"`` for a frame, ``"pipeline/name"`` for a result, or functions of a scan.
        mask
            Which voxels: all by default; ``"brain"``, the name of a mask, or a function of a scan.
        percentiles
            Between 0 and 100.
        computed
            Leave out voxels of perfusion maps in which nothing was computed; by default they count.
        label_threshold
            From which fraction on voxels of a soft mask belong to it.
        missing
            With ``"skip"``, subjects that lack an image are left out and listed in ``attrs["skipped"]``.
        space, client, progress
            As for `map`.

        Returns
        -------
        pandas.DataFrame
            A row a channel, see `training.cohort_intensities`.

        Raises
        ------
        UnknownNameError
            There is no such image, or a subject lacks it.
        StoreDamageError, MaskError, GeometryError
            A subject cannot be read, or its mask is none.

        Examples
        --------
        >>> training, testing = cohort.isles.train_test_split(1)
        >>> training.isles.intensities(["ncct", "tmax"], mask="brain", progress=False).columns.tolist()[-3:]
        ['median', 'percentile_99_5', 'max']
        """
        from isles24_zarr.training import cohort_intensities

        return cohort_intensities(
            self._cohort,
            images,
            mask=mask,
            percentiles=percentiles,
            computed=computed,
            label_threshold=label_threshold,
            missing=missing,
            space=space,
            client=client,
            progress=progress,
        )

    def summary(self, subject: str) -> SubjectSummary:
        """Gather one page on a subject, which a notebook shows and ``.save`` writes.

        Parameters
        ----------
        subject
            Its name.

        Returns
        -------
        SubjectSummary
            See `figures.subject_summary`, whose errors it raises.

        Examples
        --------
        >>> page = cohort.isles.summary("sub-stroke0004")
        >>> page.save("subject.html")  # doctest: +SKIP
        """
        from isles24_zarr.figures import subject_summary

        return subject_summary(self._cohort, subject)

    def missingness(self) -> Figure:
        """Draw which clinical variables and images are missing.

        Returns
        -------
        matplotlib.figure.Figure
            A row for each variable and image, a column for each subject. See `figures.missingness`.

        Raises
        ------
        MissingExtraError
            matplotlib is not installed.
        UnknownNameError
            The cohort has no subject.

        Examples
        --------
        >>> figure = cohort.isles.missingness()
        """
        from isles24_zarr.figures import missingness

        return missingness(self._cohort)
