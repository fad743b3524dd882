"""Patches for training: how many a second come out of a DataLoader, ours and others'."""

from __future__ import annotations

import collections
import importlib
import multiprocessing
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.loaders import BATCH, LOADERS, Loader, NnUNet, OurPatches, origins_of
from benchmarks.machine import drop_from_cache, in_fresh_process, installed, limited_threads, quiet, read_through
from benchmarks.measurement import Results, alternated
from benchmarks.reference import PATCH_IMAGES, Region, forget_voxels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.reference import Reference

SECTION: Final = "training"
RATE: Final = "patches per second"
UNIT: Final = "patches/s"
PATCH: Final = (96, 96, 96)
WORKERS: Final = 2
COUNTS: Final = (WORKERS, 1)
"""Numbers of worker processes, the one that is aimed at first."""

GROWTH_EPOCHS: Final = 5
METHODS: Final = ("fork", "forkserver")
"""How worker processes are started."""


def _mode(workers: int, method: str) -> str:
    return f"{workers} worker{'s' * (workers > 1)} by {method}" if workers else "no workers"


def rate_name(workers: int, method: str, *, cold: bool) -> str:
    """Return what the rate of a loader is called."""
    return f"{RATE}, {_mode(workers, method)}, {'cold' if cold else 'warm'} page cache"


def start_name(workers: int, method: str) -> str:
    """Return what the time until the first batch is called."""
    return f"until the first batch, {_mode(workers, method)}"


def growth_name(workers: int, method: str) -> str:
    """Return what the growth of memory is called."""
    return f"growth of a worker's memory in {GROWTH_EPOCHS} epochs, {_mode(workers, method)}"


def training(
    reference: Reference,
    folder: Path,
    *,
    repeats: int,
    methods: Sequence[str] = METHODS,
    loaders: Sequence[type[Loader]] = LOADERS,
) -> Results:
    """Time epochs of every loader, without and with worker processes, from a cold and a warm page cache; weigh workers.

    Parameters
    ----------
    reference
        The subject, converted.
    folder
        For what the loaders need.
    repeats
        Epochs of each in each way.
    methods
        How worker processes are started, of `METHODS`.
    loaders
        Which of them.

    Raises
    ------
    WrongVoxelsError
        A loader returned other voxels than nibabel.
    """
    results = Results()
    present = installed(loaders, results, SECTION)
    if not present:
        return results
    volume = reference.shape(PATCH_IMAGES[0])
    shape = tuple(map(min, volume, PATCH))
    epochs = 2 * repeats + 2  # cold and warm ones, the first one, and one to spare
    origins = origins_of(reference, epochs * max(kind.patches for kind in present), shape)
    made = [kind(reference, folder / kind.__name__, origins, shape) for kind in present]
    for loader in made:
        loader.folder.mkdir(parents=True)
        loader.prepare()
    for number, method in enumerate(methods):
        # without workers once, and last: forked processes would miss the threads that reading starts
        counts = (*COUNTS, 0) if number == 0 else COUNTS
        results.extend(in_fresh_process(_measured, made, counts, method, repeats=repeats))
    for loader in made:
        shutil.rmtree(loader.folder)
    return results


def _measured(loaders: Sequence[Loader], counts: Sequence[int], method: str, *, repeats: int) -> Results:
    """Time loaders with several numbers of workers, which are all started in one way."""
    multiprocessing.set_start_method(method, force=True)
    modules = sorted({module for loader in loaders for module in loader.needs})
    for module in modules:
        importlib.import_module(module)
    # imports take seconds, and are no loader's own: a server that processes are forked from has them done before
    multiprocessing.set_forkserver_preload(modules)
    with limited_threads(WORKERS):  # which its processes inherit
        process = multiprocessing.Process(target=quiet)
        process.start()
        process.join()
    results = Results()
    for workers in counts:
        results.extend(_rates(loaders, workers, method, repeats=repeats))
    for loader in loaders:
        if isinstance(loader, OurPatches | NnUNet):
            grown = _growths(loader, WORKERS)
            results.add(SECTION, growth_name(WORKERS, method), loader.name, grown, "MB")
    return results


def _growths(loader: Loader, workers: int) -> list[float]:
    """Return by how many MB of its own each worker process is larger after some epochs than after the first."""
    import psutil

    def processes() -> dict[int, Any]:
        return {each.pid: each for each in psutil.Process().children(recursive=True)}

    before = processes()
    epochs = loader.epochs(workers)
    sizes: dict[int, list[int]] = collections.defaultdict(list)
    for _ in range(GROWTH_EPOCHS + 1):
        for _ in next(epochs):
            pass
        for pid, process in processes().items():
            if pid not in before:
                sizes[pid].append(process.memory_full_info().uss)
    return [(found[-1] - found[0]) / 1e6 for found in sizes.values() if len(found) == GROWTH_EPOCHS + 1]


def _rates(loaders: Sequence[Loader], workers: int, method: str, *, repeats: int) -> Results:
    """Time loaders with a number of workers; a core for each process that reads."""
    results = Results()
    runs: dict[tuple[str, str], Callable[[int], list[float]]] = {}
    with limited_threads(max(workers, 1)):
        for loader in loaders:
            drop_from_cache(loader.paths())
            started = time.perf_counter()
            try:
                epochs = loader.epochs(workers)
                batches = next(epochs)
                batch = next(batches)
            except RuntimeError as error:  # of PyTorch: a worker died, or is waited for in vain
                results.leave_out(SECTION, f"{loader.name}, {_mode(workers, method)}", str(error).partition("\n")[0])
                continue
            results.add(SECTION, start_name(workers, method), loader.name, [time.perf_counter() - started])
            for batch in batches:  # noqa: B007 - the last one is looked at
                pass
            if not workers:
                _check(loader, batch)
            for cold in (True, False):
                runs[rate_name(workers, method, cold=cold), loader.name] = partial(_epoch, loader, epochs, cold=cold)
        forget_voxels()
        found = alternated(runs, rounds=repeats, seed=6)
    for (measure, by), rates in found.items():
        results.add(SECTION, measure, by, rates, UNIT)
    return results


def _epoch(loader: Loader, epochs: Iterator[Iterator[Any]], _: int, *, cold: bool) -> list[float]:
    if cold:
        drop_from_cache(loader.paths())
    else:
        read_through(loader.paths())
    started = time.perf_counter()
    patches = BATCH * sum(1 for _ in next(epochs))
    return [patches / (time.perf_counter() - started)]


def _check(loader: Loader, batch: Any) -> None:
    """Make sure that a batch holds what nibabel has at its places."""
    for origin, images in loader.found(batch):
        for image, voxels in images.items():
            cuts = tuple(slice(first, first + size) for first, size in zip(origin, voxels.shape, strict=True))
            zyx = cuts if loader.order == "canonical" else loader.reference.canonical(image, cuts)
            region = Region(images=(image,), zyx=(zyx[0], zyx[1], zyx[2]))
            loader.reference.check(loader.name, image, region, loader.order, np.asarray(voxels))
