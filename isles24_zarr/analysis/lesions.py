"""Hypoperfusion and ischaemic core by the maps of CT perfusion.

Maps are (z, y, x) and read once, block by block. Volumes are in millilitres, positions in RAS millimetres.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from isles24_zarr.analysis.blockwise import block_results, computed_voxels, on_same_grid, volume_axes
from isles24_zarr.analysis.masks import inside_mask
from isles24_zarr.conventions import CBF_FRACTION, MM3_PER_ML, SEVERE_TMAX, TMAX_THRESHOLD
from isles24_zarr.geometry import scan_grid

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def hypoperfusion_mask(tmax: xr.DataArray, *, tmax_threshold: float = TMAX_THRESHOLD) -> xr.DataArray:
    """Return where Tmax is longer than a threshold in s: booleans, lazy if the map is. Inf and NaN are not."""
    return ((tmax > tmax_threshold) & np.isfinite(tmax)).rename("hypoperfusion").assign_attrs(units="1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PerfusionLesions:
    """What CT perfusion says about hypoperfusion and ischaemic core. Volumes are in mL.

    Parameters
    ----------
    hypoperfusion, core
        Volumes of hypoperfused tissue, and of the part of it whose flow is lost.
    mismatch, mismatch_ratio
        Their difference, and hypoperfusion / core: infinite without a core, NaN without hypoperfusion.
    side
        The hemisphere, ``"left"`` or ``"right"``, that holds more of the hypoperfused tissue; None if there is none.
    midline
        x in RAS mm of the plane between the hemispheres.
    laterality
        (right - left) / (right + left) of the hypoperfused tissue that has a CBF: 1 where all of it is on the right.
    intensity_ratio
        Hypoperfusion intensity ratio: the part of the hypoperfused tissue whose Tmax is above 10 s.
    reference_cbf
        Median CBF of the other hemisphere, in mL/100 g/min; NaN without hypoperfusion.
    brain, coverage
        Volume of the brain, and which part of it has a CBF: a slab often covers less than half. NaN without a brain
        mask.
    unknown
        Volume of hypoperfused tissue for which there is no CBF, so that it does not count as core.
    tmax_left_out, cbf_left_out
        How many voxels of each map the perfusion software did not compute: 0 or not finite, in Tmax also below 0.
    tmax_threshold, cbf_fraction
        What was asked for.
    """

    hypoperfusion: float
    core: float
    mismatch: float
    mismatch_ratio: float
    side: Literal["left", "right"] | None
    midline: float
    laterality: float
    intensity_ratio: float
    reference_cbf: float
    brain: float
    coverage: float
    unknown: float
    tmax_left_out: int
    cbf_left_out: int
    tmax_threshold: float
    cbf_fraction: float


def perfusion_lesions(
    tmax: xr.DataArray,
    cbf: xr.DataArray,
    *,
    brain: xr.DataArray | ArrayLike | None = None,
    tmax_threshold: float = TMAX_THRESHOLD,
    cbf_fraction: float = CBF_FRACTION,
) -> PerfusionLesions:
    """Measure hypoperfusion, ischaemic core and their mismatch.

    Parameters
    ----------
    tmax
        (z, y, x), in s. Tissue is hypoperfused where it is finite and above `tmax_threshold`.
    cbf
        On the same grid, in mL/100 g/min. Hypoperfused tissue is core where it is below `cbf_fraction` of the median
        CBF of the other hemisphere.
    brain
        Mask on the same grid, such as `analysis.brain_mask`: nothing outside of it counts. Booleans, labels, or
        fractions, which are cut at 0.5 with a `SoftMaskWarning`. By default everything counts.
    tmax_threshold
        In s; 6 is that of DEFUSE 3 [1]_ and EXTEND-IA [2]_.
    cbf_fraction
        0.3 is that of the same trials; CBF is taken relative to the uninvolved hemisphere as in [3]_.

    Returns
    -------
    PerfusionLesions

    Raises
    ------
    GeometryError
        The maps are no volumes on one grid.
    MaskError
        The values of the brain are neither labels nor fractions between 0 and 1.

    Notes
    -----
    Voxels where a map is 0 or not finite, or Tmax below 0, were not computed by the perfusion software. They are
    neither lesion nor reference, and counted. Hemispheres are the sides of the sagittal plane of the scanner halfway
    between the 1st and the 99th percentile of x (RAS, by the affine) of the voxels that have a CBF.

    The released maps cover scalp and neck, whose low flow makes the reference too low, and the core too small: give
    the brain. What this does not do: it follows no head that is turned or tipped in the scanner, tells neither vessels
    nor CSF from tissue beyond what the maps leave out, removes no small or scattered components, and pairs no mirrored
    regions. Volumes of commercial software will differ, and none of it is meant for treating patients.

    Memory holds the CBF and 5 bytes more for each voxel that has one, and a few blocks of the maps.

    References
    ----------
    .. [1] Albers GW, Marks MP, Kemp S, et al. Thrombectomy for stroke at 6 to 16 hours with selection by perfusion
       imaging. N Engl J Med 2018;378:708-718. doi:10.1056/NEJMoa1713973.
    .. [2] Campbell BCV, Mitchell PJ, Kleinig TJ, et al. Endovascular therapy for ischemic stroke with perfusion-imaging
       selection. N Engl J Med 2015;372:1009-1018. doi:10.1056/NEJMoa1414792.
    .. [3] Kamalian S, Kamalian S, Maas MB, et al. CT cerebral blood flow maps optimally correlate with admission
       diffusion-weighted imaging in acute stroke but thresholds vary by postprocessing platform. Stroke
       2011;42:1923-1928. doi:10.1161/STROKEAHA.110.610618.
    """
    masks = [] if brain is None else [inside_mask(tmax, brain)]
    tmax = volume_axes(tmax)
    cbf = on_same_grid(tmax, cbf)
    grid = scan_grid(tmax)
    ml = grid.voxel_volume / MM3_PER_ML
    measure = functools.partial(_flows, grid.affine[0], tmax_threshold)
    parts = block_results(measure, tmax, cbf, *masks, starts=True)
    flow, x, low = (np.concatenate([part[0][index] for part in parts]) for index in range(3))
    slow, severe, tmax_left_out, cbf_left_out, inside = (sum(part[1][index] for part in parts) for index in range(5))
    midline = float(np.mean(np.percentile(x, (1, 99)))) if x.size else np.nan
    right = x > midline
    rights, lows = int(np.count_nonzero(right[low])), int(np.count_nonzero(low))
    side: Literal["left", "right"] | None = None
    reference, core = np.nan, 0
    if lows:
        side = "right" if 2 * rights > lows else "left"
        other = flow[~right if side == "right" else right]
        reference = float(np.median(other.astype(np.float64))) if other.size else np.nan
        core = int(np.count_nonzero(flow[low].astype(np.float64) < cbf_fraction * reference))
    ratio = slow / core if core else (np.inf if slow else np.nan)
    return PerfusionLesions(
        hypoperfusion=slow * ml,
        core=core * ml,
        mismatch=(slow - core) * ml,
        mismatch_ratio=ratio,
        side=side,
        midline=midline,
        laterality=(2 * rights - lows) / lows if lows else np.nan,
        intensity_ratio=severe / slow if slow else np.nan,
        reference_cbf=reference,
        brain=inside * ml if masks else np.nan,
        coverage=x.size / inside if masks and inside else np.nan,
        unknown=(slow - lows) * ml,
        tmax_left_out=tmax_left_out,
        cbf_left_out=cbf_left_out,
        tmax_threshold=tmax_threshold,
        cbf_fraction=cbf_fraction,
    )


def _flows(
    to_x: NDArray[np.float64],
    threshold: float,
    start: tuple[int, ...],
    tmax: NDArray[Any],
    cbf: NDArray[Any],
    brain: NDArray[np.bool_] | None = None,
) -> tuple[tuple[NDArray[Any], ...], tuple[int, ...]]:
    """Return CBF, x in mm and whether Tmax is long of voxels that have a CBF; and counts.

    These are how many voxels are slow, and very slow, how many each map leaves out, and how many the brain has.
    """
    inside = np.ones(tmax.shape, dtype=bool) if brain is None else brain
    finite = np.isfinite(tmax) & inside
    slow = finite & (tmax > threshold)
    known = computed_voxels(cbf, "cbf") & inside
    # x of each voxel, as its affine says: to_x runs over (x, y, z), the axes of a block over (z, y, x)
    k, j, i = (
        (step * (first + np.arange(count))).astype(np.float32)
        for step, first, count in zip(to_x[2::-1], start, known.shape, strict=True)
    )
    x = (i + (j[:, None] + (k + np.float32(to_x[3]))[:, None, None]))[known]
    counts = (slow, slow & (tmax > SEVERE_TMAX), inside & ~computed_voxels(tmax, "tmax"), inside & ~known, inside)
    return (cbf[known], x, slow[known]), tuple(int(np.count_nonzero(each)) for each in counts)


def perfusion_masks(
    tmax: xr.DataArray,
    cbf: xr.DataArray,
    *,
    brain: xr.DataArray | ArrayLike | None = None,
    tmax_threshold: float = TMAX_THRESHOLD,
    cbf_fraction: float = CBF_FRACTION,
) -> xr.Dataset:
    """Return where tissue is hypoperfused, and where it is ischaemic core.

    Parameters
    ----------
    tmax, cbf, brain, tmax_threshold, cbf_fraction
        As for `perfusion_lesions`, which is computed at once: the core depends on the CBF of the other side.

    Returns
    -------
    xarray.Dataset
        Booleans ``hypoperfusion`` and ``core`` (z, y, x), lazy if the maps or the brain are; their volumes are those of
        `perfusion_lesions`.
    """
    within = None if brain is None else inside_mask(tmax, brain)
    lesions = perfusion_lesions(tmax, cbf, brain=within, tmax_threshold=tmax_threshold, cbf_fraction=cbf_fraction)
    tmax = volume_axes(tmax)
    # both maps are on one grid, though the last digits of their coordinates need not agree
    flow = on_same_grid(tmax, cbf).astype(np.float64)
    slow = hypoperfusion_mask(tmax, tmax_threshold=tmax_threshold)
    if within is not None:
        slow = slow & within
    low = (flow < cbf_fraction * lesions.reference_cbf) & computed_voxels(flow, "cbf")
    lost = slow & low.drop_vars(list(flow.coords))
    return xr.Dataset({"hypoperfusion": slow, "core": lost.rename("core").assign_attrs(units="1")})
