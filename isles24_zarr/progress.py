"""How far it is, as a bar on stderr."""

from __future__ import annotations

import threading
from typing import Any

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


class ProgressBar:
    """A bar over bytes, those of finished tasks and what the running ones have reported, or over tasks."""

    def __init__(self, title: str, *, total: int, in_bytes: bool, shown: bool) -> None:
        counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *counts,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._bar = self._progress.add_task(title, total=total)
        self._finished = 0
        self._told = 0

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

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
        self._progress.update(self._bar, completed=max(self._finished, self._told))
