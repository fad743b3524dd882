"""Sampling grids in physical space.

Conventions: physical space is RAS+ in millimetres (x to the patient's Right, y Anterior, z Superior), as in
nibabel. An affine A maps voxel indices (i, j, k) along (x, y, z) to A @ (i, j, k, 1). Arrays are C-ordered
(..., z, y, x): the last axis is the one that runs fastest in a NIfTI file.

Any affine is A = [D S | t] with D a matrix of unit columns (the directions of the three axes) and S the diagonal
matrix of voxel sizes. With o = D^-1 t, voxel (i, j, k) lies at D @ (o + S (i, j, k)): that is what the coordinates
x, y, z of a grid hold, so that position = D @ (x, y, z) for every voxel and after any slicing. Where the axes are
those of the scanner, D = I.

A volume is brought to the closest canonical orientation by permuting and reversing its axes, never by resampling:
nibabel assigns each axis of the file to the nearest one of the patient, through the rotation that is nearest to D.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from nibabel.orientations import aff2axcodes, io_orientation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

SAME_GRID_TOLERANCE: Final = 0.1
"""How far corners of two volumes may lie apart, in units of the smallest voxel size."""

_SAME_PLACE_MM: Final = 1e-6
"""Beyond what is left of double precision on the way through coordinates, and far below any voxel."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """How the axes of a file become canonical ones.

    Parameters
    ----------
    axes
        For x, y and z of the canonical volume, the axis of the file (0, 1 or 2) that it comes from.
    flips
        For x, y and z of the canonical volume, whether it runs against that axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def __post_init__(self) -> None:
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes {self.axes} are no permutation of (0, 1, 2)")

    @property
    def matrix(self) -> NDArray[np.float64]:
        """3 x 3, canonical voxel steps to file voxel steps."""
        steps = np.zeros((3, 3))
        for canonical, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            steps[axis, canonical] = -1.0 if flip else 1.0
        return steps

    @property
    def file_codes(self) -> str:
        """Where the axes of the file point, as in ``"LPS"``."""
        codes = [""] * 3
        for axis, flip, letters in zip(self.axes, self.flips, ("RL", "AP", "SI"), strict=True):
            codes[axis] = letters[flip]
        return "".join(codes)

    @classmethod
    def from_codes(cls, codes: str) -> Orientation:
        """Return the orientation of a file whose axes point so, see `file_codes`.

        Raises
        ------
        ValueError
            These are no such letters.
        """
        pairs = ("RL", "AP", "SI")
        axes = [next((axis for axis, code in enumerate(codes) if code in pair), -1) for pair in pairs]
        if len(codes) != 3 or sorted(axes) != [0, 1, 2]:
            raise ValueError(f"{codes!r} does not say where three axes point, as 'LPS' does")
        flips = [codes[axis] == pair[1] for axis, pair in zip(axes, pairs, strict=True)]
        return cls(axes=(axes[0], axes[1], axes[2]), flips=(flips[0], flips[1], flips[2]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """Where the voxels of a volume lie.

    Parameters
    ----------
    shape
        Number of voxels along (x, y, z).
    affine
        4 x 4, voxel indices (x, y, z) to RAS millimetres; finite and invertible.
    oriented
        Whether the file said where its axes point. If not, the affine holds voxel sizes and nothing more.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    oriented: bool = True

    def __post_init__(self) -> None:
        if self.affine.shape != (4, 4) or not np.array_equal(self.affine[3], (0, 0, 0, 1)):
            raise ValueError(f"not an affine of three dimensions: {self.affine.tolist()}")
        finite = bool(np.isfinite(self.affine).all())
        if not finite or min(self.spacing) == 0 or np.linalg.matrix_rank(self.direction) < 3:
            raise ValueError(f"not an invertible affine: {self.affine.tolist()}")
        if min(self.shape) < 1:
            raise ValueError(f"not a volume: {self.shape}")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes along (x, y, z) in mm."""
        # hypot is exact for a column with one entry, a norm by squares is not
        x, y, z = (math.hypot(*column) for column in self.affine[:3, :3].T)
        return x, y, z

    @property
    def direction(self) -> NDArray[np.float64]:
        """3 x 3, whose columns are the unit vectors along x, y and z in RAS."""
        return np.asarray(self.affine[:3, :3] / np.array(self.spacing) + 0.0)  # + 0.0 turns -0.0 to 0.0

    def coordinates(self) -> dict[str, NDArray[np.float64]]:
        """Return x, y and z in mm along the axes: position = direction @ (x, y, z)."""
        origin = self.affine[:3, 3]
        if not np.array_equal(self.direction, np.eye(3)):
            origin = np.linalg.solve(self.direction, origin).astype(np.float64)
        return {
            name: start + step * np.arange(count)
            for name, start, step, count in zip("xyz", origin, self.spacing, self.shape, strict=True)
        }

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm^3, right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def corners(self) -> NDArray[np.float64]:
        """Return the eight outer corners of the volume, 8 x 3, RAS in mm."""
        ends = itertools.product(*((-0.5, count - 0.5) for count in self.shape))
        return world_from_voxel(self.affine, list(ends))

    @property
    def axis_codes(self) -> str:
        """Where the axes point, as in ``"LPS"``; ``"???"`` where that is not known."""
        return "".join(aff2axcodes(self.affine)) if self.oriented else "???"


def grid_from_coordinates(
    coordinates: Mapping[str, ArrayLike], *, direction: ArrayLike, spacing: ArrayLike, oriented: bool = True
) -> Grid:
    """Return the grid of voxels at given coordinates, such as are left after slicing.

    Parameters
    ----------
    coordinates
        x, y and z in mm along the axes, each a number or evenly spaced numbers, ascending or descending.
    direction
        3 x 3, columns are the unit vectors of the axes in RAS.
    spacing
        Voxel sizes along (x, y, z), for axes of which one coordinate is left.
    oriented
        As for `Grid`.

    Raises
    ------
    ValueError
        Coordinates are not evenly spaced, or there are none.
    """
    starts, steps, shape = [], [], []
    for name, size in zip("xyz", np.asarray(spacing, dtype=np.float64), strict=True):
        values = np.atleast_1d(np.asarray(coordinates[name], dtype=np.float64))
        if values.size == 0:
            raise ValueError(f"no voxel is left along {name}")
        step = size if values.size == 1 else (values[-1] - values[0]) / (values.size - 1)
        if values.size > 2 and not np.allclose(np.diff(values), step, rtol=1e-6, atol=1e-6 * size):
            raise ValueError(f"the {name} coordinates are not evenly spaced")
        starts.append(values[0])
        steps.append(step)
        shape.append(values.size)
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction) * steps + 0.0
    affine[:3, 3] = np.asarray(direction) @ starts
    return Grid(shape=(shape[0], shape[1], shape[2]), affine=affine, oriented=oriented)


def world_from_voxel(affine: NDArray[np.float64], voxels: ArrayLike) -> NDArray[np.float64]:
    """Return positions in RAS mm, (..., 3), of voxel indices in (x, y, z) order, (..., 3)."""
    return np.asarray(voxels, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def voxel_from_world(affine: NDArray[np.float64], positions: ArrayLike) -> NDArray[np.float64]:
    """Return fractional voxel indices in (x, y, z) order, (..., 3), of positions in RAS mm, (..., 3)."""
    offsets = np.asarray(positions, dtype=np.float64) - affine[:3, 3]
    return np.asarray(np.linalg.solve(affine[:3, :3], offsets[..., None])[..., 0])


def canonical_orientation(affine: NDArray[np.float64]) -> Orientation:
    """Return the permutation and flips that bring a file's axes closest to R, A, S.

    Parameters
    ----------
    affine
        4 x 4, invertible, of the file.
    """
    assigned = io_orientation(affine)
    axes = [int(np.flatnonzero(assigned[:, 0] == canonical)[0]) for canonical in range(3)]
    x, y, z = (bool(assigned[axis, 1] < 0) for axis in axes)
    return Orientation(axes=(axes[0], axes[1], axes[2]), flips=(x, y, z))


def canonical_grid(file_grid: Grid, orientation: Orientation) -> Grid:
    """Return the grid of a volume after its axes were permuted and flipped.

    Parameters
    ----------
    file_grid
        The grid as the file has it.
    orientation
        As from `canonical_orientation`.
    """
    first = [
        file_grid.shape[axis] - 1 if flip else 0 for axis, flip in zip(orientation.axes, orientation.flips, strict=True)
    ]
    start = np.zeros(3)
    start[list(orientation.axes)] = first
    affine = np.eye(4)
    affine[:3, :3] = file_grid.affine[:3, :3] @ orientation.matrix + 0.0
    affine[:3, 3] = world_from_voxel(file_grid.affine, start)
    x, y, z = (file_grid.shape[axis] for axis in orientation.axes)
    return Grid(shape=(x, y, z), affine=affine, oriented=file_grid.oriented)


def file_grid(canonical: Grid, orientation: Orientation) -> Grid:
    """Undo `canonical_grid`: return the grid of a canonical volume whose axes were turned as those of a file.

    Parameters
    ----------
    canonical
        The grid of the volume.
    orientation
        Of the file.
    """
    inverse = Orientation(
        axes=tuple(orientation.axes.index(axis) for axis in range(3)),  # type: ignore[arg-type]
        flips=tuple(orientation.flips[orientation.axes.index(axis)] for axis in range(3)),  # type: ignore[arg-type]
    )
    return canonical_grid(canonical, inverse)


def canonical_from_file(block: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """Return a view of voxels with canonical axes.

    Parameters
    ----------
    block
        (..., z, y, x) in the file's axes.
    orientation
        As from `canonical_orientation`.

    Returns
    -------
    numpy.ndarray
        A view, (..., z, y, x) with x to the Right, y Anterior, z Superior.
    """
    permuted = block.transpose(*_leading(block), *_array_axes(orientation.axes, block.ndim))
    return np.asarray(permuted[_reversals(orientation.flips)])


def file_from_canonical(block: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """Undo `canonical_from_file`: return a view of canonical voxels with the axes of the file."""
    turned = np.asarray(block[_reversals(orientation.flips)])
    inverse = np.argsort(orientation.axes)
    return turned.transpose(*_leading(block), *_array_axes(inverse.tolist(), block.ndim))


def _leading(block: NDArray[Any]) -> range:
    return range(block.ndim - 3)


def _array_axes(axes: Sequence[int], ndim: int) -> list[int]:
    # axis 0 of the file (x) is the last of the array
    return [ndim - 1 - axis for axis in reversed(axes)]


def _reversals(flips: Sequence[bool]) -> tuple[Any, ...]:
    return (..., *(slice(None, None, -1 if flip else None) for flip in reversed(flips)))


def corner_displacement(reference: Grid, other: Grid) -> float:
    """Return the largest distance in mm between corresponding corners of two volumes of equal shape."""
    return float(np.max(np.linalg.norm(reference.corners() - other.corners(), axis=1)))


def same_positions(first: Grid, second: Grid) -> bool:
    """Tell whether two volumes have each voxel at the same place, to the last digits of their coordinates."""
    if first.shape != second.shape or first.oriented != second.oriented:
        return False
    return corner_displacement(first, second) <= _SAME_PLACE_MM


def same_grid(reference: Grid, other: Grid) -> bool:
    """Tell whether two canonical volumes sample the same points.

    They do when their shapes match and no corner is displaced by more than `SAME_GRID_TOLERANCE` of the smallest
    voxel size. A volume of unknown orientation never matches one whose orientation is known.
    """
    if reference.shape != other.shape or reference.oriented != other.oriented:
        return False
    return corner_displacement(reference, other) <= SAME_GRID_TOLERANCE * min(reference.spacing)
