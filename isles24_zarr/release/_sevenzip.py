"""Members of a 7z archive, in the order in which they lie there.

Files are compressed one after the other into blocks ("folders" in the words of the format), most often all into a
single one, which can only be decompressed from its start. py7zr reads the directory at the end of the archive; blocks
are decompressed here, by the standard library and piece by piece, so that memory holds the dictionary of the packer and
a piece, whatever the sizes in the directory say. A block that holds nothing of interest is not read.

Format: https://py7zr.readthedocs.io/en/latest/archive_format.html
"""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import lzma
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from isles24_zarr.errors import (
    DamagedArchiveError,
    MissingExtraError,
    Problem,
    UnsafePathError,
    UnusableArchiveError,
)
from isles24_zarr.nifti import MOST_MEMBERS, MemberStream
from isles24_zarr.release.files import SourceFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_READ_BYTES: Final = 2**20
_MOST_DICTIONARY_BYTES: Final = 2**30
"""A directory may declare one of 4 GB, which would be taken from memory before the first byte is decompressed."""

_UNPACK: Final = "; unpack it and convert the folder"
_ENCRYPTION: Final = b"\x06\xf1\x07\x01"
_METHODS: Final = {b"\x00": "Copy", b"\x21": "LZMA2", b"\x03\x01\x01": "LZMA", b"\x04\x02\x02": "BZip2"}
"""Those that can be decompressed in bounded pieces."""

_BRANCHES: Final = b"\x03\x03\x01\x03"
"""The filter for programs that some packers put before LZMA2, whatever they pack."""

_DIRECTORY_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
)
"""What py7zr says of a damaged directory, its own errors aside."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Copy:
    """The method of blocks that are not compressed."""

    eof = False
    needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:  # noqa: ARG002
        return data


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Where a block lies, how it is compressed, and its members in their order."""

    start: int
    compressed: int
    method: str
    properties: bytes
    branches: bool
    members: tuple[Any, ...]

    def decoder(self) -> _Decoder:
        if self.method == "Copy":
            return _Copy()
        if self.method == "BZip2":
            return bz2.BZ2Decompressor()
        settings: dict[str, int] = {"id": lzma.FILTER_LZMA2, "dict_size": self.dictionary_bytes()}
        if self.method == "LZMA":
            # lc + 9 * (lp + 5 * pb), as in the header of an .lzma file
            code = self.properties[0]
            settings |= {"id": lzma.FILTER_LZMA1, "lc": code % 9, "lp": code // 9 % 5, "pb": code // 45}
        filters = [{"id": lzma.FILTER_X86}, settings] if self.branches else [settings]
        return lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)

    def dictionary_bytes(self) -> int:
        """Memory that decompression takes."""
        if self.method == "LZMA":
            return max(int.from_bytes(self.properties[1:5], "little"), 4096)
        if self.method == "LZMA2":
            code = self.properties[0]
            return 2**32 - 1 if code >= 40 else (2 | code & 1) << (code // 2 + 11)
        return 0


class _Decompressed:
    """The bytes of a block, forward only. What was damaged stays so."""

    def __init__(self, file: BinaryIO, block: _Block, *, path: str) -> None:
        file.seek(block.start)
        self._file, self._left, self._path = file, block.compressed, path
        self._decoder = block.decoder()
        self._damage = ""

    def read(self, count: int) -> bytes:
        while not self._damage and not self._decoder.eof:
            fresh = b""
            if self._decoder.needs_input:
                fresh = self._file.read(min(_READ_BYTES, count, self._left))
                self._left -= len(fresh)
                if not fresh:
                    return b""
            try:
                piece = self._decoder.decompress(fresh, count)
            except (lzma.LZMAError, OSError, ValueError, MemoryError) as error:  # OSError: of bz2, nothing is read here
                self._damage = f"cannot be decompressed: {error}"
                break
            if piece:
                return piece
        if self._damage:
            raise DamagedArchiveError(self._path, self._damage)
        return b""


def listed_members(path: str) -> tuple[list[SourceFile], list[Problem]]:
    """List the regular files of an archive by its directory; nothing is decompressed.

    Parameters
    ----------
    path
        Of the archive.

    Returns
    -------
    tuple
        The files, and what was refused.

    Raises
    ------
    UnusableArchiveError
        The archive cannot be read.
    """
    files, problems = [], []
    with _opened(path) as archive:
        _blocks(archive, path)  # which refuses what could not be decompressed later
        for member in archive.files:
            if member.is_directory and not member.is_symlink:
                continue
            if not member.is_file:
                problems.append(Problem.from_error(UnsafePathError(member.filename, "is a link or no regular file")))
                continue
            crc, modified = member.crc32, member.lastwritetime
            stamp = f"{crc:08x}" if crc is not None else str(int(modified or 0))
            files.append(SourceFile(path=member.filename, size=int(member.uncompressed), stamp=stamp))
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
    with _opened(path) as archive:
        for block in _blocks(archive, path):
            last = max((index for index, each in enumerate(block.members) if each.filename in wanted), default=-1)
            decompressed = _Decompressed(archive.fp, block, path=path) if last >= 0 else None
            for member in block.members[: last + 1]:
                assert decompressed is not None  # noqa: S101 - for the type checker
                crc = member.crc32 if member.filename in wanted else None
                stream = MemberStream(decompressed.read, path=member.filename, size=int(member.uncompressed), crc=crc)
                if member.filename in wanted:
                    yield member.filename, stream
                with contextlib.suppress(DamagedArchiveError):  # the next member says so
                    stream.skip()
        for member in archive.files:
            if member.emptystream and member.filename in wanted:
                yield member.filename, MemberStream(lambda _: b"", path=member.filename, size=0)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Read the directory of an archive."""
    try:
        from py7zr import SevenZipFile
        from py7zr.exceptions import ArchiveError, PasswordRequired
    except ImportError as error:
        raise MissingExtraError(path, "to read it, run: pip install 'isles24-zarr[archive]'") from error
    with Path(path).open("rb") as file:
        try:
            archive = SevenZipFile(file)
        except PasswordRequired as error:
            raise UnusableArchiveError(path, f"is encrypted, its directory, too{_UNPACK}") from error
        except (ArchiveError, *_DIRECTORY_ERRORS) as error:
            what = f"its directory is damaged or cut off ({error or type(error).__name__}); fetch the archive again"
            raise UnusableArchiveError(path, what) from error
        except MemoryError as error:
            raise UnusableArchiveError(path, f"its directory takes more memory than there is{_UNPACK}") from error
        with archive:
            if hasattr(archive, "files") and len(archive.files) > MOST_MEMBERS:
                raise UnusableArchiveError(path, f"has more than {MOST_MEMBERS:,} members{_UNPACK}")
            yield archive


def _blocks(archive: Any, path: str) -> list[_Block]:
    """Return the blocks of an archive, all of which can be decompressed."""
    streams = getattr(archive.header, "main_streams", None) if hasattr(archive, "header") else None
    if streams is None:
        return []
    by_folder: dict[int, list[Any]] = {}
    for member in archive.files:
        if not member.emptystream:
            by_folder.setdefault(id(member.folder), []).append(member)
    blocks = []
    start = archive.afterheader + streams.packinfo.packpos
    for folder, compressed in zip(streams.unpackinfo.folders, streams.packinfo.packsizes, strict=False):
        members = tuple(by_folder.get(id(folder), ()))
        block = _Block(start=start, compressed=compressed, members=members, **_compression(folder.coders, path))
        if compressed < 0 or start < 0 or any(int(member.uncompressed) < 0 for member in members):
            raise UnusableArchiveError(path, "its directory has impossible sizes; fetch the archive again")
        start += compressed
        if block.dictionary_bytes() > _MOST_DICTIONARY_BYTES:
            need = f"{block.dictionary_bytes() / 1e6:,.0f} MB of memory"
            raise UnusableArchiveError(path, f"asks for {need} to be decompressed{_UNPACK}")
        blocks.append(block)
    return blocks


def _compression(coders: list[Mapping[str, Any]], path: str) -> dict[str, Any]:
    """Return how a block is compressed."""
    if any(coder["method"] == _ENCRYPTION for coder in coders):
        raise UnusableArchiveError(path, f"is encrypted{_UNPACK}")
    packers = [coder for coder in coders if coder["method"] != _BRANCHES]
    branches = len(packers) == len(coders) - 1
    method = _METHODS.get(packers[0]["method"]) if packers else None
    if method is None or len(packers) != 1 or len(coders) > 2 or (branches and method != "LZMA2"):
        codes = " + ".join(coder["method"].hex() for coder in coders)
        known = ", ".join(_METHODS.values())
        raise UnusableArchiveError(path, f"is compressed by method {codes}, not by one of {known}{_UNPACK}")
    properties = packers[0]["properties"] or b""
    least = {"LZMA": 5, "LZMA2": 1}.get(method, 0)
    if len(properties) < least or (method == "LZMA" and properties[0] >= 9 * 5 * 5):
        raise UnusableArchiveError(path, f"its directory has impossible settings of {method}; fetch the archive again")
    return {"method": method, "properties": bytes(properties), "branches": branches}
