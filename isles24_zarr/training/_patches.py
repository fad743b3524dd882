"""Where patches lie. Plain NumPy, deterministic.

A sample is decided by (seed, epoch, index) alone, so that it does not matter which process draws it. Where a mask is,
is kept as a count for each stored chunk, which takes a few kB a subject: a voxel of the mask is drawn by its number,
which tells the chunk, and that chunk is read. So every voxel of the mask is as likely as any other, without a list of
them in memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from isles24_zarr.training._options import PatchOptions
    from isles24_zarr.training._resampling import PatchGrid


class MaskRegions(Protocol):
    """A mask, of which regions are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the mask, (z, y, x)."""

    @property
    def chunk(self) -> tuple[int, ...]:
        """What is read at once, (z, y, x)."""

    def inside(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
        """Return which voxels of a region belong to the mask; it may reach beyond the end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskCounts:
    """Where a mask is, by numbers.

    Parameters
    ----------
    starts
        (n, 3), first voxel (z, y, x) of each chunk.
    totals
        (n,), voxels of the mask up to and with each chunk.
    """

    starts: NDArray[np.int64]
    totals: NDArray[np.int64]

    @property
    def total(self) -> int:
        """How many voxels the mask has."""
        return int(self.totals[-1])

    def voxel(self, mask: MaskRegions, number: int) -> NDArray[np.int64]:
        """Return a voxel (z, y, x) of the mask that these are the counts of, by its number."""
        chunk = int(np.searchsorted(self.totals, number, side="right"))
        before = int(self.totals[chunk - 1]) if chunk else 0
        start = self.starts[chunk]
        return np.asarray(start + np.argwhere(mask.inside(start, mask.chunk))[number - before])


def mask_counts(mask: MaskRegions) -> MaskCounts:
    """Count the voxels of a mask, by chunks. It is read once, slab by slab."""
    (depth, height, width), (z, y, x) = mask.shape, mask.chunk
    starts = np.array(list(_starts(mask.shape, mask.chunk)), dtype=np.int64)
    # slab by slab: a read costs more than a chunk does
    counts = []
    for first in range(0, depth, z):
        inside = mask.inside((first, 0, 0), (z, height, width)).sum(axis=0, dtype=np.int64)
        of_rows = np.add.reduceat(inside, np.arange(0, height, y), axis=0)
        counts.append(np.add.reduceat(of_rows, np.arange(0, width, x), axis=1).ravel())
    return MaskCounts(starts=starts, totals=np.cumsum(np.concatenate(counts)))


def _starts(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(0, count, size) for count, size in zip(shape, chunk, strict=True)))


Drawn = tuple[MaskRegions, MaskCounts] | None
"""A mask to draw voxels of, and its counts."""


def drawn_origin(
    options: PatchOptions, grid: PatchGrid, *, label: Drawn, within: Drawn, epoch: int, index: int
) -> list[int]:
    """Decide where a patch lies.

    Parameters
    ----------
    options
        How patches are drawn.
    grid
        That they are on.
    label
        The mask around which some lie; None where there is none.
    within
        The mask in which the centres of the others lie; None for anywhere.
    epoch, index
        Which sample.

    Returns
    -------
    list
        First voxel (z, y, x) on the grid. The patch lies in the volume; along an axis on which the volume is smaller,
        the volume lies in the middle of the patch, and the origin is negative.
    """
    rng = np.random.default_rng([options.seed, epoch, index])
    around_label = rng.random() < options.lesion_fraction
    anywhere = rng.random(3)
    shape = options.patch or grid.shape
    room = [count - size for count, size in zip(grid.shape, shape, strict=True)]
    for mask in (label if around_label else None, within):
        if mask is not None and mask[1].total:
            centre = grid.nearest(mask[1].voxel(mask[0], int(rng.integers(mask[1].total))).tolist())
            first = [at - size // 2 for at, size in zip(centre, shape, strict=True)]
            break
    else:
        first = [int(share * (free + 1)) for share, free in zip(anywhere, room, strict=True)]
    return [_kept_inside(start, free) for start, free in zip(first, room, strict=True)]


def tile_origin(options: PatchOptions, grid: PatchGrid, tiles: Sequence[int], number: int) -> list[int]:
    """Return where a patch of a grid of patches lies, (z, y, x): the last along each axis ends with the volume."""
    shape, steps = options.patch or grid.shape, options.stride or grid.shape
    places = np.unravel_index(number, tiles)
    return [
        _kept_inside(int(place) * step, count - size)
        for place, step, count, size in zip(places, steps, grid.shape, shape, strict=True)
    ]


def _kept_inside(start: int, free: int) -> int:
    return min(max(start, 0), free) if free >= 0 else -(-free // 2)


def fill_patch(
    patch: NDArray[Any],
    shape: Sequence[int],
    origin: Sequence[int],
    region: Callable[[Sequence[int], Sequence[int]], NDArray[Any]],
) -> None:
    """Read what of a patch lies in a volume into an array; outside, it stays as it is.

    Parameters
    ----------
    patch
        (z, y, x); whole numbers take no fractions.
    shape
        Of the volume, (z, y, x).
    origin
        First voxel (z, y, x) of the patch; negative ones lie outside.
    region
        Reads a region of the volume, from its first voxel and its size.
    """
    inside = [
        (max(start, 0), min(start + size, count)) for start, size, count in zip(origin, patch.shape, shape, strict=True)
    ]
    place = tuple(slice(first - start, last - start) for (first, last), start in zip(inside, origin, strict=True))
    values = region([first for first, _ in inside], [last - first for first, last in inside])
    np.copyto(patch[place], values, casting="same_kind")
