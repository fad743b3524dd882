"""The only package that writes Zarr: shards, arrays by plan, groups by commit."""

from isles24_zarr.writing._store import (
    looked_at,
    remove,
    remove_partial_objects,
    withdraw,
    write_array,
    write_dataset,
    write_grid,
    write_group,
    write_subject,
    written_record,
)

__all__ = [
    "looked_at",
    "remove",
    "remove_partial_objects",
    "withdraw",
    "write_array",
    "write_dataset",
    "write_grid",
    "write_group",
    "write_subject",
    "written_record",
]
