"""Reading the reference subject, by every reader: first whether the voxels are right, then how long it takes."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.chunked import READERS
from benchmarks.machine import available_bytes, drop_from_cache, installed, limited_threads, read_through
from benchmarks.measurement import Results, alternated
from benchmarks.reference import CTP, forget_voxels
from benchmarks.regions import WHOLE, Read, reads_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.readers import Fetch, Reader
    from benchmarks.reference import Reference

SECTION: Final = "reads"
_PLACES: Final = 8
"""How many places a quick reader sees of each kind of read in one turn, at most."""

_QUICK_SECONDS: Final = 1.0
"""A read that takes longer than this is not done twice to have its files in the page cache."""

_TURN_SECONDS: Final = 0.2
"""How long a turn lasts at least, before it runs out of places: a single read of a millisecond says little."""


def reads(
    reference: Reference,
    folder: Path,
    *,
    repeats: int,
    threads: int,
    cold: bool,
    readers: Sequence[type[Reader]] = READERS,
) -> Results:
    """Time every read by every reader.

    Parameters
    ----------
    reference
        The subject, converted.
    folder
        For what the readers need.
    repeats
        Turns of each reader with each read.
    threads
        How many each reader may use, and cores.
    cold
        Drop the files from the page cache before each read, which is then always from a closed store.
    readers
        Which of them.

    Raises
    ------
    WrongVoxelsError
        A reader returned other voxels than nibabel.
    """
    results = Results()
    shape = reference.shape(CTP)
    # no place twice: some readers remember what they have read
    wanted = reads_of(shape, places=_PLACES * repeats)
    runs = {}
    with limited_threads(threads), contextlib.ExitStack() as stack:
        for kind in installed(readers, results, SECTION):
            place = folder / kind.__name__
            place.mkdir(parents=True)
            reader = kind(reference, place, threads)
            reader.prepare()
            for read in _possible(reader, wanted, math.prod(shape), results):
                quick = _checked_seconds(reader, read) < _QUICK_SECONDS
                runs[read.name, kind.name] = partial(_turn, _Run(reader, read, stack, cold=cold, quick=quick))
        forget_voxels()
        found = alternated(runs, rounds=repeats, seed=0)
    for read in wanted:
        for kind in readers:
            if (read.name, kind.name) in found:
                results.add(SECTION, read.name, kind.name, found[read.name, kind.name])
    for kind in readers:
        shutil.rmtree(folder / kind.__name__, ignore_errors=True)
    return results


def _possible(reader: Reader, reads: list[Read], voxels: int, results: Results) -> list[Read]:
    """Return the reads that a reader is asked for, and note those that do not fit into memory."""
    needed = voxels * reader.bytes_per_voxel
    loads_all = reader.reads != tuple(read.name for read in reads)
    found = []
    for read in reads:
        if read.name not in reader.reads:
            continue
        if needed > 0.9 * available_bytes() and (read.name == WHOLE or (loads_all and CTP in read.images)):
            results.leave_out(SECTION, f"{reader.name}, {read.name}", f"needs {needed / 1e9:.1f} GB of memory")
        else:
            found.append(read)
    return found


def _checked_seconds(reader: Reader, read: Read) -> float:
    """Make sure of a reader's voxels; return about how long it reads them."""
    region, spent = read.regions[0], 0.0
    with reader.opened(read.images) as fetch:
        for image in read.images:
            started = time.perf_counter()
            voxels = fetch(image, reader.reference.index(image, region, reader.order))
            spent += time.perf_counter() - started
            reader.reference.check(reader.name, image, region, reader.order, voxels)
    return spent


class _Run:
    """One reader with one read; it stays open from its first turn on, unless opening is what is timed."""

    def __init__(self, reader: Reader, read: Read, stack: contextlib.ExitStack, *, cold: bool, quick: bool) -> None:
        self.reader = reader
        self.cold = cold
        self.quick = quick
        self.closed = cold or read.from_closed
        self.images = read.images
        self.indices = [
            {image: reader.reference.index(image, region, reader.order) for image in read.images}
            for region in read.regions
        ]
        self._stack = stack
        self._fetch: Fetch | None = None

    def fetch(self) -> Fetch:
        if self._fetch is None:
            self._fetch = self._stack.enter_context(self.reader.opened(self.images))
        return self._fetch


def _turn(run: _Run, number: int) -> list[float]:
    """Read one place after the other for a while; each round has its own."""
    found: list[float] = []
    opened = None if run.closed else run.fetch()
    for index in run.indices[number * _PLACES : (number + 1) * _PLACES]:
        if run.cold:
            drop_from_cache(run.reader.paths())
        else:
            _warm(run, index)
        started = time.perf_counter()
        if opened is not None:
            _read(opened, index)
        else:
            with run.reader.opened(run.images) as fetch:
                _read(fetch, index)
        found.append(time.perf_counter() - started)
        if sum(found) > _TURN_SECONDS:
            break
    return found


def _warm(run: _Run, index: dict[str, tuple[slice, ...]]) -> None:
    """Bring into the page cache what is read next: a reader before may have taken all memory for itself."""
    if run.quick:
        # opened anew, so that nothing stays in a cache of the reader's own
        with run.reader.opened(run.images) as fetch:
            _read(fetch, index)
        return
    for image in run.images:
        read_through(run.reader.paths_of(image))


def _read(fetch: Fetch, index: dict[str, tuple[slice, ...]]) -> None:
    for image, slices in index.items():
        fetch(image, slices)
