"""How far it is: a bar on a terminal, elsewhere a line on stderr now and then, and the same lines in the log."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from isles24_zarr.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

LIFE_SIGN_SECONDS: Final = 15.0
"""Between two lines where there is no terminal, and in the log."""

_logger = logging.getLogger(__name__)
_hidden = threading.Event()


class ProgressBar:
    """A bar over bytes, those of finished tasks and what the running ones have reported, or over tasks.

    Without a terminal (a job of a cluster, a pipe, nohup) it is a line every `LIFE_SIGN_SECONDS`, also while nothing
    is reported. Those lines are logged in any case, by the logger of this module at level INFO.
    """

    def __init__(self, title: str, *, total: int, in_bytes: bool, shown: bool) -> None:
        title, shown = one_line(title), shown and not _hidden.is_set()
        bar = _terminal_bar(title, total, in_bytes=in_bytes) if shown else None
        signs = _LifeSigns(title, total, in_bytes=in_bytes, printed=shown and bar is None)
        self._displays: list[_Display] = [each for each in (bar, signs if signs.wanted else None) if each]
        self._lock = threading.Lock()
        self._finished = 0
        self._told = 0

    def __enter__(self) -> ProgressBar:
        for display in self._displays:
            display.start()
        return self

    def __exit__(self, *_: object) -> None:
        for display in self._displays:
            display.stop()

    def on_event(self, event: tuple[Any, int]) -> None:
        """Note down what a running task has reported."""
        _, count = event
        self._told += count
        self._show()

    def finish(self, size: int) -> None:
        """Note down a task that has ended."""
        with self._lock:
            self._finished += size
        self._show()

    def _show(self) -> None:
        # a task that was skipped or retried tells less or more than its size
        for display in self._displays:
            display.update(max(self._finished, self._told))


@contextlib.contextmanager
def hidden_progress() -> Iterator[None]:
    """Show no progress on stderr meanwhile, whoever asks for it."""
    _hidden.set()
    try:
        yield
    finally:
        _hidden.clear()


class _Display(Protocol):
    """What shows how far it is."""

    def start(self) -> None: ...

    def update(self, done: int) -> None: ...

    def stop(self) -> None: ...


class _LifeSigns:
    """A line now and then, by a thread of its own: also where a task takes long and reports nothing."""

    def __init__(self, title: str, total: int, *, in_bytes: bool, printed: bool) -> None:
        self._title, self._total, self._in_bytes, self._printed = title, total, in_bytes, printed
        self._done, self._began = 0, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress of {title}", daemon=True)

    @property
    def wanted(self) -> bool:
        """Whether anybody sees it."""
        return self._printed or _logger.isEnabledFor(logging.INFO)

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def update(self, done: int) -> None:
        self._done = done

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._say()

    def _run(self) -> None:
        while not self._ended.wait(LIFE_SIGN_SECONDS):
            self._say()

    def _say(self) -> None:
        line = life_sign(
            self._title, self._done, self._total, in_bytes=self._in_bytes, seconds=time.monotonic() - self._began
        )
        _logger.info(line)
        if self._printed:
            # whoever read it may have gone: that is no reason to stop the work
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()


def life_sign(title: str, done: int, total: int, *, in_bytes: bool, seconds: float) -> str:
    """Write in one line how far it is.

    Parameters
    ----------
    title
        What is done.
    done, total
        Bytes or tasks.
    in_bytes
        Whether they are bytes.
    seconds
        Since it began.

    Returns
    -------
    str
        As ``"converting: 43 %, 1,210.4 of 2,800.0 MB, 95.3 MB/s, 16 s left"``.
    """
    parts = [f"{min(100 * done // total, 100) if total else 100} %"]
    if in_bytes:
        parts.append(f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB")
        parts += [f"{done / 1e6 / seconds:,.1f} MB/s"] if done and seconds > 0 else []
    else:
        parts.append(f"{done:,} of {total:,}")
    if done >= total:
        parts.append(f"after {_duration(seconds)}")
    elif done:
        parts.append(f"about {_duration(seconds * (total - done) / done)} left")
    return f"{title}: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _terminal_bar(title: str, total: int, *, in_bytes: bool) -> _Display | None:
    """Return a bar that moves, or nothing where stderr cannot show it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and not console.is_dumb_terminal
    if not (on_terminal or console.is_jupyter):
        return None
    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    return _Bar(Progress(*columns, console=console), title, total)


class _Bar:
    """A bar of rich."""

    def __init__(self, progress: Any, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def start(self) -> None:
        self._progress.start()

    def update(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def stop(self) -> None:
        self._progress.stop()
