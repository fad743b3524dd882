"""Masks as labels: the one way by which everything that needs labels gets them.

A mask may be booleans, labels, whole numbers of any type, or fractions between 0 and 1. Fractions become labels by a
threshold, and whoever did not ask for one is told so by a `SoftMaskWarning`. What is none of these is refused: a number
from a mask that nobody can read would be wrong without a word.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from isles24_zarr.analysis.blockwise import (
    SPATIAL,
    block_results,
    is_as_opened,
    name_of,
    on_dask,
    on_same_grid,
)
from isles24_zarr.conventions import SOFT_MASK_THRESHOLD
from isles24_zarr.errors import MaskError, SoftMaskWarning, UnknownNameError
from isles24_zarr.format import MaskKind, MaskValues, mask_values, merged, record_of, stored_layout, values_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """How the values of one mask become labels.

    Parameters
    ----------
    dtype
        Of the labels.
    threshold
        From which fraction on a voxel belongs to a soft mask, label 1; None where the values are labels.
    """

    dtype: np.dtype[Any]
    threshold: float | None = None

    @property
    def note(self) -> dict[str, float]:
        """What a result says of the threshold in its attributes; nothing where there was none."""
        return {} if self.threshold is None else {"threshold": self.threshold}

    def inside(self, values: NDArray[Any], label: int | None = None) -> NDArray[np.bool_]:
        """Return which voxels belong to the mask, or to one label of it, same shape."""
        labels = self.labels(values)
        return np.asarray(labels != 0 if label is None else labels == label)

    def labels(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the labels of some voxels of the mask, same shape."""
        if self.threshold is not None:
            return (values >= self.threshold).astype(self.dtype)
        if values.dtype.kind == "f":
            values = np.rint(values)
        return values.astype(self.dtype, copy=False)


def label_rule(mask: xr.DataArray, threshold: float | None = None, *, stacklevel: int = 3) -> LabelRule:
    """Find out how the values of a mask become labels. Unless their type tells, they are read once, block by block.

    Parameters
    ----------
    mask
        Any axes; booleans, whole numbers or floating-point numbers.
    threshold
        For a soft mask; 0.5 where none is given, with a warning.
    stacklevel
        Of the warning, as of `warnings.warn`: by default, that of the caller of the function that needs labels.

    Raises
    ------
    MaskError
        Its values are no labels.
    UnknownNameError
        The threshold is not above 0 and up to 1.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UnknownNameError(f"threshold={threshold}", "is none for fractions, give one above 0 and up to 1")
    name, kind = name_of(mask), mask.dtype.kind
    if kind in "bu":
        return LabelRule(dtype=np.dtype(np.uint8) if kind == "b" else mask.dtype.newbyteorder("="))
    if kind not in "if":
        raise MaskError(name, f"has values of type {mask.dtype}")
    found = values_in(mask)
    # all values of a part of a soft mask, such as a slice, may be near 0 or 1: of the whole it is known what they are
    soft = found.kind == "soft" or (found.kind == "other" and recorded_kind(mask) == "soft")
    if found.kind == "other" and not soft:
        raise MaskError(name, found.why)
    if not soft:
        return LabelRule(dtype=found.dtype)
    if threshold is None:
        counted = f"voxels of {SOFT_MASK_THRESHOLD:g} and more were counted"
        advice = "to choose, give threshold=, or what is inside, as mask >= 0.3"
        message = f"{name} holds fractions between 0 and 1; {counted}; {advice}"
        warnings.warn(message, SoftMaskWarning, stacklevel=stacklevel)
    return LabelRule(dtype=np.dtype(np.uint8), threshold=SOFT_MASK_THRESHOLD if threshold is None else threshold)


def values_in(mask: xr.DataArray) -> MaskValues:
    """Read a mask of whole or floating-point numbers, block by block, and return what its values mean."""
    return mask_values(merged(block_results(_values, mask)))


def recorded_kind(mask: xr.DataArray) -> MaskKind | None:
    """Return what was recorded of a mask of a release, all of it or some; None where its values may be others."""
    record = (record_of(mask) or {}) if is_as_opened(mask) else {}
    return cast("MaskKind | None", record.get("mask", {}).get("kind"))


def _values(block: NDArray[Any]) -> Any:
    # as numbers, -0.0 is 0.0
    return values_of(block + 0.0 if block.dtype.kind == "f" else block)


def labelled(mask: xr.DataArray, threshold: float | None = None) -> xr.DataArray:
    """Return a mask as labels.

    Parameters
    ----------
    mask, threshold
        As for `label_rule`, whose errors it raises.

    Returns
    -------
    xarray.DataArray
        Same axes, coordinates and name; an unsigned integer type, lazy if the mask is on Dask. Of a soft mask, its
        attribute ``threshold`` says from which fraction on voxels were counted.
    """
    rule = label_rule(mask, threshold)
    if mask.dtype == rule.dtype:
        return mask
    labels: xr.DataArray = xr.apply_ufunc(
        rule.labels, mask, dask="parallelized", output_dtypes=[rule.dtype], keep_attrs=True
    )
    return labels.assign_attrs(rule.note)


def inside_mask(image: xr.DataArray, mask: xr.DataArray | ArrayLike) -> xr.DataArray:
    """Return where a mask, such as that of the brain, is, on the grid of an image.

    Parameters
    ----------
    image
        ((time,) z, y, x), or a slice of that, in any order.
    mask
        With the spatial axes of the image: booleans, labels, or fractions, which are cut at 0.5 with a
        `SoftMaskWarning`. A plain array has them in the image's order. Unless its type tells what its values mean, it
        is read once, block by block.

    Returns
    -------
    xarray.DataArray
        (z, y, x), as far as the image has them, booleans, with the coordinates of the image: both are on one grid,
        though the last digits of their coordinates need not agree. Lazy if the mask is on Dask or comes from a store.

    Raises
    ------
    GeometryError
        They do not sample the same points.
    MaskError
        The values of the mask are neither labels nor fractions between 0 and 1.

    Examples
    --------
    >>> from isles24_zarr.analysis import inside_mask
    >>> brain = inside_mask(scan["tmax"], scan.isles.brain_mask().astype("int16"))
    >>> brain.dims, brain.dtype
    (('z', 'y', 'x'), dtype('bool'))
    """
    region = on_same_grid(image, mask)
    if region.name is None:
        region = region.rename("the mask")
    if region.dtype != bool:
        rule = label_rule(region, stacklevel=4)
        # what xarray reads late without Dask, it would read at once
        late = on_dask(region) if stored_layout(region.variable) else region
        region = xr.apply_ufunc(rule.inside, late, dask="parallelized", output_dtypes=[bool])
    axes = {name: image.coords[name] for name in SPATIAL if name in image.coords}
    return region.drop_vars(list(region.coords)).assign_coords(axes)


def marked_box(mask: xr.DataArray, rule: LabelRule, label: int | None = None) -> dict[str, slice]:
    """Return where a mask has voxels, by dimension; empty slices where it has none.

    Parameters
    ----------
    mask
        Any axes. Lazy masks are reduced block by block.
    rule
        Of the mask.
    label
        Look for this label alone.
    """
    dims = list(mask.dims)
    found = [np.zeros(mask.sizes[dim], dtype=bool) for dim in dims]
    for start, profiles in block_results(functools.partial(_profiles, rule, label), mask, starts=True):
        for axis, profile in enumerate(profiles):
            found[axis][start[axis] : start[axis] + profile.size] |= profile
    ends = [np.flatnonzero(profile)[[0, -1]] if profile.any() else (0, -1) for profile in found]
    return {str(dim): slice(int(first), int(last) + 1) for dim, (first, last) in zip(dims, ends, strict=True)}


def slice_areas(mask: xr.DataArray, rule: LabelRule) -> NDArray[np.int64]:
    """Return the number of voxels of a mask in each slice, (z,), read block by block.

    Parameters
    ----------
    mask
        With the axes z, y and x.
    rule
        Of the mask.
    """
    areas = np.zeros(mask.sizes["z"], dtype=np.int64)
    volume = mask.transpose("z", "y", "x")
    for start, counts in block_results(functools.partial(_areas, rule), volume, starts=True):
        areas[start[0] : start[0] + counts.size] += counts
    return areas


def _areas(rule: LabelRule, start: tuple[int, ...], mask: NDArray[Any]) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    return start, np.count_nonzero(rule.inside(mask), axis=(1, 2))


def _profiles(
    rule: LabelRule, label: int | None, start: tuple[int, ...], mask: NDArray[Any]
) -> tuple[tuple[int, ...], list[NDArray[np.bool_]]]:
    marked = rule.inside(mask, label)
    axes = range(marked.ndim)
    return start, [np.asarray(marked.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
