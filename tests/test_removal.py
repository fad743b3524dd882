"""Consent that is withdrawn: subjects go, all of them and nobody else, whenever it is interrupted.

The oracle is a conversion of the release without them, nibabel through zarr-python for those who stay, and the bytes of
all files for the names and values of those who go.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import isles24_zarr
from isles24_zarr.errors import (
    RemovedSubjectError,
    StoreAccessError,
    StoreLockedError,
    StoreWriteError,
    UnknownNameError,
)
from isles24_zarr.format import seal
from tests.clusters import ours
from tests.oracle import assert_identical_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

GONE, S, LAST = "sub-stroke0002", "sub-stroke0001", "sub-stroke0004"
SECONDS = 120


@pytest.fixture(scope="module")
def without(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a conversion of the release gives that never had one of its subjects."""
    folder = tmp_path_factory.mktemp("without")
    shutil.copytree(release, folder / "train")
    for each in list((folder / "train").rglob(GONE)):
        shutil.rmtree(each)
    assert isles24_zarr.convert(folder / "train", folder / "x.zarr", client=client, progress=False).ok
    return folder / "x.zarr"


@pytest.fixture
def target(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "x.zarr"))


@pytest.fixture(scope="module")
def with_results(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With results of a pipeline of all, and of one of the subject alone; tests must not change it."""
    path = Path(shutil.copytree(store, tmp_path_factory.mktemp("results") / "x.zarr"))
    for name in (S, GONE, LAST):
        scan = isles24_zarr.open_scan(path, name)
        scan.isles.save({"late": scan["tmax"] > 6}, "mine")
        if name == GONE:
            scan.isles.save({"half": scan["ncct"] / 2}, "alone")
    return path


@pytest.fixture(scope="module")
def small(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two images a subject, for tests that go through every object; tests must not change it."""
    path = tmp_path_factory.mktemp("small") / "x.zarr"
    isles24_zarr.convert(release, path, images=["ncct", "cow_mask"], client=client, progress=False)
    for name in (S, GONE, LAST):
        scan = isles24_zarr.open_scan(path, name)
        scan.isles.save({"late": scan["ncct"] > 6}, "mine")
    return path


@pytest.fixture
def derived(with_results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_results, tmp_path / "x.zarr"))


def verified(target: Path | str, **options: Any) -> list[str]:
    """Documents, sizes and what is there; voxels are read where a client is given."""
    report = isles24_zarr.verify(target, fast="client" not in options, progress=False, **options)
    return [f"{problem.path}: {problem.message}" for problem in report.problems]


def files_with(folder: Path, text: str) -> list[str]:
    """What in its name or its bytes has a text."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    found = [path for path in paths if text.encode() in path.read_bytes() or text in str(path.relative_to(folder))]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def recorded(target: Path) -> Any:
    return json.loads((target / "zarr.json").read_text())["attributes"]["isles24_zarr"]


def without_record(target: Path) -> Path:
    """Drop the names from the root: the only difference to a store that never had them."""
    path = target / "zarr.json"
    document = json.loads(path.read_text())
    assert document["attributes"]["isles24_zarr"].pop("removed") == [GONE]
    document["attributes"]["isles24_zarr"]["seal"] = seal(document)
    path.write_text(json.dumps(document))
    return target


def test_what_is_left_is_a_store_that_never_had_the_subject(target: Path, without: Path, client: Client) -> None:
    report = isles24_zarr.remove(target, GONE)
    assert (report.removed, report.problems) == ((GONE,), ())
    assert files_with(target, GONE) == ["zarr.json"]
    assert verified(target, client=client) == []
    assert_identical_stores(without, without_record(target))


def test_forgotten_subjects_leave_no_name(derived: Path, without: Path) -> None:
    report = isles24_zarr.remove(derived, [GONE], forget=True)
    assert report.removed == (f"derivatives/alone/{GONE}", f"derivatives/mine/{GONE}", GONE)
    assert files_with(derived, GONE) == []
    assert verified(derived) == []
    plain = zarr.open_group(derived, mode="r")
    assert plain["derivatives/mine"].attrs["subjects"] == [S, LAST]
    assert plain["derivatives/alone"].attrs["subjects"] == []
    shutil.rmtree(derived / "derivatives")
    assert_identical_stores(without, derived)
    with pytest.raises(UnknownNameError, match=f"{GONE}: not in"):
        isles24_zarr.remove(derived, GONE)


def test_a_column_that_only_the_subject_had_goes_with_it(tmp_path: Path) -> None:
    release = tmp_path / "train"
    isles24_zarr.synthesize(release, subjects=2, scale="tiny")
    table = next(release.glob(f"phenotype/{GONE}/ses-02/*"))
    table.unlink()
    table.with_suffix(".csv").write_text("mRS 3 months,Rare disease\n2,of Fabry\n")
    whole = tmp_path / "rare.zarr"
    isles24_zarr.convert(release, whole, images=["ncct"], workers=1, progress=False)
    assert files_with(whole, "of Fabry")
    isles24_zarr.remove(whole, GONE)
    assert files_with(whole, "of Fabry") == files_with(whole, "rare_disease") == []
    assert "rare_disease" not in isles24_zarr.open_cohort(whole).isles.table
    assert verified(whole) == []


def test_a_removed_subject_stays_out_until_it_is_readmitted(target: Path, release: Path, client: Client) -> None:
    options: dict[str, Any] = {"client": client, "progress": False}
    isles24_zarr.remove(target, GONE)
    report = isles24_zarr.convert(release, target, **options)
    assert report.converted == ()
    (told,) = [problem for problem in report.problems if problem.path == GONE]
    assert told.severity == "notice"
    assert "was removed" in told.message
    assert "--readmit" in told.message
    assert not (target / GONE).exists()
    assert recorded(target)["removed"] == [GONE]
    assert isles24_zarr.verify(target, release, fast=True, **options).problems == ()  # who was removed is not missing
    isles24_zarr.convert(release, target, overwrite=True, **options)
    assert not (target / GONE).exists()
    with pytest.raises(RemovedSubjectError, match=f"{GONE}: was removed from {target} for good; give '--readmit'"):
        isles24_zarr.convert(release, target, subjects=[GONE, S], **options)
    with pytest.raises(UnknownNameError, match="readmit: needs names"):
        isles24_zarr.convert(release, target, readmit=True, **options)
    assert isles24_zarr.convert(release, target, subjects=[GONE], readmit=True, **options).converted == (GONE,)
    assert "removed" not in recorded(target)
    assert isles24_zarr.verify(target, release, **options).problems == ()


def test_of_an_archive_nothing_of_a_removed_subject_is_taken(
    target: Path, release: Path, client: Client, tmp_path: Path
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "train"), "tar", release))
    isles24_zarr.remove(target, GONE)
    report = isles24_zarr.convert(archive, target, client=client, progress=False)
    assert GONE in {problem.path for problem in report.problems}
    assert GONE not in (*report.converted, *report.unchanged)
    assert not (target / GONE).exists()


def test_by_the_command_line(derived: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "isles24_zarr", "remove", "x.zarr", *arguments]
        return subprocess.run(line, cwd=derived.parent, env=ours(), capture_output=True, text=True, check=False)

    for arguments, told in (
        ((), "name the subjects to remove, or a pipeline by 'derivative'"),
        (("sub-none",), "sub-none: not in"),
        (("--derivative", "mine", "--forget"), "forget: belongs to the removal of subjects"),
    ):
        done = run(*arguments)
        assert (done.returncode, told in done.stderr) == (2, True), done
    done = run(GONE, "--json")
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["removed"] == [f"derivatives/alone/{GONE}", f"derivatives/mine/{GONE}", GONE]
    done = run(GONE)
    assert (done.returncode, done.stdout.strip()) == (0, "nothing was left to take out")


# --- what is left is found ---


def leave_folder(target: Path, before: Path) -> None:
    shutil.copytree(before / GONE / "space-cta", target / GONE / "space-cta")


def leave_images(target: Path, before: Path) -> None:
    shutil.copytree(before / GONE, target / GONE)


def leave_row(target: Path, before: Path) -> None:
    shutil.rmtree(target / "phenotype")
    shutil.copytree(before / "phenotype", target / "phenotype")


def leave_results(target: Path, before: Path) -> None:
    shutil.copytree(before / f"derivatives/mine/{GONE}", target / f"derivatives/mine/{GONE}")


def leave_shards(target: Path, before: Path) -> None:
    leave_results(target, before)
    (target / f"derivatives/mine/{GONE}/zarr.json").unlink()


def leave_list(target: Path, before: Path) -> None:
    shutil.copy(before / "derivatives/mine/zarr.json", target / "derivatives/mine/zarr.json")


def leave_partial(target: Path, before: Path) -> None:
    chunk = (before / "phenotype/age/c/0").read_bytes()
    (target / "phenotype/age/c/0.0123.partial").write_bytes(chunk)


@pytest.mark.parametrize(
    "leave", [leave_folder, leave_images, leave_row, leave_results, leave_shards, leave_list, leave_partial]
)
@pytest.mark.parametrize("forget", [False, True])
def test_leftovers_are_found_and_taken_out(derived: Path, tmp_path: Path, leave: Any, forget: bool) -> None:
    before = Path(shutil.copytree(derived, tmp_path / "before.zarr"))
    isles24_zarr.remove(derived, GONE, forget=forget)
    assert verified(derived) == []
    leave(derived, before)
    report = isles24_zarr.verify(derived, workers=1, fast=True, progress=False)
    assert not report.ok
    assert leave is leave_partial or any(GONE in f"{each.path} {each.message}" for each in report.problems)
    assert isles24_zarr.verify(derived, subjects=[S, LAST], workers=1, fast=True, progress=False).ok
    isles24_zarr.remove(derived, S if leave is leave_partial else GONE, forget=forget)
    assert verified(derived) == []
    assert GONE not in str(files_with(derived, GONE)).replace("zarr.json", "")


def test_damaged_documents_keep_no_name(derived: Path) -> None:
    """Neither the table nor the list of a pipeline has to be readable, and none of their bytes stay."""
    for path in ("phenotype/zarr.json", "derivatives/mine/zarr.json", f"{GONE}/zarr.json"):
        (derived / path).write_text((derived / path).read_text()[:-20])
    isles24_zarr.remove(derived, GONE)
    assert files_with(derived, GONE) == ["zarr.json"]
    assert isles24_zarr.open_cohort(derived).isles.subjects == [S, LAST]
    assert verified(derived) == []
    assert recorded(derived)["dictionary"] == ""  # so that the next conversion writes its descriptions again


# --- interrupted ---


class Killed(BaseException):
    """As SIGKILL, nothing of ours catches it."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many writes and deletions are let through; folders are deleted file by file, each of them a step."""
    left = [10**9]
    usual = {name: getattr(LocalStore, name) for name in ("set", "delete")}

    def step() -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    async def set_(self: LocalStore, *args: Any, **options: Any) -> None:
        step()
        await usual["set"](self, *args, **options)

    async def delete(self: LocalStore, key: str) -> None:
        step()
        await usual["delete"](self, key)

    async def delete_dir(self: LocalStore, prefix: str) -> None:
        for path in sorted((self.root / prefix).rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                step()
                path.unlink()
        if (self.root / prefix).is_dir():
            (self.root / prefix).rmdir()

    monkeypatch.setattr(LocalStore, "set", set_)
    monkeypatch.setattr(LocalStore, "delete", delete)
    monkeypatch.setattr(LocalStore, "delete_dir", delete_dir)
    yield left
    left[0] = 10**9


def assert_others_are_read(target: Path, store: Path, storage_options: Any = None) -> None:
    cohort = isles24_zarr.open_cohort(target, storage_options=storage_options)
    names = cohort.isles.subjects
    assert names in ([S, GONE, LAST], [S, LAST])
    for name in (S, LAST):
        scan = cohort.isles.scan(name)
        wanted = zarr.open_group(store, mode="r")[f"{name}/space-ncct/cow_mask"]
        np.testing.assert_array_equal(scan["cow_mask"].values, wanted[...])
        assert set(np.unique(cohort.isles.scan(name, pipeline="mine")["late"].values)) <= {0, 1}
    try:  # whole, or not there
        found = isles24_zarr.open_scan(target, GONE, storage_options=storage_options)
    except UnknownNameError:
        assert names == [S, LAST]
    else:
        found["ncct"].values  # noqa: B018


def test_stopped_before_each_write_and_deletion(small: Path, store: Path, tmp_path: Path, steps: list[int]) -> None:
    """Never half of a store that looks whole; all others are read; the same call completes it."""
    target = tmp_path / "y.zarr"
    for count in range(500):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(small, target, copy_function=os.link)  # files are replaced, never written to
        steps[0] = count
        try:
            isles24_zarr.remove(target, GONE)
        except Killed:
            steps[0] = 10**9
            assert_others_are_read(target, store)
            told = [] if count == 0 else verified(target)
            assert count == 0 or any("removal" in line and GONE in line for line in told), (count, told)
            isles24_zarr.remove(target, GONE)
            done = False
        else:
            done = True
        steps[0] = 10**9
        assert files_with(target, GONE) == ["zarr.json"], count
        assert verified(target) == [], count
        if done:
            break
    assert done
    assert count > 60


def test_a_conversion_finishes_a_removal(
    derived: Path, release: Path, client: Client, steps: list[int], tmp_path: Path
) -> None:
    for count, forget in ((1, False), (30, False), (45, False), (30, True)):
        target = Path(shutil.copytree(derived, tmp_path / f"{count}-{forget}.zarr"))
        steps[0] = count
        with pytest.raises(Killed):
            isles24_zarr.remove(target, GONE, forget=forget)
        steps[0] = 10**9
        report = isles24_zarr.convert(release, target, client=client, progress=False)
        # who is forgotten is one of the release as any other
        assert report.converted == ((GONE,) if forget else ())
        assert verified(target) == []
        assert (target / GONE).exists() is forget
        assert not (target / f"derivatives/alone/{GONE}").exists()


KILLED = """
import os, signal, sys
from zarr.storage import LocalStore
import isles24_zarr

left = int(sys.argv[2])

def counted(usual):
    async def act(self, *args, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        await usual(self, *args, **options)
    return act

if __name__ == "__main__":
    for name in ("set", "delete", "delete_dir"):
        setattr(LocalStore, name, counted(getattr(LocalStore, name)))
    isles24_zarr.remove(sys.argv[1], sys.argv[3])
"""


@pytest.mark.parametrize("count", [2, 50, 78])
def test_kill_9_and_the_same_command_again(derived: Path, store: Path, tmp_path: Path, count: int) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    line = [sys.executable, str(script), str(derived), str(count), GONE]
    done = subprocess.run(line, env=ours(), check=False, timeout=SECONDS)
    assert done.returncode == -9
    assert_others_are_read(derived, store)
    assert any("removal" in line for line in verified(derived))
    command = [sys.executable, "-m", "isles24_zarr", "remove", str(derived), GONE]
    subprocess.run(command, env=ours(), check=True, timeout=SECONDS, capture_output=True)
    assert files_with(derived, GONE) == ["zarr.json"]
    assert verified(derived) == []


def test_an_unfinished_conversion_stays_one(target: Path) -> None:
    path = target / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["state"] = "converting"
    document["attributes"]["isles24_zarr"]["seal"] = seal(document)
    path.write_text(json.dumps(document))
    isles24_zarr.remove(target, GONE)
    assert json.loads(path.read_text())["attributes"]["state"] == "converting"
    (told,) = verified(target)
    assert told.startswith("zarr.json: says that a conversion has not finished")


# --- buckets ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from tests.s3_server import moto_server

    with moto_server(tmp_path_factory.mktemp("moto") / "log") as port:
        yield port


def test_in_a_bucket_whatever_request_fails(server: int, small: Path, store: Path, tmp_path: Path) -> None:
    from isles24_zarr.store._lease import Lease
    from tests.s3_server import Request, download, keys, proxy_to, s3_client, upload

    s3 = s3_client(server)
    s3.create_bucket(Bucket="consent")
    url = "s3://consent/x.zarr"
    with proxy_to(server) as proxy:
        options = {**proxy.options, "retry_config": {"max_retries": 0}}
        upload(s3, small, "consent", "x.zarr")
        lease = Lease(url, options)
        lease.take()
        with pytest.raises(StoreLockedError):
            isles24_zarr.remove(url, GONE, storage_options=options)
        lease.release()
        seen = 0
        for count in (1, 2, 40, 77):
            upload(s3, small, "consent", "x.zarr")
            seen = 0

            def fault(request: Request) -> str | None:
                nonlocal seen
                if request.method in ("PUT", "DELETE", "POST") and "lock" not in request.path:
                    seen += 1
                    return "500" if seen >= count else None  # noqa: B023 - used within the loop
                return None

            proxy.fault = fault
            with pytest.raises((StoreAccessError, StoreWriteError)):
                isles24_zarr.remove(url, GONE, storage_options=options)
            proxy.fault = lambda _: None
            # the server has not let us give it back, and this process lives on
            s3.delete_object(Bucket="consent", Key="x.zarr/isles24-zarr.lock")
            assert_others_are_read(url, store, options)  # type: ignore[arg-type]
            told = verified(url, storage_options=options)
            assert count == 1 or any("removal" in line for line in told)
            isles24_zarr.remove(url, GONE, storage_options=options)
            assert not [key for key in keys(s3, "consent", "x.zarr") if GONE in key]
            assert verified(url, storage_options=options) == []
    back = download(s3, "consent", "x.zarr", tmp_path / "back.zarr")
    assert files_with(back, GONE) == ["zarr.json"]
    target = Path(shutil.copytree(small, tmp_path / "x.zarr"))
    isles24_zarr.remove(target, GONE)
    assert_identical_stores(target, back)


# --- versions ---


def test_of_versions_history_is_told_and_expired(derived: Path, release: Path, client: Client, tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    options: dict[str, Any] = {"client": client, "progress": False}
    place = tmp_path / "repo"
    isles24_zarr.convert(release, derived, icechunk=place, **options)
    url = f"icechunk://{place}"
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
    first = repository.lookup_branch("main")
    repository.create_tag("v1", first)
    repository.create_branch("other", first)
    names = [each.id for each in repository.ancestry(branch="main")]
    shard = max(path.stat().st_size for path in (place / "chunks").iterdir())
    report = isles24_zarr.remove(url, GONE)
    assert report.removed == (f"derivatives/alone/{GONE}", f"derivatives/mine/{GONE}", GONE)
    assert isles24_zarr.open_cohort(url).isles.subjects == [S, LAST]
    log = [each.message for each in repository.ancestry(branch="main")]
    assert log[0] == f"removed: {GONE}"
    assert set(report.history) <= set(names)
    # all snapshots that hold it, and no other, by Icechunk alone
    holding = {id_ for id_ in names if any(GONE in key for key in tree(repository, id_))}
    assert set(report.history) == holding
    told = [problem.message for problem in report.problems]
    assert len(told) == 2
    assert "the branch other holds" in told[0]
    found = isles24_zarr.verify(url, **options)
    assert [problem.message for problem in found.problems] == told
    assert not found.ok
    with pytest.raises(StoreWriteError, match="the branch other holds"):
        isles24_zarr.remove(url, GONE, expire_history=True)
    # the commands that were told are those that do it
    run(told[0], tmp_path)
    (last,) = [problem.message for problem in isles24_zarr.remove(url, GONE).problems]
    assert last.startswith("the tag v1, the snapshot ")
    run(last, tmp_path)
    assert verified(url) == []
    again = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
    assert again.list_tags() == set()
    for id_ in holding:
        with pytest.raises(icechunk.IcechunkError):
            again.readonly_session(snapshot_id=id_)
    for branch in ("main", "other"):
        for each in again.ancestry(branch=branch):
            assert not any(GONE in key for key in tree(again, each.id))
    # voxels are no more among the objects: what is left is what a repository of the others has
    isles24_zarr.remove(derived, GONE)
    fresh = tmp_path / "fresh"
    isles24_zarr.convert(release, derived, icechunk=fresh, **options)
    contents = [sorted(path.read_bytes() for path in (each / "chunks").iterdir()) for each in (place, fresh)]
    big = [[data for data in each if len(data) > 10_000] for each in contents]
    assert big[0] == big[1]
    assert shard > 10_000
    for path in (place / "chunks").iterdir():
        assert GONE.encode() not in path.read_bytes()
    # nothing to do is no commit
    count = len(list(again.ancestry(branch="main")))
    assert isles24_zarr.remove(url, GONE).removed == ()
    assert len(list(again.ancestry(branch="main"))) == count


def tree(repository: Any, snapshot: str) -> list[str]:
    try:
        group = zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r")
    except FileNotFoundError:  # the first one, which is empty
        return []
    return [path for path, _ in group.members(max_depth=None, use_consolidated_for_children=False)]


def run(told: str, folder: Path) -> None:
    """Run the command that a text ends with."""
    _, *arguments = shlex.split(told.partition("run: ")[2])
    line = [sys.executable, "-m", "isles24_zarr", *arguments]
    done = subprocess.run(line, cwd=folder, env=ours(), capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done


def test_history_is_expired_as_the_documentation_says(
    target: Path, release: Path, client: Client, tmp_path: Path
) -> None:
    icechunk = pytest.importorskip("icechunk")
    place = tmp_path / "isles24.icechunk"
    isles24_zarr.convert(release, target, icechunk=place, client=client, progress=False)
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
    repository.create_tag("v1", repository.lookup_branch("main"))
    assert isles24_zarr.remove(f"icechunk://{place}", GONE).history
    page = (Path(__file__).parent.parent / "docs/how-to/updates.md").read_text()
    script = page.partition("python - <<'END'\n")[2].partition("END\n")[0]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=ours(), check=True, timeout=SECONDS)
    assert verified(f"icechunk://{place}") == []
    assert isles24_zarr.remove(f"icechunk://{place}", GONE).history == ()


def test_a_repository_does_not_get_back_whom_it_has_lost(
    derived: Path, release: Path, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("icechunk")
    options: dict[str, Any] = {"client": client, "progress": False, "icechunk": tmp_path / "repo"}
    isles24_zarr.convert(release, derived, **options)
    url = f"icechunk://{tmp_path}/repo"
    isles24_zarr.remove(url, GONE)
    report = isles24_zarr.convert(release, derived, **options)
    assert not report.snapshots
    assert f"was removed from {url} for good" in str(report.problems)
    assert isles24_zarr.open_cohort(url).isles.subjects == [S, LAST]
    # removed from the store as well, and back in both
    isles24_zarr.remove(derived, [GONE, LAST])
    isles24_zarr.convert(release, derived, **options)
    assert isles24_zarr.open_cohort(url).isles.subjects == [S]
    report = isles24_zarr.convert(release, derived, subjects=[GONE], readmit=True, **options)
    assert list(report.snapshots) == [GONE]
    assert isles24_zarr.open_cohort(url).isles.subjects == [S, GONE]
    assert isles24_zarr.open_cohort(derived).isles.subjects == [S, GONE]
    # a subject that is there again by right is no finding; who is not is
    found = verified(url)
    assert all(LAST in line and GONE not in line for line in found)
    assert found
