"""Clusters as they are started in the field: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import isles24_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SECONDS = 180
"""How long anything may take on a machine that has other things to do."""


@contextlib.contextmanager
def process(*command: str, env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone at the end, and all that it has started."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=env, cwd=cwd, **quiet) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(timeout=30)
            except subprocess.TimeoutExpired:
                started.kill()


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    """``dask scheduler``; gives its address."""
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with process(sys.executable, "-m", "dask", "scheduler", *options, env=ours(), cwd=ROOT) as started:
        until(lambda: (file.exists() and file.read_text().endswith("}")) or started.poll() is not None)
        yield json.loads(file.read_text())["address"]


@contextlib.contextmanager
def worker(address: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """``dask worker`` of one thread, which has this package; a nanny starts it again when it dies."""
    command = ["-m", "dask", "worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
    with process(sys.executable, *command, *options, env=ours(), cwd=ROOT) as started:
        yield started


@contextlib.contextmanager
def odd_worker(address: str, folder: Path, version: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that has another version of this package, or lacks it, and all else that is installed here."""
    others = folder / f"packages-{version}"
    others.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith("isles24_zarr") and path.suffix != ".pth":
            (others / path.name).symlink_to(path)
    if version:
        shutil.copytree(Path(isles24_zarr.__file__).parent, others / "isles24_zarr")
        about = others / f"isles24_zarr-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: isles24-zarr\nVersion: {version}\n")
    command = ["-S", "-m", "dask", "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    env = {**os.environ, "PYTHONPATH": str(others)}
    with process(sys.executable, *command, env=env, cwd=folder) as started:
        yield started


def ours() -> dict[str, str]:
    """The environment in which this package is that of this tree."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def until(condition: Any, *, seconds: float = SECONDS) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)
