"""Members of a tar archive, compressed by gzip or not, in the order in which they lie there.

A tar archive has no directory: to list it is to walk through it, past the voxels where it is not compressed, and
through all of it where it is. `tarfile` parses the headers; it reads through `_Archive`, which goes forward only and
gives no more at once than a header may take, whatever length a header declares for a name.
"""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from isles24_zarr.errors import DamagedArchiveError, Problem, SourceError, UnsafePathError
from isles24_zarr.nifti import MOST_MEMBERS, GzipStream, HashedFile, MemberStream
from isles24_zarr.release.files import SourceFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MOST_READ_BYTES: Final = 2**20
_MOST_PADDING_BYTES: Final = 2**20
"""After the end of an archive; the usual is 10 kB."""

_HEADER_ERRORS: Final = (tarfile.TarError, ArithmeticError, LookupError, ValueError, RecursionError)
"""What tarfile says of damaged headers."""


class _Archive:
    """The bytes of the archive as `tarfile` reads them.

    Attributes
    ----------
    ended
        Whether what was read last are the zeros at the end of an archive: `tarfile` takes damage for an end, too.
    """

    def __init__(self, file: BinaryIO, *, path: str) -> None:
        self._file, self._path = file, path
        compressed = path.lower().endswith((".gz", ".tgz"))
        self._stream = GzipStream(HashedFile(file, path=path), path=path) if compressed else None
        self._at = 0
        self.ended = False

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _MOST_READ_BYTES:
            raise DamagedArchiveError(self._path, f"has a header that is to hold {count:,} bytes")
        if self._stream:
            buffer = bytearray(count)
            piece = bytes(memoryview(buffer)[: self._stream.readinto(memoryview(buffer))])
        else:
            piece = self._file.read(count)
        self._at += len(piece)
        self.ended = len(piece) == count == tarfile.BLOCKSIZE and not any(piece)
        return piece

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._at:
            raise DamagedArchiveError(self._path, "has a header that leads backwards")
        if self._stream:
            while self._at < position and self.read(min(_MOST_READ_BYTES, position - self._at)):
                pass
        else:
            self._at = self._file.seek(position)
        return self._at

    def finish(self) -> None:
        """Check the end of the compressed stream, which tells whether all of it was good."""
        if self._stream:
            left = _MOST_PADDING_BYTES
            while left > 0 and (piece := self.read(2**16)):
                left -= len(piece)
            self._stream.finish()


def listed_members(path: str) -> tuple[list[SourceFile], list[Problem]]:
    """List the regular files of an archive, up to where it is damaged.

    Parameters
    ----------
    path
        Of the archive.

    Returns
    -------
    tuple
        The files; what was refused, and what is wrong with the archive.
    """
    files, problems = [], []
    last = "its first member"
    with Path(path).open("rb") as file:
        try:
            archive = _Archive(file, path=path)
            for number, member in enumerate(_members(archive)):
                if number >= MOST_MEMBERS:
                    raise DamagedArchiveError(path, f"has more than {MOST_MEMBERS:,} members")
                last = name = _name(member)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    problems.append(Problem.from_error(UnsafePathError(name, "is a link or no regular file")))
                    continue
                files.append(SourceFile(path=name, size=member.size, stamp=str(member.mtime)))
            if not archive.ended:
                raise DamagedArchiveError(path, f"has no end: it is cut short or damaged after {last}")
            archive.finish()
        except (SourceError, *_HEADER_ERRORS) as error:
            what = error.what if isinstance(error, SourceError) else f"is damaged after {last} ({error})"
            damage = DamagedArchiveError(Path(path).name, f"{what}; what comes before is used")
            problems.append(Problem.from_error(damage))
    return files, problems


def read_members(path: str, wanted: Collection[str]) -> Iterator[tuple[str, MemberStream]]:
    """Yield some members in the order of the archive; each must be read before the next one is asked for.

    Parameters
    ----------
    path
        Of the archive.
    wanted
        Names that are there once.
    """
    left = set(wanted)
    with Path(path).open("rb") as file, contextlib.suppress(SourceError, *_HEADER_ERRORS):  # listing has reported it
        archive = _Archive(file, path=path)
        for member in _members(archive):
            name = _name(member)
            if name in left and member.isreg():
                left.discard(name)
                yield name, MemberStream(archive.read, path=name, size=member.size)
                if not left:
                    return


def _name(member: tarfile.TarInfo) -> str:
    """Return the name as a listing of the folder would have it, of an archive that was made in it, too."""
    return member.name.removeprefix("./")


def _members(archive: _Archive) -> Iterator[tarfile.TarInfo]:
    """Yield the members, each when what was read last is its header."""
    with tarfile.open(fileobj=cast("BinaryIO", archive), mode="r:", errors="surrogateescape") as tar:
        while member := tar.next():
            yield member
            known: list[Any] = tar.members  # type: ignore[attr-defined,unused-ignore]
            known.clear()  # else memory grows with the archive
