"""Dask clusters that others have started: what they are asked, what they are sent, and how they fail."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import psutil
import pytest
import typer
from distributed import Client, LocalCluster

import isles24_zarr
from isles24_zarr.cli.commands import app
from isles24_zarr.errors import ClusterLostError, NoWorkersError, WorkerMismatchError
from isles24_zarr.tasks import cluster
from isles24_zarr.tasks._workers import check_workers
from isles24_zarr.tasks.cluster import advance, completed_tasks
from tests.clusters import ROOT, SECONDS, odd_worker, ours, scheduler, until, worker
from tests.oracle import assert_identical_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 10**9
ODD = pytest.mark.parametrize(("version", "what"), [(None, "has no isles24-zarr"), ("0.0.9", "has isles24-zarr 0.0.9")])


def command(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "isles24_zarr", *map(str, words)]
    environment = {**ours(), **env}
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a command says on stderr, which has no traceback."""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with two workers that may take one GB each."""
    options = ["--nworkers", "2", "--memory-limit", str(LIMIT)]
    with scheduler(tmp_path_factory.mktemp("cluster")) as at, worker(at, *options):
        with Client(at) as client:
            client.wait_for_workers(2, timeout=SECONDS)
        yield at


# --- the whole way ---


def test_convert_verify_and_export_on_a_cluster(address: str, release: Path, store: Path, tmp_path: Path) -> None:
    target, tree = tmp_path / "x.zarr", tmp_path / "tree"
    for words in (("convert", release, target), ("verify", target, "--source", release), ("export", target, tree)):
        done = command(*words, "--scheduler", address)
        assert done.returncode == 0, done.stderr
    assert_identical_stores(store, target)
    assert len(list(tree.rglob("*.nii.gz"))) == len(list(release.rglob("*.nii.gz")))
    with Client(address) as client:
        assert max(client.run(peak_bytes).values()) < LIMIT


def peak_bytes() -> int:
    return psutil.Process().memory_info().rss


def volume_and_process(scan: Any) -> dict[str, float]:
    return {"lesion": scan.isles.volume("lesion_mask", threshold=0.5), "process": os.getpid()}


def test_map_on_a_cluster(address: str, store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    with Client(address) as client:
        rows = cohort.isles.map(volume_and_process, client=client, progress=False)
        processes = set(client.run(os.getpid).values())
    assert rows["error"].isna().all()
    assert set(rows["process"].astype(int)) <= processes
    expected = [cohort.isles.scan(name).isles.volume("lesion_mask", threshold=0.5) for name in rows.index]
    assert rows["lesion"].tolist() == pytest.approx(expected)


def test_what_is_sent_are_names_and_numbers(
    client: Client, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, list[int]] = {}
    packed = cluster.packed

    def counted(function: Any, task: Any, **options: Any) -> bytes:
        call = packed(function, task, **options)
        sent.setdefault(getattr(function, "__name__", "map"), []).append(len(call))
        return call

    monkeypatch.setattr(cluster, "packed", counted)
    target = tmp_path / "x.zarr"
    report = isles24_zarr.convert(release, target, client=client, progress=False)
    isles24_zarr.verify(target, client=client, progress=False)
    isles24_zarr.export(target, tmp_path / "tree", client=client, progress=False)
    isles24_zarr.open_cohort(target).isles.map(volume_and_process, client=client, progress=False)
    assert {name: len(sizes) for name, sizes in sent.items()} == {
        "convert_file": report.images, "verify_array": report.images, "export_array": report.images, "map": 3,
    }  # fmt: skip
    assert max(size for sizes in sent.values() for size in sizes) < 10_000
    assert report.voxel_bytes > 20 * sum(sent["convert_file"])


# --- workers that die ---


def wait_and_tell(task: Path, topic: str) -> int:  # noqa: ARG001
    """Once, wait to be killed; the next time, tell who ends it."""
    if not task.exists():
        task.write_text(str(os.getpid()))
        time.sleep(SECONDS)
    return os.getpid()


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    with scheduler(tmp_path) as at, worker(at), Client(at) as client:
        check_workers(client)
        done = completed_tasks(client, wait_and_tell, [tmp_path / "pid"], sizes=[1], title="", progress=False)

        def kill() -> None:
            until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        ((_, ended_by),) = done
        killer.join()
        assert ended_by != int((tmp_path / "pid").read_text())


@pytest.mark.parametrize("another", [False, True], ids=["none joins", "another joins"])
def test_when_the_last_worker_leaves_another_one_is_waited_for_but_not_forever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, another: bool
) -> None:
    task, limit = tmp_path / "pid", f"{SECONDS if another else 4}s"
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(scheduler(tmp_path))
        first = stack.enter_context(worker(at, "--no-nanny"))
        client = stack.enter_context(Client(at))
        client.wait_for_workers(1, timeout=SECONDS)
        stack.enter_context(dask.config.set({"isles24-zarr.wait-for-workers": limit}))
        done = completed_tasks(client, wait_and_tell, [task], sizes=[1], title="", progress=False)

        def leave() -> None:
            until(lambda: task.exists() and task.read_text())
            first.kill()
            until(lambda: "no Dask worker is left" in caplog.text)
            if another:
                stack.enter_context(worker(at))

        leaver = threading.Thread(target=leave)
        leaver.start()
        if another:
            assert len(list(done)) == 1
        else:
            with pytest.raises(ClusterLostError, match=r"has had no worker for 4s.*run the same command again"):
                list(done)
        leaver.join()
        assert f"waiting up to {limit} for one to join" in caplog.text


# --- workers that cannot do it ---


@ODD
def test_a_worker_of_another_version_is_told_of_before_anything_changes(
    address: str, release: Path, store: Path, tmp_path: Path, version: str | None, what: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    with odd_worker(address, tmp_path, version), Client(address) as client:
        client.wait_for_workers(3, timeout=SECONDS)
        done = command("convert", release, store, "--overwrite", "--scheduler", address)
        assert done.returncode == 2
        assert f"{what}; this process has {isles24_zarr.__version__}; install the same" in told(done)
        assert told(done).startswith("error: tcp://127.0.0.1:")
        assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
        for words in (("verify", store), ("export", store, tmp_path / "tree")):
            done = command(*words, "--scheduler", address)
            assert (done.returncode, what in told(done)) == (2, True)
        with pytest.raises(WorkerMismatchError, match=what):
            isles24_zarr.open_cohort(store).isles.map(volume_and_process, client=client, progress=False)
    with Client(address) as client:
        until(lambda: len(client.nthreads()) == 2)


def sleep(task: int, topic: str) -> int:  # noqa: ARG001
    time.sleep(0.2)
    return task


@ODD
def test_a_worker_of_another_version_that_joins_late_is_told_of(
    address: str, tmp_path: Path, version: str | None, what: str
) -> None:
    what = "No module named 'isles24_zarr'" if version is None else what
    with Client(address) as client, contextlib.ExitStack() as stack:
        check_workers(client)
        tasks = list(range(10 * SECONDS))
        done = completed_tasks(client, sleep, tasks, sizes=[1] * len(tasks), title="", progress=False)
        with contextlib.closing(done):
            next(done)
            stack.enter_context(odd_worker(address, tmp_path, version))
            with pytest.raises(WorkerMismatchError, match=what):
                list(done)
        until(lambda: not any(client.processing().values()))
        stack.close()
        until(lambda: len(client.nthreads()) == 2)


def test_a_scheduler_without_workers(release: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    with scheduler(tmp_path) as at:
        done = command("convert", release, target, "--scheduler", at, DASK_ISLES24_ZARR__WAIT_FOR_WORKERS="1s")
        assert done.returncode == 2
        assert f"waiting up to 1s for a Dask worker to join {at}" in done.stderr
        assert told(done).startswith(f"error: {at}: no Dask worker has joined in 1s; start workers")
        assert not target.exists()
        with (
            Client(at) as client,
            dask.config.set({"isles24-zarr.wait-for-workers": "1s"}),
            pytest.raises(NoWorkersError),
        ):
            check_workers(client)
        line = [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(target), "--scheduler", at]
        with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ours()) as running:
            assert running.stderr is not None
            said = next(text for text in running.stderr if "waiting up to 10m" in text)
            with worker(at):
                rest = running.stderr.read()
                assert running.wait(SECONDS) == 0, said + rest


def test_an_adaptive_cluster(release: Path, store: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=":0") as local:
        local.adapt(minimum=0, maximum=2, interval="200ms")
        with Client(local) as client:
            report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
            assert report.ok
            assert_identical_stores(store, tmp_path / "x.zarr")
            until(lambda: not client.nthreads())
            assert isles24_zarr.verify(tmp_path / "x.zarr", client=client, progress=False).ok


# --- memory ---


running, most = 0, 0
lock = threading.Lock()


def count_running(task: int, topic: str) -> int:  # noqa: ARG001
    global running, most  # noqa: PLW0603 - of the worker, whose tasks are threads
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.3)
    with lock:
        running -= 1
    return most


def test_a_worker_with_many_threads_does_as_many_tasks_as_it_has_memory_for() -> None:
    options: dict[str, Any] = {"n_workers": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**options, threads_per_worker=6, memory_limit="2GB") as local, Client(local) as client:
        for nbytes, at_once in ((10**10, 2), (1000, 6)):
            sizes = [nbytes] * 12
            done = completed_tasks(client, count_running, list(range(12)), sizes=sizes, title="", progress=False)
            assert max(found for _, found in done) <= at_once
        assert at_once > 2


# --- interrupts ---


def beat(task: Path, topic: str) -> None:
    """Work for a long time, and tell of it."""
    for number in range(100 * SECONDS):
        task.write_text(str(number))
        advance(topic, 1)
        time.sleep(0.01)


def test_what_is_cancelled_stops_and_the_cluster_stays(address: str, tmp_path: Path) -> None:
    tasks = [tmp_path / str(number) for number in range(9)]
    with Client(address) as client:
        done = completed_tasks(client, beat, tasks, sizes=[1] * 9, title="", progress=False)

        def interrupt() -> None:
            until(lambda: any(task.exists() for task in tasks))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            next(done)
        interrupter.join()
        until(lambda: not any(client.call_stack().values()))
        begun = {task: task.read_text() for task in tasks if task.exists()}
        assert 0 < len(begun) < 9
        time.sleep(0.5)
        assert {task: task.read_text() for task in tasks if task.exists()} == begun
        assert client.submit(os.getpid, pure=False).result(timeout=SECONDS) in client.run(os.getpid).values()


def test_an_interrupted_command_leaves_the_cluster_running(
    address: str, release: Path, store: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.zarr"
    line = [sys.executable, "-m", "isles24_zarr", "convert", str(release), str(target), "--scheduler", address]
    with subprocess.Popen(line, cwd=ROOT, env=ours(), stderr=subprocess.PIPE, text=True) as process:
        until(lambda: any(target.glob("sub-*/space-*/*/c")) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 130), said  # on a quick machine it may have ended first
    assert "Traceback" not in said
    with Client(address) as client:
        until(lambda: not any(client.processing().values()))
        assert len(client.nthreads()) == 2
    done = command("convert", release, target, "--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert_identical_stores(store, target)


def test_clusters_of_threads_will_do(release: Path, store: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**options) as local, Client(local) as client:
        assert isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False).ok
    assert_identical_stores(store, tmp_path / "x.zarr")


# --- batch systems, as docs/how-to/cluster.md has them ---


PAGE = (ROOT / "docs" / "how-to" / "cluster.md").read_text()


def options_of(program: str, command: str) -> set[str]:
    """The options that a command line knows."""
    if program == "isles24-zarr":
        found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    else:
        found = importlib.import_module(f"distributed.cli.dask_{command}").main
    return {option for parameter in found.params for option in parameter.opts}


def test_command_lines_of_the_manifest_exist() -> None:
    yaml = pytest.importorskip("yaml")
    (manifest,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    documents = list(yaml.safe_load_all(manifest))
    ends = [
        each["spec"]["template"]["spec"]["containers"][0]["args"] for each in documents if "template" in each["spec"]
    ]
    assert [line[:2] for line in ends] == [["dask", "scheduler"], ["dask", "worker"], ["isles24-zarr", "convert"]]
    for program, command, *words in ends:
        assert {word for word in words if word.startswith("--")} <= options_of(program, command)
    service, scheduler_, worker_, _ = documents
    assert service["spec"]["selector"] == scheduler_["spec"]["template"]["metadata"]["labels"]
    for deployment in (scheduler_, worker_):
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}" in ends[1]


def test_the_batch_script_converts(release: Path, store: Path, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    target = tmp_path / "isles24.zarr"
    for old, new in (("/scratch/train", release), ("/scratch/isles24.zarr", target), ("8786", port)):
        assert old in script
        script = script.replace(old, str(new))
    (tmp_path / "convert.sh").write_text(script)
    programs = {
        "srun": 'shift; "$@" & "$@"',  # a batch system of two tasks
        "hostname": "echo 127.0.0.1",
        "dask": f'exec {sys.executable} -m dask "$@"',
        "isles24-zarr": f'exec {sys.executable} -m isles24_zarr "$@"',
    }
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    env = {**ours(), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            ["bash", tmp_path / "convert.sh"], stdout=log, stderr=log, env=env, start_new_session=True
        ) as job,
    ):
        try:
            assert job.wait(timeout=SECONDS) == 0, (tmp_path / "log").read_text()
        finally:
            os.killpg(job.pid, signal.SIGKILL)  # as the batch system does at the end of a job
    assert_identical_stores(store, target)


def test_jobs_of_dask_jobqueue_are_workers_of_one_thread() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    (call,) = re.findall(r"SLURMCluster\((.*?)\)", PAGE)
    options = {word.arg or "": ast.literal_eval(word.value) for word in ast.parse(f"f({call})").body[0].value.keywords}  # type: ignore[attr-defined]
    with jobqueue.SLURMCluster(**options, scheduler_options={"dashboard_address": ":0"}) as found:
        script = found.job_script()
    assert "#SBATCH --cpus-per-task=8" in script
    assert "--nthreads 1 --memory-limit 1.86GiB --nworkers 8 --nanny" in script
