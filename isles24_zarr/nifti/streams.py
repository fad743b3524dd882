"""Files: their decompressed bytes, read once and forward in bounded memory, and new ones, written whole or not at all.

A gzip file (RFC 1952) is one or more members, each with a CRC and a length at its end, then perhaps zero
padding. ISA-L inflates and checks it; nothing read here is to be trusted before `ByteStream.finish` has
returned, because only then has the end of the file been seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from isal import igzip_lib

from isles24_zarr.errors import (
    CorruptFileError,
    DamagedArchiveError,
    SourceError,
    TrailingDataError,
    TruncatedFileError,
    UnreadableFileError,
)
from isles24_zarr.places import library_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FIRST_READ_BYTES: Final = 2**14
_READ_BYTES: Final = 2**20
MOST_MEMBERS: Final = 200_000
"""Of an archive; the release has 3,000."""

_INFLATE_BYTES: Final = 4 * 2**20
_FIRST_FEED_BYTES: Final = 2**14
"""What a new gzip member is given first: it hands back what is not its own, and there may be millions of them."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_MOST_SURPLUS_BYTES: Final = 2**22
"""Of what follows after the end, zero padding of gzip files included, no more is read: it may never end."""

_IsalError: Final[Any] = igzip_lib.IsalError  # the stubs take the class for an instance


class ByteStream(Protocol):
    """The decompressed bytes of a file, forward only."""

    produced: int

    def readinto(self, view: memoryview) -> int:
        """Fill the view; return how many bytes there were."""

    def finish(self) -> None:
        """Read to the end of the file, which must hold no further decompressed byte."""


class HashedFile:
    """A file read in pieces, with the count and the SHA-256 of all that was read.

    Parameters
    ----------
    file
        Opened for reading bytes.
    path
        Its name, for errors.
    """

    def __init__(self, file: BinaryIO, *, path: str) -> None:
        self._file, self._path = file, path
        # headers are read by the thousand: begin small
        self._piece = _FIRST_READ_BYTES
        self._sha256 = hashlib.sha256()
        self.consumed = 0

    def read(self) -> bytes:
        """Return the next piece, nothing at the end.

        Raises
        ------
        UnreadableFileError, DamagedArchiveError
            The file system refuses, or the archive around the file is damaged.
        """
        try:
            piece = self._file.read(self._piece)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DamagedArchiveError(
                self._path,
                f"its archive is damaged after {self.consumed:,} bytes of it ({str(error) or 'it ends there'})",
            ) from error
        # RuntimeError: the zip reader on encrypted members and unknown compression
        except library_errors(RuntimeError) as error:
            raise UnreadableFileError(self._path, f"cannot be read ({error})") from error
        self._piece = _READ_BYTES
        self._sha256.update(piece)
        self.consumed += len(piece)
        return piece

    def sha256(self) -> str:
        """Return the digest of all that was read, hexadecimal."""
        return self._sha256.hexdigest()


class PlainStream:
    """A file that is not compressed."""

    def __init__(self, file: HashedFile, *, path: str) -> None:
        self._file, self._path = file, path
        self._left = b""
        self.produced = 0

    def readinto(self, view: memoryview) -> int:  # noqa: D102 - as ByteStream
        done = 0
        while done < len(view):
            if not self._left:
                self._left = self._file.read()
                if not self._left:
                    break
            piece = self._left[: len(view) - done]
            view[done : done + len(piece)] = piece
            self._left = self._left[len(piece) :]
            done += len(piece)
        self.produced += done
        return done

    def finish(self) -> None:  # noqa: D102 - as ByteStream
        surplus = len(self._left)
        while surplus < _MOST_SURPLUS_BYTES and (piece := self._file.read()):
            surplus += len(piece)
        if surplus:
            at_least = "at least " if surplus >= _MOST_SURPLUS_BYTES else ""
            raise TrailingDataError(
                self._path, f"has {at_least}{surplus:,} bytes after the {self.produced:,} that its header promises"
            )


class GzipStream:
    """A gzip file of one or more members (RFC 1952), each with its CRC and length checked."""

    def __init__(self, file: HashedFile, *, path: str) -> None:
        self._file, self._path = file, path
        self._piece = b""
        self._at = 0
        self._ended = False
        self.produced = 0
        self._begin_member()

    def _begin_member(self) -> None:
        self._member: Any = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._feed = _FIRST_FEED_BYTES

    def readinto(self, view: memoryview) -> int:  # noqa: D102 - as ByteStream
        done = 0
        while done < len(view) and not self._ended:
            piece = self._inflate(min(_INFLATE_BYTES, len(view) - done))
            view[done : done + len(piece)] = piece
            done += len(piece)
            self.produced += len(piece)
        return done

    def finish(self) -> None:  # noqa: D102 - as ByteStream
        while not self._ended:
            if self._inflate(1):
                raise TrailingDataError(
                    self._path,
                    f"decompresses to more than the {self.produced:,} bytes that its header promises",
                )

    def _inflate(self, most: int) -> bytes:
        """Return at least one byte, or none at the end of a member or of the file."""
        while True:
            if self._member.eof:
                self._next_member()
                return b""
            fresh = self._fresh() if self._member.needs_input else b""
            try:
                piece: bytes = self._member.decompress(fresh, most)
            except _IsalError as error:
                raise CorruptFileError(
                    self._path,
                    f"the gzip stream is damaged within {self._file.consumed:,} compressed bytes, after "
                    f"{self.produced:,} decompressed bytes ({error})",
                ) from error
            if piece:
                return piece

    def _fresh(self) -> bytes:
        """Return the next bytes of the file: few to begin a member with, then more and more."""
        fresh = self._ahead()
        if not fresh:
            raise TruncatedFileError(
                self._path,
                f"the gzip stream breaks off after {self._file.consumed:,} compressed and "
                f"{self.produced:,} decompressed bytes",
            )
        if self._feed == _FIRST_FEED_BYTES and not _GZIP_MAGIC.startswith(fresh[:2]):
            raise CorruptFileError(self._path, f"is not gzip data (its first bytes are {fresh[:4].hex(' ')})")
        self._at += len(fresh)
        self._feed = min(2 * self._feed, _READ_BYTES)
        return fresh

    def _next_member(self) -> None:
        """Go on to a further member, past zero padding, or find the end of the file."""
        self._at -= len(self._member.unused_data)
        self._feed = _FIRST_FEED_BYTES
        padding = 0
        while ahead := self._ahead():
            rest = ahead.lstrip(b"\0")
            self._at += len(ahead) - len(rest)
            padding += len(ahead) - len(rest)
            if padding > _MOST_SURPLUS_BYTES:
                raise TrailingDataError(
                    self._path, f"has {padding:,} zeros or more after {self.produced:,} good decompressed bytes"
                )
            if rest and not rest.startswith(_GZIP_MAGIC[: len(rest)]):
                raise TrailingDataError(
                    self._path, f"has bytes that are no gzip data after {self.produced:,} good decompressed bytes"
                )
            if rest:
                self._begin_member()
                return
        self._ended = True

    def _ahead(self) -> bytes:
        """Return the next bytes of the file without taking them, none at its end."""
        if self._at == len(self._piece):
            self._piece, self._at = self._file.read(), 0
        return self._piece[self._at : self._at + self._feed]


class MemberStream:
    """A member of an archive that can only be read from front to back.

    Parameters
    ----------
    read
        Gives the next bytes of the archive, decompressed: at most as many as it is asked for, none at the end.
    path, size, crc
        Of the member, as the archive lists them; without a CRC-32, none is checked.
    """

    def __init__(self, read: Callable[[int], bytes], *, path: str, size: int, crc: int | None = None) -> None:
        self._read, self._path, self._size, self._wanted = read, path, size, crc
        self._crc = 0
        self.left = size

    def read(self, count: int) -> bytes:
        """Return the next bytes, none at the end of the member.

        Raises
        ------
        DamagedArchiveError, UnreadableFileError
            The archive does not hold them, or the last of them do not make up for the CRC.
        """
        if not self.left:
            return b""
        try:
            piece = self._read(min(count, self.left))
        except OSError as error:
            raise UnreadableFileError(self._path, f"cannot be read ({error})") from error
        except SourceError as error:
            raise DamagedArchiveError(self._path, f"its archive is damaged before its end ({error.what})") from error
        if not piece:
            done = self._size - self.left
            raise DamagedArchiveError(self._path, f"its archive ends after {done:,} of {self._size:,} bytes of it")
        self.left -= len(piece)
        if self._wanted is not None:
            self._crc = zlib.crc32(piece, self._crc)
            if not self.left and self._crc != self._wanted:
                raise DamagedArchiveError(self._path, "is not what was compressed: its CRC in the archive differs")
        return piece

    def skip(self) -> None:
        """Read what is left of the member, for the sake of the next one, and check nothing."""
        self._wanted = None
        while self.left:
            self.read(_READ_BYTES)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file takes the place of another one when it is whole, and is deleted else.

    Parameters
    ----------
    path
        Of the file that is wanted.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
