"""Stores and releases in S3: the same objects as on disk, few requests, and what goes wrong on the way.

The server is moto, in a process of its own; what it holds is looked at with boto3, zarr-python and nibabel.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import fsspec
import nibabel as nib
import numpy as np
import pytest
import zarr
from zarr.storage import ObjectStore

import isles24_zarr
from isles24_zarr.errors import (
    DestinationError,
    MissingExtraError,
    NotAStoreError,
    SourceNotFoundError,
    StoreAccessError,
    StoreDamageError,
    StoreLockedError,
    StoreWriteError,
)
from isles24_zarr.scans.opening import read_path
from isles24_zarr.store._lease import Lease
from isles24_zarr.store.objects import StorePlace, listed_keys
from tests.oracle import assert_identical_stores, images_below, scaling_of, stored_voxels

pytest.importorskip("obstore")
pytest.importorskip("moto.server")

from tests.s3_server import (
    KEYS,
    Proxy,
    Request,
    download,
    environment,
    every,
    keys,
    moto_server,
    proxy_to,
    s3_client,
    upload,
)
from tests.servers import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

S = "sub-stroke0001"
FEW: dict[str, Any] = {"subjects": [S], "images": ["ncct", "ctp", "lesion_mask"], "progress": False}
LOCK = "isles24-zarr.lock"
HASTY = {"read_timeout": 2}
"""So that stalled connections are given up early; how often is left to the library."""
IMPATIENT = {"retry_config": {"max_retries": 0}}
"""So that what fails for good does it soon."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as port:
        yield port


@pytest.fixture(scope="module")
def s3(server: int) -> Any:
    return s3_client(server)


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    with proxy_to(server) as running:
        yield running


@pytest.fixture(scope="module")
def options(server: int) -> dict[str, Any]:
    return {**KEYS, "endpoint_url": f"http://127.0.0.1:{server}"}


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def converted(s3: Any, release: Path, options: dict[str, Any], client: Client) -> str:
    """The release, converted into a bucket; tests must not change it."""
    s3.create_bucket(Bucket="converted")
    url = "s3://converted/deep/isles24.zarr"
    assert isles24_zarr.convert(release, url, client=client, progress=False, storage_options=options).ok
    return url


@pytest.fixture(scope="module")
def few(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject and three images of it, on disk."""
    path = tmp_path_factory.mktemp("few") / "isles24.zarr"
    assert isles24_zarr.convert(release, path, client=client, **FEW).ok
    return path


@pytest.fixture(scope="module")
def few_files(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `few` was converted from, without the rest of the release."""
    folder = tmp_path_factory.mktemp("few") / "train"
    for path in release.rglob("*"):
        wanted = f"/{S}/" in str(path) and any(part in path.name for part in ("ncct.", "ctp.", "lesion-msk", ".xlsx"))
        if path.is_file() and (wanted or path.name.startswith("clinical")):
            (folder / path.relative_to(release)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(release)).write_bytes(path.read_bytes())
    return folder


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isles24_zarr", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(**more), timeout=SECONDS
    )


def flags(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in ("--storage-option", f"{name}={value}")]


# --- the same store ---


def test_a_store_in_s3_is_that_on_disk_object_for_object(s3: Any, store: Path, converted: str, tmp_path: Path) -> None:
    bucket, _, prefix = converted.removeprefix("s3://").partition("/")
    found = download(s3, bucket, prefix, tmp_path / "x.zarr")
    assert not (found / LOCK).exists()
    assert_identical_stores(store, found)


def test_zarr_python_and_nibabel_agree_on_what_is_in_s3(release: Path, converted: str, options: dict[str, Any]) -> None:
    from obstore.store import S3Store

    bucket, _, prefix = converted.removeprefix("s3://").partition("/")
    place: dict[str, Any] = {"endpoint": options["endpoint_url"], "client_options": {"allow_http": True}}
    place |= {"access_key_id": options["key"], "secret_access_key": options["secret"]}
    group = zarr.open_group(ObjectStore(S3Store(bucket, prefix=prefix, **place)), path=S, mode="r")
    arrays = [node for _, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    arrays = [array for array in arrays if "isles24_zarr" in array.attrs]
    assert len(arrays) == 18
    for array in arrays:
        file = release / array.attrs["isles24_zarr"]["source"]["path"]
        assert np.asarray(array[...]).tobytes() == stored_voxels(file).tobytes()


@pytest.mark.parametrize("chunks", ["auto", None], ids=["dask", "numpy"])
def test_scans_are_read_bit_for_bit(release: Path, converted: str, options: dict[str, Any], chunks: str | None) -> None:
    scan = isles24_zarr.open_scan(converted, S, chunks=chunks, storage_options=options)
    for name in scan.data_vars:
        path = release / scan[name].encoding["isles24_zarr"]["source"]["path"]
        wanted = stored_voxels(path)
        if (
            np.issubdtype(wanted.dtype, np.unsignedinteger)
            and scaling_of(path) != (1, 0)
            and scan[name].dtype.kind == "f"
        ):
            wanted = wanted * scaling_of(path)[0] + scaling_of(path)[1]
        assert np.asarray(scan[name].values).tobytes() == wanted.tobytes(), name
        for cut in (np.s_[..., 3, :, :], np.s_[..., 5], np.s_[..., 2:9:3, 1:4, ::7], np.s_[..., [0, 9, 4], :, :]):
            assert np.array_equal(np.asarray(scan[name].data[cut]), wanted[cut], equal_nan=True), (name, cut)
    places = {axis: ("point", [0, 5, 11]) for axis in "zyx"}
    voxels = scan["ctp"].isel(places).values
    assert np.array_equal(voxels, scan["ctp"].values[:, [0, 5, 11], [0, 5, 11], [0, 5, 11]])


def test_a_release_in_s3_is_the_one_on_disk(
    s3: Any, bucket: str, release: Path, few: Path, options: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    upload(s3, release, bucket, "train")
    source = f"s3://{bucket}/train"
    found = isles24_zarr.scan(source, options)
    assert len(found.images) == len(images_below(release))
    target = tmp_path / "x.zarr"
    assert isles24_zarr.convert(source, target, client=client, storage_options=options, **FEW).ok
    assert_identical_stores(few, target)
    again = isles24_zarr.convert(source, target, client=client, storage_options=options, **FEW)
    assert again.unchanged == (S,)
    report = isles24_zarr.verify(target, source, subjects=[S], client=client, progress=False, storage_options=options)
    assert [each.message for each in report.problems] == ["is in the release and not in the store"] * 14


def test_an_archive_in_s3_is_read(
    s3: Any, bucket: str, few_files: Path, few: Path, options: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "train"), "zip", few_files.parent, "train")
    s3.put_object(Bucket=bucket, Key="deep/train.zip", Body=(tmp_path / "train.zip").read_bytes())
    archive, target, given = f"s3://{bucket}/deep/train.zip", tmp_path / "x.zarr", {"s3": options}
    assert isles24_zarr.convert(f"zip://train::{archive}", target, client=client, storage_options=given, **FEW).ok
    assert_identical_stores(few, target)
    assert len(isles24_zarr.scan(f"zip://::{archive}", given).images) == len(images_below(few_files))
    with pytest.raises(SourceNotFoundError, match="is read as it is, or out of an archive"):
        isles24_zarr.scan(f"simplecache::s3://{bucket}/deep", options)


def test_headers_are_read_by_themselves(s3: Any, bucket: str, release: Path, proxy: Proxy) -> None:
    upload(s3, release / "raw_data", bucket, "train/raw_data")
    s3.put_object(Bucket=bucket, Key=f"train/raw_data/{S}/ses-01/{S}_ses-01_ncct.nii", Body=bytes(10**7))
    isles24_zarr.scan(f"s3://{bucket}/train", proxy.options)
    ranges = [
        each.headers["range"].removeprefix("bytes=").split("-") for each in proxy.requests if "range" in each.headers
    ]
    assert ranges
    assert max(int(end) - int(start) for start, end in ranges) < 2**18


def test_resuming_verifying_and_exporting(
    s3: Any, bucket: str, release: Path, few: Path, options: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    upload(s3, few, bucket, "x.zarr")
    store, common = f"s3://{bucket}/x.zarr", {"client": client, "progress": False, "storage_options": options}
    assert isles24_zarr.convert(release, store, **FEW, client=client, storage_options=options).unchanged == (S,)
    assert isles24_zarr.verify(store, **common).ok
    isles24_zarr.export(store, tmp_path / "nifti", **common)
    for path, file in images_below(tmp_path / "nifti").items():
        assert gzip.decompress(file.read_bytes()) == gzip.decompress((release / path).read_bytes())
    key = keys(s3, bucket, f"x.zarr/{S}/space-ncct/ctp/c")[0]
    cut = f"x.zarr/{S}/space-ncct/lesion_mask/c/0/0/0"
    whole = s3.get_object(Bucket=bucket, Key=cut)["Body"].read()
    s3.delete_object(Bucket=bucket, Key=key)
    s3.put_object(Bucket=bucket, Key=cut, Body=whole[:-9])
    report = isles24_zarr.verify(store, fast=True, **common)
    assert {each.path for each in report.problems} == {key.removeprefix("x.zarr/"), cut.removeprefix("x.zarr/")}
    scan = isles24_zarr.open_scan(store, S, storage_options=options)
    with pytest.raises(StoreDamageError, match="is lost"):
        scan["ctp"].values  # noqa: B018
    report = isles24_zarr.convert(release, store, **FEW, client=client, storage_options=options)
    assert "is lost or damaged" in report.reasons[S]
    assert_identical_stores(few, download(s3, bucket, "x.zarr", tmp_path / "mended.zarr"))


def test_nothing_foreign_is_deleted(
    s3: Any, bucket: str, release: Path, options: dict[str, Any], client: Client
) -> None:
    s3.put_object(Bucket=bucket, Key="foreign/notes.txt", Body=b"mine")
    s3.put_object(Bucket=bucket, Key=f"x.zarr-old/{S}/zarr.json", Body=b"{}")
    s3.put_object(Bucket=bucket, Key="other.zarr/zarr.json", Body=b'{"zarr_format": 3, "node_type": "group"}')
    common = {"client": client, "overwrite": True, "storage_options": options, **FEW}
    for place in ("foreign", "other.zarr"):
        with pytest.raises(DestinationError, match="neither empty nor an isles24-zarr store"):
            isles24_zarr.convert(release, f"s3://{bucket}/{place}", **common)
    for _ in range(2):
        assert isles24_zarr.convert(release, f"s3://{bucket}/x.zarr", **common).converted == (S,)
    assert keys(s3, bucket, "foreign") == ["foreign/notes.txt"]
    assert keys(s3, bucket, "x.zarr-old") == [f"x.zarr-old/{S}/zarr.json"]
    assert keys(s3, bucket, "other.zarr") == ["other.zarr/zarr.json"]


def test_the_command_line(converted: str, options: dict[str, Any], store: Path) -> None:
    told = flags(options)
    document = json.loads(run("info", converted, "--json", *told).stdout)
    assert document["read_by"] == "TensorStore, in merged ranges through obstore"
    assert len(document["subjects"]) == 3
    assert read_path(store) == "TensorStore, from shards of this machine"
    # credentials and endpoint as all AWS tools have them
    by_environment = {
        "AWS_ACCESS_KEY_ID": KEYS["key"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret"],
        "AWS_ENDPOINT_URL": options["endpoint_url"],
    }
    done = run("verify", converted, "--fast", **by_environment)
    assert (done.returncode, "no problems" in done.stdout) == (0, True), done.stderr


def test_s3_means_obstore_whatever_fsspec_has(
    converted: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = fsspec.get_filesystem_class("memory")
    for scheme in ("s3", "s3a"):
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, scheme, registered)
    for url in (converted, converted.replace("s3", "s3a", 1)):
        assert isles24_zarr.open_cohort(url, storage_options=options).isles.subjects
    assert fsspec.get_filesystem_class("s3") is registered


def test_a_profile_gives_credentials(
    converted: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "aws"
    folder.mkdir()
    (folder / "config").write_text("[profile stroke]\nregion = eu-central-1\n[profile bare]\n")
    (folder / "credentials").write_text("[stroke]\naws_access_key_id = FROMFILE\naws_secret_access_key = s\n")
    for name, value in environment(
        AWS_CONFIG_FILE=str(folder / "config"), AWS_SHARED_CREDENTIALS_FILE=str(folder / "credentials")
    ).items():
        monkeypatch.setenv(name, value)
    place = {"endpoint_url": proxy.options["endpoint_url"]}
    isles24_zarr.open_cohort(converted, storage_options={**place, "profile": "stroke"})
    monkeypatch.setenv("AWS_PROFILE", "stroke")
    isles24_zarr.open_cohort(converted, storage_options=place)
    signed = {each.headers["authorization"] for each in proxy.requests}
    assert all("Credential=FROMFILE/" in each and "/eu-central-1/" in each for each in signed)
    for name, told in {
        "none": r"there are no credentials for it \(.*none",
        "bare": "'bare' has no credentials",
    }.items():
        with pytest.raises(StoreAccessError, match=told):
            isles24_zarr.open_cohort(converted, storage_options={**place, "profile": name})
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtraError, match="'other': needs boto3: pip install boto3"):
        isles24_zarr.open_cohort(converted, storage_options={**place, "profile": "other"})


# --- how many requests ---


def spent(proxy: Proxy) -> list[Request]:
    done, proxy.requests = proxy.requests, []
    return done


def test_how_many_requests_opening_and_reading_take(converted: str, proxy: Proxy) -> None:
    told = proxy.options
    isles24_zarr.open_cohort(converted, storage_options=told)
    assert 0 < len(spent(proxy)) <= 8
    scan = isles24_zarr.open_scan(converted, S, storage_options=told)
    assert 0 < len(spent(proxy)) <= 8
    for name, cut in [("ncct", {"z": 5}), ("ncct", {"y": 20}), ("cta", {"x": 9}), ("ctp", {"z": 5, "time": 3})]:
        scan[name].isel(cut).values  # noqa: B018
        assert 0 < len(spent(proxy)) <= 4, (name, cut)
    for frame in range(scan.sizes["time"]):
        scan["ctp"].isel(time=frame).values  # noqa: B018
        done = spent(proxy)
        shards = {each.path for each in done}
        assert len(shards) == 1
        assert 0 < len(done) <= 2


def test_a_shard_of_many_chunks_is_verified_and_exported_by_few_requests(
    s3: Any, bucket: str, client: Client, proxy: Proxy, tmp_path: Path
) -> None:
    file = tmp_path / f"train/raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
    file.parent.mkdir(parents=True)
    voxels = np.random.default_rng(0).integers(-1000, 1000, (260, 260, 17), np.int16)
    nib.Nifti1Image(voxels, np.eye(4)).to_filename(file)
    assert isles24_zarr.convert(tmp_path / "train", tmp_path / "x.zarr", client=client, progress=False).ok
    array = zarr.open_array(tmp_path / f"x.zarr/{S}/space-ncct/ncct", mode="r")
    # the chunks at an edge are not full: a shard is more than the array
    assert (array.nchunks, array.shards) == (75, (18, 260, 260))
    assert array.shards[0] > array.shape[0]
    upload(s3, tmp_path / "x.zarr", bucket, "x.zarr")
    target, told = f"s3://{bucket}/x.zarr", proxy.options
    for work in (
        lambda: isles24_zarr.verify(target, client=client, progress=False, storage_options=told),
        lambda: isles24_zarr.export(target, tmp_path / "out", client=client, progress=False, storage_options=told),
    ):
        assert work().ok
        assert 1 <= len([each for each in spent(proxy) if each.path.endswith("/ncct/c/0/0/0")]) <= 3
    assert np.array_equal(np.asarray(nib.Nifti1Image.from_filename(next(tmp_path.glob("out/**/*.gz"))).dataobj), voxels)


def test_all_objects_of_a_subject_are_listed_by_one_request(s3: Any, converted: str, proxy: Proxy) -> None:
    target = StorePlace.of(converted, proxy.options)
    found = listed_keys(target.opened(read_only=True), S)
    assert [each.method for each in spent(proxy)] == ["GET"]
    bucket, _, prefix = converted.removeprefix("s3://").partition("/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{S}/")
    wanted = {each["Key"].removeprefix(f"{prefix}/"): each["Size"] for page in pages for each in page["Contents"]}
    assert found == wanted


# --- what goes wrong on the way ---


@pytest.mark.parametrize(
    "faults", [("500",), ("503",), ("stalled",), ("slow", "broken", "refused", "lost")], ids=lambda faults: faults[0]
)
def test_faults_are_outlived(
    faults: tuple[str, ...],
    s3: Any,
    bucket: str,
    few_files: Path,
    few: Path,
    proxy: Proxy,
    client: Client,
    tmp_path: Path,
) -> None:
    upload(s3, few_files, bucket, "train")
    proxy.fault = every(41 if "stalled" in faults else 17, *faults)
    through = {**proxy.options, **HASTY}
    report = isles24_zarr.convert(
        f"s3://{bucket}/train", f"s3://{bucket}/x.zarr", client=client, storage_options=through, **FEW
    )
    assert report.ok, report.problems
    assert proxy.broken
    assert_identical_stores(few, download(s3, bucket, "x.zarr", tmp_path / "x.zarr"))
    proxy.fault = every(3, *faults)
    scan = isles24_zarr.open_scan(f"s3://{bucket}/x.zarr", S, storage_options=through)
    local = isles24_zarr.open_scan(few, S)
    assert np.array_equal(scan["ctp"].values, local["ctp"].values)


def test_a_server_that_stays_broken_is_told_of_and_the_conversion_resumes(
    s3: Any, bucket: str, release: Path, few: Path, proxy: Proxy, client: Client, tmp_path: Path
) -> None:
    def no_shards(request: Request) -> str | None:
        return "500" if request.method == "PUT" and "/ctp/c/" in request.path else None

    proxy.fault = no_shards
    through, target = {**proxy.options, **IMPATIENT}, f"s3://{bucket}/x.zarr"
    with pytest.raises(StoreWriteError, match="cannot be written") as raised:
        isles24_zarr.convert(release, target, client=client, storage_options=through, **FEW)
    assert "\n" not in str(raised.value)
    assert f"x.zarr/{S}/zarr.json" not in keys(s3, bucket, "x.zarr")
    proxy.fault = lambda _: None
    assert isles24_zarr.convert(release, target, client=client, storage_options=through, **FEW).ok
    assert_identical_stores(few, download(s3, bucket, "x.zarr", tmp_path / "x.zarr"))
    scan = isles24_zarr.open_scan(target, S, storage_options=through)
    proxy.fault = lambda _: "500"
    with pytest.raises(StoreAccessError, match="cannot be read"):
        scan["ncct"].values  # noqa: B018


def test_places_out_of_reach_are_told_of_in_one_line(
    bucket: str, release: Path, options: dict[str, Any], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        deaf = {**KEYS, "endpoint_url": f"http://127.0.0.1:{nobody.getsockname()[1]}", **IMPATIENT}
    proxy.fault = lambda _: "403"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    place = f"s3://{bucket}/x.zarr"
    cases: dict[str, dict[str, Any]] = {
        "there are no credentials": {"endpoint_url": options["endpoint_url"]},
        "its server cannot be reached": deaf,
        "access is refused": proxy.options,
        r"an option is unknown \(Configuration key: 'endpont'": {**options, "endpont": 1},
        r"an option is unknown \(.*'client_kwargs.verify'": {**options, "client_kwargs": {"verify": False}},
        "an option has a value that cannot be used": {**options, "retry_config": {"max_retries": "many"}},
    }
    for what, told in cases.items():
        for call in (
            lambda told: isles24_zarr.open_cohort(place, storage_options=told),
            lambda told: isles24_zarr.open_scan(place, S, storage_options=told),
            lambda told: isles24_zarr.convert(release, place, storage_options=told, progress=False),
            lambda told: isles24_zarr.scan(place, told),
        ):
            with pytest.raises(StoreAccessError, match=what) as raised:
                call(told)
            assert "\n" not in str(raised.value)
    done = run("info", place, *flags({"endpoint_url": options["endpoint_url"]}))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {place}: there are no credentials")
    assert done.stderr.count("\n") == 1
    proxy.fault = lambda _: "301"
    with pytest.raises(StoreAccessError, match="it is in another region; give the option region"):
        isles24_zarr.open_cohort(place, storage_options=proxy.options)
    nowhere = "s3://no-such-bucket-anywhere/x.zarr"
    with pytest.raises(StoreAccessError, match="there is no such bucket"):
        isles24_zarr.open_cohort(nowhere, storage_options=options)
    with pytest.raises(StoreAccessError, match="there is no such bucket"):
        isles24_zarr.convert(release, nowhere, storage_options=options, progress=False)
    with pytest.raises(NotAStoreError, match="there is no isles24-zarr store"):
        isles24_zarr.open_cohort(place, storage_options=options)


# --- one at a time, and killed ---


def lock(owner: str, *, until: dt.timedelta, host: str = "elsewhere", pid: int = 1) -> bytes:
    now = dt.datetime.now(dt.UTC)
    process = {"host": host, "boot": "b", "namespace": "n", "pid": pid, "started": "1"}
    times = {"since": now.isoformat(), "until": (now + until).isoformat()}
    return json.dumps({"owner": owner, "process": process, **times}).encode()


def test_a_lock_is_respected_until_it_runs_out(
    s3: Any, bucket: str, release: Path, options: dict[str, Any], client: Client
) -> None:
    key, place = f"x.zarr/{LOCK}", f"s3://{bucket}/x.zarr"
    held = lock("other", until=dt.timedelta(minutes=4))
    s3.put_object(Bucket=bucket, Key=key, Body=held)
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"):
        isles24_zarr.convert(release, place, client=client, storage_options=options, **FEW)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == held
    assert keys(s3, bucket, "x.zarr") == [key]
    for old in (lock("other", until=dt.timedelta(seconds=-1)), b"rubbish"):
        s3.put_object(Bucket=bucket, Key=key, Body=old)
        assert isles24_zarr.convert(release, place, client=client, storage_options=options, **FEW).ok
        assert key not in keys(s3, bucket, "x.zarr")


def test_of_two_that_take_over_a_lock_one_has_it(s3: Any, bucket: str, proxy: Proxy) -> None:
    key, taken = f"x.zarr/{LOCK}", lock("other", until=dt.timedelta(minutes=4))
    s3.put_object(Bucket=bucket, Key=key, Body=lock("gone", until=dt.timedelta(seconds=-1)))

    def forestall(request: Request) -> None:
        if "if-match" in request.headers:
            s3.put_object(Bucket=bucket, Key=key, Body=taken)

    proxy.fault = forestall
    with pytest.raises(StoreLockedError, match="has just begun to write into it"):
        Lease(f"s3://{bucket}/x.zarr", proxy.options).take()
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == taken


def test_the_lock_is_made_by_a_conditional_put(bucket: str, release: Path, proxy: Proxy, client: Client) -> None:
    """Also where the answer to it is lost: the second try finds a lock, and that it is its own."""
    broken: list[Request] = []

    def lose_the_first(request: Request) -> str | None:
        if request.method == "PUT" and request.path.endswith(LOCK) and not broken:
            broken.append(request)
            return "lost"
        return None

    proxy.fault = lose_the_first
    place = f"s3://{bucket}/x.zarr"
    assert isles24_zarr.convert(release, place, client=client, storage_options=proxy.options, **FEW).ok
    puts = [each for each in proxy.requests if each.method == "PUT" and each.path.endswith(LOCK)]
    assert len(puts) >= 2
    assert all(each.headers["if-none-match"] == "*" for each in puts)


def test_a_lock_that_was_taken_over_stops_its_former_holder(
    s3: Any, bucket: str, release: Path, proxy: Proxy, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isles24_zarr.store._lease._RENEWAL_SECONDS", 0.05)
    taken = lock("other", until=dt.timedelta(minutes=4))

    def take_over(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("/x.zarr/zarr.json"):
            s3.put_object(Bucket=bucket, Key=f"x.zarr/{LOCK}", Body=taken)
            seen = len(proxy.requests)
            while not any("if-match" in each.headers for each in proxy.requests[seen:]):
                time.sleep(0.02)
            time.sleep(0.5)

    proxy.fault = take_over
    with pytest.raises(StoreLockedError, match="the lock was lost"):
        isles24_zarr.convert(release, f"s3://{bucket}/x.zarr", client=client, storage_options=proxy.options, **FEW)
    assert s3.get_object(Bucket=bucket, Key=f"x.zarr/{LOCK}")["Body"].read() == taken
    assert f"x.zarr/{S}/zarr.json" not in keys(s3, bucket, "x.zarr")


def test_kill_9_in_the_midst_of_it_and_resume(
    s3: Any, bucket: str, release: Path, few: Path, options: dict[str, Any], tmp_path: Path, client: Client
) -> None:
    place = f"s3://{bucket}/x.zarr"
    command = [sys.executable, "-m", "isles24_zarr", "convert", str(release), place, "--subject", S, *flags(options)]
    command += [word for image in FEW["images"] for word in ("--image", image)]
    common = {"client": client, "storage_options": options, **FEW}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=environment()
    ) as process:
        while not any("/c/" in key for key in keys(s3, bucket, f"x.zarr/{S}")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        # while it runs, no other may
        with pytest.raises(StoreLockedError, match=f"process {process.pid} on"):
            isles24_zarr.convert(release, place, **common)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert f"x.zarr/{LOCK}" in keys(s3, bucket, "x.zarr")
    # on the machine of the holder, its end is known at once
    assert isles24_zarr.convert(release, place, **common).ok
    assert_identical_stores(few, download(s3, bucket, "x.zarr", tmp_path / "x.zarr"))
