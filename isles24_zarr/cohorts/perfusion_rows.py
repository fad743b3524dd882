"""One row a subject of what its maps of perfusion show, and of how well they agree with those of the release."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from isles24_zarr.analysis import computed_voxels, perfusion_lesions
from isles24_zarr.cohorts.opening import mapped_subjects
from isles24_zarr.conventions import CBF_FRACTION, TMAX_THRESHOLD
from isles24_zarr.perfusion import perfusion_agreement, scan_brain
from isles24_zarr.scans import open_scan, scan_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    import xarray as xr
    from distributed import Client

    Maps = str | Callable[[xr.Dataset], xr.Dataset]


def perfusion_table(
    cohort: xr.DataTree,
    maps: Maps | None = None,
    *,
    space: str = "ncct",
    subjects: Sequence[str] | str | None = None,
    tmax_threshold: float = TMAX_THRESHOLD,
    cbf_fraction: float = CBF_FRACTION,
    client: Client | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the perfusion lesions of every subject, by the maps of the release or by others.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    maps
        Whose: by default those of the release; the name of a pipeline that has them; or a function of a scan that makes
        them, as ``lambda scan: scan.isles.perfusion_maps(smoothing=(8, 3))``.
    space
        As for `open_scan`.
    subjects
        Names; all of the cohort by default.
    tmax_threshold, cbf_fraction
        As for `analysis.perfusion_lesions`.
    client
        Where to run: by default the current Dask client, and without one the threads of this process.
    progress
        Show a bar on stderr.

    Returns
    -------
    pandas.DataFrame
        One row a subject: volumes of ``hypoperfusion``, ``core`` and ``mismatch`` in mL, ``mismatch_ratio``, ``side``,
        ``laterality``, ``intensity_ratio``, ``coverage`` and what else `analysis.PerfusionLesions` has, within the
        brain; of other maps than those of the release, where that has some on this grid, what else
        `perfusion.perfusion_agreement` tells: ``_reference``, ``_dice`` and correlations, within the part of the brain
        where these maps have a Tmax. The last column is ``error``, as of `mapped_subjects`, whose errors it raises.

    Notes
    -----
    The brain is that of the NCCT where the scan has one, else that of the series before the bolus. Maps that a function
    makes are held in memory, one subject for each thread or worker.
    """
    measure = functools.partial(_row, maps, tmax_threshold, cbf_fraction)
    return mapped_subjects(
        cohort, measure, subjects=subjects, space=space, client=client, progress=progress, title="measuring perfusion"
    )


def _row(maps: Maps | None, tmax_threshold: float, cbf_fraction: float, scan: xr.Dataset) -> dict[str, Any]:
    limits = {"tmax_threshold": tmax_threshold, "cbf_fraction": cbf_fraction}
    own = _maps_of(scan, maps)
    brain = scan_brain(scan)
    if brain is None:
        brain = computed_voxels(own["cbf"], "cbf")
    row = dataclasses.asdict(perfusion_lesions(own["tmax"], own["cbf"], brain=brain, **limits))
    if maps is not None and {"tmax", "cbf"} <= set(scan.data_vars):
        inside = computed_voxels(own["tmax"], "tmax") & brain.drop_vars(list(brain.coords))
        # volumes stay those of which mismatch and coverage were made
        row = row | perfusion_agreement(own, scan, mask=inside, **limits) | row
    return row


def _maps_of(scan: xr.Dataset, maps: Maps | None) -> xr.Dataset:
    if maps is None:
        return scan
    if callable(maps):
        return maps(scan).compute()
    place = scan_place(scan)
    options = place.target.storage_options
    return open_scan(place.target.url, place.subject, place.group, pipeline=maps, storage_options=options)
