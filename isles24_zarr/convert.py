"""From a release to a store: scan, plan, run one Dask task per file, commit subject by subject.

Tasks carry paths and plans, never voxels. The process that called `convert` is the only one that commits: a subject's
group is published when the last of its files has been dealt with, the cohort table and the root at the very end.

A second run does what is missing. A subject is left alone when its record lists the same files, by path, size and
stamp; within a subject that is redone, so is every array whose file is the same (see `ingest`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr import vocabulary
from isles24_zarr.commit import (
    clinical_record,
    is_complete,
    publish_subject,
    read_dictionary,
    store_errors,
    write_cohort,
    write_root,
)
from isles24_zarr.errors import DestinationError, NotAStoreError, OldStoreError, Problem, SourceError
from isles24_zarr.header import Header
from isles24_zarr.ingest import FileResult, FileTask, check_file, convert_file
from isles24_zarr.layout import PHENOTYPE, SubjectPlan, subject_plan
from isles24_zarr.nifti import read_header
from isles24_zarr.objects import Target, child_names, read_document, read_root
from isles24_zarr.release import selected_names
from isles24_zarr.resume import NOTHING, Job, decided_job, earlier_run, kept_as_it_was, only_images, prepare
from isles24_zarr.source import Source
from isles24_zarr.store import remove, remove_partial_objects
from isles24_zarr.versions import commit_versions, repository_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from distributed import Client

    from isles24_zarr.cluster import TaskLost
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
    reasons
        Why each converted subject was.
    images
        Number of images written.
    voxel_bytes
        Bytes of voxels written, before compression.
    seconds
        Time taken.
    problems
        Everything that went wrong or is odd.
    snapshots
        Of the Icechunk repository, where there is one: the commit of each subject that this run added to it.
    """

    store: str
    converted: tuple[str, ...]
    unchanged: tuple[str, ...]
    reasons: Mapping[str, str]
    images: int
    voxel_bytes: int
    seconds: float
    problems: tuple[Problem, ...]
    snapshots: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every file could be used."""
        return all(problem.severity != "error" for problem in self.problems)


def scan(source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Release:
    """List a release: its subjects, images, tables and everything odd. Reads headers, no voxels.

    Parameters
    ----------
    source
        A folder, an archive (zip, tar, 7z) or any fsspec URL.
    storage_options
        Options for it, where it is a URL.

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
) -> tuple[list[SubjectPlan], list[Problem]]:
    """Return what `convert` would write into a new store, given the same arguments, and what is odd."""
    place = Source.of(source, storage_options)
    release = place.listed()
    chosen, wanted = _chosen_subjects(release, subjects), _wanted_images(images)
    headers, problems = _headers(place, chosen.values())
    plans = [only_images(subject_plan(subject, headers), wanted) for subject in chosen.values()]
    problems += [problem for plan in plans for problem in plan.problems]
    return plans, [*release.problems, *(problem for problem in problems if problem.image in wanted)]


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
    icechunk: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    spool: str | os.PathLike[str] | None = None,
) -> Report:
    """Convert a release, resuming what an earlier run finished.

    Parameters
    ----------
    source
        A folder, an archive (zip, tar, 7z) or any fsspec URL of a release.
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
    icechunk
        An Icechunk repository to commit to as well, one commit a subject: a folder, ``s3://bucket/prefix``, or a URL as
        ``open_scan`` takes it, for another branch than main. It is made if need be. Extra ``icechunk``.
    storage_options
        Options for those of source, store and repository that are URLs.
    spool
        A folder for copies of members of a 7z or tar archive, some GB at a time; by default where the store is. All
        workers must see it.

    Returns
    -------
    Report
        A file that cannot be used is a problem of the report; the others are converted.

    Raises
    ------
    RequestError
        The source is no release, the store is something else, or a name is unknown; or a part is to be converted into a
        store of an older format (`OldStoreError`), which is brought up to date as a whole.
    StoreWriteError, SpoolError
        Writing failed. What was committed before stays; the same call resumes.
    """
    from isles24_zarr.spool import opened_spool, read_ahead

    started = time.monotonic()
    origin, target = Source.of(source, storage_options), Target.of(store, storage_options)
    release = origin.listed()
    chosen = _chosen_subjects(release, subjects)
    wanted = _wanted_images(images)
    outdated = _check_target(target)
    if outdated and (subjects is not None or images is not None):
        raise outdated
    place = None if icechunk is None else repository_place(os.fspath(icechunk), storage_options or {})
    if origin.streamed:
        undecided = _undecided(target, chosen, wanted, overwrite=overwrite)
        origin, headers, problems = read_ahead(origin, undecided, release.dictionary, progress=progress)
    else:
        headers, problems = _headers(origin, chosen.values())
    unreadable = {problem.path: problem for problem in problems}
    dictionary = read_dictionary(origin, release)
    jobs, problems = [], [*release.problems, *dictionary.problems]
    with store_errors(target), target.locked() as confirm:
        zarr_store = target.opened(read_only=False)
        for subject in chosen.values():
            earlier = NOTHING if overwrite else earlier_run(zarr_store, subject.name)
            job, found = decided_job(subject, headers, unreadable, wanted=wanted, earlier=earlier)
            problems += found
            if job:
                jobs.append(job)
        if jobs or outdated or not is_complete(zarr_store, dictionary):
            with _client_for(jobs, client, workers) as running, contextlib.ExitStack() as stack:
                # nothing is changed for a cluster that cannot do the work
                for job in jobs if overwrite else ():
                    remove(zarr_store, job.subject.name)
                remove_partial_objects(zarr_store, "")
                if outdated:
                    remove(zarr_store, PHENOTYPE)  # of the older version: nobody is to read it under the new number
                write_root(zarr_store, origin, dictionary, state="converting")
                folder = stack.enter_context(opened_spool(spool, target)) if origin.streamed else None
                kept = _run(jobs, origin, target, running, stack, confirm, progress=progress, folder=folder)
            problems += kept.values()
            jobs = [job for job in jobs if job.subject.name not in kept]
            confirm()
            write_cohort(zarr_store, dictionary.entries)
            write_root(zarr_store, origin, dictionary, state="complete")
        snapshots = (
            commit_versions(zarr_store, place, storage_options or {}, dictionary.entries, progress=progress)
            if place
            else {}
        )
    written = [count for job in jobs for count in job.written if count]
    return Report(
        store=target.url,
        converted=tuple(job.subject.name for job in jobs),
        unchanged=tuple(name for name in chosen if name not in {job.subject.name for job in jobs}),
        reasons={job.subject.name: job.reason for job in jobs},
        images=len(written),
        voxel_bytes=sum(written),
        seconds=time.monotonic() - started,
        problems=(*problems, *(problem for job in jobs for problem in job.problems)),
        snapshots=snapshots,
    )


def _undecided(
    target: Target, subjects: Mapping[str, Subject], wanted: frozenset[str], *, overwrite: bool
) -> list[Subject]:
    """Return the subjects that are not there already: of the others, nothing is taken out of an archive."""
    store = target.opened(read_only=True)
    return [
        subject
        for name, subject in subjects.items()
        if overwrite or decided_job(subject, {}, {}, wanted=wanted, earlier=earlier_run(store, name))[0]
    ]


def _headers(source: Source, subjects: Iterable[Subject]) -> tuple[dict[str, Header], list[Problem]]:
    """Read the headers of all images by path; a file without a usable one becomes a problem."""
    if source.streamed:
        from isles24_zarr.spool import read_ahead

        return read_ahead(source, subjects, None, progress=sys.stderr.isatty())[1:]

    def read(item: tuple[str, str, SourceFile]) -> Header | Problem:
        subject, image, file = item
        try:
            with source.opened(file, header=True) as opened:
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


def _check_target(target: Target) -> OldStoreError | None:
    """Make sure that the target is ours, or nothing yet; return what readers say of one of an older version."""
    target.opened(read_only=False)
    store = target.opened(read_only=True)
    try:
        read_root(store)
    except OldStoreError as error:
        return error
    except NotAStoreError:
        if child_names(store, "") or read_document(store, "") is not None:
            raise DestinationError(
                target.url, "is neither empty nor an isles24-zarr store; give a new folder to convert into"
            ) from None
    return None


@contextlib.contextmanager
def _client_for(jobs: Sequence[Job], client: Client | None, workers: int | None) -> Iterator[Client | None]:
    """Give a client where there is anything for workers to do."""
    from isles24_zarr.cluster import dask_client

    if any(job.plan.arrays for job in jobs):
        with dask_client(client, workers) as running:
            yield running
    else:
        yield None


def _run(
    jobs: Sequence[Job],
    source: Source,
    target: Target,
    client: Client | None,
    stack: contextlib.ExitStack,
    confirm: Callable[[], None],
    *,
    progress: bool,
    folder: Path | None,
) -> dict[str, Problem]:
    """Run the tasks of all jobs and commit each subject after its last one.

    Returns
    -------
    dict
        Problems of the subjects that were left as they were, because a changed file turned out to be damaged.
    """
    from isles24_zarr.cluster import TaskLost, completed_tasks
    from isles24_zarr.spool import arrivals, completed_arrivals

    def completed(function: Any, tasks: list[FileTask], title: str) -> Iterator[tuple[FileTask, Any]]:
        if not tasks or client is None:
            return iter(())
        if folder:
            by_path = {task.plan.source.path: task for task in tasks}
            nbytes = {path: task.plan.nbytes for path, task in by_path.items()}
            arriving, total = arrivals(source, by_path, nbytes, folder), sum(nbytes.values())
            done = completed_arrivals(client, function, arriving, total=total, title=title, progress=progress)
        else:
            sizes, subjects = [task.plan.nbytes for task in tasks], [task.plan.subject for task in tasks]
            done = completed_tasks(
                client, function, tasks, sizes=sizes, groups=subjects, title=title, progress=progress
            )
        return stack.enter_context(contextlib.closing(done))

    kept: dict[str, Problem] = {}
    to_check = [task for job in jobs if job.record for task in job.tasks(source, target) if not task.unchanged]
    for task, problem in completed(check_file, to_check, "checking changed files"):
        if problem is not None:
            found = _lost(task, problem) if isinstance(problem, TaskLost) else problem
            kept[task.plan.subject] = kept_as_it_was(task.plan.subject, task.plan.source.path, found)
    by_subject = {job.subject.name: job for job in jobs if job.subject.name not in kept}
    for job in by_subject.values():
        prepare(target.opened(read_only=False), job)
    tasks = [task for job in by_subject.values() for task in job.tasks(source, target)]
    for job in by_subject.values():
        if not job.pending:
            confirm()
            _commit(job, source, target)
    for task, result in completed(convert_file, tasks, "converting"):
        job = by_subject[task.plan.subject]
        lost = isinstance(result, TaskLost)
        job.take(task, FileResult(present=False, problem=_lost(task, result)) if lost else result)
        if not job.pending:
            confirm()
            _commit(job, source, target)
    return kept


def _lost(task: FileTask, lost: TaskLost) -> Problem:
    return Problem(
        path=task.plan.source.path,
        message=f"{lost.why}; convert again with fewer workers",
        subject=task.plan.subject,
        image=task.plan.image,
        passing=True,
    )


def _commit(job: Job, source: Source, target: Target) -> None:
    clinical = clinical_record(job.subject, source)
    again = job.unsettled | {problem.path for problem in (*job.problems, *clinical.problems) if problem.passing}
    problems = publish_subject(
        target.opened(read_only=False),
        job.plan,
        present=job.present,
        files=[file for file in job.files if file.path not in again],
        clinical=clinical,
        problems=job.problems,
    )
    job.problems = list(problems)
