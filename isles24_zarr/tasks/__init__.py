"""Work on Dask: a client, tasks and their progress, files read ahead."""

from isles24_zarr.tasks._workers import COMPUTED_HERE
from isles24_zarr.tasks.cluster import (
    TaskLost,
    advance,
    completed_tasks,
    connected_client,
    current_client,
    dask_client,
    ordered_results,
    threaded_tasks,
)
from isles24_zarr.tasks.spool import arrivals, completed_arrivals, opened_spool, read_ahead

__all__ = [
    "COMPUTED_HERE",
    "TaskLost",
    "advance",
    "arrivals",
    "completed_arrivals",
    "completed_tasks",
    "connected_client",
    "current_client",
    "dask_client",
    "opened_spool",
    "ordered_results",
    "read_ahead",
    "threaded_tasks",
]
