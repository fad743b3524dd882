"""What is read: the regions that people look at, at random places that are the same for every reader."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.reference import CTP, PATCH_IMAGES, Region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AXIAL_CLOSED: Final = "axial slice, closed store"
AXIAL: Final = "axial slice"
CORONAL: Final = "coronal slice"
SAGITTAL: Final = "sagittal slice"
CURVE: Final = "curve of one voxel"
CURVES: Final = "curve of 10 x 10 x 3 voxels"
PATCH: Final = "patch of 96^3, five images"
FRAME: Final = "one frame"
BLOCK: Final = "patch of 64^3, all frames"
WHOLE: Final = "whole CTP"
READS: Final = (AXIAL_CLOSED, AXIAL, CORONAL, SAGITTAL, CURVE, CURVES, BLOCK, PATCH, FRAME, WHOLE)
"""All reads but the first are from a store or file that is open."""

LOADS: Final = (AXIAL_CLOSED, PATCH)
"""The reads that readers are asked for that load whole files whatever is wanted: the others cost them the same."""

WEIGHTS: Final[Mapping[str, float]] = {
    AXIAL: 1, CORONAL: 1, SAGITTAL: 1, CURVE: 1, CURVES: 1, BLOCK: 1.5, PATCH: 1.5, FRAME: 1, WHOLE: 1,
}  # fmt: skip
"""What each read counts where a reader is judged by all: slices 3, curves 2, patches 3, one frame 1, the whole 1."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One kind of read, at several places."""

    name: str
    regions: tuple[Region, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """What is read."""
        return self.regions[0].images

    @property
    def from_closed(self) -> bool:
        """Whether opening is part of it."""
        return self.name == AXIAL_CLOSED


def weighted_mean(seconds: Mapping[str, float]) -> float:
    """Return the geometric mean of what reads take, by `WEIGHTS`: none counts for more because it takes longer."""
    total = sum(WEIGHTS[read] for read in seconds)
    return math.exp(sum(WEIGHTS[read] * math.log(spent) for read, spent in seconds.items()) / total)


def reads_of(shape: tuple[int, ...], *, places: int, seed: int = 0) -> list[Read]:
    """Return all reads, at random places of a series.

    Parameters
    ----------
    shape
        Of the series, (time, z, y, x). Where it is smaller than a patch, the patch is cut to fit.
    places
        How many for each read.
    seed
        Of the places.
    """
    rng = np.random.default_rng(seed)

    def box(*size: int) -> Callable[[], Region]:
        def region() -> Region:
            cuts = []
            for wanted, count in zip(size, shape, strict=True):
                extent = min(wanted or count, count)
                start = int(rng.integers(count - extent + 1))
                cuts.append(slice(start, start + extent))
            return Region(images=(CTP,), time=cuts[0], zyx=(cuts[1], cuts[2], cuts[3]))

        return region

    def patch() -> Region:
        return dataclasses.replace(box(1, 96, 96, 96)(), images=PATCH_IMAGES, time=None)

    # 0 is for all of an axis
    kinds = (
        box(1, 1, 0, 0), box(1, 1, 0, 0), box(1, 0, 1, 0), box(1, 0, 0, 1), box(0, 1, 1, 1), box(0, 3, 10, 10),
        box(0, 64, 64, 64), patch, box(1, 0, 0, 0), box(0, 0, 0, 0),
    )  # fmt: skip
    return [
        Read(name=name, regions=tuple(kind() for _ in range(places))) for name, kind in zip(READS, kinds, strict=True)
    ]
