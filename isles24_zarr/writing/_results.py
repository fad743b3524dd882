"""Results of pipelines, written shard by shard in any order, and made visible by the document of their subject.

A result that is to be replaced keeps its shards until the new ones are committed: those have keys of their own beside
them, with another separator, ``c.0.0.0`` instead of ``c/0/0/0``, which Zarr has for that. Whoever reads by the old
document reads the old shards, by the new one the new ones; there is no moment at which neither can be read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format import (
    ATTRIBUTE_KEY,
    COORDINATES,
    DERIVATIVES,
    joined_shard,
    pipeline_path,
    pipelines_of,
    recorded_of,
    result_attributes,
    subjects_of,
)
from isles24_zarr.store import (
    ONLY_CHUNK,
    ZARR_JSON,
    child_names,
    encoded_document,
    listed_keys,
    read_document,
    read_objects,
)
from isles24_zarr.vocabulary import SUBJECT_NAME
from isles24_zarr.writing._encoding import encoded_shard
from isles24_zarr.writing._store import array_document, write_document, write_group, write_subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayPlan, DerivativeRecord


def write_shard(store: Store, plan: ArrayPlan, key: str, voxels: NDArray[Any]) -> int:
    """Write a shard of a result.

    Parameters
    ----------
    store, plan, key
        Where.
    voxels
        All of the shard that is within the array, canonical.

    Returns
    -------
    int
        Bytes of the shard.
    """
    total = math.prod(shard // chunk for shard, chunk in zip(plan.shards, plan.chunks, strict=True))
    shard = joined_shard([encoded_shard(array_document(plan), voxels)], total=total)
    sync(store.set(f"{plan.path}/{key}", default_buffer_prototype().buffer.from_bytes(shard)))
    return len(shard)


def result_document(plan: ArrayPlan, checksum: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the document of a result whose shards were written."""
    return {**array_document(plan), "attributes": result_attributes(plan, checksum, sizes)}


def write_result(store: Store, plan: ArrayPlan, checksum: str, sizes: Mapping[str, int]) -> None:
    """Write the document of a result, after its shards.

    Parameters
    ----------
    store, plan
        Where.
    checksum, sizes
        As for `result_attributes`.
    """
    write_document(store, plan.path, result_document(plan, checksum, sizes))


def remove_shards(store: Store, path: str, *, but: Iterable[str] = ()) -> None:
    """Delete shards of an array: those of a result that was replaced, or that an interrupted run left.

    Parameters
    ----------
    store, path
        Where the array is.
    but
        Keys of the shards that stay, below the array.
    """
    stay = {f"{path}/{key}" for key in (*but, ZARR_JSON)}
    for key in listed_keys(store, path):
        if key not in stay:
            sync(store.delete(key))


def tidy(store: Store, record: DerivativeRecord) -> None:
    """Bring what lies below a subject of a pipeline back to what its commit says.

    Documents come first: one that speaks of shards that were not committed is replaced before these are deleted. So is
    one that was edited or lost: the next commit is made of what was committed.

    Parameters
    ----------
    store, record
        Where it is, and what was committed.
    """
    documents = {group: record.grid_document(group) for group in record.groups}
    documents |= {path: dict(document) for path, document in record.members.items() if path not in documents}
    keys = {f"{path}/{ZARR_JSON}" for path in documents} | {ZARR_JSON}
    for path, document in record.members.items():
        shards = recorded_of(document["attributes"]).get("shards", [ONLY_CHUNK])
        keys |= {f"{path}/{key}" for key in shards}
    left = listed_keys(store, record.path).keys() - {f"{record.path}/{key}" for key in keys}
    found = read_objects(store, [f"{record.path}/{path}/{ZARR_JSON}" for path in documents])
    for (path, document), content in zip(documents.items(), found.values(), strict=True):
        if content != encoded_document(document):
            write_document(store, f"{record.path}/{path}", document)
    for key in sorted(left):
        sync(store.delete(key))


def write_result_grid(
    store: Store, path: str, origin: str, attributes: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Write the group of results on a grid: the coordinates of the grid, as they are, and then its document.

    Parameters
    ----------
    store, path
        Where the group is.
    origin
        Path of the grid of the images.
    attributes
        Of the grid.
    results
        Documents of the results, which are there, by name.

    Returns
    -------
    dict
        The document, which holds those of its arrays.

    Raises
    ------
    StoreDamageError
        A coordinate is lost.
    """
    members: dict[str, Mapping[str, Any]] = {}
    series = any(len(document["shape"]) == 4 for document in results.values())
    for name in COORDINATES if series else COORDINATES[1:]:
        document = read_document(store, f"{origin}/{name}")
        key = f"{origin}/{name}/{ONLY_CHUNK}"
        chunk = read_objects(store, [key])[key]
        if document is None or chunk is None:
            raise StoreDamageError(f"{store}/{key}", "is lost")
        # the document first, as Icechunk wants it: nobody reads the coordinates of a group that is not committed
        copied = {ZARR_JSON: encoded_document(document), ONLY_CHUNK: chunk}
        for below, content in copied.items():
            target = f"{path}/{name}/{below}"
            if read_objects(store, [target])[target] != content:
                sync(store.set(target, default_buffer_prototype().buffer.from_bytes(content)))
        members[name] = document
    return write_group(store, path, attributes, {**members, **results})


def write_derivative(
    store: Store,
    path: str,
    attributes: Mapping[str, Any],
    grids: Mapping[str, Mapping[str, Any]],
    pipeline: Mapping[str, Any],
) -> None:
    """Commit what a pipeline has of a subject.

    The pipeline lists a subject after its results are committed, and `remove` takes it from the list before these go:
    a subject that is listed and has no document was lost.

    Parameters
    ----------
    store, path
        Where its group is.
    attributes
        Of the group.
    grids
        Documents of its grids by name, as from `write_result_grid`.
    pipeline
        Attributes of the group of the pipeline.
    """
    above, _, subject = path.rpartition("/")
    name = above.rpartition("/")[2]
    write_group_if_changed(store, above, {**pipeline, "subjects": listed_subjects(store, name)})
    list_pipelines(store, {name}, set())
    write_subject(store, path, attributes, grids)
    list_subjects(store, name, {subject}, set())


def write_group_if_changed(store: Store, path: str, attributes: Mapping[str, Any]) -> None:
    """Write the document of a group that has no members of its own, unless it is there with these attributes."""
    found = (read_document(store, path) or {}).get("attributes", {})
    if any(found.get(name) != value for name, value in attributes.items()):
        write_group(store, path, attributes)


def list_pipelines(store: Store, new: set[str], gone: set[str]) -> None:
    """Write which pipelines there are, for readers that cannot list a store, as over HTTP."""
    there = set(pipelines_of(read_document(store, DERIVATIVES)))
    write_group_if_changed(store, DERIVATIVES, {"pipelines": sorted((there | new) - gone)})


def listed_subjects(store: Store, pipeline: str) -> list[str]:
    """Return of whom a pipeline has results, as it lists them; before there was a list, those that are committed."""
    path = pipeline_path(pipeline)
    listed = subjects_of(read_document(store, path))
    if listed is not None:
        return listed
    keys = {name: f"{path}/{name}/{ZARR_JSON}" for name in child_names(store, path) if SUBJECT_NAME.fullmatch(name)}
    found = read_objects(store, list(keys.values()))
    return sorted(name for name, key in keys.items() if found[key] is not None)


def list_subjects(store: Store, pipeline: str, new: set[str], gone: set[str]) -> None:
    """Write of whom a pipeline has results, so that it is seen which of them are lost."""
    path = pipeline_path(pipeline)
    attributes = (read_document(store, path) or {}).get("attributes", {})
    subjects = sorted((set(listed_subjects(store, pipeline)) | new) - gone)
    if attributes.get("subjects") != subjects:
        kept = {name: value for name, value in attributes.items() if name != ATTRIBUTE_KEY}
        write_group(store, path, {"pipeline": pipeline, **kept, "subjects": subjects})
