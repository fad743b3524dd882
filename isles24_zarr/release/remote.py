"""Some subjects of a 7z archive behind HTTP: what they cost, which is told before, and copies of their files.

How it was compressed decides what a subject costs: of each block, all that lies before its files is read as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from isles24_zarr.errors import DestinationError, DownloadError, SourceError, UnusableArchiveError, one_line
from isles24_zarr.nifti import whole_file
from isles24_zarr.progress import ProgressBar
from isles24_zarr.release import _sevenzip as sevenzip
from isles24_zarr.release._ranges import WHOLE
from isles24_zarr.release.paths import selected_names
from isles24_zarr.release.reports import FetchCost, FetchReport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from isles24_zarr.nifti import MemberStream
    from isles24_zarr.release.files import SourceFile
    from isles24_zarr.release.paths import Release, Subject
    from isles24_zarr.release.source import Source

_COPY_BYTES: Final = 2**20


def reading_cost(source: Source, needed: Mapping[str, int]) -> FetchCost | None:
    """Tell what it costs to read members of an archive behind HTTP; None of all other sources.

    Parameters
    ----------
    source
        The archive.
    needed
        By their names: how many of their bytes, from the first.
    """
    if not source.remote:
        return None
    with source.archive() as archive:
        blocks, of_blocks = sevenzip.reading_cost(archive, source.url, needed)
    return FetchCost(
        source=source.url,
        files=len(needed),
        blocks=len(blocks),
        of_blocks=of_blocks,
        nbytes=sum(nbytes for nbytes, _ in blocks),
        at_most=sum(whole for _, whole in blocks),
        archive_bytes=source.remote.size,
    )


@contextlib.contextmanager
def told_reading(source: Source, needed: Mapping[str, int], *, title: str, shown: bool) -> Iterator[None]:
    """Say on stderr, in a line, what it costs to read members of an archive behind HTTP, then show how far it is.

    Parameters
    ----------
    source, needed
        As for `reading_cost`.
    title
        Of the bar; without one, none is shown.
    shown
        Whether anything is.
    """
    cost = reading_cost(source, needed) if shown and needed else None
    if cost is None or source.remote is None:
        yield
        return
    sys.stderr.write(f"{one_line(str(cost))}\n")
    sys.stderr.flush()
    with ProgressBar(title, total=cost.nbytes, in_bytes=True, shown=bool(title)) as bar:
        source.remote.on_piece = bar.finish
        try:
            yield
        finally:
            source.remote.on_piece = None


def check_parts(source: Source, release: Release, subjects: Collection[str]) -> None:
    """See that some subjects can be read without the others, as far as that concerns an archive behind HTTP.

    Parameters
    ----------
    source, release
        The archive, and what it holds.
    subjects
        Names of those that are wanted.

    Raises
    ------
    UnusableArchiveError
        It is one solid block.
    """
    if len(subjects) == len(release.subjects):
        return
    cost = reading_cost(source, sizes_of(subject_files(release, subjects)))
    if cost and cost.of_blocks == 1:
        raise UnusableArchiveError(
            source.url,
            f"is solid: all files lie in one block of {cost.at_most / 1e6:,.1f} MB that can only be read from its "
            f"start, and about {cost.nbytes / 1e6:,.1f} MB would have to come for {', '.join(subjects)}; {WHOLE}",
        )


def subject_files(release: Release, subjects: Iterable[str]) -> list[SourceFile]:
    """Return the files of some subjects, and the data dictionary."""
    chosen: list[Subject] = [release.subjects[name] for name in subjects]
    files = [file for subject in chosen for file in (*subject.images.values(), *subject.tables.values())]
    return [*files, *([release.dictionary] if release.dictionary else [])]


def sizes_of(files: Iterable[SourceFile]) -> dict[str, int]:
    """Return the sizes of files by their paths."""
    return {file.path: file.size for file in files}


def copy_member(stream: MemberStream, path: Path) -> None:
    """Write a member of an archive to a file, whole or not at all; its CRC is that which the archive lists."""
    with whole_file(path) as partial, partial.open("wb") as file:
        while piece := stream.read(_COPY_BYTES):
            file.write(piece)


def fetch_subjects(
    source: Source, destination: str | os.PathLike[str], subjects: Sequence[str] | None, *, progress: bool
) -> FetchReport:
    """Copy the files of some subjects out of an archive into a folder, under their own paths.

    Parameters
    ----------
    source
        An archive that is read from front to back, behind HTTP or not.
    destination
        A folder; made if need be.
    subjects
        Names; all by default.
    progress
        Say what it will cost, and show a bar, on stderr.

    Raises
    ------
    UnknownNameError, DestinationError, UnusableArchiveError
        There is no such subject, the folder cannot take it, or the archive is solid.
    DownloadError
        The connection broke and would not be mended, or what came is damaged.
    """
    started = time.monotonic()
    folder = Path(os.path.realpath(Path(destination).expanduser()))
    release = source.listed()
    chosen = selected_names(release.subjects, subjects, of=source.url)
    check_parts(source, release, chosen)
    files = subject_files(release, chosen)
    missing = {file.path: file for file in files if not _is_there(folder / file.path, file)}
    sizes = sizes_of(missing.values())
    came = source.remote.came if source.remote else 0
    with _destination_errors(folder), told_reading(source, sizes, title="fetching", shown=progress):
        folder.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(folder).free
        if sum(sizes.values()) > room:
            raise DestinationError(folder, f"has room for {room:,} bytes, and {sum(sizes.values()):,} are missing")
        for path, stream in source.members(sizes):
            try:
                if isinstance(stream, SourceError):
                    raise stream
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                copy_member(stream, folder / path)
            except SourceError as error:
                raise DownloadError(source.url, f"{path} {error.what}") from error
    return FetchReport(
        destination=str(folder),
        fetched=tuple(missing),
        unchanged=tuple(file.path for file in files if file.path not in missing),
        nbytes=source.remote.came - came if source.remote else 0,
        seconds=time.monotonic() - started,
    )


@contextlib.contextmanager
def _destination_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DestinationError(folder, f"cannot be written ({error})") from error


def _is_there(path: Path, file: SourceFile) -> bool:
    """Tell whether a file was copied before; another one in its place is not overwritten."""
    if not os.path.lexists(path):
        return False
    with _destination_errors(path):
        crc = 0
        with path.open("rb") as opened:
            while piece := opened.read(_COPY_BYTES):
                crc = zlib.crc32(piece, crc)
        if path.stat().st_size != file.size or file.stamp not in (f"{crc:08x}", ""):
            raise DestinationError(path, "is not the file of the archive; move it away or give another folder")
    return True
