"""The tasks of a conversion, run on Dask, and the commit of each subject after its last one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from isles24_zarr.conversion._commit import clinical_record, publish_subject, restamp_subject, says_the_same
from isles24_zarr.conversion._ingest import FileCheck, FileResult, FileTask, check_file, convert_file
from isles24_zarr.conversion.resume import Job, kept_as_it_was, lost_table, prepare, table_paths
from isles24_zarr.errors import Problem
from isles24_zarr.writing import written_record

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client

    from isles24_zarr.release import Source
    from isles24_zarr.store import StorePlace
    from isles24_zarr.tasks import TaskLost

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where the tasks of a conversion read, write and run.

    Parameters
    ----------
    source, target
        The release and the store.
    client
        Of the cluster; None where there is nothing to do for workers.
    confirm
        Raises where the lock of the store was lost; called before each commit.
    folder
        For members of an archive, while it is read from front to back; None for other sources.
    progress
        Show bars on stderr.
    """

    source: Source
    target: StorePlace
    client: Client | None
    confirm: Callable[[], None]
    folder: Path | None
    progress: bool

    def convert(self, jobs: Sequence[Job]) -> dict[str, tuple[Problem, ...]]:
        """Run the tasks of all jobs and commit each subject after its last one.

        Returns
        -------
        dict
            The subjects that were left as they were, because a changed file turned out to be damaged, or all to be the
            same, with what is to be told of them.
        """
        from isles24_zarr.tasks import TaskLost

        kept = self._checked(jobs)
        by_subject = {job.subject.name: job for job in jobs if job.subject.name not in kept}
        store = self.target.opened(read_only=False)
        waiting = dict(by_subject)

        def begin(name: str) -> None:
            """Take back the commit of a subject, not before it is its turn."""
            if job := waiting.pop(name, None):
                self.confirm()
                prepare(store, job)

        tasks = [task for job in by_subject.values() for task in job.tasks(self.source, self.target)]
        for name, job in by_subject.items():
            if not job.pending:
                begin(name)
                self._commit(job)
        with self._completed(convert_file, tasks, "converting", begin) as results:
            for task, result in results:
                job = by_subject[task.plan.subject]
                is_lost = isinstance(result, TaskLost)
                job.take(task, FileResult(present=False, problem=_lost(task, result)) if is_lost else result)
                if not job.pending:
                    self._commit(job)
        return kept

    def _checked(self, jobs: Sequence[Job]) -> dict[str, tuple[Problem, ...]]:
        """Read changed files of what the store has: what was good before is not given up for damage, or for nothing."""
        from isles24_zarr.tasks import TaskLost

        store = self.target.opened(read_only=True)
        by_subject = {job.subject.name: job for job in jobs if job.record or job.stored}
        kept = self._with_lost_tables(by_subject.values())
        changed = [
            task
            for job in by_subject.values()
            if job.subject.name not in kept
            for task in job.tasks(self.source, self.target)
            if not (task.unchanged or task.plan.image in job.afresh)
            # without a commit, what still fits its file is decided on when that is converted
            if job.record or (task.plan.source.path in job.stored and not written_record(store, task.plan))
        ]
        with self._completed(check_file, changed, "checking changed files") as results:
            for task, result in results:
                path, name = task.plan.source.path, task.plan.subject
                check = FileCheck(problem=_lost(task, result)) if isinstance(result, TaskLost) else result
                if check.problem:
                    kept[name] = (kept_as_it_was(name, by_subject[name].record, path, check.problem),)
                elif check.same:
                    by_subject[name].same.add(path)
        for name, job in by_subject.items():
            if name not in kept and job.record and self._is_the_same(job):
                self.confirm()
                restamp_subject(self.target.opened(read_only=False), name, job.files)
                kept[name] = job.record.problems
        return kept

    def _with_lost_tables(self, jobs: Iterable[Job]) -> dict[str, tuple[Problem, ...]]:
        """Read the tables of committed subjects; return those of whom one cannot be read any more, and why."""
        kept: dict[str, tuple[Problem, ...]] = {}
        for job in jobs:
            name = job.subject.name
            job.clinical, failed = clinical_record(job.subject, self.source)
            if problem := lost_table(job, job.clinical, failed):
                kept[name] = (kept_as_it_was(name, job.record, problem.path, problem),)
        return kept

    def _is_the_same(self, job: Job) -> bool:
        """Tell whether all that has changed of a subject are stamps of its files; tables count by what they say."""
        record = job.record
        if record is None or job.cause:
            return False
        sizes = {file.path: file.size for file in job.files}
        tables = {path for path in table_paths(record) & set(job.changed) if sizes.get(path) == record.files[path]}
        if tables and job.clinical and says_the_same(job.subject, job.clinical, record):
            job.same |= tables
        return job.stamps_alone and set(job.changed) <= job.same

    @contextlib.contextmanager
    def _completed(
        self, function: Any, tasks: list[FileTask], title: str, begin: Callable[[str], None] = lambda _: None
    ) -> Iterator[Iterator[tuple[FileTask, Any]]]:
        from isles24_zarr.tasks import arrivals, completed_arrivals, completed_tasks

        if not tasks or self.client is None:
            yield iter(())
            return
        if self.folder and self.source.streamed:
            by_path = {task.plan.source.path: task for task in tasks}
            nbytes = {path: task.plan.nbytes for path, task in by_path.items()}

            def begun(arrival: Any) -> Any:
                begin(arrival.task.plan.subject)
                return arrival

            arriving = map(begun, arrivals(self.source, by_path, nbytes, self.folder))
            total = sum(nbytes.values())
            done = completed_arrivals(self.client, function, arriving, total=total, title=title, progress=self.progress)
        else:
            sizes, subjects = [task.plan.nbytes for task in tasks], [task.plan.subject for task in tasks]
            done = completed_tasks(
                self.client,
                function,
                tasks,
                sizes=sizes,
                groups=subjects,
                begin=begin,
                title=title,
                progress=self.progress,
            )
        with contextlib.closing(done):
            yield done

    def _commit(self, job: Job) -> None:
        self.confirm()
        clinical = job.clinical or clinical_record(job.subject, self.source)[0]
        again = job.unsettled | {problem.path for problem in (*job.problems, *clinical.problems) if problem.passing}
        problems = publish_subject(
            self.target.opened(read_only=False),
            job.plan,
            present=job.present,
            files=[file for file in job.files if file.path not in again],
            clinical=clinical,
            problems=job.problems,
        )
        job.problems = list(problems)
        _logger.info("%s is committed", job.subject.name)


@contextlib.contextmanager
def client_for(jobs: Sequence[Job], client: Client | None, workers: int | None) -> Iterator[Client | None]:
    """Give a client where there is anything for workers to do."""
    from isles24_zarr.tasks import dask_client

    if any(job.plan.arrays for job in jobs):
        with dask_client(client, workers) as running:
            yield running
    else:
        yield None


@contextlib.contextmanager
def spool_for(source: Source, target: StorePlace, folder: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """Give a folder for members of an archive that is read from front to back; nothing for other sources."""
    from isles24_zarr.tasks import opened_spool

    if source.streamed:
        with opened_spool(folder, target) as opened:
            yield opened
    else:
        yield None


def _lost(task: FileTask, lost: TaskLost) -> Problem:
    return Problem(
        path=task.plan.source.path,
        message=f"{lost.why}; run the same command again, with fewer workers",
        subject=task.plan.subject,
        image=task.plan.image,
        passing=True,
    )
