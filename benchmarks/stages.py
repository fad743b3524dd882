"""Where the time goes: reads and a conversion by their stages, each function's own time without that of those it calls.

What is measured here is what bounds the targets that are missed, see `bounds`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import numpy as np
import xarray as xr
import xxhash
import zarr.storage._local as local_store
from isal import igzip_lib
from numcodecs.blosc import Blosc

from benchmarks.chunked import Ours
from benchmarks.machine import limited_threads
from benchmarks.measurement import Results
from benchmarks.reference import CTP
from benchmarks.regions import AXIAL_CLOSED, CURVE, PATCH, WHOLE, reads_of
from isles24_zarr.conversion import planned
from isles24_zarr.nifti import streams
from isles24_zarr.nifti.files import VoxelStream
from isles24_zarr.release.source import Source
from isles24_zarr.scans import opening as dataset
from isles24_zarr.store import arrays, voxels
from isles24_zarr.store.objects import StorePlace
from isles24_zarr.writing import _encoding, write_array
from isles24_zarr.writing import _store as store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.reference import Reference
    from benchmarks.regions import Read

SECTION: Final = "stages"
READS: Final = (AXIAL_CLOSED, CURVE, PATCH, WHOLE)
CONVERSION: Final = "conversion, CPU seconds of all threads"
PAGES: Final = "memory of the size of the whole CTP"
FIRST_FILL, SECOND_FILL = "filled for the first time", "filled again"
IN_ALL: Final = "in all"
REST: Final = "all else"

UNPACK: Final = "read: TensorStore"
OPENING: Final = "open: "
"""What opening a scan takes begins with this."""
IN_BOUND: Final = ("gunzip with its CRC, isal", "encode, Blosc")
"""What of a conversion its computed bound consists of."""

_PLACES: Final = 20
_QUICK_READS: Final = 60
_Patch = tuple[Any, str, str]
_READING: Final[tuple[_Patch, ...]] = (
    (dataset, "read_objects", f"{OPENING}read documents and coordinates"),
    (dataset, "document_from_bytes", f"{OPENING}parse JSON"),
    (arrays, "check_shards", f"{OPENING}look at every shard"),
    (dataset, "coordinate_variable", f"{OPENING}make coordinates and images"),
    (dataset, "image_variable", f"{OPENING}make coordinates and images"),
    (xr.Dataset, "__init__", f"{OPENING}xarray.Dataset"),
    (voxels.StoredVoxels, "_check", "read: look at shards"),
    (voxels, "_opened", "read: open the array"),
    (voxels.StoredVoxels, "_read", UNPACK),
)
_CONVERTING: Final[tuple[_Patch, ...]] = (
    (streams.HashedFile, "read", "read the file"),
    (streams.GzipStream, "readinto", "copy what was decompressed"),
    (_encoding, "_chunk", "cut chunks out, in the directions of the store"),
    (store, "joined_shard", "put shards together"),
    (local_store, "_put", "write shards"),
)


class Stages:
    """Seconds by stage, of all threads.

    Parameters
    ----------
    clock
        Of the calling thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._lock = threading.Lock()
        self._inside = threading.local()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that notes down its own time, less that of timed ones that it calls."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            # how long the timed functions took that this one, and those around it, have called
            below: list[float] = self._inside.__dict__.setdefault("below", [])
            below.append(0.0)
            began = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self._clock() - began
                own = spent - below.pop()
                if below:
                    below[-1] += spent
                with self._lock:
                    self.seconds[stage] += own

        return call

    @contextlib.contextmanager
    def timing(self, patches: Sequence[_Patch]) -> Iterator[None]:
        """Time functions and methods while the context lasts."""
        with contextlib.ExitStack() as stack:
            for owner, name, stage in patches:
                stack.enter_context(mock.patch.object(owner, name, self.timed(stage, getattr(owner, name))))
            yield

    def proxied(self, stage: str, make: Callable[..., Any], method: str) -> Callable[..., Any]:
        """Return a maker of objects of C, one of whose methods is timed."""

        def made(*args: Any, **kwargs: Any) -> Any:
            inner = make(*args, **kwargs)
            proxy = _Proxy(inner)
            setattr(proxy, method, self.timed(stage, getattr(inner, method)))
            return proxy

        return made


class _Proxy:
    """Stands for an object whose attributes cannot be set."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def stages(reference: Reference, folder: Path, *, repeats: int) -> Results:
    """Take apart what reads and a conversion of the reference subject take.

    Parameters
    ----------
    reference
        The subject, converted.
    folder
        To convert into.
    repeats
        Runs of those that take a second and more.
    """
    results = Results()
    _measure_conversion(results, reference.release, folder / "again.zarr", repeats=repeats)
    with limited_threads(1):
        shape = reference.shape(CTP)
        for read in reads_of(shape, places=_PLACES, seed=7):
            if read.name in READS:
                _measure_read(results, Ours(reference, folder, 1), read, repeats=repeats)
        _measure_pages(results, int(np.prod(shape)) * 2, repeats=repeats)
    return results


def _measure_read(results: Results, reader: Ours, read: Read, *, repeats: int) -> None:
    """Read each place once for the page cache, and then by stages."""
    found: dict[str, list[float]] = defaultdict(list)
    count = repeats if read.name == WHOLE else max(_QUICK_READS, repeats)
    with reader.opened(read.images) as opened:
        for number in range(count):
            region = read.regions[number % len(read.regions)]
            indices = {name: reader.reference.index(name, region, reader.order) for name in read.images}

            def fetch(indices: dict[str, Any] = indices) -> None:
                with reader.opened(read.images) if read.from_closed else contextlib.nullcontext(opened) as fetched:
                    for name, index in indices.items():
                        fetched(name, index)

            fetch()
            timed = Stages(time.perf_counter)
            with timed.timing(_READING):
                timed.timed(REST, fetch)()
            for stage in (*dict.fromkeys(stage for _, _, stage in _READING), REST):
                found[stage].append(timed.seconds.get(stage, 0.0))
            found[IN_ALL].append(sum(timed.seconds.values()))
    for stage, seconds in found.items():
        if any(seconds):
            results.add(SECTION, read.name, stage, seconds)


def _measure_pages(results: Results, nbytes: int, *, repeats: int) -> None:
    """Fill new memory, as a read does that returns that much, and then the same again."""
    fills: dict[str, list[float]] = {FIRST_FILL: [], SECOND_FILL: []}
    for _ in range(repeats):
        array = np.empty(nbytes, np.uint8)
        for taken in fills.values():
            began = time.perf_counter()
            array.fill(1)
            taken.append(time.perf_counter() - began)
        del array
    for name, filled in fills.items():
        results.add(SECTION, PAGES, name, filled)


def _measure_conversion(results: Results, release: Path, store: Path, *, repeats: int) -> None:
    """Convert all files of a release of one subject in this process, without Dask."""
    found: dict[str, list[float]] = defaultdict(list)
    source = Source.of(release)
    plans, _ = planned(release)
    for _ in range(repeats):
        shutil.rmtree(store, ignore_errors=True)
        opened = StorePlace.of(store).opened(read_only=False)
        timed = Stages(time.thread_time)
        made = timed.proxied
        decompressor = made(IN_BOUND[0], igzip_lib.IgzipDecompressor, "decompress")
        began = time.process_time()
        with (
            timed.timing(_CONVERTING),
            mock.patch.object(igzip_lib, "IgzipDecompressor", decompressor),
            mock.patch.object(_encoding, "Blosc", made(IN_BOUND[1], Blosc, "encode")),
            mock.patch.object(hashlib, "sha256", made("SHA-256 of the file", hashlib.sha256, "update")),
            mock.patch.object(xxhash, "xxh3_128", made("XXH3 of the voxels", xxhash.xxh3_128, "update")),
        ):
            for plan in plans[0].arrays:
                with source.opened(plan.source) as file:
                    stream = VoxelStream(file, path=plan.source.path, size=plan.source.size)
                    write_array(opened, plan, stream, lambda _: None)
        spent = time.process_time() - began
        for stage, own in timed.seconds.items():
            found[stage].append(own)
        found[REST].append(max(spent - sum(timed.seconds.values()), 1e-9))
        found[IN_ALL].append(spent)
    for stage, seconds in found.items():
        results.add(SECTION, CONVERSION, stage, seconds)
    shutil.rmtree(store)


def by_stage(results: Results, measure: str) -> dict[str, float]:
    """Return the median seconds of each stage of a measure, and of all; empty where it was not measured."""
    return {each.by: each.median for each in results.of(SECTION) if each.measure == measure}


def tables(results: Results) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each measure with the rows of its table: a stage, what it takes, and which part of all that is."""
    for measure in (*READS, CONVERSION):
        found = by_stage(results, measure)
        if not found:
            continue
        whole = found.pop(IN_ALL)
        unit, scale = ("s", 1.0) if measure == CONVERSION else ("ms", 1e3)
        ordered = sorted(found.items(), key=lambda item: -item[1])
        rows = [[stage, f"{seconds * scale:,.3g} {unit}", f"{seconds / whole:.0%}"] for stage, seconds in ordered]
        yield measure, [*rows, [IN_ALL, f"{whole * scale:,.3g} {unit}", ""]]
