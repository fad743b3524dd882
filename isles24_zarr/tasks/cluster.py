"""Tasks on Dask: whose cluster, in which order, and their results as they end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from dask.base import compute as dask_compute
from dask.delayed import delayed
from distributed import CancelledError, Client, KilledWorker, as_completed, default_client, get_worker
from distributed.comm.core import CommClosedError
from distributed.protocol.pickle import loads

from isles24_zarr.errors import ClusterLostError, SchedulerNotFoundError, WorkerMismatchError
from isles24_zarr.progress import ProgressBar
from isles24_zarr.tasks._processes import own_client, silent_dask
from isles24_zarr.tasks._workers import check_memory, check_workers, packed, stop_if_cancelled, workers_needed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

Task = TypeVar("Task")
Result = TypeVar("Result")
Key = TypeVar("Key")

RETRIES: Final = 2
"""Of a task that failed. They are ours, and not Dask's, so that it is known that there are any."""
_WAITING: Final = 2
"""Tasks for each thread, beyond which no further group is begun."""
_CONNECT_SECONDS: Final = "10s"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskLost:
    """What stands for the result of a task that no worker could end: why, as a clause."""

    why: str

    @classmethod
    def of(cls, error: KilledWorker | MemoryError) -> TaskLost:
        """Say of a task how it was lost."""
        if isinstance(error, MemoryError):
            return cls(why=f"its worker has too little memory ({error or 'none is left'})")
        return cls(why=f"its workers died, perhaps for lack of memory ({error})")


@contextlib.contextmanager
def dask_client(client: Client | None, workers: int | None, store: str = "") -> Iterator[Client]:
    """Give the caller's client, or one of a cluster of this machine that lives as long as the context.

    Parameters
    ----------
    client
        Of the caller; it stays open.
    workers
        Number of processes of a cluster of our own, by default one for each core.
    store
        Path or URL of what they are to work on: memory is seen by threads alone.

    Raises
    ------
    DestinationError
        The store is in memory, and workers are other processes.
    WorkerStartError, WorkerRefusedError
        Processes of our own cannot be started.
    NoWorkersError, WorkerMismatchError, ClusterLostError
        The caller's cluster cannot do the work, see `check_workers`.
    """
    if client is not None:
        check_workers(client)
        check_memory(client, store)
        yield client
        return
    check_memory(None, store)
    with own_client(workers) as own:
        yield own


@contextlib.contextmanager
def connected_client(scheduler: str | None) -> Iterator[Client | None]:
    """Give a client of a running scheduler, or none where there is no address.

    Raises
    ------
    SchedulerNotFoundError
        Nobody answers at that address.
    """
    with silent_dask():
        if scheduler is None:
            yield None
            return
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise SchedulerNotFoundError(scheduler, f"no Dask scheduler answers ({error})") from error
        with client:
            yield client


def completed_tasks(
    client: Client,
    function: Callable[[Task, str], Result],
    tasks: Sequence[Task],
    *,
    sizes: Sequence[int] | None,
    groups: Sequence[str] | None = None,
    begin: Callable[[str], None] = lambda _: None,
    title: str,
    progress: bool,
) -> Generator[tuple[Task, Result | TaskLost]]:
    """Run tasks, the largest or those of the largest group first, and yield each with its result as it ends.

    A task that raises ends them all with its exception; one whose workers keep dying, or have too little memory, is
    reported, and the others are processed. Whatever ends them, what has not begun is cancelled, and what is running
    stops at its next `advance`; the cluster stays.

    Parameters
    ----------
    client
        Where to run them.
    function
        Called with a task and a topic, which it may pass to `advance`.
    tasks, sizes
        What to run, and how many bytes each of them handles; without sizes, the bar counts tasks.
    groups
        What each task belongs to. Tasks of a group follow each other, the group with the largest task is first: what is
        done after the last task of a group is done while others run, and not for all of them at the end. A group begins
        when workers would soon have nothing to do, and no task has failed: where tasks are ended, few groups are left
        in their midst.
    begin
        Called with a group before its first task is run.
    title
        Of the progress bar.
    progress
        Whether to show it, on stderr.

    Yields
    ------
    tuple
        The task and its result, or how it was lost.

    Raises
    ------
    ClusterLostError
        The scheduler has gone, or all workers have.
    WorkerMismatchError
        A worker that joined while tasks were running lacks this package, or has another version of it.
    """
    weights = [1] * len(tasks) if sizes is None else sizes
    bar = ProgressBar(title, total=sum(weights), in_bytes=sizes is not None, shown=progress)
    waiting, begun = deque(_order(weights, groups)), set[str]()
    with running_tasks(client, function, bar) as running:
        while waiting or len(running):
            while waiting:
                index = waiting[0]
                if groups is not None and groups[index] not in begun:
                    if running.is_retrying() or len(running) > _WAITING * _threads(client):
                        break
                    begin(groups[index])
                    begun.add(groups[index])
                waiting.popleft()
                running.submit(index, tasks[index], nbytes=0 if sizes is None else sizes[index], weight=weights[index])
            index, result = running.result()
            yield tasks[index], result


class RunningTasks(Generic[Key]):
    """Tasks that were submitted, each known by a key, and their results as they end."""

    def __init__(self, client: Client, function: Callable[[Any, str], Any], bar: ProgressBar) -> None:
        self.topic = f"isles24-zarr-{uuid.uuid4().hex}"
        self.futures: dict[Any, _Submitted[Key]] = {}
        self._client, self._function, self._bar = client, function, bar
        self._again: list[_Submitted[Key]] = []
        self._ended = as_completed([], loop=client.loop)  # else of the current client, if there is one

    def __len__(self) -> int:
        return len(self.futures) + len(self._again)

    def has_result(self) -> bool:
        """Tell whether a task has ended whose result was not taken."""
        return bool(self._ended.has_ready())

    def submit(self, key: Key, task: object, *, nbytes: int, weight: int) -> None:
        """Run a task.

        Parameters
        ----------
        key
            What `result` gives back.
        task
            What the function is called with.
        nbytes
            Of voxels that the task handles, 0 where that is not known.
        weight
            On the bar.
        """
        self._ended.add(self._submit(_Submitted(key, task, nbytes, weight)))

    def is_retrying(self) -> bool:
        """Tell whether a task has failed and is run again."""
        return any(what.failures for what in self.futures.values())

    def _submit(self, what: _Submitted[Key]) -> Any:
        call = packed(self._function, what.task, nbytes=what.nbytes, topic=self.topic)
        # as bytes, which any worker can read; kept at once, since an interrupt may come at any moment
        self.futures[future := self._client.submit(loads, call, pure=False)] = what
        return future

    def result(self) -> tuple[Key, Any]:
        """Wait for a task to end, and return its key and its result, or how it was lost."""
        while self.futures:
            future = next(self._ended)
            what = self.futures.pop(future)
            try:
                result = future.result()
            except (KilledWorker, MemoryError):
                self._again.append(what)
                continue
            except (CancelledError, CommClosedError):
                raise
            except Exception:
                if what.failures == RETRIES:
                    raise
                self._ended.add(self._submit(what._replace(failures=what.failures + 1)))
                continue
            self._bar.finish(what.weight)
            return what.key, result
        return self._result_alone(self._again.pop(0))

    def _result_alone(self, what: _Submitted[Key]) -> tuple[Key, Any]:
        """Run a lost task again: Dask blames all that a dead worker held; alone, one shows whether it was to blame."""
        future = self._submit(what)
        try:
            result = future.result()
        except (KilledWorker, MemoryError) as error:
            result = TaskLost.of(error)
        del self.futures[future]
        self._bar.finish(what.weight)
        return what.key, result


class _Submitted(NamedTuple, Generic[Key]):
    key: Key
    task: object
    nbytes: int
    weight: int
    failures: int = 0


@contextlib.contextmanager
def running_tasks(client: Client, function: Callable[[Any, str], Any], bar: ProgressBar) -> Iterator[RunningTasks[Any]]:
    """Give what runs tasks on a cluster; those that have not ended with the context are cancelled.

    Parameters
    ----------
    client, function
        As for `completed_tasks`.
    bar
        Shown meanwhile.

    Raises
    ------
    ClusterLostError, WorkerMismatchError
        As for `completed_tasks`.
    """
    running: RunningTasks[Any] = RunningTasks(client, function, bar)
    with _cluster_errors(), workers_needed(client, lambda: list(running.futures)), bar:
        client.subscribe_topic(running.topic, bar.on_event)
        try:
            yield running
        finally:
            if client.status == "running":
                client.cancel(list(running.futures))
                client.unsubscribe_topic(running.topic)


@contextlib.contextmanager
def _cluster_errors() -> Iterator[None]:
    """Tell of a scheduler that has gone, and of workers that cannot load what they are to run.

    Raises
    ------
    ClusterLostError, WorkerMismatchError
    """
    try:
        yield
    except (CancelledError, CommClosedError) as error:
        raise ClusterLostError("the Dask cluster", "has gone while tasks were running") from error
    except ImportError as error:
        raise WorkerMismatchError("a Dask worker", f"cannot load what it is to run ({error})") from error


def _threads(client: Client) -> int:
    with contextlib.suppress(OSError):  # the scheduler has gone, as the next result tells
        return sum(client.nthreads().values())
    return 0


def _order(weights: Sequence[int], groups: Sequence[str] | None) -> list[int]:
    if groups is None:
        return sorted(range(len(weights)), key=lambda index: -weights[index])
    largest: dict[str, int] = {}
    for group, weight in zip(groups, weights, strict=True):
        largest[group] = max(weight, largest.get(group, 0))
    return sorted(range(len(weights)), key=lambda index: (-largest[groups[index]], groups[index], -weights[index]))


def advance(topic: str, count: int) -> None:
    """Tell of bytes that a running task has handled.

    Raises
    ------
    CancelledError
        Nobody wants its result any more.
    """
    stop_if_cancelled()
    get_worker().log_event(topic, count)


def threaded_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, title: str, progress: bool
) -> list[Result]:
    """Run tasks on Dask's threads in this process.

    Parameters
    ----------
    function
        Called with a task. What it raises ends them all.
    tasks, title, progress
        As for `completed_tasks`.

    Returns
    -------
    list
        The results, in the order of the tasks.
    """
    with ProgressBar(title, total=len(tasks), in_bytes=False, shown=progress) as bar:

        def counted(task: Task) -> Result:
            result = function(task)
            bar.finish(1)
            return result

        calls = [delayed(functools.partial(counted, task), pure=False)() for task in tasks]
        return list(dask_compute(*calls, scheduler="threads"))


def ordered_results(
    function: Callable[..., Result],
    tasks: Sequence[Task],
    *,
    client: Client | None,
    store: str,
    title: str,
    progress: bool,
) -> list[Result | TaskLost]:
    """Run tasks on a client, the current one by default, and without one on the threads of this process.

    Parameters
    ----------
    function
        Called with a task, and on a client with a topic after it. What it raises ends them all.
    client
        Of the caller.
    tasks, title, progress
        As for `completed_tasks`, whose errors it raises.
    store
        As for `dask_client`, whose errors it raises.

    Returns
    -------
    list
        The results, in the order of the tasks; a `TaskLost` where a worker died over one.
    """
    running = current_client(client)
    if running is None:
        return list(threaded_tasks(function, tasks, title=title, progress=progress))
    with dask_client(running, None, store):
        done = {
            id(task): result
            for task, result in completed_tasks(running, function, tasks, sizes=None, title=title, progress=progress)
        }
    return [done[id(task)] for task in tasks]


def current_client(client: Client | None) -> Client | None:
    """Return the caller's client, else the one that is current, else none: a cluster is not started."""
    if client is not None:
        return client
    with contextlib.suppress(ValueError):
        client = default_client()
    return client
