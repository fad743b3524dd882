"""Conversions that are killed or interrupted, or lose their cluster; after each, a plain re-run mends all.

Processes are real, and so are the signals: they hit the whole group, as those of a terminal or of a batch system do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from distributed import Client

import isles24_zarr
from tests.clusters import scheduler, worker
from tests.oracle import assert_identical_stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS, KILLS = 10, 3
SECONDS = 120


def command(release: Path, target: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(target), *options]


@contextmanager
def conversion(release: Path, target: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A conversion in a process group of its own, of which nothing is left at the end."""
    with subprocess.Popen(
        command(release, target, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def finish(release: Path, target: Path) -> str:
    """Run the plain command to its end."""
    done = subprocess.run(command(release, target), capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(process: subprocess.Popen[str], target: Path, pattern: str) -> None:
    """Wait until the store holds what matches a pattern."""
    while not any(target.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def usual_seconds(release: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long an undisturbed conversion takes, start-up included."""
    target = tmp_path_factory.mktemp("usual") / "x.zarr"
    started = time.monotonic()
    finish(release, target)
    assert_identical_stores(store, target)
    return time.monotonic() - started


def test_an_interrupt_while_code_is_made_keeps_its_exit_code(tmp_path: Path) -> None:
    """Python takes an interrupt that leaves ``exec`` of a string for one that nobody caught."""
    (tmp_path / "interrupted.py").write_text(
        "import importlib\n"
        "from isles24_zarr.cli import main\n"
        "def stop(*args, **options):\n"
        "    exec('raise KeyboardInterrupt')\n"
        "importlib.import_module('isles24_zarr.conversion').scan = stop\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted", "scan", "release"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 130, done
    assert (
        done.stderr == "interrupted; what was finished stays, run the same command again: it resumes where it stopped\n"
    )


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "finalizer",
    [
        "Last = type('Last', (), {'__del__': lambda self: interrupt()})",
        "Last = lambda: weakref.finalize(type('Any', (), {})(), interrupt)",
    ],
)
def test_an_interrupt_in_a_finalizer_is_not_lost(number: str, finalizer: str) -> None:
    """Python prints what is raised in one, and goes on."""
    program = (
        "import os, signal, time, weakref\n"
        "from isles24_zarr.cli import _app\n"
        "if number != 'SIGINT': signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def interrupt(): os.kill(os.getpid(), signal.Signals[number]); time.sleep(0.01)\n"
        f"{finalizer}\n"
        "def last() -> bool:\n"
        "    Last()\n"
        "    time.sleep(3600)\n"
        "    return True\n"
        "_app.command(last)\n"
        "_app.main()\n"
    )
    line = [sys.executable, "-c", f"number = {number!r}\n{program}", "last"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (130, "")
    assert (
        done.stderr == "interrupted; what was finished stays, run the same command again: it resumes where it stopped\n"
    )


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_kill_9_of_all_processes_at_random_moments(
    release: Path, store: Path, tmp_path: Path, usual_seconds: float, seed: int
) -> None:
    moments, target = np.random.default_rng(seed), tmp_path / "x.zarr"
    for _ in range(KILLS):
        with conversion(release, target) as process:
            # what comes before the first write takes about a third of the time
            time.sleep(moments.uniform(0.3, 1.0) * usual_seconds)
            os.killpg(process.pid, signal.SIGKILL)
    finish(release, target)
    assert_identical_stores(store, target)
    assert isles24_zarr.verify(target, fast=True, progress=False).ok


@pytest.mark.parametrize(
    ("number", "group", "share"),
    [
        (signal.SIGINT, True, 0.1),
        (signal.SIGINT, True, 0.3),
        (signal.SIGINT, True, 0.5),
        (signal.SIGTERM, True, 0.2),
        (signal.SIGTERM, False, 0.4),
    ],
)
def test_an_interrupt_is_a_clean_stop(
    release: Path,
    store: Path,
    tmp_path: Path,
    usual_seconds: float,
    number: signal.Signals,
    *,
    group: bool,
    share: float,
) -> None:
    target = tmp_path / "x.zarr"
    with conversion(release, target) as process:
        wait_for(process, target.parent, target.name)  # interpreter and libraries are loaded, work has begun
        time.sleep(share * usual_seconds)
        children = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if group else os.kill)(process.pid, number)
        _, told = process.communicate(timeout=SECONDS)
    if process.returncode != 0:  # on a quick machine it may have ended first
        assert process.returncode == 130, told
        assert "interrupted; what was finished stays, run the same command again: it resumes where it stopped" in told
        assert "Traceback" not in told
    assert psutil.wait_procs(children, timeout=30)[1] == []
    for subject in target.glob("sub-*/zarr.json"):
        assert isles24_zarr.verify(target, subjects=[subject.parent.name], fast=True, progress=False).ok
    finish(release, target)
    assert_identical_stores(store, target)


def test_a_killed_worker_is_replaced(release: Path, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    with conversion(release, target) as process:
        wait_for(process, target, "sub-*/space-*/*/c")
        workers = [
            each
            for each in psutil.Process(process.pid).children(recursive=True)
            if any("spawn_main" in word for word in each.cmdline())
        ]
        assert workers
        workers[0].kill()
        _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    assert_identical_stores(store, target)


def test_a_killed_scheduler_is_told_of(release: Path, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    with scheduler(tmp_path) as address, worker(address):
        with Client(address) as client:
            client.wait_for_workers(1, timeout=SECONDS)
            pid = client.run_on_scheduler(os.getpid)
        with conversion(release, target, "--scheduler", address) as process:
            wait_for(process, target, "sub-*/space-*/*/c")
            os.kill(pid, signal.SIGKILL)
            _, told = process.communicate(timeout=SECONDS)
    if process.returncode != 0:  # on a quick machine it may have ended first
        assert process.returncode == 1, told
        last = told.strip().splitlines()[-1]
        assert last.startswith("error: the Dask cluster: has gone"), told
        assert "run the same command again" in last
    finish(release, target)
    assert_identical_stores(store, target)
