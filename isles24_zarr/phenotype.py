"""Clinical tables: XLSX and CSV to typed values, and those of all subjects to one cohort table.

- Headers are matched without case, spaces and punctuation, by the names and aliases of the vocabulary. A column that
  nobody knows is kept under its own snake_case name.
- A cell is missing, understood or unread. Missing and unread are both ``None``, never 0; unread is reported. Missing
  are empty cells, NaN, and the texts ``nan``, ``n/a``, ``na``, ``-`` and ``#N/A`` in any case and any column.
- Excel counts time in days: a door time arrives as text, time, timedelta, datetime or day fraction.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import itertools
import math
import re
import reprlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import Problem, TableError
from isles24_zarr.tables import Row, sheets_from_table, text_from_cell
from isles24_zarr.vocabulary import CLINICAL, CLINICAL_VARIABLES, IMAGES

if TYPE_CHECKING:
    import xarray as xr

MAX_DURATION_DAYS: Final = 31
"""A longer time is no door time: more likely a date, or minutes without a unit."""

_MAX_NAME_LENGTH: Final = 60
_MAX_HEADER_LENGTH: Final = 300
_RESERVED_NAMES: Final = frozenset({"subject", "image", "available"})
_MISSING: Final = frozenset({"", "nan", "n/a", "na", "-", "#n/a"})
_FLAG_WORDS: Final = {"yes": 1, "true": 1, "no": 0, "false": 0}
_SEX_WORDS: Final = {"m": "M", "male": "M", "f": "F", "female": "F"}
_MTICI_GRADES: Final = ("0", "1", "2a", "2b", "2c", "3")

_NUMBER: Final = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_IDENTIFIER: Final = re.compile(r"[+-]?(0\d.*|\d{16,})", re.ASCII)
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
    rows = next((rows for _, rows in sheets_from_table(data, path=path) if any(rows)), [])
    header, *below = itertools.dropwhile(lambda row: not row, rows) if rows else [()]
    # where it is the only one, an empty row is a patient of whom nothing is known
    body = [row for row in below if row] or below[:1]
    if not body:
        raise TableError(path, "has a header and no row of data" if header else "holds no cell with content")
    headers: list[str] = []
    for number in range(max(map(len, (header, *body)))):
        text = text_from_cell(header[number] if number < len(header) else None) or f"column {number + 1}"
        while text in headers:
            text += " "
        headers.append(text)
    return [dict(itertools.zip_longest(headers, row)) for row in body]


def dictionary_from_table(data: bytes, *, path: str) -> dict[str, DictionaryEntry]:
    """Read the release's data dictionary, ``clinical_data-description.xlsx``.

    Parameters
    ----------
    data, path
        As for `rows_from_table`; the header may stand below a title.

    Returns
    -------
    dict
        By the name that the variable has in the store; of a parameter listed twice, the first.

    Raises
    ------
    TableError
        It cannot be read, or no sheet has the headers Parameter and Description.
    """
    sheets = sheets_from_table(data, path=path)
    for _, rows in sorted(sheets, key=lambda sheet: sheet[0] != "Suppl. Tab. 1"):
        for number, row in enumerate(rows, 1):
            columns = [_words(text_from_cell(cell)) for cell in row]
            if {"parameter", "description"} <= set(columns):
                return _entries_from_rows(columns, rows[number:])
    raise TableError(path, "has no row with the headers Parameter and Description")


def _entries_from_rows(columns: Sequence[str], rows: Iterable[Row]) -> dict[str, DictionaryEntry]:
    entries: dict[str, DictionaryEntry] = {}
    for row in rows:
        cells = {
            column: None if _is_missing(cell) else text_from_cell(cell)
            for column, cell in zip(columns, row, strict=False)
        }
        if parameter := cells.get("parameter"):
            entry = DictionaryEntry(units=cells.get("unit"), description=cells.get("description"))
            entries.setdefault(_name_from_header(parameter), entry)
    return entries


def _words(header: str) -> str:
    """Join letters and digits, in lower case, by underscores for everything else."""
    # a name keeps less of it, and a cell may hold 32,767 characters
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", header[:_MAX_HEADER_LENGTH]).casefold())
    return "_".join("".join(c if c != "_" and f"a{c}".isidentifier() else " " for c in text).split())


_NAME_OF_KEY: Final = {
    _words(header).replace("_", ""): variable.name
    for variable in CLINICAL_VARIABLES
    for header in (variable.name, variable.column, *variable.aliases)
}


def _name_from_header(header: str) -> str:
    words = _words(header)
    if known := _NAME_OF_KEY.get(words.replace("_", "")):
        return known
    if words in _RESERVED_NAMES or not words.isidentifier():
        words = f"column_{words}"
    return words[:_MAX_NAME_LENGTH].rstrip("_")


class _NotUnderstoodError(Exception):
    """A cell that means nothing in its column; the message says what it is not."""


def _is_missing(cell: Any) -> bool:
    return text_from_cell(cell).casefold() in _MISSING


def _number(cell: Any, expected: str = "a number") -> tuple[float, None]:
    if isinstance(cell, bool) or not (isinstance(cell, int | float) or _NUMBER.fullmatch(text_from_cell(cell))):
        raise _NotUnderstoodError(f"not {expected}")
    number = float(text_from_cell(cell).replace(",", "."))
    if not math.isfinite(number):
        raise _NotUnderstoodError("not a finite number")
    return number, None


def _score(cell: Any) -> tuple[float | int, str | None]:
    number, _ = _number(cell)
    return (int(number), None) if number.is_integer() else (number, "not a whole number, and was kept")


def _flag(cell: Any) -> _Reading:
    word = text_from_cell(cell).casefold()  # of a bool too
    flag = _FLAG_WORDS[word] if word in _FLAG_WORDS else _score(cell)[0]
    if not isinstance(flag, int):
        raise _NotUnderstoodError("neither 0 nor 1")
    return flag, None if flag in (0, 1) else "neither 0 nor 1, and was kept"


def _category(cell: Any) -> tuple[str, str | None]:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise _NotUnderstoodError("neither a text nor a number")
    text = cell.strip() if isinstance(cell, str) else str(_score(cell)[0])
    if _EXCEL_ERROR.fullmatch(text):
        raise _NotUnderstoodError("an error of Excel")
    return text, None


def _sex(cell: Any) -> _Reading:
    sex = _SEX_WORDS.get(text_from_cell(cell).casefold())
    if sex is None:
        raise _NotUnderstoodError("neither M nor F")
    return sex, None if cell == sex else f"read as {sex}"


def _mtici(cell: Any) -> _Reading:
    text, _ = _category(cell)
    grade = "".join(text.split()).lower()
    known = grade in _MTICI_GRADES
    return (grade, None) if known else (text, f"none of {', '.join(_MTICI_GRADES)}, and was kept")


def _duration(cell: Any) -> _Reading:
    from openpyxl.utils.datetime import to_excel

    oddity = None
    if isinstance(cell, str) and (clock := _CLOCK.fullmatch(cell.strip())):
        seconds = int(clock["hours"]) * 3600 + int(clock["minutes"]) * 60 + float(clock["seconds"] or 0)
        days = int(clock["days"] or clock["date"] or 0) + seconds * (-1 if clock["minus"] else 1) / 86_400
    elif isinstance(cell, dt.date | dt.time | dt.timedelta):
        days = float(to_excel(cell))  # type: ignore[no-untyped-call]
    else:
        days, _ = _number(cell, "a time")
        oddity = "a number without a unit, and was read as days" if days >= 1 else None
    if abs(days) > MAX_DURATION_DAYS:
        raise _NotUnderstoodError(f"a time of more than {MAX_DURATION_DAYS} days")
    # to the millisecond, as openpyxl does: a day fraction of 15 digits is no better
    minutes = round(days * 86_400_000) / 60_000
    return minutes, "a negative time, and was kept" if minutes < 0 else oddity


def _anything(cell: Any) -> _Reading:
    text = str(int(cell)) if isinstance(cell, bool) else text_from_cell(cell)
    if isinstance(cell, float) or (_NUMBER.fullmatch(text) and not _IDENTIFIER.fullmatch(text)):
        return _score(text)[0], None
    return _category(text)


_READERS: Final[Mapping[str, Callable[[Any], _Reading]]] = {
    "number": _number,
    "score": _score,
    "flag": _flag,
    "category": _category,
    "duration": _duration,
}
_READER_OF_NAME: Final = {name: _READERS[variable.kind] for name, variable in CLINICAL.items()} | {
    "sex": _sex,
    "mtici": _mtici,
}


def record_from_row(row: Mapping[str, Any], *, table: str, path: str, subject: str) -> ClinicalRecord:
    """Read the cells of one row.

    Parameters
    ----------
    row
        Cells by header, as `rows_from_table` gives them.
    table
        `vocabulary.BASELINE` or `vocabulary.OUTCOME`: columns of the other are read too, with a notice.
    path, subject
        The table's name and the subject, for the problems.

    Returns
    -------
    ClinicalRecord
        With a name for every column of the row, and for no other.
    """
    values: dict[str, Value] = {}
    unread: dict[str, str] = {}
    problems: list[Problem] = []
    notice = functools.partial(Problem, path=path, subject=subject, severity="notice")
    for header, cell in row.items():
        name, column = _name_from_header(header), f"its column {_quoter.repr(header)}"
        if name in values:
            problems.append(notice(message=f"{column} is another one for {name}: the first not empty was used"))
        elif name not in CLINICAL:
            problems.append(notice(message=f"{column} is not known: it was kept as {name}"))
        elif CLINICAL[name].table != table:
            problems.append(notice(message=f"{column} is one of {CLINICAL[name].table}: it was used"))
        if values.setdefault(name, None) is not None or name in unread or _is_missing(cell):
            continue
        found = f"{column} holds {_quoter.repr(cell)}"
        try:
            values[name], oddity = _READER_OF_NAME.get(name, _anything)(cell)
        except _NotUnderstoodError as error:
            unread[name] = str(cell)
            message = f"{found}, which is {error}; it counts as missing until the cell is corrected"
            problems.append(Problem(path=path, message=message, subject=subject))
        else:
            problems += [notice(message=f"{found}, {oddity}")] if oddity else []
    return ClinicalRecord(values=values, unread=unread, problems=tuple(problems), path=path, subject=subject)


def merged_record(records: Sequence[ClinicalRecord]) -> ClinicalRecord:
    """Join what several tables say of one subject: earlier ones win, a later one that differs is reported."""
    values: dict[str, Value] = {}
    path_of: dict[str, str] = {}
    problems: list[Problem] = []
    for record in records:
        problems += record.problems
        notice = functools.partial(Problem, path=record.path, subject=record.subject, severity="notice")
        for name, value in record.values.items():
            known = values.get(name)
            if known is None:
                values[name], path_of[name] = value, record.path
            elif value is not None and value != known:
                used = f"{path_of[name]} says {_quoter.repr(known)}, which was used"
                problems.append(notice(message=f"says that {name} is {_quoter.repr(value)}; {used}"))
    unread = {name: text for record in reversed(records) for name, text in record.unread.items()}
    return ClinicalRecord(
        values=values,
        unread={name: text for name, text in unread.items() if values[name] is None},
        problems=tuple(problems),
        path=records[0].path if records else "",
        subject=records[0].subject if records else None,
    )


def cohort_table(
    subjects: Sequence[str],
    records: Mapping[str, ClinicalRecord],
    available: Mapping[str, Collection[str]],
    dictionary: Mapping[str, DictionaryEntry],
) -> xr.Dataset:
    """Put all subjects into one table.

    Parameters
    ----------
    subjects
        In the order of the table.
    records, available
        By subject, its clinical values and the names of its images. A subject may be absent from both.
    dictionary
        By name, for the attributes ``description`` and ``dictionary_units``.

    Returns
    -------
    xarray.Dataset
        Over ``subject``: the variables of the vocabulary, then unknown columns by name. Texts are strings, ``""`` where
        missing; all others float64, NaN where missing, durations in minutes. An unknown column is text where one of its
        values is. Over (``subject``, ``image``): ``available``, bool.
    """
    import numpy as np
    import xarray as xr

    # the one string type of numpy that xarray writes as Zarr's ``string`` even when there is no subject
    text = np.dtypes.StringDType()
    found = [records[subject].values if subject in records else {} for subject in subjects]
    unknown = {name for values in found for name in values} - CLINICAL.keys()
    columns: dict[str, Any] = {}
    for name in (*CLINICAL, *sorted(unknown)):
        cells = [values.get(name) for values in found]
        kind = CLINICAL[name].kind if name in CLINICAL else None
        if kind == "category" or (kind is None and any(isinstance(cell, str) for cell in cells)):
            column = np.array(["" if cell is None else str(cell) for cell in cells], dtype=text)
        else:
            column = np.array([math.nan if cell is None else cell for cell in cells], dtype=np.float64)
        columns[name] = ("subject", column, _attributes(name, dictionary.get(name)))
    has = np.array([[image in available.get(subject, ()) for image in IMAGES] for subject in subjects], dtype=bool)
    attributes = {"long_name": "whether the subject has the image"}
    columns["available"] = (("subject", "image"), has.reshape(-1, len(IMAGES)), attributes)
    coordinates = {"subject": np.array(subjects, dtype=text), "image": np.array(list(IMAGES), dtype=text)}
    return xr.Dataset(columns, coords=coordinates)


def _attributes(name: str, entry: DictionaryEntry | None) -> dict[str, str]:
    variable = CLINICAL.get(name)
    attributes = {"long_name": variable.long_name, "units": variable.units} if variable else {"long_name": name}
    if entry:
        # not "units": they are wrong for our minutes, and xarray would take "hours" for a timedelta
        attributes |= {"description": entry.description, "dictionary_units": entry.units}
    return {key: text for key, text in attributes.items() if text is not None}
