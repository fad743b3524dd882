"""Numbers from images: plain functions on arrays, lazy where the arrays are.

Axis order is (..., z, y, x) throughout; volumes are in millilitres, lengths in millimetres. Images are read once,
block by block, whatever their size. What is kept of them is said where it is more than a few numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr

from isles24_zarr.blocks import block_results, canonical_axes, name_of, on_same_grid, volume_axes
from isles24_zarr.dataset import scan_grid
from isles24_zarr.errors import GeometryError, MaskError, UnknownNameError
from isles24_zarr.metrics import MM3_PER_ML, dice_coefficient
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    Mask = xr.DataArray | ArrayLike

TMAX_THRESHOLD: Final = 6.0
"""Tissue whose Tmax is longer, in s, is critically hypoperfused."""

CBF_FRACTION: Final = 0.3
"""Tissue whose CBF is lower, as a fraction of that of the other side, is taken for lost."""


def mask_volume(mask: xr.DataArray, voxel_volume: float, *, label: int | None = None) -> float:
    """Return the volume of a mask.

    Parameters
    ----------
    mask
        (z, y, x), labels; voxels that are 0 or not finite do not count.
    voxel_volume
        In mm^3.
    label
        Count this label alone.

    Returns
    -------
    float
        In mL.
    """
    marked = _marked(mask) if label is None else mask == label
    return float(marked.sum(dtype=np.int64).compute()) * voxel_volume / MM3_PER_ML


def _marked(mask: Any) -> Any:
    return (mask != 0) & np.isfinite(mask)


def label_volumes(mask: xr.DataArray, voxel_volume: float) -> pd.DataFrame:
    """Return the volume of every label of a mask, such as the segments of the Circle of Willis.

    Parameters
    ----------
    mask
        Any axes, labels; voxels that are 0 or not finite do not count. Its name tells what the labels mean, see
        `vocabulary.IMAGES`.
    voxel_volume
        In mm^3.

    Returns
    -------
    pandas.DataFrame
        A row by ``label``: first those that the mask may have, then what else it has. Columns ``name`` (empty where
        there is none), ``present``, ``voxels`` and ``volume`` in mL.

    Raises
    ------
    MaskError
        Not all values are whole numbers.
    """
    import pandas as pd

    kind = IMAGES.get(str(mask.name))
    names = {label: name for label, name in (kind.labels if kind else ()) if label}
    counts: dict[int, int] = dict.fromkeys(names, 0)
    found: dict[int, int] = {}
    for labels, voxels in block_results(functools.partial(_label_counts, name_of(mask)), mask):
        for label, count in zip(labels.tolist(), voxels.tolist(), strict=True):
            found[label] = found.get(label, 0) + count
    counts |= dict(sorted(found.items()))
    table = pd.DataFrame(
        {
            "name": [names.get(label, "") for label in counts],
            "present": [count > 0 for count in counts.values()],
            "voxels": list(counts.values()),
            "volume": [count * voxel_volume / MM3_PER_ML for count in counts.values()],
        },
        index=pd.Index(list(counts), dtype=np.int64, name="label"),
    )
    return table.astype({"present": bool, "voxels": np.int64, "volume": np.float64})


def _label_counts(name: str, mask: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels, counts = np.unique(mask[_marked(mask)], return_counts=True)
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise MaskError(name, "has values that are no labels")
    return whole, counts.astype(np.int64)


def mask_statistics(
    image: xr.DataArray,
    mask: Mask,
    voxel_volume: float,
    *,
    by_label: bool = False,
    percentiles: Sequence[float] = (5, 25, 50, 75, 95),
) -> pd.DataFrame:
    """Describe the values of an image inside of a mask.

    Parameters
    ----------
    image
        (z, y, x), any values. Those that are not finite are left out, and counted.
    mask
        Of the same grid, booleans or labels; voxels that are 0 or not finite are outside.
    voxel_volume
        In mm^3.
    by_label
        Describe the voxels of each label apart.
    percentiles
        From 0 to 100.

    Returns
    -------
    pandas.DataFrame
        One row, or a row by ``label``. Columns ``voxels`` (finite ones), ``left_out``, ``volume`` in mL of both
        together, then ``mean``, ``std`` (of the population), ``min``, a column ``p5`` ... for each percentile
        (linear between values), and ``max``, in units of the image. They are NaN where nothing is left.

    Raises
    ------
    GeometryError
        The mask is not on the grid of the image, or that is a series; see `curves.time_curve`.
    UnknownNameError
        A percentile is not between 0 and 100.

    Notes
    -----
    All numbers are computed in double precision. Exact percentiles need all values: memory holds those inside of the
    mask, in double precision, and a few blocks of the image.
    """
    import pandas as pd

    if "time" in image.dims:
        raise GeometryError(name_of(image), "is a series; select a frame, as time=0, or take a time curve")
    wrong = [value for value in percentiles if not 0 <= value <= 100]
    if wrong:
        raise UnknownNameError(wrong[0], "is not between 0 and 100, which percentiles are")
    image = canonical_axes(image)
    parts = block_results(_values_inside, image, on_same_grid(image, mask))
    values = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    if not by_label:
        rows = {str(image.name): _description(values, voxel_volume, percentiles)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("image")
    present = np.unique(labels)
    described = {label: _description(values[labels == label], voxel_volume, percentiles) for label in present.tolist()}
    columns = list(_description(values[:0], voxel_volume, percentiles))
    return pd.DataFrame.from_dict(described, orient="index", columns=columns).rename_axis("label")


def _values_inside(image: NDArray[Any], mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    inside = _marked(mask)
    return image[inside], mask[inside]


def _description(values: NDArray[Any], voxel_volume: float, percentiles: Sequence[float]) -> dict[str, float]:
    finite = values[np.isfinite(values)].astype(np.float64)
    counts = {
        "voxels": int(finite.size),
        "left_out": int(values.size - finite.size),
        "volume": values.size * voxel_volume / MM3_PER_ML,
    }
    middle = [f"p{value:g}" for value in percentiles]
    if not finite.size:
        return counts | dict.fromkeys(("mean", "std", "min", *middle, "max"), np.nan)
    quantiles = np.percentile(finite, list(percentiles)).tolist() if middle else []
    return {
        **counts,
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "min": float(finite.min()),
        **dict(zip(middle, quantiles, strict=True)),
        "max": float(finite.max()),
    }


def hypoperfusion_mask(tmax: xr.DataArray, *, tmax_threshold: float = TMAX_THRESHOLD) -> xr.DataArray:
    """Return where Tmax is longer than a threshold in s: booleans, lazy if the map is. Inf and NaN are not."""
    return ((tmax > tmax_threshold) & np.isfinite(tmax)).rename("hypoperfusion").assign_attrs(units="1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PerfusionLesions:
    """What CT perfusion says about hypoperfused and lost tissue. Volumes are in mL.

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
    reference_cbf
        Median CBF of the other hemisphere, in mL/100 g/min; NaN without hypoperfusion.
    unknown
        Volume of hypoperfused tissue for which there is no CBF, so that it does not count as core.
    tmax_left_out, cbf_left_out
        How many voxels of each map are 0 or not finite: those that the perfusion software did not compute.
    tmax_threshold, cbf_fraction
        What was asked for.
    """

    hypoperfusion: float
    core: float
    mismatch: float
    mismatch_ratio: float
    side: Literal["left", "right"] | None
    midline: float
    reference_cbf: float
    unknown: float
    tmax_left_out: int
    cbf_left_out: int
    tmax_threshold: float
    cbf_fraction: float


def perfusion_lesions(
    tmax: xr.DataArray,
    cbf: xr.DataArray,
    *,
    tmax_threshold: float = TMAX_THRESHOLD,
    cbf_fraction: float = CBF_FRACTION,
) -> PerfusionLesions:
    """Measure hypoperfusion, ischemic core and their mismatch.

    Parameters
    ----------
    tmax
        (z, y, x), in s. Tissue is hypoperfused where it is finite and above `tmax_threshold`.
    cbf
        On the same grid, in mL/100 g/min. Hypoperfused tissue is core where it is below `cbf_fraction` of the median
        CBF of the other hemisphere.
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

    Notes
    -----
    Voxels where a map is 0 or not finite were not computed by the perfusion software. They are neither lesion nor
    reference, and counted. Hemispheres are the sides of the sagittal plane of the scanner halfway between the 1st and
    the 99th percentile of x (RAS, by the affine) of the voxels that have a CBF.

    What this does not do: it follows no head that is turned or tipped in the scanner, tells neither vessels nor CSF
    from tissue beyond what the maps leave out, removes no small or scattered components, and pairs no mirrored
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
    tmax = volume_axes(tmax)
    cbf = on_same_grid(tmax, cbf)
    grid = scan_grid(tmax)
    ml = grid.voxel_volume / MM3_PER_ML
    parts = block_results(functools.partial(_flows, grid.affine[0], tmax_threshold), tmax, cbf, starts=True)
    flow, x, low = (np.concatenate([part[0][index] for part in parts]) for index in range(3))
    slow, tmax_left_out, cbf_left_out = (sum(part[1][index] for part in parts) for index in range(3))
    midline = float(np.mean(np.percentile(x, (1, 99)))) if x.size else np.nan
    right = x > midline
    side: Literal["left", "right"] | None = None
    reference, core = np.nan, 0
    if low.any():
        side = "right" if np.count_nonzero(right[low]) > np.count_nonzero(~right[low]) else "left"
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
        reference_cbf=reference,
        unknown=(slow - int(np.count_nonzero(low))) * ml,
        tmax_left_out=tmax_left_out,
        cbf_left_out=cbf_left_out,
        tmax_threshold=tmax_threshold,
        cbf_fraction=cbf_fraction,
    )


def _flows(
    to_x: NDArray[np.float64], threshold: float, start: tuple[int, ...], tmax: NDArray[Any], cbf: NDArray[Any]
) -> tuple[tuple[NDArray[Any], ...], tuple[int, int, int]]:
    """Return CBF, x in mm and whether Tmax is long of voxels that have a CBF; how many are slow, and were left out."""
    slow = (tmax > threshold) & np.isfinite(tmax)
    known = _marked(cbf)
    # x of each voxel, as its affine says: to_x runs over (x, y, z), the axes of a block over (z, y, x)
    k, j, i = (
        (step * (first + np.arange(count))).astype(np.float32)
        for step, first, count in zip(to_x[2::-1], start, known.shape, strict=True)
    )
    x = (i + (j[:, None] + (k + np.float32(to_x[3]))[:, None, None]))[known]
    counts = (slow, ~_marked(tmax), ~known)
    first, second, third = (int(np.count_nonzero(each)) for each in counts)
    return (cbf[known], x, slow[known]), (first, second, third)


def perfusion_masks(
    tmax: xr.DataArray,
    cbf: xr.DataArray,
    *,
    tmax_threshold: float = TMAX_THRESHOLD,
    cbf_fraction: float = CBF_FRACTION,
) -> xr.Dataset:
    """Return where tissue is hypoperfused, and where it has lost its flow.

    Parameters
    ----------
    tmax, cbf, tmax_threshold, cbf_fraction
        As for `perfusion_lesions`, which is computed at once: the core depends on the CBF of the other side.

    Returns
    -------
    xarray.Dataset
        Booleans ``hypoperfusion`` and ``core`` (z, y, x), lazy if the maps are; their volumes are those of
        `perfusion_lesions`.
    """
    lesions = perfusion_lesions(tmax, cbf, tmax_threshold=tmax_threshold, cbf_fraction=cbf_fraction)
    tmax = volume_axes(tmax)
    # both maps are on one grid, though the last digits of their coordinates need not agree
    flow = on_same_grid(tmax, cbf).astype(np.float64)
    slow = hypoperfusion_mask(tmax, tmax_threshold=tmax_threshold)
    lost = slow & ((flow < cbf_fraction * lesions.reference_cbf) & _marked(flow)).drop_vars(list(flow.coords))
    return xr.Dataset({"hypoperfusion": slow, "core": lost.rename("core").assign_attrs(units="1")})


def mask_overlaps(mask: Mask, others: Mapping[Any, xr.DataArray], voxel_volume: float) -> pd.DataFrame:
    """Measure how a mask, such as the final infarct, overlaps with others.

    Parameters
    ----------
    mask
        (z, y, x), not 0 and finite inside.
    others
        Masks on the same grid by name.
    voxel_volume
        In mm^3.

    Returns
    -------
    pandas.DataFrame
        A row by ``mask``. Columns ``volume`` of the other mask and ``overlap`` with it, in mL, ``inside``: which
        fraction of the mask lies in the other, ``covered``: which fraction of the other the mask takes, and ``dice``.
        NaN stands for fractions of nothing.

    Raises
    ------
    GeometryError
        Masks are not on one grid.
    """
    import pandas as pd

    rows = {}
    for name, given in others.items():
        other = canonical_axes(given)
        counts = np.array(block_results(_joint_counts, other, on_same_grid(other, mask))).sum(axis=0)
        both, second, first = (int(count) for count in counts)
        rows[name] = {
            "volume": second * voxel_volume / MM3_PER_ML,
            "overlap": both * voxel_volume / MM3_PER_ML,
            "inside": both / first if first else np.nan,
            "covered": both / second if second else np.nan,
            "dice": dice_coefficient(both, first, second),
        }
    columns = ["volume", "overlap", "inside", "covered", "dice"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=np.float64).rename_axis("mask")


def _joint_counts(other: NDArray[Any], mask: NDArray[Any]) -> tuple[int, int, int]:
    first, second = _marked(mask), _marked(other)
    return int(np.count_nonzero(first & second)), int(np.count_nonzero(second)), int(np.count_nonzero(first))


def windowed(image: xr.DataArray, centre: float, width: float) -> xr.DataArray:
    """Map a CT window to 0 .. 1, as on a display.

    Parameters
    ----------
    image
        In HU, any shape.
    centre, width
        Of the window, in HU: values up to ``centre - width / 2`` become 0, from ``centre + width / 2`` on 1.

    Returns
    -------
    xarray.DataArray
        float32, same shape.

    Notes
    -----
    The linear window of DICOM PS3.3 C.11.2.1.3.2.
    """
    scaled = (image.astype(np.float32) - np.float32(centre - width / 2)) / np.float32(width)
    return scaled.clip(0, 1)
