"""One file into its array: what a worker does.

An array is left alone when it is what its plan says and the SHA-256 of its file has not changed, and is replaced only
by a file that was read to its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from isles24_zarr.errors import Problem, SourceError, StoreWriteError, UnreadableFileError
from isles24_zarr.format import mask_notices
from isles24_zarr.nifti import HashedFile, VoxelStream
from isles24_zarr.writing import looked_at, remove, write_array, written_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isles24_zarr.format import ArrayPlan
    from isles24_zarr.release import Source
    from isles24_zarr.store import StorePlace


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileTask:
    """What a worker needs to convert one file.

    Parameters
    ----------
    source, target
        Where the release and the store are.
    plan
        Of the array.
    unchanged
        The file is known to be the one that was converted before: an array that matches the plan stands.
    """

    source: Source
    target: StorePlace
    plan: ArrayPlan
    unchanged: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """What a look at a file that may have changed has shown.

    Parameters
    ----------
    same
        It has the content of the file that was converted before: its stamp alone has changed.
    problem
        Why it could not replace that one.
    """

    same: bool = False
    problem: Problem | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What became of one file.

    Parameters
    ----------
    present
        Whether its array is in the store.
    written
        Bytes of voxels that were written.
    problem
        Why the file could not be used, if it could not.
    notices
        What is odd about its voxels.
    """

    present: bool
    written: int = 0
    problem: Problem | None = None
    notices: tuple[Problem, ...] = ()


def convert_file(task: FileTask, topic: str) -> FileResult:
    """Convert one file, on a worker.

    Parameters
    ----------
    task
        What to do.
    topic
        Where to tell of progress.

    Raises
    ------
    StoreWriteError
        The store cannot be written; that concerns all files.
    """
    from isles24_zarr.tasks import advance

    plan = task.plan
    store = task.target.opened(read_only=False)
    standing = written_record(store, plan)
    try:
        if standing and (task.unchanged or _sha256(task) == standing[1]["source"]["sha256"]):
            return FileResult(present=True, notices=mask_notices(standing[0]))
        seen = None
        if plan.is_mask or standing:
            # what a mask is stored as depends on its values; and a good array is replaced only by a good file
            with _opened_stream(task) as stream:
                plan, seen = looked_at(plan, stream) if plan.is_mask else (plan, stream.read_to_end())
        standing = None
        remove(store, plan.path)
        with _opened_stream(task) as stream:
            written = write_array(store, plan, stream, lambda count: advance(topic, count))
        if seen and seen != written:
            raise UnreadableFileError(plan.source.path, "has changed while it was read")
    except SourceError as error:
        problem = Problem.from_error(error, subject=plan.subject, image=plan.image)
        if standing:
            problem = dataclasses.replace(problem, message=f"{error.what}; the image converted before was kept")
            return FileResult(present=True, problem=problem, notices=mask_notices(standing[0]))
        remove(store, plan.path)
        return FileResult(present=False, problem=problem)
    except OSError as error:
        raise StoreWriteError(task.target.url, f"cannot be written ({error})") from error
    return FileResult(present=True, written=plan.nbytes, notices=mask_notices(plan))


def _sha256(task: FileTask) -> str:
    with task.source.opened(task.plan.source) as opened:
        file = HashedFile(opened, path=task.plan.source.path)
        while file.read():
            pass
        return file.sha256()


def check_file(task: FileTask, topic: str) -> FileCheck:
    """Look whether a file is the one that was converted, and read it to its end if it is to replace that, on a worker.

    Parameters
    ----------
    task
        Of the file.
    topic
        Where to tell of progress.

    Returns
    -------
    FileCheck
        Whether it is the same, or what is wrong with it.
    """
    from isles24_zarr.tasks import advance

    standing = written_record(task.target.opened(read_only=True), task.plan)
    try:
        recorded = standing[1]["source"] if standing else {}
        if recorded.get("size") == task.plan.source.size and recorded["sha256"] == _sha256(task):
            advance(topic, task.plan.nbytes)
            return FileCheck(same=True)
        with _opened_stream(task) as stream:
            stream.read_to_end()
        advance(topic, task.plan.nbytes)
    except SourceError as error:
        return FileCheck(problem=Problem.from_error(error, subject=task.plan.subject, image=task.plan.image))
    return FileCheck()


@contextlib.contextmanager
def _opened_stream(task: FileTask) -> Iterator[VoxelStream]:
    file = task.plan.source
    with task.source.opened(file) as opened:
        yield VoxelStream(opened, path=file.path, size=file.size)
