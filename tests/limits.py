"""A process that may take only so much memory, for functions that are given hostile files."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 2**20
HEADROOM = 256 * MIB
"""What a file may cost, of which Python and the libraries take their part."""


def allocated(count: int) -> int:
    return len(bytearray(count))


def limit_memory(warm: Callable[[], Any]) -> None:
    warm()  # with all that is loaded at the first use
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, taken + HEADROOM))


@contextlib.contextmanager
def limited_process(warm: Callable[[], Any]) -> Iterator[Callable[..., Any]]:
    """Give what runs a function in a process that may not take more than `HEADROOM` after `warm`."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning, initializer=limit_memory, initargs=(warm,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=60)
