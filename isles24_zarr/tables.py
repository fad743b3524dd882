"""Tables from outside, XLSX and CSV, to rows of cells: bounded, and no part trusted before it is checked.

An XLSX file is a ZIP archive of XML parts. They are unpacked in bounded pieces, must be UTF-8 without a document type
declaration (ECMA-376-2 forbids them, so that no entity can multiply or fetch anything) and are copied to an archive in
memory, which is all that openpyxl sees.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from xml.etree.ElementTree import ParseError

from isles24_zarr.errors import TableError

MAX_TABLE_BYTES: Final = 16 * 2**20
"""Largest file, and largest sum of the XML parts that it unpacks to."""

MAX_ROWS: Final = 10_000
MAX_COLUMNS: Final = 1_000

_MAX_TAGS: Final = 2_000_000
_EXCEL_COLUMNS: Final = 16_384
_PIECE_BYTES: Final = 2**16

Row = tuple[Any, ...]


def sheets_from_table(data: bytes, *, path: str) -> dict[str, list[Row]]:
    if not 0 < len(data) <= MAX_TABLE_BYTES:
        raise TableError(path, f"has {len(data):,} bytes, and tables have 1 to {MAX_TABLE_BYTES:,}")
    if path.lower().endswith(".xlsx"):
        return _sheets_from_xlsx(data, path=path)
    if path.lower().endswith(".csv"):
        return {"": _trimmed_rows(_rows_from_csv(data, path=path), path=path)}
    raise TableError(path, "is neither a .xlsx nor a .csv file")


def _trimmed_rows(rows: Iterable[Sequence[Any]], *, path: str) -> list[Row]:
    trimmed = []
    for number, row in enumerate(rows):
        width = max((end for end, cell in enumerate(row, 1) if text_from_cell(cell)), default=0)
        if number > MAX_ROWS or width > MAX_COLUMNS:
            raise TableError(path, f"has more than {MAX_ROWS:,} rows or {MAX_COLUMNS:,} columns")
        trimmed.append(tuple(row[:width]))
    return trimmed


def _rows_from_csv(data: bytes, *, path: str) -> list[list[str]]:
    try:
        text = data.decode("utf-8-sig")
        first = text.lstrip().partition("\n")[0]
        delimiter = ";" if first.count(";") > first.count(",") else ","
        reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
        rows = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(path, f"is not a CSV file in UTF-8 ({error})") from error
    for row in rows:
        # an unquoted decimal comma would shift all later values into wrong columns
        if len(row) < len(rows[0]) or any(row[len(rows[0]) :]):
            raise TableError(path, f"has a row of {len(row)} cells under a header of {len(rows[0])}")
    return rows


def _sheets_from_xlsx(data: bytes, *, path: str) -> dict[str, list[Row]]:
    from openpyxl import load_workbook

    package = _checked_package(data, path=path)
    try:
        with warnings.catch_warnings():
            # they tell of styles and extensions; an impossible date arrives as #VALUE! and is reported
            warnings.simplefilter("ignore", UserWarning)
            book = load_workbook(package, read_only=True, data_only=True, keep_links=False)
            sheets = {}
            for sheet in book.worksheets:
                # some writers declare fewer cells than they write, or all that Excel can hold
                sheet.reset_dimensions()
                rows = sheet.iter_rows(values_only=True, max_col=_EXCEL_COLUMNS)
                sheets[str(sheet.title)] = _trimmed_rows(rows, path=path)
            return sheets
    except (AttributeError, LookupError, OSError, ParseError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TableError(path, f"is not a valid XLSX workbook ({reason[:200]})") from error


def _checked_package(data: bytes, *, path: str) -> io.BytesIO:
    """Copy the XML parts of an XLSX file to an archive without surprises."""
    package = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(package, "w") as copy:
            parts = {part.filename: part for part in archive.infolist()}
            parts = {name: parts[name] for name in parts if name.lower().endswith((".xml", ".rels"))}
            size = sum(part.file_size for part in parts.values())
            if size > MAX_TABLE_BYTES:
                raise TableError(path, f"unpacks to {size:,} bytes, more than {MAX_TABLE_BYTES:,}")
            for name, part in parts.items():
                if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise TableError(path, f"its part {name!r} is packed by a method that XLSX does not have")
                with archive.open(part) as file:
                    # piece by piece: a single read() inflates up to 2 GiB before it minds the declared size
                    content = b"".join(iter(functools.partial(file.read, 2**16), b""))
                content.decode()  # in another encoding a DTD could hide
                if b"<!DOCTYPE" in content or b"\0" in content or content.count(b"<") > _MAX_XML_TAGS:
                    raise TableError(path, f"its part {name!r} has a DTD, NUL bytes or over {_MAX_XML_TAGS:,} XML tags")
                copy.writestr(name, content)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise TableError(path, f"is not a readable XLSX file ({error})") from error
    return package


