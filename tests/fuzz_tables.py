"""Tables for tests/fuzz.py: workbooks with parts and bytes replaced, and CSV of any text."""

from __future__ import annotations

import datetime as dt
import io
import warnings
from typing import Final

import pandas as pd
from hypothesis import strategies as st

from isles24_zarr.clinical.tables import MAX_COLUMNS, MAX_ROWS, MAX_TEXT, Row, sheets_from_table
from isles24_zarr.errors import TableError
from tests.table_files import PARTS, csv_bytes, packed, parts_of, xlsx

_PIECES: Final = [b"<", b">", b'"', b"&", b"&amp;", b"&x;", b"\0", b"\xff", b"-1", b"1e999", b"9" * 30, b"XFD1048576"]
_PIECES += [b"<row/>", b'<c t="b"><v>7</v></c>', b'<c t="d"><v>x</v></c>', b'<c t="e"><v>#N/A</v></c>', b"<!DOCTYPE x>"]
_PIECES += [b'r="0"', b't="s"', b't="inlineStr"', b"<f>1</f>", b"<v>1</v>", b's="9"', b"<is/>", b"sheetId", b"rId9"]
_PIECES += [b"../", b"sharedStrings", b"chartsheet", b'<definedName name="x">S!$A</definedName>', b"PK\1\2", b"PK\3\4"]

_ROWS: Final = [["Age", "Door to groin", "Sex"], [70.5, dt.time(1, 5), "M"], [None, dt.timedelta(days=2), True]]
_STYLED: Final = parts_of(xlsx(_ROWS, formats={"B3": "[h]:mm"}))


@st.composite
def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes replaced, left out or put in."""
    damaged = bytearray(data)
    edits = st.tuples(st.integers(0, len(data)), st.integers(0, 8), st.sampled_from(_PIECES) | st.binary(max_size=8))
    for place, length, piece in draw(st.lists(edits, max_size=4)):
        damaged[place : place + length] = piece
    return bytes(damaged)


@st.composite
def _workbooks(draw: st.DrawFn) -> bytes:
    good = draw(st.sampled_from([PARTS, _STYLED]))
    parts: dict[str, bytes | None] = dict(good)
    for name in draw(st.lists(st.sampled_from(sorted(good)), max_size=2, unique=True)):
        parts[name] = draw(_damaged(good[name]) | st.none() | st.sampled_from(list(good.values())))
    data = packed(parts, draw(st.sampled_from([0, 8])))
    return draw(_damaged(data)) if draw(st.booleans()) else data


def tables() -> st.SearchStrategy[tuple[bytes, str]]:
    """The bytes of a table, and its name."""
    texts = st.text(st.sampled_from("Age,;\t|\"'\r\n\0\ufeff =1") | st.characters(exclude_categories=["Cs"]))
    return st.tuples(_workbooks() | st.binary(max_size=80), st.just("hostile.xlsx")) | st.tuples(
        texts.map(str.encode) | st.binary(max_size=80), st.just("hostile.csv")
    )


def check_table(table: tuple[bytes, str]) -> None:
    """It is rows within the limits, or a `TableError` of one line that names the file; no warning, no other error."""
    data, name = table
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sheets = sheets_from_table(data, path=name)
    except TableError as error:
        text = str(error)
    else:
        _check_rows(sheets)
        return
    assert text.startswith(f"{name}: ")
    assert text.isprintable()
    assert len(text) < 1000


def _check_rows(sheets: list[tuple[str, list[Row]]]) -> None:
    for _, rows in sheets:
        assert len(rows) <= MAX_ROWS + 1
        assert all(len(row) <= MAX_COLUMNS for row in rows)
        assert all(len(cell) <= MAX_TEXT for row in rows for cell in row if isinstance(cell, str))


_CELL: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), max_size=20)
cells = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(_CELL, min_size=width, max_size=width), min_size=1, max_size=4).map(
        lambda rows: [[f"column {number}" for number in range(width)], *rows]
    )
)
"""Rows of texts below a header."""


def check_csv(rows: list[list[str]]) -> None:
    """Well-formed CSV is what pandas reads, but for the blanks at the end of rows, which are left out."""
    data = csv_bytes(rows)
    # a line of nothing but blanks is a row like others: pandas would leave it out, if it has one cell
    options = {"keep_default_na": False, "na_filter": False, "skip_blank_lines": False}
    read = pd.read_csv(io.BytesIO(data), dtype=str, header=None, **options)
    ((_, found),) = sheets_from_table(data, path="table.csv")
    width = len(rows[0])
    wanted = [list(row) for row in read.itertuples(index=False)]
    blank = [[cell if any(c.strip() for c in row[at:]) else "" for at, cell in enumerate(row)] for row in wanted]
    assert [list(row) + [""] * (width - len(row)) for row in found] == blank
