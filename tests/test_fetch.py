"""Downloads from a server of our own that answers as Zenodo does, and fails as networks do."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from isles24_zarr.errors import DestinationError, DownloadError, RecordError, UnknownNameError
from isles24_zarr.release.zenodo import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, TABLE = "train.7z", "clinical_data-description.xlsx"
CONTENT = np.random.default_rng(0).bytes(3_000_000)
PIECE = 2**16  # what is written at once
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@dataclasses.dataclass
class Behaviour:
    """How the server answers, and what it was asked."""

    breaks: list[int] = dataclasses.field(default_factory=list)
    """After how many bytes of the next answers the connection is closed."""
    statuses: list[int] = dataclasses.field(default_factory=list)
    """Of the next answers, instead of what was asked for."""
    ranges: bool = True
    content: bytes = CONTENT
    entry: dict[str, Any] = dataclasses.field(default_factory=dict)
    document: bytes | None = None
    slow: bool = False
    asked: list[str | None] = dataclasses.field(default_factory=list)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"

    def record(self) -> bytes:
        if self.behaviour.document is not None:
            return self.behaviour.document
        files = {NAME: CONTENT, TABLE: b"a table"}
        listed = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}",
                "links": {"self": f"{self.api}/records/17652035/files/{name}/content"},
            }
            for name, content in files.items()
        ]
        listed[0] |= self.behaviour.entry
        return json.dumps({"id": 17652035, "files": listed}).encode()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self.path.startswith("/api/records/17652035"):
            self.send_error(404)
        elif not self.path.endswith("/content"):
            self.answer(self.server.record(), 200, {})
        elif TABLE in self.path:
            self.answer(b"a table", 200, {})
        else:
            self.answer_range()

    def answer_range(self) -> None:
        behaviour = self.server.behaviour
        asked = self.headers.get("Range")
        behaviour.asked.append(asked)
        if behaviour.statuses:
            self.send_error(behaviour.statuses.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked or "bytes=0-")[1])  # type: ignore[index]
        size = len(behaviour.content)
        if not behaviour.ranges:
            self.answer(behaviour.content, 200, {})
        elif start >= size:
            self.answer(b"", 416, {"Content-Range": f"bytes */{size}"})
        else:
            self.answer(behaviour.content[start:], 206, {"Content-Range": f"bytes {start}-{size - 1}/{size}"})

    def answer(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        behaviour = self.server.behaviour
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if behaviour.breaks and status in (200, 206) and len(body) > 10_000:
            body = body[: behaviour.breaks.pop(0)]
        for start in range(0, len(body), 2**16):
            self.wfile.write(body[start : start + 2**16])
            if behaviour.slow:
                time.sleep(0.5)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetched(server: Server, folder: Path, *files: str) -> Any:
    return fetch(folder, files=files or None, api=server.api, progress=False, patience=0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_of_a_record(server: Server, tmp_path: Path) -> None:
    report = fetched(server, tmp_path / "new" / "folder")
    assert report.fetched == (NAME, TABLE)
    assert report.nbytes == len(CONTENT) + len(b"a table")
    assert names(tmp_path / "new" / "folder") == [TABLE, NAME]
    assert (tmp_path / "new" / "folder" / NAME).read_bytes() == CONTENT
    again = fetched(server, tmp_path / "new" / "folder")
    assert (again.fetched, again.unchanged, again.nbytes) == ((), (NAME, TABLE), 0)
    assert len(server.behaviour.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_are_mended(server: Server, tmp_path: Path, *, ranges: bool) -> None:
    server.behaviour.breaks = [10 * PIECE, 0, 20 * PIECE]
    server.behaviour.ranges = ranges
    report = fetched(server, tmp_path, NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]
    if ranges:
        assert server.behaviour.asked == ["bytes=0-", "bytes=655360-", "bytes=655360-", "bytes=1966080-"]
        assert report.nbytes == len(CONTENT)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    server.behaviour.statuses = [status, status]
    fetched(server, tmp_path, NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_what_came_is_gone_on_with_by_the_next_run(server: Server, tmp_path: Path) -> None:
    server.behaviour.breaks = [10 * PIECE, *[0] * 6]
    with pytest.raises(DownloadError, match=r"broke off after 655,360 of 3,000,000 bytes .*resumes where it stopped"):
        fetched(server, tmp_path, NAME)
    assert names(tmp_path) == [f".{NAME}.{MD5}.part"]
    report = fetched(server, tmp_path, NAME)
    assert server.behaviour.asked[-1] == "bytes=655360-"
    assert report.nbytes == len(CONTENT) - 10 * PIECE
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


def test_a_part_of_another_version_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.{'0' * 32}.part").write_bytes(b"another version")
    assert fetched(server, tmp_path, NAME).nbytes == len(CONTENT)


def test_a_part_that_is_too_long_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.{MD5}.part").write_bytes(bytes(len(CONTENT) + 1))
    assert fetched(server, tmp_path, NAME).nbytes == len(CONTENT)


def test_a_wrong_md5(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.{MD5}.part").write_bytes(bytes(1_000_000))
    with pytest.raises(DownloadError, match="its MD5 is not that of the record"):
        fetched(server, tmp_path, NAME)
    # nothing damaged is left to go on with
    assert names(tmp_path) == []
    fetched(server, tmp_path, NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(("content", "told"), [(CONTENT[:-1], "2,999,999"), (CONTENT + b"x", "3,000,00")])
def test_a_wrong_size(server: Server, tmp_path: Path, content: bytes, told: str, *, ranges: bool) -> None:
    server.behaviour.content, server.behaviour.ranges = content, ranges
    with pytest.raises(DownloadError, match=told):
        fetched(server, tmp_path, NAME)
    assert NAME not in names(tmp_path)


def test_a_file_of_the_user_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(DestinationError, match="is not the file of the record; move it away"):
        fetched(server, tmp_path, NAME)
    assert (tmp_path / NAME).read_bytes() == b"mine"


def test_two_at_the_same_time(server: Server, tmp_path: Path) -> None:
    with (tmp_path / f".{NAME}.{MD5}.part").open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        with pytest.raises(DestinationError, match="another process is downloading into it"):
            fetched(server, tmp_path, NAME)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"key": "../../train.7z"}, "not one to write to"),
        ({"key": "/etc/passwd"}, "not one to write to"),
        ({"key": ".bashrc"}, "not one to write to"),
        ({"key": "a\nb"}, "not one to write to"),
        ({"checksum": "sha1:00"}, "no MD5"),
        ({"checksum": None}, "no MD5"),
        ({"size": -1}, "no MD5 or no size"),
        ({"size": "many"}, "something else than a record"),
        ({"links": None}, "something else than a record"),
    ],
)
def test_hostile_records(server: Server, tmp_path: Path, entry: dict[str, Any], told: str) -> None:
    server.behaviour.entry = entry
    with pytest.raises(RecordError, match=told):
        fetched(server, tmp_path)
    assert not names(tmp_path)


@pytest.mark.parametrize("document", [b"", b"<html>", b"[]", b"{}", b'{"files": 3}', b'{"files": [3]}'])
def test_answers_that_are_no_record(server: Server, tmp_path: Path, document: bytes) -> None:
    server.behaviour.document = document
    with pytest.raises(RecordError, match="something else than a record"):
        fetched(server, tmp_path)


def test_requests_that_are_wrong(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot be had .status 404.; give the number or the DOI"):
        fetch(tmp_path, record="1", api=server.api, progress=False)
    with pytest.raises(RecordError, match="neither the number of a Zenodo record nor its DOI"):
        fetch(tmp_path, record="../users", api=server.api, progress=False)
    with pytest.raises(UnknownNameError, match=f"not in record 17652035, which has {NAME}"):
        fetched(server, tmp_path, "test.7z")
    server.behaviour.entry = {"size": 10**18}
    with pytest.raises(DestinationError, match=r"has room for .* bytes, and 1,000,000,000,000,000,000 are missing"):
        fetched(server, tmp_path, NAME)
    with pytest.raises(DownloadError, match="no server answers"):
        fetch(tmp_path, api="http://127.0.0.1:1/api", progress=False)


@pytest.mark.parametrize("record", ["17652035", "10.5281/zenodo.17652035", "https://doi.org/10.5281/zenodo.17652035"])
def test_a_record_by_number_or_doi(server: Server, tmp_path: Path, record: str) -> None:
    assert fetch(tmp_path, record=record, files=[TABLE], api=server.api, progress=False).fetched == (TABLE,)


def test_the_command_is_interrupted_and_resumed(server: Server, tmp_path: Path) -> None:
    server.behaviour.slow = True
    command = [sys.executable, "-m", "isles24_zarr", "fetch", str(tmp_path), "--file", NAME, "--api", server.api]
    part = tmp_path / f".{NAME}.{MD5}.part"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    left = part.stat().st_size
    assert 0 < left < len(CONTENT)
    server.behaviour.slow = False
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert server.behaviour.asked[-1] == f"bytes={left}-"
    assert f"{tmp_path / NAME}" in done.stdout
    assert (tmp_path / NAME).read_bytes() == CONTENT
