"""A second conversion does what is missing or changed, says why, and never trades a good subject for a worse one."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import openpyxl
import pandas as pd
import pytest
import xarray as xr

import isles24_zarr
from isles24_zarr.conversion import _commit as commit
from isles24_zarr.conversion import resume
from isles24_zarr.errors import StoreLockedError, StoreWriteError
from tests.nifti_files import random_voxels, write
from tests.oracle import arrays_by_source, assert_identical_stores, assert_same_image, chunk_files, documents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from isles24_zarr.conversion.converting import ConvertReport

S, OTHER = "sub-stroke0001", "sub-stroke0002"
NCCT = f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
TMAX = f"derivatives/{S}/ses-01/perfusion-maps/{S}_ses-01_space-ncct_tmax.nii.gz"
BASELINE = f"phenotype/{S}/ses-01/{S}_ses-01_demographic_baseline.xlsx"
DICTIONARY = "clinical_data-description.xlsx"


@pytest.fixture
def source(release: Path, tmp_path: Path) -> Path:
    """A release of one's own, times included."""
    return shutil.copytree(release, tmp_path / "train")


@pytest.fixture
def target(source: Path, client: Client, tmp_path: Path) -> Path:
    """Its store."""
    isles24_zarr.convert(source, tmp_path / "x.zarr", client=client, progress=False)
    return tmp_path / "x.zarr"


def again(source: Path, target: Path, client: Client) -> ConvertReport:
    return isles24_zarr.convert(source, target, client=client, progress=False)


def test_a_changed_image_is_redone_alone(source: Path, target: Path, client: Client) -> None:
    shape = isles24_zarr.open_scan(target, S)["tmax"].shape[::-1]
    before = {name: path.stat().st_mtime_ns for name, path in chunk_files(target).items()}
    file = source / TMAX
    with gzip.open(file) as opened:
        header = opened.read(352)
    write(file, random_voxels(shape, "<f4", 3))
    with gzip.open(file) as opened:
        voxels = opened.read()[352:]
    file.write_bytes(gzip.compress(header + voxels))
    report = again(source, target, client)
    assert report.reasons == {S: f"new or changed: {TMAX}"}
    assert (report.converted, report.images) == ((S,), 1)
    assert_same_image(file, arrays_by_source(target)[TMAX], shift=1e-3)
    after = {name: path.stat().st_mtime_ns for name, path in chunk_files(target).items()}
    written = {name.split("/c/")[0] for name in after if before.get(name) != after[name] and name.startswith("sub-")}
    assert {name for name in written if name.split("/")[-1] not in {"x", "y", "z", "time"}} == {f"{S}/space-ncct/tmax"}
    assert not any(name.startswith(OTHER) for name in written)


def test_touched_files_are_read_and_nothing_is_written_of_them(source: Path, target: Path, client: Client) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in chunk_files(target).items()}
    was = documents(target)
    for name in (NCCT, BASELINE):
        os.utime(source / name, (1, 1))
    report = again(source, target, client)
    assert (report.converted, report.reasons, report.images) == ((), {}, 0)
    assert report.touched == {S: (BASELINE, NCCT)} or report.touched == {S: (NCCT, BASELINE)}
    assert S in report.unchanged
    now = documents(target)
    times = was[f"{S}/zarr.json"]["attributes"]["isles24_zarr"]["times"]
    assert now[f"{S}/zarr.json"]["attributes"]["isles24_zarr"]["times"]["stamps"][NCCT] == "1000000000"
    now[f"{S}/zarr.json"]["attributes"]["isles24_zarr"]["times"] = times
    assert now == was
    after = {name: path.stat().st_mtime_ns for name, path in chunk_files(target).items()}
    assert {name for name in after if before[name] != after[name]} <= {n for n in after if n.startswith("phenotype/")}
    third = again(source, target, client)
    assert (third.converted, third.touched) == ((), {})
    assert isles24_zarr.verify(target, source, client=client, progress=False).ok


def test_changed_files_are_told_from_touched_ones(source: Path, target: Path, client: Client) -> None:
    (source / TMAX).write_bytes((source / TMAX.replace("tmax", "mtt")).read_bytes())
    os.utime(source / NCCT, (1, 1))
    report = again(source, target, client)
    assert report.reasons == {S: f"new or changed: {TMAX}; 1 file touched, same content"}
    assert (report.touched, report.images) == ({S: (NCCT,)}, 1)
    # a value of a table that takes as many bytes as before
    book = openpyxl.load_workbook(source / BASELINE)
    header = [cell.value for cell in book.active[1]]
    for age in (71, 72):
        book.active.cell(2, header.index("Age") + 1).value = age
        book.save(source / BASELINE)
        assert again(source, target, client).converted == (S,)
        assert isles24_zarr.open_cohort(target).isles.table.loc[S, "age"] == age


def test_a_new_image_and_a_changed_table(source: Path, target: Path, client: Client) -> None:
    old = source / f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz"
    aside = old.rename(source.parent / "cta.nii.gz")
    shutil.rmtree(target)
    again(source, target, client)
    aside.rename(old)
    book = openpyxl.load_workbook(source / BASELINE)
    header = [cell.value for cell in book.active[1]]
    book.active.cell(2, header.index("Age") + 1).value = 101
    book.save(source / BASELINE)
    report = again(source, target, client)
    assert report.converted == (S,)
    assert report.reasons[S].startswith("new or changed: ")
    assert "and 1 more" in report.reasons[S]
    assert report.images == 1
    assert isles24_zarr.open_cohort(target).isles.table.loc[S, "age"] == 101
    assert old.relative_to(source).as_posix() in arrays_by_source(target)


def test_a_newer_package_redoes_all(
    source: Path, target: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = commit.PACKAGE_VERSION
    monkeypatch.setattr(commit, "PACKAGE_VERSION", "99.0")
    monkeypatch.setattr(resume, "PACKAGE_VERSION", "99.0")
    report = again(source, target, client)
    assert set(report.reasons.values()) == {f"written by version {old}"}
    assert len(report.converted) == 3
    assert again(source, target, client).converted == ()


def test_a_changed_dictionary_changes_the_table_alone(source: Path, target: Path, client: Client) -> None:
    book = openpyxl.load_workbook(source / DICTIONARY)
    row = next(row for row in book["Suppl. Tab. 1"].iter_rows() if row[1].value == "Age")
    row[4].value = "years since birth"
    book.save(source / DICTIONARY)
    report = again(source, target, client)
    assert report.converted == ()
    with xr.open_zarr(target / "phenotype") as table:
        assert table["age"].attrs["description"] == "years since birth"


def test_files_that_vanish_cost_nothing(source: Path, target: Path, client: Client) -> None:
    (source / NCCT).unlink()
    (source / BASELINE).write_bytes((source / BASELINE).read_bytes() + b"\0")
    before = documents(target)
    report = again(source, target, client)
    assert report.converted == ()
    (problem,) = [problem for problem in report.problems if problem.path == NCCT]
    assert "is not in the release any more; the subject stays as it was" in problem.message
    assert documents(target)[f"{S}/zarr.json"] == before[f"{S}/zarr.json"]
    forced = isles24_zarr.convert(source, target, subjects=[S], overwrite=True, client=client, progress=False)
    assert forced.converted == (S,)
    assert NCCT not in arrays_by_source(target)


def test_a_damaged_table_costs_no_values(source: Path, target: Path, client: Client) -> None:
    whole = (source / BASELINE).read_bytes()
    before = documents(target)
    (source / BASELINE).write_bytes(whole[:3000])
    write(source / NCCT, random_voxels((20, 20, 8), "int16", 3))
    report = again(source, target, client)
    assert (report.ok, report.converted) == (False, ())
    (problem,) = [problem for problem in report.problems if problem.path == BASELINE]
    assert "the subject stays as it was converted before, use --overwrite to convert what there is" in problem.message
    after = documents(target)
    assert {name: after[name] for name in before if name.startswith(S)} == {
        name: before[name] for name in before if name.startswith(S)
    }
    # asked for, what there is is converted; then there is nothing to lose by the table, and other files count again
    forced = isles24_zarr.convert(source, target, subjects=[S], overwrite=True, client=client, progress=False)
    assert forced.converted == (S,)
    assert np.isnan(isles24_zarr.open_cohort(target).isles.table.loc[S, "age"])
    write(source / NCCT, random_voxels((20, 20, 8), "int16", 4))
    assert again(source, target, client).converted == (S,)
    (source / BASELINE).write_bytes(whole)
    assert again(source, target, client).converted == (S,)
    expected = pd.read_excel(source / BASELINE).iloc[0]
    assert isles24_zarr.open_cohort(target).isles.table.loc[S, "age"] == expected["Age"]


def test_a_failed_update_leaves_the_subjects_whose_turn_has_not_come(
    source: Path, target: Path, client: Client, tmp_path: Path
) -> None:
    names = sorted(folder.name for folder in (source / "raw_data").iterdir())
    for name in names:
        file = source / NCCT.replace(S, name)
        image = nib.load(file)
        write(file, np.asarray(image.dataobj).astype("int16")[::-1], image.affine)
    folders = [target / name / "space-ncct" / "ncct" for name in names]
    for folder in folders:
        if subprocess.run(["chattr", "+i", folder], check=False).returncode:
            pytest.skip("folders of this file system cannot be made immutable")
    try:
        with pytest.raises(StoreWriteError):
            isles24_zarr.convert(source, target, workers=1, progress=False)
    finally:
        for folder in folders:
            subprocess.run(["chattr", "-i", folder], check=True)
    whole = [name for name in names if (target / name / "zarr.json").exists()]
    assert 0 < len(whole) < len(names)
    assert isles24_zarr.verify(target, subjects=whole, fast=True, client=client, progress=False).ok
    assert set(again(source, target, client).converted) == set(names)
    isles24_zarr.convert(source, tmp_path / "new.zarr", client=client, progress=False)
    assert_identical_stores(tmp_path / "new.zarr", target)


def unlink(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def garble(path: Path) -> None:
    path.write_text('{"zarr_format": 3, "attrib')


def edit(path: Path) -> None:
    document = json.loads(path.read_text())
    del document["attributes"]["isles24_zarr"]["times"]
    document["attributes"]["isles24_zarr"]["images"] = "all"
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (unlink, f"{S}/space-ncct/tmax/c/0/0/0"),
        (truncate, f"{S}/space-ncct/ncct/c/0/0/0"),
        (unlink, f"{S}/space-ncct/lvo_mask/zarr.json"),
        (garble, f"{S}/space-ncct/tmax/zarr.json"),
        (unlink, f"{S}/space-ctp/zarr.json"),
        (unlink, f"{S}/zarr.json"),
        (garble, f"{S}/zarr.json"),
        (edit, f"{S}/zarr.json"),
        (unlink, "phenotype/zarr.json"),
        (shutil.rmtree, S),
        (shutil.rmtree, "phenotype"),
    ],
)
def test_what_was_lost_is_written_again(
    source: Path, target: Path, client: Client, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    whole = shutil.copytree(target, tmp_path / "whole.zarr")
    damage(target / name)
    report = again(source, target, client)
    assert report.ok
    assert set(report.converted) <= {S}
    if damage is unlink and "/c/" in name:
        assert report.reasons == {S: f"{name} is lost or damaged"}
    assert_identical_stores(whole, target)


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def replace_and_cut(path: Path) -> None:
    """A file that says other things of its voxels, and has not all of them."""
    write(path, random_voxels((20, 20, 8), "float32", 3))
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize("damage", [unlink, garble, edit])
@pytest.mark.parametrize("loss", [unlink, cut_header, replace_and_cut])
def test_voxels_without_a_commit_outlive_their_file(
    source: Path,
    target: Path,
    client: Client,
    tmp_path: Path,
    damage: Callable[[Path], None],
    loss: Callable[[Path], None],
) -> None:
    """As after a run that was killed while it replaced the subject, or with a document that is damaged."""
    whole = shutil.copytree(target, tmp_path / "whole.zarr")
    file = shutil.copy(source / NCCT, tmp_path)
    damage(target / S / "zarr.json")
    loss(source / NCCT)
    write(source / NCCT.replace(S, OTHER), random_voxels((20, 20, 8), "int16", 3))
    report = again(source, target, client)
    assert (report.ok, report.converted) == (False, (OTHER,))
    assert S not in report.unchanged
    (problem,) = [problem for problem in report.problems if problem.path == NCCT and problem.subject == S]
    option = "--prune" if loss is unlink else "--overwrite"
    assert f"nothing reads it, as it is not whole; use {option} to convert what there is" in problem.message
    # its file is back: all is as before, and no voxel is written again
    shards = (target / S / "space-ncct" / image / "c/0/0/0" for image in ("ncct", "tmax", "lvo_mask"))
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shards}
    shutil.copy(file, source / NCCT)
    assert again(source, target, client).converted == (S,)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == kept
    assert_identical_stores(whole / S, target / S)
    # asked for, what there is is converted
    damage(target / S / "zarr.json")
    loss(source / NCCT)
    gone = loss is unlink
    forced = isles24_zarr.convert(
        source, target, subjects=[S], prune=gone, overwrite=not gone, client=client, progress=False
    )
    assert forced.converted == (S,)
    assert NCCT not in arrays_by_source(target)


def test_an_edited_clinical_value_does_not_get_into_the_table(
    source: Path, target: Path, client: Client, tmp_path: Path
) -> None:
    """Nor when another subject is converted: the table is made anew of what is committed, and sealed."""
    before = isles24_zarr.open_cohort(target).isles.table
    path = target / S / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["age"] = 17.0
    path.write_text(json.dumps(document))
    write(source / NCCT.replace(S, OTHER), random_voxels((20, 20, 8), "int16", 3))
    assert isles24_zarr.convert(source, target, subjects=[OTHER], client=client, progress=False).converted == (OTHER,)
    assert S not in isles24_zarr.open_cohort(target).isles.table.index
    report = isles24_zarr.export(target, tmp_path / "out", workers=1, progress=False)
    assert [each.subject for each in report.problems if "was edited after it was written" in each.message] == [S]
    assert not list((tmp_path / "out").rglob(f"*{S}*.nii.gz"))
    assert again(source, target, client).converted == (S,)
    assert isles24_zarr.open_cohort(target).isles.table.loc[S, "age"] == before.loc[S, "age"] != 17


def test_what_no_commit_knows_is_cleared_away(source: Path, target: Path, client: Client, tmp_path: Path) -> None:
    whole = shutil.copytree(target, tmp_path / "whole.zarr")
    shutil.copytree(target / S / "space-cta", target / S / "space-old")
    shutil.copytree(target / S / "space-ncct" / "tmax", target / S / "space-ncct" / "ttp")
    (target / S / "zarr.json.0123.partial").write_text("{")
    (target / S / "zarr.json").unlink()
    again(source, target, client)
    assert_identical_stores(whole, target)


def test_a_lock_is_respected_and_does_not_outlive_its_holder(source: Path, target: Path, client: Client) -> None:
    script = (
        f"import fcntl, os, sys, time; fcntl.flock(os.open({str(target)!r}, 0), fcntl.LOCK_EX); print(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-u", "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreLockedError, match="another process is writing into it"):
            again(source, target, client)
        holder.send_signal(signal.SIGKILL)
    assert again(source, target, client).ok


def test_the_second_of_two_conversions_stops_at_once(release: Path, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    command = [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(target), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        while not (target / "zarr.json").exists():
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=60)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: {target}: another process is writing into it")
    assert first.returncode == 0
    assert_identical_stores(store, target)


def test_documents_hold_times_in_one_place(source: Path, target: Path) -> None:
    document = json.loads((target / S / "zarr.json").read_text())
    times = document["attributes"]["isles24_zarr"].pop("times")
    assert times["stamps"][NCCT] == str((source / NCCT).stat().st_mtime_ns)
    assert times["converted"][:4] not in json.dumps(document).replace(str(source), "")
