"""How well maps agree with others of the same patients, as those of the release: voxels, lesions, volumes."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from isles24_zarr.analysis import (
    SPATIAL,
    block_results,
    computed_voxels,
    inside_mask,
    mask_overlaps,
    mask_volume,
    on_same_grid,
    perfusion_masks,
)
from isles24_zarr.conventions import CBF_FRACTION, TMAX_THRESHOLD
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.geometry import scan_grid
from isles24_zarr.vocabulary import PERFUSION_MAPS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray


def map_agreement(
    maps: xr.Dataset, reference: xr.Dataset, *, mask: xr.DataArray | ArrayLike | None = None
) -> pd.DataFrame:
    """Compare maps of perfusion with others of the same patient, voxel by voxel.

    Parameters
    ----------
    maps, reference
        With some of ``tmax``, ``cbf``, ``cbv`` and ``mtt``, (z, y, x), on one grid.
    mask
        Where to compare, on the same grid, booleans, labels, or fractions, which are cut at 0.5 with a
        `SoftMaskWarning`; by default wherever both were computed.

    Returns
    -------
    pandas.DataFrame
        A row by ``map`` that both have: ``voxels`` that both have a value for, ``pearson`` and ``spearman``, ``median``
        and ``median_reference`` in units of the map, and ``bias``, the mean of the differences. NaN without voxels.

    Raises
    ------
    GeometryError
        They are not on one grid.
    MaskError
        The values of the mask are neither labels nor fractions between 0 and 1.
    UnknownNameError
        There is no map that both have.

    Notes
    -----
    Ranks need all values: memory holds those of two maps.

    Examples
    --------
    >>> from isles24_zarr.perfusion import map_agreement
    >>> table = map_agreement(scan.isles.perfusion_maps(smoothing=(8, 3)), scan)
    >>> table.index.tolist()
    ['tmax', 'mtt', 'cbf', 'cbv']
    """
    import pandas as pd

    names = [name for name in PERFUSION_MAPS if name in maps and name in reference]
    if not names:
        raise UnknownNameError("compare", f"there is no map that both have, of {', '.join(PERFUSION_MAPS)}")
    within = None if mask is None else inside_mask(maps[names[0]], mask)
    rows = {name: _agreement(*_both(maps[name], reference[name], within)) for name in names}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("map")


def _both(first: xr.DataArray, second: xr.DataArray, mask: xr.DataArray | None) -> list[NDArray[np.float64]]:
    """Return the values of two maps where both have some, in the same order."""
    first = first.transpose(*SPATIAL)
    others = [on_same_grid(first, second), *([] if mask is None else [on_same_grid(first, mask)])]
    parts = block_results(functools.partial(_pairs, str(first.name)), first, *others)
    return [np.concatenate([part[index] for part in parts]) for index in range(2)]


def _pairs(
    name: str, first: NDArray[Any], second: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = computed_voxels(first, name) & computed_voxels(second, name)
    if mask is not None:
        known &= mask
    return first[known].astype(np.float64), second[known].astype(np.float64)


def _agreement(values: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    enough = values.size > 1 and np.ptp(values) > 0 and np.ptp(reference) > 0
    return {
        "voxels": values.size,
        "pearson": float(pearsonr(values, reference)[0]) if enough else np.nan,
        "spearman": float(spearmanr(values, reference)[0]) if enough else np.nan,
        "median": float(np.median(values)) if values.size else np.nan,
        "median_reference": float(np.median(reference)) if values.size else np.nan,
        "bias": float(np.mean(values - reference)) if values.size else np.nan,
    }


def perfusion_agreement(
    maps: xr.Dataset,
    reference: xr.Dataset,
    *,
    mask: xr.DataArray | ArrayLike | None = None,
    tmax_threshold: float = TMAX_THRESHOLD,
    cbf_fraction: float = CBF_FRACTION,
) -> dict[str, float]:
    """Compare maps, and the lesions that they show, with others of the same patient, in one row.

    Parameters
    ----------
    maps, reference
        With ``tmax`` and ``cbf``, and ``cbv`` and ``mtt`` where there are, (z, y, x), on one grid.
    mask
        Where to compare, as for `map_agreement`; by default where `maps` has a Tmax, which 0 and NaN are not: the
        reference may cover scalp and neck.
    tmax_threshold, cbf_fraction
        As for `analysis.perfusion_lesions`.

    Returns
    -------
    dict
        ``hypoperfusion`` and ``core`` in mL, each with ``_reference`` and ``_dice``, all within the mask;
        ``tmax_pearson``, ``tmax_spearman`` and so on for each map that both have.

    Raises
    ------
    GeometryError, MaskError, UnknownNameError
        They are not on one grid, the mask is none, or a map is lacking.

    Examples
    --------
    >>> from isles24_zarr.perfusion import perfusion_agreement
    >>> row = perfusion_agreement(scan.isles.perfusion_maps(smoothing=(8, 3)), scan)
    >>> 0 < row["hypoperfusion_dice"] < 1, -1 <= row["cbf_spearman"] <= 1
    (True, True)
    """
    lacking = [name for name in ("tmax", "cbf") if name not in maps or name not in reference]
    if lacking:
        raise UnknownNameError("compare", f"one of both has no {lacking[0]}")
    within = inside_mask(maps["tmax"], computed_voxels(maps["tmax"], "tmax") if mask is None else mask)
    limits = {"tmax_threshold": tmax_threshold, "cbf_fraction": cbf_fraction}
    own, other = (perfusion_masks(each["tmax"], each["cbf"], brain=within, **limits) for each in (maps, reference))
    ml = scan_grid(maps["tmax"]).voxel_volume
    row: dict[str, float] = {}
    for name in ("hypoperfusion", "core"):
        overlap = mask_overlaps(own[name], {name: other[name]}, ml).to_dict("index")[name]
        row |= {
            name: mask_volume(own[name], ml),
            f"{name}_reference": overlap["volume"],
            f"{name}_dice": overlap["dice"],
        }
    found = map_agreement(maps, reference, mask=within).to_dict("index")
    return row | {f"{name}_{what}": values[what] for name, values in found.items() for what in ("pearson", "spearman")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VolumeAgreement:
    """How well two measurements agree over subjects, in units of the measurements.

    Parameters
    ----------
    subjects
        That both have a value for.
    bias
        Mean of the differences, first - second.
    lower, upper
        Bland-Altman limits of agreement: bias -+ 1.96 standard deviations of the differences.
    icc
        Intraclass correlation for absolute agreement of single measurements, two-way random: ICC(2,1) of Shrout &
        Fleiss.
    pearson
        Correlation.
    """

    subjects: int
    bias: float
    lower: float
    upper: float
    icc: float
    pearson: float


def volume_agreement(first: ArrayLike, second: ArrayLike) -> VolumeAgreement:
    """Compare two measurements of the same subjects, such as volumes by two kinds of maps.

    Parameters
    ----------
    first, second
        (subjects,); pairs with a value that is not finite are left out.

    Returns
    -------
    VolumeAgreement
        NaN where there are too few subjects: fewer than two, for the ICC fewer than three.

    Raises
    ------
    UnknownNameError
        They are not as many.

    References
    ----------
    Bland JM, Altman DG. Lancet 1986;327:307-310. Shrout PE, Fleiss JL. Psychol Bull 1979;86:420-428.

    Examples
    --------
    >>> from isles24_zarr.perfusion import volume_agreement
    >>> agreement = volume_agreement([9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2])
    >>> round(agreement.bias, 2), round(agreement.icc, 2)
    (5.17, 0.13)
    """
    one, two = (np.asarray(each, dtype=np.float64) for each in (first, second))
    if one.shape != two.shape or one.ndim != 1:
        raise UnknownNameError(f"{one.shape} and {two.shape}", "are not the values of the same subjects")
    known = np.isfinite(one) & np.isfinite(two)
    pairs = np.stack([one[known], two[known]], axis=1)
    count = len(pairs)
    if count < 2:
        return VolumeAgreement(subjects=count, bias=np.nan, lower=np.nan, upper=np.nan, icc=np.nan, pearson=np.nan)
    differences = pairs[:, 0] - pairs[:, 1]
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1))
    vary = bool((pairs.max(axis=0) > pairs.min(axis=0)).all())
    return VolumeAgreement(
        subjects=count,
        bias=bias,
        lower=bias - 1.96 * deviation,
        upper=bias + 1.96 * deviation,
        icc=_icc(pairs) if count > 2 else np.nan,
        pearson=float(np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1]) if vary else np.nan,
    )


def _icc(pairs: NDArray[np.float64]) -> float:
    """Return ICC(2,1) of measurements (subjects, raters) by the mean squares of a two-way analysis of variance."""
    subjects, raters = pairs.shape
    mean = pairs.mean()
    between = raters * ((pairs.mean(axis=1) - mean) ** 2).sum() / (subjects - 1)
    of_raters = subjects * ((pairs.mean(axis=0) - mean) ** 2).sum() / (raters - 1)
    left = np.asarray(pairs - pairs.mean(axis=1, keepdims=True) - pairs.mean(axis=0) + mean)
    error = (left**2).sum() / (subjects - 1) / (raters - 1)
    total = between + (raters - 1) * error + raters * (of_raters - error) / subjects
    return float((between - error) / total) if total else np.nan
