"""Results of one scan, saved beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isles24_zarr.derivatives._commit import commit_results, taken_back, writing
from isles24_zarr.derivatives._preparing import Pipeline, prepared
from isles24_zarr.derivatives._writing import write_results, write_results_on
from isles24_zarr.scans import open_scan, scan_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from distributed import Client


def save_results(
    scan: xr.Dataset,
    arrays: Any,
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
    """Save results of a scan in its store, as a pipeline's.

    Parameters
    ----------
    scan
        As `open_scan` gives it.
    arrays
        A Dataset, DataArrays with names, or a mapping of names to DataArrays: (z, y, x) or (time, z, y, x), on the
        whole grid of the scan. What is lazy is computed region by region, and never as a whole.
    pipeline
        Its name: letters, digits and hyphens.
    description, version
        What the pipeline is, and which version of it.
    generated_by
        Programs that made the results, as ``GeneratedBy`` of BIDS: ``Name``, ``Version``, ``Description``,
        ``CodeURL``. By default one with the name of the pipeline.
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
        What the pipeline has now on this grid, opened.

    Raises
    ------
    UnknownNameError, GeometryError, VoxelTypeError
        A name cannot be used, an array is not on the grid of the scan, or of a type that is not stored.
    DestinationError
        There is such a result already, or the store cannot be written.
    StoreDamageError
        What the pipeline has of the scan already cannot be read; ``overwrite`` replaces all of it.
    StoreLockedError
        Another process writes into the store.
    StoreWriteError
        Writing failed. Nothing of the results is seen; the same call writes them anew.

    Notes
    -----
    A region is a shard of each result, at most 192 MB of voxels of all of them together; it is computed and written
    by one task. Voxels that are in memory are written by this process.
    """
    from isles24_zarr.tasks import current_client, dask_client

    place = scan_place(scan)
    whose = Pipeline.of(pipeline, description, version, generated_by)
    running = current_client(client)
    with writing(place.target) as writer:
        store = writer.store
        results = prepared(store, place, arrays, whose, sources=sources, overwrite=overwrite)
        with taken_back(writer, pipeline, place.subject):
            if running is None or not writer.shared:
                write_results(store, results, "threads", progress=progress)
            else:
                with dask_client(running, None, place.target.url):
                    write_results_on(running, store, results, progress=progress)
            writer.confirm()
            commit_results(store, place, whose, results.grid_attributes, results.plans, results.earlier)
        writer.publish(f"{pipeline}: {place.subject}")
    options = place.target.storage_options
    return open_scan(place.target.url, place.subject, place.group, pipeline=pipeline, storage_options=options)
