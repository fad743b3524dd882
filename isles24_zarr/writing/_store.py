"""The only module that touches a Zarr store to write it: arrays by plan, groups by commit.

What makes a commit is the order of writing. A Zarr node exists once its ``zarr.json`` does, so the chunks of an array
come before its document, the arrays of a grid before the grid's, the grids of a subject before the subject's: a
subject that has a document is whole. Documents of grids and subjects hold those of all that is below them
(consolidated metadata, as zarr-python writes it), so that opening one is one read.

Objects are written by the stores of zarr-python: its LocalStore renames every one into place.
"""

from __future__ import annotations

import json
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from isles24_zarr.errors import StoreDamageError, StoreWriteError
from isles24_zarr.format import (
    ATTRIBUTE_KEY,
    MaskValues,
    compressors,
    final_attributes,
    joined_shard,
    labels_from_stored,
    mask_plan,
    mask_values,
    merged,
    recorded_of,
    seal,
    shard_key,
    values_of,
)
from isles24_zarr.geometry import canonical_from_file
from isles24_zarr.places import PARTIAL
from isles24_zarr.store import ZARR_JSON, child_names, encoded_document, listed_keys, read_document
from isles24_zarr.writing._encoding import encoded_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Executor, Future

    import xarray as xr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayPlan, GridPlan
    from isles24_zarr.nifti import Digest, VoxelStream

_BUFFERS: Final = 2
"""Of voxels: one is filled while the other is encoded."""


def write_group(
    store: Store, path: str, attributes: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Write the document of a group: the act that makes it exist.

    Parameters
    ----------
    store, path
        Where.
    attributes
        JSON values.
    members
        Documents of all that is below, by path from here, to be consolidated; ``None`` for none.

    Returns
    -------
    dict
        The document.
    """
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if members is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: dict(document) for name, document in members.items()},
        }
    document["attributes"][ATTRIBUTE_KEY] = {**recorded_of(document["attributes"]), "seal": seal(document)}
    write_document(store, path, document)
    return document


def remove(store: Store, path: str) -> None:
    """Delete a node with all below it; its document goes first, so that it is never half there."""
    sync(store.delete(f"{path}/{ZARR_JSON}"))
    sync(store.delete_dir(path))


def remove_partial_objects(store: Store, path: str) -> None:
    """Delete what an interrupted write left right below a path."""
    for name in child_names(store, path):
        if name.endswith(PARTIAL):
            sync(store.delete(f"{path}/{name}" if path else name))


def looked_at(plan: ArrayPlan, stream: VoxelStream) -> tuple[ArrayPlan, Digest]:
    """Read a mask to its end to learn what its values mean.

    Parameters
    ----------
    plan
        Made from the header.
    stream
        Of the file, with nothing read yet.

    Returns
    -------
    plan : ArrayPlan
        By which the mask is written.
    digest : Digest
        Of the file.
    """
    scale = stream.header.slope, stream.header.intercept
    found = []
    digest = stream.read_to_end(lambda voxels: found.append(values_of(voxels, *scale)))
    return mask_plan(plan, mask_values(merged(found), *scale)), digest


def write_array(store: Store, plan: ArrayPlan, stream: VoxelStream, on_piece: Callable[[int], None]) -> Digest:
    """Stream a file into its array.

    Memory holds two pieces of the file (see `FileBlock.pieces`), the copy of one that is encoded, and two encoded
    shards.

    Parameters
    ----------
    store, plan
        Where to and how; the place is empty.
    stream
        Of the file, with nothing read yet.
    on_piece
        Called after every piece with its bytes of voxels.

    Returns
    -------
    Digest
        Of the file. The array's document is written after the end of the file has been checked, not before.
    """
    document, sizes = array_document(plan), {}
    with ThreadPoolExecutor(1, thread_name_prefix="isles24-encode") as encoder:
        for key, shard in _encoded_shards(plan, document, stream, encoder, on_piece):
            sync(store.set(f"{plan.path}/{key}", default_buffer_prototype().buffer.from_bytes(shard)))
            sizes[key] = len(shard)
    digest = stream.finish()
    attributes = final_attributes(plan, digest, dict(sorted(sizes.items())))
    write_document(store, plan.path, {**document, "attributes": attributes})
    return digest


def _encoded_shards(
    plan: ArrayPlan,
    document: Mapping[str, Any],
    stream: VoxelStream,
    encoder: Executor,
    on_piece: Callable[[int], None],
) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the bytes of each shard. While a piece is encoded, the next one is read."""
    dtype = stream.header.dtype
    buffers: deque[tuple[NDArray[Any], Future[tuple[bytes, int]] | None]] = deque(
        [(np.empty(0, dtype), None)] * _BUFFERS
    )
    before: tuple[str, dict[int, Future[tuple[bytes, int]]]] | None = None
    for block in plan.blocks():
        parts: dict[int, Future[tuple[bytes, int]]] = {}
        for first, shape in block.pieces(plan.chunks, dtype.itemsize):
            buffer, user = buffers.popleft()
            if user:
                user.result()  # it reads from the buffer until then
            if buffer.size < math.prod(shape):
                buffer = np.empty(math.prod(shape), dtype)
            voxels = buffer[: math.prod(shape)].reshape(shape)
            stream.readinto(voxels)
            count = voxels.nbytes
            if plan.mask and plan.mask.kind == "labels":
                voxels = labels_from_stored(voxels, plan.mask, stream.header.slope, stream.header.intercept)
            elif dtype.byteorder == ">":
                voxels = voxels.byteswap(inplace=True).view(plan.dtype)
            parts[first] = encoder.submit(encoded_shard, document, canonical_from_file(voxels, plan.orientation))
            buffers.append((buffer, parts[first]))
            on_piece(count)
            if before:
                yield before[0], _joined(plan, before[1])
                before = None
        before = shard_key(block, plan.shards, plan.separator), parts
    if before:
        yield before[0], _joined(plan, before[1])


def _joined(plan: ArrayPlan, parts: Mapping[int, Future[tuple[bytes, int]]]) -> bytes:
    """Wait for the parts of a shard, by where they begin, and put them together."""
    total = math.prod(shard // chunk for shard, chunk in zip(plan.shards, plan.chunks, strict=True))
    return joined_shard([parts[start].result() for start in sorted(parts)], total=total)


def array_document(plan: ArrayPlan) -> dict[str, Any]:
    """Return the metadata of an array, as zarr-python would write them, with the attributes that the plan has."""
    draft = zarr.create_array(
        MemoryStore(),
        shape=plan.shape,
        chunks=plan.chunks,
        shards=plan.shards,
        dtype=plan.dtype,
        fill_value=0,
        compressors=compressors(np.dtype(plan.dtype), plan.chunks),
        dimension_names=plan.dimension_names,
    )
    text = draft.metadata.to_buffer_dict(default_buffer_prototype())[ZARR_JSON].to_bytes()
    document: dict[str, Any] = json.loads(text)
    document["chunk_key_encoding"]["configuration"]["separator"] = plan.separator
    return {**document, "attributes": dict(plan.attributes)}


def written_record(store: Store, plan: ArrayPlan) -> tuple[ArrayPlan, dict[str, Any]] | None:
    """Return what was recorded of an array that stands as this plan would write it from a file of the same name.

    Returns
    -------
    tuple or None
        The plan, with what the values of a mask mean, and the attribute `ATTRIBUTE_KEY` of the array; ``None`` where
        that is missing, unfinished, or something else.
    """
    try:
        document = read_document(store, plan.path) or {}
    except StoreDamageError:
        return None
    recorded = dict(recorded_of(document.get("attributes", {})))
    shards = recorded.get("shards")
    if not (recorded.get("checksum") and shards and recorded.get("source", {}).get("sha256")):
        return None
    sizes = listed_keys(store, plan.path)
    if any(sizes.get(f"{plan.path}/{key}") != size for key, size in shards.items()):
        return None
    if plan.is_mask:
        try:
            plan = mask_plan(plan, MaskValues.from_json(recorded["mask"]))
        except (KeyError, TypeError, ValueError):
            return None
    measured = ("shards", "checksum")
    bare = {name: value for name, value in recorded.items() if name not in measured}
    found = {**document["attributes"], ATTRIBUTE_KEY: {**bare, "source": plan.attributes[ATTRIBUTE_KEY]["source"]}}
    same = {**document, "attributes": found} == array_document(plan) and recorded["source"]["path"] == plan.source.path
    return (plan, recorded) if same else None


def write_grid(store: Store, path: str, plan: GridPlan, images: Iterable[str]) -> dict[str, Any]:
    """Write the coordinates and then the document of a grid whose arrays are there.

    Parameters
    ----------
    store, path
        Where the group is.
    plan
        Of the group.
    images
        The arrays of it that were converted.

    Returns
    -------
    dict
        The document, which holds those of its arrays.
    """
    draft = zarr.create_group(MemoryStore())
    for axis, (name, values) in enumerate(plan.grid.coordinates().items()):
        attributes = {
            "long_name": f"position along {name}",
            "units": "mm",
            "axis": name.upper(),
            "direction": plan.grid.direction[:, axis].tolist(),
            "spacing": plan.grid.spacing[axis],
        }
        if not plan.grid.oriented:
            attributes["orientation"] = "unknown"
        _add_coordinate(draft, name, values, attributes)
    images = list(images)
    if any(len(array.shape) == 4 for array in plan.arrays if array.image in images):
        _add_coordinate(draft, "time", np.array(plan.frame_seconds), plan.time_attributes)
    copy_nodes(draft.store, store, path)
    coordinates = [name for name in ("time", "z", "y", "x") if name in draft]
    documents = {name: written_document(store, f"{path}/{name}") for name in (*coordinates, *images)}
    return write_group(store, path, plan.attributes, documents)


def written_document(store: Store, path: str) -> dict[str, Any]:
    """Return the document of an array that a worker has written."""
    document = read_document(store, path)
    if document is None:
        raise StoreWriteError(
            f"{store}/{path}", "was written by a worker, but is not there: all must see the same store"
        )
    return document


def _add_coordinate(group: zarr.Group, name: str, values: Any, attributes: Mapping[str, Any]) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        compressors=compressors(values.dtype, values.shape),
        dimension_names=(name,),
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[:] = values


def write_subject(
    store: Store, path: str, attributes: Mapping[str, Any], grids: Mapping[str, Mapping[str, Any]]
) -> None:
    """Commit a subject.

    Parameters
    ----------
    store, path
        Where its group is.
    attributes
        Clinical values and the record of the conversion.
    grids
        Documents of its grids by name, as from `write_grid`.
    """
    members: dict[str, Mapping[str, Any]] = {}
    for name, grid in grids.items():
        own = dict(grid)
        below = own.pop("consolidated_metadata")["metadata"]
        members |= {name: own, **{f"{name}/{array}": document for array, document in below.items()}}
    write_group(store, path, attributes, members)


def withdraw(store: Store, path: str, grids: Iterable[str]) -> None:
    """Take back a commit before anything below it is changed: the subject's document first, then its grids'."""
    for group in (path, *(f"{path}/{grid}" for grid in grids)):
        sync(store.delete(f"{group}/{ZARR_JSON}"))


def write_dataset(store: Store, path: str, dataset: xr.Dataset) -> None:
    """Write a small Dataset as a group, replacing what was there.

    The document of the group, which holds all values, is replaced in one step: whoever reads that has the old table
    until it has the new one.

    Parameters
    ----------
    store, path
        Where.
    dataset
        In memory. Chunks are whole arrays.
    """
    draft = MemoryStore()
    encoding = {
        str(name): {"chunks": variable.shape, "compressors": compressors()}
        for name, variable in dataset.variables.items()
    }
    dataset.to_zarr(draft, zarr_format=3, consolidated=False, encoding=encoding, write_empty_chunks=True)
    before = listed_keys(store, path).keys()
    written = copy_nodes(draft, store, path)
    names = [str(name) for name in dataset.variables]
    # once more in the document of the group: whoever reads that has the whole table, of one conversion
    attributes = {**dataset.attrs, ATTRIBUTE_KEY: {"columns": {name: _cells(dataset[name]) for name in names}}}
    write_group(store, path, attributes, {name: written_document(store, f"{path}/{name}") for name in names})
    for key in sorted(before - {*written, f"{path}/{ZARR_JSON}"}):
        sync(store.delete(key))


def _cells(column: xr.DataArray) -> list[Any]:
    """Return the values of a column for JSON, a missing number as ``None``."""
    cells: list[Any] = column.values.tolist()
    # of a number that is missing: NaN alone is no number equal to itself
    return [None if cell != cell else cell for cell in cells]


def copy_nodes(source: Store, target: Store, path: str) -> set[str]:
    """Copy the arrays of a group into a path, each with its document last; return their keys. Its own stays behind."""

    async def copy() -> set[str]:
        keys = [key async for key in source.list() if key != ZARR_JSON]
        for key in sorted(keys, key=lambda key: (key.endswith(ZARR_JSON), key)):
            buffer = await source.get(key, default_buffer_prototype())
            if buffer is not None:
                await target.set(f"{path}/{key}", buffer)
        return {f"{path}/{key}" for key in keys}

    return sync(copy())


def write_document(store: Store, path: str, document: Mapping[str, Any]) -> None:
    """Write the document of a node."""
    key = f"{path}/{ZARR_JSON}" if path else ZARR_JSON
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(encoded_document(document))))
