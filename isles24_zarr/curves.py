"""CT perfusion over time: curves of regions, enhancement, time to peak, candidates for the arterial input.

A series of a subject has gigabytes. Everything here reads it once, block by block as it is stored, keeps sums or maxima
of a block, and never more than a few blocks: the mean in a region costs the blocks that the region touches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.blocks import (
    SPATIAL,
    Block,
    block_results,
    blocks,
    bounding_box,
    canonical_axes,
    computed,
    name_of,
    on_same_grid,
    volume_axes,
)
from isles24_zarr.dataset import nearest_voxels, scan_grid
from isles24_zarr.errors import GeometryError, UnknownNameError
from isles24_zarr.grid import voxel_from_world, world_from_voxel

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

BASELINE_FRAMES: Final = 3
"""Frames at the start of a series that are taken to be without contrast agent."""

_BLOOD_HU: Final = (0.0, 100.0)
"""Without contrast agent: what is outside of it is air, fat, bone or metal."""


_ARTERIAL_SPREAD: Final = 2.0
"""How much later than the first arteries others may peak, in s: less than blood takes to reach veins."""


def time_curve(series: xr.DataArray, mask: xr.DataArray | ArrayLike, *, label: int | None = None) -> xr.DataArray:
    """Return the mean of a series within a region at every time.

    Parameters
    ----------
    series
        (time, z, y, x), or a slice of that.
    mask
        Of the same grid, booleans or labels; voxels that are 0 or not finite are outside. See `ball_mask` for one about
        a position.
    label
        Take this label alone.

    Returns
    -------
    xarray.DataArray
        (time,), float64, units of the series, with a coordinate ``voxels``: how many were finite, and averaged, at
        each time. NaN where none is, as for an empty region.

    Raises
    ------
    GeometryError
        There is no time axis, or the mask is not on the grid of the series.
    """
    series = _series_axes(series)
    region = on_same_grid(series, mask)
    inside = (region != 0) & np.isfinite(region) if label is None else region == label
    box = bounding_box(inside)
    cut = series.isel(box)
    sums, counts = np.zeros((2, series.sizes["time"]))
    # the region itself is read with the blocks: it may be as lazy as the series
    for first, block_sums, block_counts in block_results(_sums_inside, cut, inside.isel(box), starts=True):
        frames = slice(first, first + len(block_sums))
        sums[frames] += block_sums
        counts[frames] += block_counts
    with np.errstate(invalid="ignore"):
        means = sums / counts
    curve = xr.DataArray(means, dims="time", name=series.name, attrs=_kept_attributes(series))
    return curve.assign_coords(time=series["time"], voxels=("time", counts.astype(np.int64)))


def _sums_inside(
    start: tuple[int, ...], series: NDArray[Any], inside: NDArray[Any]
) -> tuple[int, NDArray[Any], NDArray[Any]]:
    values = np.take(series.reshape(len(series), -1), np.flatnonzero(inside), axis=1)
    counts = np.full(len(values), values.shape[1])
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        counts = np.count_nonzero(finite, axis=1)
        values = np.where(finite, values, 0)
    return start[0], values.sum(axis=1, dtype=np.float64), counts


def _series_axes(series: xr.DataArray) -> xr.DataArray:
    if "time" not in series.dims:
        raise GeometryError(name_of(series), "has no time axis")
    return canonical_axes(series)


def _kept_attributes(image: xr.DataArray) -> dict[str, Any]:
    return {name: image.attrs[name] for name in ("long_name", "units") if name in image.attrs}


def ball_mask(image: xr.DataArray, positions: ArrayLike, radius: float | None = None) -> xr.DataArray:
    """Mark what lies about positions in physical space.

    Parameters
    ----------
    image
        With the axes z, y and x, and their coordinates.
    positions
        (3,) or (n, 3), RAS in mm.
    radius
        Mark voxels whose centre is no farther than this from a position, in mm, and the one nearest to it; by default
        that one alone.

    Returns
    -------
    xarray.DataArray
        (z, y, x), booleans, on the grid of the image.

    Raises
    ------
    GeometryError
        A position lies outside of the volume, or an axis is gone.
    UnknownNameError
        The radius is negative.
    """
    if radius is not None and not radius >= 0:
        raise UnknownNameError(radius, "is no radius, give one in mm")
    volume = volume_axes(image.isel(time=0, drop=True) if "time" in image.dims else image)
    grid = scan_grid(volume)
    centres = np.asarray(positions, dtype=np.float64)
    nearest_voxels(volume, centres)  # raises where one is outside
    marked = np.zeros(volume.shape, dtype=bool)
    # how far a ball reaches along each axis of indices, which need not be at right angles
    reach = np.linalg.norm(np.linalg.inv(grid.affine[:3, :3]), axis=1) * (radius or 0.0)
    for centre in centres.reshape(-1, 3):
        middle = voxel_from_world(grid.affine, centre)
        marked[tuple(np.rint(middle).astype(np.intp)[::-1])] = True
        if radius is not None:
            low = np.maximum(np.ceil(middle - reach), 0).astype(np.intp)
            high = np.minimum(np.floor(middle + reach) + 1, grid.shape).astype(np.intp)
            i, j, k = (np.arange(first, last) for first, last in zip(low, high, strict=True))
            voxels = np.stack(np.broadcast_arrays(i, j[:, None], k[:, None, None]), axis=-1)
            distance = np.linalg.norm(world_from_voxel(grid.affine, voxels) - centre, axis=-1)
            marked[tuple(slice(first, last) for first, last in zip(low[::-1], high[::-1], strict=True))] |= (
                distance <= radius
            )
    return xr.DataArray(marked, dims=SPATIAL, coords={name: volume.coords[name] for name in SPATIAL}, name="ball")


def region_curve(
    series: xr.DataArray,
    region: xr.DataArray | ArrayLike,
    *,
    label: int | None = None,
    radius: float | None = None,
) -> xr.DataArray:
    """Return the mean of a series within a mask, or about positions (see `time_curve` and `ball_mask`).

    Parameters
    ----------
    series
        (time, z, y, x).
    region
        A mask as a DataArray, or as an array (z, y, x); or positions (3,) or (n, 3), RAS in mm, all of one region.
    label
        Of a mask, take this label alone.
    radius
        About positions, in mm.

    Returns
    -------
    xarray.DataArray
        (time,), see `time_curve`.
    """
    is_mask = isinstance(region, xr.DataArray) or np.ndim(region) not in (1, 2)
    return time_curve(series, region if is_mask else ball_mask(series, region, radius), label=label)


def enhancement(series: xr.DataArray, *, baseline_frames: int = BASELINE_FRAMES) -> xr.DataArray:
    """Return how much a series, or a curve, lies above its baseline: the contrast agent alone.

    Parameters
    ----------
    series
        (time, ...).
    baseline_frames
        Their mean, at the start of the series, is subtracted. They must end before the contrast agent arrives: see
        `time_curve`.

    Returns
    -------
    xarray.DataArray
        Same shape, floating point, lazy if the series is. NaN where no baseline value is finite.

    Raises
    ------
    GeometryError
        There is no time axis.
    UnknownNameError
        The series does not have so many frames.
    """
    _check_baseline(series, baseline_frames)
    # 16 bits would overflow
    values = series.astype(np.result_type(series.dtype, np.float32))
    start = values.isel(time=slice(baseline_frames))
    baseline = start.where(np.isfinite(start)).mean("time", dtype=np.float64).astype(values.dtype)
    lifted: xr.DataArray = values - baseline
    return lifted.assign_attrs(_kept_attributes(series))


def _check_baseline(series: xr.DataArray, frames: int) -> None:
    if "time" not in series.dims:
        raise GeometryError(name_of(series), "has no time axis")
    if not 1 <= frames <= series.sizes["time"]:
        raise UnknownNameError(frames, f"baseline frames were asked for, {name_of(series)} has {series.sizes['time']}")


def time_to_peak(series: xr.DataArray) -> xr.DataArray:
    """Return when a series, or a curve, is highest.

    Parameters
    ----------
    series
        (time, ...). Values that are not finite are passed over.

    Returns
    -------
    xarray.DataArray
        Without time, float32, in s on the time axis of the series, lazy if that is: the first of equal peaks. NaN
        where a curve is constant or has no finite value, as where nothing was measured.

    Raises
    ------
    GeometryError
        There is no time axis.
    """
    if "time" not in series.dims:
        raise GeometryError(name_of(series), "has no time axis")
    passed_over = series.dtype.kind == "f"
    values = series.where(np.isfinite(series), -np.inf) if passed_over else series
    highest = values.max("time", skipna=False)
    lowest = (series.where(np.isfinite(series), np.inf) if passed_over else series).min("time", skipna=False)
    times = series["time"].to_numpy().astype(np.float32)
    peak: xr.DataArray = xr.apply_ufunc(
        times.__getitem__, values.argmax("time", skipna=False), dask="parallelized", output_dtypes=[np.float32]
    )
    attributes = {"long_name": "time to peak", "units": series["time"].attrs.get("units", "s")}
    return peak.where(highest > lowest).rename("time_to_peak").assign_attrs(attributes)


# --- arterial input ---


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
        As for `enhancement`.
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
    lie in an artery beyond an occlusion: look at the curves, with `region_curve`, before one is used for
    deconvolution.

    Memory holds twice 14 bytes a voxel of one block in space for each thread, and 44 bytes for each voxel of a vessel.

    References
    ----------
    .. [1] Mouridsen K, Christensen S, Gyldensted L, Ostergaard L. Automatic selection of arterial input function using
       cluster analysis. Magn Reson Med 2006;55:524-531. doi:10.1002/mrm.20759.
    .. [2] Rempp KA, Brix G, Wenz F, et al. Quantification of regional cerebral blood flow and volume with dynamic
       susceptibility contrast-enhanced MR imaging. Radiology 1994;193:637-641.
    """
    import pandas as pd

    _check_baseline(series, baseline_frames)
    if count < 1:
        raise UnknownNameError(count, "is not a number of candidates, ask for 1 or more")
    series = _series_axes(series)
    volume_axes(series.isel(time=0))
    grid = scan_grid(series)
    rule = _Rule(
        baseline_frames=baseline_frames, lowest_peak=lowest_peak, times=tuple(series["time"].to_numpy().tolist())
    )
    columns = itertools.groupby(blocks(series, innermost="time"), key=lambda block: block.start[1:])
    parts = computed([_vessels_of_column(rule, list(column)) for _, column in columns])
    vessels = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    chosen = _arterial(vessels).head(count)
    positions = world_from_voxel(grid.affine, chosen[["i", "j", "k"]].to_numpy())
    table = pd.DataFrame(positions, columns=["x", "y", "z"])
    return table.join(chosen[["baseline", "peak", "time_to_peak", "width"]].reset_index(drop=True))


def _arterial(vessels: pd.DataFrame) -> pd.DataFrame:
    """Keep what is high and early, high and narrow curves first; of equal ones, in the order of the axes."""
    if vessels.empty:
        return vessels
    high = vessels[vessels["peak"] >= vessels["peak"].quantile(0.99) / 2]
    early = high[high["time_to_peak"] <= high["time_to_peak"].quantile(0.05) + _ARTERIAL_SPREAD]
    ranked = early.assign(score=early["peak"] / early["width"])
    return ranked.sort_values(["score", "k", "j", "i"], ascending=[False, True, True, True])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What makes a vessel: arguments of `arterial_input_candidates`, and the times of the frames in s."""

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
