"""A volume at another voxel size, of which any patch is computed from the region that it needs.

The axes stay what they are, so that every axis is resampled by itself; the first voxels lie at the same place, and no
voxel of the result lies beyond the last of the volume. Positions between voxels are taken as `analysis.resampled_like`
takes them: linearly between the two around them, or from the nearest one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.geometry import world_from_voxel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from isles24_zarr.geometry import Grid

_EDGE: Final = 1e-6
"""Part of a voxel that is what double precision left, and no distance."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchGrid:
    """The grid that patches of a subject are on.

    Parameters
    ----------
    shape
        Of the whole volume on it, (z, y, x).
    step
        Voxels of the images from one of its voxels to the next, (z, y, x); exactly 1 where they are the same.
    affine
        4 x 4, its indices (x, y, z) to RAS mm.
    """

    shape: tuple[int, ...]
    step: tuple[float, ...]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid, spacing: Sequence[float] | None) -> PatchGrid:
        """Make the grid of a volume at a voxel size in mm, (z, y, x); None for its own."""
        if spacing is None:
            return cls(shape=grid.shape[::-1], step=(1.0, 1.0, 1.0), affine=grid.affine.copy())
        ratios = [wanted / own for wanted, own in zip(spacing, grid.spacing[::-1], strict=True)]
        step = tuple(1.0 if abs(ratio - 1) < _EDGE else ratio for ratio in ratios)
        shape = tuple(int((count - 1) / size + _EDGE) + 1 for count, size in zip(grid.shape[::-1], step, strict=True))
        affine = grid.affine.copy()
        affine[:3, :3] *= step[::-1]
        return cls(shape=shape, step=step, affine=affine)

    def nearest(self, voxel: Sequence[float]) -> list[int]:
        """Return the voxel (z, y, x) of this grid that is nearest to one of the images."""
        return [
            min(int(at / size + 0.5), count - 1) for at, size, count in zip(voxel, self.step, self.shape, strict=True)
        ]

    def affine_at(self, origin: Sequence[int]) -> NDArray[np.float64]:
        """Return 4 x 4, indices (x, y, z) of a patch that begins at a voxel (z, y, x) to RAS mm."""
        affine = self.affine.copy()
        affine[:3, 3] = world_from_voxel(affine, list(reversed(origin)))
        return affine

    def sampled(
        self,
        block: Callable[[Sequence[int], Sequence[int]], NDArray[Any]],
        start: Sequence[int],
        size: Sequence[int],
        *,
        linear: bool,
    ) -> NDArray[Any]:
        """Return a region of an image on this grid.

        Parameters
        ----------
        block
            Reads a region of the image, from its first voxel and its size, (z, y, x).
        start, size
            Of the region on this grid, inside of it.
        linear
            Interpolate, else take the nearest voxel.

        Returns
        -------
        numpy.ndarray
            (z, y, x). Where it is interpolated, float32 or wider; a voxel that is NaN or infinite makes those NaN that
            lie beside it.
        """
        if self.step == (1.0, 1.0, 1.0):
            return block(start, size)
        places = [
            step * np.arange(first, first + count) for step, first, count in zip(self.step, start, size, strict=True)
        ]
        if linear:
            lows, weights = zip(*map(_between, places), strict=True)
            ends = [int((low + (weight > 0)).max()) + 1 for low, weight in zip(lows, weights, strict=True)]
        else:
            lows = tuple(np.floor(place + 0.5).astype(np.intp) for place in places)
            ends = [int(low.max()) + 1 for low in lows]
        firsts = [int(low.min()) for low in lows]
        values = block(firsts, [end - first for first, end in zip(firsts, ends, strict=True)])
        if linear:
            values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
        # first the axis along which most is left out
        for axis in sorted(range(3), key=lambda axis: size[axis] / (ends[axis] - firsts[axis])):
            low = lows[axis] - firsts[axis]
            values = _blended(values, axis, low, weights[axis]) if linear else np.take(values, low, axis)
        return values


def _between(places: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the voxel before each place, and how much of the next one there is: 0 where there may be none."""
    low = np.floor(places + _EDGE)
    weight = places - low
    weight[weight < _EDGE] = 0
    return low.astype(np.intp), weight


def _blended(values: NDArray[Any], axis: int, low: NDArray[np.intp], weight: NDArray[np.float64]) -> NDArray[Any]:
    lower = np.take(values, low, axis)
    between = np.flatnonzero(weight)  # what weighs nothing may lie outside, or not be finite
    if between.size:
        lengths = [-1 if each == axis else 1 for each in range(3)]
        part = weight[between].astype(values.dtype).reshape(lengths)
        where: list[Any] = [slice(None)] * 3
        where[axis] = between if between.size < low.size else slice(None)
        upper = np.take(values, low[between] + 1, axis)
        lower[tuple(where)] = lower[tuple(where)] * (1 - part) + upper * part
    return lower
