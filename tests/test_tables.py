"""Tables made to harm: each is one clear `TableError`, or is read right, in bounded memory and time."""

from __future__ import annotations

import io
import struct
import sys
import time
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import example, given, settings

from isles24_zarr.clinical.tables import MAX_TABLE_BYTES, MAX_TEXT, sheets_from_table
from isles24_zarr.errors import TableError
from tests import fuzz_tables
from tests.limits import MIB, limited_process
from tests.table_files import PARTS, SHEET_PART, SHEET_TAG, TWO_ROWS, csv_bytes, packed, sheet_part, with_parts, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
GOOD = [("Age", "Sex"), (70, "M")]


def outcome_of(data: bytes, name: str) -> tuple[Any, float]:
    """Rows of the first sheet, or the error's text, and the seconds of a processor that it took."""
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found: Any = sheets_from_table(data, path=name)[0][1]
    except TableError as error:
        found = str(error)
    return found, time.process_time() - began


def warm() -> None:
    outcome_of(packed(PARTS), "warm.xlsx")


@pytest.fixture(scope="module")
def limited() -> Iterator[Callable[..., Any]]:
    with limited_process(warm) as run:
        yield run


def test_the_workbook_that_others_are_made_of(limited: Callable[..., Any]) -> None:
    assert limited(outcome_of, packed(PARTS), "good.xlsx")[0] == GOOD
    assert pd.read_excel(io.BytesIO(packed(PARTS))).to_dict("list") == {"Age": [70], "Sex": ["M"]}


# --- workbooks ---


def entity(declaration: bytes) -> bytes:
    text = b"<!DOCTYPE x [" + declaration + b"]>"
    return with_parts(sheet=text + PARTS[SHEET_PART].replace(b"<t>Sex", b"<t>&a;"))


def laughs() -> bytes:
    steps = [b'<!ENTITY l0 "ha">'] + [b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10)]
    return entity(b"".join(steps) + b'<!ENTITY a "&l9;">')


def sheet(body: bytes) -> bytes:
    return with_parts(sheet=sheet_part(body))


def rows(row: bytes, count: int) -> bytes:
    return sheet(b"<sheetData>" + row * count + b"</sheetData>")


def sheets(count: int, body: bytes = TWO_ROWS) -> bytes:
    tags = b"".join(SHEET_TAG.replace(b"Sheet1", b"S%d" % number) for number in range(count))
    return with_parts(book=PARTS["xl/workbook.xml"].replace(SHEET_TAG, tags), sheet=sheet_part(body))


def strings(text: bytes, cells: int = 1) -> bytes:
    row = b"<row>" + b'<c t="s"><v>0</v></c>' * cells + b"</row>"
    table = PARTS["xl/sharedStrings.xml"].replace(b"Age", text)
    return with_parts(strings=table, sheet=sheet_part(b"<sheetData>" + row * 2 + b"</sheetData>"))


def styles(count: int) -> bytes:
    content = PARTS["[Content_Types].xml"].replace(
        b"</Types>",
        b'<Override PartName="/xl/styles.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        b'spreadsheetml.styles+xml"/></Types>',
    )
    part = b'<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><cellXfs>'
    part += b"<xf/>" * count + b"</cellXfs></styleSheet>"
    return with_parts(**{"[Content_Types].xml": content, "xl/styles.xml": part})


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def encrypted(data: bytes) -> bytes:
    packed_ = bytearray(data)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        packed_[packed_.index(mark) + place] |= 1
    return bytes(packed_)


def directory_of(count: int) -> bytes:
    entries = (b"PK\1\2" + bytes(42)) * count
    return entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count % 2**16, count % 2**16, len(entries), 0, 0)


def understating() -> bytes:
    """A member of 30 MiB that declares 100 bytes."""
    data = with_parts(**{"xl/bomb.xml": b" " * (30 * MIB)})
    return data.replace(struct.pack("<L", 30 * MIB), struct.pack("<L", 100))


FORMULA = TWO_ROWS.replace(b'<c r="A2"><v>70</v></c>', b'<c r="A2"%s><f>60+10</f>%s</c>')
RECALCULATED = PARTS["xl/workbook.xml"].replace(
    b"</sheets>", b'</sheets><calcPr calcId="124519" fullCalcOnLoad="1"/>'
)  # as XlsxWriter writes it
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "entity of a file": (lambda: entity(b'<!ENTITY a SYSTEM "file:///etc/passwd">'), "document type"),
    "entity of a server": (lambda: entity(b'<!ENTITY a SYSTEM "http://127.0.0.1:9/x">'), "document type"),
    "parameter entity": (lambda: entity(b'<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;'), "document type"),
    "billion laughs": (laughs, "document type"),
    "a row far below": (lambda: rows(b'<row r="1048576"><c r="A1048576"><v>1</v></c></row>', 1), "10,000 rows"),
    "a cell far right": (lambda: rows(b'<row r="1"><c r="XFD1"><v>1</v></c></row>', 1), "1,000 columns"),
    "row beyond Excel": (lambda: rows(b'<row r="99999999999"><c><v>1</v></c></row>', 1), "10,000 rows"),
    "many rows": (lambda: rows(b"<row><c><v>1</v></c></row>", 20_000), "10,000 rows"),
    "many cells": (lambda: rows(b"<row>" + b"<c><v>1</v></c>" * 900 + b"</row>", 500), "XML tags"),
    "many styles": (lambda: styles(900_000), "XML tags"),
    "deep": (lambda: rows(b"<row>" * 900_000 + b"</row>" * 900_000, 1), "XML tags"),
    "many sheets": (lambda: sheets(5000), "5,000 sheets"),
    "one part as many sheets": (lambda: sheets(90, b"<sheetData>" + b"<row/>" * 60_000 + b"</sheetData>"), "XML tags"),
    "huge text": (lambda: strings(b"a" * (8 * MIB)), "8,388,608 characters"),
    "huge text again and again": (lambda: strings(b"a " * (4 * MIB), 900), "characters"),
    "huge blank text": (lambda: strings(b" " * (8 * MIB), 900), "characters"),
    "huge number": (lambda: rows(b"<row><c><v>" + b"9" * 100_000 + b"</v></c></row>", 2), "not a valid XLSX"),
    "no row number": (lambda: rows(b'<row r="x"><c><v>1</v></c></row>', 1), "not a valid XLSX"),
    "no such string": (lambda: rows(b'<row><c t="s"><v>77</v></c></row>', 1), "not a valid XLSX"),
    "broken XML": (lambda: with_parts(sheet=PARTS[SHEET_PART][:-20]), "not a valid XLSX"),
    "broken book": (lambda: with_parts(book=b"<workbook"), "not a valid XLSX"),
    "no book": (lambda: with_parts(book=None), "not a valid XLSX"),
    "no content types": (lambda: with_parts(**{"[Content_Types].xml": None}), "not a valid XLSX"),
    "unsaved formula": (lambda: sheet(FORMULA % (b"", b"")), "formula without its result"),
    "unsaved formula with an empty value": (lambda: sheet(FORMULA % (b"", b"<v></v>")), "formula without its result"),
    "unsaved formula with no value": (lambda: sheet(FORMULA % (b"", b"<v/>")), "formula without its result"),
    "formula with a result that nobody computed": (
        lambda: with_parts(book=RECALCULATED, sheet=PARTS[SHEET_PART].replace(TWO_ROWS, FORMULA % (b"", b"<v>0</v>"))),
        "formula without its result",
    ),
    "merged cells that overlap": (
        lambda: sheet(TWO_ROWS + b'<mergeCells><mergeCell ref="A1:XFD1048576"/><mergeCell ref="A1:B2"/></mergeCells>'),
        "merged cells that overlap",
    ),
    "UTF-16": (lambda: with_parts(sheet=PARTS[SHEET_PART].decode().encode("utf-16")), "not UTF-8"),
    "Latin-1": (lambda: with_parts(sheet=PARTS[SHEET_PART].replace(b"Sex", b"S\xe9x")), "not UTF-8"),
    "NUL": (lambda: with_parts(sheet=PARTS[SHEET_PART].replace(b"Sex", b"S\0x")), "NUL"),
    "zip bomb": (lambda: with_parts(**{"xl/bomb.xml": b" " * (40 * MIB)}), "decompresses to"),
    "zip bomb that lies": (understating, "not a readable XLSX"),
    "many members": (lambda: directory_of(300_000), "10,000 members"),
    "long name": (
        lambda: packed({**PARTS, "e" * 60_000 + ".xml": b"<a/>"}).replace(b"e" * 60_000, b"\x82" * 60_000),
        "not a valid XLSX",
    ),
    "encrypted": (lambda: encrypted(packed(PARTS)), "encrypted"),
    "bzip2": (lambda: packed(PARTS, zipfile.ZIP_BZIP2), "compressed by a method"),
    "lzma": (lambda: packed(PARTS, zipfile.ZIP_LZMA), "compressed by a method"),
    "wrong checksum": (lambda: packed(PARTS, zipfile.ZIP_STORED).replace(b">Sex<", b">Sax<"), "Bad CRC-32"),
    "cut": (lambda: packed(PARTS)[:-30], "not a readable XLSX"),
    "old Excel": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(5000), "not a readable XLSX"),
    "nothing": (lambda: b"", "has 0 bytes"),
    "too large": (lambda: bytes(MAX_TABLE_BYTES + 1), "16,777,217 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_workbooks_are_refused(limited: Callable[..., Any], case: str) -> None:
    make, words = HOSTILE[case]
    text, seconds = limited(outcome_of, make(), "ta\nble.xlsx")
    assert isinstance(text, str), text
    assert words in text
    assert text.startswith("ta\\nble.xlsx: ")
    assert text.isprintable()
    assert len(text) < 500
    assert seconds < 10


READ: dict[str, tuple[Callable[[], bytes], list[tuple[Any, ...]]]] = {
    "declares a billion cells": (lambda: sheet(b'<dimension ref="A1:XFD1048576"/>' + TWO_ROWS), GOOD),
    "declares fewer cells": (lambda: sheet(b'<dimension ref="A1"/>' + TWO_ROWS), GOOD),
    "empty cells far right": (
        lambda: rows(b'<row><c><v>1</v></c><c r="XFD1"/></row>', 9_000),
        [(1,)] * 9_000,
    ),
    "no formula where all are computed anew": (lambda: with_parts(book=RECALCULATED), GOOD),
    "saved formula": (lambda: sheet(FORMULA % (b"", b"<v>70</v>")), GOOD),
    "formula of an empty text": (lambda: sheet(FORMULA % (b' t="str"', b"<v></v>")), [GOOD[0], (None, "M")]),
    "absolute and climbing names": (
        lambda: with_parts(**{"/etc/x.xml": b"<a/>", "../../x.xml": b"<a/>", "C:\\x.xml": b"<a/>"}),
        GOOD,
    ),
    "text as long as Excel takes": (lambda: strings(b"a" * MAX_TEXT), [("a" * MAX_TEXT,)] * 2),
    "other parts": (lambda: with_parts(**{"xl/media/x.png": bytes(9), "xl/vbaProject.bin": b"\0"}), GOOD),
    "byte order mark": (lambda: with_parts(sheet=b"\xef\xbb\xbf" + PARTS[SHEET_PART]), GOOD),
    "not packed": (lambda: packed(PARTS, zipfile.ZIP_STORED), GOOD),
    "styles": (lambda: styles(1000), GOOD),
}


@pytest.mark.parametrize("case", READ)
def test_odd_workbooks_are_read_right(limited: Callable[..., Any], case: str) -> None:
    make, wanted = READ[case]
    found, seconds = limited(outcome_of, make(), "table.xlsx")
    assert found == wanted
    assert seconds < 10


def test_lxml_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lxml is installed, openpyxl parses by it, and its errors are other ones."""

    class XMLSyntaxError(SyntaxError):
        pass

    def fromstring(*_: Any) -> None:
        raise XMLSyntaxError("no element found")

    monkeypatch.setattr("openpyxl.reader.excel.fromstring", fromstring)
    with pytest.raises(TableError, match="no element found"):
        sheets_from_table(packed(PARTS), path="table.xlsx")


def test_all_sheets_by_title() -> None:
    assert sheets_from_table(xlsx(GOOD, title="Suppl. Tab. 1"), path="x.XLSX") == [("Suppl. Tab. 1", GOOD)]


# --- CSV ---

HOSTILE_CSV = {
    "NUL": (b"Age,Sex\n7\0,M\n", "NUL"),
    "one huge field": (b"Age,Sex\n" + b"7" * (MAX_TABLE_BYTES - 8), "field limit"),
    "too large": (b"Age,Sex\n" + b"7" * MAX_TABLE_BYTES, "bytes, and tables have"),
    "long field": (b"Age,Sex\n70," + b"M" * 40_000, "40,000 characters"),
    "an open quote": (b'Age,Sex\n70,"M\n', "unexpected end"),
    "short row": (b"Age,Sex\n70\n", "a row of 1 cells under a header of 2"),
    "decimal comma": (b"Age,Sex\n70,5,M\n", "a row of 3 cells under a header of 2"),
    "Latin-1": (b"Age,Sex\n70,m\xe4nnlich\n", "in UTF-8"),
    "UTF-16": ("Age,Sex\n70,M\n".encode("utf-16"), "in UTF-8"),
    "many rows": (b"Age\n" + b"1\n" * 10_001, "10,000 rows"),
    "many columns": (b"Age," * 1_000 + b"Sex\n", "1,000 columns"),
}


@pytest.mark.parametrize("case", HOSTILE_CSV)
def test_hostile_csv_is_refused(limited: Callable[..., Any], case: str) -> None:
    data, words = HOSTILE_CSV[case]
    text, seconds = limited(outcome_of, data, "table.csv")
    assert isinstance(text, str), text
    assert words in text
    assert text.startswith("table.csv: ")
    assert text.isprintable()
    assert seconds < 10


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_of_csv(delimiter: str, end: str, mark: str) -> None:
    lines = [["Age", "Door to imaging", "Note"], ["70", "0:31", f"a{delimiter}b"]]
    text = csv_bytes(lines, delimiter).decode().replace("\r\n", end)
    ((_, found),) = sheets_from_table((mark + text).encode(), path="table.csv")
    assert [list(row) for row in found] == lines


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(TableError, match=r"x\.ods: is neither"):
        sheets_from_table(b"x", path="x.ods")


# --- any bytes (tests/fuzz.py goes on for longer) ---


@settings(max_examples=200)
@given(fuzz_tables.tables())
def test_any_table_is_read_or_refused(table: tuple[bytes, str]) -> None:
    fuzz_tables.check_table(table)


@settings(max_examples=200)
@given(fuzz_tables.cells)
@example([["column 0"], [" "], ["a"]])
def test_well_formed_csv_is_read_as_by_pandas(rows: list[list[str]]) -> None:
    fuzz_tables.check_csv(rows)
