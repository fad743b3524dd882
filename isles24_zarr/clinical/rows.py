"""Clinical tables to rows of cells by header: the right header, and the right row.

- Headers are matched without case, spaces and punctuation, by the names and aliases of the vocabulary, with or without
  their units. An unknown column is kept under its own snake_case name.
- A table has one header row, below a title at most, and one row of values: or one that an id column says is the
  subject's own. What could be of somebody or something else is an error, and the table is left out.
"""

from __future__ import annotations

import functools
import itertools
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.clinical.cells import is_missing
from isles24_zarr.clinical.tables import Row, sheets_from_table, text_from_cell, unguarded_text
from isles24_zarr.errors import TableError
from isles24_zarr.vocabulary import CLINICAL_VARIABLES, SUBJECT_NAME

if TYPE_CHECKING:
    from isles24_zarr.vocabulary import ClinicalVariable

_MAX_NAME_LENGTH: Final = 60
_MAX_HEADER_LENGTH: Final = 300
_RESERVED_NAMES: Final = frozenset({"subject", "image", "available", "participant_id"})
_ID_KEYS: Final = frozenset(
    f"{who}{mark}" for who in ("participant", "subject", "sub", "patient", "case", "") for mark in ("id", "")
) - {""}
_DURATION_UNITS: Final = ("hrs:min", "h:mm", "hh:mm")

_quoter = reprlib.Repr()
_quoter.maxstring = _quoter.maxother = 60


def quoted(cell: Any) -> str:
    """Return what a message says of a cell or header, of bounded length."""
    return _quoter.repr(cell)


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
        Cells by header of each row below the header. A column without a header is ``column N``; a repeated header gets
        spaces at its end, which the matching of headers ignores.

    Raises
    ------
    TableError
        It is not such a table, is damaged, is larger than the limits of `tables`, or has no header row that is beyond
        doubt: the one row of one sheet with most headers that are known, and nothing but a title above it.
    """
    sheets = sheets_from_table(data, path=path)
    header, below = _header_and_rows(sheets, path=path)
    # where it is the only one, an empty row is a patient of whom nothing is known
    body = [row for row in below if any(map(text_from_cell, row))] or below[:1]
    if not body:
        raise TableError(path, "has a header and no row of data")
    widest = max(map(len, body))
    if path.lower().endswith(".csv"):
        if widest > len(header):  # as of a decimal comma, which shifts all that follows
            raise TableError(path, f"has a row of {widest} cells under a header of {len(header)}")
        body = [tuple(map(unguarded_text, row)) for row in body]
    headers: list[str] = []
    for number in range(max(len(header), widest)):
        text = text_from_cell(header[number] if number < len(header) else None) or f"column {number + 1}"
        while text in headers:
            text += " "
        headers.append(text)
    return [dict(itertools.zip_longest(headers, row)) for row in body]


def _header_and_rows(sheets: Sequence[tuple[str, list[Row]]], *, path: str) -> tuple[Row, list[Row]]:
    """Return the header row, found by the headers that are known, and all rows below it."""
    known = [(title, rows, [len(_known_names(row)) for row in rows]) for title, rows in sheets]
    tables = [table for table in known if any(table[2])]
    if not any(any(rows) for _, rows in sheets):
        raise TableError(path, "holds no cell with content")
    if not tables:
        raise TableError(path, "has no header of a clinical table")
    if len(tables) > 1:
        titles = ", ".join(quoted(title) for title, *_ in tables)
        raise TableError(path, f"has clinical tables in {len(tables)} sheets, {titles}, where one is to be")
    _, rows, counts = tables[0]
    at = counts.index(max(counts))
    if counts.count(max(counts)) > 1:
        raise TableError(path, "has headers in several rows, where one row of headers above one of values is to be")
    if any(len(row) - sum(map(is_missing, row)) > 1 for row in rows[:at]):
        raise TableError(path, f"has more than a title above the headers in row {at + 1}")
    return rows[at], rows[at + 1 :]


def _known_names(row: Row) -> set[str]:
    names = (_known_name(cell) for cell in row if isinstance(cell, str) and len(cell) <= _MAX_HEADER_LENGTH)
    return {name for name in names if name}


def own_row(rows: Sequence[Mapping[str, Any]], *, path: str, subject: str) -> dict[str, Any]:
    """Return the row of one subject, without the ids that name it.

    Parameters
    ----------
    rows
        As `rows_from_table` gives them.
    path, subject
        The table's name and the subject's, as ``sub-stroke0001``.

    Raises
    ------
    TableError
        There are several rows, and not one of them alone says that it is the subject's; or one that says whose it is
        stands beside values that do not; or the only one says that it is somebody else's.
    """
    ids = [[text_from_cell(cell) for header, cell in row.items() if _is_id(header, cell)] for row in rows]
    own = [row for row, texts in zip(rows, ids, strict=True) if _is_own(texts, subject)]
    if not own and len(rows) == 1 and not ids[0]:
        own = list(rows)
    if len(own) == 1:
        _check_owners(rows, ids, path=path)
        return {
            header: cell
            for header, cell in own[0].items()
            if _key(header) not in _ID_KEYS or not (is_missing(cell) or _names(text_from_cell(cell), subject))
        }
    if len(rows) == 1:
        raise TableError(path, f"says that it is of {quoted(ids[0][0])}, not of {subject}")
    whose = f"{len(own) or 'none'} of them of {subject}" if any(ids) else "and no column that says whose they are"
    raise TableError(path, f"has {len(rows)} rows, {whose}")


def _check_owners(rows: Sequence[Mapping[str, Any]], ids: Sequence[Sequence[str]], *, path: str) -> None:
    """Refuse values of nobody in particular, as below an id that is merged over two rows; a note is no value."""
    for row, texts in zip(rows, ids, strict=True):
        values = [cell for header, cell in row.items() if _known_name(header) and not is_missing(cell)]
        if any(ids) and not texts and values:
            what = f"has a row that does not say whose it is, with {quoted(values[0])}"
            raise TableError(path, f"{what}: repeat the id of a patient in all rows, and join those of one patient")


def _is_id(header: str, cell: Any) -> bool:
    return _key(header) in _ID_KEYS and not is_missing(cell)


def _is_own(ids: Sequence[str], subject: str) -> bool:
    """Tell whether one of the ids is the subject's, and none another one of the release: others are a hospital's."""
    own = [_names(text, subject) for text in ids]
    return any(own) and not any(
        SUBJECT_NAME.fullmatch(text.casefold()) for text, same in zip(ids, own, strict=True) if not same
    )


def _names(text: str, subject: str) -> bool:
    # a number alone may as well be one of another list
    return text.casefold().removeprefix("sub-") == subject.casefold().removeprefix("sub-")


def words_from_header(header: str) -> str:
    """Join letters and digits, in lower case, by underscores for everything else."""
    # a name keeps less of it, and a cell may hold 32,767 characters
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", header[:_MAX_HEADER_LENGTH]).casefold())
    return "_".join("".join(c if c != "_" and f"a{c}".isidentifier() else " " for c in text).split())


def _key(header: str) -> str:
    return words_from_header(header).replace("_", "")


def _headers(variable: ClinicalVariable) -> Iterator[str]:
    """Yield what a column may be called: by each of its names, with or without its units behind it."""
    units = _DURATION_UNITS if variable.kind == "duration" else (variable.units or "",)
    for name in (variable.name, variable.column, *variable.aliases):
        yield name
        yield from (f"{name} {unit}" for unit in units if unit not in ("", "1"))


_NAME_OF_KEY: Final = {_key(header): variable.name for variable in CLINICAL_VARIABLES for header in _headers(variable)}


@functools.lru_cache(maxsize=4096)
def _known_name(header: str) -> str | None:
    return _NAME_OF_KEY.get(_key(header))


def name_from_header(header: str) -> str:
    """Return the name of a column in the store: that of the vocabulary, or one of its own."""
    if known := _known_name(header):
        return known
    words = words_from_header(header)
    if words in _RESERVED_NAMES or not words.isidentifier():
        words = f"column_{words}"
    return words[:_MAX_NAME_LENGTH].rstrip("_")
