"""What holds for which URL: folders, servers that are read, Google Cloud, Azure, and what cannot be written to."""

from __future__ import annotations

import contextlib
import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import nibabel as nib
import numpy as np
import pytest

import isles24_zarr
from isles24_zarr.conversion import forecast
from isles24_zarr.errors import (
    DestinationError,
    MissingExtraError,
    NotAStoreError,
    SourceNotFoundError,
    StoreAccessError,
    StoreLockedError,
)
from isles24_zarr.scans.opening import read_path
from isles24_zarr.store._lease import Lease
from tests.oracle import assert_identical_stores, canonical_voxels
from tests.servers import free_port, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

S = "sub-stroke0001"
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


@contextlib.contextmanager
def file_server(protocol: str, folder: Path) -> Iterator[str]:
    """Serve a folder; yield its URL."""
    port = free_port()
    if protocol == "ftp":
        pytest.importorskip("pyftpdlib")
        command = ["-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-d", str(folder), "-w"]
    else:
        pytest.importorskip("asyncssh")
        pytest.importorskip("paramiko")
        command = ["-c", SFTP_SERVER, str(port), str(folder)]
    place = "sftp://reader:secret@127.0.0.1" if protocol == "sftp" else "ftp://127.0.0.1"
    with running_server([sys.executable, *command], port=port, log=folder.parent / f"{protocol}.log"):
        yield f"{place}:{port}"


@pytest.fixture(scope="module", params=["ftp", "sftp"])
def files(
    request: pytest.FixtureRequest, release: Path, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a server of files, which has the release and a store."""
    folder = tmp_path_factory.mktemp(request.param) / "files"
    shutil.copytree(release, folder / "train")
    shutil.copytree(few, folder / "x.zarr")
    with file_server(request.param, folder) as url:
        yield url


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


# --- servers that are read ---


def test_a_server_of_files_is_read(files: str, release: Path, few: Path, client: Client, tmp_path: Path) -> None:
    assert isles24_zarr.convert(f"{files}/train", tmp_path / "x.zarr", client=client, **FEW).ok
    assert_identical_stores(few, tmp_path / "x.zarr")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    store = f"{files}/x.zarr"
    assert isles24_zarr.verify(store, client=client, progress=False).ok
    assert isles24_zarr.open_cohort(store).isles.subjects == [S]
    scan = isles24_zarr.open_scan(store, S, chunks=None)
    wanted = canonical_voxels(nib.load(release / scan["ncct"].encoding["isles24_zarr"]["source"]["path"]))
    assert np.array_equal(scan["ncct"].values, wanted)
    assert np.array_equal(scan["ncct"][:, 5].values, wanted[:, 5])
    assert read_path(store).startswith("TensorStore, in merged ranges through ")


def test_places_out_of_reach_are_told_of_in_one_line(files: str, tmp_path: Path) -> None:
    address = files.rpartition("@")[2].rpartition("/")[2]
    cases: dict[str, tuple[type[Exception], str]] = {
        f"{files.partition(':')[0]}://nobody:wrong@{address}/x.zarr": (StoreAccessError, "Authentication failed"),
        f"ftp://127.0.0.1:{free_port()}/x.zarr": (StoreAccessError, "Connection refused"),
        f"zip://x.zarr::{tmp_path}/no.zip": (StoreAccessError, "No such file"),
        "nonsense://x.zarr": (NotAStoreError, "Protocol not known"),
    }
    for url, (kind, told) in cases.items():
        for call in (isles24_zarr.open_cohort, lambda url: isles24_zarr.open_scan(url, S)):
            with pytest.raises(kind, match=told) as raised:
                call(url)
            assert "\n" not in str(raised.value)
            assert "wrong" not in str(raised.value)  # a password


def test_memory_is_not_read_by_other_processes(few: Path, client: Client) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(few), "/x.zarr", recursive=True)
    try:
        assert isles24_zarr.open_cohort("memory://x.zarr").isles.subjects == [S]
        for each in (client, None):  # another's, and one of our own
            with pytest.raises(DestinationError, match="is in the memory of this process"):
                isles24_zarr.verify("memory://x.zarr", client=each, progress=False)
    finally:
        memory.rm("/x.zarr", recursive=True)


# --- what no store can be written to ---


def refused(release: Path, url: str, told: str, **more: Any) -> None:
    with pytest.raises(DestinationError, match=told) as raised:
        isles24_zarr.convert(release, url, progress=False, **more)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(url)
    with pytest.raises(DestinationError, match=told):  # and so does what would be done
        forecast(release, url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.zarr", "ftp://127.0.0.1:9/x", "sftp://h/x", "memory://new.zarr"])
def test_stores_are_written_to_folders_and_buckets_alone(url: str, release: Path) -> None:
    refused(release, url, "no store is written there.*mount the place")


def test_chains_are_not_written(release: Path, tmp_path: Path) -> None:
    refused(release, f"simplecache::file://{tmp_path}/x.zarr", "no store is written there")
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("notes.txt", "mine")
    before = archive.read_bytes()
    refused(release, f"zip://x.zarr::{archive}", "no store is written there")
    assert archive.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


# --- buckets ---


def test_a_store_in_google_cloud_is_that_on_disk(release: Path, few: Path, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from tests.s3_server import download, moto_server, proxy_to, s3_client

    with moto_server(tmp_path / "log") as port, proxy_to(port, google=True) as proxy:
        s3 = s3_client(port)
        s3.create_bucket(Bucket="bucket")
        options = {"gs": {"token": "a token", "endpoint_url": f"http://127.0.0.1:{proxy.server_address[1]}"}}
        check_bucket("gs://bucket/deep/x.zarr", options, release, few, client)
        assert isles24_zarr.open_cohort("gcs://bucket/deep/x.zarr", storage_options=options).isles.subjects == [S]
        assert_identical_stores(few, download(s3, "bucket", "deep/x.zarr", tmp_path / "x.zarr"))


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
    with pytest.raises(StoreLockedError, match="another process is writing into it"):
        other.take()
    with pytest.raises(StoreLockedError, match="another process is writing into it"):
        isles24_zarr.convert(release, target, **common)
    lease.renew()
    lease.confirm()
    lease.release()
    other.take()
    other.release()


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


def test_a_store_in_azure_is_that_on_disk(azure: str, release: Path, few: Path, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    blobs = pytest.importorskip("azure.storage.blob")
    connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={azure};"
    with blobs.BlobServiceClient.from_connection_string(connection) as service:
        container = service.create_container("container")
        check_bucket("az://container/deep/x.zarr", {"connection_string": connection}, release, few, client)
        own = {"account_name": ACCOUNT, "account_key": ACCOUNT_KEY, "endpoint_url": azure}
        found = isles24_zarr.open_cohort("abfs://container/deep/x.zarr", storage_options={"az": own})
        assert found.isles.subjects == [S]
        for key in container.list_blob_names():
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(container.download_blob(key).readall())
        with pytest.raises(StoreAccessError, match="there is no such bucket"):
            isles24_zarr.open_cohort("az://nothing/x.zarr", storage_options=own)
    assert_identical_stores(few, tmp_path / "deep" / "x.zarr")


# --- without obstore, and with too much of it ---


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_obstore_is_asked_for_where_it_is_missing(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("obstore", "isles24_zarr.places._obstores"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    for call in (isles24_zarr.open_cohort, isles24_zarr.scan):
        with pytest.raises(MissingExtraError, match=r"pip install 'isles24-zarr\[s3\]'"):
            call(f"{scheme}://bucket/x.zarr")


def test_the_former_prefix_is_told_of() -> None:
    for call, kind in [(isles24_zarr.open_cohort, NotAStoreError), (isles24_zarr.scan, SourceNotFoundError)]:
        with pytest.raises(kind, match=r"leave out the prefix obstore\+") as raised:
            call("obstore+s3://bucket/x.zarr")
        assert "\n" not in str(raised.value)
    assert not [name for name in fsspec.available_protocols() if name.startswith("obstore")]
