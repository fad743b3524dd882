"""A release that has changed: what is new, changed, missing or touched, and what is pruned because of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import isles24_zarr
from isles24_zarr.errors import NotAStoreError, SourceNotFoundError, UnknownNameError
from tests.clusters import ours
from tests.oracle import arrays_by_source, assert_identical_stores, documents

if TYPE_CHECKING:
    from distributed import Client

S, GONE, LAST = "sub-stroke0001", "sub-stroke0002", "sub-stroke0004"
NCCT = f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
CTA = f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz"
TMAX = f"derivatives/{S}/ses-01/perfusion-maps/{S}_ses-01_space-ncct_tmax.nii.gz"
BASELINE = f"phenotype/{S}/ses-01/{S}_ses-01_demographic_baseline.xlsx"
OUTCOME = f"phenotype/{LAST}/ses-02/{LAST}_ses-02_outcome.xlsx"
NEW = "sub-stroke0009"


@pytest.fixture
def source(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "train"))


@pytest.fixture
def target(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "x.zarr"))


def changed(source: Path) -> None:
    """A new release: a map redrawn, files touched, an image and a table gone, a subject gone, and one that is new."""
    (source / TMAX).write_bytes((source / TMAX.replace("tmax", "mtt")).read_bytes())
    for name in (NCCT, BASELINE):
        os.utime(source / name, (1, 1))
    (source / CTA).unlink()
    (source / OUTCOME).unlink()
    for each in list(source.rglob(GONE)):
        shutil.move(each, each.with_name(NEW))
    for each in list(source.rglob(f"{GONE}_*")):
        each.rename(each.with_name(each.name.replace(GONE, NEW)))


def states(report: Any) -> dict[tuple[str, str | None, str | None], str]:
    return {(each.subject, each.space, each.image): each.state for each in report.differences}


WANTED = {
    (S, "ncct", "tmax"): "changed",
    (S, "ncct", "ncct"): "touched",
    (S, None, None): "touched",
    (S, "cta", "cta"): "missing",
    (LAST, None, None): "missing",
}


def test_diff_by_subject_and_image(source: Path, target: Path) -> None:
    report = isles24_zarr.diff(target, source)
    assert (report.ok, report.differences, report.same) == (True, (), (S, GONE, LAST))
    before = documents(target)
    changed(source)
    report = isles24_zarr.diff(target, source)
    assert not report.ok
    assert (report.new, report.missing, report.same) == ((NEW,), (GONE,), ())
    found = states(report)
    assert {key: state for key, state in found.items() if key[0] in (S, LAST)} == WANTED
    assert {state for key, state in found.items() if key[0] == NEW} == {"new"}
    assert {state for key, state in found.items() if key[0] == GONE} == {"missing"}
    images = {(space, image) for name, space, image in found if name == NEW}
    assert images == {(space, image) for name, space, image in found if name == GONE}
    assert len(images) > 10
    assert documents(target) == before
    assert states(isles24_zarr.diff(target, source, subjects=[LAST])) == {(LAST, None, None): "missing"}
    # what was touched alone is no difference
    shutil.rmtree(source)
    shutil.copytree(Path(json.loads((target / "zarr.json").read_text())["attributes"]["source"]), source)
    os.utime(source / NCCT, (1, 1))
    assert isles24_zarr.diff(target, source).ok


def test_diff_of_what_is_damaged_unreadable_or_not_there(source: Path, target: Path, tmp_path: Path) -> None:
    (target / GONE / "zarr.json").write_text("{")
    os.utime(source / NCCT, (1, 1))
    shutil.copy(source / NCCT, tmp_path / "copy")
    report = isles24_zarr.diff(target, source)
    assert not report.ok
    assert [problem.subject for problem in report.problems] == [GONE]
    assert states(report) == {(S, "ncct", "ncct"): "touched"}
    with pytest.raises(NotAStoreError):
        isles24_zarr.diff(tmp_path, source)
    with pytest.raises(SourceNotFoundError):
        isles24_zarr.diff(target, tmp_path / "none")
    with pytest.raises(UnknownNameError):
        isles24_zarr.diff(target, source, subjects=["sub-none"])


def test_diff_with_an_archive(source: Path, target: Path, tmp_path: Path) -> None:
    """Which has coarser stamps, and is read from front to back: content decides."""
    changed(source)
    archive = shutil.make_archive(str(tmp_path / "new"), "tar", source)
    found = states(isles24_zarr.diff(target, archive, subjects=[S]))
    assert {key: state for key, state in found.items() if state != "touched"} == {
        key: state for key, state in WANTED.items() if key[0] == S and state != "touched"
    }
    assert found[(S, None, None)] == "touched"


def test_diff_by_the_command_line(source: Path, target: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "isles24_zarr", "diff", str(target), *arguments]
        return subprocess.run(line, env=ours(), capture_output=True, text=True, check=False)

    done = run(str(source))
    assert done.returncode == 0, done
    assert done.stdout.startswith("3 subjects are the same")
    changed(source)
    done = run(str(source))
    assert done.returncode == 1, done
    assert "tmax" in done.stdout
    done = run(str(source), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["new"], document["missing"]) == ([NEW], [GONE])
    assert run("/nowhere").returncode == 2
    isles24_zarr.remove(target, S)
    done = run(str(source), "--subject", S)
    assert (done.returncode, f"left out: {S}" in done.stdout) == (0, True)


def test_what_is_gone_is_told_and_pruned_when_that_is_asked_for(
    source: Path, target: Path, client: Client, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"client": client, "progress": False}
    scan = isles24_zarr.open_scan(target, GONE)
    scan.isles.save({"late": scan["tmax"] > 6}, "mine")
    changed(source)
    report = isles24_zarr.convert(source, target, **options)
    told = {problem.path: problem for problem in report.problems if "not in the release any more" in problem.message}
    assert told.keys() == {CTA, OUTCOME, GONE}
    assert {problem.severity for problem in told.values()} == {"notice"}
    assert all("--prune" in problem.message for problem in told.values())
    assert (report.converted, report.removed) == ((NEW,), ())
    assert (target / GONE / "zarr.json").exists()
    report = isles24_zarr.convert(source, target, prune=True, **options)
    assert report.converted == (S, LAST)
    assert report.removed == (GONE,)
    assert report.reasons[S] == f"not in the release any more: {CTA}"
    assert report.images == 1  # the one that changed
    assert CTA not in arrays_by_source(target)
    assert isles24_zarr.open_cohort(target).isles.table.loc[[LAST], "mrs_3month"].isna().all()
    assert isles24_zarr.verify(target, source, **options).problems == ()
    assert isles24_zarr.diff(target, source).ok
    shutil.rmtree(target / "derivatives")
    fresh = tmp_path / "fresh.zarr"
    isles24_zarr.convert(source, fresh, **options)
    assert_identical_stores(fresh, target)
    # who was pruned is as any other where a release has it again
    assert "removed" not in json.loads((target / "zarr.json").read_text())["attributes"]["isles24_zarr"]


def test_pruning_of_named_subjects_is_of_them_alone(source: Path, target: Path, client: Client) -> None:
    changed(source)
    report = isles24_zarr.convert(source, target, subjects=[S], prune=True, client=client, progress=False)
    assert (report.converted, report.removed) == ((S,), ())
    assert (target / GONE / "zarr.json").exists()
    assert (target / LAST / "zarr.json").exists()


def test_nothing_is_pruned_for_a_release_that_cannot_be_listed_whole(
    source: Path, target: Path, client: Client, tmp_path: Path
) -> None:
    changed(source)
    (source / "raw_data" / "elsewhere").symlink_to(tmp_path)
    report = isles24_zarr.convert(source, target, prune=True, client=client, progress=False)
    assert not report.ok
    assert "nothing of the store is pruned" in str(report.problems)
    assert report.removed == ()
    assert (target / GONE / "zarr.json").exists()
    assert CTA in arrays_by_source(target)


def test_versions_are_pruned_too(source: Path, target: Path, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("icechunk")
    options: dict[str, Any] = {"client": client, "progress": False, "icechunk": tmp_path / "repo"}
    isles24_zarr.convert(source, target, **options)
    changed(source)
    isles24_zarr.convert(source, target, **options)
    url = f"icechunk://{tmp_path}/repo"
    assert GONE in isles24_zarr.open_cohort(url).isles.subjects
    isles24_zarr.convert(source, target, prune=True, **options)
    assert isles24_zarr.open_cohort(url).isles.subjects == [S, LAST, NEW]
    assert isles24_zarr.diff(url, source).ok
    assert isles24_zarr.verify(url, source, client=client, progress=False).problems == ()
