"""Datasets of the Hugging Face Hub as a source: Parquet files by ``datasets`` itself, local and behind a server."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import gzip
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr import vocabulary
from isles24_zarr.clinical import record_from_row, rows_from_table
from isles24_zarr.clinical.rows import name_from_header
from isles24_zarr.errors import (
    DamagedShardError,
    Isles24Error,
    MissingExtraError,
    SourceNotFoundError,
    StoreAccessError,
    UnsupportedShardError,
)
from isles24_zarr.release._footers import Row
from isles24_zarr.release._pages import cell_sizes, opened_cell
from isles24_zarr.release._shards import _tables
from isles24_zarr.release._snappy import SnappyStream
from isles24_zarr.release.files import Cell
from isles24_zarr.release.source import Source
from tests.hub_server import REPOSITORY, Hub, running_hub
from tests.limits import HEADROOM, limited_process
from tests.oracle import arrays_by_source, assert_identical_stores, assert_same_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

datasets = pytest.importorskip("datasets", minversion="4.4")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

S = "sub-stroke0001"
OTHER = "sub-stroke0002"
COMMIT, LATER = "a" * 40, "b" * 40
HUB = f"hf://datasets/{REPOSITORY}"
NAMES = {
    "ncct": "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    **{name: f"derivatives/{{0}}/ses-01/{{0}}_ses-01_space-ncct_{name}.nii.gz" for name in ("cta", "ctp")},
    **{
        name: f"derivatives/{{0}}/ses-01/perfusion-maps/{{0}}_ses-01_space-ncct_{name}.nii.gz"
        for name in ("tmax", "mtt", "cbf", "cbv")
    },
    **{name: f"derivatives/{{0}}/ses-02/{{0}}_ses-02_space-ncct_{name}.nii.gz" for name in ("dwi", "adc")},
    "lesion_mask": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
    **{
        f"{name}_mask": f"derivatives/{{0}}/ses-01/{{0}}_ses-01_space-ncct_{name}-msk.nii.gz" for name in ("lvo", "cow")
    },
}
"""Images of the dataset card, and where a release has them."""

CLINICAL: dict[str, dict[str, Any]] = {
    S: {"age": 72.3, "sex": "F", "nihss_admission": 14.0, "mrs_admission": None, "mrs_3month": 2.0},
    OTHER: {"age": 59.0, "sex": "M", "nihss_admission": 0.0, "mrs_admission": 4.0, "mrs_3month": None},
    "sub-stroke0004": {"age": None, "sex": None, "nihss_admission": None, "mrs_admission": None, "mrs_3month": None},
}
BASELINE = ("age", "sex", "nihss_admission", "mrs_admission")
FEATURES = datasets.Features(
    {
        "subject_id": datasets.Value("string"),
        **{name: datasets.Nifti() for name in NAMES},
        **{name: datasets.Value("string" if name == "sex" else "float32") for name in CLINICAL[S]},
    }
)
TABLES = ("files", "seal")
"""What the record of a subject says of its tables: those that are made of the card have other names and sizes."""

NIFTI = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def row_of(release: Path, subject: str) -> dict[str, Any]:
    files = {name: release / path.format(subject) for name, path in NAMES.items()}
    images = {name: {"bytes": file.read_bytes(), "path": file.name} for name, file in files.items()}
    return {"subject_id": subject, **images, **CLINICAL[subject]}


def write_shards(folder: Path, rows: list[dict[str, Any]], features: Any = FEATURES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        shard = folder / f"train-{number:05}-of-{len(rows):05}.parquet"
        datasets.Dataset.from_list([row], features=features).to_parquet(shard)
    return folder


def convert(source: Any, store: Path, client: Client, **options: Any) -> Any:
    return isles24_zarr.convert(source, store, client=client, progress=False, **options)


def told(problems: Any, severity: str = "error") -> list[str]:
    return [str(problem) for problem in problems if problem.severity == severity]


@pytest.fixture(scope="module")
def rows(release: Path) -> list[dict[str, Any]]:
    return [row_of(release, subject) for subject in CLINICAL]


@pytest.fixture(scope="module")
def shards(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One case a shard; tests must not change it."""
    return write_shards(tmp_path_factory.mktemp("hub") / "data", rows)


@pytest.fixture(scope="module")
def card_store(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a folder that has what the card has: the same images, and its values in tables of pandas."""
    folder = tmp_path_factory.mktemp("card")
    for subject, values in CLINICAL.items():
        for path in NAMES.values():
            copy = folder / "train" / path.format(subject)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(release / path.format(subject), copy)
        for session, table, names in ((1, "demographic_baseline", BASELINE), (2, "outcome", ("mrs_3month",))):
            file = folder / f"train/phenotype/{subject}/ses-0{session}/{subject}_ses-0{session}_{table}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            frame = pd.DataFrame([{name: values[name] for name in names}])
            frame.to_csv(file, index=False, quoting=csv.QUOTE_ALL)
    report = convert(folder / "train", folder / "x.zarr", client)
    assert report.ok
    return folder / "x.zarr"


# --- the same store ---


def one_file(rows: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "all.parquet"
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(file)
    return file


def as_older_ones(rows: list[dict[str, Any]], folder: Path) -> Path:
    """By the defaults of pyarrow, which older versions of the library left in place: Snappy, dictionaries."""
    schema = datasets.Dataset.from_list(rows, features=FEATURES).features.arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "a.parquet", row_group_size=2)
    return folder


def in_large_pages(rows: list[dict[str, Any]], folder: Path) -> Path:
    options = {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0", "write_statistics": False}
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", **options)
    return folder / "a.parquet"


@pytest.mark.parametrize("written", [None, one_file, as_older_ones, in_large_pages])
def test_the_store_is_that_of_the_folder(
    release: Path,
    rows: list[dict[str, Any]],
    shards: Path,
    card_store: Path,
    client: Client,
    tmp_path: Path,
    written: Callable[[list[dict[str, Any]], Path], Path] | None,
) -> None:
    source = written(rows, tmp_path) if written else shards
    report = convert(source, tmp_path / "x.zarr", client)
    assert report.ok
    assert report.images == 3 * len(NAMES)
    assert_identical_stores(card_store, tmp_path / "x.zarr", but=TABLES)
    if written:
        return
    arrays = arrays_by_source(tmp_path / "x.zarr")
    assert len(arrays) == 3 * len(NAMES)
    for path, array in arrays.items():
        assert_same_image(release / path, array, shift=1e-3)
        assert array.attrs["isles24_zarr"]["source"]["size"] == (release / path).stat().st_size
    again = convert(source, tmp_path / "x.zarr", client)
    assert (again.converted, len(again.unchanged)) == ((), 3)
    assert isles24_zarr.verify(tmp_path / "x.zarr", source, client=client, progress=False).ok
    isles24_zarr.export(tmp_path / "x.zarr", tmp_path / "out", client=client, progress=False)
    for path in arrays:
        assert gzip.decompress((tmp_path / "out" / path).read_bytes()) == gzip.decompress((release / path).read_bytes())


def test_values_of_the_card(shards: Path, client: Client, tmp_path: Path) -> None:
    convert(shards, tmp_path / "x.zarr", client, images=["lvo_mask"])
    table = isles24_zarr.open_cohort(tmp_path / "x.zarr").isles.table
    for subject, values in CLINICAL.items():
        found = {name: None if pd.isna(table.loc[subject, name]) else table.loc[subject, name] for name in values}
        assert found == values  # 72.3, which single precision has as 72.30000305


@pytest.mark.parametrize(
    ("column", "value", "minutes"),
    [
        ("onset_to_door", 90.0, 90.0),
        ("door_to_groin", 0.45, 0.45),
        ("Door to groin", 0.45, 648.0),  # in a column of the release, as its tables have it
        ("alert_to_door", -5.5, -5.5),
        ("door_to_imaging", 1499.99999999, 1500.0),
        ("time_of_intervention", dt.timedelta(hours=25), 1500.0),
        ("onset_to_door", None, None),
        ("onset_to_door", float("nan"), None),
    ],
)
def test_durations_of_a_dataset(column: str, value: Any, minutes: float | None) -> None:
    row = Row(number=1, values={"subject_id": S, column: value}, cells={}, names={})
    (table,) = _tables(row, S)
    assert isinstance(table.content, bytes)
    (read,) = rows_from_table(table.content, path=table.path)
    found = record_from_row(read, table=vocabulary.CLINICAL[name_from_header(column)].table, path="t", subject=S)
    assert found.values == {name_from_header(column): minutes}
    assert found.unread == {}


def test_labels_of_a_class(rows: list[dict[str, Any]], client: Client, tmp_path: Path) -> None:
    """As `to_hf_dataset` has the sex, which is a number in the file."""
    features = datasets.Features({**FEATURES, "sex": datasets.ClassLabel(names=["F", "M"])})
    one_a_shard = write_shards(tmp_path / "data", rows, features)
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "all.parquet")
    for number, source in enumerate((one_a_shard, tmp_path / "all.parquet")):
        store = tmp_path / f"{number}.zarr"
        assert convert(source, store, client, images=["lvo_mask"]).ok
        table = isles24_zarr.open_cohort(store).isles.table
        assert table.loc[list(CLINICAL), "sex"].astype(object).fillna("").tolist() == ["F", "M", ""]


def test_there_and_back(store: Path, client: Client, tmp_path: Path) -> None:
    """A store as a Dataset, its Parquet files as a store: the same voxels, whatever compressed them."""
    found = isles24_zarr.open_cohort(store).isles.to_hf_dataset(cache_dir=tmp_path / "cache")
    found.select([1]).to_parquet(tmp_path / "data" / "a.parquet")
    assert convert(tmp_path / "data", tmp_path / "x.zarr", client).converted == (OTHER,)
    ours, theirs = arrays_by_source(store), arrays_by_source(tmp_path / "x.zarr")
    assert set(theirs) == {path.format(OTHER) for path in NAMES.values()}
    for path, array in theirs.items():
        assert array.attrs["isles24_zarr"]["checksum"] == ours[path].attrs["isles24_zarr"]["checksum"]
    before, after = (isles24_zarr.open_cohort(path).isles.table.loc[OTHER] for path in (store, tmp_path / "x.zarr"))
    for name in CLINICAL[S]:
        assert after[name] == before[name] or (pd.isna(after[name]) and pd.isna(before[name]))


def test_a_plan(shards: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "isles24_zarr", "convert", str(shards), str(tmp_path / "x.zarr"), "--dry-run"]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"{S}_ses-01_space-ncct_ctp.nii.gz") == 1
    assert subprocess.run([*words[:3], "scan", str(shards), "--json"], capture_output=True, check=True).stdout


# --- the Hub ---


@pytest.fixture
def hub(shards: Path, tmp_path: Path) -> Iterator[Hub]:
    shutil.copytree(shards, tmp_path / "repository" / "data")
    (tmp_path / "repository" / "README.md").write_text("the dataset card")
    with running_hub(tmp_path / "repository", COMMIT) as running:
        yield running


def test_one_subject_of_the_hub(hub: Hub, card_store: Path, shards: Path, client: Client, tmp_path: Path) -> None:
    options = {"endpoint": hub.url}
    report = convert(HUB, tmp_path / "x.zarr", client, subjects=[OTHER], storage_options=options)
    assert report.ok
    assert told(report.problems, "notice") == []
    assert_identical_stores(card_store / OTHER, tmp_path / "x.zarr" / OTHER, but=TABLES)
    root = isles24_zarr.open_cohort(tmp_path / "x.zarr").attrs
    assert root["source"] == f"{HUB}@{COMMIT}"
    sizes = {path.name: path.stat().st_size for path in shards.iterdir()}
    sent = {name.removeprefix("data/"): lengths for name, lengths in hub.sent.items()}
    for name in sizes.keys() - {"train-00001-of-00003.parquet"}:
        assert sent[name] == [2**16]  # the footer, of files six times as large
        assert sizes[name] > 2**18
    # headers are looked at in 32 kB, and masks are read twice
    own = sizes["train-00001-of-00003.parquet"]
    assert sum(sent["train-00001-of-00003.parquet"]) <= own + 2**16 + len(NAMES) * 2**15 + 3 * 2**14


def test_headers_alone(hub: Hub, shards: Path) -> None:
    release = isles24_zarr.scan(HUB, storage_options={"endpoint": hub.url})
    assert list(release.subjects) == list(CLINICAL)
    assert release.source == f"{HUB}@{COMMIT}"
    for path in shards.iterdir():
        sent = hub.sent[f"data/{path.name}"]
        assert max(sent) <= 2**16
        assert len(sent) == 1 + len(NAMES)
    one = isles24_zarr.scan(f"{HUB}/data/train-00001-of-00003.parquet", storage_options={"endpoint": hub.url})
    assert list(one.subjects) == [OTHER]


def test_revisions(hub: Hub, rows: list[dict[str, Any]], card_store: Path, client: Client, tmp_path: Path) -> None:
    options = {"endpoint": hub.url}
    assert convert(HUB, tmp_path / "x.zarr", client, storage_options=options).ok
    assert_identical_stores(card_store, tmp_path / "x.zarr", but=TABLES)
    later = tmp_path / "later"
    shutil.copytree(tmp_path / "repository", later)
    write_shards(tmp_path / "new", [rows[0] | {"age": 73.0}])
    shutil.copy(next((tmp_path / "new").iterdir()), later / "data" / "train-00000-of-00003.parquet")
    hub.commits[LATER] = later
    hub.branches |= {"main": LATER, "v1": COMMIT}
    for revision in ("v1", COMMIT):
        assert convert(f"{HUB}@{revision}", tmp_path / "x.zarr", client, storage_options=options).converted == ()
    report = convert(HUB, tmp_path / "x.zarr", client, storage_options=options)
    assert (report.ok, report.converted, report.voxel_bytes) == (True, (S,), 0)
    cohort = isles24_zarr.open_cohort(tmp_path / "x.zarr")
    assert cohort.attrs["source"] == f"{HUB}@{LATER}"
    assert cohort.isles.table.loc[S, "age"] == 73


def test_the_endpoint_of_the_environment(hub: Hub, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "isles24_zarr", "convert", HUB, str(tmp_path / "x.zarr")]
    environment = os.environ | {"HF_ENDPOINT": hub.url}
    some = ["--subject", S, "--image", "lvo_mask", "--workers", "1"]
    done = subprocess.run([*words, *some], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 images written" in done.stdout


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("hf://datasets/owner/nothing", "repository not found"),
        (f"{HUB}@v9", "revision not found"),
        (f"{HUB}/nowhere", "does not exist"),
        ("hf://datasets", "cannot be opened"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, url: str, what: str) -> None:
    with pytest.raises(SourceNotFoundError, match=what):
        isles24_zarr.scan(url, storage_options={"endpoint": hub.url})


def test_a_hub_that_is_away(hub: Hub, tmp_path: Path) -> None:
    with running_hub(tmp_path, COMMIT) as gone:
        pass
    with pytest.raises(StoreAccessError, match="its server cannot be reached"):
        isles24_zarr.scan(HUB, storage_options={"endpoint": gone.url})
    hub.commits.clear()


def test_files_that_only_some_may_read(hub: Hub) -> None:
    names = [f"data/train-0000{number}-of-00003.parquet" for number in range(3)]
    hub.refused.update(names[1:])
    release = isles24_zarr.scan(HUB, storage_options={"endpoint": hub.url})
    assert list(release.subjects) == [S]
    errors = told(release.problems)
    assert [message.split(": ")[0] for message in errors] == names[1:]
    assert all("cannot be read" in message and "Cannot access gated repo" in message for message in errors)
    hub.refused.update(names)
    with pytest.raises(SourceNotFoundError, match="Cannot access gated repo"):
        isles24_zarr.scan(HUB, storage_options={"endpoint": hub.url})


def test_a_release_that_is_files_on_the_hub(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    for section in ("raw_data", "derivatives", "phenotype"):
        shutil.copytree(release / section / S, tmp_path / "repository" / section / S)
    with running_hub(tmp_path / "repository", COMMIT) as hub:
        options = {"endpoint": hub.url}
        assert convert(HUB, tmp_path / "x.zarr", client, storage_options=options).ok
        assert convert(HUB, tmp_path / "x.zarr", client, storage_options=options).converted == ()
    assert_identical_stores(store / S, tmp_path / "x.zarr" / S)


@pytest.mark.parametrize("library", ["pyarrow.parquet", "huggingface_hub"])
def test_without_the_extra(shards: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'isles24-zarr\[hf\]'"):
        isles24_zarr.scan(HUB if library == "huggingface_hub" else shards)


# --- columns and rows ---


def test_columns_that_are_missing_and_others(rows: list[dict[str, Any]], client: Client, tmp_path: Path) -> None:
    kept = {name: value for name, value in rows[0].items() if name not in ("cta", "ctp", "adc", "mrs_admission")}
    table = pa.Table.from_pylist(
        [kept | {"center": "North; =1, 'x'", "t1w": rows[0]["ncct"], "splits": [1, 2], "dwi": None, "raw": b"x"}],
        schema=pa.schema(
            [
                *((name, NIFTI if name in NAMES else pa.string() if isinstance(value, str) else pa.float32())
                  for name, value in kept.items()),
                ("center", pa.string()), ("t1w", NIFTI), ("splits", pa.list_(pa.int8())), ("raw", pa.binary()),
            ]
        ),
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"age": [1.0]}), tmp_path / "b.parquet")
    report = convert(tmp_path, tmp_path / "x.zarr", client, images=["ncct", "dwi", "lvo_mask"])
    assert report.ok
    assert [(each.path, each.kind, each.subject) for each in report.left_out] == [
        ("a.parquet", "image", S), ("b.parquet", "table", None),
    ]  # fmt: skip
    assert told(report.problems, "notice") == [
        "a.parquet: has columns that are no part of a release: t1w, splits, raw; left out",
        "b.parquet: has no column with images of a release; left out",
        "a.parquet: has no column cta, ctp, adc, mrs_admission, and no other Parquet file has",
        "a.parquet: row 1 has no dwi",
    ]
    cohort = isles24_zarr.open_cohort(tmp_path / "x.zarr")
    assert cohort.isles.table.loc[S, "center"] == "North; =1, 'x'"
    assert cohort.isles.table.loc[S, "age"] == 72.3


def test_cells_without_names(rows: list[dict[str, Any]], client: Client, tmp_path: Path) -> None:
    plain = gzip.decompress(rows[0]["cta"]["bytes"])
    row = rows[0] | {
        "ncct": {"bytes": rows[0]["ncct"]["bytes"], "path": None},
        "cta": {"bytes": plain, "path": None},
        "ctp": {"bytes": rows[0]["ctp"]["bytes"], "path": "series.nii.gz"},
        "dwi": {"bytes": rows[0]["dwi"]["bytes"], "path": "zip://x/image.NII.gz::hf://datasets/o/n/x.zip"},
        "subject_id": "stroke0001",
    }
    convert(write_shards(tmp_path / "data", [row]), tmp_path / "x.zarr", client, images=["ncct", "cta", "ctp", "dwi"])
    arrays = arrays_by_source(tmp_path / "x.zarr")
    assert set(arrays) == {
        NAMES[name].format(S).replace("cta.nii.gz", "cta.nii") for name in ("ncct", "cta", "ctp", "dwi")
    }
    image: Any = nib.Nifti1Image.from_bytes(plain)
    raw = image.dataobj.get_unscaled()
    assert arrays[NAMES["cta"].format(S).removesuffix(".gz")].size == raw.size


def test_rows_that_cannot_be_used(rows: list[dict[str, Any]], client: Client, tmp_path: Path) -> None:
    strange = [
        rows[0] | {"ctp": rows[1]["ctp"], "cta": rows[0]["ncct"], "dwi": {"bytes": None, "path": "/data/dwi.nii.gz"}},
        rows[0],
        rows[1] | {"subject_id": "../x"},
        rows[1] | {"subject_id": None},
        rows[2],
    ]
    report = convert(write_shards(tmp_path / "data", strange), tmp_path / "x.zarr", client)
    assert report.converted == (S, "sub-stroke0004")
    assert sorted((each.path[:11], each.kind, each.subject or "") for each in report.left_out) == [
        *[("train-00000", "refused", S)] * 3, ("train-00001", "refused", S),
        ("train-00002", "refused", ""), ("train-00003", "refused", ""),
    ]  # fmt: skip
    errors, notices = told(report.problems), told(report.problems, "notice")
    first = "train-00000-of-00005.parquet"
    assert len(errors) == 5
    assert f"{first}: {S} has the file '{OTHER}_ses-01_space-ncct_ctp.nii.gz' for ctp: its name speaks of" in errors[1]
    assert f"{first}: {S} has the file '{S}_ses-01_ncct.nii.gz' for cta: is one of ncct" in errors[0]
    assert f"{first}: row 1 names '/data/dwi.nii.gz' for dwi and does not hold it" in errors[2]
    assert "row 1 is of '../x', which is not 'sub-' and a label" in errors[3]
    assert "row 1 is of '', which is not" in errors[4]
    assert f"train-00001-of-00005.parquet: row 1 is another one of {S}, after row 1 of {first}; left out" in notices
    arrays = arrays_by_source(tmp_path / "x.zarr")
    assert {path for path in arrays if S in path} == {
        path.format(S) for name, path in NAMES.items() if name not in ("ctp", "cta", "dwi")
    }


# --- damage ---


def test_damaged_shards_are_one_line_each(shards: Path, client: Client, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(shards, copy)
    first, second, _ = sorted(copy.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    data = bytearray(second.read_bytes())
    metadata = pq.ParquetFile(second).metadata.row_group(0)
    places = {metadata.column(index).path_in_schema: metadata.column(index) for index in range(metadata.num_columns)}
    data[places["ctp.bytes"].data_page_offset + places["ctp.bytes"].total_compressed_size - 6] ^= 0xFF  # its CRC
    data[places["cbf.bytes"].data_page_offset] = 0xFF
    second.write_bytes(data)
    (copy / "x.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    report = convert(copy, tmp_path / "x.zarr", client)
    assert report.converted == (OTHER, "sub-stroke0004")
    errors = {message.split(": ")[0]: message for message in told(report.problems)}
    assert len(told(report.problems)) == 4
    assert "or is damaged or cut off" in errors[first.name]
    assert "or is damaged or cut off" in errors["x.parquet"]
    assert "the gzip stream is damaged" in errors[NAMES["ctp"].format(OTHER)]
    assert f"{second.name} is damaged or cut off there" in errors[NAMES["cbf"].format(OTHER)]
    assert all("\n" not in message for message in errors.values())
    shutil.copy(shards / first.name, first)
    shutil.copy(shards / second.name, second)
    (copy / "x.parquet").unlink()
    report = convert(copy, tmp_path / "x.zarr", client)
    assert report.ok
    assert set(report.converted) == {S, OTHER}


def test_a_dataset_of_something_else(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceNotFoundError, match="has no column with images of a release"):
        isles24_zarr.scan(tmp_path)


def test_nothing_but_damage(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    for source in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(SourceNotFoundError, match="cannot be read as Parquet, or is damaged or cut off"):
            isles24_zarr.scan(source)


def read_whole(file: Path) -> type[Isles24Error] | None:
    """Read all images of a Parquet file; return which error there is, which must be a line."""
    source = Source.of(file)
    try:
        for each in source.listed().images:
            with source.opened(each) as opened:
                read_all(opened)
    except Isles24Error as error:
        return type(error) if "\n" not in str(error) else None
    return None


@pytest.mark.parametrize(
    "options", [{}, {"compression": "none", "use_dictionary": False}, {"data_page_version": "2.0"}]
)
def test_whatever_is_damaged_is_told_in_one_line(
    rows: list[dict[str, Any]], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Bytes are overwritten at random, most often those of the footer."""
    rng = np.random.default_rng(0)
    small = {name: rows[0][name] for name in ("subject_id", "lvo_mask", "cow_mask", "age", "sex")}
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([small, small | {"subject_id": OTHER}]), file, **options)
    good = file.read_bytes()
    found = set()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.integers(1, 5)):
            at = rng.integers(len(data) - 2500 if rng.random() < 0.7 else 0, len(data))
            data[at] = rng.choice((0, 255, rng.integers(256)))
        file.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
        found.add(read_whole(file))
    assert {SourceNotFoundError, None} <= found


# --- pages ---


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_cell_is_found(compression: str, version: str) -> None:
    rng = np.random.default_rng(0)
    values: list[bytes | None] = [rng.bytes(int(size)) for size in rng.integers(0, 300_000, 8)]
    values[2], values[5], values[7] = None, bytes(90_000), b""
    for use_dictionary in (True, False):
        for per_group in (1, 3, 8):
            file = io.BytesIO()
            cells = [None if number == 5 else {"bytes": value, "path": "x"} for number, value in enumerate(values)]
            wanted = [cell and cell["bytes"] for cell in cells]
            pq.write_table(
                pa.table({"ctp": pa.array(cells, NIFTI)}), file, compression=compression, data_page_version=version,
                use_dictionary=use_dictionary, row_group_size=per_group, dictionary_pagesize_limit=200_000,
            )  # fmt: skip
            for cell, group in column_chunks(file):
                sizes = cell_sizes(file, cell, path="x", shard="y")
                these = wanted[group * per_group :][:per_group]
                assert sizes == [value if value is None else len(value) for value in these]
                for row, value in enumerate(these):
                    if value is not None:
                        assert opened_cell(file, place(cell, row, len(value)), path="x", shard="y").read() == value


def column_chunks(file: Any) -> Iterator[tuple[Cell, int]]:
    parquet = pq.ParquetFile(file)
    for group in range(parquet.metadata.num_row_groups):
        chunk = parquet.metadata.row_group(group).column(0)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        stop, rows = start + chunk.total_compressed_size, parquet.metadata.row_group(group).num_rows
        yield Cell(shard="", start=start, stop=stop, codec=chunk.compression, levels=2, rows=rows, row=0, size=0), group


def place(cell: Cell, row: int, size: int) -> Cell:
    return dataclasses.replace(cell, row=row, size=size)


@pytest.mark.parametrize(
    "options", [{"compression": "lz4"}, {"column_encoding": {"ctp.bytes": "DELTA_LENGTH_BYTE_ARRAY"}}]
)
def test_forms_that_are_not_read(options: dict[str, Any]) -> None:
    file = io.BytesIO()
    table = pa.table({"ctp": pa.array([{"bytes": b"abc", "path": "x"}], NIFTI)})
    pq.write_table(table, file, use_dictionary=False, **options)
    for cell, _ in column_chunks(file):
        with pytest.raises(UnsupportedShardError, match=r"^x: y (is compressed by LZ4|has values in an encoding)"):
            opened_cell(file, cell, path="x", shard="y")


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3000)), max_size=8), st.integers(1, 70_000))
def test_snappy_blocks_come_back(parts: list[tuple[bytes, int]], count: int) -> None:
    data = b"".join(piece * repeats for piece, repeats in parts)
    block = pa.compress(data, codec="snappy", asbytes=True)
    stream = SnappyStream(io.BytesIO(block).read)
    pieces = []
    while piece := stream.read(count):
        pieces.append(piece)
        assert len(piece) <= count
    assert b"".join(pieces) == data


def test_snappy_blocks_that_are_damaged() -> None:
    data = np.random.default_rng(0).bytes(200_000) + bytes(100_000)
    block = pa.compress(data, codec="snappy", asbytes=True)
    for cut in (0, 1, 100, 150_000, len(block) - 1):
        with pytest.raises(ValueError, match="Snappy"):
            read_all(SnappyStream(io.BytesIO(block[:cut]).read))
    with pytest.raises(ValueError, match="further behind"):
        read_all(SnappyStream(io.BytesIO(b"\x0a\x00a\x22\x05\x00").read))
    with pytest.raises(ValueError, match="longer than it says"):
        read_all(SnappyStream(io.BytesIO(b"\x02\x14abcdef").read))


def read_all(stream: Any) -> None:
    while stream.read(2**16):
        pass


# --- memory ---

LARGE = HEADROOM + 32 * 2**20


def hashed_length(path: str) -> int:
    source = Source.of(path)
    (image,) = source.listed().images
    length = 0
    with source.opened(image) as opened:
        while piece := opened.read(2**20):
            length += len(piece)
    return length


def warm_up() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"ctp": pa.array([{"bytes": bytes(10), "path": "x"}], NIFTI)}), file, compression="zstd")
    for cell, _ in column_chunks(file):
        read_all(opened_cell(file, place(cell, 0, 10), path="x", shard="y"))


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_cell_larger_than_the_memory(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.parquet"
    content = np.random.default_rng(0).bytes(2**20) * (LARGE // 2**20)
    cell = {"bytes": content, "path": f"{S}_ses-01_space-ncct_ctp.nii.gz"}
    table = pa.table({"subject_id": [S], "ctp": pa.array([cell], NIFTI)})
    pq.write_table(table, path, compression=compression, use_dictionary=compression == "snappy")
    del table, cell, content
    with limited_process(warm_up) as run:
        assert run(hashed_length, str(path)) == LARGE


def test_a_source_knows_damage_from_its_end(shards: Path, tmp_path: Path) -> None:
    """A file that has become shorter since it was listed."""
    path = tmp_path / "a.parquet"
    shutil.copy(next(iter(sorted(shards.iterdir()))), path)
    source = Source.of(path)
    image = source.listed().subjects[S].images["ncct", "ctp"]
    assert isinstance(image.content, Cell)
    path.write_bytes(path.read_bytes()[: image.content.stop - 1000])
    with (
        pytest.raises(DamagedShardError, match=r"a\.parquet is damaged or cut off there"),
        source.opened(image) as opened,
    ):
        read_all(opened)
