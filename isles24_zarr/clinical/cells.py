"""Cells of clinical tables as typed values.

A cell is missing, understood or unread. Missing and unread are both ``None``, never 0; unread is reported.

- Missing are empty cells, NaN, and the texts ``nan``, ``n/a``, ``na``, ``-`` and ``#N/A`` in any case and any column.
  In columns of the vocabulary ``unknown``, ``missing``, ``null`` and ``<na>`` are missing, too, with a notice.
- Understood is what can be a value of its variable: within its limits, one of its categories, whole where it is a
  score. Codes like 99 or -9, texts like ``>400`` or ``120 mg/dl`` and what could be two numbers (``1,234``) are not.
- Excel counts time in days: a door time arrives as text, time, timedelta, datetime or day fraction, the last with a
  notice, as it may have been hours.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.clinical.tables import MergedCell, text_from_cell

if TYPE_CHECKING:
    from isles24_zarr.errors import Severity
    from isles24_zarr.vocabulary import ClinicalVariable

Value = float | int | str | None
_Reading = tuple[float | int | str, str | None]

_MISSING: Final = frozenset({"", "nan", "n/a", "na", "-", "#n/a"})
_NOT_KNOWN: Final = frozenset({"unknown", "missing", "null", "<na>"})
_FLAG_WORDS: Final = {"yes": 1, "true": 1, "no": 0, "false": 0}
_SEX_WORDS: Final = {"m": "M", "male": "M", "f": "F", "female": "F"}

_NUMBER: Final = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_TWO_NUMBERS: Final = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""The comma is one of decimals in one country and of thousands in another."""

_IDENTIFIER: Final = re.compile(r"[+-]?(0\d.*|\d{16,})", re.ASCII)
_WHOLE: Final = re.compile(r"(0|-?[1-9]\d{0,14})\.0", re.ASCII)
_EXCEL_ERROR: Final = re.compile(r"#[A-Z0/_]+[!?]|#GETTING_DATA")
_ROUNDED_MINUTES: Final = 1e-6
"""Whole minutes as fractions of a day differ by less."""
_CLOCK: Final = re.compile(
    r"((?P<days>-?\d{1,4}) days?,?\s+\+?|1900-01-(?P<date>\d\d)[ T]|(?P<minus>-))?"
    r"(?P<hours>\d{1,4}):(?P<minutes>[0-5]\d)(:(?P<seconds>[0-5]\d(\.\d+)?))?",
    re.ASCII | re.IGNORECASE,
)


class UnreadCellError(Exception):
    """A cell that means nothing in its column.

    Parameters
    ----------
    what
        What it is not.
    severity
        How it is reported.
    """

    def __init__(self, what: str, severity: Severity = "error") -> None:
        super().__init__(what, severity)
        self.what = what
        self.severity = severity


def is_missing(cell: Any) -> bool:
    """Tell whether a cell holds nothing, or says so."""
    return text_from_cell(cell).casefold() in _MISSING


def value_from_cell(cell: Any, variable: ClinicalVariable | None) -> tuple[Value, str | None]:
    """Read a cell.

    Parameters
    ----------
    cell
        As `clinical.tables.sheets_from_table` gives it.
    variable
        What its column holds; ``None`` where it is unknown, and any number or text is one.

    Returns
    -------
    tuple
        The value, ready for JSON: numbers and durations (minutes) are ``float``; flags and scores ``int``; categories
        ``str``; a cell of an unknown column any of these. And what is odd about it.

    Raises
    ------
    UnreadCellError
        The cell is not missing, and is no value of the variable.
    """
    if isinstance(cell, MergedCell):
        raise UnreadCellError("one value for all of them")
    if is_missing(cell):
        return None, None
    if variable is None:
        return _anything(cell)
    if text_from_cell(cell).casefold() in _NOT_KNOWN:
        return None, "which counts as missing"
    value, oddity = _READER_OF_NAME.get(variable.name, _READERS[variable.kind])(cell)
    if variable.categories and value not in variable.categories:
        raise UnreadCellError(f"none of {', '.join(variable.categories)}")
    if variable.limits and not isinstance(value, str):
        lower, upper = variable.limits
        if not lower <= value <= upper:
            # the release itself has flags above 1, which nobody but its authors can correct
            severity: Severity = "notice" if variable.kind == "flag" else "error"
            raise UnreadCellError(f"outside of {lower:,g} to {upper:,g}{_units(variable)}", severity)
    return value, oddity


def _units(variable: ClinicalVariable) -> str:
    return "" if variable.units in (None, "1") else f" {variable.units}"


def _number(cell: Any, expected: str = "a number") -> tuple[float, None]:
    text = text_from_cell(cell)
    if isinstance(cell, bool) or not (isinstance(cell, int | float) or _NUMBER.fullmatch(text)):
        raise UnreadCellError(f"not {expected}")
    if isinstance(cell, str) and _TWO_NUMBERS.fullmatch(text):
        raise UnreadCellError("two numbers, with a comma of decimals and with one of thousands")
    number = float(text.replace(",", "."))
    if not math.isfinite(number):
        raise UnreadCellError("not a finite number")
    return number, None


def _score(cell: Any) -> tuple[int, None]:
    number, _ = _number(cell)
    if not number.is_integer():
        raise UnreadCellError("not a whole number")
    return int(number), None


def _flag(cell: Any) -> tuple[int, None]:
    word = text_from_cell(cell).casefold()  # of a bool too
    return (_FLAG_WORDS[word], None) if word in _FLAG_WORDS else _score(cell)


def _shortest(number: float) -> float | int:
    # beyond what a double counts one by one, digits are not known, and too many for a number to be read back
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def _category(cell: Any) -> tuple[str, None]:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise UnreadCellError("neither a text nor a number")
    text = cell.strip() if isinstance(cell, str) else str(_shortest(_number(cell)[0]))
    if _EXCEL_ERROR.fullmatch(text):
        raise UnreadCellError("an error of Excel")
    # as pandas writes a column of whole numbers with a gap
    return text.removesuffix(".0") if _WHOLE.fullmatch(text) else text, None


def _sex(cell: Any) -> _Reading:
    sex = _SEX_WORDS.get(text_from_cell(cell).casefold())
    if sex is None:
        raise UnreadCellError("neither M nor F")
    return sex, None if cell == sex else f"read as {sex}"


def _mtici(cell: Any) -> tuple[str, None]:
    text, _ = _category(cell)
    return "".join(text.split()).lower(), None


def _may_be_hours(days: float) -> bool:
    """Tell whether a bare number may be no fraction of a day: people write 0.75 hours, Excel stores whole minutes."""
    minutes = days * 1440
    return days != 0 and (round(days, 3) == days or abs(minutes - round(minutes)) > _ROUNDED_MINUTES)


def _duration(cell: Any) -> tuple[float, str | None]:
    from openpyxl.utils.datetime import to_excel

    is_date, is_bare = isinstance(cell, dt.date), False  # datetime is one of them
    if isinstance(cell, str) and (clock := _CLOCK.fullmatch(cell.strip())):
        seconds = int(clock["hours"]) * 3600 + int(clock["minutes"]) * 60 + float(clock["seconds"] or 0)
        days = int(clock["days"] or clock["date"] or 0) + seconds * (-1 if clock["minus"] else 1) / 86_400
        is_date = bool(clock["date"])
    elif isinstance(cell, dt.date | dt.time | dt.timedelta):
        days = float(to_excel(cell))  # type: ignore[no-untyped-call]
    else:
        days, _ = _number(cell, "a time")
        if abs(days) >= 1:
            raise UnreadCellError("a number without a unit")
        is_bare = _may_be_hours(days)
    # to the millisecond, as openpyxl does: a day fraction of 15 digits is no better
    minutes = round(days * 86_400_000) / 60_000
    if is_bare:
        return minutes, f"a bare number, perhaps of hours, read as a fraction of a day: {minutes:,g} minutes"
    if minutes < 0:
        return minutes, "a negative time, and was kept"
    return minutes, f"a date, and was read as {minutes:,g} minutes" if is_date and days >= 1 else None


def _anything(cell: Any) -> _Reading:
    text = str(int(cell)) if isinstance(cell, bool) else text_from_cell(cell)
    plain = _NUMBER.fullmatch(text) and not _IDENTIFIER.fullmatch(text) and not _TWO_NUMBERS.fullmatch(text)
    return (_shortest(_number(text)[0]), None) if isinstance(cell, float) or plain else _category(text)


_READERS: Final[Mapping[str, Callable[[Any], _Reading]]] = {
    "number": _number,
    "score": _score,
    "flag": _flag,
    "category": _category,
    "duration": _duration,
}
_READER_OF_NAME: Final[Mapping[str, Callable[[Any], _Reading]]] = {"sex": _sex, "mtici": _mtici}
