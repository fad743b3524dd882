"""What holds for which kind of URL: folders, Google Cloud, obstore, and file systems that are only read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
import zipfile
from typing import TYPE_CHECKING, Any

import fsspec
import nibabel as nib
import numpy as np
import pytest

import isles24_zarr
from isles24_zarr.dataset import read_path
from isles24_zarr.errors import DestinationError, NotAStoreError, StoreAccessError, StoreLockedError, StoreWriteError
from isles24_zarr.lease import Lease
from tests.oracle import assert_identical_stores, canonical_voxels
from tests.servers import free_port, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

# gcsfs asks Google by another protocol what kind of a bucket it is; it and workers look at this when they start
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

KNOWN = sys.modules["fsspec.registry"]._registry
S = "sub-stroke0001"
FEW: dict[str, Any] = {"subjects": [S], "images": ["ncct", "lesion_mask"], "progress": False}


@pytest.fixture(scope="module")
def few(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject and two images of it, on disk."""
    path = tmp_path_factory.mktemp("few") / "isles24.zarr"
    assert isles24_zarr.convert(release, path, client=client, **FEW).ok
    return path


@pytest.fixture
def memory(store: Path) -> Iterator[str]:
    """A store in the memory of this process."""
    files = fsspec.filesystem("memory")
    files.put(str(store), "/copied.zarr", recursive=True)
    yield "memory://copied.zarr"
    files.rm("/copied.zarr", recursive=True)


@pytest.fixture(scope="module")
def ftp(release: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the release and of its store, that could be written to."""
    pytest.importorskip("pyftpdlib")
    folder = tmp_path_factory.mktemp("ftp")
    shutil.copytree(release, folder / "train")
    shutil.copytree(store, folder / "isles24.zarr")
    port = free_port()
    command = [sys.executable, "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-d", str(folder), "-w"]
    with running_server(command, port=port, log=folder.parent / "log"):
        yield f"ftp://127.0.0.1:{port}"


# --- folders ---


@pytest.mark.parametrize("protocol", ["file", "local"])
def test_a_url_of_a_folder_is_the_folder(
    protocol: str, release: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "x.zarr"
    url = f"{protocol}://{target}"
    report = isles24_zarr.convert(f"{protocol}://{release}", url, client=client, progress=False)
    assert (report.ok, report.store) == (True, str(target))
    assert_identical_stores(store, target)
    assert read_path(url) == read_path(target)
    assert isles24_zarr.convert(release, target, client=client, progress=False).converted == ()


# --- what no store can be written to ---


def refused(release: Path, url: str, told: str, **more: Any) -> None:
    with pytest.raises(DestinationError, match=told) as raised:
        isles24_zarr.convert(release, url, progress=False, **more)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(url)


def test_memory_is_read_and_not_written(memory: str, release: Path, store: Path) -> None:
    assert isles24_zarr.open_cohort(memory).isles.subjects[0] == S
    found = isles24_zarr.open_scan(memory, S, chunks=None)  # not on a cluster, whose memory is another
    wanted = isles24_zarr.open_scan(store, S, chunks=None)
    assert found.identical(wanted.assign_attrs(found.attrs))
    refused(release, "memory://new.zarr", "is in the memory of this process")
    assert not fsspec.filesystem("memory").exists("/new.zarr")


def test_what_is_written_in_place_is_read_and_not_written(
    ftp: str, release: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    served = f"{ftp}/isles24.zarr"
    assert isles24_zarr.open_cohort(served).isles.subjects[0] == S
    assert read_path(served) == "zarr-python, in merged ranges through FTPFileSystem of fsspec"
    scan = isles24_zarr.open_scan(served, S, chunks=None)
    path = scan["ncct"].attrs["isles24_zarr"]["source"]["path"]
    wanted = canonical_voxels(nib.load(release / path))
    assert np.array_equal(scan["ncct"].values, wanted)
    assert np.array_equal(scan["ncct"][:, 5].values, wanted[:, 5])
    assert isles24_zarr.verify(served, fast=True, client=client, progress=False).ok
    assert isles24_zarr.convert(f"{ftp}/train", tmp_path / "x.zarr", client=client, **FEW).ok
    assert_identical_stores(few, tmp_path / "x.zarr")
    for place in (served, f"{ftp}/new.zarr"):
        refused(release, place, "may leave half an object there")
    listing = fsspec.filesystem("ftp", host="127.0.0.1", port=int(ftp.rpartition(":")[2]))
    assert sorted(each.strip("/") for each in listing.ls("/", detail=False)) == ["isles24.zarr", "train"]


def test_chains_are_not_written(release: Path, tmp_path: Path) -> None:
    refused(release, f"simplecache::file://{tmp_path}/x.zarr", "may leave half an object there")
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("notes.txt", "mine")
    before = archive.read_bytes()
    refused(release, f"zip://x.zarr::{archive}", "may leave half an object there")
    assert archive.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_places_out_of_reach_are_told_of_in_one_line(ftp: str, release: Path, tmp_path: Path) -> None:
    cases: dict[str, tuple[type[Exception], str]] = {
        ftp.replace("://", "://nobody:secret@") + "/x.zarr": (StoreAccessError, "Authentication failed"),
        f"ftp://127.0.0.1:{free_port()}/x.zarr": (StoreAccessError, "Connection refused"),
        f"zip://x.zarr::{tmp_path}/no.zip": (StoreAccessError, "No such file"),
        "nonsense://x.zarr": (NotAStoreError, "Protocol not known"),
    }
    for url, (kind, told) in cases.items():
        for call in (
            isles24_zarr.open_cohort,
            lambda url: isles24_zarr.open_scan(url, S),
            lambda url: isles24_zarr.convert(release, url, progress=False),
        ):
            with pytest.raises(kind, match=told) as raised:
                call(url)
            assert "\n" not in str(raised.value)


# --- Google Cloud ---


class Bucket:
    """A bucket of an emulator, looked at by plain HTTP."""

    def __init__(self, port: int, log: Path) -> None:
        self.address, self.log = f"http://127.0.0.1:{port}", log
        made = urllib.request.Request(  # noqa: S310 - of this machine
            f"{self.address}/storage/v1/b?project=p", b'{"name": "bucket"}', {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(made).close()  # noqa: S310
        self.options = {"token": "anon", "endpoint_url": self.address, "project": "p"}

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.address}{path}") as answer:  # noqa: S310
            return bytes(answer.read())

    def put(self, key: str, data: bytes) -> None:
        place = f"{self.address}/upload/storage/v1/b/bucket/o?uploadType=media&name={key}"
        urllib.request.urlopen(urllib.request.Request(place, data)).close()  # noqa: S310

    def keys(self) -> list[str]:
        return [each["name"] for each in json.loads(self.get("/storage/v1/b/bucket/o")).get("items", [])]

    def download(self, prefix: str, folder: Path) -> Path:
        for key in self.keys():
            if key.startswith(f"{prefix}/"):
                path = folder / key.removeprefix(f"{prefix}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.get(f"/bucket/{key}"))
        return folder


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Bucket]:
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory", "--host", "127.0.0.1"]
    with running_server([*command, "--port", str(port)], port=port, log=log):
        yield Bucket(port, log)


def test_a_store_in_google_cloud_is_that_on_disk(
    google: Bucket, release: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    target, options = "gs://bucket/deep/x.zarr", {"gs": google.options}
    common = {"client": client, "storage_options": options, **FEW}
    assert isles24_zarr.convert(release, target, **common).ok
    assert_identical_stores(few, google.download("deep/x.zarr", tmp_path / "x.zarr"))
    # this emulator gives the lock to all who ask, but is asked rightly
    puts = [line for line in google.log.read_text().splitlines() if "POST /upload/" in line]
    assert sum("ifGenerationMatch=0" in line for line in puts) == 1
    assert isles24_zarr.convert(release, target, **common).unchanged == (S,)
    assert isles24_zarr.verify(target, client=client, progress=False, storage_options=options).ok
    scan = isles24_zarr.open_scan(target, S, chunks=None, storage_options=options)
    path = scan["ncct"].attrs["isles24_zarr"]["source"]["path"]
    wanted = canonical_voxels(nib.load(release / path))
    assert np.array_equal(scan["ncct"][5].values, wanted[5])
    assert read_path(target, storage_options=options) == "zarr-python, in merged ranges through GCSFileSystem of fsspec"


def test_a_lock_that_another_took_is_not_renewed(google: Bucket) -> None:
    """Google Cloud could refuse it, but gcsfs does not ask it to."""
    lease = Lease("gs://bucket/x.zarr", {"gs": google.options})
    lease.take()
    lease.renew()
    lease.confirm()
    (key,) = google.keys()
    taken = b'{"owner": "another"}'
    google.put(key, taken)
    lease.renew()
    with pytest.raises(StoreLockedError, match="the lock was lost"):
        lease.confirm()
    lease.release()
    assert google.get(f"/bucket/{key}") == taken


# --- obstore ---


def obstore_at(port: int, **more: Any) -> dict[str, Any]:
    keys = {"access_key_id": "testing", "secret_access_key": "testing", "region": "us-east-1"}
    place = {"endpoint": f"http://127.0.0.1:{port}", "client_options": {"allow_http": True}}
    return {**keys, **place, "retry_config": {"max_retries": 0}, **more}


def test_obstore_as_registered_by_a_user_takes_no_lock(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    registered = pytest.importorskip("obstore.fsspec")
    # the other tests want s3fs back
    monkeypatch.setitem(KNOWN, "s3", fsspec.get_filesystem_class("s3"))
    registered.register("s3")
    told = r"takes no lock; give obstore\+s3://bucket/x.zarr"
    refused(release, "s3://bucket/x.zarr", told, storage_options=obstore_at(free_port()))


def test_what_obstore_says_is_told_in_one_line(release: Path, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from tests.s3_server import moto_server, proxy_to, s3_client

    with moto_server(tmp_path / "log") as port, proxy_to(port) as proxy:
        s3_client(port).create_bucket(Bucket="bucket")
        behind = proxy.server_address[1]
        place, nowhere = "obstore+s3://bucket/x.zarr", "obstore+s3://no-such-bucket/x.zarr"
        cases: list[tuple[str, str, dict[str, Any], str | None]] = [
            ("there is no such bucket", nowhere, obstore_at(port), None),
            ("its server cannot be reached", place, obstore_at(free_port()), None),
            ("access is refused", place, obstore_at(behind), "403"),
            ("cannot be read", place, obstore_at(behind), "500"),
            ("an option is unknown", place, obstore_at(port, endpont=1), None),
        ]
        for told, url, options, fault in cases:
            proxy.fault = lambda _, fault=fault: fault
            for call in (
                lambda url, options: isles24_zarr.open_cohort(url, storage_options=options),
                lambda url, options: isles24_zarr.open_scan(url, S, storage_options=options),
                lambda url, options: isles24_zarr.convert(release, url, storage_options=options, progress=False),
            ):
                with pytest.raises(StoreAccessError, match=told) as raised:
                    call(url, options)
                assert "\n" not in str(raised.value)
                assert "Debug" not in str(raised.value)


def test_obstore_can_be_written_to_where_a_server_fails_for_a_while(
    release: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from tests.s3_server import download, keys, moto_server, proxy_to, s3_client

    with moto_server(tmp_path / "log") as port, proxy_to(port) as proxy:
        s3 = s3_client(port)
        s3.create_bucket(Bucket="bucket")
        target, options = "obstore+s3://bucket/x.zarr", obstore_at(proxy.server_address[1])
        proxy.fault = lambda request: "500" if request.method == "PUT" and "/ncct/c/" in request.path else None
        with pytest.raises(StoreWriteError, match="cannot be written") as raised:
            isles24_zarr.convert(release, target, client=client, storage_options=options, **FEW)
        assert "\n" not in str(raised.value)
        assert f"x.zarr/{S}/zarr.json" not in keys(s3, "bucket", "x.zarr")
        proxy.fault = lambda _: None
        assert isles24_zarr.convert(release, target, client=client, storage_options=options, **FEW).ok
        assert_identical_stores(few, download(s3, "bucket", "x.zarr", tmp_path / "x.zarr"))
        assert read_path(target, storage_options=options) == "zarr-python, in merged ranges through obstore"


def test_obstore_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("obstore", "isles24_zarr.obstores"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    for scheme in ("s3", "gs", "az"):
        monkeypatch.delitem(KNOWN, f"obstore+{scheme}", raising=False)
        with pytest.raises(NotAStoreError, match=r"run: pip install 'isles24-zarr\[s3\]'"):
            isles24_zarr.open_cohort(f"obstore+{scheme}://bucket/x.zarr")
