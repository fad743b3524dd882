"""A server of one archive, with ranges (RFC 9110), that counts what it gives and fails as servers and networks do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = 2**14


@dataclasses.dataclass
class Behaviour:
    """How the server answers, and what it was asked and gave."""

    content: bytes = b""
    ranges: bool = True
    heeds_if_range: bool = True
    tags: Callable[[int], dict[str, str]] = lambda _: {"ETag": '"one"'}
    """Of each answer, by its number."""
    breaks: list[int] = dataclasses.field(default_factory=list)
    """After how many bytes of the next answers the connection is closed."""
    statuses: list[int] = dataclasses.field(default_factory=list)
    """Of the next answers, instead of what was asked for."""
    retry_after: list[str] = dataclasses.field(default_factory=list)
    """What those ask for."""
    range_of: Callable[[int, int, int], str] = lambda begin, end, size: f"bytes {begin}-{end - 1}/{size}"
    surplus: int = 0
    """How many bytes more than asked for are given."""
    secret: str = ""
    """Without which nothing is given, in the header Authorization."""
    asked: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    sent: int = 0


class RangeServer(ThreadingHTTPServer):
    """Serves one content under every path, and a record of Zenodo that lists it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/train.7z"

    def serve(self, content: bytes, **options: Any) -> Behaviour:
        self.behaviour = Behaviour(content=content, **options)
        return self.behaviour

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a client has gone."""

    def record(self) -> bytes:
        files = [("train.7z", self.behaviour.content), ("clinical_data-description.xlsx", b"a table")]
        listed = [
            {"key": name, "size": len(content), "checksum": f"md5:{'0' * 32}", "links": {"self": self.link(name)}}
            for name, content in files
        ]
        return json.dumps({"files": listed}).encode()

    def link(self, name: str) -> str:
        return f"{self.root}/api/records/17652035/files/{name}/content"


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        if self.path == "/api/records/17652035":
            self.answer(self.server.record(), 200, {})
            return
        if behaviour.secret and self.headers.get("Authorization") != behaviour.secret:
            self.answer(b"", 401, {})
            return
        if behaviour.statuses and (status := behaviour.statuses.pop(0)):
            asked_for = {"Retry-After": behaviour.retry_after.pop(0)} if behaviour.retry_after else {}
            self.answer(b"no", status, asked_for)
            return
        tags, size = behaviour.tags(len(behaviour.asked)), len(behaviour.content)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        stale = behaviour.heeds_if_range and self.headers.get("If-Range", tags.get("ETag")) != tags.get("ETag")
        if match is None or not behaviour.ranges or stale:
            behaviour.asked.append((0, size))
            self.answer(behaviour.content, 200, tags)
            return
        begin, end = int(match[1]), min(int(match[2] or size - 1) + 1, size)
        behaviour.asked.append((begin, end))
        if begin >= size:
            self.answer(b"", 416, {"Content-Range": f"bytes */{size}"})
            return
        body = behaviour.content[begin : end + behaviour.surplus]
        self.answer(body, 206, {**tags, "Content-Range": behaviour.range_of(begin, end, size)})

    def answer(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        behaviour = self.server.behaviour
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if behaviour.breaks and len(body) > behaviour.breaks[0]:
            body = body[: behaviour.breaks.pop(0)]
            self.close_connection = True
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), PIECE):
                behaviour.sent += self.wfile.write(body[start : start + PIECE])

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def running_range_server() -> Iterator[RangeServer]:
    with RangeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
