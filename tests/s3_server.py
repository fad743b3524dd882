"""An S3 server in a process of its own, and a proxy before it that counts requests and breaks some."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from tests.servers import SECONDS, free_port, running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEYS = {"key": "testing", "secret": "testing"}

_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>injected</Message></Error>"
ANSWERS = {
    "301": (301, b"PermanentRedirect"),
    "403": (403, b"AccessDenied"),
    "500": (500, b"InternalError"),
    "503": (503, b"SlowDown"),
}


@contextlib.contextmanager
def moto_server(log: Path) -> Iterator[int]:
    """Run moto on a free port of this machine; yield the port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running_server(command, port=port, log=log):
        yield port


def s3_client(port: int) -> Any:
    """Return an S3 client that shares nothing with obstore."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEYS["key"],
        aws_secret_access_key=KEYS["secret"],
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 5}),
    )


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as the proxy has seen it."""

    method: str
    path: str
    headers: dict[str, str]


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a server; `fault` may name what is to go wrong with one.

    ``"500"``, ``"503"``, ``"403"``, ``"301"``: the server never sees it. ``"lost"``: it does, the answer is an error
    all the same. ``"slow"``: the answer comes in drops. ``"stalled"``: it stops halfway, and the connection stays.
    ``"broken"``: it stops halfway, and the connection ends. ``"refused"``: the connection ends without a word.
    """

    daemon_threads = True

    def __init__(self, port: int, *, google: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _GoogleHandler if google else _Handler)
        self.target = port
        self.tags: dict[str, str] = {}
        self.requests: list[Request] = []
        self.broken: list[Request] = []
        self.fault: Callable[[Request], str | None] = lambda _: None
        self.ended = threading.Event()

    @property
    def options(self) -> dict[str, Any]:
        """Storage options that lead here, with retries as usual and little patience."""
        return {**KEYS, "endpoint_url": f"http://127.0.0.1:{self.server_address[1]}"}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        self.server.requests.append(request)
        fault = self.server.fault(request)
        if fault:
            self.server.broken.append(request)
        if fault == "refused":
            self.close_connection = True
        elif fault in ANSWERS:
            self._answer(ANSWERS[fault][0], {}, _ERROR % ANSWERS[fault][1])
        else:
            status, headers, answer = self._passed_on(body)
            if fault == "lost":
                self._answer(500, {}, _ERROR % b"InternalError")
            else:
                self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - names of the standard library

    def _passed_on(self, body: bytes, **more: str) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=SECONDS)) as behind:
            behind.request(self.command, self.path, body, {**self.headers, **more})
            answer = behind.getresponse()
            data = answer.read()
            dropped = ("transfer-encoding", "connection", "server", "date")
            kept = {key: value for key, value in answer.getheaders() if key.lower() not in dropped}
            return answer.status, kept, data

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: str | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() != "content-length":
                self.send_header(key, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        if fault == "broken":
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "slow":
            for start in range(0, len(body), 1 + len(body) // 5):
                self.wfile.write(body[start : start + 1 + len(body) // 5])
                self.wfile.flush()
                time.sleep(0.02)
        elif body and fault in ("stalled", "broken"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stalled":
                self.server.ended.wait(SECONDS)
            self.close_connection = True
        else:
            self.wfile.write(body)


class _GoogleHandler(_Handler):
    """The XML API of Google Cloud Storage before S3: it is the same but for versions, which are numbers there."""

    def _passed_on(self, body: bytes, **_: str) -> tuple[int, dict[str, str], bytes]:
        del self.headers["Authorization"]
        self.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"
        wanted, tags = self.headers.get("x-goog-if-generation-match"), self.server.tags
        conditions = (
            {"If-None-Match": "*"} if wanted == "0" else {"If-Match": tags.get(wanted, "none")} if wanted else {}
        )
        status, headers, answer = super()._passed_on(body, **conditions)
        if tag := headers.get("ETag"):
            generation = str(int(tag.strip('"')[:15], 16))
            tags[generation] = tag
            headers["x-goog-generation"] = generation
        return status, headers, answer


@contextlib.contextmanager
def proxy_to(port: int, *, google: bool = False) -> Iterator[Proxy]:
    """Run a proxy in a thread of this process; it may speak to its clients as Google Cloud does."""
    with Proxy(port, google=google) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            proxy.shutdown()


def every(count: int, *faults: str) -> Callable[[Request], str | None]:
    """Return faults that hit one of so many requests, each in turn."""
    lock, seen = threading.Lock(), 0

    def chosen(_: Request) -> str | None:
        nonlocal seen
        with lock:
            seen += 1
            return faults[seen // count % len(faults)] if seen % count == 1 else None

    return chosen


def upload(client: Any, folder: Path, bucket: str, prefix: str) -> None:
    """Copy a folder into a bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(
                Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
            )


def download(client: Any, bucket: str, prefix: str, folder: Path) -> Path:
    """Copy all objects below a prefix into a folder."""
    for key in keys(client, bucket, prefix):
        path = folder / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return folder


def keys(client: Any, bucket: str, prefix: str) -> list[str]:
    """Return the keys of all objects below a prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which no credentials are to be found."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    return {**kept, **nowhere, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "COLUMNS": "200", "NO_COLOR": "1", **more}
