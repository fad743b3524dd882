"""Vessels in CT perfusion: voxels whose curves may serve as arterial input function or as venous output.

A series is read once, in blocks of all frames.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.analysis.blockwise import block_results, volume_axes, whole_curves
from isles24_zarr.analysis.curves import check_baseline
from isles24_zarr.conventions import BASELINE_FRAMES
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.geometry import scan_grid, world_from_voxel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

_BLOOD_HU: Final = (0.0, 100.0)
"""Without contrast agent: what is outside of it is air, fat, bone or metal."""

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
    finite values throughout and a peak of at least `lowest_peak` are vessels. Of these, the high are those with at
    least half of the 99th percentile of peaks; of these, the early those that peak no later than 2 s after the 5th
    percentile of times to peak, when veins are still to fill. They are ranked by peak over width: high and narrow
    first. It makes no difference how the series is cut into blocks. Partial volume lowers peaks, and a candidate may
    lie in an artery beyond an occlusion: look at the curves, with `analysis.region_curve`, before one is used for
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
    series: xr.DataArray, *, baseline_frames: int, lowest_peak: float
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return all voxels whose curves are those of vessels.

    Parameters
    ----------
    series, baseline_frames, lowest_peak
        As for `arterial_input_candidates`.

    Returns
    -------
    table : pandas.DataFrame
        In the order of z, y and x, numbered from 0: its columns, and ``i``, ``j``, ``k``, the indices along x, y and z.
    curves : numpy.ndarray
        (voxels, time), float32, in HU.
    """
    import pandas as pd

    check_baseline(series, baseline_frames)
    volume_axes(series.isel(time=0))
    grid = scan_grid(series)
    rule = _Rule(
        baseline_frames=baseline_frames, lowest_peak=lowest_peak, times=tuple(series["time"].to_numpy().tolist())
    )
    parts = block_results(functools.partial(_vessels_of_block, rule), whole_curves(series), starts=True)
    vessels = pd.DataFrame({name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]})
    vessels = vessels.sort_values(["k", "j", "i"])
    curves = np.concatenate([part[1] for part in parts])[vessels.index]
    vessels = vessels.reset_index(drop=True)
    positions = world_from_voxel(grid.affine, vessels[["i", "j", "k"]].to_numpy())
    return vessels.join(pd.DataFrame(positions, columns=["x", "y", "z"])), curves


def arterial_of(vessels: pd.DataFrame) -> pd.DataFrame:
    """Return `enhancing_vessels` that are early, high and narrow, the best first; they keep their numbers."""
    high = _high(vessels)
    early = high[high["time_to_peak"] <= high["time_to_peak"].quantile(0.05) + _ARTERIAL_SPREAD]
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
    late = high[high["time_to_peak"] > high["time_to_peak"].quantile(0.05) + _ARTERIAL_SPREAD]
    return _best(late, late["peak"])


_COLUMNS: Final = ["x", "y", "z", "baseline", "peak", "time_to_peak", "width"]


def _high(vessels: pd.DataFrame) -> pd.DataFrame:
    return vessels[vessels["peak"] >= vessels["peak"].quantile(0.99) / 2]


def _best(vessels: pd.DataFrame, score: pd.Series[float]) -> pd.DataFrame:
    """Return vessels by their score, the highest first, equal ones in the order of the axes, with their numbers."""
    return vessels.loc[score.sort_values(ascending=False, kind="stable").index, _COLUMNS]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What makes a vessel: arguments of `enhancing_vessels`, and the times of the frames in s."""

    baseline_frames: int
    lowest_peak: float
    times: tuple[float, ...]


def _vessels_of_block(
    rule: _Rule, start: tuple[int, ...], series: NDArray[Any]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Return what is known of the vessels of a block (time, z, y, x); i, j, k are indices along x, y, z."""
    times = np.asarray(rule.times)
    baseline = series[: rule.baseline_frames].mean(axis=0, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        is_vessel = series.max(axis=0) - baseline >= rule.lowest_peak
    is_vessel &= (baseline >= _BLOOD_HU[0]) & (baseline <= _BLOOD_HU[1])
    curves = series[:, is_vessel].astype(np.float64)
    finite = np.isfinite(curves).all(axis=0)
    is_vessel[is_vessel] = finite
    lifted = curves[:, finite] - baseline[is_vessel]
    k, j, i = (index + first for index, first in zip(np.nonzero(is_vessel), start[1:], strict=True))
    peak = lifted.max(axis=0, initial=0)
    table = {
        "i": i,
        "j": j,
        "k": k,
        "baseline": baseline[is_vessel],
        "peak": peak,
        "time_to_peak": times[lifted.argmax(axis=0)],
        "width": np.trapezoid(lifted, times, axis=0) / peak,
    }
    return table, curves[:, finite].T.astype(np.float32)
