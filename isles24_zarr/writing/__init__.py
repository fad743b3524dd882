"""The only package that writes Zarr: shards, arrays by plan, groups by commit."""

from isles24_zarr.writing._results import (
    list_pipelines,
    remove_shards,
    result_document,
    write_derivative,
    write_result,
    write_result_grid,
    write_shard,
)
from isles24_zarr.writing._store import (
    array_document,
    looked_at,
    remove,
    remove_partial_objects,
    withdraw,
    write_array,
    write_dataset,
    write_document,
    write_grid,
    write_group,
    write_subject,
    written_document,
    written_record,
)

__all__ = [
    "array_document",
    "list_pipelines",
    "looked_at",
    "remove",
    "remove_partial_objects",
    "remove_shards",
    "result_document",
    "withdraw",
    "write_array",
    "write_dataset",
    "write_derivative",
    "write_document",
    "write_grid",
    "write_group",
    "write_result",
    "write_result_grid",
    "write_shard",
    "write_subject",
    "written_document",
    "written_record",
]
