"""Room on the disk for what is still to be written, looked at before the first byte is."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from isles24_zarr.errors import LittleRoomWarning, NoRoomError
from isles24_zarr.store import child_names, listed_keys
from isles24_zarr.writing import written_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zarr.abc.store import Store

    from isles24_zarr.conversion.resume import Job
    from isles24_zarr.format import ArrayPlan
    from isles24_zarr.store import StorePlace

_USUAL_RATIO: Final = 4
"""Of voxels to what they take in the store, where the file is not compressed and tells nothing."""
_GZIP_GAIN: Final = 8
"""What was measured takes 0.5 to 1.6 times its compressed file, whether noise, maps, masks or none of it outside."""
_HIGHEST_RATIO: Final = 1024
"""Of zeros alone, 728 bytes are one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is to be written, and where to.

    Parameters
    ----------
    estimated, least
        Bytes that it takes, about; and at the very least.
    free
        Bytes that are free on the disk of the store, with those that the conversion frees before it writes; None where
        that is not known, as behind a URL.
    """

    estimated: int
    least: int
    free: int | None


def estimated_bytes(plan: ArrayPlan) -> int:
    """Return about what an image takes in the store: as much as its compressed file."""
    return plan.source.size if _is_compressed(plan) else plan.nbytes // _USUAL_RATIO


def least_bytes(plan: ArrayPlan) -> int:
    """Return what an image takes in the store at the very least."""
    return plan.source.size // _GZIP_GAIN if _is_compressed(plan) else plan.nbytes // _HIGHEST_RATIO


def _is_compressed(plan: ArrayPlan) -> bool:
    """Tell whether the size of a file says how much there is in it: one that was merely wrapped by gzip does not."""
    return plan.source.path.endswith(".gz") and plan.source.size < 0.9 * plan.nbytes


def standing_arrays(store: Store, job: Job) -> list[ArrayPlan]:
    """Return the arrays of a job that are in the store already, from files of the same size, and stay there."""
    if not child_names(store, job.subject.name):
        return []
    records = ((plan, written_record(store, plan)) for plan in job.plan.arrays if plan.image not in job.afresh)
    return [plan for plan, found in records if found and found[1]["source"].get("size") == plan.source.size]


def room_for(target: StorePlace, store: Store, jobs: Iterable[Job]) -> Room:
    """Look at the room for some jobs.

    Parameters
    ----------
    target, store
        Where they write.
    jobs
        What is to be done.
    """
    estimated = least = freed = 0
    for job in jobs:
        standing = standing_arrays(store, job)
        written = [plan for plan in job.plan.arrays if plan not in standing]
        estimated += sum(map(estimated_bytes, written))
        least += sum(map(least_bytes, written))
        kept = [f"{plan.path}/" for plan in standing]
        sizes = listed_keys(store, job.subject.name)
        freed += sum(size for key, size in sizes.items() if size > 0 and not key.startswith(tuple(kept)))
    free = free_bytes(target)
    return Room(estimated=estimated, least=least, free=None if free is None else free + freed)


def free_bytes(target: StorePlace) -> int | None:
    """Return what is free on the disk of a store; None where that cannot be told, as behind a URL."""
    if "://" in target.url:
        return None
    place = Path(target.url)
    try:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        usage = shutil.disk_usage(place)
    except OSError:
        return None
    return usage.free if usage.total else None  # some network file systems know of no sizes


def check_room(target: StorePlace, store: Store, jobs: Sequence[Job]) -> None:
    """Make sure that there is room for the least that jobs can take, and warn where the usual will not fit.

    Raises
    ------
    NoRoomError
        There is not.

    Warns
    -----
    LittleRoomWarning
        It may be too little.
    """
    if free_bytes(target) is None:
        return
    room = room_for(target, store, jobs)
    if room.free is None or room.free >= room.estimated:
        return
    numbers = f"about {_megabytes(room.estimated)} MB are to be written, and {_megabytes(room.free)} MB are free"
    if room.free < room.least:
        raise NoRoomError(target.url, f"{numbers}; they take {_megabytes(room.least)} MB at the very least")
    # 3: the caller of convert
    warnings.warn(f"{target.url}: {numbers}; it may not do", LittleRoomWarning, stacklevel=3)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}"
