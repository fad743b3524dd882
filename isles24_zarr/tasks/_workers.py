"""The workers of a Dask cluster: whether they can do our work, and how a task is done on one.

A cluster is started by others, and its workers come and go. Those that are there are asked for their version of this
package before work begins. A task tells which version it is from, to be refused by any worker that joined later with
another one: objects of another version must not even be unpickled, as they would be mistaken for ours. A worker that
lacks the package would die of a message that names it, without a word, and be blamed for too little memory: messages
hold nothing but bytes and functions of Dask's own. The scheduler, which only passes them on, needs no package at all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import dask.config
from dask.utils import parse_timedelta
from distributed import CancelledError, get_worker
from distributed.comm.core import CommClosedError
from distributed.protocol import pickle

from isles24_zarr.errors import ClusterLostError, DestinationError, NoWorkersError, WorkerMismatchError
from isles24_zarr.format import MAX_SHARD_BYTES
from isles24_zarr.tasks._processes import OwnCluster
from isles24_zarr.version import PACKAGE_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distributed import Client

_PACKAGE: Final = "isles24-zarr"
_WAIT: Final = "isles24-zarr.wait-for-workers"
"""In the configuration of Dask: how long to wait for the first worker."""
_WAIT_DEFAULT: Final = "10m"
_OWN_WAIT_DEFAULT: Final = "1m"
"""The same for workers of our own, which are started again at once."""
_LEFT: Final = "has had no worker for {}, while there are tasks to do"
_LOOKS: Final = 20
"""How often it is looked meanwhile whether there is one."""
_LEAST_PAUSE: Final = 0.1
"""Seconds between two looks, whoever wants no waiting at all."""
_MOST_PAUSE: Final = 3.0
"""Seconds between two looks, whoever waits for hours."""

_COPIES: Final = 2.5
"""How much memory a task takes, in shards of voxels: one, what it is turned into, and what the libraries hold."""
_SHARE: Final = 0.6
"""Of a worker's memory that tasks may take: Python and the libraries need theirs, and above 0.8 Dask pauses it."""

_logger = logging.getLogger("isles24_zarr")


def check_workers(client: Client) -> None:
    """Make sure that a cluster can do our work, before anything is changed because of it.

    Parameters
    ----------
    client
        Of the cluster. Where it has no worker yet, the first one is waited for, by default for 10 minutes; the setting
        ``isles24-zarr.wait-for-workers`` of Dask (``DASK_ISLES24_ZARR__WAIT_FOR_WORKERS``) is another limit.

    Raises
    ------
    NoWorkersError
        None has joined.
    WorkerMismatchError
        A worker lacks this package or has another version of it.
    ClusterLostError
        The scheduler has gone.
    """
    try:
        if not client.nthreads():
            _wait_for_worker(client)
        # a function of the standard library: one of ours would need the package to tell that it is not there
        _compare(client.run(version, _PACKAGE, on_error="return"))
        _compare(client.run(loaded_version, on_error="return"))
    except (CancelledError, CommClosedError) as error:
        raise ClusterLostError("the Dask cluster", "has gone before work began") from error


def check_memory(client: Client | None, store: str) -> None:
    """Make sure that workers see the memory that a store is in, if it is: that they are threads of this process.

    Parameters
    ----------
    client
        Of the cluster; ``None`` where it would be one of processes.
    store
        Its path or URL.

    Raises
    ------
    DestinationError
        They are not.
    """
    if store.startswith("memory://") and (client is None or set(client.run(os.getpid).values()) != {os.getpid()}):
        raise DestinationError(
            store,
            "is in the memory of this process, which workers do not see; give a client whose workers are threads, "
            "Client(processes=False)",
        )


def loaded_version() -> str:
    """Return the version that this process has imported, whatever has been installed since."""
    return PACKAGE_VERSION


def _address(client: Client) -> str:
    return str(client.scheduler_info()["address"])


def _wait_for_worker(client: Client) -> None:
    """Run a task that any worker can do: an adaptive cluster starts none as long as there is nothing to do."""
    limit = dask.config.get(_WAIT, _WAIT_DEFAULT)
    address = _address(client)
    _logger.warning("waiting up to %s for a Dask worker to join %s", limit, address)
    probe = client.submit(version, _PACKAGE, pure=False)
    try:
        # what is found is looked at later, of all workers alike
        with contextlib.suppress(PackageNotFoundError):
            probe.result(timeout=parse_timedelta(limit))
    except TimeoutError:
        probe.cancel()
        raise NoWorkersError(address, f"no Dask worker has joined in {limit}") from None


@contextlib.contextmanager
def workers_needed(client: Client, futures: Callable[[], list[Any]]) -> Iterator[None]:
    """Do not wait forever for tasks, when all workers have left and none joins.

    Parameters
    ----------
    client
        Of the cluster. It may be without a worker for as long as `check_workers` waits for the first one; a cluster of
        our own, whose workers are here, for a minute if nothing else is configured, and not at all when they have died
        too often while they started.
    futures
        Returns those that are waited for inside; they are cancelled when that was too long.

    Raises
    ------
    ClusterLostError, WorkersLostError
        It was.
    """
    own = client.cluster if isinstance(client.cluster, OwnCluster) else None
    limit, address = dask.config.get(_WAIT, _OWN_WAIT_DEFAULT if own else _WAIT_DEFAULT), _address(client)
    ended, lost = threading.Event(), list[ClusterLostError]()

    def watch() -> None:
        seconds, since = parse_timedelta(limit), 0.0
        # of a scheduler that has gone, the tasks tell; RuntimeError: the event loop has ended between two looks
        with contextlib.suppress(OSError, CancelledError, CommClosedError, RuntimeError):
            while not ended.wait(min(max(seconds / _LOOKS, _LEAST_PAUSE), _MOST_PAUSE)):
                if client.scheduler is None:  # the client was closed
                    return
                if client.nthreads():
                    since = 0.0
                elif not since:
                    since = time.monotonic()
                    _logger.warning("no Dask worker is left at %s, waiting up to %s for one to join", address, limit)
                elif time.monotonic() - since > seconds or (own and own.has_given_up):
                    lost.append(own.lost(limit) if own else ClusterLostError(address, _LEFT.format(limit)))
                    client.cancel(futures())
                    return

    threading.Thread(target=watch, name="isles24-zarr-workers", daemon=True).start()
    try:
        yield
    except CancelledError:
        if not lost:
            raise
        raise lost[0] from None
    finally:
        ended.set()


def _compare(found: Mapping[str, Any]) -> None:
    """Compare the versions of workers, by their addresses, with that of this process."""
    wrong: dict[str, str] = {}
    for address, answer in found.items():
        if isinstance(answer, ImportError):
            lacking = f"has no {_PACKAGE}" if isinstance(answer, PackageNotFoundError) else f"fails with '{answer}'"
            wrong[address] = lacking
        elif isinstance(answer, str) and answer != PACKAGE_VERSION:
            wrong[address] = f"has {_PACKAGE} {answer}"
        elif isinstance(answer, Exception) and not isinstance(answer, OSError):
            raise answer  # of those that have left meanwhile, connections are closed
    if wrong:
        address, what = next(iter(wrong.items()))
        others = f", and so do {len(wrong) - 1} more workers" if len(wrong) > 1 else ""
        raise WorkerMismatchError(address, f"{what}{others}; this process has {PACKAGE_VERSION}")


def packed(function: Callable[[Any, str], Any], task: object, *, nbytes: int, topic: str) -> bytes:
    """Return a call as bytes, for any worker to make by `distributed.protocol.pickle.loads`.

    Parameters
    ----------
    function, task
        What to call, with the task and the topic.
    nbytes
        Of voxels that the task handles, 0 where that is not known.
    topic
        Where it may tell of progress.
    """
    return bytes(pickle.dumps(_Call(PACKAGE_VERSION, pickle.dumps((function, task)), nbytes, topic)))


class _Call:
    """A call of `perform` that is made where it is unpickled."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return perform, self._arguments


def perform(made_by: str, call: bytes, nbytes: int, topic: str) -> Any:
    """Do a task, on a worker.

    Parameters
    ----------
    made_by
        Version of the package that packed it.
    call
        The pickle of function and task.
    nbytes, topic
        As for `packed`.

    Raises
    ------
    WorkerMismatchError
        This worker has another version of the package.
    """
    if made_by != PACKAGE_VERSION:
        raise WorkerMismatchError(
            get_worker().address, f"has {_PACKAGE} {PACKAGE_VERSION}; the tasks are of {_PACKAGE} {made_by}"
        )
    function, task = pickle.loads(call)
    with MEMORY.taken(nbytes):
        return function(task, topic)


def stop_if_cancelled() -> None:
    """End the running task if nobody wants its result any more; Dask itself only stops what has not begun.

    Raises
    ------
    CancelledError
        The client has cancelled the task, or has gone.
    """
    worker = get_worker()
    key = worker.get_current_task()
    state = worker.state.tasks.get(key)
    if state is None or state.state == "cancelled":
        raise CancelledError(key)


class _Memory:
    """The memory of this worker: of its tasks, as many run at the same time as it has room for.

    Dask gives a worker one task for each of its threads, whatever they need, and kills it when that was too much.
    """

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._taken = 0.0

    @contextlib.contextmanager
    def taken(self, nbytes: int) -> Iterator[None]:
        """Wait for room, and hold it; a task that is alone always has it."""
        needed = min(nbytes, MAX_SHARD_BYTES) * _COPIES
        limit = get_worker().memory_manager.memory_limit
        with self._room:
            while self._taken and limit and self._taken + needed > limit * _SHARE:
                self._room.wait(timeout=1)
                stop_if_cancelled()
            self._taken += needed
        try:
            yield
        finally:
            with self._room:
                self._taken -= needed
                self._room.notify_all()


MEMORY: Final = _Memory()
"""Of this process."""


class _ComputedHere:
    """While a task is inside, what it computes with Dask is computed in its own thread.

    Tasks of a worker would send it to the cluster again, and those of a thread to other threads: then more than one
    chunk for each task is in memory. Dask's configuration belongs to the process, in which other tasks may be inside as
    well: the first one sets it, the last one puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._setting: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._setting = dask.config.set(scheduler="synchronous")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._setting.__exit__(None, None, None)


COMPUTED_HERE: Final = _ComputedHere()
"""Of this process."""
