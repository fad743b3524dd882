"""What an archive that is read front to back costs: one pass for headers and tables, one for the voxels.

The plan of a subject needs the headers of all its images, and the NCCT, which gives the grid, lies behind most of the
bytes of the published archive. So a first pass takes headers and tables out of it, and a second one copies the members
that are wanted into the spool, a folder, one after the other. Each copy becomes a task as soon as it is there, and is
deleted when that has ended. While the spool is full, the archive waits.

A spool is locked by the kernel as long as its process lives, so that what a killed one left behind is known for what it
is, and removed by the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from isles24_zarr.clinical import MAX_TABLE_BYTES
from isles24_zarr.errors import (
    Problem,
    SourceError,
    SpoolError,
    TrailingDataError,
    UnsupportedArchiveError,
)
from isles24_zarr.nifti import Header, read_header
from isles24_zarr.places import lock_file
from isles24_zarr.progress import ProgressBar
from isles24_zarr.release import Source, copy_member, told_reading
from isles24_zarr.tasks.cluster import running_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from distributed import Client

    from isles24_zarr.nifti import MemberStream
    from isles24_zarr.release import SourceFile, Subject
    from isles24_zarr.store import StorePlace
    from isles24_zarr.tasks.cluster import RunningTasks, TaskLost

MOST_BYTES: Final = 4 * 10**9
"""In a spool at once; a single member may be larger, as far as its header accounts for its size."""

MOST_MEMBERS: Final = 64
_MOST_TABLES_BYTES: Final = 64 * 2**20
_COPY_BYTES: Final = 2**20
_HEADER_BYTES: Final = 2**16
"""Of an image of which nothing but the header is read, about."""
_PREFIX: Final = ".isles24-zarr-spool-"
_SLACK_BYTES: Final = 64 * 2**20
"""What headers and surplus may add to a file beyond twice its voxels."""


class SourceTask(Protocol):
    """A task that reads one file of a source; a frozen dataclass."""

    @property
    def source(self) -> Source | None:
        """The release."""


Task = TypeVar("Task", bound=SourceTask)
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arrival(Generic[Task]):
    """A task whose file is the next one of the archive.

    Parameters
    ----------
    task, nbytes
        What is to be run, and how many bytes of voxels it handles.
    path
        Of the file in the release.
    stream
        To be copied before the next arrival is asked for, or why it cannot be.
    copy
        Where to.
    size
        Bytes that the copy takes.
    """

    task: Task
    nbytes: int
    path: str
    stream: MemberStream | SourceError
    copy: Path
    size: int

    def fetched(self) -> Task:
        """Copy the file; return the task that reads the copy, or that finds out why there is none."""
        held: Path | SourceError = self.stream if isinstance(self.stream, SourceError) else self.copy
        if not isinstance(self.stream, SourceError):
            try:
                self._write(self.stream)
            except SourceError as error:
                self.drop()
                held = error
        source = dataclasses.replace(cast("Source", self.task.source), held={self.path: held})
        return dataclasses.replace(cast("Any", self.task), source=source)  # type: ignore[no-any-return]

    def _write(self, stream: MemberStream) -> None:
        if stream.left > 2 * self.nbytes + _SLACK_BYTES:
            what = f"has {stream.left:,} bytes for the {self.nbytes:,} bytes of voxels that its header promises"
            raise TrailingDataError(self.path, what)
        try:
            with self.copy.open("wb") as file:
                while piece := stream.read(_COPY_BYTES):
                    file.write(piece)
        except OSError as error:
            raise SpoolError(self.copy.parent, f"cannot be written ({error})") from error

    def drop(self) -> None:
        """Delete the copy."""
        self.copy.unlink(missing_ok=True)


@contextlib.contextmanager
def opened_spool(place: str | os.PathLike[str] | None, target: StorePlace) -> Iterator[Path]:
    """Give an empty folder for copies, which is gone afterwards.

    Parameters
    ----------
    place
        A folder to make it in; all workers must see it under the same path.
    target
        By default, the spool is made beside a store on this machine, else among the temporary files.

    Raises
    ------
    SpoolError
        There, no folder can be made.
    """
    beside = tempfile.gettempdir() if "://" in target.url else os.path.dirname(target.url)  # noqa: PTH120 - a string
    parent = Path(os.path.realpath(place or beside))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError), _locked(leftover):  # of others, or in use
                shutil.rmtree(leftover)
        folder, lock = _new_folder(parent)
    except OSError as error:
        raise SpoolError(parent, f"cannot hold copies of an archive's members ({error})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / f"{_PREFIX}{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = stack.enter_context(_locked(folder))
            folder.stat()  # another process may have taken it for a leftover just before it was locked
            return folder, os.dup(lock)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock_file(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def read_ahead(
    source: Source,
    subjects: Iterable[Subject],
    dictionary: SourceFile | None,
    *,
    progress: bool,
    kept: Collection[str] = (),
    folder: Path | None = None,
) -> tuple[Source, dict[str, Header], list[Problem]]:
    """Take headers and tables out of an archive, in one pass that ends with the last of them.

    An archive behind HTTP is not to be read twice: the images that are needed are copied on the way.

    Parameters
    ----------
    source
        The archive.
    subjects, dictionary
        Whose files are wanted.
    progress
        Show a progress bar on stderr: an archive of 99 GB takes minutes.
    kept, folder
        Paths of images to copy, and the spool, of an archive behind HTTP; by default, none is copied.

    Returns
    -------
    tuple
        The source, which now holds the tables, and copies of images, if any, so that nothing is streamed any more;
        headers by path; a problem for each image without a usable one.
    """
    images = {file.path: (each.name, key[1], file) for each in subjects for key, file in each.images.items()}
    tables = {file.path: file for each in subjects for file in each.tables.values()}
    tables |= {dictionary.path: dictionary} if dictionary else {}
    headers: dict[str, Header] = {}
    held: dict[str, Path | bytes | SourceError] = {}
    problems = []
    copies = {path: folder / f"{number:06}" for number, path in enumerate(sorted(kept))} if folder else {}
    needed = {
        path: each[2].size if path in copies else min(each[2].size, _HEADER_BYTES) for path, each in images.items()
    }
    needed |= {file.path: file.size for file in tables.values()}
    if folder:
        _check_room(folder, sum(needed[path] for path in copies))
    bar = ProgressBar(
        "reading headers", total=len(needed), in_bytes=False, shown=progress and bool(needed) and not source.remote
    )
    with told_reading(source, needed, title="fetching", shown=progress), bar:
        for path, stream in source.members(needed):
            bar.finish(1)
            if path in tables:
                held[path] = _table(stream, path, room=_MOST_TABLES_BYTES - sum(map(_length, held.values())))
                continue
            subject, image, file = images[path]
            try:
                headers[path] = _header(stream, file, held, copies.get(path))
            except SourceError as error:
                held[path] = error
                problems.append(Problem.from_error(error, subject=subject, image=image))
    return dataclasses.replace(source, held=held, streamed=not folder), headers, problems


def _header(
    stream: MemberStream | SourceError, file: SourceFile, held: dict[str, Path | bytes | SourceError], copy: Path | None
) -> Header:
    """Read the header of an image, after it was copied where that is wanted."""
    if isinstance(stream, SourceError):
        raise stream
    if copy is None:
        return read_header(cast("BinaryIO", stream), path=file.path, size=file.size)
    try:
        copy_member(stream, copy)
    except OSError as error:
        raise SpoolError(copy.parent, f"cannot be written ({error})") from error
    held[file.path] = copy
    with copy.open("rb") as opened:
        return read_header(opened, path=file.path, size=file.size)


def _check_room(folder: Path, nbytes: int) -> None:
    room = shutil.disk_usage(folder).free
    if nbytes > room:
        raise SpoolError(folder, f"has room for {room:,} bytes, and the files of the archive take {nbytes:,}")


def _table(stream: MemberStream | SourceError, path: str, *, room: int) -> bytes | SourceError:
    if isinstance(stream, SourceError):
        return stream
    if stream.left > room:
        return UnsupportedArchiveError(path, f"the tables of the archive have more than {_MOST_TABLES_BYTES:,} bytes")
    content = bytearray()
    try:
        while len(content) <= MAX_TABLE_BYTES and (piece := stream.read(_COPY_BYTES)):
            content += piece
    except SourceError as error:
        return error
    return bytes(content)


def _length(content: Path | bytes | SourceError) -> int:
    return len(content) if isinstance(content, bytes) else 0


def arrivals(
    source: Source, tasks: Mapping[str, Task], sizes: Mapping[str, int], folder: Path
) -> Iterator[Arrival[Task]]:
    """Yield tasks in the order in which their files come off an archive; those that do not come, last.

    Parameters
    ----------
    source
        The archive.
    tasks, sizes
        By the path of the file: what is to be run, and how many bytes of voxels the file has.
    folder
        The spool.
    """
    for number, (path, stream) in enumerate(source.members(tasks.keys())):
        copy = folder / f"{number:06}"
        size = 0 if isinstance(stream, SourceError) else stream.left
        yield Arrival(task=tasks[path], nbytes=sizes[path], path=path, stream=stream, copy=copy, size=size)


class _Spool(Generic[Task]):
    """Tasks that run on copies, and what their copies take."""

    def __init__(self, running: RunningTasks[tuple[Arrival[Task], Task]]) -> None:
        self._running = running
        self._held = 0

    def must_wait(self, arrival: Arrival[Task]) -> bool:
        """Tell whether there is a result to be taken before a copy is made."""
        if not len(self._running):
            return False
        full = len(self._running) >= MOST_MEMBERS or self._held + arrival.size > MOST_BYTES
        if full or self._running.has_result():
            return True
        try:
            return arrival.size > shutil.disk_usage(arrival.copy.parent).free
        except OSError as error:
            raise SpoolError(arrival.copy.parent, f"cannot be looked at ({error})") from error

    def submit(self, arrival: Arrival[Task]) -> None:
        """Copy the file and run the task."""
        self._held += arrival.size
        task = arrival.fetched()
        self._running.submit((arrival, task), task, nbytes=arrival.nbytes, weight=arrival.nbytes)

    def result(self) -> tuple[Task, Any]:
        """Wait for a task to end, and delete its copy."""
        (arrival, task), result = self._running.result()
        self._held -= arrival.size
        arrival.drop()
        return task, result


def completed_arrivals(
    client: Client,
    function: Callable[[Task, str], Result],
    arriving: Iterable[Arrival[Task]],
    *,
    total: int,
    title: str,
    progress: bool,
) -> Generator[tuple[Task, Result | TaskLost]]:
    """Run tasks as their files come off an archive, and yield each, as it was, with its result as it ends.

    Parameters
    ----------
    client, function, title, progress
        As for `cluster.completed_tasks`.
    arriving
        In the order of the archive.
    total
        Bytes of voxels that all of them handle.

    Yields
    ------
    tuple
        The task and its result, or how it was lost.

    Raises
    ------
    ClusterLostError
        The scheduler has gone, or all workers have.
    SpoolError
        The spool cannot be written.
    """
    bar = ProgressBar(title, total=total, in_bytes=True, shown=progress)
    with running_tasks(client, function, bar) as running:
        spool: _Spool[Task] = _Spool(running)
        for arrival in arriving:
            while spool.must_wait(arrival):
                yield spool.result()
            spool.submit(arrival)
        while len(running):
            yield spool.result()
