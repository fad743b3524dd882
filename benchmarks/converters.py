"""Other converters, on a quarter of the reference subject: what they hold in memory forbids the whole."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from benchmarks.conversion import SECTION, converted_by_us, shortened
from benchmarks.machine import missing, peak_megabytes, quiet
from benchmarks.measurement import OURS, Results, alternated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUARTER_SECONDS: Final = "conversion of a quarter of the subject"
QUARTER_PEAK: Final = "peak memory of a worker, a quarter of the subject"
NIIZARR: Final = "niizarr"
ZARRNII: Final = "zarrnii"
NO_PYRAMIDS: Final = ", no pyramids"


def niizarr_converted(source: Path, target: Path, *, pyramids: bool) -> float:
    """Convert one file by nifti-zarr at its defaults; return the peak memory of this process, in MB."""
    import niizarr

    if pyramids:
        niizarr.nii2zarr(str(source), str(target))
    else:
        niizarr.nii2zarr(str(source), str(target), nb_levels=1)
    return peak_megabytes()


def zarrnii_converted(source: Path, target: Path, *, pyramids: bool) -> float:
    """Convert one file by zarrnii at its defaults; return the peak memory of this process, in MB."""
    import zarrnii

    image = zarrnii.ZarrNii.from_nifti(str(source))
    if pyramids:
        image.to_ome_zarr(str(target))
    else:
        image.to_ome_zarr(str(target), max_layer=1)
    return peak_megabytes()


CONVERTERS: Final[dict[str, Callable[..., float]]] = {NIIZARR: niizarr_converted, ZARRNII: zarrnii_converted}


def _ready(module: str) -> None:
    importlib.import_module(module)
    time.sleep(1)


def other_converters(release: Path, folder: Path, *, repeats: int) -> Results:
    """Convert all images of a subject by other converters, as many files at a time as there are cores.

    Parameters
    ----------
    release
        Of one subject; of its registered series only the first quarter of the frames is converted.
    folder
        To work in.
    repeats
        Runs of each.
    """
    results = Results()
    cores = len(os.sched_getaffinity(0))
    quarter = shortened(release, folder / "quarter", by=4)
    # the largest first, so that none is left alone at the end
    files = sorted(quarter.rglob("*.nii.gz"), key=lambda path: -path.stat().st_size)
    peaks: dict[str, list[float]] = {}

    def ours(_: int) -> list[float]:
        converted = converted_by_us(quarter, folder / "quarter.zarr", workers=cores)
        peaks.setdefault(OURS, []).append(max(converted.peaks))
        return [converted.seconds]

    def others(name: str, suffix: str, _: int) -> list[float]:
        target = folder / "other"
        target.mkdir()
        with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=quiet) as pool:
            # processes start and import before the clock does; none is quick enough to take two of these
            list(pool.map(_ready, [name] * cores))
            started = time.monotonic()
            jobs = [
                pool.submit(CONVERTERS[name], file, target / f"{number}.zarr", pyramids=not suffix)
                for number, file in enumerate(files)
            ]
            peaks.setdefault(f"{name}{suffix}", []).append(max(job.result() for job in jobs))
            seconds = time.monotonic() - started
        shutil.rmtree(target)
        return [seconds]

    runs = {OURS: ours}
    for name in CONVERTERS:
        if missing([name]):
            results.leave_out(SECTION, name, "is not installed")
            continue
        runs |= {f"{name}{suffix}": functools.partial(others, name, suffix) for suffix in ("", NO_PYRAMIDS)}
    for by, seconds in alternated(runs, rounds=repeats, seed=2).items():
        results.add(SECTION, QUARTER_SECONDS, by, seconds)
        results.add(SECTION, QUARTER_PEAK, by, peaks[by], "MB")
    shutil.rmtree(quarter)
    return results
