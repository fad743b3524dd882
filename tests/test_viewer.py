"""The page of `view` without a browser: what the package serves and writes, and that it is what its source builds."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import isles24_zarr
from isles24_zarr.cli.commands import app
from isles24_zarr.errors import NotAStoreError
from isles24_zarr.serving import write_page
from tests.browser import viewing
from tests.test_serve import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent.parent / "viewer"
PAGE = Path(isles24_zarr.__file__).parent / "serving" / "page"


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    with viewing(store) as url:
        yield url


def test_names_windows_and_colours_are_those_of_the_package() -> None:
    written = SOURCE / "src" / "conventions.json"
    assert written.read_text() == runpy.run_path(str(SOURCE / "conventions.py"))["text"](), (
        "python viewer/conventions.py && npm --prefix viewer run build"
    )
    # and they are in what was built
    built = (PAGE / "viewer.js").read_text()
    for colours in json.loads(written.read_text())["colours"].values():
        assert colours in built


def test_the_page_is_what_its_source_builds() -> None:
    if not shutil.which("node") or not (SOURCE / "node_modules" / "esbuild").is_dir():
        pytest.skip("no Node, or not 'npm ci' in viewer/")
    done = subprocess.run(["node", str(SOURCE / "build.mjs"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_licences_of_all_that_is_in_the_page_lie_beside_it() -> None:
    told = (PAGE / "LICENCES.txt").read_text()
    wanted = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    for name in (*wanted, "numcodecs", "@zarrita/storage"):
        assert re.search(rf"^{re.escape(name)} [\d.]+ \(MIT\)$", told, re.MULTILINE), name
    assert told.count("Permission is hereby granted") >= 4
    for name in ("c-blosc", "zstd", "lz4", "zlib", "snappy", "fastlz", "bitshuffle"):
        assert f"\n{name}, in numcodecs\n" in told


def test_the_page_asks_nobody_else_and_evaluates_no_text() -> None:
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"https?://", page)
    assert "<script>" not in page
    assert " style=" not in page
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    built = (PAGE / "viewer.js").read_text()
    assert not re.search(
        r"\.(innerHTML|outerHTML)\s*=[^=]|insertAdjacentHTML|document\.write\(", built.replace("uPlot", "")
    )


@pytest.mark.parametrize("name", ["", "index.html", "viewer.js", "viewer.css", "blosc.js", "LICENCES.txt"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_page_is_served(url: str, name: str, method: str) -> None:
    content = (PAGE / (name or "index.html")).read_bytes()
    status, headers, body = ask(url, method, f"/{name}")
    assert (status, body) == (200, content if method == "GET" else b"")
    assert headers["content-length"] == str(len(content))
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, body = ask(url, method, f"/{name}", {"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert int(headers["content-length"]) < len(content) or len(content) < 1000
    if method == "GET":
        assert gzip.decompress(body) == content
    assert ask(url, method, f"/{name}", {"If-None-Match": headers["etag"]})[0] == 304


def test_the_page_is_answered_by_the_names_of_this_machine_alone(url: str) -> None:
    address = urlsplit(url)
    for host, wanted in (("rebound.example.org", b"421"), ("localhost", b"200")):
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert connection.makefile("rb").readline().split()[1] == wanted
    assert ask(url, "POST", "/", {"Content-Length": "0"})[0] == 405


def test_results_of_others_are_served(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "isles24.zarr")
    shard = copy / "derivatives" / "mine-1.0" / "sub-stroke0001" / "space-ncct" / "tmax" / "c" / "0" / "0" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"0123456789")
    (copy / "derivatives" / "zarr.json").write_text("{}")
    with viewing(copy) as url:
        assert ask(url, "GET", "/derivatives/zarr.json")[0] == 200
        path = f"/{shard.relative_to(copy).as_posix()}"
        assert ask(url, "GET", path, {"Range": "bytes=2-4"})[::2] == (206, b"234")


def test_a_page_beside_a_store_names_it(tmp_path: Path) -> None:
    store, site = tmp_path / "a b" / "isles24.zarr", tmp_path / "site" / "page"
    page = Path(write_page(site, store))
    assert page == site / "index.html"
    assert '<meta name="isles24-store" content="../../a%20b/isles24.zarr/">' in page.read_text()
    assert "connect-src 'self' http: https:" in page.read_text()
    assert {path.name for path in site.iterdir()} == {path.name for path in PAGE.iterdir()}
    write_page(site, 'https://x.example/"><script>')
    assert "<script>" not in page.read_text().replace('<script type="module"', "")
    write_page(site)
    assert 'content=""' in page.read_text()
    with pytest.raises(NotAStoreError, match="cannot be read by a browser"):
        write_page(site, "s3://bucket/isles24.zarr")


def test_a_store_or_a_folder_is_wanted(tmp_path: Path) -> None:
    for options, told in (([], "no store was named"), ([str(tmp_path)], "there is no isles24-zarr store")):
        command = [sys.executable, "-m", "isles24_zarr", "view", "--no-browser", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_browser_is_opened_unless_told_otherwise(store: Path, tmp_path: Path) -> None:
    """By the browser that the environment names, here one that writes its address down."""
    noted = tmp_path / "noted"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {noted}.part && mv {noted}.part {noted}\n')
    browser.chmod(0o755)
    command = ["env", f"BROWSER={browser}", sys.executable, "-m", "isles24_zarr", "view", str(store), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        while not noted.exists():
            assert process.poll() is None
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - once it serves, it heeds an interrupt
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert noted.read_text().strip() == url
    assert (process.returncode, told) == (0, "")


def test_the_former_path_of_serve_warns() -> None:
    with pytest.warns(DeprecationWarning, match="isles24_zarr.serving"):
        runpy.run_module("isles24_zarr.serve")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from isles24_zarr import serve

    assert serve.store_app is isles24_zarr.serving.store_app


def test_the_command_is_listed() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert {"serve", "view"} <= set(names)
