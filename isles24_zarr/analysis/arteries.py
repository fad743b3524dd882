"""Vessels in CT perfusion: voxels whose curves may serve as arterial input function or as venous output.

A series is read once, in blocks of all frames.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.analysis.blockwise import block_results, volume_axes, whole_curves
from isles24_zarr.analysis.curves import bolus_arrivals, check_baseline
from isles24_zarr.conventions import BASELINE_FRAMES
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.geometry import scan_grid, world_from_voxel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

_BLOOD_HU: Final = (0.0, 100.0)
"""Without contrast agent: what is outside of it is air, fat, bone or metal."""

_FIRST_ARTERIES: Final = 3
_FIRST_PART: Final = 0.005
"""Voxels that tell when arteries peak: there may be few of them among many of veins."""

_LEFT_AT_THE_END: Final = 0.5
"""Part of its peak from which on a curve that ends there has not fallen again."""

_BEGUN: Final = 50.0
"""HU by which the first frames lie above the very first where the bolus has begun in them."""

_ARTERIAL_SPREAD: Final = 2.0
"""How much later than the first arteries others may peak, in s: less than blood takes to reach veins."""


def arterial_input_candidates(
    series: xr.DataArray,
    *,
    count: int = 10,
    baseline_frames: int = BASELINE_FRAMES,
    lowest_peak: float = 100.0,
) -> pd.DataFrame:
    """Return voxels whose curves look like those of arteries: early, high and narrow.

    Parameters
    ----------
    series
        (time, z, y, x), in HU.
    count
        How many to return at most.
    baseline_frames
        As for `analysis.enhancement`.
    lowest_peak
        Enhancement in HU that makes a vessel; tissue enhances by some 5 to 15 HU.

    Returns
    -------
    pandas.DataFrame
        The best first. Columns ``x``, ``y``, ``z``: position, RAS in mm; ``baseline``, ``peak``: HU without contrast
        agent, and its highest enhancement; ``time_to_peak`` in s on the time axis of the series; ``width``: area under
        the enhancement over its peak, in s. Empty where no voxel enhances that much.

    Raises
    ------
    GeometryError
        There is no time axis, or a spatial one or its coordinate is gone.
    UnknownNameError
        The series does not have so many frames, or the count is not positive.

    Notes
    -----
    A heuristic in the spirit of [1]_ and [2]_, without their clustering. Voxels with a baseline of blood (0 to 100 HU),
    finite values throughout and a peak of at least `lowest_peak` are vessels, but for what jumps for a single frame or
    does not fall again below half of its peak, as bone does where the head moves. Of these, the high are those with at
    least half of the 99th percentile of peaks; of these, the early those that peak no later than 2 s after the third
    voxel (of very many, the 200th part), when veins are still to fill. They are ranked by peak over width: high and
    narrow first. It makes no difference how the series is cut into blocks. Partial volume lowers peaks, and a candidate
    may lie in an artery beyond an occlusion: look at the curves, with `analysis.region_curve`, before one is used for
    deconvolution.

    Memory holds a block of 64 MB, as stored, for each thread, and the curves of all voxels of vessels.

    References
    ----------
    .. [1] Mouridsen K, Christensen S, Gyldensted L, Ostergaard L. Automatic selection of arterial input function using
       cluster analysis. Magn Reson Med 2006;55:524-531. doi:10.1002/mrm.20759.
    .. [2] Rempp KA, Brix G, Wenz F, et al. Quantification of regional cerebral blood flow and volume with dynamic
       susceptibility contrast-enhanced MR imaging. Radiology 1994;193:637-641.
    """
    if count < 1:
        raise UnknownNameError(count, "is not a number of candidates, ask for 1 or more")
    vessels, _ = enhancing_vessels(series, baseline_frames=baseline_frames, lowest_peak=lowest_peak)
    return arterial_of(vessels).head(count).reset_index(drop=True)


def enhancing_vessels(
    series: xr.DataArray, *, baseline_frames: int | None, lowest_peak: float
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return all voxels whose curves are those of vessels.

    Parameters
    ----------
    series, lowest_peak
        As for `arterial_input_candidates`.
    baseline_frames
        As there; None for those before the bolus comes into the first vessels.

    Returns
    -------
    table : pandas.DataFrame
        In the order of z, y and x, numbered from 0: its columns, and ``i``, ``j``, ``k``, the indices along x, y and z.
    curves : numpy.ndarray
        (voxels, time), float32, in HU.
    """
    import pandas as pd

    frames = min(BASELINE_FRAMES, series.sizes.get("time", 1)) if baseline_frames is None else baseline_frames
    check_baseline(series, frames)
    volume_axes(series.isel(time=0))
    grid = scan_grid(series)
    rule = _Rule(baseline_frames=frames, lowest_peak=lowest_peak)
    parts = block_results(functools.partial(_vessels_of_block, rule), whole_curves(series), starts=True)
    places = np.concatenate([part[0] for part in parts])
    curves = np.concatenate([part[1] for part in parts])
    order = np.lexsort(places.T)  # by z, then y, then x
    places, curves = places[order], curves[order]
    times = series["time"].to_numpy().astype(np.float64)
    if baseline_frames is None and len(curves):
        frames = _first_arrival(curves, frames)
    table = pd.DataFrame(_described(curves.astype(np.float64), times, frames))
    table = table.join(pd.DataFrame(places, columns=["i", "j", "k"]))
    table = table.join(pd.DataFrame(world_from_voxel(grid.affine, places), columns=["x", "y", "z"]))
    kept = ((table["peak"] >= lowest_peak) & table["baseline"].between(*_BLOOD_HU)).to_numpy()
    return table[kept].reset_index(drop=True), curves[kept]


def arterial_of(vessels: pd.DataFrame) -> pd.DataFrame:
    """Return `enhancing_vessels` that are early, high and narrow, the best first; they keep their numbers."""
    high = _high(vessels)
    early = high[high["time_to_peak"] <= _arterial_time(high) + _ARTERIAL_SPREAD]
    return _best(early, early["peak"] / early["width"])


def venous_of(vessels: pd.DataFrame) -> pd.DataFrame:
    """Return those of `enhancing_vessels` that are high and late, the highest first.

    Parameters
    ----------
    vessels
        As of `enhancing_vessels`.

    Returns
    -------
    pandas.DataFrame
        Columns as of `arterial_input_candidates`, with their numbers, of vessels that peak later than all that may be
        arteries: the highest are those of voxels that hold blood and nothing else.
    """
    high = _high(vessels)
    late = high[high["time_to_peak"] > _arterial_time(high) + _ARTERIAL_SPREAD]
    return _best(late, late["peak"])


_COLUMNS: Final = ["x", "y", "z", "baseline", "peak", "time_to_peak", "width"]


def _high(vessels: pd.DataFrame) -> pd.DataFrame:
    """Return vessels that are filled with blood, and none of bone that moved: that jumps for a frame, or for good."""
    passing = vessels[(vessels["left"] <= _LEFT_AT_THE_END) & (vessels["width"] > vessels["narrowest"])]
    return passing[passing["peak"] >= passing["peak"].quantile(0.99) / 2]


def _arterial_time(vessels: pd.DataFrame) -> float:
    """Return when the first arteries peak: the third voxel does, of very many the two hundredth part."""
    return float(vessels["time_to_peak"].nsmallest(_first_count(len(vessels))).max())


def _first_count(vessels: int) -> int:
    return max(_FIRST_ARTERIES, math.ceil(_FIRST_PART * vessels))


def _best(vessels: pd.DataFrame, score: pd.Series[float]) -> pd.DataFrame:
    """Return vessels by their score, the highest first, equal ones in the order of the axes, with their numbers."""
    return vessels.loc[score.sort_values(ascending=False, kind="stable").index, _COLUMNS]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What makes a vessel: arguments of `enhancing_vessels`."""

    baseline_frames: int
    lowest_peak: float


def _vessels_of_block(
    rule: _Rule, start: tuple[int, ...], series: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return where a block (time, z, y, x) has vessels, as indices (voxels, 3) along x, y, z; and their curves."""
    baseline = _baseline(series, rule.baseline_frames)
    with np.errstate(invalid="ignore"):
        is_vessel = series.max(axis=0) - baseline >= rule.lowest_peak
    is_vessel &= (baseline >= _BLOOD_HU[0]) & (baseline <= _BLOOD_HU[1])
    curves = series[:, is_vessel].T.astype(np.float32)
    finite = np.isfinite(curves).all(axis=1)
    is_vessel[is_vessel] = finite
    places = np.argwhere(is_vessel) + start[1:]
    return places[:, ::-1], curves[finite]


def _baseline(series: NDArray[Any], frames: int) -> NDArray[np.float32]:
    """Return the mean of the first frames; the very first, where the bolus has begun in them."""
    first = series[0].astype(np.float32)
    mean = series[:frames].mean(axis=0, dtype=np.float32)
    return np.asarray(np.where(mean - first > _BEGUN, first, mean))


def _first_arrival(curves: NDArray[np.float32], frames: int) -> int:
    """Return how many frames of curves (voxels, time) come before the bolus in the first vessels; 1 at least."""
    lifted = curves - _baseline(curves.T, frames)[:, None]
    peak = lifted.max(axis=1)
    high = lifted[peak >= np.quantile(peak, 0.99) / 2]
    arrivals = bolus_arrivals(high)
    count = min(len(arrivals), _first_count(len(arrivals))) - 1
    return max(1, int(np.partition(arrivals, count)[count]))


def _described(curves: NDArray[np.float64], times: NDArray[np.float64], frames: int) -> dict[str, NDArray[Any]]:
    """Return what is known of vessels by their curves, (voxels, time)."""
    baseline = _baseline(curves.T, frames).astype(np.float64)
    lifted = curves - baseline[:, None]
    peak = lifted.max(axis=1, initial=1e-9)
    return {
        "baseline": baseline,
        "peak": peak,
        "time_to_peak": times[lifted.argmax(axis=1)],
        "width": np.trapezoid(lifted, times, axis=1) / peak,
        "left": lifted[:, -max(2, len(times) // 10) :].mean(axis=1) / peak,
        "narrowest": np.full(len(peak), 1.2 * np.median(np.diff(times)) if len(times) > 1 else 0.0),
    }
