"""What a conversion would find, write and leave, told before it runs. Reads headers and documents, writes nothing."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from isles24_zarr.conversion._planning import read_headers
from isles24_zarr.conversion._request import Request
from isles24_zarr.conversion._room import room_for, standing_arrays
from isles24_zarr.conversion.resume import previous_run
from isles24_zarr.release import of_subjects
from isles24_zarr.store import child_names, listed_keys
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zarr.abc.store import Store

    from isles24_zarr.errors import Problem
    from isles24_zarr.format import ArrayPlan
    from isles24_zarr.release import LeftOut, Release


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a conversion would do.

    Parameters
    ----------
    store
        Where it would write.
    unchanged
        Subjects that would stay as they are.
    standing
        Paths of all arrays that would stay: those of these subjects, and of others those whose files are the same.
    stored_bytes
        What the store holds of the chosen subjects now.
    reasons
        Why subjects would be converted, by name.
    arrays
        What would be written.
    gone_subjects, gone_images
        Subjects, and paths of images of others, that the store has and the source has not.
    estimated_bytes, least_bytes, free_bytes
        What the arrays take, about; at the very least; and what there is on the disk, with what would be deleted
        before. None behind a URL.
    problems, left_out
        As in the report of the conversion, as far as headers tell.
    """

    store: str
    unchanged: tuple[str, ...]
    standing: tuple[str, ...]
    stored_bytes: int
    reasons: Mapping[str, str]
    arrays: tuple[ArrayPlan, ...]
    gone_subjects: tuple[str, ...]
    gone_images: tuple[str, ...]
    estimated_bytes: int
    least_bytes: int
    free_bytes: int | None
    problems: tuple[Problem, ...]
    left_out: tuple[LeftOut, ...]


def forecast(
    source: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    overwrite: bool = False,
    prune: bool = False,
    readmit: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    extra_images: bool = False,
    strict: bool = False,
) -> Forecast:
    """Tell what `convert` would do with the same arguments.

    Parameters
    ----------
    source, store, subjects, images, overwrite, prune, readmit, storage_options, extra_images, strict
        As for `convert`, whose errors it raises; but for `NoRoomError`.
    """
    request = Request.of(
        source,
        store,
        subjects=subjects,
        images=images,
        overwrite=overwrite,
        prune=prune,
        readmit=readmit,
        storage_options=storage_options,
        extra_images=extra_images,
        strict=strict,
    )
    target, release, chosen, update = request.target, request.release, request.chosen, request.update
    opened = target.opened(read_only=True)
    _, headers, odd = read_headers(request.source, request.needed(), progress=sys.stderr.isatty())
    jobs, unchanged, found = request.jobs(opened, chosen.values(), headers, odd)
    standing = [plan.path for job in jobs for plan in standing_arrays(opened, job)]
    room = room_for(target, opened, jobs)
    return Forecast(
        store=target.url,
        unchanged=tuple(unchanged),
        standing=tuple(sorted([*standing, *_committed_arrays(opened, unchanged)])),
        stored_bytes=sum(size for name in chosen for size in listed_keys(opened, name).values() if size > 0),
        reasons={job.subject.name: job.reason for job in jobs},
        arrays=tuple(plan for job in jobs for plan in job.plan.arrays if plan.path not in standing),
        gone_subjects=tuple(_gone_subjects(opened, release)) if subjects is None else (),
        gone_images=tuple(_gone_images(opened, release, chosen)),
        estimated_bytes=room.estimated,
        least_bytes=room.least,
        free_bytes=room.free,
        problems=(*release.problems, *found, *update.problems, *(problem for job in jobs for problem in job.problems)),
        left_out=of_subjects(release.left_out, None if subjects is None else chosen),
    )


def _committed_arrays(store: Store, subjects: Sequence[str]) -> Iterator[str]:
    for name in subjects:
        record = previous_run(store, name).record
        yield from (f"{name}/{path}" for path in (record.arrays if record else ()))


def _gone_subjects(store: Store, release: Release) -> Iterator[str]:
    for name in child_names(store, ""):
        if SUBJECT_NAME.fullmatch(name) and name not in release.subjects:
            yield name


def _gone_images(store: Store, release: Release, subjects: Mapping[str, Any]) -> Iterator[str]:
    for name in subjects:
        record = previous_run(store, name).record
        files = {file.path for file in release.subjects[name].images.values()}
        yield from (f"{name}/{path}" for path, file in (record.arrays if record else {}).items() if file not in files)
