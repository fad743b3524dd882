"""Results, region by region: each is computed and written by one task, and is a shard of every result."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xxhash

from isles24_zarr.errors import StoreWriteError, VoxelTypeError
from isles24_zarr.format import ArrayRecord, pipeline_path, shard_key
from isles24_zarr.geometry import file_from_canonical
from isles24_zarr.progress import ProgressBar
from isles24_zarr.store import ZARR_JSON, is_versioned, read_objects, voxel_checksum
from isles24_zarr.writing import (
    array_document,
    remove,
    result_document,
    tidy,
    write_document,
    write_group,
    write_result,
    write_shard,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distributed import Client
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.derivatives._preparing import Prepared
    from isles24_zarr.format import ArrayPlan
    from isles24_zarr.store import StorePlace

Scheduler = Literal["synchronous", "threads"]

_MOST_MESSAGE: Final = 4 * 2**20
"""Bytes of a task: one that has more carries voxels, which are written from here."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionTask:
    """What a worker needs to compute and write a shard of each of some results.

    Parameters
    ----------
    target
        The store.
    plans
        Of results with the same shards.
    key
        Of the shard.
    shape
        Of the region.
    blocks
        Values of each result there, lazy if they are.
    alone
        Whether the shard is the whole array.
    """

    target: StorePlace
    plans: tuple[ArrayPlan, ...]
    key: tuple[str, ...]
    shape: tuple[int, ...]
    blocks: tuple[Any, ...]
    alone: bool

    @property
    def nbytes(self) -> int:
        """Of voxels."""
        return sum(int(np.prod(self.shape)) * np.dtype(plan.dtype).itemsize for plan in self.plans)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """A shard that was written: of which array, its key and bytes; and the checksum of one that is the whole array."""

    path: str
    key: str
    nbytes: int
    checksum: str | None


def region_tasks(prepared: Prepared) -> Iterator[RegionTask]:
    """Yield a task for each region; results of one shape share them."""
    by_shape: dict[tuple[int, ...], list[ArrayPlan]] = {}
    for plan in prepared.plans:
        by_shape.setdefault(plan.shape, []).append(plan)
    for plans in by_shape.values():
        for block in plans[0].blocks():
            yield RegionTask(
                target=prepared.place.target,
                plans=tuple(plans),
                key=tuple(shard_key(block, plan.shards, plan.separator) for plan in plans),
                shape=tuple(cut.stop - cut.start for cut in block.region),
                blocks=tuple(prepared.values[plan.image][block.region] for plan in plans),
                alone=plans[0].shard_count == 1,
            )


def write_region(task: RegionTask, topic: str) -> list[WrittenShard]:
    """Compute and write a region, on a worker.

    Parameters
    ----------
    task
        What to do.
    topic
        Where to tell of progress.
    """
    from isles24_zarr.tasks import COMPUTED_HERE, advance

    with COMPUTED_HERE:
        written = written_shards(task.target.opened(read_only=False), task, "synchronous")
    advance(topic, task.nbytes)
    return written


def written_shards(store: Store, task: RegionTask, scheduler: Scheduler) -> list[WrittenShard]:
    """Compute and write a region: what several results have in common is computed once."""
    from dask.base import compute

    found = compute(*(block.data for block in task.blocks), scheduler=scheduler)
    written = []
    for plan, key, values in zip(task.plans, task.key, found, strict=True):
        voxels = _as_planned(np.asarray(values), plan, task.shape)
        checksum = None
        if task.alone:
            in_file = np.ascontiguousarray(file_from_canonical(voxels, plan.orientation))
            checksum = xxhash.xxh3_128_hexdigest(in_file.data)
        size = write_shard(store, plan, key, voxels)
        written.append(WrittenShard(path=plan.path, key=key, nbytes=size, checksum=checksum))
    return written


def _as_planned(values: NDArray[Any], plan: ArrayPlan, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return values in the type that was planned; lazy arrays may turn out to be others than they said."""
    dtype = np.dtype(plan.dtype)
    if values.shape != shape:
        shapes = [" x ".join(map(str, each)) for each in (values.shape, shape)]
        raise VoxelTypeError(plan.image, f"was computed as {shapes[0]} voxels, where {shapes[1]} were announced")
    known = {("bool", "uint8"), ("float16", "float32")}
    if values.dtype.newbyteorder("=") != dtype.newbyteorder("=") and (values.dtype.name, dtype.name) not in known:
        raise VoxelTypeError(plan.image, f"was computed as {values.dtype}, where {dtype.name} was announced")
    return values.astype(dtype, copy=False)


def write_results(store: Store, prepared: Prepared, scheduler: Scheduler, *, progress: bool = False) -> None:
    """Compute and write results in this process, region by region.

    Parameters
    ----------
    store
        Where to.
    prepared
        The results.
    scheduler
        Of Dask: ``"threads"`` of this process for the blocks of a region, or this thread alone.
    progress
        Show a bar on stderr.
    """
    tasks = list(region_tasks(prepared))
    clear_places(store, prepared)
    total = sum(task.nbytes for task in tasks)
    written = []
    with ProgressBar(f"saving {prepared.pipeline.name}", total=total, in_bytes=True, shown=progress) as bar:
        for task in tasks:
            written += written_shards(store, task, scheduler)
            bar.finish(task.nbytes)
    finish_results(store, prepared, written)


def write_results_on(client: Client, store: Store, prepared: Prepared, *, progress: bool) -> None:
    """Compute and write results on a cluster, a region a task; those that hold voxels are written from here.

    Parameters
    ----------
    client
        Of the cluster.
    store, prepared, progress
        As for `write_results`.

    Raises
    ------
    StoreWriteError
        A task was lost.
    """
    from distributed.protocol.pickle import dumps

    from isles24_zarr.tasks import TaskLost, completed_tasks

    clear_places(store, prepared)
    there: list[RegionTask] = []
    here: list[RegionTask] = []
    for task in region_tasks(prepared):
        lazy = _culled(task)
        (there if lazy is not None and len(dumps(lazy)) <= _MOST_MESSAGE else here).append(lazy or task)
    written = []
    for task in here:
        written += written_shards(store, task, "threads")
    if there:
        title = f"saving {prepared.pipeline.name}"
        sizes = [task.nbytes for task in there]
        for task, result in completed_tasks(client, write_region, there, sizes=sizes, title=title, progress=progress):
            if isinstance(result, TaskLost):
                raise StoreWriteError(f"{task.target.url}/{task.plans[0].path}", f"cannot be computed: {result.why}")
            written += result
    finish_results(store, prepared, written)


def _culled(task: RegionTask) -> RegionTask | None:
    """Return a task with nothing of its graphs but what it computes; None where values are in memory."""
    from dask.base import optimize

    if any(block.chunks is None for block in task.blocks):
        return None
    data = optimize(*(block.data for block in task.blocks))
    return dataclasses.replace(task, blocks=tuple(_Block(data=each) for each in data))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """A lazy array, and nothing beside it."""

    data: Any


def clear_places(store: Store, prepared: Prepared) -> None:
    """Make room for results: what interrupted runs left of the subject is deleted, what is committed stays."""
    if is_versioned(prepared.place.target.url):
        _make_nodes(store, prepared)
    elif prepared.earlier is None:
        remove(store, pipeline_path(prepared.pipeline.name, prepared.place.subject))
    else:
        tidy(store, prepared.earlier)


def _make_nodes(store: Store, prepared: Prepared) -> None:
    """Write the documents of all nodes anew, as Icechunk takes no chunk of an array that is not there."""
    for plan in prepared.plans:
        remove(store, plan.path)
        above = plan.path.split("/")[:-1]
        for count in range(1, len(above) + 1):
            path = "/".join(above[:count])
            if read_objects(store, [f"{path}/{ZARR_JSON}"])[f"{path}/{ZARR_JSON}"] is None:
                write_group(store, path, {})
        write_document(store, plan.path, array_document(plan))


def finish_results(store: Store, prepared: Prepared, written: Sequence[WrittenShard]) -> None:
    """Write the documents of results whose shards are there.

    The checksum of one that is in several shards, which were written in any order, is that of what is read again.
    """
    for plan in prepared.plans:
        shards = [shard for shard in written if shard.path == plan.path]
        sizes = {shard.key: shard.nbytes for shard in shards}
        checksum = shards[0].checksum
        if checksum is None:
            draft = result_document(plan, "0" * 32, sizes)
            checksum = voxel_checksum(store, ArrayRecord.from_checked(draft, plan.path))
        write_result(store, plan, checksum, sizes)
