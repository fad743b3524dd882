"""How well one mask agrees with another: the metrics by which ISLES'24 ranks segmentations.

The definitions are those of the challenge's own evaluation, utils/eval_utils.py of
https://github.com/ezequieldlrosa/isles24, which takes lesions and their matches from panoptica [1]_. Lesions are
components that are connected across faces, edges and corners (26 neighbours). A lesion of the prediction is a true
positive if it and a lesion of the reference have an intersection over union of at least 0.5.

References
----------
.. [1] Kofler F, Moeller H, Buchner JA, et al. Panoptica: instance-wise evaluation of 3D semantic and instance
   segmentation maps. arXiv:2312.02608.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.blocks import SPATIAL, block_results, bounding_box, name_of, on_same_grid, volume_axes
from isles24_zarr.dataset import scan_grid
from isles24_zarr.errors import GeometryError, MaskError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

MM3_PER_ML = 1000.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeMetrics:
    """The metrics of ISLES'24 for one subject.

    Parameters
    ----------
    dice
        Dice coefficient of all voxels, 0 to 1; 1 where both masks are empty.
    absolute_volume_difference
        In mL.
    absolute_lesion_count_difference
        Between the numbers of lesions.
    lesion_f1
        F1 score of detected lesions, 0 to 1; 1 where both masks are empty.
    """

    dice: float
    absolute_volume_difference: float
    absolute_lesion_count_difference: int
    lesion_f1: float


def challenge_metrics(
    prediction: xr.DataArray | ArrayLike, reference: xr.DataArray | ArrayLike, voxel_volume: float | None = None
) -> ChallengeMetrics:
    """Compare a predicted infarct with the true one, as the ISLES'24 challenge does.

    Parameters
    ----------
    prediction, reference
        (z, y, x), of 0 and 1 or False and True, on one grid. Their part that is not 0 is loaded.
    voxel_volume
        In mm^3; by default that of the grid, which at least one mask has if it is a DataArray.

    Returns
    -------
    ChallengeMetrics

    Raises
    ------
    MaskError
        A mask has other values than 0 and 1.
    GeometryError
        The masks are not on one grid, or nothing tells how large a voxel is.
    MissingExtraError
        scipy is not installed.

    Notes
    -----
    The challenge restricts its masks to a brain mask before, which is not part of the release: multiply by yours.
    """
    masks = _masks_on_one_grid(reference, prediction)
    if voxel_volume is None:
        voxel_volume = _voxel_volume(masks)
    true_voxels, found_voxels = _cropped(masks)
    both = int(np.count_nonzero(true_voxels & found_voxels))
    true_count, found_count = int(true_voxels.sum()), int(found_voxels.sum())
    matches, true_lesions, found_lesions = _matched_lesions(true_voxels, found_voxels)
    return ChallengeMetrics(
        dice=dice_coefficient(both, true_count, found_count, empty=1.0),
        absolute_volume_difference=abs(true_count - found_count) * voxel_volume / MM3_PER_ML,
        absolute_lesion_count_difference=abs(true_lesions - found_lesions),
        # F1 of detections is the Dice coefficient of two sets of lesions
        lesion_f1=dice_coefficient(matches, true_lesions, found_lesions, empty=1.0),
    )


def dice_coefficient(both: int, first: int, second: int, *, empty: float = np.nan) -> float:
    """Return the Dice coefficient of two sets, 2 |A and B| / (|A| + |B|).

    Parameters
    ----------
    both, first, second
        How many elements the intersection and each of the sets have.
    empty
        What to return where both sets are empty.

    Notes
    -----
    Dice LR. Measures of the amount of ecologic association between species. Ecology 1945;26:297-302.
    """
    return 2 * both / (first + second) if first + second else empty


def lesion_components(mask: ArrayLike) -> tuple[NDArray[np.int32], int]:
    """Give a number to each lesion of a mask: components connected across faces, edges and corners.

    Parameters
    ----------
    mask
        (z, y, x); what is not 0 is lesion. scipy works on all of it at once: 4 bytes a voxel.

    Returns
    -------
    labels : numpy.ndarray
        (z, y, x), from 1 on, 0 outside of lesions.
    count : int
        How many lesions there are.

    Raises
    ------
    MissingExtraError
        scipy is not installed.
    """
    marked = np.asarray(mask) != 0
    labels, count = _scipy_label()(marked, structure=np.ones((3,) * marked.ndim, dtype=bool), output=np.int32)
    return labels, int(count)


def _scipy_label() -> Callable[..., Any]:
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise MissingExtraError(
            "scipy", "is not installed, lesions need it: pip install 'isles24-zarr[analysis]'"
        ) from error
    function: Callable[..., Any] = label
    return function


def _matched_lesions(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return the numbers of matches, of true lesions and of found ones."""
    true_labels, true_count = lesion_components(true)
    found_labels, found_count = lesion_components(found)
    both = true & found
    pairs, shared = np.unique(np.stack([true_labels[both], found_labels[both]]), axis=1, return_counts=True)
    true_sizes, found_sizes = np.bincount(true_labels.ravel()), np.bincount(found_labels.ravel())
    # shared / union >= 1/2, in whole numbers. No lesion can have two such partners: each would hold half of it, and
    # both together all of it, so that they would touch and be one. Hence there is nothing to choose from.
    matched = 3 * shared >= true_sizes[pairs[0]] + found_sizes[pairs[1]]
    return int(np.count_nonzero(matched)), true_count, found_count


def _masks_on_one_grid(*masks: xr.DataArray | ArrayLike) -> list[xr.DataArray]:
    """Return masks (z, y, x) on the grid of the first that has one."""
    with_axes = [mask for mask in masks if isinstance(mask, xr.DataArray)]
    anchor = with_axes[0] if with_axes else xr.DataArray(np.asarray(masks[0]), name="reference")
    if not with_axes and anchor.ndim == 3:
        anchor = anchor.rename(dict(zip(anchor.dims, SPATIAL, strict=True)))
    anchor = volume_axes(anchor)
    return [anchor if mask is anchor else on_same_grid(anchor, mask) for mask in masks]


def _voxel_volume(masks: Sequence[xr.DataArray]) -> float:
    for mask in masks:
        if "x" in mask.coords:
            return scan_grid(mask).voxel_volume
    raise GeometryError("voxel_volume", "is not known of plain arrays, give it in mm^3")


def _cropped(masks: Sequence[xr.DataArray]) -> list[NDArray[np.bool_]]:
    """Return masks as booleans, cut to where any of them is not 0."""
    for mask in masks:
        if not all(block_results(_is_binary, mask)):
            raise MaskError(name_of(mask), "has other values than 0 and 1")
    boxes = [box for box in map(bounding_box, masks) if all(part.stop for part in box.values())]
    joint = {
        dim: slice(min((box[dim].start for box in boxes), default=0), max((box[dim].stop for box in boxes), default=0))
        for dim in SPATIAL
    }
    return [mask.isel(joint).to_numpy() != 0 for mask in masks]


def _is_binary(values: NDArray[Any]) -> bool:
    return bool(((values == 0) | (values == 1)).all())
