"""From a release to a store: scan, plan, run one Dask task per file, commit subject by subject.

Tasks carry paths and plans, never voxels. The process that called `convert` is the only one that commits: a subject's
group is published when the last of its files has been dealt with, the cohort table and the root at the very end.

A second run does what is missing. A subject is left alone when its record lists the same files, by path, size and
stamp, or by content where stamps alone have changed; within a subject that is redone, so is every array whose file is
the same.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

from isles24_zarr.conversion._commit import is_complete, read_dictionary, store_errors, write_cohort, write_root
from isles24_zarr.conversion._planning import read_headers, voxel_files
from isles24_zarr.conversion._request import Request
from isles24_zarr.conversion._room import check_room
from isles24_zarr.conversion._running import Run, client_for, spool_for
from isles24_zarr.conversion._versions import commit_versions, repository_place
from isles24_zarr.format import PHENOTYPE
from isles24_zarr.release import Source, of_subjects
from isles24_zarr.store import StorePlace
from isles24_zarr.writing import remove, remove_partial_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from distributed import Client
    from zarr.abc.store import Store

    from isles24_zarr.conversion._commit import Dictionary
    from isles24_zarr.conversion.resume import Job
    from isles24_zarr.errors import Problem
    from isles24_zarr.release import LeftOut


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What a conversion did.

    Parameters
    ----------
    store
        Where it wrote.
    converted, unchanged
        Subjects that this run committed, and those left as an earlier run had committed them.
    reasons
        Why each converted subject was.
    touched
        By subject, the files whose stamps had changed and whose content had not.
    removed
        Subjects that were pruned, as the release has them no more.
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
    left_out
        Files of the chosen subjects, and of nobody in particular, that are not used.
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
    touched: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    removed: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every file could be used."""
        return all(problem.severity != "error" for problem in self.problems)


def convert(
    source: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    client: Client | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    prune: bool = False,
    readmit: bool = False,
    progress: bool = True,
    icechunk: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    spool: str | os.PathLike[str] | None = None,
    extra_images: bool = False,
    strict: bool = False,
) -> ConvertReport:
    """Convert a release, resuming what an earlier run finished.

    Parameters
    ----------
    source
        A folder, an archive (zip, tar, 7z), Parquet files as on the Hugging Face Hub, any fsspec URL of a release, or
        the URL of a 7z archive by HTTP, out of which no more is read than is wanted.
    store
        Where to write: a new place, or a store that this function wrote.
    subjects, images
        Names to convert; all by default. What the store holds beyond them stays.
    client
        A Dask client to run the tasks on; by default a cluster of single-threaded processes on this machine.
    workers
        Number of those processes, by default one for each core.
    overwrite
        Convert the chosen images of the chosen subjects afresh, whatever the store holds of them.
    prune
        Remove what the store holds and the release has no more: images and tables of the chosen subjects, and, where no
        subjects are named, whole subjects with all that pipelines have of them. Without it, they stay, with a notice.
    readmit
        Convert the named subjects although they were removed from the store for good (see `remove`).
    progress
        Show a progress bar on stderr.
    icechunk
        An Icechunk repository to commit to as well, one commit a subject: a folder, ``s3://bucket/prefix``, or a URL as
        ``open_scan`` takes it, for another branch than main. It is made if need be. Extra ``icechunk``.
    storage_options
        Options for those of source, store and repository that are URLs.
    spool
        A folder for copies of members of a 7z or tar archive, some GB at a time, of one behind HTTP all that are
        wanted; by default where the store is. All workers must see it.
    extra_images
        Keep images beyond the twelve of ISLES'24, under the names that `scan` lists. The store remembers it: later
        conversions into it keep them as well.
    strict
        Write nothing where an image or table of the chosen subjects would be left out.

    Returns
    -------
    ConvertReport
        A file that cannot be used is a problem of the report; the others are converted.

    Raises
    ------
    RequestError
        The source is no release, the store is something else, or a name is unknown; or it is that of a subject that was
        removed for good (`RemovedSubjectError`); or a part is to be converted into a store of an older format
        (`OldStoreError`), which is brought up to date as a whole; or, before anything is written, something would be
        left out (`LeftOutError`) or the disk is much too small (`NoRoomError`).
    StoreWriteError, SpoolError
        Writing failed. What was committed before stays, but for the few subjects that were just being replaced; the
        same call resumes.

    Examples
    --------
    >>> report = isles24_zarr.convert("train", "new.zarr", subjects=["sub-stroke0001"], workers=1, progress=False)
    >>> report.converted, report.images
    (('sub-stroke0001',), 18)
    """
    started, options = time.monotonic(), storage_options or {}
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
    origin, target, release, update = request.source, request.target, request.release, request.update
    place = None if icechunk is None else repository_place(os.fspath(icechunk), options, request.target)
    needed = request.needed()
    with store_errors(target), target.locked() as confirm, spool_for(origin, target, spool) as folder:
        voxels = voxel_files(origin, target, needed, request.wanted)
        origin, headers, odd = read_headers(origin, needed, release.dictionary, voxels, folder, progress=progress)
        dictionary = read_dictionary(origin, release)
        problems = [*release.problems, *dictionary.problems]
        zarr_store = target.opened(read_only=False)
        chosen = update.begun(zarr_store, request.chosen, confirm)
        jobs, left, found = request.jobs(zarr_store, chosen.values(), headers, odd)
        problems += found
        check_room(target, zarr_store, jobs)
        conversion = _Conversion(request=request, source=origin, dictionary=dictionary, confirm=confirm)
        kept: Mapping[str, tuple[Problem, ...]] = {}
        if jobs or request.outdated or not is_complete(zarr_store, dictionary, extra_images=release.extra_images):
            with client_for(jobs, client, workers) as running:
                # nothing is changed for a cluster that cannot do the work
                kept = conversion.run(jobs, running, folder, progress=progress)
        removed = update.pruned(zarr_store, confirm)
        snapshots: Mapping[str, str] = {}
        if place:
            again = chosen if readmit else ()
            snapshots, found = commit_versions(
                zarr_store, place, options, dictionary.entries, progress=progress, only=update.kept, readmitted=again
            )
            update.problems += found
    report = _report(target, left, jobs, kept, problems)
    return dataclasses.replace(
        report,
        problems=(*report.problems, *update.problems),
        seconds=time.monotonic() - started,
        snapshots=snapshots,
        removed=removed,
        left_out=of_subjects(release.left_out, None if subjects is None else chosen),
    )


def _report(
    target: StorePlace,
    left: Sequence[str],
    jobs: Sequence[Job],
    kept: Mapping[str, Sequence[Problem]],
    problems: Sequence[Problem],
) -> ConvertReport:
    done = [job for job in jobs if job.subject.name not in kept]
    unchanged = {*left, *(job.subject.name for job in jobs if job.record)}
    reasons = {job.subject.name: job.reason for job in done}
    written = [count for job in done for count in job.written if count]
    told = (*(found for each in kept.values() for found in each), *(found for job in done for found in job.problems))
    return ConvertReport(
        store=target.url,
        converted=tuple(reasons),
        unchanged=tuple(sorted(unchanged - reasons.keys())),
        reasons=reasons,
        images=len(written),
        voxel_bytes=sum(written),
        seconds=0.0,
        problems=(*problems, *told),
        touched={job.subject.name: tuple(sorted(job.same)) for job in jobs if job.same},
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Conversion:
    """What is written into which store, which is held.

    Parameters
    ----------
    request
        What is asked for.
    source, dictionary
        The release with what was taken out of an archive, and its data dictionary.
    confirm
        Raises where the lock was lost.
    """

    request: Request
    source: Source
    dictionary: Dictionary
    confirm: Callable[[], None]

    def run(
        self, jobs: Sequence[Job], client: Client | None, folder: Path | None, *, progress: bool
    ) -> Mapping[str, tuple[Problem, ...]]:
        """Convert subjects, between a root that says so and the table and the root that say that it is done.

        Returns
        -------
        dict
            As of `Run.convert`.
        """
        target = self.request.target
        store = target.opened(read_only=False)
        remove_partial_objects(store, "")
        if self.request.outdated:
            remove(store, PHENOTYPE)  # of the older version: nobody is to read it under the new number
        self._write_root(store, "converting")
        run = Run(
            source=self.source,
            target=target,
            client=client,
            confirm=self.confirm,
            folder=folder,
            progress=progress,
        )
        kept = run.convert(jobs)
        self.confirm()
        write_cohort(store, self.dictionary.entries)
        self._write_root(store, "complete")
        return kept

    def _write_root(self, store: Store, state: str) -> None:
        extra = self.request.release.extra_images
        write_root(store, self.source, self.dictionary, extra_images=extra, state=state)
