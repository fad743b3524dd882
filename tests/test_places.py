"""Places as they fail: full disks, read-only targets, sources that vanish, machines without memory or shared memory.

The disks are small file systems in memory, mounted by the tests; where that is not allowed, they are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

import isles24_zarr
from isles24_zarr.errors import DestinationError, LittleRoomWarning, StoreWriteError
from tests.clusters import until
from tests.oracle import arrays_by_source, assert_identical_stores, images_below

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

S = "sub-stroke0001"
SECONDS = 1200
"""How long anything may take on a machine that has other things to do."""


def mount(path: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for one subject and a half."""
    path = tmp_path / "disk"
    path.mkdir()
    mount(path, "size=2m")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def stored_bytes(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_full_disk(release: Path, store: Path, client: Client, disk: Path) -> None:
    target = disk / "x.zarr"
    # room for the first subject, and for half of the second
    resize(disk, str(int(1.5 * stored_bytes(store / S)) + 200_000))
    first = isles24_zarr.convert(release, target, subjects=[S], client=client, progress=False)
    assert first.ok
    with (
        pytest.warns(LittleRoomWarning),
        pytest.raises(StoreWriteError, match="No space left on device") as raised,
    ):
        isles24_zarr.convert(release, target, client=client, progress=False)
    assert "free space or restore access" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isles24_zarr.verify(target, subjects=[S], client=client, progress=False).ok
    resize(disk, "100m")
    assert isles24_zarr.convert(release, target, client=client, progress=False).ok
    assert_identical_stores(store, target)


def test_a_full_disk_by_the_command_line(release: Path, disk: Path) -> None:
    resize(disk, "300k")
    command = [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(disk / "x.zarr"), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "No space left on device" in last
    assert "Traceback" not in done.stderr


def test_a_read_only_target(release: Path, store: Path, client: Client, disk: Path) -> None:
    resize(disk, "100m")
    target = shutil.copytree(store, disk / "x.zarr")
    (target / S / "zarr.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for place in (target, disk / "new.zarr"):
        with pytest.raises(StoreWriteError, match="Read-only file system"):
            isles24_zarr.convert(release, place, client=client, progress=False)
    with pytest.raises(DestinationError, match="Read-only file system"):
        isles24_zarr.export(target, disk / "nifti", client=client, progress=False)
    # to look at what is there, nothing need be writable
    assert isles24_zarr.convert(release, store, client=client, progress=False).converted == ()
    assert isles24_zarr.open_scan(target, "sub-stroke0002")["ncct"].ndim == 3
    assert isles24_zarr.verify(target, subjects=["sub-stroke0002"], client=client, progress=False).ok


def test_an_export_that_fills_the_disk(store: Path, client: Client, disk: Path) -> None:
    resize(disk, "300k")
    try:
        report = isles24_zarr.export(store, disk / "nifti", client=client, progress=False)
        told = [problem.message for problem in report.problems]
    except DestinationError as error:  # where not even the tables fit
        told = [str(error)]
    assert any("No space left on device" in line for line in told)
    assert not [path for path in disk.rglob("*") if path.name.endswith(".partial")]
    resize(disk, "100m")
    assert isles24_zarr.export(store, disk / "nifti", client=client, progress=False).ok


def test_a_source_that_vanishes_midway(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    source, target = shutil.copytree(release, tmp_path / "train"), tmp_path / "x.zarr"
    command = [sys.executable, "-m", "isles24_zarr", "convert", str(source), str(target), "--workers", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any(target.glob("sub-*/space-*/*/c")):
            assert process.poll() is None
            time.sleep(0.005)
        source.rename(tmp_path / "gone")
        told, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert '"severity": "error"' in told
    arrays = arrays_by_source(target)
    assert len(arrays) < len(images_below(release))
    assert isles24_zarr.verify(target, client=client, progress=False).ok
    shutil.copytree(release, source)
    assert isles24_zarr.convert(source, target, client=client, progress=False).ok
    assert_identical_stores(store, target)


def test_a_worker_without_memory_is_told_of(release: Path, client: Client, tmp_path: Path) -> None:
    """It is killed while it reads one image, as the kernel kills what asks for more than there is."""
    script = tmp_path / "script.py"
    script.write_text(
        "import resource, isles24_zarr\n"
        "from isles24_zarr import conversion, nifti\n"
        "if __name__ == '__main__':\n"
        f"    source, store = {str(release)!r}, {str(tmp_path / 'x.zarr')!r}\n"
        f"    report = isles24_zarr.convert(source, store, subjects=[{S!r}], workers=1, progress=False)\n"
        "    print(len(report.converted), sum(p.severity == 'error' for p in report.problems))\n"
        "    print(next(str(p) for p in report.problems if 'workers died' in p.message))\n"
        "else:\n"
        "    # a worker\n"
        "    import os, signal\n"
        "    read = nifti.VoxelStream.readinto\n"
        "    def killed(self, voxels):\n"
        "        if 'space-ncct_ctp' in self._path:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return read(self, voxels)\n"
        "    nifti.VoxelStream.readinto = killed\n"
    )
    env = {**os.environ, "DASK_ISLES24_ZARR__WAIT_FOR_WORKERS": f"{SECONDS}s"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=SECONDS, env=env
    )
    assert done.returncode == 0, done.stderr
    counts, problem = done.stdout.splitlines()
    assert counts == "1 1"
    assert len(arrays_by_source(tmp_path / "x.zarr")) == 17
    assert "its workers died, perhaps for lack of memory" in problem
    assert "run the same command again, with fewer workers" in problem
    # the file is the same, and is tried again all the same
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", subjects=[S], client=client, progress=False)
    assert (report.ok, report.converted, report.images) == (True, (S,), 1)


def processes_of(group: int) -> list[psutil.Process]:
    """Those of a process group that run; one that has ended may wait for somebody to ask for its exit code."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_the_only_worker_is_killed_and_comes_back(release: Path, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    command = [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(target), "--workers", "1"]
    # Dask looks so soon after its death that it cannot be there
    env = {**os.environ, "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "10ms"}
    env["DASK_ISLES24_ZARR__WAIT_FOR_WORKERS"] = f"{SECONDS}s"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        while not any(target.glob("sub-*/space-*/*/c")):
            assert process.poll() is None
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        (worker,) = [each for each in children if any("spawn_main" in word for word in each.cmdline())]
        worker.kill()
        _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    assert_identical_stores(store, target)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("os._exit(1)", "cannot be started again"),
        ("raise ImportError('broken')", "cannot be started again"),
        ("time.sleep(10_000)", "are not back after 5s"),
    ],
)
def test_a_worker_that_never_comes_back_is_one_line(
    release: Path, store: Path, client: Client, tmp_path: Path, start: str, what: str
) -> None:
    """It is killed when it reads its first image, and what it needs to start is broken since."""
    target, script, broken = tmp_path / "x.zarr", tmp_path / "script.py", tmp_path / "broken"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "from isles24_zarr import cli, nifti\n"
        f"broken = pathlib.Path({str(broken)!r})\n"
        "if __name__ == '__main__':\n"
        f"    sys.argv = ['isles24-zarr', 'convert', {str(release)!r}, {str(target)!r}, '--workers', '1']\n"
        "    cli.main()\n"
        "elif broken.exists():\n"
        f"    {start}\n"
        "def killed(self, voxels):\n"
        "    broken.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "nifti.VoxelStream.readinto = killed\n"
    )
    # the limit is for one that neither dies nor gets ready; the first start has none
    env = {**os.environ, "DASK_ISLES24_ZARR__WAIT_FOR_WORKERS": "5s" if "sleep" in start else f"{SECONDS}s"}
    with subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, told
    last = told.strip().splitlines()[-1]
    assert last.startswith(f"error: worker processes: died, and {what}; ")
    assert "run the same command again" in last
    until(lambda: not processes_of(process.pid))
    assert isles24_zarr.convert(release, target, client=client, progress=False).ok
    assert_identical_stores(store, target)


def test_without_shared_memory_one_line_says_so(release: Path, tmp_path: Path) -> None:
    """Python's locks between processes are kept there."""
    command = [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(tmp_path / "x.zarr")]
    mounting = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/dev/shm"]  # noqa: S108
    alone = ["unshare", "--mount"]
    if subprocess.run([*alone, *mounting], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    line = [*alone, "sh", "-c", f'{shlex.join(mounting)} && exec "$@"', "sh", *command]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: worker processes: are refused by the system ([Errno 30] Read-only file system); ")
    assert "make /dev/shm" in last
