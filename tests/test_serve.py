"""A store over HTTP, asked by real Zarr clients and by requests that no client would send."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import fsspec
import numpy as np
import pytest
import tensorstore
import zarr
from zarr.storage import FsspecStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

S = "sub-stroke0001"
CTP = f"{S}/space-ncct/ctp"
SECRET = b"not for others"


@contextmanager
def serving(
    store: Path, *options: str, begin: str = "exec python -m isles24_zarr"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    begin = begin.replace("python", sys.executable)
    command = ["sh", "-c", f'{begin} "$@"', "sh", "serve", str(store), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://"), process.communicate()
            yield process, line.split()[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store in a folder beside which, and in which, there is more than the store."""
    folder = tmp_path_factory.mktemp("serve")
    copy = shutil.copytree(store, folder / "isles24.zarr")
    for path in (folder / "secret", folder / "c", copy / "notes.csv", copy / S / ".hidden"):
        path.write_bytes(SECRET)
    (folder / "elsewhere" / "c").mkdir(parents=True)
    (folder / "elsewhere" / "c" / "0").write_bytes(SECRET)
    (folder / "elsewhere" / "zarr.json").write_bytes(SECRET)
    (copy / "linked").symlink_to(folder / "elsewhere")
    (copy / "document").mkdir()
    (copy / "document" / "zarr.json").symlink_to(folder / "secret")
    os.mkfifo(copy / "document" / "c")
    return copy


@pytest.fixture(scope="module")
def url(served: Path) -> Iterator[str]:
    with serving(served) as (_, url):
        yield url


def ask(
    url: str, method: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """A request with its path as it is: no client of ours cleans it up."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_zarr_python_reads_the_same(url: str, store: Path) -> None:
    found = zarr.open_group(FsspecStore.from_url(f"{url}{S}/space-ncct"), mode="r")
    wanted = zarr.open_group(store / S / "space-ncct", mode="r")
    for name in ("ncct", "ctp", "lesion_mask", "x", "time"):
        np.testing.assert_array_equal(found[name][...], wanted[name][...])
    assert dict(found.attrs) == dict(wanted.attrs)


def test_tensorstore_reads_the_same(url: str, store: Path) -> None:
    spec = {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": url, "path": f"{CTP}/"}}
    found = tensorstore.open(spec).result()
    wanted = zarr.open_array(store / CTP, mode="r")
    np.testing.assert_array_equal(found[3].read().result(), wanted[3])
    np.testing.assert_array_equal(found.read().result(), wanted[...])


def test_this_package_reads_it(url: str, store: Path) -> None:
    code = (
        "import isles24_zarr, sys\n"
        f"scan = isles24_zarr.open_cohort({url!r}).isles.scan({S!r})\n"
        "print(int(scan['lesion_mask'].sum()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == int(zarr.open_array(store / S / "space-ncct" / "lesion_mask", mode="r")[...].sum())


def test_all_that_a_store_holds_is_served(url: str, store: Path) -> None:
    with fsspec.open(f"{url}zarr.json") as file:
        assert json.load(file)["node_type"] == "group"
    for path in [path for path in store.rglob("*") if path.is_file()]:
        status, _, body = ask(url, "GET", "/" + quote(path.relative_to(store).as_posix()))
        assert (status, body) == (200, path.read_bytes())


def shard(store: Path) -> tuple[str, bytes]:
    path = next(path for path in sorted((store / CTP / "c").rglob("*")) if path.is_file())
    return f"/{path.relative_to(store).as_posix()}", path.read_bytes()


@pytest.mark.parametrize(
    ("asked", "cut"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-19", slice(10, 20)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-1", slice(-1, None)),
        ("bytes=-516", slice(-516, None)),  # the index of a shard
        ("bytes=-999999999", slice(0, None)),
        ("bytes=5-999999999", slice(5, None)),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ranges(url: str, store: Path, method: str, asked: str, cut: slice) -> None:
    path, content = shard(store)
    status, headers, body = ask(url, method, path, {"Range": asked})
    start, stop, _ = cut.indices(len(content))
    assert status == 206
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert headers["content-length"] == str(stop - start)
    assert body == (content[cut] if method == "GET" else b"")


@pytest.mark.parametrize("asked", ["bytes=999999999-", "bytes=-0"])
def test_ranges_that_are_not_there(url: str, store: Path, asked: str) -> None:
    path, content = shard(store)
    status, headers, _ = ask(url, "GET", path, {"Range": asked})
    assert (status, headers["content-range"]) == (416, f"bytes */{len(content)}")


def test_a_changed_object_is_not_pieced_together(url: str, store: Path) -> None:
    path, content = shard(store)
    _, headers, _ = ask(url, "HEAD", path)
    assert headers["accept-ranges"] == "bytes"
    same = ask(url, "GET", path, {"Range": "bytes=0-3", "If-Range": headers["etag"]})
    other = ask(url, "GET", path, {"Range": "bytes=0-3", "If-Range": '"of another version"'})
    assert (same[0], same[2]) == (206, content[:4])
    assert (other[0], other[2]) == (200, content)
    assert ask(url, "GET", path, {"If-None-Match": headers["etag"]})[0] == 304


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/../c",
        "/../elsewhere/zarr.json",
        "/../elsewhere/c/0",
        "//../elsewhere/zarr.json",
        "/..%2felsewhere%2fzarr.json",
        "/%2e%2e/elsewhere/zarr.json",
        "/%2e%2e%2felsewhere/c/0",
        "/%252e%252e/elsewhere/zarr.json",
        f"/{S}/../../elsewhere/zarr.json",
        "/..\\elsewhere\\zarr.json",
        "/..%5celsewhere%5czarr.json",
        "/linked/zarr.json",
        "/linked/c/0",
        "/document/zarr.json",
        "/document/c",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/etc/passwd%00/zarr.json",
        "/zarr.json%00",
        "/notes.csv",
        f"/{S}/.hidden",
        "/page/viewer.js",
        "/../viewer.js",
        f"/{S}",
        f"/{CTP}/c",
        "/" + "a" * 5000 + "/zarr.json",
        "/%ff%fe/zarr.json",
        "http://example.org/../elsewhere/zarr.json",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_nothing_but_the_store_is_served(url: str, method: str, path: str) -> None:
    status, _, body = ask(url, method, path)
    assert status in ((204, 404) if method == "OPTIONS" else (400, 404))
    assert SECRET not in body
    assert b"root:" not in body


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "MKCOL", "PROPFIND", "TRACE"])
def test_nothing_can_be_written(url: str, served: Path, method: str) -> None:
    before = (served / "zarr.json").read_bytes()
    status, headers, _ = ask(url, method, "/zarr.json", {"Content-Length": "0"})
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (served / "zarr.json").read_bytes() == before


@pytest.fixture(scope="module")
def open_url(served: Path) -> Iterator[str]:
    with serving(served, "--origin", "*") as (_, url):
        yield url


def test_pages_of_other_sites_may_read_where_they_are_let_in(open_url: str) -> None:
    url = open_url
    asked = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "range",
    }
    status, headers, _ = ask(url, "OPTIONS", "/zarr.json", asked)
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert headers["access-control-allow-headers"] == "range"
    assert ask(url, "OPTIONS", "/zarr.json", {**asked, "Access-Control-Request-Method": "PUT"})[0] == 400
    _, headers, _ = ask(url, "GET", "/zarr.json", {"Origin": "https://example.org", "Range": "bytes=0-3"})
    assert headers["access-control-allow-origin"] == "*"
    assert "Content-Range" in headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("rebound.example.org", 421),
        ("127.0.0.1.example.org", 421),
        ("localhost@example.org", 421),
        ("127.0.0.1:80:80", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_only_names_of_this_machine_are_answered(url: str, host: str, status: int) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"GET /zarr.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").readline()
    assert int(answer.split()[1]) == status


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:8000", True),
        ("https://example.org", False),
        ("http://localhost.example.org", False),
        ("null", False),
    ],
)
def test_only_pages_of_this_machine_may_read(url: str, origin: str, *, allowed: bool) -> None:
    _, headers, _ = ask(url, "GET", "/zarr.json", {"Origin": origin})
    assert headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_a_name_of_an_allowed_site_is_answered(store: Path) -> None:
    with serving(store, "--origin", "https://data.example.org") as (_, url):
        address = urlsplit(url)
        for host, wanted in (("data.example.org", b"200"), ("other.example.org", b"421")):
            with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
                connection.sendall(f"GET /zarr.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                assert connection.makefile("rb").readline().split()[1] == wanted


@pytest.mark.parametrize("sent", [b"", b"GET /zarr.json HTTP/1.1\r\nHost: loc"])
def test_half_a_request_is_not_waited_for(store: Path, sent: bytes) -> None:
    code = "import isles24_zarr.serving._server as s, isles24_zarr.cli as c; s._REQUEST_SECONDS = 1; c.main()"
    begin = f"exec python -c '{code}'"
    with serving(store, begin=begin) as (_, url):
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(sent)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert ask(url, "GET", "/zarr.json")[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_more_connections_than_descriptors(store: Path) -> None:
    with serving(store, begin="ulimit -n 64 && exec python -m isles24_zarr") as (process, url):
        address = urlsplit(url)
        taken = [socket.create_connection((address.hostname, address.port), timeout=30) for _ in range(200)]
        for connection in taken:
            connection.close()
        assert ask(url, "GET", "/zarr.json")[0] == 200
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert told == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    path, _ = shard(copy)
    (copy / path[1:]).chmod(0)
    with serving(copy) as (process, url):
        assert ask(url, "GET", path)[0] == 403
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert told == ""


def test_origins_can_be_told(store: Path) -> None:
    with serving(store, "--origin", "https://ours.example.org") as (_, url):
        ours = ask(url, "GET", "/zarr.json", {"Origin": "https://ours.example.org"})[1]
        theirs = ask(url, "GET", "/zarr.json", {"Origin": "https://example.org"})[1]
    assert ours["access-control-allow-origin"] == "https://ours.example.org"
    assert "access-control-allow-origin" not in theirs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_the_usual_end(store: Path, number: signal.Signals) -> None:
    with serving(store) as (process, url):
        assert ask(url, "GET", "/zarr.json")[0] == 200
        idle = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60)
        with idle:
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (0, "")


def test_what_is_no_store_is_refused(release: Path, store: Path, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr")
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    with taken:
        for options, told in (
            ([release], "there is no isles24-zarr store; give the path that"),
            ([tmp_path / "nothing"], "there is no isles24-zarr store"),
            ([tmp_path / "other.zarr"], "is a Zarr group, but not an isles24-zarr store"),
            (["s3://bucket/x.zarr"], "is no folder of this machine"),
            ([store, "--port", port], "cannot be listened at"),
        ):
            command = [sys.executable, "-m", "isles24_zarr", "serve", *map(str, options)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 2, done.stderr
            assert done.stderr.startswith("error: ")
            assert told in done.stderr
            assert len(done.stderr.splitlines()) == 1
