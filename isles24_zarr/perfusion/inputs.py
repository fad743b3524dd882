"""What perfusion maps take besides the series: the curves of an artery and of a vein, the arrival of the bolus."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.analysis import (
    SPATIAL,
    arterial_of,
    bolus_arrivals,
    brain_mask,
    enhancement,
    enhancing_vessels,
    name_of,
    region_curve,
    series_axes,
    venous_of,
)
from isles24_zarr.errors import PerfusionError, PerfusionWarning

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

_LOWEST_PEAK: Final = 50.0
"""Enhancement in HU from which on a voxel is a vessel: several times that of tissue."""

_FEWEST_VOXELS: Final = 10
"""Of an artery or vein, where there are so many. Of more, the better half is taken: few are the best by their noise."""

_SLICES: Final = 3
"""Slices, evenly spread, from which the arrival of the bolus is first estimated."""

_LATE_FRACTION: Final = 0.5
"""A curve that ends above this part of its peak was cut off before the bolus had passed."""

_MOST_BLOOD_HU: Final = 100.0
"""Of blood without contrast agent."""

_BESIDE: Final = 0.25
"""Part of a peak that one of the frames beside it reaches: of a bolus more, of noise 0.18, whatever its strength."""

_FEWEST_CURVES: Final = 3
"""By fewer voxels a bolus cannot be told from chance."""

_CLEAR: Final = 4.5
"""Standard deviations of noise that a peak has: of a hundred thousand samples of noise, the highest has 4.3."""

_MOST_SCALE: Final = 3.0
"""Of veins: arteries that share their voxel with more than twice as much tissue are no input."""

_SAME_TIME: Final = 1e-3
"""In s, by which frames of one series may differ."""

_SHORTEST_SECONDS: Final = 20.0
"""From the arrival of the bolus on: tissue of a long Tmax enhances for longer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerfusionInputs:
    """Arterial input and venous output of a series, as they are used for its maps.

    Parameters
    ----------
    arterial_input
        (time,), float64, in HU with their baseline.
    venous_output
        The same of a vein; None where there is none.
    baseline_frames
        Frames before the bolus arrives in the artery, whose mean is the baseline of all curves.
    bolus_arrival
        When it does, in s on the time axis of the series.
    venous_scale
        Area under the enhancement of the vein over that of the artery, no less than 1: an artery is thinner than a
        voxel, and shares it with tissue.
    arteries, veins
        Where the curves were found, as `analysis.arterial_input_candidates` tells; None where they were given.
    findings
        Sentences on what is wrong with the series: too short, or without a baseline.
    """

    arterial_input: xr.DataArray
    venous_output: xr.DataArray | None
    baseline_frames: int
    bolus_arrival: float
    venous_scale: float
    arteries: pd.DataFrame | None
    veins: pd.DataFrame | None
    findings: tuple[str, ...]


def perfusion_inputs(
    series: xr.DataArray,
    arterial_input: xr.DataArray | ArrayLike | None = None,
    venous_output: xr.DataArray | ArrayLike | None = None,
) -> PerfusionInputs:
    """Find, or take, the arterial input and the venous output of a series.

    Parameters
    ----------
    series
        (time, z, y, x), in HU.
    arterial_input
        A curve over time in HU, as `analysis.time_curve` gives it, (time,); or a mask (z, y, x); or positions (3,) or
        (n, 3), RAS in mm; the mean of a region is taken. By default the better half of all candidates, see
        `analysis.arterial_input_candidates`.
    venous_output
        The same of a vein. By default, where the artery is found too, the higher half of what enhances like vessels and
        peaks later than arteries; where an artery is given, none.

    Returns
    -------
    PerfusionInputs

    Raises
    ------
    PerfusionError
        There is no artery to be found, or no bolus in what was given.
    GeometryError
        The series has no time axis, or a region is not on its grid.

    Warns
    -----
    PerfusionWarning
        The series begins after the bolus, or ends before it has passed.

    Notes
    -----
    To find vessels the series is read once, block by block; three slices of it are read before, to see that it is
    steady. The baseline is that before the bolus comes into the first vessels. Choosing vessels by their curves alone
    is a heuristic in the spirit of Straka et al., J Magn Reson Imaging 2010;32:1024-1037, doi:10.1002/jmri.22338: look
    at the curves.

    Examples
    --------
    >>> from isles24_zarr.perfusion import perfusion_inputs
    >>> inputs = perfusion_inputs(scan["ctp"])
    >>> inputs.arterial_input.dims, inputs.findings
    (('time',), ())
    """
    axes = series.dims  # in whose order plain arrays of a region have theirs
    series = in_seconds(series_axes(series))
    arteries = veins = None
    if arterial_input is None:
        check_steady(series)
        vessels, curves = enhancing_vessels(series, baseline_frames=None, lowest_peak=_LOWEST_PEAK)
        arteries = _better_half(arterial_of(vessels))
        if not _is_bolus(curves[arteries.index]):
            what = f"nothing enhances by {_LOWEST_PEAK:g} HU as arteries do"
            raise PerfusionError(name_of(series), f"{what}; give arterial_input a curve, a mask or positions")
        arterial_input = curves[arteries.index].mean(axis=0, dtype=np.float64)
        if venous_output is None:
            veins = _better_half(venous_of(vessels))
            venous_output = None if veins.empty else curves[veins.index].mean(axis=0, dtype=np.float64)
    given = series.transpose(*axes)
    artery = _curve(given, arterial_input)
    vein = None if venous_output is None else _curve(given, venous_output)
    frames = int(bolus_arrivals(artery))
    if frames == 0:
        what = "its arterial input is highest in the first frame, or flat: there is no bolus in it"
        raise PerfusionError(name_of(series), f"{what}; look at its curve, and give another as arterial_input")
    findings = _findings(artery, vein, frames)
    scale = _venous_scale(artery, vein, frames)
    if scale > _MOST_SCALE:
        findings += (f"the area under the vein's curve is {scale:.1f} times that of the artery: look at both",)
    if arteries is not None and vein is None:
        findings += (
            "no vein was found that empties again: CBF and CBV are too high by what arteries share with tissue",
        )
    for finding in findings:
        warnings.warn(f"{name_of(series)}: {finding}", PerfusionWarning, stacklevel=2)
    return PerfusionInputs(
        arterial_input=artery,
        venous_output=vein,
        baseline_frames=frames,
        bolus_arrival=float(series["time"][frames]),
        venous_scale=scale,
        arteries=None if arteries is None else arteries.reset_index(drop=True),
        veins=None if veins is None else veins.reset_index(drop=True),
        findings=findings,
    )


def in_seconds(series: xr.DataArray) -> xr.DataArray:
    """Return a series with its times in seconds, as numbers.

    Raises
    ------
    PerfusionError
        They are in another unit, or do not ascend.
    """
    times = series["time"]
    if times.dtype.kind == "m":
        series = series.assign_coords(time=times.to_numpy() / np.timedelta64(1, "s"))
    elif times.attrs.get("units", "s") not in ("s", "sec", "second", "seconds"):
        raise PerfusionError(
            name_of(series), f"has times in {times.attrs['units']}; give them in s, as by assign_coords"
        )
    if not (np.diff(series["time"].to_numpy().astype(np.float64)) > 0).all():
        raise PerfusionError(name_of(series), "has times that do not ascend")
    return series


def _is_bolus(curves: NDArray[np.float32]) -> bool:
    """Tell whether curves (voxels, time) are of a bolus, and not the highest of many that are nothing but noise.

    Noise peaks at another time in each voxel, so that the mean is low; beside its peaks there is nothing; and where few
    voxels make its peaks by chance, they are of a few standard deviations.
    """
    if len(curves) < _FEWEST_CURVES:
        return False
    lifted = curves - np.median(curves, axis=1, keepdims=True)
    rows, peak = np.arange(len(lifted)), lifted.argmax(axis=1)
    beside = np.pad(lifted, ((0, 0), (1, 1)))
    neighbours = np.maximum(beside[rows, peak], beside[rows, peak + 2]) / lifted[rows, peak]
    noise = 1.4826 * np.median(np.abs(lifted), axis=1)
    clear = np.median(lifted[rows, peak] - _CLEAR * noise) >= 0
    return bool(clear and np.median(neighbours) >= _BESIDE and lifted.mean(axis=0).max() >= _LOWEST_PEAK / 2)


def _better_half(candidates: pd.DataFrame) -> pd.DataFrame:
    return candidates.head(max(_FEWEST_VOXELS, len(candidates) // 2))


def baseline_image(series: xr.DataArray) -> xr.DataArray:
    """Return the mean of a series before the bolus, a CT without contrast agent.

    Parameters
    ----------
    series
        (time, z, y, x), in HU.

    Returns
    -------
    xarray.DataArray
        (z, y, x), float32, lazy if the series is. The arrival of the bolus is estimated at once, by three slices.

    Examples
    --------
    >>> from isles24_zarr.perfusion import baseline_image
    >>> baseline_image(scan["ctp"]).dims
    ('z', 'y', 'x')
    """
    image: xr.DataArray = series.isel(time=slice(check_steady(series))).mean("time", dtype=np.float32)
    return image.rename("baseline").assign_attrs(long_name="CT before the bolus", units="HU")


def scan_brain(scan: xr.Dataset) -> xr.DataArray | None:
    """Find the brain of a scan: in its NCCT, else in its CTP before the bolus.

    Parameters
    ----------
    scan
        Images on one grid.

    Returns
    -------
    xarray.DataArray or None
        As of `analysis.brain_mask`; None where the scan has neither.

    Examples
    --------
    >>> from isles24_zarr.perfusion import scan_brain
    >>> scan_brain(scan).dims, scan_brain(scan[["tmax"]])
    (('z', 'y', 'x'), None)
    """
    image = brain_image(scan)
    return None if image is None else brain_mask(image)


def brain_image(scan: xr.Dataset) -> xr.DataArray | None:
    """Return the CT in which the brain of a scan is found: its NCCT, else its CTP before the bolus.

    Parameters
    ----------
    scan
        Images on one grid.

    Returns
    -------
    xarray.DataArray or None
        (z, y, x), in HU; None where the scan has neither.

    Examples
    --------
    >>> from isles24_zarr.perfusion import brain_image
    >>> brain_image(scan).dims, brain_image(scan[["ctp"]]).name
    (('z', 'y', 'x'), 'baseline')
    """
    if "ncct" in scan:
        return scan["ncct"]
    return baseline_image(scan["ctp"]) if "ctp" in scan else None


def check_steady(series: xr.DataArray) -> int:
    """Return how many frames are surely before the bolus, by the mean of a few slices.

    Raises
    ------
    PerfusionError
        A frame is empty, or no bolus arrives, as where the first frame is the brightest.
    """
    places = np.linspace(0, series.sizes.get("z", 1), _SLICES + 2)[1:-1].astype(int)
    # by ranges, not by a list of numbers, for which whole chunks would be read
    parts = [series.isel(z=slice(k, k + 1)) for k in np.unique(places).tolist()] if "z" in series.dims else [series]
    curves = [part.where(np.isfinite(part)).mean([dim for dim in part.dims if dim != "time"]) for part in parts]
    found = np.stack([np.asarray(curve, dtype=np.float64) for curve in curves])
    means = found[np.isfinite(found).any(axis=1)].mean(axis=0) if np.isfinite(found).any() else found[0]
    empty = np.flatnonzero(~np.isfinite(means))
    if empty.size:
        raise PerfusionError(
            name_of(series), f"has no finite value in frame {empty[0]}; leave it out, as by isel(time=...)"
        )
    arrival = int(bolus_arrivals(means))
    if arrival == 0:
        what = "is brightest in its first frame, or changes nowhere: no bolus arrives"
        raise PerfusionError(name_of(series), f"{what}; leave out unsteady frames, or give arterial_input")
    return max(1, arrival - 1)


def _curve(series: xr.DataArray, given: Any) -> xr.DataArray:
    """Return the curve of an artery or vein, (time,), in HU."""
    count = series.sizes["time"]
    if isinstance(given, xr.DataArray) and not {"time", *SPATIAL} & set(given.dims):
        given = given.to_numpy()  # positions
    is_curve = given.dims == ("time",) if isinstance(given, xr.DataArray) else np.shape(given) == (count,) != (3,)
    if not is_curve:
        curve = region_curve(series, given)
    else:
        check_frames(series, given)
        values = np.asarray(given, dtype=np.float64)
        curve = xr.DataArray(values, dims="time", coords={"time": series["time"]}, attrs={"units": "HU"})
    if not np.isfinite(curve).all():
        raise PerfusionError(
            name_of(series), "has no finite curve in the region of its arterial input or venous output"
        )
    return curve


def check_frames(series: xr.DataArray, curve: xr.DataArray | ArrayLike) -> None:
    """Raise where a curve is not of the frames of a series, whose times are in s.

    Raises
    ------
    PerfusionError
        It has more frames or fewer, or other times, as far as it has some.
    """
    count = series.sizes["time"]
    if np.size(curve) != count:
        raise PerfusionError(name_of(series), f"has {count} frames, the curve that was given {np.size(curve)}")
    if not isinstance(curve, xr.DataArray) or "time" not in curve.coords:
        return
    if not np.allclose(in_seconds(curve)["time"], series["time"], atol=_SAME_TIME):
        what = "has other times than the curve that was given"
        raise PerfusionError(name_of(series), f"{what}; take one of these frames, or interpolate it, as by interp")


def _venous_scale(artery: xr.DataArray, vein: xr.DataArray | None, frames: int) -> float:
    if vein is None:
        return 1.0
    areas = [_area(curve, frames) for curve in (vein, artery)]
    return max(1.0, areas[0] / areas[1]) if areas[1] > 0 else 1.0


def _area(curve: xr.DataArray, frames: int) -> float:
    return float(enhancement(curve, baseline_frames=frames).integrate("time"))


def _findings(artery: xr.DataArray, vein: xr.DataArray | None, frames: int) -> tuple[str, ...]:
    """Return what is wrong with a series by the curves of its vessels."""
    found = []
    before = float(artery[:frames].mean())
    if before > _MOST_BLOOD_HU:
        found.append(f"its artery begins at {before:.0f} HU, where the bolus has come already: maps are too low")
    late = vein if vein is not None else artery
    start = float(late[:frames].mean())
    end, height = float(late[-2:].mean()) - start, float(late.max()) - start
    if end > _LATE_FRACTION * height:
        what = f"it ends while the {'vein' if vein is not None else 'artery'} is at {end / height:.0%} of its peak"
        found.append(f"{what}: CBV and MTT are too low, Tmax too")
    lasted = float(artery["time"][-1] - artery["time"][frames])
    if lasted < _SHORTEST_SECONDS:
        what = f"it ends {lasted:.0f} s after the bolus arrives"
        found.append(f"{what}: what comes late is not seen, Tmax and MTT are wrong")
    return tuple(found)
