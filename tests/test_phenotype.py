"""Clinical cells of every kind, against datetime arithmetic, openpyxl and pandas."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr.clinical.phenotype import (
    ClinicalRecord,
    DictionaryEntry,
    cohort_table,
    dictionary_from_table,
    merged_record,
    record_from_row,
)
from isles24_zarr.clinical.rows import rows_from_table
from isles24_zarr.clinical.tables import text_from_cell
from isles24_zarr.errors import TableError
from isles24_zarr.vocabulary import BASELINE, CLINICAL, CLINICAL_VARIABLES, IMAGES, OUTCOME
from tests.table_files import csv_bytes, xlsx

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client


def record(row: dict[str, Any], table: str = BASELINE) -> ClinicalRecord:
    return record_from_row(row, table=table, path="table.xlsx", subject="sub-x")


def record_of(data: bytes, path: str = "table.xlsx") -> ClinicalRecord:
    return record_from_row(rows_from_table(data, path=path)[0], table=BASELINE, path="t", subject="sub-x")


def severities(found: ClinicalRecord) -> list[str]:
    return [problem.severity for problem in found.problems]


# --- cells ---


@pytest.mark.parametrize(
    ("header", "cell", "value", "severity"),
    [
        ("Age", 70, 70.0, None),
        ("Age", 70.5, 70.5, None),
        ("Age", " 70,5 ", 70.5, None),
        ("Age", "7e1", 70.0, None),
        ("Age", "seventy", None, "error"),
        ("Age", True, None, "error"),
        ("Age", "#DIV/0!", None, "error"),
        ("Age", "inf", None, "error"),
        ("Age", 10**400, None, "error"),
        ("Age", dt.datetime(2020, 1, 1), None, "error"),  # noqa: DTZ001 - Excel has no time zones
        ("Age", 120, 120.0, None),
        ("Age", 121, None, "error"),
        ("Age", -1, None, "error"),
        ("Age", 1950, None, "error"),
        ("Age", "70 years", None, "error"),
        ("Age", "1,234", None, "error"),
        ("Age", "70,500", None, "error"),
        ("INR", "0,123", None, "error"),
        ("INR", "1,1234", 1.1234, None),
        ("INR", "1.234", 1.234, None),
        ("INR", "1.234,5", None, "error"),
        ("INR", "1 234", None, "error"),
        ("Glucose", 999, None, "error"),
        ("Glucose", 5.5, None, "error"),  # mmol/L
        ("Glucose", "120 mg/dl", None, "error"),
        ("Glucose", ">400", None, "error"),
        ("Glucose", "ca. 120", None, "error"),
        ("Glucose", "Unknown", None, "notice"),
        ("Leucocytes", 8700, None, "error"),
        ("CRP", 0, 0.0, None),
        ("CRP", "<0.1", None, "error"),
        ("CRP", 999, None, "error"),
        ("INR", 99, None, "error"),
        ("INR", False, None, "error"),
        ("NIHSS at admission", 42, 42, None),
        ("NIHSS at admission", 43, None, "error"),
        ("NIHSS at admission", 999, None, "error"),
        ("NIHSS at admission", -1, None, "error"),
        ("NIHSS at admission", True, None, "error"),
        ("mRS premorbid", 6, 6, None),
        ("mRS premorbid", 9, None, "error"),
        ("mRS premorbid", 99, None, "error"),
        ("mRS premorbid", -9, None, "error"),
        ("mRS premorbid", "3-4", None, "error"),
        ("NIHSS at admission", 7.0, 7, None),
        ("NIHSS at admission", "7", 7, None),
        ("NIHSS at admission", 0, 0, None),
        ("NIHSS at admission", 7.5, None, "error"),
        ("Sex", "M", "M", None),
        ("Sex", "f", "F", "notice"),
        ("Sex", "Female ", "F", "notice"),
        ("Sex", "x", None, "error"),
        ("Sex", 1, None, "error"),
        ("Hyperlipidemia", 0.0, 0, None),
        ("Hyperlipidemia", True, 1, None),
        ("Hyperlipidemia", "No", 0, None),
        ("Hyperlipidemia", 2, None, "notice"),
        ("Hyperlipidemia", 0.5, None, "error"),
        ("Hyperlipidemia", 99, None, "notice"),
        ("Hyperlipidemia", "x", None, "error"),
        ("TICI postinterventional", 3, "3", None),
        ("TICI postinterventional", 3.0, "3", None),
        ("TICI postinterventional", "2B", "2b", None),
        ("TICI postinterventional", "2 c", "2c", None),
        ("TICI postinterventional", "4", None, "error"),
        ("TICI postinterventional", "3.0", "3", None),
        ("TICI postinterventional", 2, None, "error"),
        ("TICI postinterventional", "2b/3", None, "error"),
        ("TICI postinterventional", "#REF!", None, "error"),
        ("Center", 1.0, "1", None),
        ("Center", " A ", "A", None),
        ("Center", 1.5, "1.5", None),
        ("Center", "1.0", "1", None),  # of pandas, where another subject has none
        ("Center", "10.05", "10.05", None),
        ("Center", "007.0", "007.0", None),
        ("Center", "12345678901234567.0", "12345678901234567.0", None),
        ("Center", "missing", None, "notice"),
        ("Center", True, None, "error"),
        ("Door to groin", True, None, "error"),
        ("Door to groin", "1:75", None, "error"),
        ("Door to groin", "-0:05", -5.0, "notice"),
        ("Door to groin", 32, None, "error"),
        ("Door to groin", 2, None, "error"),  # days, hours or minutes
        ("Door to groin", 1.5, None, "error"),
        ("Door to groin", "90", None, "error"),
        ("Door to groin", "120 min", None, "error"),
        ("Door to groin", "2:30 PM", None, "error"),
        ("Door to groin", "2021-03-05 14:30", None, "error"),
        ("Door to groin", dt.datetime(2021, 3, 5, 14, 30), None, "error"),  # noqa: DTZ001
        ("Door to groin", dt.datetime(1904, 1, 2, 12), None, "error"),  # noqa: DTZ001 - as of a Macintosh workbook
        ("Door to groin", dt.datetime(1900, 1, 20), 28_800.0, "notice"),  # noqa: DTZ001
        ("Door to groin", "800:00", None, "error"),
        ("Door to groin", "1 day, 0:30:00", 1470.0, None),
        ("Door to groin", "0 days 00:30:00", 30.0, None),
        ("Door to groin", "0:30:30", 30.5, None),
        ("Door to groin", 0.75, 1080.0, "notice"),  # or three quarters of an hour
        ("Door to groin", "0.45", 648.0, "notice"),
        ("Door to groin", 0.33, 475.2, "notice"),
        ("Door to groin", 0.1234, 177.696, "notice"),
        ("Door to groin", 172 / 1440, 172.0, None),
        ("Door to groin", 54 / 1440, 54.0, None),
        ("Door to groin", "0,5", 720.0, "notice"),
        ("Door to groin", -0.5, -720.0, "notice"),
        ("Door to groin", 0, 0.0, None),
        ("Door to groin", dt.time(18), 1080.0, None),
    ],
)
def test_cells(header: str, cell: Any, value: Any, severity: str | None) -> None:
    table = OUTCOME if header.startswith("TICI") else BASELINE
    found = record({header: cell}, table)
    ((_, got),) = found.values.items()
    assert (got, type(got)) == (value, type(value))
    assert severities(found) == ([severity] if severity else [])
    is_unread = value is None and text_from_cell(cell).lower() not in ("unknown", "missing")
    assert list(found.unread.values()) == ([str(cell)] if is_unread else [])
    assert all("table.xlsx" in str(problem) and header in problem.message for problem in found.problems)


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan"), "NaN", "n/a", "NA", "-", "#N/A"])
@pytest.mark.parametrize("variable", CLINICAL_VARIABLES, ids=lambda variable: variable.name)
def test_empty_cells_are_missing(variable: Any, cell: Any) -> None:
    found = record({variable.column: cell}, variable.table)
    assert (found.values, found.unread, found.problems) == ({variable.name: None}, {}, ())


def written(minutes: int) -> dict[str, Any]:
    """A duration in the ways in which spreadsheets hold it."""
    length = dt.timedelta(minutes=minutes)
    ways = {
        "text": f"{minutes // 60}:{minutes % 60:02d}",
        "timedelta": length,
        # serial day 1 is the first of January 1900
        "datetime": dt.datetime(1899, 12, 31) + length,  # noqa: DTZ001 - Excel has no time zones
    }
    if minutes < 1440:
        ways["fraction"] = minutes / 1440
        ways["time"] = dt.time(*divmod(minutes, 60))
        ways["datetime"] = dt.datetime(1899, 12, 30) + length  # noqa: DTZ001
    return ways


@given(st.integers(0, 31 * 1440))
def test_durations_are_minutes_however_written(minutes: int) -> None:
    for way, cell in written(minutes).items():
        assert record({"Door to groin": cell}).values == {"door_to_groin": minutes}, way


@given(st.integers(0, 31 * 1440))
def test_durations_through_a_workbook(minutes: int) -> None:
    ways = {way: cell for way, cell in written(minutes).items() if way != "datetime"}
    for way, cell in ways.items():
        data = xlsx([["Door to groin"], [cell]], formats={"A2": "[h]:mm"} if way == "timedelta" else None)
        assert record_of(data).values == {"door_to_groin": minutes}, way


# --- headers ---

SPELLINGS = [
    (spelling, variable.name)
    for variable in CLINICAL_VARIABLES
    for name in (variable.name, variable.column, *variable.aliases)
    for spelling in (name, name.upper(), name.lower(), f" {name.replace(' ', '_')} ", name.replace(" ", "\n"))
]
SPELLINGS += [
    ("MRS 3 months", "mrs_3month"),
    ("MRS discharge", "mrs_discharge"),
    ("mTici postinterventional", "mtici"),
    ("Statins", "lipid_lowering_drugs"),
]


@pytest.mark.parametrize(("header", "name"), SPELLINGS)
def test_names_of_known_columns(header: str, name: str) -> None:
    found = record({header: None}, CLINICAL[name].table)
    assert (list(found.values), found.problems) == ([name], ())


@pytest.mark.parametrize(
    ("header", "name", "cell", "value"),
    [
        ("Heart rate (bpm)", "heart_rate_bpm", 71.0, 71),
        ("TNK/rtPA", "tnk_rtpa", "tPA", "tPA"),
        ("Größe", "grösse", "1,75", 1.75),
        ("24h CT", "column_24h_ct", True, 1),
        ("subject", "column_subject", "007", "007"),
        ("ID", "id", "1234567890123456789", "1234567890123456789"),
        ("Date", "date", dt.datetime(2020, 1, 2), "2020-01-02 00:00:00"),  # noqa: DTZ001
        ("x" * 5000, "x" * 60, 1.5, 1.5),
    ],
)
def test_unknown_columns_are_kept(header: str, name: str, cell: Any, value: Any) -> None:
    found = record({header: cell})
    assert found.values == {name: value}
    assert severities(found) == ["notice"]
    json.dumps(dict(found.values))


def test_a_column_of_the_other_table_is_used() -> None:
    found = record({"NIHSS 24h": 3})
    assert (found.values, severities(found)) == ({"nihss_24h": 3}, ["notice"])


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([["Age", "Age"], [None, 71]], {"age": 71.0}),
        ([["Age", "age "], [70, 70]], {"age": 70.0}),
        ([["Age", "age "], [70, 71]], {"age": None}),
        ([["Age", "age "], [70, "x"]], {"age": None}),
        ([["Age", None, "Sex"], [70, 3, "M"]], {"age": 70.0, "column_2": 3, "sex": "M"}),
        ([["Age"], [70, "more"]], {"age": 70.0, "column_2": "more"}),
        ([["Age", "Sex"], [70]], {"age": 70.0, "sex": None}),
        ([[], [], ["Age"], [], [70]], {"age": 70.0}),
        ([["Age"], []], {"age": None}),
    ],
)
def test_repeated_and_missing_headers(rows: list[list[Any]], wanted: dict[str, Any]) -> None:
    # append writes no row for an empty one
    padded = [row or [""] for row in rows]
    assert record_of(xlsx(padded)).values == wanted


@pytest.mark.parametrize(("rows", "words"), [([["Age"]], "no row of data"), ([[]], "no cell with content")])
def test_tables_without_data(rows: list[list[Any]], words: str) -> None:
    with pytest.raises(TableError, match=words):
        rows_from_table(xlsx(rows), path="table.xlsx")


ROW: dict[str, Any] = {"Age": 70.5, "Sex": "M", "PAIs": 1, "CRP": None, "Door to groin": "1:05", "Note": "é, ü", "n": 7}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_and_xlsx_give_the_same_record(delimiter: str) -> None:
    rows = [list(ROW), list(ROW.values())]
    ours = record_of(csv_bytes(rows, delimiter), "table.csv")
    theirs = record_of(xlsx(rows))
    assert ours == theirs
    assert ours.values == {
        "age": 70.5, "sex": "M", "pais": 1, "crp": None, "door_to_groin": 65.0, "note": "é, ü", "n": 7
    }  # fmt: skip
    frame = pd.read_excel(io.BytesIO(xlsx(rows)))
    assert frame.loc[0, "Age"] == ours.values["age"]


# --- the dictionary ---


def test_the_dictionary_below_its_title() -> None:
    rows = [["Suppl. Tab. 1: clinical data"], [""], ["Timepoint", "Parameter", "Unit", "Data type", "Description"]]
    rows += [["Baseline", "Statins", None, "0/1", "drugs"], ["Baseline", "Glucose", "mg/dl", "float", None]]
    rows += [[None, None, "lost"], ["Outcome", "glucose", "g", None, "again"]]
    found = dictionary_from_table(xlsx(rows, title="Suppl. Tab. 1"), path="d.xlsx")
    assert found == {
        "lipid_lowering_drugs": DictionaryEntry(units=None, description="drugs"),
        "glucose": DictionaryEntry(units="mg/dl", description=None),
    }
    with pytest.raises(TableError, match="Parameter and Description"):
        dictionary_from_table(xlsx(rows[:2]), path="d.xlsx")


# --- all together ---


def test_merged_records() -> None:
    tables = [{"Age": "x", "Sex": "M", "INR": None}, {"Age": 70, "Sex": "F", "INR": 1.1}, {"CRP": "?"}]
    found = merged_record([record(row) for row in tables])
    assert found.values == {"age": 70.0, "sex": "M", "inr": 1.1, "crp": None}
    assert found.unread == {"crp": "?"}
    assert severities(found) == ["error", "notice", "error"]
    assert "says that sex is 'F'" in found.problems[1].message
    assert merged_record([]).values == {}


def test_the_cohort_table() -> None:
    records = {
        "sub-a": record({"Age": 70, "Sex": "M", "Door to groin": "1:05", "note": 7, "dose": 5}),
        "sub-b": record({"Age": None, "Sex": None, "note": "few", "dose": None}),
    }
    entry = DictionaryEntry(units="hrs:min", description="from door to groin")
    table = cohort_table(["sub-b", "sub-a", "sub-c"], records, {"sub-a": ["ncct"]}, {"door_to_groin": entry})
    assert list(table.data_vars) == [*CLINICAL, "dose", "note", "available"]
    for name, variable in CLINICAL.items():
        assert table[name].dtype.kind == ("T" if variable.kind == "category" else "f")
        assert table[name].attrs["long_name"] == variable.long_name
        assert table[name].attrs.get("units") == variable.units
    np.testing.assert_array_equal(table["age"], [np.nan, 70, np.nan])
    np.testing.assert_array_equal(table["dose"], [np.nan, 5, np.nan])
    assert list(table["note"].values) == ["few", "7", ""]
    assert list(table["sex"].values) == ["", "M", ""]
    assert table["door_to_groin"].attrs["dictionary_units"] == "hrs:min"
    assert table["door_to_groin"].attrs["description"] == "from door to groin"
    assert [tuple(map(str, pair.values())) for pair in _true_labels(table["available"])] == [("sub-a", "ncct")]


def _true_labels(available: xr.DataArray) -> list[dict[str, Any]]:
    stacked = available.stack(pair=("subject", "image"))
    return [dict(zip(("subject", "image"), pair, strict=True)) for pair in stacked[stacked.values].pair.values]


def test_a_table_of_nobody(tmp_path: Path) -> None:
    table = cohort_table([], {}, {}, {})
    table.to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    read = xr.open_zarr(tmp_path / "x.zarr", consolidated=False)
    assert dict(read.sizes) == {"subject": 0, "image": len(IMAGES)}
    assert set(read.data_vars) == {*CLINICAL, "available"}


def test_malformed_tables_of_a_release(client: Client, tmp_path: Path) -> None:
    release = isles24_zarr.synthesize(tmp_path / "train", subjects=4, scale="tiny")
    names = sorted(folder.name for folder in (release / "phenotype").iterdir())
    paths = [release / f"phenotype/{name}/ses-01/{name}_ses-01_demographic_baseline.xlsx" for name in names]
    paths[0].write_bytes(paths[0].read_bytes()[:1000])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(xlsx([["Animal"], ["horse"]], title="Wrong"))
    paths[3].write_bytes(xlsx([["Age", "Sex"], [70, "F"]]))
    paths[3].with_suffix(".csv").write_bytes(csv_bytes([["Age", "Glucose"], [71, 120.5]]))
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    errors = {problem.path for problem in report.problems if problem.severity == "error"}
    assert errors == {path.relative_to(release).as_posix() for path in paths[:3]}
    table = xr.open_zarr(tmp_path / "x.zarr", group="phenotype", consolidated=False)
    assert table["subject"].values.tolist() == names
    assert table["available"].values.sum() == 4 * len(IMAGES)
    assert "animal" not in table
    np.testing.assert_array_equal(table["age"], [np.nan, np.nan, np.nan, 70])
    for number, name in enumerate(names):
        outcome = pd.read_excel(next((release / "phenotype" / name).rglob("*_outcome.xlsx"))).iloc[0]
        np.testing.assert_array_equal(table["mrs_3month"][number], outcome["mRS 3 months"])
        attributes = json.loads((tmp_path / "x.zarr" / name / "zarr.json").read_text())["attributes"]
        assert isinstance(attributes["mrs_3month"], int | None)
