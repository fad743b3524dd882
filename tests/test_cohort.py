"""Cohorts: the table against pandas, selecting and splitting, and functions of every subject on Dask."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import dask
import fsspec
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.cohorts import cohort_folds, split_cohort
from isles24_zarr.cohorts.opening import cohort_tree
from isles24_zarr.store.objects import StorePlace
from isles24_zarr.tasks.cluster import dask_client
from tests.damage import rewrite_table

if TYPE_CHECKING:
    from pathlib import Path

TABLE = {
    "age": "Age",
    "nihss_admission": "NIHSS at admission",
    "glucose": "Glucose",
    "hypertension": "Hypertension",
    "mrs_premorbid": "mRS premorbid",
}


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


def test_the_cohort_is_one_node(cohort: xr.DataTree) -> None:
    assert [node.path for node in cohort.subtree] == ["/", "/phenotype"]
    assert cohort.attrs["format_version"] == 2
    assert "CC BY-NC-SA" in cohort.attrs["licence"]
    assert cohort.isles.subjects == ["sub-stroke0001", "sub-stroke0002", "sub-stroke0004"]


def test_opening_the_cohort_touches_no_subject(store: Path, reads: list[str]) -> None:
    isles24_zarr.open_cohort(store)
    assert reads
    assert not [key for key in reads if key.startswith("sub-")]


def test_the_table_is_what_pandas_reads(release: Path, cohort: xr.DataTree) -> None:
    for subject in cohort.isles.subjects:
        name = f"phenotype/{subject}/ses-01/{subject}_ses-01_demographic_baseline.xlsx"
        row = pd.read_excel(release / name).iloc[0]
        for ours, theirs in TABLE.items():
            assert cohort.isles.table.loc[subject, ours] == pytest.approx(row[theirs], nan_ok=True)


def test_the_clinical_values_are_attributes_of_the_subject(store: Path, cohort: xr.DataTree) -> None:
    for subject, row in cohort.isles.table.iterrows():
        attributes = zarr.open_group(store / str(subject), mode="r").attrs
        for name, value in row.items():
            assert attributes[name] == (None if pd.isna(value) else value)


def test_missing_is_missing(release: Path, cohort: xr.DataTree) -> None:
    names = {"nihss_24h": "NIHSS 24h", "mrs_24h": "mRS 24h", "nihss_discharge": "NIHSS discharge"}
    empty = []
    for subject in cohort.isles.subjects:
        row = pd.read_excel(release / f"phenotype/{subject}/ses-02/{subject}_ses-02_outcome.xlsx").iloc[0]
        for ours, theirs in names.items():
            assert pd.isna(cohort.isles.table.loc[subject, ours]) == pd.isna(row[theirs])
            empty.append(pd.isna(row[theirs]))
    assert 0 < sum(empty) < len(empty)
    assert set(cohort.isles.table["sex"].dropna()) <= {"M", "F"}


def test_select_by_query_and_by_mask(cohort: xr.DataTree) -> None:
    table = cohort.isles.table
    query = "nihss_admission > 8 and sex == 'F'"
    wanted = table[(table.nihss_admission > 8) & (table.sex == "F")].index.tolist()
    assert cohort.isles.select(query).isles.subjects == wanted
    assert cohort.isles.select(table.age > 200).isles.subjects == []
    chosen = cohort.isles.select((table.sex == "M").to_numpy())
    assert chosen.isles.subjects == table[table.sex == "M"].index.tolist()
    subject = chosen.isles.subjects[0]
    assert chosen.isles.scan(subject).attrs["subject"] == subject
    assert chosen["phenotype"]["available"].sel(subject=subject, image="ctp")


@pytest.mark.parametrize("which", ["no_such_column > 1", "age >", [True], np.array([1, 0, 1])])
def test_select_refuses_what_it_does_not_understand(cohort: xr.DataTree, which: Any) -> None:
    with pytest.raises(errors.UnknownNameError):
        cohort.isles.select(which)


def test_masks_with_names_are_aligned_by_them(cohort: xr.DataTree) -> None:
    table = cohort.isles.table
    old = table.age > 70
    wanted = table.index[old].tolist()
    assert 0 < len(wanted) < len(table)
    assert cohort.isles.select(old[::-1]).isles.subjects == wanted
    assert cohort.isles.select(old.astype("boolean").where(table.index != wanted[0])).isles.subjects == wanted[1:]
    assert cohort.isles.select(cohort["phenotype"]["age"] > 70).isles.subjects == wanted
    # of a part of the cohort, by a mask of the whole
    part = cohort.isles.select(f"subject == '{wanted[0]}'")
    assert part.isles.select(old).isles.subjects == wanted[:1]
    with pytest.raises(errors.UnknownNameError, match="is not among them"):
        cohort.isles.select(old[:1])
    with pytest.raises(errors.UnknownNameError, match="is not among them"):
        cohort.isles.select(old.reset_index(drop=True))
    with pytest.raises(errors.UnknownNameError, match="twice"):
        cohort.isles.select(pd.concat([old, old]))


def made_cohort(centers: list[Any], outcomes: list[Any]) -> xr.DataTree:
    """A cohort with a table and no store."""
    names = [f"sub-stroke{number:04d}" for number in range(len(centers))]
    table = xr.Dataset(
        {"center": ("subject", np.array(centers, dtype=object)), "mrs_3month": ("subject", np.array(outcomes, float))},
        coords={"subject": names},
    )
    return cohort_tree(table, {}, StorePlace(url="/nowhere", storage_options={}))


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", "C", ""]), st.sampled_from([0, 1, 6, np.nan])), min_size=2, max_size=60
    ),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
)
def test_every_stratum_is_shared_to_within_one_subject(
    people: list[tuple[str, float]], share: float, seed: int
) -> None:
    cohort = made_cohort([center for center, _ in people], [outcome for _, outcome in people])
    count = min(max(round(share * len(people)), 1), len(people))
    if count == len(people):
        with pytest.raises(errors.UnknownNameError, match="leaves nothing"):
            split_cohort(cohort, share, seed=seed)
        return
    train, test = split_cohort(cohort, share, seed=seed)
    assert sorted(train.isles.subjects + test.isles.subjects) == cohort.isles.subjects
    assert len(test.isles.subjects) == count
    table = cohort.isles.table.assign(test=lambda frame: frame.index.isin(test.isles.subjects))
    for columns in (["center"], ["center", "mrs_3month"]):
        for _, stratum in table.groupby(columns, dropna=False):
            assert abs(stratum.test.sum() - len(stratum) * count / len(people)) < 1


def test_a_split_depends_on_nothing_but_seed_and_values() -> None:
    rng = np.random.default_rng(0)
    cohort = made_cohort(rng.choice(["A", "B"], 40).tolist(), rng.integers(0, 7, 40).tolist())
    first = [part.isles.subjects for part in split_cohort(cohort, seed=1)]
    assert [part.isles.subjects for part in cohort.isles.train_test_split(seed=1)] == first
    turned = cohort_tree(cohort["phenotype"].to_dataset().isel(subject=slice(None, None, -1)), {}, StorePlace.of("/x"))
    assert [sorted(part.isles.subjects) for part in split_cohort(turned, seed=1)] == first
    assert split_cohort(cohort, seed=2)[1].isles.subjects != first[1]
    assert len(split_cohort(cohort, 5, by=())[1].isles.subjects) == 5
    assert {len(split_cohort(cohort, 8, seed=seed, by="center")[1].isles.subjects) for seed in range(5)} == {8}
    chosen = [set(split_cohort(cohort, seed=seed)[1].isles.subjects) for seed in range(60)]
    assert set.union(*chosen) == set(cohort.isles.subjects)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test_size": 0}, "leaves nothing"),
        ({"test_size": 3}, "leaves nothing"),
        ({"test_size": 1.5}, "1.5"),
        ({"by": ("ward",)}, "no column"),
    ],
)
def test_splits_that_cannot_be(cohort: xr.DataTree, options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.UnknownNameError, match=words):
        cohort.isles.train_test_split(**options)


# --- folds, and cohorts as containers ---


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", "C", ""]), st.sampled_from([0, 1, 6, np.nan])), min_size=2, max_size=60
    ),
    st.integers(2, 7),
    st.integers(0, 3),
)
def test_every_stratum_is_in_all_folds_alike(people: list[tuple[str, float]], k: int, seed: int) -> None:
    cohort = made_cohort([center for center, _ in people], [outcome for _, outcome in people])
    if k > len(people):
        with pytest.raises(errors.UnknownNameError, match="number of folds"):
            cohort_folds(cohort, k, seed=seed)
        return
    folds = cohort_folds(cohort, k, seed=seed)
    assert len(folds) == k
    assert sorted(name for _, fold in folds for name in fold.isles) == cohort.isles.subjects
    for training, fold in folds:
        assert sorted([*training.isles, *fold.isles]) == cohort.isles.subjects
    number = {name: turn for turn, (_, fold) in enumerate(folds) for name in fold.isles}
    table = cohort.isles.table.assign(fold=lambda frame: frame.index.map(number))
    for columns in ([], ["center"], ["center", "mrs_3month"]):
        parts = [part for _, part in table.groupby(columns, dropna=False)] if columns else [table]
        for part in parts:
            counts = part["fold"].value_counts().reindex(range(k), fill_value=0)
            assert counts.max() - counts.min() <= 1


def test_folds_depend_on_nothing_but_seed_and_values() -> None:
    cohort = made_cohort(["A", "B"] * 10, list(range(5)) * 4)
    names = [fold.isles.subjects for _, fold in cohort.isles.folds(4, seed=3)]
    assert [fold.isles.subjects for _, fold in cohort.isles.folds(4, seed=3)] == names
    assert [fold.isles.subjects for _, fold in cohort.isles.folds(4, seed=4)] != names
    with pytest.raises(errors.UnknownNameError, match="no column"):
        cohort.isles.folds(4, by="ward")
    with pytest.raises(errors.UnknownNameError, match="k=1"):
        cohort.isles.folds(1)


def test_the_words_of_scikit_learn() -> None:
    cohort = made_cohort(["A", "B"] * 10, list(range(5)) * 4)
    wanted = cohort.isles.train_test_split(0.3, seed=5, by=("mrs_3month",))
    found = cohort.isles.train_test_split(0.3, stratify="mrs_3month", random_state=5)
    assert [part.isles.subjects for part in found] == [part.isles.subjects for part in wanted]


def test_a_cohort_is_a_container(cohort: xr.DataTree) -> None:
    names = cohort.isles.subjects
    assert len(cohort.isles) == len(names)
    assert list(cohort.isles) == names
    assert names[1] in cohort.isles
    assert "sub-nobody" not in cohort.isles
    assert cohort.isles[names[1]].attrs["subject"] == names[1]
    assert cohort.isles[-1].attrs["subject"] == names[-1]
    assert cohort.isles.scan(1, space="ctp").attrs["subject"] == names[1]
    assert cohort.isles[1:].isles.subjects == names[1:]
    assert cohort.isles.select([names[2], names[0]]).isles.subjects == [names[0], names[2]]
    assert cohort.isles.select(pd.Index(names[:1])).isles.subjects == names[:1]
    part = cohort.isles.select(names[1:2])
    assert part.isles[0].attrs["subject"] == names[1]
    for wrong in ("sub-nobody", names[0], 1, -2):
        with pytest.raises(errors.UnknownNameError, match="the cohort"):
            part.isles[wrong]
    with pytest.raises(errors.UnknownNameError, match="sub-nobody"):
        cohort.isles.select([names[0], "sub-nobody"])


# --- functions of every subject ---


def measured(scan: xr.Dataset) -> dict[str, Any]:
    return {"subject_seen": scan.attrs["subject"], "mean": scan["ncct"].mean(), "process": os.getpid()}


def lesion_volume(scan: xr.Dataset) -> float:
    if scan.attrs["subject"] == "sub-stroke0002":
        raise ValueError("has no\n lesion")
    return float(scan.isles.volume(threshold=0.5))


def dies_on_the_second(scan: xr.Dataset) -> int:
    if scan.attrs["subject"] == "sub-stroke0002":
        os._exit(1)
    return 1


def where_chunks_are_computed(scan: xr.Dataset) -> dict[str, Any]:
    def thread(block: Any) -> Any:
        time.sleep(0.01)
        return np.full(block.shape, threading.get_ident(), dtype=np.int64)

    chunks = scan["ncct"].data.rechunk((3, 28, 24)).map_blocks(thread, dtype=np.int64)
    threads = np.unique(chunks.compute())
    return {"elsewhere": bool((threads != threading.get_ident()).any()), "chunks": int(np.prod(chunks.numblocks))}


@pytest.fixture
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of the other tests is not the current one."""
    monkeypatch.setattr("distributed.client._get_global_client", lambda: None)


def expected_rows(release: Path, subjects: list[str]) -> pd.DataFrame:
    """By nibabel."""
    means = [nib.load(next(release.glob(f"raw_data/{name}/*/*_ncct.nii.gz"))).get_fdata().mean() for name in subjects]
    return pd.DataFrame({"subject_seen": subjects, "mean": means}, index=pd.Index(subjects, name="subject"))


@pytest.mark.usefixtures("no_client")
def test_one_row_a_subject_on_threads(release: Path, cohort: xr.DataTree) -> None:
    before = dask.config.get("scheduler", None)
    found = cohort.isles.map(measured, progress=False)
    assert found.columns.tolist() == ["subject_seen", "mean", "process", "error"]
    pd.testing.assert_frame_equal(
        found[["subject_seen", "mean"]], expected_rows(release, cohort.isles.subjects), check_dtype=False
    )
    assert found["error"].tolist() == [None] * 3
    assert set(found["process"]) == {os.getpid()}
    assert dask.config.get("scheduler", None) == before


def test_one_row_a_subject_on_the_current_client_and_a_given_one(
    release: Path, cohort: xr.DataTree, client: Client
) -> None:
    wanted = expected_rows(release, cohort.isles.subjects)
    for options in ({}, {"client": client}):
        found = cohort.isles.map(measured, progress=False, **options)
        pd.testing.assert_frame_equal(found[["subject_seen", "mean"]], wanted, check_dtype=False)
        assert os.getpid() not in set(found["process"])
    mapped = cohort.isles.map(measured, subjects=["sub-stroke0004"], progress=False)
    assert mapped.index.tolist() == ["sub-stroke0004"]
    with pytest.raises(errors.UnknownNameError, match="not in the cohort"):
        cohort.isles.map(measured, subjects=["sub-stroke0003"])


@pytest.mark.usefixtures("no_client")
def test_what_fails_is_a_row_that_says_why(
    cohort: xr.DataTree,
    client: Client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options in ({}, {"client": client}):
        found = cohort.isles.map(lesion_volume, **options)
        assert found.columns.tolist() == ["lesion_volume", "error"]
        assert found["error"].tolist() == [None, "ValueError: has no lesion", None]
        assert np.isnan(found.loc["sub-stroke0002", "lesion_volume"])
        assert found["lesion_volume"].dropna().gt(0).tolist() == [True, True]
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "mapping lesion_volume" in shown.err
        assert "100 %, 3 of 3" in shown.err
    elsewhere = cohort.isles.map(lesion_volume, space="mni", progress=False)
    assert elsewhere.columns.tolist() == ["error"]
    assert all("which has the spaces: cta, ctp, ncct" in why for why in elsewhere["error"])


@pytest.mark.usefixtures("no_client")
def test_a_lost_array_is_a_row_with_an_error(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    shutil.rmtree(copy / "sub-stroke0001/space-ncct/ncct/c")
    found = isles24_zarr.open_cohort(copy).isles.map(measured, progress=False)
    assert "is lost" in found.loc["sub-stroke0001", "error"]
    assert found["error"].isna().sum() == 2


def test_a_killed_worker_is_a_row_with_an_error(cohort: xr.DataTree) -> None:
    with dask_client(None, 2) as own:
        found = cohort.isles.map(dies_on_the_second, client=own, progress=False)
    assert found["dies_on_the_second"].fillna(0).tolist() == [1, 0, 1]
    assert found.loc["sub-stroke0002", "error"].startswith("its workers died")


@pytest.mark.usefixtures("no_client")
def test_what_a_function_may_return(cohort: xr.DataTree) -> None:
    def columns(function: Any) -> dict[str, Any]:
        row: dict[str, Any] = cohort.isles.map(function, subjects="sub-stroke0001", progress=False).iloc[0].to_dict()
        return row

    assert columns(lambda _: 7) == {"value": 7, "error": None}
    assert columns(lambda _: "text") == {"value": "text", "error": None}
    assert columns(lambda _: pd.Series({"a": 1.5, "b": 2.5})) == {"a": 1.5, "b": 2.5, "error": None}
    row = columns(lambda scan: scan[["ncct", "cta"]].max())
    assert list(row) == ["ncct", "cta", "error"]
    assert not isinstance(row["ncct"], xr.DataArray | np.ndarray)
    assert "is an array of shape (12, 56, 48)" in columns(lambda scan: scan["ncct"])["error"]
    assert "give yours another name" in columns(lambda _: {"error": 1})["error"]
    lesions = columns(lambda scan: scan.isles.perfusion_lesions())
    wanted = cohort.isles.scan("sub-stroke0001").isles.perfusion_lesions()
    assert lesions == {**dataclasses.asdict(wanted), "error": None}
    table = cohort.isles.scan("sub-stroke0001").isles.statistics("tmax", threshold=0.5)
    row = columns(lambda scan: scan.isles.statistics("tmax", threshold=0.5))
    assert row == {**table.iloc[0].to_dict(), "error": None}
    assert "a table of 13 rows" in columns(lambda scan: scan.isles.volumes())["error"]
    date = np.datetime64("2024-02-03", "ns")
    plain = {"date": date, "none": None, "whole": np.int16(4), "yes": True}
    python = {"date": pd.Timestamp(date), "none": None, "whole": 4, "yes": True, "error": None}
    assert columns(lambda _: plain) == python
    for nested in ({"a": {"b": 1}}, {"a": (1, 2)}, {"a": [1]}, {"a": object()}, {"a": dask.delayed(len)("ab")}):
        assert "'a' is a " in columns(lambda _, nested=nested: nested)["error"]
    assert cohort.isles.map(len, progress=False).index.equals(cohort.isles.table.index)
    nobody = cohort.isles.select("age > 200").isles.map(measured)
    assert nobody.shape == (0, 1)
    assert nobody.index.name == "subject"


@pytest.mark.usefixtures("no_client")
def test_stores_behind_urls(store: Path, cohort: xr.DataTree) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/isles24-cohort.zarr", recursive=True)
    try:
        remote = isles24_zarr.open_cohort("memory://isles24-cohort.zarr")
        found, wanted = (each.isles.map(measured, progress=False) for each in (remote, cohort))
        pd.testing.assert_frame_equal(found, wanted)
        voxels = [each.isles.examples[1]["ctp"].dataobj[:, 7:2:-1, 3] for each in (remote, cohort)]
        np.testing.assert_array_equal(*voxels)
    finally:
        memory.rm("/isles24-cohort.zarr", recursive=True)


@pytest.mark.usefixtures("no_client")
def test_the_clinical_table_on_request(cohort: xr.DataTree) -> None:
    found = cohort.isles.map(lambda scan: {"volume": scan.isles.volume(), "age": -1}, with_table=True, progress=False)
    assert found.columns[-3:].tolist() == ["volume", "age", "error"]
    pd.testing.assert_series_equal(found["age_clinical"], cohort.isles.table["age"], check_names=False)
    pd.testing.assert_series_equal(found["mrs_3month"], cohort.isles.table["mrs_3month"])


@pytest.mark.usefixtures("no_client")
def test_a_task_computes_in_its_own_thread(cohort: xr.DataTree) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=3, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as own,
    ):
        for options in ({}, {"client": own}):
            found = cohort.isles.map(where_chunks_are_computed, progress=False, **options)
            assert found["error"].isna().all()
            assert (found["chunks"] >= 16).all()
            assert not found["elsewhere"].any()


def test_the_table_is_of_one_conversion(store: Path, tmp_path: Path, reads: list[str]) -> None:
    """It is read at opening, from one document: what is converted later is seen by who opens it later."""
    isles24_zarr.open_cohort(store)
    assert sorted(reads) == ["phenotype/zarr.json", "zarr.json"]
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    before = isles24_zarr.open_cohort(copy)
    rewrite_table(copy, {"age": 1.0, "nihss_admission": 2.0})
    shutil.rmtree(copy / "phenotype/age")
    pd.testing.assert_frame_equal(before.isles.table, isles24_zarr.open_cohort(store).isles.table)
    table = isles24_zarr.open_cohort(copy).isles.table
    assert set(table["age"]) == {1.0}
    assert set(table["nihss_admission"]) == {2.0}


def test_a_flipped_byte_of_the_table_is_an_error_or_changes_nothing(store: Path, tmp_path: Path) -> None:
    wanted = isles24_zarr.open_cohort(store).isles.table
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    path = copy / "phenotype/zarr.json"
    data = path.read_bytes()
    start, refused = data.index(b'"columns"'), 0
    for at in [*range(start, start + 1500, 3), *range(0, len(data), 701)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :])
        try:
            found = isles24_zarr.open_cohort(copy).isles.table
        except (errors.StoreDamageError, errors.IncompleteStoreError):
            refused += 1
        else:
            pd.testing.assert_frame_equal(found, wanted)
    assert refused > 300
