"""Clinical tables: XLSX and CSV to typed values, and those of all subjects to one cohort table.

- Headers are matched without case, spaces and punctuation, by the names and aliases of the vocabulary. A column that
  nobody knows is kept under its own snake_case name.
- A cell is missing, understood or unread. Missing and unread are both ``None``, never 0; unread is reported. Missing
  are empty cells, NaN, and the texts ``nan``, ``n/a``, ``na``, ``-`` and ``#N/A`` in any case and any column.
- Excel counts time in days: a door time arrives as text, time, timedelta, datetime or day fraction.
- The files come from outside. The parts of an XLSX file are unpacked in bounded pieces and must be UTF-8 without a DTD
  (ECMA-376-2 forbids them, so no entity can multiply or fetch) before openpyxl sees them.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import functools
import io
import itertools
import math
import re
import reprlib
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import ParseError

from isles24_zarr.errors import Problem, TableError
from isles24_zarr.vocabulary import CLINICAL, CLINICAL_VARIABLES, IMAGES

if TYPE_CHECKING:
    import xarray as xr

MAX_TABLE_BYTES: Final = 16 * 2**20
"""Largest file, and largest sum of the XML parts that it unpacks to."""

MAX_ROWS: Final = 10_000
MAX_COLUMNS: Final = 1_000
MAX_DURATION_DAYS: Final = 31
"""A longer time is no door time: more likely a date, or minutes without a unit."""

_MAX_XML_TAGS: Final = 2_000_000
_EXCEL_COLUMNS: Final = 16_384
_MAX_NAME_LENGTH: Final = 60
_RESERVED_NAMES: Final = frozenset({"subject", "image", "available"})
_MISSING: Final = frozenset({"", "nan", "n/a", "na", "-", "#n/a"})
_FLAG_WORDS: Final = {"yes": 1, "true": 1, "no": 0, "false": 0}
_SEX_WORDS: Final = {"m": "M", "male": "M", "f": "F", "female": "F"}
_MTICI_GRADES: Final = ("0", "1", "2a", "2b", "2c", "3")

_NUMBER: Final = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_IDENTIFIER: Final = re.compile(r"[+-]?0\d.*", re.ASCII)
_EXCEL_ERROR: Final = re.compile(r"#[A-Z0/_]+[!?]|#GETTING_DATA")
_CLOCK: Final = re.compile(
    r"((?P<days>-?\d{1,4}) days?,?\s+\+?|1900-01-(?P<date>\d\d)[ T]|(?P<minus>-))?"
    r"(?P<hours>\d{1,4}):(?P<minutes>[0-5]\d)(:(?P<seconds>[0-5]\d(\.\d+)?))?",
    re.ASCII | re.IGNORECASE,
)

_quoter = reprlib.Repr()
_quoter.maxstring = _quoter.maxother = 60

Value = float | int | str | None
_Reading = tuple[float | int | str, str | None]
_Row = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClinicalRecord:
    """What clinical tables say of one subject.

    Parameters
    ----------
    values
        By name, ready for JSON: numbers and durations (minutes) are ``float``; flags and scores ``int``, a score with a
        fraction ``float``; unknown columns any of these or ``str``; ``None`` where missing or unread.
    unread
        By name, the raw text of cells that could not be understood.
    problems
        What is odd (severity ``"notice"``) or could not be understood (``"error"``).
    path, subject
        The table that it comes from, and the subject.
    """

    values: Mapping[str, Value]
    unread: Mapping[str, str]
    problems: tuple[Problem, ...]
    path: str = ""
    subject: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryEntry:
    """What the data dictionary says of one variable: the units of its cells, and its meaning."""

    units: str | None
    description: str | None


def rows_from_table(data: bytes, *, path: str) -> list[dict[str, Any]]:
    """Take a clinical table apart.

    Parameters
    ----------
    data
        The file: XLSX, or CSV in UTF-8 with commas or semicolons.
    path
        Its name: the ending tells the format, errors quote it.

    Returns
    -------
    list of dict
        Cells by header of each row of the first sheet with content. A column without a header is ``column N``; a
        repeated header gets spaces at its end, which the matching of headers ignores.

    Raises
    ------
    TableError
        It is not such a table, is damaged, or is larger than the limits of this module.
    """
    rows: list[_Row] = next(filter(any, _sheets_from_table(data, path=path).values()), [])
    header, *below = itertools.dropwhile(lambda row: not row, [*rows, *([] if rows else [()])])
    # where it is the only one, an empty row is a patient of whom nothing is known
    body = [row for row in below if row] or below[:1]
    if not body:
        raise TableError(path, "has a header and no row of data")
    headers: list[str] = []
    for number, cell in enumerate(itertools.islice(itertools.chain(header, itertools.repeat(None)), max(map(len, body)))):
        headers.append(_text(cell) or f"column {number + 1}")
    return []
