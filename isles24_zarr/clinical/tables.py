"""Tables from outside, XLSX and CSV, to rows of cells: bounded, and no part trusted before it is checked.

An XLSX file is a ZIP archive of XML parts. They are decompressed in bounded pieces, must be UTF-8 without a document
type declaration (ECMA-376-2 forbids them, so that no entity can multiply or fetch anything) and are copied to an
archive in memory, which is all that openpyxl sees. What openpyxl takes per tag and per sheet is bounded before it
begins.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from isles24_zarr.errors import TableError

MAX_TABLE_BYTES: Final = 16 * 2**20
"""Largest file, and largest sum of the XML parts that it decompresses to."""

MAX_ROWS: Final = 10_000
MAX_COLUMNS: Final = 1_000

MAX_TEXT: Final = 32_767
"""Characters of a cell, as in Excel. Shared strings could repeat a longer one in every cell."""

_MAX_MEMBERS: Final = 10_000
_MAX_SHEETS: Final = 100
_MAX_TAGS: Final = 250_000  # about 25 us each where they are styles
_MAX_SHEET_TAGS: Final = 1_000_000
_EXCEL_COLUMNS: Final = 16_384
_PIECE_BYTES: Final = 2**16

# a cell with <f> and no or an empty <v>; a result that is an empty text has the type "str"
_UNSAVED_FORMULA: Final = re.compile(
    rb'<(?:\w+:)?c\b(?![^>]*\bt=["\']str["\'])[^>]*>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</[^>]*>)'
    rb"\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</|</(?:\w+:)?c>)"
)
_FORMULA_CELL: Final = re.compile(rb"<(?:\w+:)?c(?=[\s>])[^>]*>\s*<(?:\w+:)?f(?=[\s/>])")
_RECALCULATED: Final = re.compile(rb'<(?:\w+:)?calcPr\b[^>]*\bfullCalcOnLoad\s*=\s*["\'](?:1|true)["\']')
"""What writers ask for that do not compute, and save a 0 with every formula, as XlsxWriter does."""

_MERGED: Final = re.compile(
    rb'<(?:\w+:)?mergeCell\b[^>]*\bref\s*=\s*["\']([A-Z]{1,3}[1-9]\d{0,6}:[A-Z]{1,3}[1-9]\d{0,6})["\']'
)

_DELIMITERS: Final = ",;\t|"
_SEPARATOR_LINE: Final = re.compile(rf'"?sep=(?P<delimiter>[{_DELIMITERS}])"?[{_DELIMITERS}]*', re.IGNORECASE)
"""Excel obeys such a line, and does not show it."""

_FORMULA: Final = re.compile(r"'*\s*([=@\uff1d\uff20]|[+\-\uff0b\uff0d](?![\d.,]+(e[+-]?\d+)?$))", re.IGNORECASE)
"""Text that a spreadsheet program would compute; a number with a sign is none."""

Row = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class MergedCell:
    """A cell that is merged with the one that has the value of all of them: it is empty, and was meant not to be."""

    cells: str

    def __str__(self) -> str:
        return ""

    def __repr__(self) -> str:
        return f"merged cells {self.cells}"


def sheets_from_table(data: bytes, *, path: str) -> list[tuple[str, list[Row]]]:
    """Take a table apart.

    Parameters
    ----------
    data
        The file: XLSX, or CSV in UTF-8 with commas, semicolons, tabs or bars.
    path
        Its name: the ending tells the format, errors quote it.

    Returns
    -------
    list of (str, list of tuple)
        Title and rows of every sheet that is not hidden, a CSV file being one without a title. Rows are without the
        empty cells at their end, so an empty row is ``()``. Cells are ``None``, ``bool``, ``int``, ``float``, ``str``
        or of `datetime`; a formula is the result that was saved with it; of merged cells that have a value, the first
        has it, and the others are a `MergedCell`.

    Raises
    ------
    TableError
        It is not such a table, is damaged, or is larger than the limits of this module.
    """
    if not 0 < len(data) <= MAX_TABLE_BYTES:
        raise TableError(path, f"has {len(data):,} bytes, and tables have 1 to {MAX_TABLE_BYTES:,}")
    if path.lower().endswith(".xlsx"):
        return _sheets_from_xlsx(data, path=path)
    if path.lower().endswith(".csv"):
        return [("", _trimmed_rows(_rows_from_csv(data, path=path), path=path))]
    raise TableError(path, "is neither a .xlsx nor a .csv file")


def text_from_cell(cell: Any) -> str:
    """Text of a cell without the spaces around it, ``""`` for an empty one."""
    return "" if cell is None else str(cell).strip()


def guarded_text(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet program would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded_text(text: str) -> str:
    """Undo `guarded_text`, of whomever: it is the usual way to keep formulas out of CSV files."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _trimmed_rows(rows: Iterable[Sequence[Any]], *, path: str) -> list[Row]:
    trimmed = []
    for number, row in enumerate(rows):
        # openpyxl fills each row up to Excel's last column: looking at them one by one would take most of the time
        cells, beyond = row[:MAX_COLUMNS], row[MAX_COLUMNS:]
        if number > MAX_ROWS or beyond.count(None) < len(beyond):
            raise TableError(path, f"has more than {MAX_ROWS:,} rows or {MAX_COLUMNS:,} columns")
        longest = max((len(cell) for cell in cells if isinstance(cell, str)), default=0)
        if longest > MAX_TEXT:
            raise TableError(path, f"has a cell of {longest:,} characters, more than {MAX_TEXT:,}")
        trimmed.append(_trimmed(cells))
    return trimmed


def _trimmed(row: Sequence[Any]) -> Row:
    ends = range(len(row), 0, -1)
    is_end = (bool(text_from_cell(row[end - 1])) or isinstance(row[end - 1], MergedCell) for end in ends)
    return tuple(row[: next(itertools.compress(ends, is_end), 0)])


def _reason(error: BaseException) -> str:
    """One line of bounded length, whatever names out of the file the error quotes."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# --- CSV ---


def _rows_from_csv(data: bytes, *, path: str) -> list[list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(path, f"is not a CSV file in UTF-8 ({_reason(error)})") from error
    if "\0" in text:
        raise TableError(path, "is not a CSV file (it holds NUL characters)")
    first, _, below = re.sub(r"\r\n?", "\n", text.lstrip("\r\n ")).partition("\n")
    if line := _SEPARATOR_LINE.fullmatch(first.strip()):
        return _split_rows(below, line["delimiter"], path=path)
    found: list[list[list[str]]] = []
    errors: list[TableError] = []
    for delimiter in sorted(_DELIMITERS, key=first.count, reverse=True):
        if delimiter in first or not (found or errors):
            try:
                found.append(_split_rows(text, delimiter, path=path))
            except TableError as error:
                errors.append(error)
    # a delimiter within quotes takes them apart
    whole = [rows for rows in found if not any(cell.count('"') % 2 for row in rows[:1] for cell in row)] or found
    if len(whole) > 1:
        raise TableError(path, "can be read in several ways: put quotes around headers and values that hold , or ;")
    if not whole:
        raise errors[0]
    return whole[0]


def _split_rows(text: str, delimiter: str, *, path: str) -> list[list[str]]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = list(itertools.islice(filter(None, reader), MAX_ROWS + 2))
    except csv.Error as error:
        raise TableError(path, f"is not a CSV file in UTF-8 ({_reason(error)})") from error
    for row in rows:
        # an unquoted decimal comma would shift all later values into wrong columns
        if len(row) < len(rows[0]) or any(row[len(rows[0]) :]):
            raise TableError(path, f"has a row of {len(row)} cells under a header of {len(rows[0])}")
    return rows


# --- XLSX ---


def _sheets_from_xlsx(data: bytes, *, path: str) -> list[tuple[str, list[Row]]]:
    from openpyxl.reader.excel import ExcelReader

    parts = _parts_from_archive(data, path=path)
    _check_work(parts, path=path)
    try:
        package = _package_from_parts(parts)
        # openpyxl prints "0 is out of range" about styles, and standard output is for results
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            # they tell of styles and extensions; an impossible date arrives as #VALUE! and is reported
            warnings.simplefilter("ignore", UserWarning)
            reader = ExcelReader(package, read_only=True, data_only=True, keep_links=False)
            reader.read()
            part_of = {sheet.name: parts.get(target.target, b"") for sheet, target in reader.parser.find_sheets()}
            sheets = []
            # nobody sees a hidden sheet who checks the table
            for sheet in (sheet for sheet in reader.wb.worksheets if sheet.sheet_state == "visible"):
                # some writers declare fewer cells than they write, or all that Excel can hold
                sheet.reset_dimensions()
                rows = sheet.iter_rows(values_only=True, max_col=_EXCEL_COLUMNS)
                trimmed = _trimmed_rows(rows, path=path)
                sheets.append((str(sheet.title), _with_merged(trimmed, part_of[sheet.title], path=path)))
            return sheets
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        SyntaxError,  # of the standard library's parser and of lxml's, which openpyxl takes where it is installed
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise TableError(path, f"is not a valid XLSX workbook ({_reason(error)})") from error


def _with_merged(rows: list[Row], part: bytes, *, path: str) -> list[Row]:
    """Mark the cells that are merged with another one, among the columns that there are."""
    from openpyxl.utils.cell import range_boundaries

    width = max(map(len, rows), default=0)
    marked: dict[int, list[Any]] = {}
    left_to_mark = width * len(rows)
    for text in (match.decode() for match in _MERGED.findall(part)):
        left, top, right, bottom = cast("tuple[int, int, int, int]", range_boundaries(text))
        right, bottom = min(right, width), min(bottom, len(rows))
        if left > right or top > bottom or not any(map(text_from_cell, rows[top - 1][left - 1 : left])):
            continue
        left_to_mark -= (right - left + 1) * (bottom - top + 1)
        if left_to_mark < 0:
            raise TableError(path, "has merged cells that overlap")
        for number in range(top - 1, bottom):
            row = marked.setdefault(number, [*rows[number], *[None] * (width - len(rows[number]))])
            first = left - (number >= top)  # the first cell of all keeps the value
            row[first:right] = [MergedCell(text)] * (right - first)
    return [_trimmed(marked[number]) if number in marked else row for number, row in enumerate(rows)]


def _parts_from_archive(data: bytes, *, path: str) -> dict[str, bytes]:
    """Decompress everything, so that all names and checksums are proven, and keep the XML parts."""
    if data.count(b"PK\1\2") > _MAX_MEMBERS:
        raise TableError(path, f"has more than {_MAX_MEMBERS:,} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > MAX_TABLE_BYTES:
                raise TableError(path, f"decompresses to {size:,} bytes, more than {MAX_TABLE_BYTES:,}")
            parts = {member.filename: _part_from_member(archive, member, path=path) for member in members}
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        ArithmeticError,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise TableError(path, f"is not a readable XLSX file ({_reason(error)})") from error
    parts = {name: part for name, part in parts.items() if name.lower().endswith((".xml", ".rels"))}
    for part in parts.values():
        _check_xml(part, path=path)
    _check_formulas(parts.values(), path=path)
    return parts


def _part_from_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, path: str) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise TableError(path, "is compressed by a method that XLSX does not have")
    with archive.open(member) as file:
        # piece by piece: a single read() inflates up to 2 GiB before it minds the declared size
        return b"".join(iter(functools.partial(file.read, _PIECE_BYTES), b""))


def _check_xml(part: bytes, *, path: str) -> None:
    try:
        part.decode()
    except UnicodeDecodeError as error:
        # in another encoding the following would not be found
        raise TableError(path, f"holds XML that is not UTF-8 ({_reason(error)})") from error
    if b"<!DOCTYPE" in part or b"\0" in part:
        raise TableError(path, "holds a document type declaration or NUL bytes, which XLSX forbids")


def _check_formulas(parts: Collection[bytes], *, path: str) -> None:
    unsaved = _FORMULA_CELL if any(map(_RECALCULATED.search, parts)) else _UNSAVED_FORMULA
    if any(map(unsaved.search, parts)):
        raise TableError(path, "holds a formula without its result: open and save it in a spreadsheet program")


def _check_work(parts: Mapping[str, bytes], *, path: str) -> None:
    # every sheet of the workbook may name the same part, which is then parsed again; each has this attribute
    sheets = max((part.count(b"sheetId") for part in parts.values()), default=0)
    tags = [part.count(b"<") for part in parts.values()]
    largest = max(map(len, parts.values()), default=0)
    if sheets > _MAX_SHEETS or sheets * largest > 4 * MAX_TABLE_BYTES:
        raise TableError(path, f"has {sheets:,} sheets, more than {_MAX_SHEETS} or too many for their size")
    if sum(tags) > _MAX_TAGS or sheets * max(tags, default=0) > _MAX_SHEET_TAGS:
        raise TableError(path, f"holds more than {_MAX_TAGS:,} XML tags, or {_MAX_SHEET_TAGS:,} in all sheets")


def _package_from_parts(parts: Mapping[str, bytes]) -> io.BytesIO:
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return package
