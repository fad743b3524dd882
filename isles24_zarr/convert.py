"""From a release to a store: scan, plan, run one Dask task per file, commit subject by subject.

Tasks carry paths and plans, never voxels. The process that called `convert` is the only one that commits: a subject's
group is published when the last of its files has been dealt with, the cohort table and the root at the very end.

A second run does what is missing. A subject is left alone when its record lists the same files, by path, size and
stamp; within a subject that is redone, so is every array whose file is the same (see `ingest`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr import vocabulary
from isles24_zarr.commit import (
    PACKAGE_VERSION,
    clinical_record,
    publish_subject,
    store_errors,
    write_cohort,
    write_root,
)
from isles24_zarr.errors import (
    DestinationError,
    NotAStoreError,
    Problem,
    SourceError,
)
from isles24_zarr.ingest import FileResult, FileTask, convert_file
from isles24_zarr.layout import KEY, SubjectPlan, subject_plan
from isles24_zarr.nifti import Header, read_header
from isles24_zarr.release import Source, selected_names
from isles24_zarr.store import (
    Target,
    child_names,
    read_document,
    read_root,
    remove,
    withdraw,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from distributed import Client
    from zarr.abc.store import Store

    from isles24_zarr.release import Release, SourceFile, Subject

_HEADER_THREADS: Final = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a conversion did.

    Parameters
    ----------
    store
        Where it wrote.
    converted, unchanged
        Subjects that this run committed, and those left as an earlier run had committed them.
    images
        Number of images written.
    voxel_bytes
        Bytes of voxels written, before compression.
    seconds
        Time taken.
    problems
        Everything that went wrong or is odd.
    """

    store: str
    converted: tuple[str, ...]
    unchanged: tuple[str, ...]
    images: int
    voxel_bytes: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether every file could be used."""
        return all(problem.severity != "error" for problem in self.problems)


@dataclasses.dataclass(kw_only=True)
class _Job:
    """A subject on its way to its commit."""

    subject: Subject
    plan: SubjectPlan
    files: tuple[SourceFile, ...]
    problems: list[Problem]
    pending: set[str]
    present: set[str] = dataclasses.field(default_factory=set)
    written: list[int] = dataclasses.field(default_factory=list)


def scan(source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Release:
    """List a release: its subjects, images, tables and everything odd. Reads headers, no voxels.

    Parameters
    ----------
    source
        A folder, a zip file or any fsspec URL.
    storage_options
        For fsspec, where the source is a URL.

    Returns
    -------
    Release
        With the problems of paths, headers and grids.

    Raises
    ------
    SourceNotFoundError
        There is no release.
    """
    place = Source.of(source, storage_options)
    release = place.listed()
    headers, problems = _headers(place, release.subjects.values())
    for subject in release.subjects.values():
        problems += subject_plan(subject, headers).problems
    return dataclasses.replace(release, problems=(*release.problems, *problems))


def planned(
    source: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[SubjectPlan]:
    """Return what `convert` would write into a new store, given the same arguments."""
    place = Source.of(source, storage_options)
    chosen = _chosen_subjects(place.listed(), subjects)
    headers, _ = _headers(place, chosen.values())
    wanted = _wanted_images(images)
    return [_only(subject_plan(subject, headers), wanted) for subject in chosen.values()]


def convert(
    source: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    client: Client | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Convert a release, resuming what an earlier run finished.

    Parameters
    ----------
    source
        A folder, a zip file or any fsspec URL of a release.
    store
        Where to write: a new place, or a store that this function wrote.
    subjects, images
        Names to convert; all by default. What the store holds beyond them stays.
    client
        A Dask client to run the tasks on; by default a cluster of single-threaded processes on this machine.
    workers
        Number of those processes, by default one for each core.
    overwrite
        Convert the chosen subjects afresh, whatever the store holds of them.
    progress
        Show a progress bar on stderr.
    storage_options
        For fsspec, for those of source and store that are URLs.

    Returns
    -------
    Report
        A file that cannot be used is a problem of the report; the others are converted.

    Raises
    ------
    RequestError
        The source is no release, the store is something else, or a name is unknown.
    StoreWriteError
        Writing failed. What was committed before stays; the same call resumes.
    """
    started = time.monotonic()
    origin, target = Source.of(source, storage_options), Target.of(store, storage_options)
    release = origin.listed()
    chosen = _chosen_subjects(release, subjects)
    wanted = _wanted_images(images)
    zarr_store = target.opened(read_only=False)
    complete = _check_target(target, zarr_store)
    headers, problems = _headers(origin, chosen.values())
    unreadable = {problem.path: problem for problem in problems}
    problems = list(release.problems)
    jobs, tasks, unchanged = [], [], []
    for subject in chosen.values():
        record = _subject_record(zarr_store, subject.name)
        if overwrite:
            remove(zarr_store, subject.name)
            record = {}
        job, found = _job(subject, headers, unreadable, wanted=wanted, record=record)
        problems += found
        if job is None:
            unchanged.append(subject.name)
        else:
            jobs.append(job)
            tasks += _prepared_tasks(job, record, origin, target, zarr_store)
    if jobs or not complete:
        with store_errors(target):
            write_root(zarr_store, origin, state="converting")
        _run(jobs, tasks, origin, target, client=client, workers=workers, progress=progress)
        with store_errors(target):
            problems += write_cohort(zarr_store, origin, release)
            write_root(zarr_store, origin, state="complete")
    written = [count for job in jobs for count in job.written if count]
    return Report(
        store=target.url,
        converted=tuple(job.subject.name for job in jobs),
        unchanged=tuple(unchanged),
        images=len(written),
        voxel_bytes=sum(written),
        seconds=time.monotonic() - started,
        problems=(*problems, *(problem for job in jobs for problem in job.problems)),
    )


def _headers(source: Source, subjects: Iterable[Subject]) -> tuple[dict[str, Header], list[Problem]]:
    """Read the headers of all images by path; a file without a usable one becomes a problem."""

    def read(item: tuple[str, str, SourceFile]) -> Header | Problem:
        subject, image, file = item
        try:
            with source.opened(file) as opened:
                return read_header(opened, path=file.path, size=file.size)
        except SourceError as error:
            return Problem.from_error(error, subject=subject, image=image)

    items = [(subject.name, image, file) for subject in subjects for (_, image), file in subject.images.items()]
    with ThreadPoolExecutor(_HEADER_THREADS) as threads:
        found = list(zip(items, threads.map(read, items), strict=True))
    headers = {file.path: result for (_, _, file), result in found if isinstance(result, Header)}
    return headers, [result for _, result in found if isinstance(result, Problem)]


def _wanted_images(images: Sequence[str] | None) -> frozenset[str]:
    return frozenset(selected_names(vocabulary.IMAGES, images, of="the images of a release"))


def _chosen_subjects(release: Release, names: Sequence[str] | None) -> dict[str, Subject]:
    return {name: release.subjects[name] for name in selected_names(release.subjects, names, of=release.source)}


def _only(plan: SubjectPlan, images: frozenset[str]) -> SubjectPlan:
    grids = (
        dataclasses.replace(grid, arrays=tuple(array for array in grid.arrays if array.image in images))
        for grid in plan.grids
    )
    return dataclasses.replace(plan, grids=tuple(grid for grid in grids if grid.arrays))


def _check_target(target: Target, store: Store) -> bool:
    """Make sure that the target is ours or empty; tell whether a conversion into it was finished."""
    try:
        return bool(read_root(store).get("state") == "complete")
    except NotAStoreError:
        if child_names(store, "") or read_document(store, "") is not None:
            raise DestinationError(
                target.url, "is neither empty nor an isles24-zarr store; give a new folder to convert into"
            ) from None
        return False


def _subject_record(store: Store, subject: str) -> dict[str, Any]:
    """Return what the commit of a subject recorded, nothing where there is no commit."""
    document = read_document(store, subject) or {}
    record: dict[str, Any] = document.get("attributes", {}).get(KEY, {})
    return record


def _job(
    subject: Subject,
    headers: Mapping[str, Header],
    unreadable: Mapping[str, Problem],
    *,
    wanted: frozenset[str],
    record: Mapping[str, Any],
) -> tuple[_Job | None, list[Problem]]:
    """Decide whether a subject must be converted, and what is to be told if not."""
    wanted |= record.get("images", {}).keys()
    files = [file for (_, image), file in subject.images.items() if image in wanted]
    files += subject.tables.values()
    if record and record["package_version"] == PACKAGE_VERSION and all(_is_recorded(file, record) for file in files):
        return None, [Problem(subject=subject.name, **problem) for problem in record["problems"]]
    lost = sorted(set(record.get("arrays", {}).values()) - headers.keys())
    if lost:
        # never trade a good subject for a worse one
        reason = unreadable[lost[0]].message if lost[0] in unreadable else "is not in the release any more"
        message = f"{reason}; the subject stays as it was converted before, use --overwrite to convert what there is"
        return None, [Problem(path=lost[0], message=message, subject=subject.name)]
    plan = _only(subject_plan(subject, headers), wanted)
    found = [unreadable[file.path] for file in files if file.path in unreadable]
    job = _Job(
        subject=subject,
        plan=plan,
        files=tuple(files),
        problems=[*found, *(problem for problem in plan.problems if problem.image in wanted)],
        pending={array.path for array in plan.arrays},
    )
    return job, []


def _is_recorded(file: SourceFile, record: Mapping[str, Any]) -> bool:
    size, stamp = record["files"].get(file.path), record["times"]["stamps"].get(file.path)
    return bool(size == file.size and stamp == file.stamp)


def _prepared_tasks(
    job: _Job, record: Mapping[str, Any], source: Source, target: Target, store: Store
) -> list[FileTask]:
    """Withdraw a subject, clear away what is no part of its plan, and return its tasks."""
    withdraw(store, job.subject.name, [grid.name for grid in job.plan.grids])
    keep = {array.path for array in job.plan.arrays}
    for group in child_names(store, job.subject.name):
        for name in child_names(store, f"{job.subject.name}/{group}"):
            path = f"{job.subject.name}/{group}/{name}"
            if path not in keep:
                remove(store, path)
    return [
        FileTask(source=source, target=target, plan=plan, unchanged=bool(record) and _is_recorded(plan.source, record))
        for plan in job.plan.arrays
    ]


def _run(
    jobs: list[_Job],
    tasks: list[FileTask],
    source: Source,
    target: Target,
    *,
    client: Client | None,
    workers: int | None,
    progress: bool,
) -> None:
    """Run the tasks of all jobs and commit each subject after its last one."""
    from isles24_zarr.cluster import completed_tasks, dask_client

    by_subject = {job.subject.name: job for job in jobs}
    for job in jobs:
        if not job.pending:
            _commit(job, source, target)
    if not tasks:
        return
    sizes = [task.plan.nbytes for task in tasks]
    with (
        dask_client(client, workers) as running,
        contextlib.closing(
            completed_tasks(running, convert_file, tasks, sizes=sizes, title="converting", progress=progress)
        ) as done,
    ):
        for task, result in done:
            job = by_subject[task.plan.subject]
            _take(job, task, result if isinstance(result, FileResult) else _killed(task, result))
            if not job.pending:
                _commit(job, source, target)


def _take(job: _Job, task: FileTask, result: FileResult) -> None:
    """Note down what became of a file."""
    job.pending.remove(task.plan.path)
    if result.present:
        job.present.add(task.plan.path)
        job.written.append(result.written)
    if result.problem:
        # where an image was to be kept does not matter once it could not be read
        kept = [problem for problem in job.problems if result.present or problem.path != task.plan.source.path]
        job.problems = [*kept, result.problem]


def _killed(task: FileTask, error: BaseException) -> FileResult:
    message = f"its workers died, perhaps for lack of memory ({error}); convert again with fewer workers"
    problem = Problem(path=task.plan.source.path, message=message, subject=task.plan.subject, image=task.plan.image)
    return FileResult(present=False, problem=problem)


def _commit(job: _Job, source: Source, target: Target) -> None:
    clinical = clinical_record(job.subject, source)
    with store_errors(target):
        problems = publish_subject(
            target.opened(read_only=False),
            job.plan,
            present=job.present,
            files=job.files,
            clinical=clinical,
            problems=job.problems,
        )
    job.problems = list(problems)
