"""Numbers from images: plain functions on arrays, lazy where the arrays are.

Axis order is (..., z, y, x) throughout; volumes are in millilitres, lengths in millimetres. Images are read once,
block by block, whatever their size. What is kept of them is said where it is more than a few numbers.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.analysis.blockwise import (
    block_results,
    computed_voxels,
    map_name,
    name_of,
    on_same_grid,
    spatial_axes,
)
from isles24_zarr.analysis.masks import LabelRule, label_rule
from isles24_zarr.analysis.metrics import dice_coefficient
from isles24_zarr.conventions import MM3_PER_ML
from isles24_zarr.errors import UncomputedWarning, UnknownNameError
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    Mask = xr.DataArray | ArrayLike


def mask_volume(
    mask: xr.DataArray, voxel_volume: float, *, label: int | None = None, threshold: float | None = None
) -> float:
    """Return the volume of a mask.

    Parameters
    ----------
    mask
        (z, y, x), labels, 0 outside; or fractions.
    voxel_volume
        In mm^3.
    label
        Count this label alone.
    threshold
        From which fraction on voxels of a soft mask count; 0.5 where none is given, with a `SoftMaskWarning`.

    Returns
    -------
    float
        In mL.

    Raises
    ------
    GeometryError
        It has an axis besides z, y and x.
    MaskError
        Its values are neither labels nor fractions between 0 and 1.
    """
    mask = spatial_axes(mask)
    rule = label_rule(mask, threshold)
    voxels: int = sum(block_results(functools.partial(_count, rule, label), mask))
    return voxels * voxel_volume / MM3_PER_ML


def _count(rule: LabelRule, label: int | None, mask: NDArray[Any]) -> int:
    return int(np.count_nonzero(rule.inside(mask, label)))


def label_volumes(mask: xr.DataArray, voxel_volume: float, *, threshold: float | None = None) -> pd.DataFrame:
    """Return the volume of every label of a mask, such as the segments of the Circle of Willis.

    Parameters
    ----------
    mask
        (z, y, x), labels, 0 outside. Its name tells what the labels mean, see `vocabulary.IMAGES`.
    voxel_volume
        In mm^3.
    threshold
        As for `mask_volume`.

    Returns
    -------
    pandas.DataFrame
        A row by ``label``: first those that the mask may have, then what else it has. Columns ``name`` (empty where
        there is none), ``present``, ``voxels`` and ``volume`` in mL. Of a soft mask, ``attrs["threshold"]`` says from
        which fraction on voxels were counted.

    Raises
    ------
    GeometryError
        It has an axis besides z, y and x.
    MaskError
        Its values are neither labels nor fractions between 0 and 1.
    """
    import pandas as pd

    mask = spatial_axes(mask)
    kind = IMAGES.get(str(mask.name))
    names = {label: name for label, name in (kind.labels if kind else ()) if label}
    counts: dict[int, int] = dict.fromkeys(names, 0)
    found: dict[int, int] = {}
    rule = label_rule(mask, threshold)
    for labels, voxels in block_results(functools.partial(_label_counts, rule), mask):
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
    table = table.astype({"present": bool, "voxels": np.int64, "volume": np.float64})
    table.attrs.update(rule.note)
    return table


def _label_counts(rule: LabelRule, mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    labels = rule.labels(mask)
    found, counts = np.unique(labels[labels != 0], return_counts=True)
    return found, counts.astype(np.int64)


def mask_statistics(
    image: xr.DataArray,
    mask: Mask,
    voxel_volume: float,
    *,
    by_label: bool = False,
    percentiles: Sequence[float] = (5, 25, 50, 75, 95),
    threshold: float | None = None,
    computed: bool | None = None,
) -> pd.DataFrame:
    """Describe the values of an image inside of a mask.

    Parameters
    ----------
    image
        (z, y, x), any values. Those that are not finite are left out, and counted; so is, of perfusion maps, what was
        not computed: 0, and in Tmax all that is not above 0 (see `analysis.computed_voxels`).
    mask
        Of the same grid, booleans, labels or fractions; 0 is outside.
    voxel_volume
        In mm^3.
    by_label
        Describe the voxels of each label apart.
    percentiles
        From 0 to 100.
    threshold
        Of a soft mask, as for `mask_volume`; ``attrs["threshold"]`` of the result repeats it.
    computed
        Whether what was not computed is left out: by default of maps as they were opened, or on another grid. What was
        computed from a map has its name, and may mean something by 0 and less: that is left out with True alone, as
        after ``where``, and counted without a word with False.

    Returns
    -------
    pandas.DataFrame
        One row, or a row by ``label``. Columns ``voxels`` (those with a value), ``left_out``, ``volume`` in mL of both
        together, then ``mean``, ``std`` (of the population), ``min``, a column ``p5`` ... for each percentile
        (linear between values), and ``max``, in units of the image. They are NaN where nothing is left.

    Raises
    ------
    GeometryError
        The mask is not on the grid of the image, or that is a series; see `analysis.time_curve`.
    MaskError
        The values of the mask are neither labels nor fractions between 0 and 1.
    UnknownNameError
        A percentile is not between 0 and 100.

    Warns
    -----
    UncomputedWarning
        The image has the name of a map, but may be none any more, and values were counted that a map would not have.

    Notes
    -----
    All numbers are computed in double precision. Exact percentiles need all values: memory holds those inside of the
    mask, in double precision, and a few blocks of the image.
    """
    import pandas as pd

    wrong = [value for value in percentiles if not 0 <= value <= 100]
    if wrong:
        raise UnknownNameError(wrong[0], "is not between 0 and 100, which percentiles are")
    turned = spatial_axes(image)
    region = on_same_grid(image, mask)  # before axes are moved: those of a plain mask are in the order given
    rule = label_rule(region, threshold)
    parts = block_results(functools.partial(_values_inside, rule), turned, region)
    values = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    holding = _holding(image, values, computed=computed)
    describe = functools.partial(_description, voxel_volume=voxel_volume, percentiles=percentiles)
    if by_label:
        rows: dict[Any, Any] = {
            label: describe(values[labels == label], holding[labels == label]) for label in np.unique(labels).tolist()
        }
    else:
        rows = {str(image.name): describe(values, holding)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(describe(values[:0], holding[:0])))
    table.attrs.update(rule.note)
    return table.rename_axis("label" if by_label else "image")


def _values_inside(rule: LabelRule, image: NDArray[Any], mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    labels = rule.labels(mask)
    return image[labels != 0], labels[labels != 0]


def _holding(image: xr.DataArray, values: NDArray[Any], *, computed: bool | None) -> NDArray[np.bool_]:
    """Return which values of an image count, and warn where that could be meant otherwise."""
    as_map: NDArray[np.bool_] = computed_voxels(values, str(image.name))
    if computed or (computed is None and map_name(image)):
        return as_map
    finite: NDArray[np.bool_] = np.isfinite(values)
    doubtful = int(np.count_nonzero(finite & ~as_map))
    if computed is None and doubtful:
        below = " and below" if image.name == "tmax" else ""
        message = (
            f"{name_of(image)} is not the map as it was opened, {doubtful} voxels of 0{below} were counted: give "
            "computed=True to leave them out, computed=False to count them"
        )
        # 4: the caller of the function that describes
        warnings.warn(message, UncomputedWarning, stacklevel=4)
    return finite


def _description(
    values: NDArray[Any], holding: NDArray[np.bool_], *, voxel_volume: float, percentiles: Sequence[float]
) -> dict[str, float]:
    finite = values[holding].astype(np.float64)
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
        "min": float(np.min(finite)),
        **dict(zip(middle, quantiles, strict=True)),
        "max": float(np.max(finite)),
    }


def mask_overlaps(
    mask: Mask, others: Mapping[Any, xr.DataArray], voxel_volume: float, *, threshold: float | None = None
) -> pd.DataFrame:
    """Measure how a mask, such as the final infarct, overlaps with others.

    Parameters
    ----------
    mask
        (z, y, x), booleans, labels or fractions; 0 is outside.
    others
        Masks on the same grid by name.
    voxel_volume
        In mm^3.
    threshold
        Of soft masks, as for `mask_volume`.

    Returns
    -------
    pandas.DataFrame
        A row by ``mask``. Columns ``volume`` of the other mask and ``overlap`` with it, in mL, ``inside``: which
        fraction of the mask lies in the other, ``covered``: which fraction of the other the mask takes, and ``dice``.
        NaN stands for fractions of nothing. Of soft masks, ``attrs["threshold"]`` says where they were cut.

    Raises
    ------
    GeometryError
        Masks are not on one grid.
    MaskError
        The values of one are neither labels nor fractions between 0 and 1.
    """
    import pandas as pd

    rows = {}
    note: dict[str, float] = {}
    for name, given in others.items():
        other, region = spatial_axes(given), on_same_grid(given, mask)
        rules = label_rule(other, threshold), label_rule(region, threshold)
        note |= rules[0].note | rules[1].note
        counts = np.array(block_results(functools.partial(_joint_counts, *rules), other, region)).sum(axis=0)
        both, second, first = (int(count) for count in counts)
        rows[name] = {
            "volume": second * voxel_volume / MM3_PER_ML,
            "overlap": both * voxel_volume / MM3_PER_ML,
            "inside": both / first if first else np.nan,
            "covered": both / second if second else np.nan,
            "dice": dice_coefficient(both, first, second),
        }
    columns = ["volume", "overlap", "inside", "covered", "dice"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=np.float64).rename_axis("mask")
    table.attrs.update(note)
    return table


def _joint_counts(
    other_rule: LabelRule, rule: LabelRule, other: NDArray[Any], mask: NDArray[Any]
) -> tuple[int, int, int]:
    first, second = rule.inside(mask), other_rule.inside(other)
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
    with xr.set_options(keep_attrs=True):
        scaled = (image.astype(np.float32) - np.float32(centre - width / 2)) / np.float32(width)
        return scaled.clip(0, 1).assign_attrs(units="1")
