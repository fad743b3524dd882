"""The release back out of the store, byte for byte once decompressed."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr.clinical.phenotype import record_from_row
from isles24_zarr.clinical.rows import rows_from_table
from isles24_zarr.conversion.exporting import _write_tables
from isles24_zarr.errors import DestinationError, NotAStoreError, UnknownNameError
from isles24_zarr.format.records import SubjectRecord
from isles24_zarr.vocabulary import BASELINE
from tests.nifti_files import random_voxels, write
from tests.test_convert import DAMAGED, S, damaged_release, images_below, odd_release  # noqa: F401

if TYPE_CHECKING:
    from distributed import Client


def plain(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


def test_every_file_comes_back(store: Path, release: Path, client: Client, tmp_path: Path) -> None:
    report = isles24_zarr.export(store, tmp_path / "out", client=client, progress=False)
    assert report.ok
    assert report.written == 54
    files = images_below(release)
    assert images_below(tmp_path / "out").keys() == files.keys()
    for name, file in files.items():
        assert plain(tmp_path / "out" / name) == plain(file), name


def test_odd_files_come_back(damaged_release: Path, client: Client, tmp_path: Path) -> None:  # noqa: F811
    isles24_zarr.convert(damaged_release, tmp_path / "x.zarr", client=client, progress=False)
    assert isles24_zarr.export(tmp_path / "x.zarr", tmp_path / "out", client=client, progress=False).ok
    files = {name: file for name, file in images_below(damaged_release).items() if name not in DAMAGED}
    assert images_below(tmp_path / "out").keys() == files.keys()
    for name, file in files.items():
        assert plain(tmp_path / "out" / name) == plain(file), name


def test_real_volumes_come_back(real_data: Path, client: Client, tmp_path: Path) -> None:
    for name in ("CT_AVM", "pcasl", "sub-stroke0158_ses-02_lesion-msk"):
        image = "ctp" if name == "pcasl" else "ncct"
        file = tmp_path / name / f"raw_data/{S}/ses-01/{S}_ses-01_{image}.nii.gz"
        file.parent.mkdir(parents=True)
        shutil.copy(real_data / f"{name}.nii.gz", file)
        isles24_zarr.convert(tmp_path / name, tmp_path / f"{name}.zarr", client=client, progress=False)
        isles24_zarr.export(tmp_path / f"{name}.zarr", tmp_path / "out" / name, client=client, progress=False)
        assert plain(tmp_path / "out" / name / file.relative_to(tmp_path / name)) == plain(file)


def test_what_is_there_is_left_and_what_is_wrong_is_replaced(store: Path, client: Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = isles24_zarr.export(store, out, subjects=[S], images=["ncct", "tmax"], client=client, progress=False)
    assert first.written == 3
    files = sorted(images_below(out).values())
    before = [file.stat().st_mtime_ns for file in files]
    damaged = files[0].read_bytes()
    files[0].write_bytes(damaged[:100])
    again = isles24_zarr.export(store, out, subjects=[S], images=["ncct", "tmax"], client=client, progress=False)
    assert (again.written, again.unchanged) == (1, 2)
    assert files[0].read_bytes() == damaged
    assert [file.stat().st_mtime_ns for file in files[1:]] == before[1:]


def test_a_damaged_array_is_never_published(store: Path, client: Client, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    shard = copy / S / "space-ncct/ncct/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes(bytes(data))
    report = isles24_zarr.export(copy, tmp_path / "out", subjects=[S], client=client, progress=False)
    (problem,) = report.problems
    assert problem.path == f"{S}/space-ncct/ncct"
    assert report.written == 17
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]
    assert not (tmp_path / f"out/raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz").exists()


def test_tables_come_back(store: Path, release: Path, client: Client, tmp_path: Path) -> None:
    isles24_zarr.export(store, tmp_path / "out", client=client, progress=False)
    for path in release.glob("phenotype/*/*/*.xlsx"):
        table = pd.read_excel(path)
        csv = tmp_path / "out" / path.relative_to(release).with_suffix(".csv")
        back = pd.read_csv(csv)
        assert list(back.columns) == list(table.columns)
        for column in ("Age", "NIHSS at admission", "Glucose", "mRS discharge", "NIHSS 24h"):
            if column in table:
                np.testing.assert_array_equal(back[column].astype(float), table[column].astype(float))
    people = pd.read_csv(tmp_path / "out/participants.tsv", sep="\t", index_col="participant_id")
    assert list(people.index) == ["sub-stroke0001", "sub-stroke0002", "sub-stroke0004"]
    np.testing.assert_array_equal(people["age"], isles24_zarr.open_cohort(store).isles.table["age"])
    described = json.loads((tmp_path / "out/participants.json").read_text())
    assert described["onset_to_door"]["Units"] == "min"


def test_tables_convert_again_to_the_same_values(store: Path, client: Client, tmp_path: Path) -> None:
    isles24_zarr.export(store, tmp_path / "out", client=client, progress=False)
    isles24_zarr.convert(tmp_path / "out", tmp_path / "again.zarr", client=client, progress=False)
    ours = isles24_zarr.open_cohort(store).isles.table
    pd.testing.assert_frame_equal(isles24_zarr.open_cohort(tmp_path / "again.zarr").isles.table, ours)


TEXTS = [
    "=1+1",
    "+1-1",
    "-x",
    "@SUM(A1)",
    "'=1",
    "''@a",
    "-9",
    "+49 89",
    "a\tb",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "a,b;c",
    '"',
    "é",
]
TEXTS += ["=70", "\uff1d1", "\t=1", "'", "a\u2028b", '=HYPERLINK("http://x")']


@given(st.lists(st.sampled_from(TEXTS) | st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2))
@example(TEXTS)
@example(["=1+1", "1E100", "-1e20"])
def test_texts_come_back_and_are_no_formulas(texts: list[str]) -> None:
    """Texts of the store are as conversions write them: without spaces around them, and no number is a text."""
    row = {f"note {number}": text for number, text in enumerate(texts)}
    record = record_from_row({"Age": "=70", **row}, table=BASELINE, path="x", subject=S)
    committed = SubjectRecord(
        format_version=2,
        package_version="0",
        converted="",
        images={},
        arrays={},
        files={},
        stamps={},
        clinical=record.values,
        clinical_unread=dict(record.unread),
        problems=(),
        seal=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        _write_tables(Path(folder), {S: committed}, pd.DataFrame())
        (file,) = Path(folder).rglob("*baseline.csv")
        (back,) = rows_from_table(file.read_bytes(), path=file.name)
        people = (Path(folder) / "participants.tsv").read_bytes().decode()
        tables = [pd.read_csv(file), pd.read_csv(io.StringIO(people), sep="\t")]
    again = record_from_row(back, table=BASELINE, path="x", subject=S)
    assert {name: value for name, value in again.values.items() if value is not None} == {
        name: value for name, value in record.values.items() if value is not None
    }
    assert again.unread == record.unread
    assert len(people.splitlines()) == 2
    cells = [cell for table in tables for cell in (*table.columns, *table.iloc[0]) if isinstance(cell, str)]
    assert not [
        cell for cell in cells if re.match(r"\s*[=+\-@\uff1d]", cell) and not re.fullmatch(r"[+-]?[\d.,e+-]+", cell)
    ]


def test_an_image_for_nibabel(store: Path, release: Path) -> None:
    scan = isles24_zarr.open_scan(store, S)
    for name, file in (
        ("ncct", f"raw_data/{S}/ses-01/{S}_ses-01_ncct"),
        ("ctp", f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_ctp"),
    ):
        wanted = nib.load(release / f"{file}.nii.gz")
        image = scan.isles.to_nifti(name)
        np.testing.assert_array_equal(image.affine, wanted.affine)
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(wanted.dataobj))
        assert image.get_data_dtype() == wanted.get_data_dtype()
        assert image.header["descrip"] == wanted.header["descrip"]


def test_a_part_for_nibabel(store: Path, release: Path) -> None:
    scan = isles24_zarr.open_scan(store, S)
    part = scan["ncct"].isel(x=slice(3, 30, 2), z=slice(None, None, -1))
    image = part.isles.to_nifti()
    wanted = nib.load(release / f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz")
    for voxel in np.random.default_rng(0).integers(0, image.shape, (20, 3)):
        place = np.linalg.solve(wanted.affine, [*nib.affines.apply_affine(image.affine, voxel), 1])[:3]
        index = np.rint(place).astype(int)
        np.testing.assert_allclose(place, index, atol=1e-4)
        assert image.dataobj[tuple(voxel)] == wanted.dataobj[tuple(index)]


def test_version_2_and_scaled_images_for_nibabel(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / f"train/raw_data/{S}/ses-01"
    write(folder / f"{S}_ses-01_ncct.nii.gz", random_voxels((4, 5, 6), ">i2"), version=2, byte_order=">")
    write(folder / f"{S}_ses-01_cta.nii.gz", random_voxels((4, 5, 6), "<i2"), scl_slope=2, scl_inter=-1024)
    isles24_zarr.convert(tmp_path / "train", tmp_path / "x.zarr", client=client, progress=False)
    image = isles24_zarr.open_scan(tmp_path / "x.zarr", S).isles.to_nifti("ncct")
    assert isinstance(image, nib.Nifti2Image)
    wanted = nib.load(folder / f"{S}_ses-01_ncct.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(wanted.dataobj))
    scaled = isles24_zarr.open_scan(tmp_path / "x.zarr", S, "cta").isles.to_nifti("cta")
    closest = nib.as_closest_canonical(nib.load(folder / f"{S}_ses-01_cta.nii.gz"))
    np.testing.assert_array_equal(np.asarray(scaled.dataobj), np.asarray(closest.dataobj))
    np.testing.assert_allclose(scaled.affine, closest.affine, atol=1e-6)


def test_paths_of_a_hostile_store_stay_below_the_destination(store: Path, client: Client, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    for document in (copy / S / "zarr.json", copy / S / "space-ncct/zarr.json", copy / S / "space-ncct/ncct/zarr.json"):
        evil = f"../../evil/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
        document.write_text(document.read_text().replace(f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz", evil))
    report = isles24_zarr.export(copy, tmp_path / "a/b/out", subjects=[S], client=client, progress=False)
    assert [problem.image for problem in report.problems] == [None]
    assert not (tmp_path / "a/evil").exists()
    assert not (tmp_path / "evil").exists()


def test_parts_add_up_to_the_whole(store: Path, client: Client, tmp_path: Path) -> None:
    """Whose rows are there, and whose files: those of all parts; a row goes with its files."""
    isles24_zarr.export(store, tmp_path / "whole", client=client, progress=False)
    names = ["sub-stroke0002", "sub-stroke0001", "sub-stroke0004"]
    for name in names:
        isles24_zarr.export(store, tmp_path / "parts", subjects=[name], client=client, progress=False)
    for kind in ("tsv", "json"):
        assert (tmp_path / f"parts/participants.{kind}").exists()
    whole, parts = (pd.read_csv(tmp_path / f"{each}/participants.tsv", sep="\t") for each in ("whole", "parts"))
    pd.testing.assert_frame_equal(parts, whole, check_dtype=False)
    isles24_zarr.export(store, tmp_path / "parts", subjects=names[:1], client=client, progress=False)
    again = pd.read_csv(tmp_path / "parts/participants.tsv", sep="\t")
    pd.testing.assert_frame_equal(again, whole, check_dtype=False)
    shutil.rmtree(tmp_path / "parts/phenotype/sub-stroke0001")
    isles24_zarr.export(store, tmp_path / "parts", subjects=names[:1], client=client, progress=False)
    left = pd.read_csv(tmp_path / "parts/participants.tsv", sep="\t", index_col="participant_id")
    assert list(left.index) == ["sub-stroke0002", "sub-stroke0004"]


@pytest.mark.parametrize("text", ["name\tage\nx\t1\n", "", "participant_id\tage\nx\t1\t2\t3\ny\t1\t2\t3\t4\n", "\xff"])
def test_another_table_of_participants_is_not_written_over(store: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "out/participants.tsv"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DestinationError, match="is no table of participants"):
        isles24_zarr.export(store, tmp_path / "out", progress=False)
    assert [each.name for each in path.parent.iterdir()] == ["participants.tsv"]
    assert path.read_bytes() == text.encode("latin-1")


def test_nothing_is_exported_into_the_store(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(shutil.copytree(store, tmp_path / "x.zarr"))
    (tmp_path / "link").symlink_to(own)
    monkeypatch.chdir(own / "phenotype")
    before = sorted(own.rglob("*"))
    for place in (own, own / "out", tmp_path / "link", tmp_path / "link/a/b", "..", ".", "../../x.zarr/out"):
        with pytest.raises(DestinationError, match="is in the store"):
            isles24_zarr.export(own, place, progress=False)
    with pytest.raises(DestinationError, match="is in the store"):
        isles24_zarr.export(tmp_path / "link", own / "out", progress=False)
    assert sorted(own.rglob("*")) == before


def test_wrong_requests(store: Path, release: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError):
        isles24_zarr.export(release, tmp_path / "out", progress=False)
    with pytest.raises(UnknownNameError):
        isles24_zarr.export(store, tmp_path / "out", subjects=["sub-nobody"], progress=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DestinationError):
        isles24_zarr.export(store, tmp_path / "file", progress=False)
