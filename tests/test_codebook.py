"""The cohort for statisticians: categories, the codebook, CSV and Parquet, read back by others."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.cohorts.opening import cohort_tree
from isles24_zarr.store import StorePlace
from isles24_zarr.vocabulary import CLINICAL, IMAGES
from tests.damage import rewrite_table

if TYPE_CHECKING:
    from pathlib import Path

S = "sub-stroke0001"


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "isles24_zarr", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


def made_cohort(**columns: list[object]) -> xr.DataTree:
    count = len(next(iter(columns.values())))
    variables = {name: ("subject", np.array(values)) for name, values in columns.items()}
    variables = {
        name: (dims, each.astype(object) if each.dtype.kind == "U" else each)
        for name, (dims, each) in variables.items()
    }
    names = np.array([f"sub-stroke{number:04d}" for number in range(count)], dtype=object)
    return cohort_tree(xr.Dataset(variables, coords={"subject": names}), {}, StorePlace.of("/nowhere"))


def book_of(table: xr.Dataset, available: dict[str, list[bool]]) -> pd.DataFrame:
    table["available"] = (("subject", "image"), np.array(list(available.values())).T)
    table = table.assign_coords(image=np.array(list(available), dtype=object))
    book: pd.DataFrame = cohort_tree(table, {}, StorePlace.of("/nowhere")).isles.codebook
    return book


# --- categories ---


def test_categories_are_such_and_compare_as_texts_do() -> None:
    cohort = made_cohort(
        center=["B", "A", "", "B"], sex=["F", "M", "", "F"], mtici=["2b", "3", "", "0"], ward=["x", "", "y", "x"],
        age=[70.0, 60.0, 50.0, np.nan],
    )  # fmt: skip
    table = cohort.isles.table
    assert list(table["sex"].cat.categories) == ["M", "F"]
    assert list(table["center"].cat.categories) == ["A", "B"]
    assert list(table["mtici"].cat.categories) == ["0", "1", "2a", "2b", "2c", "3"]
    assert [table[name].cat.ordered for name in ("sex", "center", "mtici")] == [False, False, True]
    assert table["ward"].dtype == object
    assert table.isna().sum().tolist() == [1, 1, 1, 1, 1]
    names = table.index.to_list()
    for query, wanted in {
        "sex == 'F'": [0, 3], "sex != 'F'": [1, 2], "sex == 'X'": [], "mtici >= '2b'": [0, 1],
        "mtici in ['0', '3']": [1, 3], "center == 'B' and age > 60": [0], "sex.isna()": [2], "ward == 'x'": [0, 3],
        "center.str.startswith('A')": [1],
    }.items():  # fmt: skip
        chosen = cohort.isles.select(query)
        assert chosen.isles.subjects == [names[place] for place in wanted], query
    assert cohort.isles.select(table["sex"] == "F").isles.subjects == [names[0], names[3]]
    with pytest.raises(errors.UnknownNameError, match="is no query"):
        cohort.isles.select("sex > 'F'")


def test_categories_that_nobody_knows_are_kept() -> None:
    table = made_cohort(mtici=["2b", "four", "3"], sex=["F", "d", ""]).isles.table
    assert table["mtici"].tolist() == ["2b", "four", "3"]
    assert not table["mtici"].cat.ordered
    assert table["sex"].tolist()[:2] == ["F", "d"]


def test_parts_are_those_that_texts_gave() -> None:
    """Sorted by letters, as the parts of earlier versions were."""
    rng = np.random.default_rng(3)
    sexes = rng.choice(["M", "F", ""], 40).tolist()
    centers = rng.choice(["C 10", "C 2", "C 1"], 40).tolist()
    cohort = made_cohort(sex=sexes, center=centers)
    found = [fold.isles.subjects for _, fold in cohort.isles.folds(4, seed=5, by=["sex", "center"])]
    frame = (
        pd.DataFrame({"sex": sexes, "center": centers}, index=cohort.isles.subjects).replace({"": None}).astype(object)
    )
    again = np.random.default_rng(5)
    shuffled = frame.sort_index().iloc[again.permutation(len(frame))]
    ordered = shuffled.sort_values(["sex", "center"], kind="stable").index
    turns = (np.arange(len(frame)) + int(again.integers(4))) % 4
    assert found == [sorted(ordered[turns == turn]) for turn in range(4)]


# --- the codebook ---


def test_the_codebook_has_every_variable_and_image(cohort: xr.DataTree) -> None:
    book, table = cohort.isles.codebook, cohort.isles.table
    assert book.index.tolist() == [*table.columns, *IMAGES]
    assert book.index.name == "name"
    assert book.columns.tolist() == ["unit", "type", "range", "description", "missing", "categories"]
    for name in CLINICAL:
        assert book.loc[name, "missing"] == table[name].isna().sum()
        assert book.loc[name, "description"] == CLINICAL[name].long_name
    assert book.loc["age"].tolist()[:3] == ["years", "number", "0 to 120"]
    assert book.loc["nihss_24h"].tolist()[:3] == ["", "score", "0 to 42"]
    assert book.loc["sex", "categories"] == "M; F"
    assert book.loc["mtici", "categories"] == "0; 1; 2a; 2b; 2c; 3"
    available = cohort["phenotype"]["available"]
    for name in IMAGES:
        assert book.loc[name, "missing"] == int((~available.sel(image=name)).sum())
    assert book.loc["lesion_mask", ["type", "categories"]].tolist() == ["mask", "0 background; 1 infarct"]
    part = cohort.isles.select([S]).isles
    assert part.codebook["missing"].sum() == part.table.isna().sum(axis=None) + (~available.sel(subject=S)).sum()


def test_columns_that_nobody_knows_are_in_the_codebook() -> None:
    cohort = made_cohort(age=[70.0, 50.0], ward=["x", ""], lactate=[1.5, np.nan])
    table = cohort["phenotype"].to_dataset()
    table["lactate"].attrs |= {"units": "mmol/L", "long_name": "lactate", "description": "in blood"}
    table["ward"].attrs |= {"long_name": "ward", "dictionary_units": "floor"}
    book = book_of(table, {"ncct": [True, False]})
    assert book.loc["lactate"].tolist() == ["mmol/L", "number", "", "in blood", 1, ""]
    assert book.loc["ward", ["type", "missing"]].tolist() == ["text", 1]
    assert book.loc["ward", "unit"] == "floor"
    assert book.index.tolist() == ["age", "lactate", "ward", "ncct"]
    assert book.loc["ncct", "missing"] == 1


def test_images_beyond_the_twelve_are_in_the_codebook() -> None:
    images = {"ncct": [True, True], "flair": [True, False], "ses2_ncct": [True, True], "wmh_mask": [False, False]}
    book = book_of(made_cohort(age=[70.0, 50.0])["phenotype"].to_dataset(), images)
    assert book.index.tolist() == ["age", *images]
    assert book.loc[[*images], "type"].tolist() == ["image", "image", "image", "mask"]
    assert book.loc[[*images], "missing"].tolist() == [0, 1, 0, 2]
    assert book.loc["ses2_ncct", "unit"] == book.loc["ncct", "unit"] == "HU"


def test_categories_can_be_told_apart() -> None:
    """A name with a comma is one."""
    table = made_cohort(center=["Charité, Berlin", "TUM"])["phenotype"].to_dataset()
    assert book_of(table, {"ncct": [True, True]}).loc["center", "categories"].split("; ") == ["Charité, Berlin", "TUM"]


# --- files ---


def test_csv_is_what_pandas_and_the_csv_module_read(store: Path, cohort: xr.DataTree) -> None:
    text = run("info", store, "--csv")
    table = cohort.isles.table
    read = pd.read_csv(io.StringIO(text), index_col="subject", dtype={"mtici": str})
    pd.testing.assert_frame_equal(
        read.astype(object).where(read.notna(), None),
        table.astype(object).where(table.notna(), None),
        check_dtype=False,
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["subject"] for row in rows] == cohort.isles.subjects
    for row in rows:
        for name, variable in CLINICAL.items():
            missing = pd.isna(table.loc[row["subject"], name])
            assert (row[name] == "") == missing
            if variable.kind in ("score", "flag") and not missing:
                assert row[name].isdigit(), (name, row[name])
    assert "\r" not in text


def test_parquet_has_types(store: Path, cohort: xr.DataTree, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert "3 rows" in run("info", store, "--parquet", tmp_path / "table.parquet")
    schema = pq.read_schema(tmp_path / "table.parquet")
    assert schema.names == ["subject", *cohort.isles.table.columns]
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert (types["age"], types["nihss_24h"], types["diabetes"]) == ("double", "int64", "int64")
    assert types["mtici"].startswith("dictionary")
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    for row in rows:
        known = cohort.isles.table.loc[row["subject"]]
        assert {name: value for name, value in row.items() if value is not None} == {
            "subject": row["subject"], **known.dropna().to_dict(),
        }  # fmt: skip
    assert "is one subject" in run("info", store, S, "--csv", code=2)
    assert "cannot be written" in run("info", store, "--parquet", tmp_path / "no" / "table.parquet", code=2)


def test_a_codebook_to_read_and_for_programs(store: Path, cohort: xr.DataTree) -> None:
    assert "blood glucose at admission" in run("info", store, "--codebook")
    read = pd.read_csv(io.StringIO(run("info", store, "--codebook", "--csv")), index_col="name", keep_default_na=False)
    pd.testing.assert_frame_equal(read, cohort.isles.codebook, check_dtype=False, check_index_type=False)
    assert json.loads(run("info", store, "--codebook", "--json"))["rows"][1]["unit"] == "years"


def test_csv_holds_no_formulas(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    rewrite_table(copy, {"center": "=1+1"})
    assert {row["center"] for row in csv.DictReader(io.StringIO(run("info", copy, "--csv")))} == {"'=1+1"}


def test_no_column_of_a_hospital_is_taken_for_ours(capsys: pytest.CaptureFixture[str]) -> None:
    from isles24_zarr.cli._tables import give_table

    cohort = made_cohort(range=["=1+1", "", "3 to 4"], center=["A", "-1", "@x"], age=[70.5, np.nan, -1.0])
    give_table(cohort, codebook=False, csv=True, parquet=None, as_json=False)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["range"] for row in rows] == ["'=1+1", "", "3 to 4"]
    assert [row["center"] for row in rows] == ["A", "-1", "'@x"]
    assert [row["age"] for row in rows] == ["70.5", "", "-1.0"]


def test_json_has_all_digits(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    value = 72.1234567890123456
    rewrite_table(copy, {"glucose": value, "age": None})
    rows = json.loads(run("info", copy, "--json"))["subjects"]
    assert {(row["glucose"], row["age"]) for row in rows} == {(value, None)}


def test_rows_for_json_are_those_of_the_table() -> None:
    from isles24_zarr.cli._rendering import plain_rows

    table = pd.DataFrame({
        "number": [1 / 3, np.nan, np.inf], "whole": pd.array([1, None, 2**60 + 1], "Int64"),
        "flag": [True, False, True], "text": ["a", None, "c"], "grade": pd.Categorical(["2b", None, "3"]),
    })  # fmt: skip
    assert json.loads(json.dumps(plain_rows(table), allow_nan=False)) == [
        {"number": 1 / 3, "whole": 1, "flag": True, "text": "a", "grade": "2b"},
        {"number": None, "whole": None, "flag": False, "text": None, "grade": None},
        {"number": None, "whole": 2**60 + 1, "flag": True, "text": "c", "grade": "3"},
    ]


def test_halves_of_scores_stay() -> None:
    from isles24_zarr.cohorts import portable_table

    table = portable_table(made_cohort(nihss_24h=[1.5, np.nan], mrs_24h=[2.0, np.nan]))
    assert table["nihss_24h"].tolist()[0] == 1.5
    assert table["mrs_24h"].dtype == "Int64"


# --- what to open instead ---


def test_a_part_of_a_store_says_what_to_open(store: Path) -> None:
    for part, words in {
        S: f"open_scan('{store}', '{S}', 'ncct') opens its scan, open_cohort('{store}') the cohort",
        f"{S}/space-ctp": f"open_scan('{store}', '{S}', 'ctp')",
        f"{S}/space-ctp/tmax": f"open_scan('{store}', '{S}', 'ctp')",
        "phenotype": f"is part of the store {store}: open_cohort('{store}') opens it",
        "phenotype/age": f"open_cohort('{store}')",
    }.items():
        for call in (isles24_zarr.open_cohort, lambda path: isles24_zarr.open_scan(path, S)):
            with pytest.raises(errors.PartOfStoreError) as raised:
                call(store / part)
            assert words in str(raised.value)
    for said in (f"open_scan('{store}', '{S}', 'ctp')", f"open_cohort('{store}')"):
        assert eval(said, {"open_scan": isles24_zarr.open_scan, "open_cohort": isles24_zarr.open_cohort}) is not None  # noqa: S307 - our own message
    with pytest.raises(errors.UnknownNameError, match="names are as 'sub-stroke0001'"):
        isles24_zarr.open_scan(store, "stroke0001")
    with pytest.raises(errors.UnknownNameError, match=r"take it out of a scan, as scan\['tmax'\]"):
        isles24_zarr.open_scan(store, S, "tmax")
