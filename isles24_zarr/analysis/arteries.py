"""Vessels in CT perfusion: voxels whose curves may serve as arterial input function or as venous output.

A series is read once, block by block; of each voxel, four numbers are kept while its frames go by.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.analysis.blockwise import Block, blocks, computed, volume_axes
from isles24_zarr.analysis.curves import check_baseline, series_axes
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

    Memory holds twice 14 bytes a voxel of one block in space for each thread, and 44 bytes for each voxel of a vessel.

    References
    ----------
    .. [1] Mouridsen K, Christensen S, Gyldensted L, Ostergaard L. Automatic selection of arterial input function using
       cluster analysis. Magn Reson Med 2006;55:524-531. doi:10.1002/mrm.20759.
    .. [2] Rempp KA, Brix G, Wenz F, et al. Quantification of regional cerebral blood flow and volume with dynamic
       susceptibility contrast-enhanced MR imaging. Radiology 1994;193:637-641.
    """
    vessels = enhancing_vessels(series, baseline_frames=baseline_frames, lowest_peak=lowest_peak)
    return arterial_of(vessels, count)


def enhancing_vessels(series: xr.DataArray, *, baseline_frames: int, lowest_peak: float) -> pd.DataFrame:
    """Return all voxels whose curves are those of vessels.

    Parameters
    ----------
    series, baseline_frames, lowest_peak
        As for `arterial_input_candidates`.

    Returns
    -------
    pandas.DataFrame
        In the order of z, y and x: its columns, and ``i``, ``j``, ``k``, the indices along x, y and z.
    """
    import pandas as pd

    check_baseline(series, baseline_frames)
    series = series_axes(series)
    volume_axes(series.isel(time=0))
    grid = scan_grid(series)
    rule = _Rule(
        baseline_frames=baseline_frames, lowest_peak=lowest_peak, times=tuple(series["time"].to_numpy().tolist())
    )
    columns = itertools.groupby(blocks(series, innermost="time"), key=lambda block: block.start[1:])
    parts = computed([_vessels_of_column(rule, list(column)) for _, column in columns])
    vessels = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    vessels = vessels.sort_values(["k", "j", "i"], ignore_index=True)
    positions = world_from_voxel(grid.affine, vessels[["i", "j", "k"]].to_numpy())
    return vessels.join(pd.DataFrame(positions, columns=["x", "y", "z"]))


def arterial_of(vessels: pd.DataFrame, count: int | None = None) -> pd.DataFrame:
    """Return vessels that are early, high and narrow, the best first, as `arterial_input_candidates` does."""
    if count is not None and count < 1:
        raise UnknownNameError(count, "is not a number of candidates, ask for 1 or more")
    high = _high(vessels)
    early = high[high["time_to_peak"] <= high["time_to_peak"].quantile(0.05) + _ARTERIAL_SPREAD]
    return _best(early, early["peak"] / early["width"], count)


def venous_of(vessels: pd.DataFrame) -> pd.DataFrame:
    """Return those of `enhancing_vessels` that are high and late, the highest first.

    Parameters
    ----------
    vessels
        As of `enhancing_vessels`.

    Returns
    -------
    pandas.DataFrame
        As `arterial_input_candidates`, of vessels that peak later than all that may be arteries: the highest are those
        of voxels that hold blood and nothing else.
    """
    high = _high(vessels)
    late = high[high["time_to_peak"] > high["time_to_peak"].quantile(0.05) + _ARTERIAL_SPREAD]
    return _best(late, late["peak"])


_COLUMNS: Final = ["x", "y", "z", "baseline", "peak", "time_to_peak", "width"]


def _high(vessels: pd.DataFrame) -> pd.DataFrame:
    return vessels[vessels["peak"] >= vessels["peak"].quantile(0.99) / 2]


def _best(vessels: pd.DataFrame, score: pd.Series[float], count: int | None = None) -> pd.DataFrame:
    """Return vessels of the highest score first; of equal ones, in the order of the axes."""
    order = score.sort_values(ascending=False, kind="stable").index[:count]
    return vessels.loc[order, _COLUMNS].reset_index(drop=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What makes a vessel: arguments of `enhancing_vessels`, and the times of the frames in s."""

    baseline_frames: int
    lowest_peak: float
    times: tuple[float, ...]


@dataclasses.dataclass(slots=True, kw_only=True)
class _Running:
    """What is known of the voxels of a block in space after some frames."""

    baseline: NDArray[np.float32]
    area: NDArray[np.float32]
    highest: NDArray[np.float32]
    frame: NDArray[np.int16]


def _vessels_of_column(rule: _Rule, column: list[Block]) -> Any:
    """Return the vessels of the blocks of all times at one place, or what Dask will make into them."""
    running: Any = None
    for block in column:
        running = block.call(functools.partial(_with_frames, rule, block.start[0]), running)
    return dataclasses.replace(column[0], arrays=(running,)).call(
        functools.partial(_vessels, rule, column[0].start[1:])
    )


def _with_frames(rule: _Rule, first: int, running: _Running | None, block: NDArray[Any]) -> _Running:
    """Go on with the frames of a block; they are added one by one, so that their grouping does not show in the sums."""
    shape = block.shape[1:]
    if running is None:
        running = _Running(
            baseline=np.zeros(shape, np.float32),
            area=np.zeros(shape, np.float32),
            highest=np.full(shape, -np.inf, np.float32),
            frame=np.zeros(shape, np.int16),
        )
    else:  # what Dask hands over may be used again, where a worker is lost
        running = _Running(
            baseline=running.baseline.copy(),
            area=running.area.copy(),
            highest=running.highest.copy(),
            frame=running.frame.copy(),
        )
    spans = _frame_spans(rule.times)
    with np.errstate(invalid="ignore"):
        # plane by plane, so that what is made on the way stays small, and near the processor
        for plane in range(shape[0]):
            baseline, area = running.baseline[plane], running.area[plane]
            highest, when = running.highest[plane], running.frame[plane]
            for frame, raw in enumerate(block[:, plane], start=first):
                values = raw.astype(np.float32)
                if frame < rule.baseline_frames:
                    baseline += values / np.float32(rule.baseline_frames)
                area += values * spans[frame]
                higher = values > highest
                np.copyto(highest, values, where=higher)
                np.copyto(when, frame, where=higher)
    return running


def _frame_spans(times: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the weight of each frame in an integral over time by the trapezoidal rule, in s."""
    steps = np.diff(times)
    return np.asarray((np.append(steps, 0.0) + np.insert(steps, 0, 0.0)) / 2, dtype=np.float32)


def _vessels(rule: _Rule, start: tuple[int, ...], running: _Running) -> dict[str, NDArray[Any]]:
    """Return what is known of the voxels that are vessels, with their indices along x, y and z as i, j and k."""
    baseline, highest = running.baseline, running.highest
    with np.errstate(invalid="ignore"):
        peak = highest - baseline
        is_vessel = (peak >= rule.lowest_peak) & (baseline >= _BLOOD_HU[0]) & (baseline <= _BLOOD_HU[1])
    # a value that is not finite leaves no finite area
    is_vessel &= np.isfinite(running.area)
    k, j, i = (index + first for index, first in zip(np.nonzero(is_vessel), start, strict=True))
    lift = running.area[is_vessel] - baseline[is_vessel] * (rule.times[-1] - rule.times[0])
    return {
        "i": i,
        "j": j,
        "k": k,
        "baseline": baseline[is_vessel],
        "peak": peak[is_vessel],
        "time_to_peak": np.asarray(rule.times)[running.frame[is_vessel]],
        "width": lift / peak[is_vessel],
    }
