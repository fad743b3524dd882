"""Maps of CT perfusion from the series: against reading it, and against deconvolution of all of it in memory."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np

import isles24_zarr
from benchmarks.machine import in_fresh_process, peak_megabytes
from benchmarks.measurement import Results, alternated
from isles24_zarr.perfusion import perfusion_inputs, perfusion_maps

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from benchmarks.reference import Reference
    from isles24_zarr.perfusion import PerfusionInputs

SECTION: Final = "perfusion"
SPACES: Final = {"ctp": "series as acquired", "ncct": "registered series"}
READ, INPUTS, MAPS = "read it, block by block", "find vessels", "Tmax, CBF, CBV, MTT, time to peak of the brain"
IN_MEMORY: Final = "nibabel, and the same by numpy.fft, all in memory"
OURS_ALL: Final = "all of it, from the closed store"


def perfusion(reference: Reference, *, repeats: int) -> Results:
    """Measure how long maps take, and how much memory.

    Parameters
    ----------
    reference
        The subject.
    repeats
        Rounds.
    """
    results = Results()
    for space, title in SPACES.items():
        runs = {
            READ: _turn(functools.partial(_read, reference, space)),
            OURS_ALL: _turn(functools.partial(_maps, reference, space)),
        }
        if space == "ctp":
            runs[IN_MEMORY] = _turn(functools.partial(_in_memory, reference))
        for by, values in alternated(runs, rounds=repeats, seed=5).items():
            results.add(SECTION, title, by, values)
        scan = _scan(reference, space)
        inputs, brain = scan.isles.perfusion_inputs(), scan.isles.brain_mask().compute()
        parts = {
            INPUTS: _turn(functools.partial(perfusion_inputs, scan["ctp"])),
            MAPS: _turn(functools.partial(_computed, scan["ctp"], inputs, brain)),
        }
        for by, values in alternated(parts, rounds=repeats, seed=6).items():
            results.add(SECTION, f"{title}, by its parts", by, values)
        peaks = [in_fresh_process(_peak, reference, space) for _ in range(repeats)]
        results.add(SECTION, f"{title}, memory at most", OURS_ALL, peaks, "MB")
    return results


def _turn(run: Callable[[], Any]) -> Callable[[int], list[float]]:
    """Return a run that takes the number of its round, and returns how many seconds it took."""

    def timed(_: int) -> list[float]:
        start = time.perf_counter()
        run()
        return [time.perf_counter() - start]

    return timed


def _scan(reference: Reference, space: str) -> xr.Dataset:
    return isles24_zarr.open_scan(reference.store, reference.subject, space)


def _read(reference: Reference, space: str) -> None:
    _scan(reference, space)["ctp"].max().compute()


def _computed(series: xr.DataArray, inputs: PerfusionInputs, brain: xr.DataArray) -> None:
    perfusion_maps(series, inputs, mask=brain).compute()


def _maps(reference: Reference, space: str) -> xr.Dataset:
    maps: xr.Dataset = _scan(reference, space).isles.perfusion_maps().compute()
    return maps


def _peak(reference: Reference, space: str) -> float:
    _maps(reference, space)
    return peak_megabytes()


def _in_memory(reference: Reference) -> tuple[Any, ...]:
    """Return CBF, CBV and Tmax of all voxels, by a given artery: what programs do that hold the series as a whole."""
    values = np.asarray(_file(reference).dataobj, dtype=np.float32)
    curves = values - values[..., :4].mean(axis=-1, keepdims=True)
    count = curves.shape[-1]
    artery = curves.reshape(-1, count)[curves.max(axis=-1).argmax()]
    spectrum = np.fft.rfft(artery, 2 * count)
    kept = np.abs(spectrum) >= 0.1 * np.abs(spectrum).max()
    inverse = np.divide(1, spectrum, out=np.zeros_like(spectrum), where=kept)
    residue = np.fft.irfft(np.fft.rfft(curves, 2 * count, axis=-1) * inverse, axis=-1)
    return residue.max(axis=-1), curves.sum(axis=-1) / artery.sum(), residue.argmax(axis=-1)


@functools.cache
def _path(reference: Reference) -> Any:
    return next(reference.release.rglob(f"raw_data/**/{reference.subject}_ses-01_ctp.nii.gz"))


def _file(reference: Reference) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(_path(reference))
