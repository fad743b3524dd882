"""Icechunk repositories: what comes out is what was committed, each version is whole, and what is lost is an error."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

import isles24_zarr
from isles24_zarr.conversion import _versions as versions
from isles24_zarr.errors import (
    DestinationError,
    MissingExtraError,
    NotAStoreError,
    StoreAccessError,
    StoreDamageError,
    StoreLockedError,
    StoreWriteError,
    UnknownNameError,
)
from isles24_zarr.store import repository
from isles24_zarr.store.objects import StorePlace, listed_keys
from isles24_zarr.store.repository import Place
from tests.clusters import ours, process, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client

icechunk = pytest.importorskip("icechunk")


def opened(path: Path) -> Any:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))


def subjects(url: str) -> list[str]:
    found: list[str] = isles24_zarr.open_cohort(url).isles.subjects
    return found


@pytest.fixture(scope="module")
def repo(release: Path, store: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of all tests, copied, and committed; tests must not change it."""
    folder = tmp_path_factory.mktemp("versions")
    shutil.copytree(store, folder / "x.zarr")
    report = isles24_zarr.convert(release, folder / "x.zarr", icechunk=folder / "repo", client=client, progress=False)
    assert not report.converted
    assert list(report.snapshots) == subjects(str(store))
    return folder / "repo"


def test_every_object_comes_back(repo: Path, store: Path) -> None:
    found = opened(repo).readonly_session("main").store
    paths = [path for path in store.rglob("*") if path.is_file()]
    for path in paths:
        key = path.relative_to(store).as_posix()
        copy = sync(found.get(key, default_buffer_prototype()))
        assert copy is not None, key
        # the table is made anew, of the same values
        assert key.startswith("phenotype/") or copy.to_bytes() == path.read_bytes(), key
    assert len(listed_keys(found, "sub-stroke0001")) == sum("sub-stroke0001" in path.parts for path in paths)


def test_every_image_by_zarr_alone(repo: Path, store: Path) -> None:
    session = opened(repo).readonly_session("main")
    found = zarr.open_group(session.store, mode="r", use_consolidated=False)
    wanted = zarr.open_group(store, mode="r", use_consolidated=False)
    members = dict(wanted.members(max_depth=None))
    assert dict(found.members(max_depth=None)).keys() == members.keys()
    for path, node in members.items():
        copy = found[path]
        assert dict(copy.attrs) == dict(node.attrs), path
        if isinstance(node, zarr.Array):
            np.testing.assert_array_equal(copy[...], node[...], err_msg=path)


def test_scans_and_the_cohort_are_the_same(repo: Path, store: Path, client: Client) -> None:
    url = f"icechunk://{repo}"
    cohort, plain = isles24_zarr.open_cohort(url), isles24_zarr.open_cohort(store)
    xr.testing.assert_identical(cohort["phenotype"].to_dataset(), plain["phenotype"].to_dataset())
    assert cohort.attrs == plain.attrs
    for name in cohort.isles.subjects:
        for space in ("ncct", "ctp"):
            for chunks in ("auto", None):
                scan = isles24_zarr.open_scan(url, name, space, chunks=chunks)
                xr.testing.assert_identical(scan.load(), isles24_zarr.open_scan(store, name, space).load())
    rows = cohort.isles.map(lambda scan: scan.isles.volume("lesion_mask"), client=client, progress=False)
    assert rows["error"].isna().all()
    lazy = isles24_zarr.open_scan(url, "sub-stroke0001")["ctp"].mean()
    assert client.compute(lazy).result().item() == pytest.approx(float(lazy.compute(scheduler="synchronous")))


def test_verify_and_export_read_a_repository(repo: Path, release: Path, client: Client, tmp_path: Path) -> None:
    url = f"icechunk://{repo}"
    assert isles24_zarr.verify(url, release, client=client, progress=False).problems == ()
    assert isles24_zarr.export(url, tmp_path / "tree", client=client, progress=False).ok
    assert len(list(tmp_path.rglob("*.nii.gz"))) == len(list(release.rglob("*.nii.gz")))


# --- versions ---


def test_one_commit_a_subject_and_each_is_a_whole_store(repo: Path, store: Path, client: Client) -> None:
    history = list(opened(repo).ancestry(branch="main"))[::-1][1:]
    names = subjects(str(store))
    assert [each.metadata["subject"] for each in history] == names
    for count, each in enumerate(history, start=1):
        url = f"icechunk://{repo}?snapshot={each.id}"
        assert subjects(url) == names[:count]
        assert isles24_zarr.verify(url, fast=True, client=client, progress=False).ok
        isles24_zarr.open_scan(url, names[count - 1])
        for later in names[count:]:
            with pytest.raises(UnknownNameError):
                isles24_zarr.open_scan(url, later)


def test_branches_tags_and_snapshots(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    staging, place = tmp_path / "x.zarr", tmp_path / "repo"
    shutil.copytree(store, staging)
    options: dict[str, Any] = {"client": client, "progress": False}
    first = isles24_zarr.convert(release, staging, icechunk=place, **options)
    assert not isles24_zarr.convert(release, staging, icechunk=place, **options).snapshots
    last = list(first.snapshots.values())[-1]
    opened(place).create_tag("v1", last)
    changed = tmp_path / "train"
    shutil.copytree(release, changed)
    mask = next(changed.rglob("sub-stroke0002*lesion-msk.nii.gz"))
    mask.write_bytes(next(changed.rglob("sub-stroke0002*lvo-msk.nii.gz")).read_bytes())
    second = isles24_zarr.convert(changed, staging, icechunk=f"icechunk://{place}?branch=new", **options)
    assert list(second.snapshots) == ["sub-stroke0002"]
    before = isles24_zarr.open_scan(store, "sub-stroke0002")["lesion_mask"].values
    after = isles24_zarr.open_scan(staging, "sub-stroke0002")["lesion_mask"].values
    assert (before != after).any()
    for version, wanted in (("", before), ("?tag=v1", before), (f"?snapshot={last}", before), ("?branch=new", after)):
        url = f"icechunk://{place}{version}"
        np.testing.assert_array_equal(isles24_zarr.open_scan(url, "sub-stroke0002")["lesion_mask"].values, wanted)
        assert isles24_zarr.verify(url, client=client, progress=False).ok


def test_an_interrupted_run_is_resumed(
    release: Path, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, place = tmp_path / "x.zarr", tmp_path / "repo"
    shutil.copytree(store, staging)
    copy = versions._copy
    count = 0

    def interrupted(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:  # a subject, a table, and in the midst of the second subject
            sync(args[1].delete_dir(args[2]))
            raise KeyboardInterrupt
        copy(*args)

    monkeypatch.setattr(versions, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        isles24_zarr.convert(release, staging, icechunk=place, client=client, progress=False)
    names = subjects(str(store))
    assert subjects(f"icechunk://{place}") == names[:1]
    assert isles24_zarr.verify(f"icechunk://{place}", client=client, progress=False).ok
    monkeypatch.setattr(versions, "_copy", copy)
    report = isles24_zarr.convert(release, staging, icechunk=place, client=client, progress=False)
    assert list(report.snapshots) == names[1:]
    assert subjects(f"icechunk://{place}") == names


def test_by_the_command_line(release: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "x.zarr")
    line = [sys.executable, "-m", "isles24_zarr"]
    convert = [*line, "convert", str(release), "x.zarr", "--icechunk", "repo"]
    for said in ("repo: 3 subjects committed", "repo: 0 subjects committed"):
        done = subprocess.run(convert, cwd=tmp_path, env=ours(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert "WARN" not in done.stderr
    info = [*line, "info", "icechunk://repo"]
    done = subprocess.run(info, cwd=tmp_path, env=ours(), capture_output=True, text=True, check=True)
    assert "3 subjects, format version 2" in done.stdout
    done = subprocess.run(
        [*line, "info", "icechunk://repo?tag=none"],
        cwd=tmp_path,
        env=ours(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: icechunk://{tmp_path}/repo?tag=none: has no tag 'none'; it has none"]


# --- a bucket ---


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A bucket of a server in a process of its own; gives the options to reach it."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    def made() -> bool:
        put = urllib.request.Request(f"{address}/versions", method="PUT")  # noqa: S310 - on this machine
        try:
            return bool(urllib.request.urlopen(put, timeout=10).status == 200)  # noqa: S310
        except OSError:
            return False

    with process(*command, env=ours(), cwd=tmp_path):
        until(made)
        yield {
            "endpoint_url": address,
            "key": "testing",
            "secret": "testing",
            "client_kwargs": {"region_name": "us-east-1"},
        }


def test_a_repository_in_a_bucket(
    bucket: dict[str, Any],
    release: Path,
    store: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(store, tmp_path / "x.zarr")
    options: dict[str, Any] = {"client": client, "progress": False, "storage_options": bucket}
    for count in (3, 0):
        report = isles24_zarr.convert(release, tmp_path / "x.zarr", icechunk="s3://versions/isles24", **options)
        assert len(report.snapshots) == count
    url = "icechunk+s3://versions/isles24"
    assert isles24_zarr.verify(url, **options).ok
    scan = isles24_zarr.open_scan(url, "sub-stroke0001", storage_options=bucket)
    xr.testing.assert_identical(scan.load(), isles24_zarr.open_scan(store, "sub-stroke0001").load())
    with pytest.raises(NotAStoreError, match="there is no Icechunk repository"):
        isles24_zarr.open_cohort(f"{url}-2", storage_options=bucket)
    # the same options as for a store in S3, also by the names of obstore
    own = {"endpoint": bucket["endpoint_url"], "access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
    assert isles24_zarr.open_cohort(url, storage_options={"s3": own}).isles.subjects == subjects(str(store))
    with pytest.raises(StoreAccessError, match=r"an option is unknown to Icechunk \(endpont\)"):
        isles24_zarr.open_cohort(url, storage_options={**own, "endpont": 1})
    with pytest.raises(StoreAccessError, match="there are no credentials for it"):
        isles24_zarr.open_cohort(url, storage_options={"profile": "none"})
    (tmp_path / "credentials").write_text("[stroke]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    profile = {
        "endpoint_url": bucket["endpoint_url"],
        "region": "us-east-1",
        "profile": "stroke",
        "retry_config": {"max_retries": 3},
    }
    assert isles24_zarr.open_cohort(url, storage_options=profile).isles.subjects == subjects(str(store))


# --- what goes wrong ---


def test_lost_data_are_an_error(repo: Path, client: Client, tmp_path: Path) -> None:
    damaged = tmp_path / "repo"
    shutil.copytree(repo, damaged)
    for chunk in (damaged / "chunks").iterdir():
        if chunk.stat().st_size > 10_000:  # the smaller ones are coordinates
            chunk.unlink()
    url = f"icechunk://{damaged}"
    scan = isles24_zarr.open_scan(url, "sub-stroke0001", chunks=None)
    with pytest.raises(StoreDamageError, match="sub-stroke0001/space-ncct/ctp/c/0/0/0/0: cannot be read"):
        scan["ctp"].load()
    found = isles24_zarr.verify(url, client=client, progress=False)
    assert any("sub-stroke0001/space-ncct/ctp/c/0/0/0/0: cannot be read" in str(problem) for problem in found.problems)


def test_a_shard_that_a_version_lacks_is_an_error(repo: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "repo"
    shutil.copytree(repo, damaged)
    session = opened(damaged).writable_session("main")
    sync(session.store.delete("sub-stroke0001/space-ncct/lvo_mask/c/0/0/0"))
    session.commit("a shard less")
    scan = isles24_zarr.open_scan(f"icechunk://{damaged}", "sub-stroke0001", chunks=None)
    with pytest.raises(StoreDamageError, match="lvo_mask/c/0/0/0: is lost"):
        scan["lvo_mask"].load()


def test_a_store_that_has_lost_something_is_not_committed(store: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "x.zarr"
    shutil.copytree(store, damaged)
    (damaged / "sub-stroke0001/space-ncct/ctp/c/0/0/0/0").unlink()
    place = versions.repository_place(str(tmp_path / "repo"), {})
    with pytest.raises(StoreDamageError, match="is lost"):
        versions.commit_versions(LocalStore(damaged, read_only=True), place, {}, {}, progress=False)
    assert len(list(opened(tmp_path / "repo").ancestry(branch="main"))) == 1


def nothing(place: Path) -> None:
    assert not place.exists()


def a_folder(place: Path) -> None:
    place.mkdir()
    (place / "zarr.json").write_text("{}")


def not_ours(place: Path) -> None:
    session = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place))).writable_session("main")
    zarr.create_group(session.store)
    session.commit("something else")


@pytest.mark.parametrize(
    ("prepare", "version", "error", "what"),
    [
        (not_ours, "", DestinationError, "holds something else"),
        (a_folder, "", DestinationError, "is a folder with something else in it"),
        (nothing, "?tag=v1", UnknownNameError, "commits go to a branch"),
        (nothing, "?version=v1", UnknownNameError, "names no version"),
        (lambda place: place.write_text("a file"), "", StoreWriteError, "cannot be written"),
    ],
)
def test_places_that_cannot_be_committed_to(
    release: Path,
    tmp_path: Path,
    prepare: Callable[[Path], Any],
    version: str,
    error: type[Exception],
    what: str,
) -> None:
    prepare(tmp_path / "repo")
    place = f"icechunk://{tmp_path}/repo{version}"
    with pytest.raises(error, match=what):
        isles24_zarr.convert(release, tmp_path / "x.zarr", icechunk=place, progress=False)
    assert not (tmp_path / "x.zarr").exists()


def test_a_repository_and_its_store_are_places_of_their_own(release: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x.zarr")
    for inner, outer in (
        ("x.zarr", "x.zarr"),
        ("x.zarr/repo", "x.zarr"),
        ("link", "x.zarr"),
        ("repo", "repo/x.zarr"),
        ("s3://b/x.zarr/repo", "s3://b/x.zarr"),
    ):
        names = [each if "://" in each else str(tmp_path / each) for each in (inner, outer)]
        with pytest.raises(DestinationError, match="is in the store"):
            versions.repository_place(names[0], {}, StorePlace.of(names[1]))
    assert [each.name for each in tmp_path.iterdir()] == ["link"]
    versions.repository_place(str(tmp_path / "x.zarr-versions"), {}, StorePlace.of(tmp_path / "x.zarr"))
    with pytest.raises(DestinationError, match="is in the store"):
        isles24_zarr.convert(release, tmp_path / "y.zarr", icechunk=tmp_path / "y.zarr/versions", progress=False)
    assert not (tmp_path / "y.zarr").exists()


def test_who_commits_meanwhile_is_told_of(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = versions.repository_place(str(tmp_path / "repo"), {})
    copy = versions._copy

    def interfering(*args: Any) -> None:
        other = opened(tmp_path / "repo").writable_session("main")
        zarr.create_group(other.store, path="other", overwrite=True)
        other.commit("meanwhile")
        copy(*args)

    monkeypatch.setattr(versions, "_copy", interfering)
    with pytest.raises(StoreWriteError, match="another process has committed to main meanwhile"):
        versions.commit_versions(LocalStore(store, read_only=True), place, {}, {}, progress=False)
    with StorePlace.of(tmp_path / "repo").locked(), pytest.raises(StoreLockedError):
        versions.commit_versions(LocalStore(store, read_only=True), place, {}, {}, progress=False)


def test_what_cannot_be_opened(repo: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url, error, what in (
        (f"icechunk://{tmp_path}/none", NotAStoreError, "there is no Icechunk repository"),
        (f"icechunk://{repo}?branch=none", UnknownNameError, "has no branch 'none'; it has main"),
        (f"icechunk://{repo}?snapshot=none", UnknownNameError, "has no snapshot 'none'"),
    ):
        with pytest.raises(error, match=what):
            isles24_zarr.open_cohort(url)
    with pytest.raises(DestinationError, match="is written by commits"):
        isles24_zarr.convert(release, f"icechunk://{repo}", progress=False)
    monkeypatch.setitem(sys.modules, "icechunk", None)
    with pytest.raises(MissingExtraError, match=r"isles24-zarr\[icechunk\]"):
        isles24_zarr.open_cohort(f"icechunk://{repo}")


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Place.of("icechunk://repo").root == str(tmp_path / "repo")
    bucket = Place.of("icechunk+s3://bucket/a/b/?tag=v 1")
    assert (bucket.root, bucket.in_bucket, bucket.kind, bucket.name) == ("bucket/a/b", True, "tag", "v 1")
    assert Place.of(bucket.url) == bucket
    assert StorePlace.of("icechunk://repo").url == f"icechunk://{tmp_path}/repo"
    for url in ("icechunk://", "icechunk+s3://"):
        with pytest.raises(NotAStoreError, match="names no place"):
            Place.of(url)
    assert repository.is_versioned("icechunk://x")
    assert not repository.is_versioned("s3://x")
