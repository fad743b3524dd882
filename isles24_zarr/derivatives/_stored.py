"""What the store has that results are to lie beside: the grid of the images, and what the pipeline has already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from isles24_zarr.errors import DestinationError, StoreDamageError, UnknownNameError
from isles24_zarr.format import ArrayRecord, DerivativeRecord, GridRecord, file_label, pipeline_path
from isles24_zarr.geometry import UNKNOWN_ORIENTATION, Grid
from isles24_zarr.release import image_rank, is_image_name
from isles24_zarr.store import ZARR_JSON, read_document

if TYPE_CHECKING:
    from collections.abc import Collection

    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayPlan
    from isles24_zarr.scans import ScanPlace


_LONGEST: Final = 100
"""Letters of a name: files that are exported have it in theirs, and file systems have 255."""


def check_length(name: str) -> None:
    """Make sure that the name of a pipeline or an array can be part of the name of a file."""
    if len(name) > _LONGEST:
        what = f"is too long for a name: it has {len(name)} characters, at most {_LONGEST} are allowed"
        raise UnknownNameError(f"{name[:20]!r}...", what)


def stored_grid(store: Store, place: ScanPlace) -> GridRecord:
    """Return the group of images that results are to lie beside.

    Raises
    ------
    StoreDamageError
        It is lost.
    """
    document = read_document(store, place.path)
    if document is None:
        raise StoreDamageError(f"{place.target.url}/{place.path}", "is lost")
    return GridRecord.from_document(document, f"{place.target.url}/{place.path}")


def whole_grid(grid: GridRecord) -> Grid:
    """Return where the voxels of a group of images lie."""
    x, y, z = (int(grid.members[axis]["shape"][0]) for axis in "xyz")
    oriented = grid.orientation != UNKNOWN_ORIENTATION
    return Grid(shape=(x, y, z), affine=np.array(grid.affine), oriented=oriented)


def image_records(grid: GridRecord, place: ScanPlace) -> dict[str, ArrayRecord]:
    """Return the images of a grid, that which gave it first."""
    images = (name for name in grid.members if is_image_name(name))
    names = sorted(images, key=lambda name: (name != grid.reference, image_rank(name)))
    return {name: ArrayRecord.from_checked(grid.members[name], f"{place.path}/{name}") for name in names}


def earlier_record(store: Store, place: ScanPlace, pipeline: str, *, overwrite: bool) -> DerivativeRecord | None:
    """Return what a pipeline has of a subject; None where nothing is committed, and all that is there may be deleted.

    Raises
    ------
    StoreDamageError
        Its document cannot be read, and is not to be overwritten: results whose voxels are whole may lie below it.
    """
    path = pipeline_path(pipeline, place.subject)
    try:
        document = read_document(store, path)
        return None if document is None else DerivativeRecord.from_document(document, path)
    except StoreDamageError as error:
        if overwrite:
            return None
        what = f"{error.what}; 'verify' tells more; overwrite=True replaces all results that {pipeline!r} has of"
        what += f" {place.subject}, 'remove' takes them out"
        raise StoreDamageError(f"{place.target.url}/{path}/{ZARR_JSON}", what) from error


def check_names(
    place: ScanPlace,
    pipeline: str,
    arrays: Collection[str],
    grid: GridRecord,
    earlier: DerivativeRecord | None,
    *,
    overwrite: bool,
) -> None:
    """Make sure that results can be added to those that the pipeline has."""
    own = [path.partition("/")[2] for path in earlier.arrays if path.startswith(f"{place.group}/")] if earlier else []
    where = f"{place.target.url}/{pipeline_path(pipeline, place.subject, place.group)}"
    if (there := sorted(set(arrays) & set(own))) and not overwrite:
        raise DestinationError(where, f"has {', '.join(there)} already; give overwrite=True to replace it")
    labels: dict[str, str] = {}
    for name in sorted({*arrays, *own}):
        if other := labels.get(file_label(name)):
            raise UnknownNameError(repr(name), f"would have the same file name as {other!r}, give it another name")
        labels[file_label(name)] = name
    if earlier and own:
        old = earlier.members[place.group].get("attributes", {})
        sizes = {axis: earlier.members.get(f"{place.group}/{axis}", {}).get("shape") for axis in "xyz"}
        same = old.get("affine") == grid.affine and all(sizes[axis] == grid.members[axis]["shape"] for axis in "xyz")
        if not same and not set(own) <= set(arrays):
            what = "holds results on the grid that this scan had before it was converted again; remove them first"
            raise DestinationError(where, what)


def next_separator(earlier: DerivativeRecord | None, plan: ArrayPlan, *, versioned: bool) -> str:
    """Return the separator for keys of shards that what is there has not: its shards stay until the commit."""
    document = earlier.members.get(f"{plan.group}/{plan.image}") if earlier else None
    if document is None or versioned:  # a version stays as it is
        return "/"
    return "." if document["chunk_key_encoding"]["configuration"]["separator"] == "/" else "/"
