"""Dask as it fails in the field: workers that die, schedulers that leave, scripts without a guard."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from distributed import Client, LocalCluster, Status

from isles24_zarr.errors import ClusterLostError, SchedulerNotFoundError, StoreWriteError
from isles24_zarr.tasks import _processes
from isles24_zarr.tasks.cluster import TaskLost, advance, completed_tasks, connected_client, dask_client

if TYPE_CHECKING:
    from pathlib import Path


def order_and_progress(task: int, topic: str) -> tuple[int, int]:
    advance(topic, task)
    return task, os.getpid()


def die_on_zero(task: int, topic: str) -> int:  # noqa: ARG001
    if task == 0:
        os._exit(1)
    return task


def ask_for_too_much(task: int, topic: str) -> int:  # noqa: ARG001
    if task == 0:
        np.empty(2**60, np.uint8)
    return task


def fail(task: int, topic: str) -> None:  # noqa: ARG001
    raise StoreWriteError("store", f"is full ({task})")


def test_all_tasks_run_elsewhere_and_the_bar_counts_bytes(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [1, 30, 2, 20]
    done = dict(completed_tasks(client, order_and_progress, tasks, sizes=tasks, title="testing", progress=True))
    assert {task: result[0] for task, result in done.items()} == {task: task for task in tasks}
    assert os.getpid() not in {result[1] for result in done.values()}
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "testing" in shown.err


def test_the_largest_come_first() -> None:
    with dask_client(None, 1) as client:
        tasks = list(range(1, 9))
        done = completed_tasks(client, order_and_progress, tasks, sizes=tasks, title="", progress=False)
        assert [task for task, _ in done] == tasks[::-1]


def test_tasks_of_a_group_follow_each_other() -> None:
    with dask_client(None, 1) as client:
        tasks, groups = [3, 9, 1, 5, 8], ["b", "a", "a", "b", "c"]
        done = completed_tasks(client, order_and_progress, tasks, sizes=tasks, groups=groups, title="", progress=False)
        assert [task for task, _ in done] == [9, 1, 8, 5, 3]


def test_a_group_begins_when_workers_would_soon_have_nothing_to_do() -> None:
    with dask_client(None, 1) as client:
        tasks, groups, told = [1] * 12, [name for name in "abc" for _ in range(4)], list[str]()
        done = completed_tasks(
            client, order_and_progress, tasks, sizes=tasks, groups=groups, begin=told.append, title="", progress=False
        )
        assert [len(told) for _ in done] == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
        assert told == ["a", "b", "c"]


def test_the_callers_client_stays_open(client: Client) -> None:
    with dask_client(client, None) as given:
        assert given is client
    assert client.status == "running"


def test_an_error_of_ours_ends_all_with_its_own_words(client: Client) -> None:
    with pytest.raises(StoreWriteError, match="is full"):
        list(completed_tasks(client, fail, [1, 2, 3], sizes=[1, 1, 1], title="", progress=False))


def test_a_task_that_kills_its_workers_is_told_of_and_the_others_go_on() -> None:
    with dask_client(None, 2) as client:
        results = dict(completed_tasks(client, die_on_zero, [0, 1, 2], sizes=[9, 2, 1], title="", progress=False))
    lost = results.pop(0)
    assert isinstance(lost, TaskLost)
    assert lost.why.startswith("its workers died, perhaps for lack of memory (")
    assert results == {1: 1, 2: 2}


def test_a_task_that_finds_no_memory_is_told_of_and_the_others_go_on(client: Client) -> None:
    results = dict(completed_tasks(client, ask_for_too_much, [0, 1, 2], sizes=[9, 2, 1], title="", progress=False))
    lost = results.pop(0)
    assert isinstance(lost, TaskLost)
    assert lost.why.startswith("its worker has too little memory (Unable to allocate")
    assert results == {1: 1, 2: 2}


def test_an_interrupt_while_tasks_are_submitted_is_an_interrupt(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, count = client.submit, 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return submit(*args, **options)

    monkeypatch.setattr(client, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(completed_tasks(client, order_and_progress, [1, 2, 3], sizes=[1, 1, 1], title="", progress=False))


def test_an_interrupt_while_workers_start_waits_until_they_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives a signal to any thread that does not mask it, as one that is older than the mask."""
    own_cluster, starting, clusters = _processes._own_cluster, threading.Event(), list[_processes.OwnCluster]()

    def interrupt() -> None:
        starting.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def interrupted(workers: int | None) -> _processes.OwnCluster:
        starting.set()
        older.join()
        clusters.append(own_cluster(workers))
        return clusters[0]

    older = threading.Thread(target=interrupt)
    older.start()
    monkeypatch.setattr(_processes, "_own_cluster", interrupted)
    with pytest.raises(KeyboardInterrupt), dask_client(None, 1):
        pytest.fail("the interrupt is lost")
    assert clusters[0].status == Status.closed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_scheduler_that_leaves() -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        done = completed_tasks(client, order_and_progress, [1, 2], sizes=[1, 1], title="", progress=False)
        next(done)
        cluster.close()
        with pytest.raises(ClusterLostError, match="run the same command again"):
            list(done)


def test_nobody_at_the_address() -> None:
    with (
        pytest.raises(SchedulerNotFoundError, match="no Dask scheduler answers"),
        connected_client("tcp://127.0.0.1:1"),
    ):
        pass


def heard_of(name: str, stream: io.StringIO) -> bool:
    """Whether a handler hears a logger."""
    before = len(stream.getvalue())
    logging.getLogger(name).error("something")
    return len(stream.getvalue()) > before


LISTENED = ("", "distributed", "distributed.client")
"""Dask's client has handlers of its own."""


def test_dask_is_silent_for_us_alone_and_handlers_are_left_as_they_are() -> None:
    """One handler may hear Dask and everybody else, as those of pytest do."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    for name in LISTENED:
        logging.getLogger(name).addHandler(handler)
    try:
        assert heard_of("distributed.client", stream)
        with contextlib.ExitStack() as first:
            first.enter_context(connected_client(None))
            with dask_client(None, 1) as client:
                first.close()  # contexts of two threads end in any order
                assert client.submit(os.getpid).result() != os.getpid()
                assert not any(
                    heard_of(name, stream) for name in ("distributed", "distributed.client", "distributed.nanny")
                )
                assert heard_of("isles24_zarr", stream)
                assert handler.level == logging.NOTSET
        assert all(heard_of(name, stream) for name in ("distributed", "distributed.client", "distributed.nanny"))
    finally:
        for name in LISTENED:
            logging.getLogger(name).removeHandler(handler)


def test_a_script_without_a_guard_is_told_what_to_do(release: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import isles24_zarr
            isles24_zarr.convert({str(release)!r}, {str(tmp_path / "x.zarr")!r}, progress=False)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "make the call under 'if __name__ == \"__main__\":'" in done.stderr.splitlines()[-1]
