"""Cells of Parquet files as streams: the bytes of one value, found by the headers of pages, from front to back.

pyarrow gives a cell whole, and takes three to five times its size in memory. Here a page, which holds whole values, is
decompressed piece by piece, and what lies before the wanted value is skipped: by a leap where nothing is compressed.

Format: https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from isles24_zarr.errors import DamagedShardError, UnreadableFileError, UnsupportedShardError
from isles24_zarr.places import library_errors
from isles24_zarr.release._snappy import SnappyStream
from isles24_zarr.release._thrift import Compact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isles24_zarr.release.files import Cell

_FIRST_PIECE_BYTES: Final = 2**15
_MOST_PIECE_BYTES: Final = 2**24
"""What is asked of a server at a time: little first, as many streams are read for a header alone."""

_BUFFER_BYTES: Final = 2**14
_SKIP_BYTES: Final = 2**20
_FIRST_HEADER_BYTES: Final = 2**8
_MOST_HEADER_BYTES: Final = 2**20
_MOST_LEVELS_BYTES: Final = 2**20
_MOST_WHOLE_BYTES: Final = 2**30
"""Of a page that is decompressed at once, because Snappy has made less of it: `SnappyStream` takes minutes there."""

_LESS: Final = 0.9
_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_HEADER_FIELD: Final = {_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}
_PLAIN, _RUN_LENGTHS = 0, 3
_BY_DICTIONARY: Final = frozenset({2, 8})
_CODECS: Final = frozenset({"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI"})


def opened_cell(file: BinaryIO, cell: Cell, *, path: str, shard: str) -> BinaryIO:
    """Return the bytes of a cell, to be read forward only.

    Parameters
    ----------
    file
        The Parquet file, opened.
    cell
        Where the cell lies in it.
    path, shard
        Names of what the cell holds and of the Parquet file, for errors.

    Raises
    ------
    DamagedShardError, UnsupportedShardError, UnreadableFileError
        Here or in reading: the cell cannot be read.
    """
    with _cell_errors(path, shard):
        body = _Values(file, cell).body(cell.row)
        if body is None or body.number() != cell.size:
            raise ValueError("there is another value than its footer says")
    raw = _CellStream(body, cell.size, path=path, shard=shard)
    return cast("BinaryIO", io.BufferedReader(raw, _BUFFER_BYTES))


def cell_sizes(file: BinaryIO, column: Cell, *, path: str, shard: str) -> list[int | None]:
    """Return how many bytes each value of a column chunk has, row by row; ``None`` where there is none.

    Parameters
    ----------
    file, path, shard
        As for `opened_cell`.
    column
        Any cell of it.
    """
    with _cell_errors(path, shard):
        return _Values(file, column).sizes()


@contextlib.contextmanager
def _cell_errors(path: str, shard: str) -> Iterator[None]:
    """Turn what is wrong with pages into an error about what they hold."""
    try:
        yield
    except _UnknownFormError as error:
        raise UnsupportedShardError(path, f"{shard} {error}") from error
    except (ValueError, EOFError) as error:
        raise DamagedShardError(path, f"{shard} is damaged or cut off there ({error})") from error
    except library_errors() as error:
        raise UnreadableFileError(path, f"{shard} cannot be read ({' '.join(str(error).split())})") from error


class _UnknownFormError(Exception):
    """Pages are of a form that is not read here."""


class _CellStream(io.RawIOBase):
    """The bytes of a value, forward only."""

    def __init__(self, body: _Body, size: int, *, path: str, shard: str) -> None:
        self._body, self._left, self._path, self._shard = body, size, path, shard

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        with _cell_errors(self._path, self._shard):
            piece = self._body.read(min(len(view), self._left)) if self._left else b""
            if self._left and not piece:
                raise EOFError(f"it ends {self._left:,} bytes before the value does")
        view[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)


class _Bytes:
    """Bytes of a file up to some place: a server is asked for no more than these.

    Attributes
    ----------
    at
        Where in the file the next one lies; may be set.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        self._file, self._stop, self.at = file, stop, start
        self._buffer, self._start = b"", start
        self._piece = _FIRST_PIECE_BYTES

    def read(self, count: int) -> bytes:
        """Return at least one byte, if any is left, and at most as many as asked for."""
        offset = self._offset()
        piece = self._buffer[offset : offset + count]
        self.at += len(piece)
        return piece

    def peek(self, count: int) -> bytes:
        """Return bytes without taking them: fewer only where there are no more."""
        offset = self._offset()
        while len(self._buffer) - offset < count and (more := self._fetched(self._start + len(self._buffer))):
            self._buffer += more
        return self._buffer[offset : offset + count]

    def _offset(self) -> int:
        offset = self.at - self._start
        if 0 <= offset < len(self._buffer):
            return offset
        self._buffer, self._start = self._fetched(self.at), self.at
        return 0

    def _fetched(self, start: int) -> bytes:
        count = min(self._piece, self._stop - start)
        if count <= 0:
            return b""
        self._file.seek(start)
        self._piece = min(4 * self._piece, _MOST_PIECE_BYTES)
        return self._file.read(count)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """What the header of a page says: where what follows it lies, and of which form that is."""

    kind: int
    start: int
    stop: int
    size: int
    count: int
    encoding: int
    levels: int
    is_compressed: bool


class _Body:
    """What follows the header of a page, decompressed, forward only."""

    def __init__(self, found: _Bytes, page: _Page, codec: str) -> None:
        self._found, self._page = found, page
        found.at = page.start + page.levels
        self._is_plain = codec == "UNCOMPRESSED" or not page.is_compressed
        self._decompressed: Any = None if self._is_plain else self._decompressor(codec)

    def _decompressor(self, codec: str) -> Any:
        import pyarrow as pa

        stored, size = self._page.stop - self._found.at, self._page.size - self._page.levels
        if codec == "SNAPPY" and (stored > _LESS * size or size > _MOST_WHOLE_BYTES):
            return SnappyStream(self._stored)
        if codec == "SNAPPY":
            return pa.BufferReader(pa.decompress(self._found.peek(stored), size, codec="snappy"))
        return pa.CompressedInputStream(pa.PythonFile(_Stored(self._stored), mode="r"), codec.lower())

    def _stored(self, count: int) -> bytes:
        return self._found.read(min(count, self._page.stop - self._found.at))

    def read(self, count: int) -> bytes:
        """Return the next bytes, none at the end."""
        return self._stored(count) if self._is_plain else bytes(self._decompressed.read(count))

    def exactly(self, count: int) -> bytes:
        """Return so many bytes."""
        pieces = []
        while count > 0:
            pieces.append(self.read(min(count, _SKIP_BYTES)))
            count -= len(pieces[-1])
            if not pieces[-1]:
                raise EOFError("a page breaks off")
        return b"".join(pieces)

    def number(self) -> int:
        """Return the next four bytes, as the number that they are."""
        return int.from_bytes(self.exactly(4), "little")

    def skip(self, count: int) -> None:
        """Go past so many bytes."""
        if self._is_plain and count <= self._page.stop - self._found.at:
            self._found.at += count
            return
        while count > 0:
            count -= len(self.exactly(min(count, _SKIP_BYTES)))

    def lengths(self, count: int) -> list[int]:
        """Return the lengths of so many values, and go past them."""
        found = []
        for _ in range(count):
            found.append(self.number())
            self.skip(found[-1])
        return found

    def codes(self, count: int) -> list[int]:
        """Return the numbers of so many values in the dictionary, which are all that is left of the page."""
        width = self.exactly(1)[0]
        if width > 32:
            raise ValueError("numbers of a dictionary are too wide")
        data = b""
        while len(data) < _MOST_LEVELS_BYTES and (piece := self.read(_SKIP_BYTES)):
            data += piece
        return _unpacked(data, width, count)


class _Stored(io.RawIOBase):
    """A file to read from, as pyarrow wants one."""

    def __init__(self, read: Any) -> None:
        self._take = read

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        return cast("bytes", self._take(count))


class _Values:
    """The values of a column chunk."""

    def __init__(self, file: BinaryIO, cell: Cell) -> None:
        if cell.codec not in _CODECS:
            raise _UnknownFormError(f"is compressed by {cell.codec}, not by one of {', '.join(sorted(_CODECS))}")
        self._found, self._cell = _Bytes(file, cell.start, cell.stop), cell

    def body(self, row: int) -> _Body | None:
        """Return a page from the length of a value on; ``None`` where there is no value."""
        dictionary: _Page | None = None
        for page in self._pages():
            if page.kind == _DICTIONARY:
                dictionary = page
                if self._cell.rows == page.count == 1:  # spares a request to the other end of the value
                    return self._body(page)
            elif row >= page.count:
                row -= page.count
            else:
                body, present = self._levels(page)
                index = sum(present[:row])
                if page.encoding in _BY_DICTIONARY and dictionary and present[row]:
                    index = body.codes(sum(present))[index]
                    body = self._body(dictionary)
                body.lengths(index)
                return body if present[row] else None
        raise EOFError("its pages end too early")

    def sizes(self) -> list[int | None]:
        """Return the length of each value."""
        found: list[int | None] = []
        known: list[int] = []
        for page in self._pages():
            if page.kind == _DICTIONARY:
                known = self._body(page).lengths(page.count)
                continue
            body, present = self._levels(page)
            count = sum(present)
            by_code = page.encoding in _BY_DICTIONARY
            lengths = iter([known[code] for code in body.codes(count)] if by_code else body.lengths(count))
            found += [next(lengths) if here else None for here in present]
        if len(found) != self._cell.rows:
            raise ValueError("its pages have another number of rows than its footer says")
        return found

    def _body(self, page: _Page) -> _Body:
        return _Body(self._found, page, self._cell.codec)

    def _levels(self, page: _Page) -> tuple[_Body, list[bool]]:
        """Return a page behind its levels, and which of its rows have a value."""
        most = self._cell.levels
        data = b""
        if page.levels:
            self._found.at = page.start
            data = self._found.peek(page.levels)
        body = self._body(page)
        if page.kind == _DATA and most:
            data = body.exactly(min(body.number(), _MOST_LEVELS_BYTES))
        return body, [level == most for level in _unpacked(data, most.bit_length(), page.count)]

    def _pages(self) -> Iterator[_Page]:
        """Yield the pages that hold values, whatever is read of each meanwhile."""
        self._found.at = self._cell.start
        while self._found.at < self._cell.stop:
            page = self._page()
            if page.stop > self._cell.stop or page.count > self._cell.rows or page.levels > _MOST_LEVELS_BYTES:
                raise ValueError("a page is longer than its column")
            if page.kind in _HEADER_FIELD:
                yield page
            self._found.at = page.stop

    def _page(self) -> _Page:
        header, length = self._header()
        kind = header.get(1, -1)
        own = header.get(_HEADER_FIELD.get(kind, 0), {})
        version_2 = kind == _DATA_2
        encoding = own.get(4 if version_2 else 2, _PLAIN)
        if (encoding != _PLAIN and encoding not in _BY_DICTIONARY) or (kind == _DATA and own.get(3) != _RUN_LENGTHS):
            raise _UnknownFormError(f"has values in an encoding that is not read ({encoding})")
        self._found.at += length
        start = self._found.at
        return _Page(
            kind=kind,
            start=start,
            stop=start + max(header.get(3, 0), 0),
            size=header.get(2, 0),
            count=own.get(1, 0),
            encoding=encoding,
            levels=own.get(5, 0) + own.get(6, 0) if version_2 else 0,
            is_compressed=own.get(7, True) is not False,
        )

    def _header(self) -> tuple[dict[int, Any], int]:
        count = _FIRST_HEADER_BYTES
        while True:
            data = self._found.peek(count)
            reader = Compact(data)
            try:
                return reader.struct(), reader.at
            except EOFError:
                if len(data) < count or count >= _MOST_HEADER_BYTES:
                    raise
                count *= 4


def _unpacked(data: bytes, width: int, count: int) -> list[int]:
    """Return numbers out of runs of equal ones and of packed bits; with a width of 0 they are not stored."""
    if not width:
        return [0] * count
    reader = Compact(data)
    found: list[int] = []
    while len(found) < count:
        head = reader.varint()
        if not head & 1:
            value = int.from_bytes(reader.bytes((width + 7) // 8), "little")
            found += [value] * min(head >> 1, count - len(found))
            continue
        for _ in range(min(head >> 1, (count - len(found) + 7) // 8)):
            bits = int.from_bytes(reader.bytes(width), "little")
            found += [bits >> shift & (1 << width) - 1 for shift in range(0, 8 * width, width)]
    return found[:count]
