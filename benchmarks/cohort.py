"""Cohorts of many toy subjects: opening them, computing over them, and how long Python takes to start."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import xarray as xr
from distributed import Client, LocalCluster

import isles24_zarr
from benchmarks.conversion import workers_name
from benchmarks.measurement import OURS, Results, alternated
from isles24_zarr.conversion._commit import write_cohort
from isles24_zarr.format.layout import ATTRIBUTE_KEY, seal
from isles24_zarr.store.objects import StorePlace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.reference import Reference

SECTION: Final = "cohort"
STARTUP: Final = "startup"
DATATREE: Final = "xarray.open_datatree"
SIZES: Final = (15, 149, 1490)
_MOST_WALKED: Final = 149
"""How many subjects `open_datatree` and the map are tried on: both take time in proportion."""

_SHARD_STATS: Final = "look at every shard"
_OPEN_REFERENCE: Final = "open_scan of the reference subject"
START: Final = "start of Python and import"


def open_name(subjects: int) -> str:
    """Return what opening a cohort is called."""
    return f"open a cohort of {subjects}"


def scan_name(subjects: int) -> str:
    """Return what opening one scan of a cohort is called."""
    return f"open a scan of a cohort of {subjects}"


def map_name(subjects: int) -> str:
    """Return what computing over a cohort is called."""
    return f"lesion and Tmax > 6 s volumes of {subjects}"


def cohort(folder: Path, *, repeats: int, sizes: Sequence[int] = SIZES) -> Results:
    """Open cohorts of several sizes, and compute two volumes over each subject.

    Parameters
    ----------
    folder
        To work in.
    repeats
        Runs of each.
    sizes
        Numbers of subjects.
    """
    results = Results()
    toy = isles24_zarr.synthesize(folder / "toy", subjects=1, scale="tiny")
    one = folder / "one.zarr"
    isles24_zarr.convert(toy, one, workers=1, progress=False)
    stores = {size: replicated(one, folder / f"{size}.zarr", subjects=size) for size in sizes}
    runs: dict[tuple[str, str], Callable[[int], list[float]]] = {}
    for size, store in stores.items():
        name = _subject(size // 2)
        runs[open_name(size), OURS] = _timed(functools.partial(isles24_zarr.open_cohort, store))
        runs[scan_name(size), OURS] = _timed(functools.partial(isles24_zarr.open_scan, store, name, chunks=None))
        if size <= _MOST_WALKED:
            runs[open_name(size), DATATREE] = _timed(functools.partial(_opened_datatree, store))
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        for count in sorted({1, cores}):
            cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0")
            client = stack.enter_context(Client(stack.enter_context(cluster)))
            for size, store in stores.items():
                if size <= _MOST_WALKED:
                    names = [_subject(number) for number in range(size)]
                    run = functools.partial(_mapped, client, store, names)
                    run()
                    runs[map_name(size), workers_name(count)] = _timed(run)
        found = alternated(runs, rounds=repeats, seed=3)
    for (measure, by), seconds in found.items():
        results.add(SECTION, measure, by, seconds)
    for size in sizes:
        if size > _MOST_WALKED:
            results.leave_out(SECTION, f"{DATATREE} and the map over {size} subjects", "takes minutes")
        shutil.rmtree(stores[size])
    return results


def _timed(function: Callable[[], object]) -> Callable[[int], list[float]]:
    def run(_: int) -> list[float]:
        started = time.perf_counter()
        function()
        return [time.perf_counter() - started]

    return run


def _opened_datatree(store: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that are not consolidated at the root
        xr.open_datatree(str(store), engine="zarr", consolidated=False, chunks=None).close()


def _mapped(client: Client, store: Path, names: Sequence[str]) -> None:
    tasks = client.map(functools.partial(volumes, store), names, pure=False)
    if len(client.gather(tasks)) != len(names):
        raise RuntimeError("a task was lost")


def volumes(store: Path, subject: str) -> tuple[float, float]:
    """Return the volume of the lesion and that of Tmax above 6 s of a subject, in mL."""
    scan = isles24_zarr.open_scan(store, subject, chunks=None)
    millilitres = scan.isles.voxel_volume / 1000
    lesion, tmax = scan["lesion_mask"].values, scan["tmax"].values
    return float((lesion > 0).sum() * millilitres), float((tmax > 6).sum() * millilitres)


def _subject(number: int) -> str:
    return f"sub-stroke{number + 1:04d}"


def replicated(one: Path, target: Path, *, subjects: int) -> Path:
    """Make a store of many subjects of a store of one: the same voxels, by hard links, under other names."""
    original = isles24_zarr.open_cohort(one).isles.subjects[0]
    shutil.copytree(one, target, ignore=shutil.ignore_patterns("sub-*", "phenotype"))
    for number in range(subjects):
        _replicate(one / original, target / _subject(number), original)
    write_cohort(StorePlace.of(target).opened(read_only=False), {})
    return target


def _replicate(source: Path, target: Path, name: str) -> None:
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name != "zarr.json":
            copy.hardlink_to(path)
            continue
        document = json.loads(path.read_text(encoding="utf-8").replace(name, target.name))
        ours: dict[str, Any] = document["attributes"].get(ATTRIBUTE_KEY, {})
        if "seal" in ours:
            ours["seal"] = seal(document)
        copy.write_text(json.dumps(document), encoding="utf-8")


def startup(reference: Reference, *, repeats: int) -> Results:
    """Time what comes before the first voxel: starting Python, and opening a scan, which looks for lost shards.

    Parameters
    ----------
    reference
        The subject, converted.
    repeats
        Runs of each.
    """
    results = Results()
    scan = functools.partial(isles24_zarr.open_scan, reference.store, reference.subject)
    shards = [
        reference.array_path(str(name)) / key
        for name, image in scan(chunks=None).data_vars.items()
        for key in image.encoding[ATTRIBUTE_KEY]["shards"]
    ]
    programs = {"Python alone": "pass", "xarray": "import xarray", OURS: "import isles24_zarr"}
    runs: dict[tuple[str, str], Callable[[int], list[float]]] = {
        (START, by): _timed(functools.partial(_started, program)) for by, program in programs.items()
    }
    runs[_OPEN_REFERENCE, OURS] = _timed(functools.partial(scan, chunks=None))
    runs[_OPEN_REFERENCE, f"{OURS}, Dask"] = _timed(scan)
    runs[_OPEN_REFERENCE, _SHARD_STATS] = _timed(lambda: [path.stat() for path in shards])
    for (measure, by), seconds in alternated(runs, rounds=max(repeats, 5), seed=4).items():
        results.add(STARTUP, measure, by, seconds)
    return results


def check_share(results: Results) -> float | None:
    """Return which part of the time of `open_scan` looking at every shard takes."""
    whole, part = results.median(_OPEN_REFERENCE, OURS), results.median(_OPEN_REFERENCE, _SHARD_STATS)
    return part / whole if whole and part else None


def _started(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)
