"""CT perfusion over time: curves of regions, enhancement, time to peak.

A series of a subject has gigabytes. Everything here reads it once, block by block as it is stored, keeps sums or maxima
of a block, and never more than a few blocks: the mean in a region costs the blocks that the region touches.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.analysis.blockwise import (
    SPATIAL,
    block_results,
    check_time_axis,
    name_of,
    on_same_grid,
    series_axes,
    volume_axes,
)
from isles24_zarr.analysis.masks import LabelRule, label_rule, marked_box
from isles24_zarr.conventions import BASELINE_FRAMES
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.geometry import nearest_voxels, scan_grid, voxel_from_world, world_from_voxel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def time_curve(
    series: xr.DataArray,
    mask: xr.DataArray | ArrayLike,
    *,
    label: int | None = None,
    threshold: float | None = None,
) -> xr.DataArray:
    """Return the mean of a series within a region at every time.

    Parameters
    ----------
    series
        (time, z, y, x), or a slice of that.
    mask
        Of the same grid, booleans, labels or fractions; 0 is outside. See `ball_mask` for one about a position.
    label
        Take this label alone.
    threshold
        From which fraction on voxels of a soft mask belong to the region; 0.5 where none is given, with a
        `SoftMaskWarning`. The attribute ``threshold`` of the result repeats it.

    Returns
    -------
    xarray.DataArray
        (time,), float64, units of the series, with a coordinate ``voxels``: how many were finite, and averaged, at
        each time. NaN where none is, as for an empty region.

    Raises
    ------
    GeometryError
        There is no time axis, or the mask is not on the grid of the series.
    MaskError
        The values of the mask are neither labels nor fractions between 0 and 1.
    """
    check_time_axis(series)
    region = on_same_grid(series, mask)  # before axes are moved: those of a plain mask are in the order given
    series = series_axes(series)
    rule = label_rule(region, threshold)
    box = marked_box(region, rule, label)
    cut = series.isel(box)
    sums, counts = np.zeros((2, series.sizes["time"]))
    # the region itself is read with the blocks: it may be as lazy as the series
    add = functools.partial(_sums_inside, rule, label)
    for first, block_sums, block_counts in block_results(add, cut, region.isel(box), starts=True):
        frames = slice(first, first + len(block_sums))
        sums[frames] += block_sums
        counts[frames] += block_counts
    with np.errstate(invalid="ignore"):
        means = sums / counts
    curve = xr.DataArray(means, dims="time", name=series.name, attrs=_kept_attributes(series) | rule.note)
    return curve.assign_coords(time=series["time"], voxels=("time", counts.astype(np.int64)))


def _sums_inside(
    rule: LabelRule, label: int | None, start: tuple[int, ...], series: NDArray[Any], mask: NDArray[Any]
) -> tuple[int, NDArray[Any], NDArray[Any]]:
    values = np.take(series.reshape(len(series), -1), np.flatnonzero(rule.inside(mask, label)), axis=1)
    counts = np.full(len(values), values.shape[1])
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        counts = np.count_nonzero(finite, axis=1)
        values = np.where(finite, values, 0)
    return start[0], values.sum(axis=1, dtype=np.float64), counts


def _kept_attributes(image: xr.DataArray) -> dict[str, Any]:
    return {name: image.attrs[name] for name in ("long_name", "units", "file_orientation") if name in image.attrs}


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
    threshold: float | None = None,
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
    threshold
        Of a soft mask, see `time_curve`.

    Returns
    -------
    xarray.DataArray
        (time,), see `time_curve`.
    """
    is_mask = isinstance(region, xr.DataArray) or np.ndim(region) not in (1, 2)
    mask = region if is_mask else ball_mask(series, region, radius)
    return time_curve(series, mask, label=label, threshold=threshold)


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
    check_baseline(series, baseline_frames)
    # 16 bits would overflow
    values = series.astype(np.result_type(series.dtype, np.float32))
    start = values.isel(time=slice(baseline_frames))
    baseline = start.where(np.isfinite(start)).mean("time", dtype=np.float64).astype(values.dtype)
    lifted: xr.DataArray = values - baseline
    return lifted.assign_attrs(_kept_attributes(series))


def check_baseline(series: xr.DataArray, frames: int) -> None:
    """Raise where a series has no time axis, or not so many frames."""
    check_time_axis(series)
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
    check_time_axis(series)
    passed_over = series.dtype.kind == "f"
    values = series.where(np.isfinite(series), -np.inf) if passed_over else series
    highest = values.max("time", skipna=False)
    lowest = (series.where(np.isfinite(series), np.inf) if passed_over else series).min("time", skipna=False)
    times = series["time"].to_numpy().astype(np.float32)
    peak: xr.DataArray = xr.apply_ufunc(
        times.__getitem__, values.argmax("time", skipna=False), dask="parallelized", output_dtypes=[np.float32]
    )
    attributes = {"long_name": "time to peak", "units": series["time"].attrs.get("units", "s")}
    return peak.where(highest > lowest).rename("time_to_peak").assign_attrs(_kept_attributes(series) | attributes)


def bolus_arrivals(curves: ArrayLike) -> NDArray[np.intp]:
    """Return how many frames of curves come before their bolus.

    Parameters
    ----------
    curves
        (..., time), finite: an arterial input, the mean of all voxels, or those of many vessels.

    Returns
    -------
    numpy.ndarray
        (...): frames up to the last one, on the way to the peak, that is not above what is before the rise; 0 where a
        curve begins with its peak.

    Notes
    -----
    What comes before is what stays within 5 % of the peak, or twice the noise, of the median of the first half of the
    way to the peak.

    Examples
    --------
    >>> int(bolus_arrivals([40, 41, 39, 40, 40, 55, 120, 260, 200, 110, 80]))
    5
    """
    values = np.asarray(curves, dtype=np.float64)
    place = np.arange(values.shape[-1])
    peak = values.argmax(axis=-1)[..., None]
    start = np.where(place < np.maximum(1, peak // 2), values, np.nan)
    floor = np.nanmedian(start, axis=-1, keepdims=True)
    noise = 1.4826 * np.nanmedian(np.abs(start - floor), axis=-1, keepdims=True)
    height = values.max(axis=-1, keepdims=True) - floor
    low = (place < peak) & (values <= floor + np.maximum(0.05 * height, 2 * noise))
    return np.asarray(np.where(low, place + 1, 0).max(axis=-1))
