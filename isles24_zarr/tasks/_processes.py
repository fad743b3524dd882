"""Worker processes of this machine: a Dask cluster of our own, whose workers come back when they die.

The kernel kills a worker when memory runs out, and its nanny, an object in this process, starts it again. But Dask's
`SpecCluster` looks 15 seconds after each death, and closes the nanny for good if there is no worker at that moment:
because it takes longer to start, or has just died once more. Ours stay, until a worker has died a few times in a row
while it started.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final

import dask.config
from distributed import Client, LocalCluster, Nanny, SpecCluster, Status

from isles24_zarr.errors import UnknownNameError, WorkerRefusedError, WorkersLostError, WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIES: Final = 5
"""How often in a row a worker may die while it starts."""
_ALLOCATION: Final = {"MALLOC_MMAP_THRESHOLD_": 32 << 20, "MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_ARENA_MAX": 1}
"""For glibc in workers, bytes but for the last. Dask has them give memory back at once, so that every block of voxels
would be made of new pages: that took a third of a conversion. With an arena for each thread, memory is half as much
again."""
_UNWATCHED: Final = {"distributed.worker.profile.enabled": False}
"""For a page of its dashboard, which is not served, Dask looks at the stacks of workers a hundred times a second. That
took a twentieth of a conversion."""
_silencers: Final[list[object]] = []
_usual_levels: Final[dict[logging.Logger, int]] = {}
_levels_lock: Final = threading.Lock()


@contextlib.contextmanager
def silent_dask() -> Iterator[None]:
    """Keep Dask from logging: what it says while clusters end, tracebacks among it, is not for readers of our errors.

    Its loggers are told; `silence_logs` would tell their handlers, which may be the user's, and hear other loggers too.
    """
    me = object()
    with _levels_lock:
        if not _silencers:
            names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
            loggers = [logging.getLogger(name) for name in names]
            _usual_levels.update({logger: logger.level for logger in loggers if logger.level})
            _usual_levels[logging.getLogger("distributed")] = logging.getLogger("distributed").level
            for logger in _usual_levels:
                logger.setLevel(logging.CRITICAL)
        _silencers.append(me)
    try:
        yield
    finally:
        with _levels_lock:
            _silencers.remove(me)
            if not _silencers:
                for logger, level in _usual_levels.items():
                    logger.setLevel(level)
                _usual_levels.clear()


class RestartingNanny(Nanny):
    """A nanny that starts its worker again when it dies, but not forever when it dies while it starts."""

    _tries = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.silence_logs = logging.CRITICAL  # of its worker: that one's process has no loggers but Dask's and ours

    @property
    def has_given_up(self) -> bool:
        """Whether it will not start its worker again."""
        return self._tries > TRIES or self.status in (Status.closed, Status.failed)

    async def instantiate(self) -> Status:
        """Start the worker, unless it died `TRIES` times in a row before it was ready."""
        self._tries += 1
        if self.has_given_up:
            return Status.failed
        status = await super().instantiate()
        if status == Status.running:
            self._tries = 0
        return status

    async def close(self, *args: Any, **options: Any) -> Any:
        """End the worker; one that is still starting has nothing to lose, and is not waited for."""
        if self.process is not None and self.process.status == Status.starting and self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        return await super().close(*args, **options)


class OwnCluster(LocalCluster):
    """A cluster of processes that come back when they die."""

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # what SpecCluster adds to it is the look after 15 seconds
        super(SpecCluster, self)._update_worker_status(op, msg)  # type: ignore[no-untyped-call]

    @property
    def has_given_up(self) -> bool:
        """Whether no worker can come back."""
        return all(nanny.has_given_up for nanny in list(self.workers.values()))

    def lost(self, limit: str) -> WorkersLostError:
        """Say why no worker is waited for any more, which was done for no longer than a limit."""
        why = "cannot be started again" if self.has_given_up else f"are not back after {limit}"
        return WorkersLostError("worker processes", f"died, and {why}")


@contextlib.contextmanager
def own_client(workers: int | None) -> Iterator[Client]:
    """Give a client of a cluster of this machine that lives as long as the context.

    Parameters
    ----------
    workers
        Number of processes, each with one thread; by default one for each core. They are spawned, never forked: a
        forked child inherits locks of threads that it does not have.

    Raises
    ------
    WorkerStartError, WorkerRefusedError
        They cannot be started.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # a spawned worker imports the caller's script, and this is that script calling us again
        raise WorkerStartError("worker processes", "a script starts them again while they start")
    if workers is not None and workers < 1:
        raise UnknownNameError("workers", f"must be 1 or more, not {workers}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(silent_dask())
        with _interrupts_deferred():
            cluster = stack.enter_context(_own_cluster(workers))
            client = stack.enter_context(Client(cluster))
        yield client


def _own_cluster(workers: int | None) -> OwnCluster:
    before_start = "distributed.nanny.pre-spawn-environ"
    environ = {**dask.config.get(before_start), **_ALLOCATION}
    try:
        with dask.config.set({before_start: environ, **_UNWATCHED}):
            return OwnCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                worker_class=RestartingNanny,
                dashboard_address=":0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=False,  # see `silent_dask`
            )
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause:
            raise WorkerRefusedError("worker processes", f"are refused by the system ({cause})") from None
        raise WorkerStartError("worker processes", f"cannot be started ({error})") from None


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let interrupts wait while a cluster starts, which would otherwise leave processes behind.

    A terminal sends Ctrl-C to all processes. Threads that start now inherit the mask, and so do the workers, for good:
    it is left to the process that can end them in order. SIGTERM is what ends workers, and must not be masked. Of older
    threads one may get the interrupt that is masked here, and Python would raise it here all the same: it is noted down
    and sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # which would lift the mask of the thread that starts it
    caught: list[int] = []
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    handlers = {each: handler for each, handler in handlers.items() if callable(handler)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for each in handlers:
        signal.signal(each, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # what has waited for that is noted down, too
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if caught:
            signal.raise_signal(caught[0])
