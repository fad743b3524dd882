"""How well one mask agrees with another: the metrics by which ISLES'24 ranks segmentations.

The definitions are those of the challenge's own evaluation, utils/eval_utils.py of
https://github.com/ezequieldlrosa/isles24, which takes lesions and their matches from panoptica [1]_. Lesions are
components that are connected across faces, edges and corners (26 neighbours). A lesion of the prediction is a true
positive if it is matched with a lesion of the reference: pairs are taken by their intersection over union, the largest
first, each lesion once, as long as it is at least 0.2. That is the evaluation since December 2025
(``NaiveThresholdMatching(matching_threshold=0.2)``); before, it was 0.5.

References
----------
.. [1] Kofler F, Moeller H, Buchner JA, et al. Panoptica: instance-wise evaluation of 3D semantic and instance
   segmentation maps. arXiv:2312.02608.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.analysis.blockwise import SPATIAL, block_results, name_of, on_same_grid, volume_axes
from isles24_zarr.analysis.masks import LabelRule, label_rule, marked_box
from isles24_zarr.conventions import MATCHING_THRESHOLD, MM3_PER_ML
from isles24_zarr.errors import GeometryError, MaskError, UnknownNameError
from isles24_zarr.geometry import scan_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


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
    matching_threshold
        Intersection over union from which on lesions were matched.
    mask_threshold
        From which fraction on voxels of a soft mask were counted; None where all masks are labels.
    """

    dice: float
    absolute_volume_difference: float
    absolute_lesion_count_difference: int
    lesion_f1: float
    matching_threshold: float = MATCHING_THRESHOLD
    mask_threshold: float | None = None


def challenge_metrics(
    prediction: xr.DataArray | ArrayLike,
    reference: xr.DataArray | ArrayLike,
    voxel_volume: float | None = None,
    *,
    brain: xr.DataArray | ArrayLike | None = None,
    matching_threshold: float = MATCHING_THRESHOLD,
    threshold: float | None = None,
) -> ChallengeMetrics:
    """Compare a predicted infarct with the true one, as the ISLES'24 challenge does.

    Parameters
    ----------
    prediction, reference
        (z, y, x), of 0 and 1, False and True, or fractions between, on one grid. Their part that is not 0 is loaded.
    voxel_volume
        In mm^3; by default that of the grid, which at least one mask has if it is a DataArray.
    brain
        (z, y, x), on the same grid, booleans, labels or fractions: what is outside of it counts in neither mask, see
        `analysis.brain_mask`.
    matching_threshold
        Intersection over union, above 0 and up to 1, from which on two lesions match; 0.2 is the challenge's since
        December 2025, 0.5 was that of the challenge itself.
    threshold
        From which fraction on voxels of a soft mask count; 0.5 where none is given, with a `SoftMaskWarning`.

    Returns
    -------
    ChallengeMetrics

    Raises
    ------
    MaskError
        A prediction or a reference has other labels than 0 and 1, or any of the masks values that are no labels.
    UnknownNameError
        The matching threshold is not possible.
    GeometryError
        The masks are not on one grid, or nothing tells how large a voxel is.

    Notes
    -----
    The challenge restricts its masks to a brain mask before, which is not part of the release: give one of your own.
    """
    if not 0 < matching_threshold <= 1:
        what = "is no intersection over union, give one above 0 and up to 1"
        raise UnknownNameError(f"matching_threshold={matching_threshold}", what)
    masks = _masks_on_one_grid(reference, prediction, *([] if brain is None else [brain]))
    if voxel_volume is None:
        voxel_volume = _voxel_volume(masks)
    # no comprehension, which would be the caller that a warning shows
    rules = list(map(functools.partial(label_rule, threshold=threshold), masks))
    true_voxels, found_voxels = _cropped(masks, rules)
    both = int(np.count_nonzero(true_voxels & found_voxels))
    true_count, found_count = int(true_voxels.sum()), int(found_voxels.sum())
    matches, true_lesions, found_lesions = _matched_lesions(true_voxels, found_voxels, matching_threshold)
    return ChallengeMetrics(
        dice=dice_coefficient(both, true_count, found_count, empty=1.0),
        absolute_volume_difference=abs(true_count - found_count) * voxel_volume / MM3_PER_ML,
        absolute_lesion_count_difference=abs(true_lesions - found_lesions),
        # F1 of detections is the Dice coefficient of two sets of lesions
        lesion_f1=dice_coefficient(matches, true_lesions, found_lesions, empty=1.0),
        matching_threshold=matching_threshold,
        mask_threshold=next((rule.threshold for rule in rules if rule.threshold is not None), None),
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
    """
    from scipy.ndimage import label

    marked = np.asarray(mask) != 0
    labels, count = label(marked, structure=np.ones((3,) * marked.ndim, dtype=bool), output=np.int32)
    return labels, int(count)


def _matched_lesions(true: NDArray[np.bool_], found: NDArray[np.bool_], threshold: float) -> tuple[int, int, int]:
    """Return the numbers of matches, of true lesions and of found ones."""
    true_labels, true_count = lesion_components(true)
    found_labels, found_count = lesion_components(found)
    both = true & found
    pairs, shared = np.unique(np.stack([true_labels[both], found_labels[both]]), axis=1, return_counts=True)
    true_sizes, found_sizes = np.bincount(true_labels.ravel()), np.bincount(found_labels.ravel())
    overlaps = shared / (true_sizes[pairs[0]] + found_sizes[pairs[1]] - shared)
    # the best pair first, of equal ones that of the first found lesion, as panoptica takes them
    order = np.lexsort((pairs[0], pairs[1], -overlaps))
    matched: tuple[set[int], set[int]] = set(), set()
    for first, second in pairs[:, order[overlaps[order] >= threshold]].T.tolist():
        if first not in matched[0] and second not in matched[1]:
            matched[0].add(first)
            matched[1].add(second)
    return len(matched[0]), true_count, found_count


def _masks_on_one_grid(*masks: xr.DataArray | ArrayLike) -> list[xr.DataArray]:
    """Return masks (z, y, x) on the grid of the first that has one, by whose axes plain arrays are taken."""
    with_axes = [mask for mask in masks if isinstance(mask, xr.DataArray)]
    anchor = with_axes[0] if with_axes else xr.DataArray(np.asarray(masks[0]), name="reference")
    if not with_axes and anchor.ndim == 3:
        anchor = anchor.rename(dict(zip(anchor.dims, SPATIAL, strict=True)))
    turned = volume_axes(anchor)  # plain arrays have the axes of what was given
    placed = [turned if mask is anchor else on_same_grid(anchor, mask) for mask in masks]
    roles = ("reference", "prediction", "brain")
    return [mask.rename(mask.name or role) for mask, role in zip(placed, roles, strict=False)]


def _voxel_volume(masks: Sequence[xr.DataArray]) -> float:
    for mask in masks:
        if "x" in mask.coords:
            return scan_grid(mask).voxel_volume
    raise GeometryError("voxel_volume", "is not known of plain arrays, give it in mm^3")


def _cropped(masks: Sequence[xr.DataArray], rules: Sequence[LabelRule]) -> list[NDArray[np.bool_]]:
    """Return two masks as booleans within the brain, the third where there is one, cut to where any of both is."""
    both = list(zip(masks, rules, strict=True))[:2]
    for mask, rule in both:
        if max(block_results(functools.partial(_highest, rule), mask), default=0) > 1:
            raise MaskError(name_of(mask), "has other labels than 0 and 1; take one of them, as mask == 1")
    found = (marked_box(mask, rule) for mask, rule in both)
    boxes = [box for box in found if all(part.stop for part in box.values())]
    joint = {
        dim: slice(min((box[dim].start for box in boxes), default=0), max((box[dim].stop for box in boxes), default=0))
        for dim in SPATIAL
    }
    marked = [rule.inside(mask.isel(joint).to_numpy()) for mask, rule in zip(masks, rules, strict=True)]
    return [np.logical_and.reduce([mask, *marked[2:]]) for mask in marked[:2]]


def _highest(rule: LabelRule, values: NDArray[Any]) -> int:
    return int(np.max(rule.labels(values), initial=0))
