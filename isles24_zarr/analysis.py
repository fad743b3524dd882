"""Numbers from images: plain functions on arrays, lazy where the arrays are.

Axis order is (..., z, y, x) throughout; volumes are in millilitres, lengths in millimetres. Images are read once,
block by block, whatever their size. What is kept of them is said where it is more than a few numbers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.blocks import block_results, canonical_axes, marked_voxels, name_of, on_same_grid
from isles24_zarr.errors import GeometryError, MaskError, UnknownNameError
from isles24_zarr.metrics import MM3_PER_ML, dice_coefficient
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    Mask = xr.DataArray | ArrayLike


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
    marked = marked_voxels(mask) if label is None else mask == label
    return float(marked.sum(dtype=np.int64).compute()) * voxel_volume / MM3_PER_ML


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
    labels, counts = np.unique(mask[marked_voxels(mask)], return_counts=True)
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
    inside = marked_voxels(mask)
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
        "min": float(np.min(finite)),
        **dict(zip(middle, quantiles, strict=True)),
        "max": float(np.max(finite)),
    }


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
    first, second = marked_voxels(mask), marked_voxels(other)
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
