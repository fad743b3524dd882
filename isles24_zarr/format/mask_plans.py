"""What the values of a mask make of its plan, and what is odd about them."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from isles24_zarr import vocabulary
from isles24_zarr.conventions import SOFT_MASK_THRESHOLD
from isles24_zarr.errors import Problem
from isles24_zarr.format.layout import ATTRIBUTE_KEY

if TYPE_CHECKING:
    from isles24_zarr.format.labels import MaskValues
    from isles24_zarr.format.layout import ArrayPlan


def mask_plan(plan: ArrayPlan, found: MaskValues) -> ArrayPlan:
    """Return the plan of a mask whose values are known.

    Labels are stored as such, in the smallest unsigned type and unscaled, so that every client of the store sees them:
    the one exception to the rule that an array has the type of its file. Any other mask is stored as its file has it.

    Parameters
    ----------
    plan
        Made from the header.
    found
        What its values mean.
    """
    attributes, dtype = dict(plan.attributes), plan.dtype
    attributes[ATTRIBUTE_KEY] = {**attributes[ATTRIBUTE_KEY], "mask": found.to_json()}
    if found.kind == "labels":
        labels = _meanings(plan, found)
        attributes = {name: each for name, each in attributes.items() if name not in ("scale_factor", "add_offset")}
        attributes["flag_values"] = [value for value, _ in labels]
        attributes["flag_meanings"] = " ".join(meaning for _, meaning in labels)
        dtype = found.dtype.newbyteorder("<").str
    return dataclasses.replace(plan, attributes=attributes, dtype=dtype, mask=found)


def _meanings(plan: ArrayPlan, found: MaskValues) -> tuple[tuple[int, str], ...]:
    """Return labels with their meanings: those of the image of the release or, of any other mask, the labels found."""
    kind = vocabulary.IMAGES.get(plan.image)
    if kind is not None and kind.is_mask:
        return kind.labels
    labels = sorted({0, *(found.labels or (found.highest,))})
    if labels == [0, 1] or labels == [0]:
        return (0, "background"), (1, plan.image)
    return tuple((label, f"label_{label}" if label else "background") for label in labels)


def mask_notices(plan: ArrayPlan) -> tuple[Problem, ...]:
    """Return what is odd about the values of a mask, one line at most.

    Parameters
    ----------
    plan
        As from `mask_plan`; of other images there is nothing to say.
    """
    found = plan.mask
    if found is None:
        return ()
    notice = functools.partial(
        Problem, path=plan.source.path, severity="notice", subject=plan.subject, image=plan.image
    )
    if found.kind == "soft":
        counted = f"what needs labels takes {SOFT_MASK_THRESHOLD:g} and more, or the threshold it is given"
        return (notice(message=f"{found.why}; it is kept as it is, and {counted}"),)
    if found.kind == "other":
        return (notice(message=f"{found.why}; it is kept as it is, and refused by what needs labels"),)
    known = dict(_meanings(plan, found))
    unknown = sorted({*found.labels, found.highest} - known.keys())[:10]
    if unknown:
        meant = ", ".join(f"{label} {meaning}" for label, meaning in known.items())
        return (
            notice(message=f"holds the label {', '.join(map(str, unknown))}, which is none of {meant}; it is kept"),
        )
    return ()
