"""The right header, and the right row: else one clear error, never somebody else's values."""

from __future__ import annotations

import datetime as dt
import io
import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

import isles24_zarr
from isles24_zarr.clinical.phenotype import record_from_row
from isles24_zarr.clinical.rows import own_row, rows_from_table
from isles24_zarr.errors import TableError
from isles24_zarr.vocabulary import BASELINE, CLINICAL_VARIABLES
from tests.table_files import csv_bytes, xlsx

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

S = "sub-stroke0001"
Rows = list[list[Any]]


def row_of(data: bytes, path: str = "t.xlsx", subject: str = S) -> dict[str, Any]:
    return own_row(rows_from_table(data, path=path), path=path, subject=subject)


def of_csv(text: str) -> dict[str, Any]:
    return row_of(text.encode(), "t.csv")


# --- headers ---

GOOD: Rows = [["Age", "Sex", "NIHSS at admission"], [70, "M", 7]]
RIGHT = {"Age": 70, "Sex": "M", "NIHSS at admission": 7}


@pytest.mark.parametrize(
    "above",
    [[], [["Table 1: clinical data"]], [[""], ["Title"], [""]], [["Age"]], [["", "", "Title"], ["Subtitle"]]],
)
def test_a_header_below_a_title(above: Rows) -> None:
    assert row_of(xlsx([*above, *GOOD])) == RIGHT
    wide = [[*row, "", "", ""][:3] for row in above]
    assert row_of(csv_bytes([*wide, *GOOD]), "t.csv") == {name: str(cell) for name, cell in RIGHT.items()}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["Demography", None, "Scores"], *GOOD], "more than a title above the headers in row 2"),
        ([["Patient", "1"], *GOOD], "more than a title"),
        ([["Age", "Sex", "NIHSS"], [None, None, "admission"], [70, "M", 7]], "2 rows, and no column"),
        ([["NIHSS", None, "mRS"], ["admission", "24h", "24h"], [7, 4, 3]], "no header of a clinical table"),
        ([*map(list, zip(*GOOD, strict=True))], "headers in several rows"),
        ([["Age", 70], ["Sex", "M"]], "headers in several rows"),
        ([["Age", 70]], "no row of data"),
        ([*GOOD, *GOOD], "headers in several rows"),
        ([["Animal"], ["horse"]], "no header of a clinical table"),
        ([[70, "M", 7]], "no header of a clinical table"),
        ([GOOD[1], GOOD[0]], "more than a title"),
    ],
)
def test_other_headers_are_refused(rows: Rows, words: str) -> None:
    for data, path in ((xlsx(rows), "t.xlsx"), (csv_bytes([(row + [""] * 9)[:9] for row in rows]), "t.csv")):
        with pytest.raises(TableError, match=words) as caught:
            row_of(data, path)
        assert str(caught.value).startswith(f"{path}: ")


def book(**sheets: tuple[str, Rows]) -> bytes:
    """A workbook of several sheets: by title their state and rows."""
    made = Workbook()
    del made[made.sheetnames[0]]
    for title, (state, rows) in sheets.items():
        sheet = made.create_sheet(title)
        sheet.sheet_state = state
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


OLD: Rows = [["Age", "Sex"], [17, "F"]]


def test_sheets() -> None:
    assert row_of(book(Notes=("visible", [["seen"], ["Age"], ["x"]][:1]), Data=("visible", GOOD))) == RIGHT
    for state in ("hidden", "veryHidden"):
        assert row_of(book(Old=(state, OLD), Data=("visible", GOOD))) == RIGHT
        with pytest.raises(TableError, match="no cell with content"):
            row_of(book(Old=(state, OLD), Data=("visible", [])))
    with pytest.raises(TableError, match="clinical tables in 2 sheets, 'Old', 'Data'"):
        row_of(book(Old=("visible", OLD), Data=("visible", GOOD)))


def test_merged_cells_of_a_header_are_no_header() -> None:
    made = load_workbook(io.BytesIO(xlsx([["NIHSS", None, "Age"], ["admission", "24h", None], [7, 4, 70]])))
    made.worksheets[0].merge_cells("A1:B1")
    made.worksheets[0].merge_cells("C1:C2")
    file = io.BytesIO()
    made.save(file)
    with pytest.raises(TableError, match="2 rows, and no column"):
        row_of(file.getvalue())


# --- separators ---


@pytest.mark.parametrize("line", ["sep=;\r\n", "SEP=;\n", '"sep=;"\n', "sep=;;\n", "\ufeffsep=;\n"])
def test_the_separator_line_of_excel(line: str) -> None:
    assert of_csv(f"{line}Age;Sex\n70;M\n") == {"Age": "70", "Sex": "M"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Glucose, mg/dl;Age\n120;70\n", {"Glucose, mg/dl": "120", "Age": "70"}),
        ('"Glucose, mg/dl";Age\n"120,5";70\n', {"Glucose, mg/dl": "120,5", "Age": "70"}),
        ('Age,"dose; mg"\n70,"5; 6"\n', {"Age": "70", "dose; mg": "5; 6"}),
        ("Age,Sex,\n70,M,\n", {"Age": "70", "Sex": "M"}),
        (",Age,Sex\n0,70,M\n", {"column 1": "0", "Age": "70", "Sex": "M"}),
        ('Age,Note\n70,"a\r\nb"\n', {"Age": "70", "Note": "a\r\nb"}),
    ],
)
def test_separators_within_cells(text: str, wanted: dict[str, str]) -> None:
    assert of_csv(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Glucose, mg/dl;Age\n120,5;70\n", "in several ways"),
        ("Age,CRP,\n70,1,5\n", "a row of 3 cells under a header of 2"),
        ("Title\nAge;Sex\n70;M\n", "no header of a clinical table"),
        ("Title\nAge,Sex\n70,M\n", "a row of 2 cells under a header of 1"),
        ("sep=x\nAge;Sex\n70;M\n", "no header of a clinical table"),
    ],
)
def test_separators_in_doubt_are_refused(text: str, words: str) -> None:
    with pytest.raises(TableError, match=words):
        of_csv(text)


def test_units_of_headers() -> None:
    def names(*headers: str) -> list[str]:
        row = dict.fromkeys(headers)
        return list(record_from_row(row, table=BASELINE, path="t", subject=S).values)

    assert names("Glucose [mg/dl]", "Age (years)", "Leucocytes (G/l)", "Door to groin [hrs:min]") == [
        "glucose", "age", "leucocytes", "door_to_groin"
    ]  # fmt: skip
    assert names("Glucose [mmol/l]", "Door to groin [min]") == ["glucose_mmol_l", "door_to_groin_min"]


# --- rows ---


@pytest.mark.parametrize("header", ["participant_id", "Subject", "Subject ID", "ID", "Patient", "patient-id", "case"])
@pytest.mark.parametrize("own", ["sub-stroke0001", "stroke0001", "SUB-Stroke0001 "])
def test_the_row_of_the_subject(header: str, own: str) -> None:
    rows = [["Age", header], [1, "sub-stroke0002"], [70, own], [3, "Total"]]
    assert row_of(xlsx(rows)) == {"Age": 70}
    assert row_of(xlsx([rows[0], rows[2]])) == {"Age": 70}
    assert row_of(xlsx([rows[0], [2, None]])) == {"Age": 2}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["Age"], [70], [71]], "has 2 rows, and no column that says whose they are"),
        ([["Age"], [70], [""], [71]], "has 2 rows"),
        ([["Age", "Sex"], [70, "M"], ["Total", None]], "has 2 rows"),
        ([["Age", "id"], [70, "sub-stroke0002"]], "of 'sub-stroke0002', not of sub-stroke0001"),
        ([["Age", "id"], [70, "stroke0011"]], "of 'stroke0011', not"),
        ([["Age", "id"], [70, 1]], "of '1', not"),
        ([["Age", "id"], [70, 1], [71, 2]], "has 2 rows, none of them of sub-stroke0001"),
        ([["Age", "id"], [70, S], [71, "stroke0001"]], "has 2 rows, 2 of them of sub-stroke0001"),
        ([["Age", "id"], [70, None], [71, "stroke0002"]], "has 2 rows, none"),
        ([["Age", "id"], [70, S], [71, None]], "has a row that does not say whose it is, with 71"),
        ([["id", "Age", "Sex"], [S, 70, None], ["stroke0002", 60, "F"], [None, None, "M"]], "whose it is, with 'M'"),
        ([["Age", "id", "patient"], [70, S, "sub-stroke0002"]], "not of sub-stroke0001"),
    ],
)
def test_rows_of_others_are_refused(rows: Rows, words: str) -> None:
    with pytest.raises(TableError, match=words):
        row_of(xlsx(rows))


def test_notes_below_a_table_are_no_rows() -> None:
    rows = [["id", "Age", "Seen by"], [S, 70, "A"], ["* of the relatives"], [], [None, None, "A, B: physicians"]]
    assert row_of(xlsx(rows)) == {"Age": 70, "Seen by": "A"}


def test_an_index_that_pandas_merged_is_refused() -> None:
    index = pd.MultiIndex.from_tuples([(S, "form 1"), (S, "form 2")], names=["participant_id", "form"])
    file = io.BytesIO()
    pd.DataFrame({"Age": [70, None], "NIHSS at admission": [None, 12]}, index=index).to_excel(file)
    with pytest.raises(TableError, match="does not say whose it is, with 12"):
        row_of(file.getvalue())


def merged(rows: Rows, *ranges: str) -> bytes:
    made = load_workbook(io.BytesIO(xlsx(rows)))
    for cells in ranges:
        made.worksheets[0].merge_cells(cells)
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rows", "ranges", "lost"),
    [
        ([["mRS at admission", "mRS premorbid"], [3]], ["A2:B2"], {"mrs_premorbid": "A2:B2"}),
        ([["Age", "ward", "bed"], [70, "x"]], ["B2:C2"], {"bed": "B2:C2"}),
        ([["id", "Age", "Sex"], ["sub-stroke0002", 60, "M"], [S, 70]], ["C2:C3"], {"sex": "C2:C3"}),
        ([["Age", "Sex"], [70, "M"]], ["A1:A2"], {"age": "A1:A2"}),
        ([["Age", "Sex"], [70]], ["B2:C3"], {}),  # which are empty
        ([["Table 1"], ["Age", "Sex"], [70, "M"]], ["A1:B1"], {}),
        ([["id", "Age", "Sex"], [S, 70, "M"], ["a note"]], ["A3:C4"], {}),
        ([["Age", "Sex"], [70, "M"]], ["A2:A3", "B2:B3"], {}),
    ],
)
def test_values_of_merged_cells_are_reported(rows: Rows, ranges: list[str], lost: dict[str, str]) -> None:
    row = row_of(merged(rows, *ranges))
    found = record_from_row(row, table=BASELINE, path="t", subject=S)
    assert {problem.severity for problem in found.problems} <= {"notice", "error"}
    assert [p.message for p in found.problems if p.severity == "error"] == [
        f"its column '{next(header for header in row if header.casefold().replace(' ', '_') == name)}' holds merged "
        f"cells {cells}, which is one value for all of them; it counts as missing until the cell is corrected"
        for name, cells in lost.items()
    ]
    assert found.unread == {name: f"merged cells {cells}" for name, cells in lost.items()}
    assert all(found.values[name] is None for name in lost)


def test_the_id_of_a_hospital_beside_the_subjects_own_is_kept() -> None:
    assert row_of(xlsx([["Age", "participant_id", "ID"], [70, S, 4711]])) == {"Age": 70, "ID": 4711}


ids = st.integers(1, 12).map(lambda number: f"sub-stroke{number:04d}")


@given(st.lists(st.tuples(ids, st.integers(18, 99)), min_size=1, max_size=8), ids)
def test_a_value_is_never_one_of_another_subject(people: list[tuple[str, int]], subject: str) -> None:
    data = xlsx([["participant_id", "Age"], *people])
    frame = pd.read_excel(io.BytesIO(data))
    ages = frame.loc[frame["participant_id"] == subject, "Age"].tolist()
    if len(ages) == 1:
        assert row_of(data, subject=subject) == {"Age": ages[0]}
    else:
        with pytest.raises(TableError):
            row_of(data, subject=subject)


def test_tables_of_others_in_a_release(client: Client, tmp_path: Path) -> None:
    release = isles24_zarr.synthesize(tmp_path / "train", subjects=1, scale="tiny")
    folder = release / f"phenotype/{S}/ses-01"
    regular = folder / f"{S}_ses-01_demographic_baseline.xlsx"
    regular.write_bytes(xlsx([["Age", "mRS premorbid"], [70, 99]]))
    (folder / f"Copy of {regular.name}").write_bytes(xlsx([["Age", "Sex"], [17, "F"]]))
    (folder / f"._{regular.name}").write_bytes(bytes(100))
    (release / f"phenotype/{S}/ses-02/{S}_ses-02_outcome.xlsx").write_bytes(
        xlsx([["subject", "mRS 3 months"], ["sub-stroke0002", 1]])
    )
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    found = [(p.severity, p.path.rsplit("/", 1)[1]) for p in report.problems if p.path.startswith("phenotype")]
    assert sorted(found) == [
        ("error", f"{S}_ses-01_demographic_baseline.xlsx"),
        ("error", f"{S}_ses-02_outcome.xlsx"),
        ("notice", f"._{regular.name}"),
        ("notice", f"Copy of {regular.name}"),
    ]
    table = isles24_zarr.open_cohort(tmp_path / "x.zarr").isles.table
    assert table.loc[S].dropna().to_dict() == {"age": 70.0}
    attributes = isles24_zarr.open_cohort(tmp_path / "x.zarr").attrs
    assert attributes["state"] == "complete"


# --- any cell in any column ---

NUMBERS = st.integers(-1000, 2000) | st.floats(allow_nan=False, allow_infinity=False, width=32) | st.floats(-50, 1000)
ODD = [
    "99",
    "-9",
    "999",
    "1,234",
    "70,5",
    "1.234,5",
    "1 234",
    ">400",
    "ca. 5",
    "120 mg/dl",
    "50%",
    "unknown",
    "NA",
    "?",
]
ODD += ["1:30", "25:00", "0:75", "2021-03-05 14:30", "14:30:00", "-0:10", "1 day, 2:00:00", "M", "female", "2b", "3.0"]
ODD += ["#DIV/0!", "#N/A", "True", "no", "٣", "1e2", "0x10", "1_0", "inf", "-", "''1", "'=1"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"))
NAIVE = st.datetimes(dt.datetime(1899, 12, 31), dt.datetime(2030, 1, 1))  # noqa: DTZ001
CELLS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | NUMBERS.map(str)
    | st.sampled_from(ODD)
    | TEXTS.filter(lambda text: not text.startswith("="))  # openpyxl writes it as a formula
    | st.times()
    | st.timedeltas(dt.timedelta(days=-40), dt.timedelta(days=40))
    | NAIVE
)


def header_with(variable: Any) -> list[str]:
    """A header of so many columns that a cell that is called like one makes no second header."""
    return [variable.column, "participant_id", *({"PAIs", "Referral", "Wake-up"} - {variable.column})]


def minutes_of(cell: Any) -> float | None:
    """A length of time by the arithmetic of datetime and pandas."""
    if isinstance(cell, dt.timedelta):
        return cell / dt.timedelta(minutes=1)
    if isinstance(cell, dt.time):
        return cell.hour * 60 + cell.minute + (cell.second + cell.microsecond / 1e6) / 60
    if isinstance(cell, dt.datetime):
        # Excel has a 29th of February 1900
        return (cell - dt.datetime(1899, 12, 31 if cell >= dt.datetime(1900, 1, 1) else 30)) / dt.timedelta(minutes=1)  # noqa: DTZ001
    if isinstance(cell, str) and ":" in cell:
        return pd.Timedelta(cell + ":00" * (2 - cell.count(":"))) / pd.Timedelta(minutes=1)
    return float(str(cell).replace(",", ".")) * 1440


def check_value(value: Any, seen: Any, variable: Any) -> None:
    """Compare a value with what a reader of the file has seen."""
    text = str(seen).strip()
    if variable.limits:
        assert variable.limits[0] <= value <= variable.limits[1]
    if variable.categories:
        assert value in variable.categories
        assert value.lower() in (text.lower()[:1], "".join(text.lower().split()).removesuffix(".0"))
    elif variable.kind == "category":
        # openpyxl writes 16 digits, so that what is larger is a rounded number with an exponent
        whole = not isinstance(seen, str) and float(seen).is_integer() and abs(seen) <= 2**53
        # and pandas writes whole numbers with a gap as 1.0
        floating = re.fullmatch(r"(0|-?[1-9]\d{0,14})\.0", text, re.ASCII)
        assert value == (str(int(float(text))) if whole or floating else text)
    elif variable.kind == "duration":
        assert value == pytest.approx(minutes_of(seen.strip() if isinstance(seen, str) else seen), abs=1e-3)
        assert not isinstance(seen, int | float) or abs(seen) < 1
    elif variable.kind == "flag" and text.lower() in ("true", "false", "yes", "no"):
        assert value == (text.lower() in ("true", "yes"))
    else:
        assert not isinstance(seen, bool)
        assert value == float(text.replace(",", "."))
        assert ("," not in text) or len(text.split(",")[1]) != 3 or text.startswith("0,")


def check_cell(data: bytes, path: str, seen: Any, variable: Any) -> None:
    record = record_from_row(row_of(data, path), table=variable.table, path=path, subject=S)
    value = record.values[variable.name]
    assert record.values.keys() == {variable.name, "pais", "referral", "wake_up"}
    if value is not None:
        assert (record.unread, [p for p in record.problems if p.severity == "error"]) == ({}, [])
        check_value(value, seen, variable)
    elif str("" if seen is None else seen).strip().lower() not in ("", "nan", "n/a", "na", "-", "#n/a"):
        assert [problem for problem in record.problems if f"{variable.column!r} holds" in problem.message]
        assert all(problem.path == path for problem in record.problems)
        known_missing = str(seen).strip().lower() in ("unknown", "missing", "null", "<na>")
        assert record.unread == ({} if known_missing else {variable.name: str(seen)})


@example(next(v for v in CLINICAL_VARIABLES if v.name == "center"), 2.0**53, False)
@example(next(v for v in CLINICAL_VARIABLES if v.name == "center"), 1e20, False)
@given(st.sampled_from(CLINICAL_VARIABLES), CELLS, st.booleans())
def test_any_cell_of_a_workbook_is_right_or_reported(variable: Any, cell: Any, macintosh: bool) -> None:
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    made = Workbook()
    if macintosh:
        made.epoch = CALENDAR_MAC_1904
    sheet = made.worksheets[0]
    sheet.append(header_with(variable))
    sheet.append([cell, S])
    file = io.BytesIO()
    made.save(file)
    seen = load_workbook(io.BytesIO(file.getvalue()), data_only=True).worksheets[0]["A2"].value
    check_cell(file.getvalue(), "t.xlsx", seen, variable)


@given(st.sampled_from(CLINICAL_VARIABLES), CELLS, st.sampled_from(",;\t|"))
def test_any_cell_of_csv_is_right_or_reported(variable: Any, cell: Any, delimiter: str) -> None:
    data = csv_bytes([header_with(variable), [cell, S, *[""] * (len(header_with(variable)) - 2)]], delimiter)
    options: dict[str, Any] = {"keep_default_na": False, "dtype": str, "sep": delimiter}
    seen = pd.read_csv(io.BytesIO(data), **options).iloc[0, 0]
    guarded = seen.startswith("'") and seen[1:].lstrip("'").strip()[:1] in {*"=@+-"}
    check_cell(data, "t.csv", seen[1:] if guarded and seen != "''1" else seen, variable)
