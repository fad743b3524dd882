"""Results that are damaged, half written, killed for, in buckets and in versions; and originals that change under them.

Processes are real, and so are the signals. Oracles are zarr-python and NumPy.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr

import isles24_zarr
from isles24_zarr.derivatives import _commit
from isles24_zarr.errors import StoreDamageError, StoreLockedError, StoreWriteError, UnknownNameError, VoxelTypeError
from tests.nifti_files import write
from tests.test_derivatives import (
    S,
    assert_originals_untouched,
    files_of,
    half,
    no_current_client,
    opened,
    target,
    verified,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

__all__ = ["no_current_client", "target"]

SECONDS = 120


@pytest.fixture
def saved(target: Path) -> Path:
    scan = opened(target)
    scan.isles.save({"late": scan["tmax"] > 6, "half": scan["ncct"] / 2}, "mine")
    return target


GROUP = f"derivatives/mine/{S}"
SHARD = "space-ncct/half/c/0/0/0"


@pytest.mark.parametrize(
    ("spoil", "path", "words"),
    [
        (lambda folder: flip(folder / SHARD, 100), f"{GROUP}/{SHARD}", "cannot be read"),
        (lambda folder: cut(folder / SHARD), f"{GROUP}/{SHARD}", "bytes"),
        (lambda folder: (folder / SHARD).unlink(), f"{GROUP}/{SHARD}", "is lost"),
        (lambda folder: (folder / "space-ncct/x/c/0").unlink(), f"{GROUP}/space-ncct/x/c/0", "is lost"),
        (lambda folder: edit(folder / "zarr.json"), f"{GROUP}/zarr.json", "edited"),
        (lambda folder: edit(folder / "space-ncct/late/zarr.json"), f"{GROUP}/space-ncct/late/zarr.json", "edited"),
        (lambda folder: edit(folder.parent / "zarr.json"), "derivatives/mine/zarr.json", "edited"),
        (lambda folder: edit(folder.parent.parent / "zarr.json"), "derivatives/zarr.json", "edited"),
        (lambda folder: (folder / "space-ncct/late/c.0.0.0").touch(), f"{GROUP}/space-ncct/late/c.0.0.0", "no shard"),
        (lambda folder: (folder / "notes.txt").touch(), f"{GROUP}/notes.txt", "not listed"),
        (lambda folder: (folder / "zarr.json").unlink(), f"{GROUP}/zarr.json", f"mine lists results of {S}"),
        (shutil.rmtree, f"{GROUP}/zarr.json", f"is lost: the pipeline mine lists results of {S}"),
        (lambda folder: shutil.rmtree(folder.parent), "derivatives/mine/zarr.json", "lists the pipeline"),
    ],
)  # fmt: skip
def test_damage_is_named(saved: Path, spoil: Any, path: str, words: str) -> None:
    assert verified(saved) == []
    spoil(saved / GROUP)
    report = isles24_zarr.verify(saved, workers=1, progress=False)
    assert not report.ok
    found = [problem for problem in report.problems if words in problem.message]
    assert path in {problem.path for problem in found}, report.problems
    assert all(problem.path.startswith("derivatives") for problem in report.problems)
    if path.startswith(GROUP):
        assert {problem.subject for problem in found} == {S}
    # the images are not concerned
    assert isles24_zarr.verify(saved, subjects=["sub-stroke0002"], workers=1, progress=False).ok is (
        not path.startswith(("derivatives/mine/z", "derivatives/z"))
    )


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def edit(path: Path) -> None:
    document = json.loads(path.read_text())
    document["attributes"]["long_name"] = "another"
    path.write_text(json.dumps(document, indent=2))


@pytest.mark.parametrize("name", ["half", "x", ""])
def test_results_whose_documents_were_edited_are_not_read(saved: Path, tmp_path: Path, name: str) -> None:
    """Of the array, of a coordinate and of the grid, in the document that is read; voxels are as they were."""
    path = saved / GROUP / "zarr.json"
    document = json.loads(path.read_text())
    members = document["consolidated_metadata"]["metadata"]
    members[f"space-ncct/{name}".rstrip("/")]["attributes"]["long_name"] = "another"
    path.write_text(json.dumps(document))
    with pytest.raises(StoreDamageError, match="space-ncct: was edited after it was written"):
        opened(saved, pipeline="mine")
    report = isles24_zarr.export(saved, tmp_path / "out", subjects=[S], pipelines=["mine"], workers=1, progress=False)
    assert [each.path for each in report.problems if "was edited after it was written" in each.message] == [GROUP]
    assert list((tmp_path / "out").rglob("*desc-half*")) == []


def test_swapped_shards_are_found_by_their_checksums(saved: Path) -> None:
    """Each is whole, its CRCs are right, and the voxels are others."""
    scan = opened(saved)
    scan.isles.save({"half": scan["ncct"] / 4}, "other")
    shard = f"{S}/space-ncct/half/c/0/0/0"
    size = (saved / "derivatives/mine" / shard).stat().st_size
    shutil.copy(saved / "derivatives/other" / shard, saved / "derivatives/mine" / shard)
    document = (saved / f"derivatives/mine/{S}/space-ncct/half/zarr.json").read_text()
    new = (saved / "derivatives/mine" / shard).stat().st_size
    found = verified(saved)
    assert found
    assert all(line.startswith(f"derivatives/mine/{S}/space-ncct/half") for line in found)
    assert ("checksum" in found[0]) is (size == new) or "bytes" in found[0], document


def test_half_written_results_are_never_opened(saved: Path) -> None:
    other = isles24_zarr.open_scan(saved, "sub-stroke0002")

    def leave() -> None:
        """Voxels of one of whom the pipeline has committed nothing."""
        folder = shutil.copytree(saved / GROUP, saved / "derivatives/mine/sub-stroke0002")
        (folder / "zarr.json").unlink()

    leave()
    with pytest.raises(UnknownNameError, match="has no results"):
        isles24_zarr.open_scan(saved, "sub-stroke0002", pipeline="mine")
    (told,) = verified(saved)
    assert "did not end: " in told
    assert "derive, save or add it again" in told
    other.isles.save({"late": other["tmax"] > 8}, "mine")  # what was left is cleared away
    assert list(isles24_zarr.open_scan(saved, "sub-stroke0002", pipeline="mine")) == ["late"]
    assert verified(saved) == []
    isles24_zarr.remove(saved, "sub-stroke0002", derivative="mine")
    leave()
    isles24_zarr.remove(saved, derivative="mine")
    assert verified(saved) == []


def subjects_listed(target: Path) -> Any:
    return zarr.open_group(target, mode="r")["derivatives/mine"].attrs.get("subjects")


def test_lost_results_can_be_saved_again_or_removed(saved: Path) -> None:
    assert subjects_listed(saved) == [S]
    other = isles24_zarr.open_scan(saved, "sub-stroke0002")
    other.isles.save({"late": other["tmax"] > 8}, "mine", version="2")
    assert subjects_listed(saved) == [S, "sub-stroke0002"]
    shutil.rmtree(saved / GROUP)
    (problem,) = isles24_zarr.verify(saved, workers=1, progress=False).problems
    assert (problem.path, problem.subject, problem.severity) == (f"{GROUP}/zarr.json", S, "error")
    assert isles24_zarr.verify(saved, subjects=["sub-stroke0002"], workers=1, progress=False).problems == ()
    scan = opened(saved)
    scan.isles.save({"late": scan["tmax"] > 8}, "mine")
    assert verified(saved) == []
    shutil.rmtree(saved / GROUP)
    isles24_zarr.remove(saved, S, derivative="mine")
    assert subjects_listed(saved) == ["sub-stroke0002"]
    assert verified(saved) == []
    # a pipeline whose document cannot be read can be taken out still
    (saved / "derivatives/mine/zarr.json").write_text("{")
    isles24_zarr.remove(saved, derivative="mine")
    assert verified(saved) == []


def contents(target: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_of(target).items()}


def one_of_two_fails(scan: xr.Dataset) -> dict[str, Any]:
    """The second is found to be something else when the shard of the first is written, but for one subject."""
    good = scan["ncct"] / 2
    kind = "int64" if scan.attrs["subject"] != "sub-stroke0004" else good.dtype
    return {"a": good, "b": good.copy(data=good.data.map_blocks(lambda block: block.astype(kind), dtype=good.dtype))}


@pytest.mark.parametrize("on_workers", [False, True])
def test_what_fails_leaves_nothing_behind(target: Path, client: Client, *, on_workers: bool) -> None:
    scan, given = opened(target), client if on_workers else None
    cohort = isles24_zarr.open_cohort(target)
    before = contents(target)
    with pytest.raises(VoxelTypeError, match="computed as int64"):
        scan.isles.save(one_of_two_fails(scan), "mine", client=given)
    assert contents(target) == before
    rows = cohort.isles.derive(one_of_two_fails, "mine", subjects=[S], client=given, progress=False)
    assert rows["state"].tolist() == ["failed"]
    assert contents(target) == before
    assert verified(target) == []
    # beside results that were committed, by others and of others: these stay
    scan.isles.save({"late": scan["tmax"] > 6}, "mine")
    before = contents(target)
    with pytest.raises(VoxelTypeError):
        scan.isles.save(one_of_two_fails(scan), "mine", client=given)
    assert contents(target) == before
    rows = cohort.isles.derive(one_of_two_fails, "mine", client=given, progress=False)
    assert rows["state"].tolist() == ["failed", "failed", "written"]
    assert subjects_listed(target) == [S, "sub-stroke0004"]
    assert list(opened(target, pipeline="mine")) == ["late"]
    assert verified(target) == []


def test_what_failed_first_is_told_and_what_it_left_is_not_hidden(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise StoreLockedError(str(target), "was lost")

    monkeypatch.setattr(_commit, "take_back", lost)
    scan = opened(target)
    with pytest.raises(VoxelTypeError, match="computed as int64") as raised:
        scan.isles.save(one_of_two_fails(scan), "mine")
    (note,) = raised.value.__notes__
    assert note.startswith(f"what was written of {S} could not be taken out again: {target}: was lost;")


def test_a_file_that_fails_leaves_nothing_behind(saved: Path, release: Path, tmp_path: Path) -> None:
    source = next(release.glob(f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"))
    whole, cut_short = (Path(tmp_path / f"{S}_{name}.nii.gz") for name in ("whole", "half"))
    shutil.copy(source, whole)
    shutil.copy(source, cut_short)
    cut(cut_short)
    before = contents(saved)
    assert not isles24_zarr.add(saved, "mine", [cut_short], overwrite=True).ok
    assert not isles24_zarr.add(saved, "other", [cut_short]).ok
    assert contents(saved) == before
    report = isles24_zarr.add(saved, "mine", [cut_short, whole], overwrite=True)
    assert list(report.added) == [f"{GROUP}/space-ncct/whole"]
    assert verified(saved) == []
    scan = opened(saved)
    np.testing.assert_array_equal(opened(saved, pipeline="mine")["half"], scan["ncct"].values / 2)


def test_a_commit_that_fails_keeps_the_earlier_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isles24_zarr.writing import _results

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before, scan = contents(saved), opened(saved)
    with monkeypatch.context() as patch:
        patch.setattr(_results, "write_subject", full)
        with pytest.raises(StoreWriteError, match="No space left"):
            scan.isles.save({"half": scan["ncct"] / 4}, "mine", overwrite=True)
    assert contents(saved) == before


@pytest.mark.parametrize("lost", [False, True])
def test_damage_is_not_committed_with_the_next_result(saved: Path, *, lost: bool) -> None:
    """Of an array beside the new ones, what was committed counts, and not what its document has become."""
    path = saved / GROUP / "space-ncct/half/zarr.json"
    before = path.read_bytes()
    if lost:
        path.unlink()
    else:
        edit(path)
    assert len(isles24_zarr.verify(saved, workers=1, progress=False).problems) == 1
    scan = opened(saved)
    scan.isles.save({"third": scan["ncct"]}, "mine")
    assert path.read_bytes() == before
    commit = json.loads((saved / GROUP / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert commit["space-ncct/half"] == json.loads(before)
    assert list(opened(saved, pipeline="mine")) == ["half", "late", "third"]
    assert verified(saved) == []


def test_a_run_that_was_killed_before_or_after_its_commit(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: left over. After it, and before the pipeline lists it: whole, read, and told. Neither is lost."""
    from isles24_zarr.writing import _results

    class Killed(BaseException):
        """As SIGKILL, nothing of ours catches it."""

    def killed(*_: Any) -> None:
        raise Killed

    (saved / "derivatives/mine/zarr.json").write_bytes(b"")
    isles24_zarr.remove(saved, derivative="mine")
    cohort = isles24_zarr.open_cohort(saved)
    for name, words in (("write_subject", "left over"), ("list_subjects", "is not listed by the pipeline mine")):
        with monkeypatch.context() as patch:
            patch.setattr(_results, name, killed)
            with pytest.raises(Killed):
                opened(saved).isles.save(half(opened(saved)), "mine", overwrite=True)
        (problem,) = isles24_zarr.verify(saved, workers=1, progress=False).problems
        assert words in problem.message
        assert problem.severity == ("error" if name == "write_subject" else "notice")
    assert list(opened(saved, pipeline="mine")) == ["half"]
    cohort.isles.derive(half, "mine", subjects=[S], overwrite=True, progress=False)
    assert verified(saved) == []
    # and a removal that was killed in between is no loss
    with monkeypatch.context() as patch:
        patch.setattr("isles24_zarr.derivatives.removing.remove_node", killed)
        with pytest.raises(Killed):
            isles24_zarr.remove(saved, S, derivative="mine")
    assert "is not listed by the pipeline mine" in verified(saved)[0]
    rows = cohort.isles.derive(half, "mine", subjects=[S], progress=False)
    assert rows["state"].tolist() == ["kept"]  # and listed
    assert subjects_listed(saved) == [S]
    assert verified(saved) == []


def test_pipelines_without_a_list_of_subjects_are_read_and_get_one(saved: Path) -> None:
    """As they were written before there was one."""
    from isles24_zarr.format import seal

    path = saved / "derivatives/mine/zarr.json"
    document = json.loads(path.read_text())
    del document["attributes"]["subjects"]
    document["attributes"]["isles24_zarr"]["seal"] = seal(document)
    path.write_text(json.dumps(document))
    assert verified(saved) == []
    assert list(opened(saved, pipeline="mine")) == ["half", "late"]
    other = isles24_zarr.open_scan(saved, "sub-stroke0002")
    other.isles.save({"late": other["tmax"] > 8}, "mine")
    assert subjects_listed(saved) == [S, "sub-stroke0002"]
    assert verified(saved) == []


@pytest.mark.parametrize("place", ["x", "x/zarr.json", "mine/sub-stroke0002", "mine/sub-stroke0002/zarr.json"])
def test_what_cannot_be_read_hides_no_other_damage(saved: Path, place: str) -> None:
    """A link to itself is neither file nor folder, whoever asks; a plain file is no group."""
    path = saved / "derivatives" / place
    path.parent.mkdir(exist_ok=True)
    (saved / GROUP / "space-ncct/half/zarr.json").unlink()
    (other,) = verified(saved)
    path.symlink_to(path.name)
    found = verified(saved)
    assert other in found
    told = [line for line in found if line.startswith(f"derivatives/{place}")]
    assert told
    assert all("Too many levels of symbolic links" in line for line in told)
    if path.name != "zarr.json":
        path.unlink()
        path.write_bytes(b"")
        assert any("is an object where a group should be" in line for line in verified(saved))


def test_a_damaged_document_is_no_crash(saved: Path, release: Path, tmp_path: Path) -> None:
    (saved / GROUP / "zarr.json").write_text("{")
    with pytest.raises(StoreDamageError):
        opened(saved, pipeline="mine")
    assert "is not a Zarr document" in str(verified(saved))
    scan = opened(saved)
    # results whose voxels are whole are not deleted unasked
    before = files_of(saved)
    words = rf"{GROUP}/zarr.json.*overwrite=True replaces all results.*'remove'"
    with pytest.raises(StoreDamageError, match=words) as raised:
        scan.isles.save({"third": scan["ncct"]}, "mine")
    assert "\n" not in str(raised.value)
    row = isles24_zarr.open_cohort(saved).isles.derive(half, "mine", subjects=[S], progress=False).loc[S]
    assert row["state"] == "failed"
    assert re.search(words, row["error"])
    file = tmp_path / f"{S}_ses-01_mine_mask.nii.gz"
    shutil.copy(next(release.glob(f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz")), file)
    report = isles24_zarr.add(saved, "mine", [file])
    assert not report.ok
    (problem,) = report.problems
    assert re.search(words, f"{problem.path}: {problem.message}")
    assert files_of(saved).keys() == before.keys()
    scan.isles.save({"late": scan["tmax"] > 8}, "mine", overwrite=True)
    assert verified(saved) == []


def test_originals_that_were_converted_again_are_told(
    release: Path,
    target: Path,
    tmp_path: Path,
    client: Client,
) -> None:
    """Results stay, and it is said that they were made from what was there before."""
    cohort = isles24_zarr.open_cohort(target)
    cohort.isles.derive(half, "halves", progress=False)
    source = Path(shutil.copytree(release, tmp_path / "train"))
    unchanged = isles24_zarr.convert(source, target, client=client, progress=False)
    assert unchanged.ok
    assert verified(target) == []
    before = files_of(target / "derivatives")
    contents = {name: path.read_bytes() for name, path in before.items()}
    tmax = next(source.glob(f"derivatives/{S}/ses-01/perfusion-maps/*tmax.nii.gz"))
    import nibabel as nib

    image = nib.load(tmax)
    write(tmax, np.asarray(image.dataobj) + np.float32(1), image.affine)
    report = isles24_zarr.convert(source, target, client=client, progress=False)
    assert report.converted == (S,)
    assert {name: path.read_bytes() for name, path in files_of(target / "derivatives").items()} == contents
    checked = isles24_zarr.verify(target, workers=1, progress=False)
    assert checked.ok
    (told,) = checked.problems
    assert (told.path, told.subject, told.severity) == (f"derivatives/halves/{S}/space-ncct/half", S, "notice")
    assert f"{S}/space-ncct/tmax" in told.message
    done = subprocess.run(
        [sys.executable, "-m", "isles24_zarr", "info", str(target), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["pipelines"][0]["outdated"] == [S]
    # derived anew, for this subject alone
    rows = isles24_zarr.open_cohort(target).isles.derive(half, "halves", progress=False)
    assert rows["state"].tolist() == ["written", "kept", "kept"]
    assert verified(target) == []
    again = isles24_zarr.convert(source, target, overwrite=True, client=client, progress=False)
    assert again.ok
    assert verified(target) == []
    assert isles24_zarr.open_cohort(target).isles.pipelines == ["halves"]


# --- killed ---

SLOW = """
import sys, time
import numpy as np
import isles24_zarr

def slow(scan):
    def wait(block):
        time.sleep(0.05)
        return block + np.float32({step})
    return {{"a": scan["ncct"].astype(np.float32).copy(data=scan["ncct"].astype(np.float32).data.map_blocks(wait)),
             "b": scan["tmax"] > {step}}}

if __name__ == "__main__":
    cohort = isles24_zarr.open_cohort(sys.argv[1])
    print("ready", flush=True)
    rows = cohort.isles.derive(slow, "slow", progress=False, overwrite={overwrite}, version="{step}")
    print(rows["state"].tolist())
"""


def run(path: Path, folder: Path, *, step: int, overwrite: bool = False) -> subprocess.Popen[str]:
    script = folder / "slow_functions.py"
    script.write_text(SLOW.format(step=step, overwrite=overwrite))
    return subprocess.Popen(
        [sys.executable, str(script), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def check_values(path: Path, allowed: set[int]) -> list[int]:
    """Whatever is committed is whole: all of one run, for this package and for zarr-python."""
    steps = []
    cohort = isles24_zarr.open_cohort(path)
    for name in cohort.isles.subjects:
        try:
            found = cohort.isles.scan(name, pipeline="slow").load()
        except UnknownNameError:
            continue
        scan = cohort.isles.scan(name)
        difference = np.unique(found["a"].values - scan["ncct"].values.astype(np.float32))
        assert difference.size == 1
        step = int(difference[0])
        assert step in allowed
        plain = zarr.open_group(path, mode="r")[f"derivatives/slow/{name}/space-ncct"]
        assert np.unique(plain["a"][...] - scan["ncct"].values).size == 1
        steps.append(step)
    return steps


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_while_deriving(target: Path, store: Path, tmp_path: Path) -> None:
    """Killed again and again, what is there is whole; a later run completes it."""
    for seconds in np.linspace(0.0, 1.5, 6):
        kill_after(run(target, tmp_path, step=1), seconds)
        check_values(target, {1})
        for line in verified(target):
            assert line.startswith("derivatives/slow/")
            assert " as a run was ended" in line or " by a run that did not end" in line
    with run(target, tmp_path, step=1) as process:
        assert process.communicate(timeout=SECONDS)[0].startswith("ready")
    assert check_values(target, {1}) == [1, 1, 1]
    # no leftovers, though runs had been killed
    assert verified(target) == []
    # and while results are replaced, the old ones are read until the new ones are there
    for seconds in np.linspace(0.0, 1.5, 6):
        kill_after(run(target, tmp_path, step=2, overwrite=True), seconds)
        assert len(check_values(target, {1, 2})) == 3
    with run(target, tmp_path, step=2, overwrite=True) as process:
        process.communicate(timeout=SECONDS)
    assert check_values(target, {2}) == [2, 2, 2]
    assert verified(target) == []
    assert_originals_untouched(store, target)


class Killed(BaseException):
    """As SIGKILL, nothing of ours catches it."""


@contextlib.contextmanager
def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Stop what runs inside before a single write or deletion; tell whether it was stopped."""
    from zarr.storage import LocalStore

    left, stopped = [steps], [False]

    def counted(usual: Any) -> Any:
        async def act(self: LocalStore, *args: Any, **options: Any) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            await usual(self, *args, **options)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", counted(LocalStore.set))
        patch.setattr(LocalStore, "delete", counted(LocalStore.delete))
        try:
            yield stopped
        except Killed:
            stopped[0] = True


def test_each_step_of_a_commit_leaves_a_whole(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each single write, as by SIGKILL: old or new results, never half of them."""
    scan = opened(target)
    scan.isles.save({"a": scan["ncct"] + 1, "b": scan["ncct"] + 1}, "mine")
    number = 2
    for steps in range(200):
        with killed_after(steps, monkeypatch) as stopped:
            scan.isles.save({"a": scan["ncct"] + number, "b": scan["ncct"] + number}, "mine", overwrite=True)
        found = opened(target, pipeline="mine")
        plain = zarr.open_group(target, mode="r")[f"derivatives/mine/{S}/space-ncct"]
        added = {int(np.unique(found[name].values - scan["ncct"].values)[0]) for name in ("a", "b")}
        assert len(added) == 1
        assert added <= {number, number - 1}
        for name in ("a", "b"):
            assert np.unique(plain[name][...] - scan["ncct"].values).size == 1
        if not stopped[0]:
            break
        if added == {number}:
            number += 1
    assert not stopped[0]
    assert steps > 8
    assert verified(target) == []


@pytest.mark.parametrize("beside", [None, "other"], ids=["first of the store", "beside another"])
def test_each_step_of_a_first_commit_loses_nothing(
    target: Path, beside: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What verify tells of a first run that was stopped is what it left over, once, and no damage to anything else."""
    scan = opened(target)
    if beside:
        scan.isles.save({"a": scan["ncct"] + 1}, beside)
    told = []
    for steps in range(200):
        with killed_after(steps, monkeypatch) as stopped:
            scan.isles.save({"a": scan["ncct"] + 1, "b": scan["ncct"] > 1}, "mine")
        lines = verified(target, fast=True)
        if not stopped[0]:
            break
        assert len(lines) <= 1
        told += [line.partition(": ")[0] for line in lines]
        if (target / "derivatives/mine").exists():
            isles24_zarr.remove(target, derivative="mine")
        assert isles24_zarr.open_cohort(target).isles.pipelines == [beside] * bool(beside)
    assert not stopped[0]
    assert lines == verified(target) == []
    assert set(told) == {"derivatives/mine/", f"derivatives/mine/{S}/", f"derivatives/mine/{S}/zarr.json"}


# --- buckets ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from tests.s3_server import moto_server

    with moto_server(tmp_path_factory.mktemp("moto") / "log") as port:
        yield port


def test_results_in_a_bucket(server: int, store: Path, tmp_path: Path, client: Client) -> None:
    from isles24_zarr.store._lease import Lease
    from tests.s3_server import KEYS, download, s3_client, upload

    s3 = s3_client(server)
    s3.create_bucket(Bucket="results")
    upload(s3, store, "results", "x.zarr")
    url, options = "s3://results/x.zarr", {**KEYS, "endpoint_url": f"http://127.0.0.1:{server}"}
    scan = isles24_zarr.open_scan(url, S, storage_options=options)
    scan.isles.save({"late": scan["tmax"] > 6}, "mine")
    scan.isles.save({"late": scan["tmax"] > 7, "half": scan["ncct"] / 2}, "mine", overwrite=True, client=client)
    cohort = isles24_zarr.open_cohort(url, storage_options=options)
    assert cohort.isles.derive(half, "halves", progress=False)["state"].tolist() == ["written"] * 3
    assert cohort.isles.derive(half, "halves", client=client, progress=False)["state"].tolist() == ["kept"] * 3
    assert cohort.isles.pipelines == ["halves", "mine"]
    found = cohort.isles.scan(S, pipeline="mine")
    np.testing.assert_array_equal(found["late"], scan["tmax"].values > 7)
    report = isles24_zarr.verify(url, workers=1, progress=False, storage_options=options)
    assert report.problems == ()
    lease = Lease(url, options)
    lease.take()
    with pytest.raises(StoreLockedError, match="another process is writing into it"):
        scan.isles.save({"other": scan["ncct"]}, "mine")
    lease.release()
    local = tmp_path / "back.zarr"
    download(s3, "results", "x.zarr", local)
    assert not (local / "isles24-zarr.lock").exists()
    assert_originals_untouched(store, local)
    plain = zarr.open_group(local, mode="r")[f"derivatives/mine/{S}/space-ncct"]
    np.testing.assert_array_equal(plain["half"][...], scan["ncct"].values / 2)
    secrets = [value for value in KEYS.values() if isinstance(value, str)]
    texts = [path.read_text() for path in local.rglob("zarr.json")]
    assert not any(secret in text for secret in secrets if len(secret) > 4 for text in texts)
    assert not any(secret in repr(scan.encoding) for secret in secrets if len(secret) > 4)
    isles24_zarr.remove(url, derivative="mine", storage_options=options)
    assert cohort.isles.pipelines == ["halves"]


# --- versions ---


def test_results_in_versions(release: Path, target: Path, tmp_path: Path, client: Client) -> None:
    icechunk = pytest.importorskip("icechunk")
    cohort = isles24_zarr.open_cohort(target)
    cohort.isles.derive(half, "halves", progress=False)
    folder = tmp_path / "repo"
    report = isles24_zarr.convert(release, target, icechunk=folder, client=client, progress=False)
    assert report.ok
    url = f"icechunk://{folder}"

    def log() -> list[str]:
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
        return [each.message for each in repository.ancestry(branch="main")]

    versioned = isles24_zarr.open_cohort(url)
    assert versioned.isles.pipelines == ["halves"]
    wanted = cohort.isles.scan(S, pipeline="halves")
    xr.testing.assert_equal(versioned.isles.scan(S, pipeline="halves").load(), wanted.load())
    count = len(log())
    isles24_zarr.convert(release, target, icechunk=folder, client=client, progress=False)
    assert len(log()) == count
    # saved into the repository, a commit each
    scan = versioned.isles.scan(S)
    saved = scan.isles.save({"late": scan["tmax"] > 6, "half": scan["ncct"] / 2}, "mine")
    np.testing.assert_array_equal(saved["late"], scan["tmax"].values > 6)
    assert log()[0] == f"mine: {S}"
    scan.isles.save({"late": scan["tmax"] > 7}, "mine", overwrite=True, client=client)
    again = versioned.isles.scan(S, pipeline="mine")
    np.testing.assert_array_equal(again["late"], scan["tmax"].values > 7)
    np.testing.assert_array_equal(again["half"], scan["ncct"].values / 2)
    rows = versioned.isles.derive(half, "again", progress=False)
    assert rows["state"].tolist() == ["written"] * 3
    assert versioned.isles.derive(half, "again", progress=False)["state"].tolist() == ["kept"] * 3
    assert log()[:3] == [f"again: {name}" for name in reversed(versioned.isles.subjects)]
    assert versioned.isles.pipelines == ["again", "halves", "mine"]
    assert isles24_zarr.verify(url, workers=1, progress=False).problems == ()
    isles24_zarr.remove(url, derivative="again")
    assert isles24_zarr.open_cohort(url).isles.pipelines == ["halves", "mine"]
    assert isles24_zarr.verify(url, workers=1, progress=False).problems == ()


def test_replaced_results_in_versions(release: Path, target: Path, tmp_path: Path, client: Client) -> None:
    """Their shards have other keys in the folder; the repository has the same voxels, and is resumed."""
    icechunk = pytest.importorskip("icechunk")
    scan, folder, other = opened(target), tmp_path / "repo", isles24_zarr.open_scan(target, "sub-stroke0002")
    for number in range(4):
        scan.isles.save({"a": scan["ncct"] + number, "b": scan["tmax"]}, "mine", overwrite=True)
        if number == 0:
            other.isles.save({"a": other["ncct"]}, "mine")
            assert not any(path.endswith("c.0.0.0") for path in files_of(target))
            continue
        dotted = [path for path in files_of(target) if path.endswith("c.0.0.0")]
        assert len(dotted) == 2 * (number % 2)
        (target / GROUP / "space-ncct/a/notes.txt").write_text("lies there beside what is committed")
        for again in (False, True):
            report = isles24_zarr.convert(release, target, icechunk=folder, client=client, progress=False)
            assert report.ok
            assert ("mine" in report.snapshots) is not again
        url = f"icechunk://{folder}"
        assert isles24_zarr.verify(url, workers=1, progress=False).problems == ()
        found = isles24_zarr.open_scan(url, S, pipeline="mine")
        np.testing.assert_array_equal(found["a"], scan["ncct"].values + number)
        np.testing.assert_array_equal(found["b"], scan["tmax"].values)
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
        plain = zarr.open_group(repository.readonly_session("main").store, mode="r", use_consolidated=False)
        np.testing.assert_array_equal(plain[f"{GROUP}/space-ncct/a"][...], scan["ncct"].values + number)
    # a new seal is none for what was edited
    scan.isles.save({"a": scan["ncct"]}, "mine", overwrite=True)
    edit(target / GROUP / "zarr.json")
    with pytest.raises(StoreDamageError, match="was edited"):
        isles24_zarr.convert(release, target, icechunk=folder, client=client, progress=False)


def test_files_in_versions(release: Path, target: Path, tmp_path: Path, client: Client) -> None:
    """On several grids; and one that cannot be read neither comes in nor takes out what it was to replace."""
    pytest.importorskip("icechunk")
    isles24_zarr.convert(release, target, icechunk=tmp_path / "repo", client=client, progress=False)
    url, files = f"icechunk://{tmp_path}/repo", []
    for name in ("ncct", "cta"):
        files.append(tmp_path / f"{S}_{name}.nii.gz")
        shutil.copy(next(release.glob(f"raw_data/{S}/ses-01/*_{name}.nii.gz")), files[-1])
    report = isles24_zarr.add(url, "reader", files)
    assert sorted(report.added) == [f"derivatives/reader/{S}/space-{name}/{name}" for name in ("cta", "ncct")]
    cut(files[0])
    assert not isles24_zarr.add(url, "reader", files, overwrite=True).ok
    assert not isles24_zarr.add(url, "other", files).ok
    assert isles24_zarr.verify(url, workers=1, progress=False).problems == ()
    scan = isles24_zarr.open_scan(url, S)
    again = isles24_zarr.open_scan(url, S, pipeline="reader")
    np.testing.assert_array_equal(again["ncct"], scan["ncct"].values)


def test_memory_and_secrets_stay_out(target: Path) -> None:
    scan = opened(target)
    scan.isles.save({"half": scan["ncct"] / 2}, "mine")
    for path in (target / "derivatives").rglob("zarr.json"):
        assert str(target) not in path.read_text()
