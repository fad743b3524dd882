"""A server that plays the Hugging Face Hub for one dataset: commits, listings, and ranges of files, which it counts."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REPOSITORY = "owner/strokes"


@dataclasses.dataclass
class Hub:
    """What the server has, and what it was asked for.

    Attributes
    ----------
    url
        Its endpoint.
    commits
        Folders by commit.
    branches
        Commits by the names of branches and tags.
    sent
        Lengths of the ranges that it sent, by file.
    asked
        Calls of its API.
    refused
        Files that only some may read.
    """

    url: str
    commits: dict[str, Path]
    branches: dict[str, str]
    sent: defaultdict[str, list[int]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    asked: list[str] = dataclasses.field(default_factory=list)
    refused: set[str] = dataclasses.field(default_factory=set)

    def reset(self) -> None:
        self.sent.clear()
        self.asked.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(rf"/datasets/{REPOSITORY}/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        elif match := re.fullmatch(rf"/api/datasets/{REPOSITORY}(/revision/([^/]+))?", path):
            self._info(match[2] or "main")
        elif match := re.fullmatch(rf"/api/datasets/{REPOSITORY}/tree/([^/]+)(/.*)?", path):
            self._tree(match[1], (match[2] or "").strip("/"))
        else:
            self._refuse("RepoNotFound")

    def _commit(self, revision: str) -> str | None:
        commit = self.hub.branches.get(revision, revision)
        return commit if commit in self.hub.commits else None

    def _info(self, revision: str) -> None:
        self.hub.asked.append(f"info {revision}")
        commit = self._commit(revision)
        if commit:
            self._answer({"id": REPOSITORY, "sha": commit, "private": False, "tags": [], "siblings": []})
        else:
            self._refuse("RevisionNotFound")

    def _tree(self, revision: str, folder: str) -> None:
        self.hub.asked.append(f"tree {revision} {folder}")
        commit = self._commit(revision)
        root = self.hub.commits[commit] if commit else None
        if root is None or not (root / folder).is_dir():
            self._refuse("EntryNotFound")
            return
        deep = "recursive=true" in self.path.lower()
        found = []
        for path in sorted((root / folder).rglob("*") if deep else (root / folder).iterdir()):
            oid = hashlib.sha1(path.read_bytes() if path.is_file() else b"").hexdigest()  # noqa: S324 - as git does
            entry: dict[str, Any] = {"path": path.relative_to(root).as_posix(), "oid": oid, "size": 0}
            entry |= {"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory"}
            found.append(entry)
        self._answer(found)

    def _file(self, revision: str, name: str) -> None:
        commit = self._commit(revision)
        path = self.hub.commits[commit] / name if commit else None
        if path is None or not path.is_file():
            self._refuse("EntryNotFound")
            return
        if name in self.hub.refused:
            self._refuse("GatedRepo", 403)
            return
        content = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match is None:
            self.hub.sent[name].append(len(content))
            self._answer(content)
            return
        start, stop = int(match[1]), min(int(match[2]) + 1, len(content))
        self.hub.sent[name].append(stop - start)
        self._answer(content[start:stop], 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    def _refuse(self, code: str, status: int = 404) -> None:
        self._answer({"error": code}, status, {"X-Error-Code": code})

    def _answer(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running_hub(folder: Path, commit: str) -> Iterator[Hub]:
    """Serve a folder as a commit of the branch main, on a free port."""
    hub = Hub(url="", commits={commit: folder}, branches={"main": commit})
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
