"""What a caller may choose about patches, checked once."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MISSING: Final = ("error", "skip")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PatchOptions:
    """How patches are drawn; see `training.torch_patches.torch_dataset`.

    Parameters
    ----------
    patch
        Shape of a patch, (z, y, x); None for whole volumes.
    stride
        Steps between the patches of a grid, (z, y, x); None where they are drawn.
    spacing
        Voxel sizes of patches in mm, (z, y, x); None for those of the images.
    samples_per_subject
        Patches of each subject in an epoch, where they are drawn.
    lesion_fraction
        Chance of a patch to lie around a voxel of a label.
    around
        Name of that label; None for the first.
    pad_value
        What images hold outside of the volume.
    label_threshold
        From which fraction on voxels of a soft mask belong to a label; None for 0.5, with a warning.
    missing
        ``"error"`` or ``"skip"``.
    space
        Of the images.
    seed
        Of everything random.

    Raises
    ------
    UnknownNameError
        A number makes no sense.
    """

    patch: tuple[int, int, int] | None
    stride: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    samples_per_subject: int = 8
    lesion_fraction: float = 0.5
    around: str | None = None
    pad_value: float = 0.0
    label_threshold: float | None = None
    missing: str = "error"
    space: str = "ncct"
    seed: int = 0

    def __post_init__(self) -> None:
        sound = {
            "patch": self.patch is None or (len(self.patch) == 3 and min(self.patch) > 0),
            "stride": self.stride is None or (len(self.stride) == 3 and min(self.stride) > 0),
            "spacing": self.spacing is None or (len(self.spacing) == 3 and _are_sizes(self.spacing)),
            "samples_per_subject": self.samples_per_subject > 0,
            "lesion_fraction": 0 <= self.lesion_fraction <= 1,
            "missing": self.missing in _MISSING,
            "label_threshold": self.label_threshold is None or 0 < self.label_threshold <= 1,
            "seed": self.seed >= 0,
        }
        wrong = [name for name, good in sound.items() if not good]
        if wrong:
            raise UnknownNameError(
                ", ".join(wrong),
                "patch, stride and spacing are (z, y, x), missing 'error' or 'skip'; give possible values",
            )
        if self.patch is None and self.stride is not None:
            raise UnknownNameError("stride", "is of patches, and patch=None is for whole volumes; give one of the two")

    @classmethod
    def of(
        cls,
        patch: Sequence[int] | None,
        *,
        stride: Sequence[int] | None = None,
        spacing: Sequence[float] | None = None,
        **others: Any,
    ) -> PatchOptions:
        """Make options of sequences of any kind; whole numbers stay whole."""
        whole = {name: others[name] for name in ("samples_per_subject", "seed") if name in others}
        try:
            lengths: Mapping[str, Any] = {
                "patch": None if patch is None else tuple(operator.index(size) for size in patch),
                "stride": None if stride is None else tuple(operator.index(size) for size in stride),
                "spacing": None if spacing is None else tuple(float(size) for size in spacing),
                **{name: operator.index(value) for name, value in whole.items()},
            }
        except (TypeError, ValueError) as error:
            what = "patch and stride are three whole numbers, spacing three of mm, all else one whole number"
            raise UnknownNameError("the numbers of patches", f"{what} ({error})") from None
        return cls(**{**others, **lengths})

    @property
    def draws(self) -> bool:
        """Whether patches lie at random places."""
        return self.patch is not None and self.stride is None


def _are_sizes(spacing: Sequence[float]) -> bool:
    return all(0 < size < math.inf for size in spacing)
