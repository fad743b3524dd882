"""One file into its array: what a worker does.

An array is left alone when it is what its plan says and the SHA-256 of its file has not changed, and is replaced only
by a file that was read to its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from isles24_zarr.errors import Problem, SourceError, StoreWriteError
from isles24_zarr.nifti import VoxelStream
from isles24_zarr.store import remove, write_array, written_source
from isles24_zarr.streams import HashedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isles24_zarr.layout import ArrayPlan
    from isles24_zarr.objects import Target
    from isles24_zarr.source import Source


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
    target: Target
    plan: ArrayPlan
    unchanged: bool


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
    """

    present: bool
    written: int = 0
    problem: Problem | None = None


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
    from isles24_zarr.cluster import advance

    plan = task.plan
    store = task.target.opened(read_only=False)
    written_from = written_source(store, plan)
    try:
        if written_from and (task.unchanged or _sha256(task) == written_from["sha256"]):
            return FileResult(present=True)
        if written_from:
            # a good array is replaced only by a good file
            with _opened_stream(task) as stream:
                stream.read_to_end()
        remove(store, plan.path)
        with _opened_stream(task) as stream:
            write_array(store, plan, stream, lambda count: advance(topic, count))
    except SourceError as error:
        if not written_from:
            remove(store, plan.path)
        problem = Problem.from_error(error, subject=plan.subject, image=plan.image)
        if written_from:
            problem = dataclasses.replace(problem, message=f"{error.what}; the image converted before was kept")
        return FileResult(present=bool(written_from), problem=problem)
    except OSError as error:
        raise StoreWriteError(task.target.url, f"cannot be written ({error})") from error
    return FileResult(present=True, written=plan.nbytes)


def _sha256(task: FileTask) -> str:
    with task.source.opened(task.plan.source) as opened:
        file = HashedFile(opened, path=task.plan.source.path)
        while file.read():
            pass
        return file.sha256()


def check_file(task: FileTask, topic: str) -> Problem | None:
    """Read a file to its end that is to replace one that was converted, on a worker.

    Parameters
    ----------
    task
        Of the file.
    topic
        Where to tell of progress.

    Returns
    -------
    Problem or None
        What is wrong with the file.
    """
    from isles24_zarr.cluster import advance

    try:
        with _opened_stream(task) as stream:
            stream.read_to_end()
        advance(topic, task.plan.nbytes)
    except SourceError as error:
        return Problem.from_error(error, subject=task.plan.subject, image=task.plan.image)
    return None


@contextlib.contextmanager
def _opened_stream(task: FileTask) -> Iterator[VoxelStream]:
    file = task.plan.source
    with task.source.opened(file) as opened:
        yield VoxelStream(opened, path=file.path, size=file.size)
