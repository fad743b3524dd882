"""Maps of CT perfusion from a series: Tmax, CBF, CBV, MTT and time to peak, lazily and block by block."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.analysis import AS_NAMED, inside_mask, series_axes, whole_curves
from isles24_zarr.conventions import HAEMATOCRIT, TISSUE_DENSITY, blood_factor
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.geometry import scan_grid
from isles24_zarr.perfusion.deconvolution import Deconvolution, DeconvolutionMethod, deconvolution_of
from isles24_zarr.perfusion.inputs import PerfusionInputs, check_frames, in_seconds, perfusion_inputs
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EARLIEST_TMAX: Final = 0.01
"""Of tissue that blood reaches no later than the arterial input, in s: in released maps, 0 and less mean no value."""

MAPS: Final = {
    **{name: (IMAGES[name].long_name, IMAGES[name].units) for name in ("tmax", "cbf", "cbv", "mtt")},
    "ttp": ("time to peak", "s"),
}
"""Long name and unit of each map: those of the released ones."""

_VESSEL_FRACTION: Final = 0.2
"""Part of blood from which on a voxel is a vessel, some five times that of tissue: smoothing must not spread it."""

_FWHM: Final = 2 * math.sqrt(2 * math.log(2))
_REACH: Final = 3.0
"""Standard deviations beyond which a Gaussian is cut off."""


def perfusion_maps(
    series: xr.DataArray,
    arterial_input: xr.DataArray | ArrayLike | PerfusionInputs | None = None,
    venous_output: xr.DataArray | ArrayLike | None = None,
    *,
    method: DeconvolutionMethod = "bcsvd",
    truncation: float = 0.1,
    haematocrit: tuple[float, float] = HAEMATOCRIT,
    density: float = TISSUE_DENSITY,
    mask: xr.DataArray | ArrayLike | None = None,
    smoothing: float | tuple[float, float] | None = None,
) -> xr.Dataset:
    r"""Compute maps of perfusion from a series of CT perfusion.

    Parameters
    ----------
    series
        (time, z, y, x), in HU; times in s, at even steps or not. On Dask or not.
    arterial_input, venous_output
        Curves, masks or positions, see `perfusion_inputs`, which is called at once; or what that returned of the same
        frames.
    method
        ``"bcsvd"``: block-circulant singular value decomposition [1]_, which delay does not change; ``"osvd"``: the
        same with a truncation of each voxel's own, by the oscillation of its residue function [1]_: more flow from less
        noise, at several times the cost.
    truncation
        Of ``"bcsvd"``: singular values below this part of the largest are left out.
    haematocrit
        Of large and of small vessels.
    density
        Of tissue, in g/mL.
    mask
        (z, y, x), booleans, labels, or fractions, which are cut at 0.5 with a `SoftMaskWarning`: maps are computed
        inside of it; by default everywhere that the series holds a curve. A scan takes the brain, see
        `analysis.brain_mask`.
    smoothing
        Full width at half maximum in mm of a Gaussian over tissue within the mask, vessels apart; or that and one in s.
        None by default; the noise of CT takes 5 mm and more on its own grid.

    Returns
    -------
    xarray.Dataset
        Lazy, float32, (z, y, x), NaN where nothing was computed: ``tmax``, ``mtt`` and ``ttp`` in s, ``cbf`` in mL/100
        g/min, ``cbv`` in mL/100 g. Attributes, of each map too, tell the method, its numbers and the arterial input.
        Compute them together, as ``.compute()`` and ``.isles.save()`` do: they are made in one pass.

    Raises
    ------
    PerfusionError
        No arterial input is found, it holds no bolus, or its times are not those of the series.
    GeometryError
        The series has no time axis, or the mask is not on its grid.
    MaskError
        The values of the mask are neither labels nor fractions between 0 and 1.
    UnknownNameError
        There is no such method, or a number is out of its range.

    Warns
    -----
    PerfusionWarning
        The series begins after the bolus, or ends before it has passed.

    Notes
    -----
    With a the enhancement of the artery, c that of a voxel, R the residue function, and the factor
    :math:`\kappa = (1 - H_{large}) / (1 - H_{small}) / \rho` for what contrast agent in plasma says of blood [2]_,
    [3]_:

    .. math::
        c(t) = \int_0^t a(\tau)\, k R(t - \tau)\, d\tau, \quad
        CBF = 6000\, \kappa \max k R, \quad
        CBV = 100\, \kappa \frac{\int c}{\int a}, \quad
        MTT = 60\, CBV / CBF, \quad
        T_{max} = \arg\max_t R

    The maximum of R is that of a parabola through three points. a is scaled by `PerfusionInputs.venous_scale`. The
    baseline is the mean of the frames before the bolus arrives in the artery. Truncation takes from short transit
    times: of a true CBF of 60 and more, in noise of CT, bcSVD shows some 60 to 90 %, the less the wider the arterial
    input; that is so in every software that truncates, and why thresholds are relative. These maps are no copy of those
    of the release, which come from commercial software, and none of it is meant for treating patients.

    A block has all frames of a part in space, 64 MB as stored; computing holds a few of them for each thread. Smoothing
    takes a rim of 1.3 widths around each, in single precision: of 8 mm at half a millimetre, several times as much
    memory and time. Smooth series as acquired, which have the same information.

    References
    ----------
    .. [1] Wu O, Ostergaard L, Weisskoff RM, et al. Magn Reson Med 2003;50:164-174. doi:10.1002/mrm.10522.
    .. [2] Ostergaard L, Weisskoff RM, Chesler DA, et al. Magn Reson Med 1996;36:715-725. doi:10.1002/mrm.1910360510.
    .. [3] Kudo K, Sasaki M, Yamada K, et al. Differences in CT perfusion maps generated by different commercial
    software.
       Radiology 2010;254:200-209. doi:10.1148/radiol.254082000.

    Examples
    --------
    >>> from isles24_zarr.perfusion import perfusion_maps
    >>> maps = perfusion_maps(scan["ctp"], mask=scan.isles.brain_mask())
    >>> list(maps.data_vars), maps["cbf"].attrs["units"]
    (['tmax', 'cbf', 'cbv', 'mtt', 'ttp'], 'mL/100 g/min')
    """
    space, duration = _deviations(smoothing)
    factor = _checked_factor(haematocrit, density)
    within = None if mask is None else inside_mask(series, mask)
    inputs = _inputs(series, arterial_input, venous_output)
    series = whole_curves(in_seconds(series))
    times = series["time"].to_numpy()
    job = _Job(
        deconvolution=deconvolution_of(
            inputs.arterial_input,
            times,
            method=method,
            truncation=truncation,
            baseline_frames=inputs.baseline_frames,
            smoothing=duration,
        ),
        factor=factor / inputs.venous_scale,
        times=tuple(times.tolist()),
    )
    region = None if within is None else _mask_blocks(series, within)
    data = series.data if space == 0 else _smoothed(series, region, space, job.deconvolution.area)
    # blocks that are thinner than what is looked at around them have been put together
    maps = _map_blocks(job, data, None if region is None else region.rechunk((1, *data.chunks[1:])))
    frame = series.isel(time=0, drop=True)
    attributes = {
        "method": method,
        "truncation": truncation if method == "bcsvd" else "by oscillation index",
        "haematocrit": [float(part) for part in haematocrit],
        "tissue_density": density,
        "smoothing_fwhm": [space * _FWHM, duration * _FWHM],
        "baseline_frames": inputs.baseline_frames,
        "bolus_arrival": inputs.bolus_arrival,
        "venous_scale": inputs.venous_scale,
        "arterial_input": inputs.arterial_input.to_numpy().tolist(),
        "findings": "; ".join(inputs.findings) or "none",
    }
    subject = {name: series.attrs[name] for name in ("subject", "space") if name in series.attrs}
    return xr.Dataset(
        {
            name: (frame.dims, maps[index], {"long_name": long_name, "units": units} | attributes, {AS_NAMED: True})
            for index, (name, (long_name, units)) in enumerate(MAPS.items())
        },
        coords=frame.coords,
        attrs=subject | attributes,
    )


def _inputs(series: xr.DataArray, arterial_input: Any, venous_output: Any) -> PerfusionInputs:
    """Return what was found before, if it is of the frames of a series, or find it."""
    if not isinstance(arterial_input, PerfusionInputs):
        return perfusion_inputs(series, arterial_input, venous_output)
    if venous_output is not None:
        raise UnknownNameError("venous_output", "is there in what perfusion_inputs returned; give one of both")
    frames = in_seconds(series_axes(series))
    for curve in (arterial_input.arterial_input, arterial_input.venous_output):
        if curve is not None:
            check_frames(frames, curve)
    return arterial_input


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """What is done to every block.

    Parameters
    ----------
    deconvolution
        By the arterial input as it is.
    factor
        From what deconvolution tells, per mL of tissue and by this input, to blood per g.
    times
        Of the frames, in s.
    """

    deconvolution: Deconvolution
    factor: float
    times: tuple[float, ...]


def _maps_of_block(job: _Job, series: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return the maps of a block, (maps, z, y, x), of a series (time, z, y, x) and a mask (1, z, y, x)."""
    columns = series.reshape(len(series), -1)
    inside = columns.min(axis=0) < columns.max(axis=0)  # neither NaN nor padding
    if mask is not None:
        inside &= mask.reshape(-1)
    maps = np.full((len(MAPS), columns.shape[1]), np.nan, np.float32)
    chosen = np.flatnonzero(inside)
    curves = columns if chosen.size == columns.shape[1] else np.take(columns, chosen, axis=1)
    flow, volume, delay = job.deconvolution.flows(curves)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "tmax": np.maximum(delay, np.float32(EARLIEST_TMAX)),
            "cbf": flow * np.float32(6000 * job.factor),
            "cbv": volume * np.float32(100 * job.factor),
            "mtt": volume / flow,
            "ttp": np.asarray(job.times, np.float32)[curves.argmax(axis=0)] if chosen.size else delay,
        }
    for index, name in enumerate(MAPS):
        maps[index, chosen] = np.where(np.isfinite(flow), values[name], np.float32(np.nan))
    return maps.reshape(len(MAPS), *series.shape[1:])


def _checked_factor(haematocrit: tuple[float, float], density: float) -> float:
    cells = np.asarray(haematocrit, dtype=np.float64)
    if cells.shape != (2,) or not ((cells >= 0) & (cells < 1)).all() or not 0 < density < math.inf:
        raise UnknownNameError((haematocrit, density), "are no two fractions of cells and a density in g/mL")
    return blood_factor((float(cells[0]), float(cells[1])), density)


def _deviations(smoothing: float | tuple[float, float] | None) -> tuple[float, float]:
    """Return the standard deviations in mm and in s of full widths at half maximum."""
    widths = [] if smoothing is None else np.atleast_1d(np.asarray(smoothing, dtype=np.float64)).tolist()
    if len(widths) > 2 or not all(0 <= width < math.inf for width in widths):
        raise UnknownNameError(smoothing, "is no width in mm, nor a pair of that and one in s")
    space, duration = [*widths, 0.0, 0.0][:2]
    return space / _FWHM, duration / _FWHM


def _mask_blocks(series: xr.DataArray, mask: xr.DataArray) -> Any:
    """Return a mask as a Dask array (1, z, y, x) in the chunks of a series."""
    return mask.chunk({dim: series.chunksizes[dim] for dim in series.dims[1:]}).data[None]


def _map_blocks(job: _Job, series: Any, mask: Any) -> Any:
    """Return all maps as one Dask array, (maps, z, y, x), so that a block is read and multiplied once."""
    import dask.array as da

    return da.map_blocks(
        functools.partial(_maps_of_block, job),
        *([series] if mask is None else [series, mask]),
        dtype=np.float32,
        drop_axis=0,
        new_axis=0,
        chunks=((len(MAPS),), *series.chunks[1:]),
        meta=np.empty((0,) * series.ndim, np.float32),
    )


def _smoothed(series: xr.DataArray, mask: Any, deviation: float, area: NDArray[np.float64]) -> Any:
    """Return a series smoothed in space as a Dask array of the same chunks, each block with a rim of its neighbours.

    Parameters
    ----------
    series
        (time, z, y, x).
    mask
        (1, z, y, x), or None.
    deviation
        Of the Gaussian, in mm.
    area
        (time,): from a curve to its part of blood.
    """
    import dask.array as da

    spacing = dict(zip("xyz", scan_grid(series).spacing, strict=True))
    widths = (0.0, *(deviation / spacing[str(dim)] for dim in series.dims[1:]))
    depth = {axis: min(math.ceil(_REACH * width), series.shape[axis]) for axis, width in enumerate(widths)}
    arrays = [series.data] if mask is None else [series.data, mask]
    return da.map_overlap(
        functools.partial(_smooth_block, widths, area.astype(np.float32)),
        *arrays,
        depth=[depth] * len(arrays),
        boundary="none",
        dtype=np.float32,
        align_arrays=False,
        meta=np.empty((0,) * series.ndim, np.float32),
    )


def _smooth_block(
    widths: tuple[float, ...],
    area: NDArray[np.float32],
    series: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Return the mean of tissue about each voxel of a series (time, z, y, x), by a Gaussian; vessels stay."""
    from scipy.ndimage import gaussian_filter

    smooth = functools.partial(gaussian_filter, sigma=widths[1:], mode="constant", truncate=_REACH)
    result = series.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        # not finite is no tissue
        tissue = np.tensordot(area, result, axes=1) < _VESSEL_FRACTION
        if mask is not None:
            tissue &= mask[0]
        # nothing outside of the box of tissue has a weight
        ends = [
            np.flatnonzero(tissue.any(axis=tuple(each for each in range(tissue.ndim) if each != axis)))
            for axis in range(tissue.ndim)
        ]
        box = tuple(slice(each[0], each[-1] + 1) if each.size else slice(0) for each in ends)
        tissue = tissue[box]
        if tissue.size:
            weights = smooth(tissue.astype(np.float32))
            for frame in result[(slice(None), *box)]:
                means = smooth(np.where(tissue, frame, np.float32(0))) / weights
                np.copyto(frame, means, where=tissue)
    return result
