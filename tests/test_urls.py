"""What holds for which kind of URL: folders, servers of files, Google Cloud, obstore, and what cannot be written to."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import nibabel as nib
import numpy as np
import pytest
from distributed import Client
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import isles24_zarr
from isles24_zarr.dataset import read_path
from isles24_zarr.errors import DestinationError, NotAStoreError, StoreAccessError, StoreLockedError, StoreWriteError
from isles24_zarr.lease import LOCK, Lease, _Process
from isles24_zarr.remote import RemoteStore
from tests.oracle import assert_identical_stores, canonical_voxels
from tests.servers import SECONDS, free_port, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

# gcsfs asks Google by another protocol what kind of a bucket it is; it and workers look at this when they start
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

KNOWN = sys.modules["fsspec.registry"]._registry
S = "sub-stroke0001"
KEEPING = "ftp that replaces nothing"
FEW: dict[str, Any] = {"subjects": [S], "images": ["ncct", "lesion_mask"], "progress": False}


@pytest.fixture(scope="module")
def few(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject and two images of it, on disk."""
    path = tmp_path_factory.mktemp("few") / "isles24.zarr"
    assert isles24_zarr.convert(release, path, client=client, **FEW).ok
    return path


SFTP_SERVER = """
import asyncio, asyncssh, sys

port, folder = int(sys.argv[1]), sys.argv[2].encode()

class Server(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True
    def validate_password(self, username, password):
        return (username, password) == ("reader", "secret")

async def serve():
    keys = [asyncssh.generate_private_key("ssh-ed25519")]
    files = lambda channel: asyncssh.SFTPServer(channel, chroot=folder)
    await asyncssh.listen("127.0.0.1", port, server_host_keys=keys, server_factory=Server, sftp_factory=files)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


KEEPING_FTP_SERVER = """
import os, sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

class Keeping(AbstractedFS):
    def rename(self, source, target):
        if os.path.exists(target):
            raise FileExistsError(17, "File exists")
        super().rename(source, target)

authorizer = DummyAuthorizer()
authorizer.add_anonymous(sys.argv[2], perm="elradfmwMT")
FTPHandler.authorizer, FTPHandler.abstracted_fs = authorizer, Keeping
FTPServer(("127.0.0.1", int(sys.argv[1])), FTPHandler).serve_forever()
"""
"""Renames nothing to a name that is taken, as SMB and HDFS."""


@dataclasses.dataclass(frozen=True)
class FileServer:
    """A server of a folder, which has the release."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def file_server(protocol: str, folder: Path, release: Path) -> Iterator[FileServer]:
    shutil.copytree(release, folder / "train")
    port = free_port()
    if protocol == "ftp":
        pytest.importorskip("pyftpdlib")
        command = ["-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-d", str(folder), "-w"]
    elif protocol == KEEPING:
        pytest.importorskip("pyftpdlib")
        command = ["-c", KEEPING_FTP_SERVER, str(port), str(folder)]
    else:
        pytest.importorskip("asyncssh")
        pytest.importorskip("paramiko")
        command = ["-c", SFTP_SERVER, str(port), str(folder)]
    place = "sftp://reader:secret@127.0.0.1" if protocol == "sftp" else "ftp://127.0.0.1"
    with running_server([sys.executable, *command], port=port, log=folder.parent / f"{folder.name}.log") as process:
        yield FileServer(f"{place}:{port}", folder, process)


@pytest.fixture(scope="module", params=["ftp", KEEPING, "sftp"])
def files(request: pytest.FixtureRequest, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of files, for all tests."""
    with file_server(request.param, tmp_path_factory.mktemp(request.param), release) as server:
        yield server


@pytest.fixture
def ftp(release: Path, tmp_path: Path) -> Iterator[FileServer]:
    """A server of files, for one test."""
    with file_server("ftp", tmp_path, release) as server:
        yield server


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


# --- memory ---


def test_a_store_in_memory_is_that_on_disk(release: Path, few: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as threads:
        try:
            assert isles24_zarr.convert(release, "memory://x.zarr", client=threads, **FEW).ok
            memory.get("/x.zarr", str(tmp_path / "x.zarr"), recursive=True)
            assert_identical_stores(few, tmp_path / "x.zarr")
            assert isles24_zarr.convert(release, "memory://x.zarr", client=threads, **FEW).unchanged == (S,)
            assert isles24_zarr.verify("memory://x.zarr", client=threads, progress=False).ok
            found = isles24_zarr.open_scan("memory://x.zarr", S, chunks=None)
            wanted = isles24_zarr.open_scan(few, S, chunks=None)
            assert found.identical(wanted.assign_attrs(found.attrs))
        finally:
            memory.rm("/x.zarr", recursive=True)


def test_memory_is_not_written_to_by_other_processes(release: Path, client: Client) -> None:
    for each in (client, None):  # another's, and one of our own
        refused(release, "memory://new.zarr", "is in the memory of this process", client=each)
    assert not fsspec.filesystem("memory").exists("/new.zarr")


# --- servers of files, which write in place ---


def test_a_store_on_a_server_of_files_is_that_on_disk(
    files: FileServer, few: Path, client: Client, tmp_path: Path
) -> None:
    target = f"{files.url}/deep/x.zarr"
    written = files.folder / "deep" / "x.zarr"
    assert isles24_zarr.convert(f"{files.url}/train", target, client=client, **FEW).ok
    assert_identical_stores(few, written)  # nothing else is left there
    assert not [path for path in written.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert isles24_zarr.convert(f"{files.url}/train", target, client=client, **FEW).unchanged == (S,)
    assert isles24_zarr.convert(f"{files.url}/train", target, client=client, overwrite=True, **FEW).converted == (S,)
    assert_identical_stores(few, written)
    assert isles24_zarr.verify(target, client=client, progress=False).ok
    assert isles24_zarr.open_cohort(target).isles.subjects == [S]
    scan = isles24_zarr.open_scan(target, S, chunks=None)
    path = scan["ncct"].encoding["isles24_zarr"]["source"]["path"]
    wanted = canonical_voxels(nib.load(files.folder / "train" / path))
    assert np.array_equal(scan["ncct"].values, wanted)
    assert np.array_equal(scan["ncct"][:, 5].values, wanted[:, 5])
    assert read_path(target).startswith("zarr-python, in merged ranges through ")
    assert isles24_zarr.export(target, tmp_path / "nifti", client=client, progress=False).ok
    exported = {path.relative_to(tmp_path / "nifti"): path for path in (tmp_path / "nifti").rglob("*.nii.gz")}
    assert len(exported) == 2
    for name, copy in exported.items():
        original = files.folder / "train" / name
        assert gzip.decompress(copy.read_bytes()) == gzip.decompress(original.read_bytes())


def test_what_is_left_of_a_killed_conversion_is_taken_up(ftp: FileServer, few: Path, client: Client) -> None:
    """As when the process was killed after an image was written: files under other names, a lock, no record."""
    target, written = f"{ftp.url}/x.zarr", ftp.folder / "x.zarr"
    assert isles24_zarr.convert(f"{ftp.url}/train", target, client=client, **FEW).ok
    (written / S / "zarr.json").unlink()
    (written / "zarr.json").rename(written / f"zarr.json.{'0' * 32}.partial")
    shutil.copy(few / "zarr.json", written / "zarr.json")
    gone = {**dataclasses.asdict(_Process.current()), "started": "1"}
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=4)).isoformat()
    (written / LOCK).write_text(json.dumps({"owner": "another", "process": gone, "since": later, "until": later}))
    report = isles24_zarr.convert(f"{ftp.url}/train", target, client=client, **FEW)
    assert (report.converted, report.voxel_bytes) == ((S,), 0)
    assert_identical_stores(few, written)


def test_an_object_whose_server_is_killed_is_not_there(ftp: FileServer) -> None:
    """Written in place, half of it would be taken for all of it."""
    (ftp.folder / "x.zarr").mkdir()
    store = RemoteStore.at(f"{ftp.url}/x.zarr", {}, read_only=False)
    many = default_buffer_prototype().buffer.from_bytes(bytes(2**28))
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(lambda: sync(store.set("a/c/0", many)))
        deadline = time.monotonic() + SECONDS
        while not any(path.stat().st_size for path in ftp.folder.glob("x.zarr/a/c/*")):
            assert time.monotonic() < deadline
        ftp.process.kill()
        with pytest.raises((StoreWriteError, StoreAccessError)):
            writing.result()
    (left,) = ftp.folder.glob("x.zarr/a/c/*")
    assert left.suffix == ".partial"
    assert 0 < left.stat().st_size < 2**28


def test_a_server_of_files_is_locked(ftp: FileServer, release: Path, client: Client) -> None:
    lease, other = Lease(f"{ftp.url}/x.zarr", {}), Lease(f"{ftp.url}/x.zarr", {})
    lease.take()
    with pytest.raises(StoreLockedError, match=f"another conversion is writing into it: process {os.getpid()} "):
        other.take()
    with pytest.raises(StoreLockedError, match="another conversion is writing into it"):
        isles24_zarr.convert(release, f"{ftp.url}/x.zarr", client=client, **FEW)
    lease.renew()
    lease.confirm()
    (lock,) = (ftp.folder / "x.zarr").iterdir()
    lock.write_text('{"owner": "another"}')
    lease.renew()
    with pytest.raises(StoreLockedError, match="the lock was lost"):
        lease.confirm()
    lease.release()
    assert lock.read_text() == '{"owner": "another"}'
    other.take()  # it has no end, so is nobody's
    other.release()
    assert list((ftp.folder / "x.zarr").iterdir()) == []


# --- what no store can be written to ---


def refused(release: Path, url: str, told: str, **more: Any) -> None:
    with pytest.raises(DestinationError, match=told) as raised:
        isles24_zarr.convert(release, url, progress=False, **more)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(url)


def test_what_can_neither_be_written_whole_nor_renamed_is_not_written(release: Path) -> None:
    refused(release, f"http://127.0.0.1:{free_port()}/x.zarr", "neither writes an object whole nor renames one")


def test_chains_are_not_written(release: Path, tmp_path: Path) -> None:
    refused(release, f"simplecache::file://{tmp_path}/x.zarr", "is a chain of file systems")
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("notes.txt", "mine")
    before = archive.read_bytes()
    refused(release, f"zip://x.zarr::{archive}", "is a chain of file systems")
    assert archive.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("files", ["ftp", "sftp"], indirect=True)
def test_places_out_of_reach_are_told_of_in_one_line(files: FileServer, release: Path, tmp_path: Path) -> None:
    address = files.url.rpartition("@")[2].rpartition("/")[2]
    cases: dict[str, tuple[type[Exception], str]] = {
        f"{files.url.partition(':')[0]}://nobody:wrong@{address}/x.zarr": (StoreAccessError, "Authentication failed"),
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
            assert "wrong" not in str(raised.value)  # a password


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
    path = scan["ncct"].encoding["isles24_zarr"]["source"]["path"]
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


def test_obstore_writes_to_google_cloud_and_takes_its_lock(
    release: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from tests.s3_server import download, moto_server, proxy_to, s3_client

    with moto_server(tmp_path / "log") as port, proxy_to(port, google=True) as proxy:
        s3 = s3_client(port)
        s3.create_bucket(Bucket="bucket")
        place = {"gcs_base_url": f"http://127.0.0.1:{proxy.server_address[1]}", "disable_oauth": True}
        account = json.dumps({**place, "client_email": "", "private_key": "", "private_key_id": ""})
        options = {"service_account_key": account, "client_options": {"allow_http": True}}
        check_bucket("obstore+gs://bucket/x.zarr", options, release, few, client)
        assert_identical_stores(few, download(s3, "bucket", "x.zarr", tmp_path / "x.zarr"))


def check_bucket(target: str, options: dict[str, Any], release: Path, few: Path, client: Client) -> None:
    """Convert, again and again, and try the lock; what is left is the store alone."""
    common = {"client": client, "storage_options": options, **FEW}
    assert isles24_zarr.convert(release, target, **common).ok
    assert isles24_zarr.convert(release, target, **common).unchanged == (S,)
    assert isles24_zarr.verify(target, client=client, progress=False, storage_options=options).ok
    scan = isles24_zarr.open_scan(target, S, chunks=None, storage_options=options)
    assert np.array_equal(scan["ncct"][5].values, isles24_zarr.open_scan(few, S, chunks=None)["ncct"][5].values)
    lease, other = (Lease(target, options) for _ in range(2))
    lease.take()
    with pytest.raises(StoreLockedError, match="another conversion is writing into it"):
        other.take()
    with pytest.raises(StoreLockedError, match="another conversion is writing into it"):
        isles24_zarr.convert(release, target, **common)
    lease.renew()
    lease.confirm()
    lease.release()
    other.take()
    other.release()


# --- Azure ---

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every emulator of Azure, as its documentation has them."""


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an emulator of Azure."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed, run: npm install -g azurite")
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent"]
    log = tmp_path_factory.mktemp("azure") / "log"
    with running_server([*command, "--skipApiVersionCheck", "--disableTelemetry"], port=port, log=log):
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"


@pytest.mark.parametrize("protocol", ["az", "obstore+az"])
def test_a_store_in_azure_is_that_on_disk(
    protocol: str, azure: str, release: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("adlfs" if protocol == "az" else "obstore")
    blobs = pytest.importorskip("azure.storage.blob")
    connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={azure};"
    own = {"account_name": ACCOUNT, "account_key": ACCOUNT_KEY, "endpoint": azure}
    options: dict[str, dict[str, Any]] = {
        "az": {"connection_string": connection},
        "obstore+az": {**own, "client_options": {"allow_http": True}},
    }
    name = f"by-{protocol.replace('+', '-')}"
    with blobs.BlobServiceClient.from_connection_string(connection) as service:
        container = service.create_container(name)
        check_bucket(f"{protocol}://{name}/deep/x.zarr", options[protocol], release, few, client)
        for key in container.list_blob_names():
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(container.download_blob(key).readall())
    assert_identical_stores(few, tmp_path / "deep" / "x.zarr")


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
