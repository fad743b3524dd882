"""Clinical tables for tests: workbooks by openpyxl, and packages written part by part."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import TYPE_CHECKING, Any

from openpyxl import Workbook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"
SHEET_PART = "xl/worksheets/sheet1.xml"
SHEET_TAG = b'<sheet name="Sheet1" sheetId="1" r:id="rId1"/>'


def sheet_part(body: bytes) -> bytes:
    return f'<worksheet xmlns="{_MAIN}">'.encode() + body + b"</worksheet>"


TWO_ROWS = (
    b'<sheetData><row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><t>Sex</t></is></c></row>'
    b'<row r="2"><c r="A2"><v>70</v></c><c r="B2" t="inlineStr"><is><t>M</t></is></c></row></sheetData>'
)
PARTS: dict[str, bytes] = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{_TYPES}.sharedStrings+xml"/>'
        f'<Override PartName="/{SHEET_PART}" ContentType="{_TYPES}.worksheet+xml"/></Types>'
    ).encode(),
    "_rels/.rels": (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" '
        f'Type="{_RELATIONSHIPS}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ).encode(),
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONSHIPS}"><sheets>'.encode()
    + SHEET_TAG
    + b"</sheets></workbook>",
    "xl/_rels/workbook.xml.rels": (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" '
        f'Type="{_RELATIONSHIPS}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    ).encode(),
    "xl/sharedStrings.xml": f'<sst xmlns="{_MAIN}"><si><t>Age</t></si></sst>'.encode(),
    SHEET_PART: sheet_part(TWO_ROWS),
}
"""The parts of a workbook that holds Age 70 and Sex M."""


def packed(parts: Mapping[str, bytes | None], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A package of parts; those that are ``None`` are left out."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, part in parts.items():
            if part is not None:
                archive.writestr(name, part)
    return file.getvalue()


def parts_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_parts(**parts: bytes | None) -> bytes:
    """The good workbook with other parts: sheet, strings, book, or any by its name."""
    names = {"sheet": SHEET_PART, "strings": "xl/sharedStrings.xml", "book": "xl/workbook.xml"}
    return packed({**PARTS, **{names.get(name, name): part for name, part in parts.items()}})


def xlsx(rows: Sequence[Sequence[Any]], *, title: str = "Sheet1", formats: Mapping[str, str] | None = None) -> bytes:
    """A workbook of one sheet by openpyxl; `formats` are number formats by coordinate."""
    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = title
    for row in rows:
        sheet.append(list(row))
    for coordinate, number_format in (formats or {}).items():
        sheet[coordinate].number_format = number_format
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def csv_bytes(rows: Sequence[Sequence[Any]], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue().encode()
