"""Proof that a store is what was written: every array is read again, and every document compared.

Voxels are read as they are for users, their orientation is undone by index arithmetic of their own, which the writer
does not use, and source files are decompressed by the standard library. Whatever is damaged is a finding, and the
rest is verified.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import Problem
from isles24_zarr.release import Source, check_parts, selected_names, told_reading
from isles24_zarr.store import ZARR_JSON, StorePlace, child_names, read_root
from isles24_zarr.verification._derivatives import derivative_problems
from isles24_zarr.verification._findings import FoundImage, findings, root_problems, subject_problems, table_problems
from isles24_zarr.verification._recheck import ArrayTask, damage, verify_array
from isles24_zarr.verification._removed import removal_problems

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from distributed import Client

    from isles24_zarr.format import RootRecord, SubjectRecord
    from isles24_zarr.release import Release, Subject

NOT_IN_STORE: Final = "is in the release and not in the store"
NOT_IN_RELEASE: Final = "is in the store and not in the release"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Parameters
    ----------
    store
        What was verified.
    subjects
        Names of the subjects that were looked at.
    arrays
        Number of images that were looked at.
    voxel_bytes
        Bytes of voxels that were read and compared; 0 where only presence and sizes were.
    seconds
        Time taken.
    problems
        Everything that is not as it was written; and, as notices, results that were made from other images than the
        store has now.
    """

    store: str
    subjects: tuple[str, ...]
    arrays: int
    voxel_bytes: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as it was written."""
        return all(problem.severity != "error" for problem in self.problems)


def verify(
    store: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    subjects: Sequence[str] | None = None,
    fast: bool = False,
    client: Client | None = None,
    workers: int | None = None,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    spool: str | os.PathLike[str] | None = None,
) -> VerifyReport:
    """Check that a store holds what was written into it.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    source
        A release to compare with: its files, too, are read to their ends.
    subjects
        Names to look at, all by default.
    fast
        Check presence, sizes and metadata, and read no voxel; of a release, compare the SHA-256 of its images, for
        which they are read and not decompressed.
    client, workers, progress, storage_options, spool
        As for `convert`.

    Returns
    -------
    VerifyReport
        With every failure, not the first one.

    Raises
    ------
    NotAStoreError, StoreVersionError, SourceNotFoundError, UnknownNameError
        There is nothing to verify, or nothing to compare with.

    Examples
    --------
    >>> isles24_zarr.verify("isles24.zarr", "train", fast=True, workers=1, progress=False).ok
    True
    """
    from isles24_zarr.tasks import TaskLost

    started = time.monotonic()
    target = StorePlace.of(store, storage_options)
    opened = target.opened(read_only=True)
    problems: list[Problem] = []
    root: RootRecord | None = None
    with findings(ZARR_JSON, problems):
        root = read_root(opened)
    origin = Source.of(source, storage_options) if source is not None else None
    release = _listed(origin, extra_images=root is not None and root.extra_images)
    present = [name for name in child_names(opened, "") if name.startswith("sub-")]
    chosen = selected_names(present, subjects, of=target.url)
    _check_parts(origin, release, chosen)
    if not subjects:
        problems += [*root_problems(opened), *table_problems(opened, present)]
        problems += removal_problems(opened, target, present)
    tasks: list[ArrayTask] = []
    looked_at: dict[str, FoundImage] = {}
    for name in chosen:
        found, record, images = subject_problems(opened, name)
        problems += found
        looked_at |= images
        of_subject = _array_tasks(target, images, origin, release, fast=fast)
        tasks += of_subject
        if release and record:
            problems += _release_problems(release.subjects.get(name), name, record, of_subject)
    found, results = derivative_problems(opened, chosen, looked_at, strays=not subjects)
    problems += found
    tasks += _array_tasks(target, results, None, None, fast=fast)
    if release:
        known = {*present, *(root.removed if root else ())}  # who was removed for good is not to be there
        absent = [name for name in release.subjects if name not in known and (not subjects or name in subjects)]
        problems += [Problem(path=name, message=NOT_IN_STORE, subject=name) for name in absent]
    read = 0
    running = [task for task in tasks if task.source or not fast]
    for task, result in _results(running, target, spool, client, workers, progress=progress):
        if isinstance(result, TaskLost):
            problems.append(damage(task.record.path, result.why))
        else:
            read += 0 if fast else task.record.file_voxel_bytes
            problems += result
    return VerifyReport(
        store=target.url,
        subjects=tuple(chosen),
        arrays=len(tasks),
        voxel_bytes=read,
        seconds=time.monotonic() - started,
        problems=tuple(sorted(problems, key=lambda each: (each.path, each.message))),
    )


def _listed(source: Source | None, *, extra_images: bool) -> Release | None:
    """List the release to compare with; images beyond the twelve are only compared where the store keeps them."""
    if source is None:
        return None
    release = source.listed()
    return release if extra_images else release.without_extra_images()


def _check_parts(source: Source | None, release: Release | None, subjects: Sequence[str]) -> None:
    if source and release:
        check_parts(source, release, [name for name in subjects if name in release.subjects])


def _array_tasks(
    target: StorePlace, images: Mapping[str, FoundImage], source: Source | None, release: Release | None, *, fast: bool
) -> list[ArrayTask]:
    """Make the tasks of a subject; a file that the release does not list is not looked for in it."""
    files = {file.path: file for file in release.images} if release else {}
    tasks = []
    for record, lost in images.values():
        file = files.get(record.source.path)
        compared = source if file else None
        tasks.append(ArrayTask(target=target, record=record, source=compared, file=file, lost=lost, fast=fast))
    return tasks


def _results(
    tasks: Sequence[ArrayTask],
    target: StorePlace,
    spool: str | os.PathLike[str] | None,
    client: Client | None,
    workers: int | None,
    *,
    progress: bool,
) -> Iterator[tuple[ArrayTask, Any]]:
    """Run tasks on the caller's cluster or one of our own; none where there are none."""
    from isles24_zarr.tasks import dask_client

    if tasks:
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(dask_client(client, workers, target.url))
            yield from _completed(tasks, target, spool, stack, running, progress=progress)


def _completed(
    tasks: Sequence[ArrayTask],
    target: StorePlace,
    spool: str | os.PathLike[str] | None,
    stack: contextlib.ExitStack,
    client: Client,
    *,
    progress: bool,
) -> Iterator[tuple[ArrayTask, Any]]:
    """Run the tasks, in the order of the archive if they compare with one."""
    from isles24_zarr.tasks import completed_tasks

    streamed = [task for task in tasks if task.source and task.source.streamed]
    others = [task for task in tasks if not (task.source and task.source.streamed)]
    if others:
        sizes = [task.record.file_voxel_bytes for task in others]
        done = completed_tasks(client, verify_array, others, sizes=sizes, title="verifying", progress=progress)
        yield from stack.enter_context(contextlib.closing(done))
    if not streamed or streamed[0].source is None:
        return
    from isles24_zarr.tasks import arrivals, completed_arrivals, opened_spool

    origin = streamed[0].source
    folder = stack.enter_context(opened_spool(spool, target))
    by_path = {task.record.source.path: task for task in streamed}
    nbytes = {path: task.record.file_voxel_bytes for path, task in by_path.items()}
    of_files = {path: task.record.source.size for path, task in by_path.items()}
    stack.enter_context(told_reading(origin, of_files, title="", shown=progress))
    arriving, total = arrivals(origin, by_path, nbytes, folder), sum(nbytes.values())
    arrived = completed_arrivals(client, verify_array, arriving, total=total, title="verifying", progress=progress)
    yield from stack.enter_context(contextlib.closing(arrived))


def _release_problems(
    subject: Subject | None, name: str, record: SubjectRecord, tasks: Sequence[ArrayTask]
) -> Iterator[Problem]:
    """Compare which files of a subject the release has, and the sizes of its tables, with what was converted."""
    if subject is None:
        yield Problem(path=name, message=NOT_IN_RELEASE, subject=name)
        return
    images = {file.path for file in subject.images.values()}
    tables = {file.path: file.size for file in subject.tables.values()}
    converted = {task.record.source.path for task in tasks}
    considered = record.files
    known = {path for path in considered if path.startswith("phenotype/") or "/phenotype/" in path}
    for path in sorted((images - converted) | (tables.keys() - known)):
        yield Problem(path=path, message=NOT_IN_STORE, subject=name)
    for path in sorted((converted - images) | (known - tables.keys())):
        yield Problem(path=path, message=NOT_IN_RELEASE, subject=name)
    for path in sorted(known & tables.keys()):
        if tables[path] != considered[path]:
            what = f"is not the table that was converted: it has {tables[path]:,} bytes, not {considered[path]:,}"
            yield Problem(path=path, message=what, subject=name)
