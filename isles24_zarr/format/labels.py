"""What the voxels of a mask mean: labels, fractions, or neither. Plain functions of values.

Masks of the release store 0 and 1, or 0 and 65535 with a slope of 1/65535, whose physical value is not 1 but
0.9999999997671694: a mask must be told by what its values mean, not by what they are. There are three kinds:

- **labels**: every value lies within `TOLERANCE` of a whole number from 0 on, and no two values mean the same label;
- **soft**: fractions between 0 and 1, as interpolation leaves them. They become labels by a threshold;
- **other**: not finite, negative, fractions beyond 1, or two values for one label. They have no labels.

This is the one place that decides which.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

TOLERANCE: Final = 1e-3
"""How far a value may lie from the whole number that it stands for."""


MOST_VALUES: Final = 4096
"""Different values that are kept in mind of floating-point and of scaled masks: far more than there are labels."""

MaskKind = Literal["labels", "soft", "other"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What is known of the values of a mask, or of a part of it.

    Parameters
    ----------
    stored
        Different values as they are stored, sorted; empty where they are too many, or cannot all be labels.
    lowest, highest
        Of the physical values that are finite; infinite, the wrong way round, where there is none.
    finite, whole
        Whether all values are finite, and within `TOLERANCE` of a whole number.
    many
        Whether there are more different values than `stored` can hold.
    exact
        Whether they are stored as whole numbers without a scale, so that any number of them are labels.
    """

    stored: tuple[float, ...] = ()
    lowest: float = np.inf
    highest: float = -np.inf
    finite: bool = True
    whole: bool = True
    many: bool = False
    exact: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MaskValues:
    """What the values of a mask mean.

    Parameters
    ----------
    kind
        See this module.
    labels
        Those that there are, ascending; empty where they are more than `MOST_VALUES`.
    stored
        The stored value of each label; empty where every stored value is its label.
    highest
        The largest label.
    why
        What is odd, as a clause; empty for labels.
    """

    kind: MaskKind
    labels: tuple[int, ...] = ()
    stored: tuple[float, ...] = ()
    highest: int = 0
    why: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds the labels."""
        return np.min_scalar_type(self.highest)

    def to_json(self) -> dict[str, Any]:
        """Return this for the attributes of an array, see docs/format.md."""
        found: dict[str, Any] = {"kind": self.kind}
        if self.kind == "labels":
            found |= {"labels": list(self.labels), "highest": self.highest}
        if self.stored:
            found["stored"] = list(self.stored)
        if self.why:
            found["why"] = self.why
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> MaskValues:
        """Undo `to_json`."""
        return cls(
            kind=found["kind"],
            labels=tuple(found.get("labels", ())),
            stored=tuple(found.get("stored", ())),
            highest=found.get("highest", 0),
            why=found.get("why", ""),
        )


def values_of(voxels: NDArray[Any], slope: float | None = None, intercept: float | None = None) -> Values:
    """Look at the values of an array.

    Parameters
    ----------
    voxels
        Any shape; whole numbers, floating-point numbers or booleans.
    slope, intercept
        Physical value = slope * voxel + intercept; None for the voxels themselves.
    """
    if not voxels.size:
        return Values()
    stored = _different(voxels)
    physical = physical_values(stored, slope, intercept)
    known = physical[np.isfinite(physical)]
    whole = known.size == physical.size and bool((np.abs(known - np.rint(known)) <= TOLERANCE).all())
    many = stored.size > MOST_VALUES
    return Values(
        stored=tuple(stored.tolist()) if whole and not many else (),
        lowest=known.min().item() if known.size else np.inf,
        highest=known.max().item() if known.size else -np.inf,
        finite=known.size == physical.size,
        whole=whole,
        many=many,
        exact=slope is None and voxels.dtype.kind in "bui",
    )


def physical_values(stored: NDArray[Any], slope: float | None, intercept: float | None) -> NDArray[Any]:
    """Return what stored values mean, as any reader of NIfTI scales them: in double precision."""
    if slope is None:
        return stored
    return stored.astype(np.float64) * slope + (intercept or 0.0)


def _different(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return the different values, bit for bit: -0.0 is not 0.0, and one NaN need not be another."""
    bits = np.ascontiguousarray(voxels).reshape(-1).view(f"u{voxels.dtype.itemsize}")
    # most of a mask is background: what is left is sorted much faster
    found = np.unique(np.concatenate([bits[:1], bits[bits != bits[0]]]))
    return found.view(voxels.dtype).astype(voxels.dtype.newbyteorder("="))


def merged(parts: Iterable[Values]) -> Values:
    """Put together what is known of several parts of a mask."""
    return functools.reduce(_both, parts, Values())


def _both(first: Values, second: Values) -> Values:
    # as dictionary keys, 0.0 and -0.0 would be one
    together = {(value, str(value)): None for value in (*first.stored, *second.stored)}
    whole = first.whole and second.whole
    many = first.many or second.many or len(together) > MOST_VALUES
    return Values(
        stored=tuple(value for value, _ in sorted(together)) if whole and not many else (),
        lowest=min(first.lowest, second.lowest),
        highest=max(first.highest, second.highest),
        finite=first.finite and second.finite,
        whole=whole,
        many=many,
        exact=first.exact and second.exact,
    )


def mask_values(values: Values, slope: float | None = None, intercept: float | None = None) -> MaskValues:
    """Decide what the values of a whole mask mean.

    Parameters
    ----------
    values
        Of all its voxels.
    slope, intercept
        As for `values_of`.
    """
    if not values.finite:
        return MaskValues(kind="other", why="has voxels that are not finite, which are no labels")
    if values.lowest < -TOLERANCE:
        return MaskValues(kind="other", why=f"has negative values, down to {values.lowest:g}, which are no labels")
    if not values.whole:
        if values.highest <= 1 + TOLERANCE:
            return MaskValues(kind="soft", why="holds fractions between 0 and 1")
        return MaskValues(kind="other", why=f"holds fractions and values up to {values.highest:g}, which are no labels")
    highest = int(max(np.rint(values.highest), 0)) if not values.exact else int(max(values.highest, 0))
    if values.many and values.exact:
        return MaskValues(kind="labels", highest=highest)
    if values.many:
        return MaskValues(kind="other", why=f"has more than {MOST_VALUES:,} different values, which are no labels")
    pairs = sorted(zip(_labels(values, slope, intercept), values.stored, strict=True))
    for (before, first), (label, second) in itertools.pairwise(pairs):
        if before == label:
            return MaskValues(kind="other", why=f"has two stored values, {first} and {second}, for the label {label}")
    same = all(label == stored and math.copysign(1, stored) > 0 for label, stored in pairs)
    return MaskValues(
        kind="labels",
        labels=tuple(label for label, _ in pairs),
        stored=() if same else tuple(stored for _, stored in pairs),
        highest=highest,
    )


def _labels(values: Values, slope: float | None, intercept: float | None) -> list[int]:
    if values.exact:
        return [int(value) for value in values.stored]
    return [round(value) for value in physical_values(np.array(values.stored), slope, intercept).tolist()]


def labels_from_stored(
    voxels: NDArray[Any], found: MaskValues, slope: float | None = None, intercept: float | None = None
) -> NDArray[Any]:
    """Return the labels of voxels of a mask of labels, in the smallest type.

    Parameters
    ----------
    voxels
        Any shape, as stored.
    found
        Of the whole mask.
    slope, intercept
        As for `values_of`.
    """
    if slope is None and voxels.dtype.kind in "bui":
        return voxels.astype(found.dtype)
    labels = np.empty(voxels.shape, found.dtype)
    # plane by plane: in double precision, a volume would take eight times the memory of its labels
    for number, plane in enumerate(voxels):
        labels[number] = np.rint(physical_values(plane, slope, intercept)).astype(found.dtype)
    return labels


def stored_from_labels(labels: NDArray[Any], found: MaskValues, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo `labels_from_stored`.

    Parameters
    ----------
    labels
        Any shape.
    found
        Of the whole mask.
    dtype
        Of the stored values.

    Raises
    ------
    ValueError
        There is a label that the mask did not have.
    """
    if not found.stored:
        if labels.size and int(labels.max()) > found.highest:
            raise ValueError(f"holds the label {int(labels.max())}, above {found.highest}")
        return labels.astype(dtype)
    known, stored = np.array(found.labels, labels.dtype), np.array(found.stored, dtype)
    places = np.minimum(np.searchsorted(known, labels), known.size - 1)
    if not np.array_equal(known[places], labels):
        raise ValueError("holds a label that its file did not have")
    return stored[places]
