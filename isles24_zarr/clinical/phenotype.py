"""Clinical tables: XLSX and CSV to typed values, and those of all subjects to one cohort table.

- Headers and rows are found by `rows`, cells are read by `cells`.
- A value of one subject may stand in several columns or tables: contradictions within a table leave it out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isles24_zarr.clinical.cells import UnreadCellError, Value, is_missing, value_from_cell
from isles24_zarr.clinical.rows import name_from_header, quoted, words_from_header
from isles24_zarr.clinical.tables import MergedCell, Row, sheets_from_table, text_from_cell
from isles24_zarr.errors import Problem, Severity, TableError
from isles24_zarr.vocabulary import CLINICAL, IMAGES

if TYPE_CHECKING:
    import xarray as xr

_Finding = tuple[str, Severity]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClinicalRecord:
    """What clinical tables say of one subject.

    Parameters
    ----------
    values
        By name, as `clinical.value_from_cell` gives them; ``None`` where missing or unread.
    unread
        By name, the raw text of cells that could not be understood, or can be no value of their variable.
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


def dictionary_from_table(data: bytes, *, path: str) -> dict[str, DictionaryEntry]:
    """Read the release's data dictionary, ``clinical_data-description.xlsx``.

    Parameters
    ----------
    data, path
        As for `clinical.rows_from_table`; the header may stand below a title.

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
            columns = [words_from_header(text_from_cell(cell)) for cell in row]
            if {"parameter", "description"} <= set(columns):
                return _entries_from_rows(columns, rows[number:])
    raise TableError(path, "has no row with the headers Parameter and Description")


def _entries_from_rows(columns: Sequence[str], rows: Iterable[Row]) -> dict[str, DictionaryEntry]:
    entries: dict[str, DictionaryEntry] = {}
    for row in rows:
        cells = {
            column: None if is_missing(cell) else text_from_cell(cell)
            for column, cell in zip(columns, row, strict=False)
        }
        if parameter := cells.get("parameter"):
            entry = DictionaryEntry(units=cells.get("unit"), description=cells.get("description"))
            entries.setdefault(name_from_header(parameter), entry)
    return entries


def record_from_row(row: Mapping[str, Any], *, table: str, path: str, subject: str) -> ClinicalRecord:
    """Read the cells of one row.

    Parameters
    ----------
    row
        Cells by header, as `clinical.rows_from_table` gives them.
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
    columns: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for header, cell in row.items():
        columns[name_from_header(header)].append((header, cell))
    for name, cells in columns.items():
        values[name], text, findings = _read_columns(name, cells)
        if text is not None:
            unread[name] = text
        for message, severity in (*_header_findings(name, [header for header, _ in cells], table), *findings):
            problems.append(Problem(path=path, message=message, severity=severity, subject=subject))
    return ClinicalRecord(values=values, unread=unread, problems=tuple(problems), path=path, subject=subject)


def _header_findings(name: str, headers: Iterable[str], table: str) -> Iterator[_Finding]:
    for number, header in enumerate(headers):
        column = f"its column {quoted(header)}"
        if number:
            yield f"{column} is another one for {name}", "notice"
        elif name not in CLINICAL:
            yield f"{column} is not known: it was kept as {name}", "notice"
        elif CLINICAL[name].table != table:
            yield f"{column} is one of {CLINICAL[name].table}: it was used", "notice"


def _read_columns(name: str, cells: Iterable[tuple[str, Any]]) -> tuple[Value, str | None, list[_Finding]]:
    """Read what the columns of one name hold: their value, or their text where there is none, and all findings."""
    values: list[Value] = []
    findings: list[_Finding] = []
    filled = [
        (f"its column {quoted(header)} holds {quoted(cell)}", cell)
        for header, cell in cells
        if isinstance(cell, MergedCell) or not is_missing(cell)
    ]
    understood = True
    for words, cell in filled:
        try:
            value, oddity = value_from_cell(cell, CLINICAL.get(name))
        except UnreadCellError as error:
            understood = False
            message = f"{words}, which is {error.what}; it counts as missing until the cell is corrected"
            findings.append((message, error.severity))
        else:
            values += [] if value is None else [value]
            findings += [(f"{words}, {oddity}", "notice")] if oddity else []
    if len(set(values)) > 1:
        understood = False
        all_words = " and ".join(words for words, _ in filled)
        findings.append((f"{all_words}; {name} counts as missing until the columns agree", "error"))
    if understood:
        return next(iter(values), None), None, findings
    return None, " | ".join(str(cell) or repr(cell) for _, cell in filled), findings


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
                used = f"{path_of[name]} says {quoted(known)}, which was used"
                problems.append(notice(message=f"says that {name} is {quoted(value)}; {used}"))
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
        values is. Over (``subject``, ``image``): ``available``, bool; of the images of the vocabulary, then of others
        that a subject has.
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
    images = [*IMAGES, *sorted({image for each in available.values() for image in each} - IMAGES.keys())]
    has = np.array([[image in available.get(subject, ()) for image in images] for subject in subjects], dtype=bool)
    attributes = {"long_name": "whether the subject has the image"}
    columns["available"] = (("subject", "image"), has.reshape(-1, len(images)), attributes)
    coordinates = {"subject": np.array(subjects, dtype=text), "image": np.array(images, dtype=text)}
    return xr.Dataset(columns, coords=coordinates)


def _attributes(name: str, entry: DictionaryEntry | None) -> dict[str, str]:
    variable = CLINICAL.get(name)
    attributes = {"long_name": variable.long_name, "units": variable.units} if variable else {"long_name": name}
    if entry:
        # not "units": they are wrong for our minutes, and xarray would take "hours" for a timedelta
        attributes |= {"description": entry.description, "dictionary_units": entry.units}
    return {key: text for key, text in attributes.items() if text is not None}
