"""A head phantom: the anatomy, as a function of a position in the head.

The phantom is analytic, in head-centred RAS millimetres. A voxel's code is ``tissue << 8 | level``. The level tells how
far into the hypoperfused territory the point lies: with q = 0 in its midst and q = 1 at its border, level = 200 q, up
to 255. Volumes of one subject therefore agree in world space whatever their grids, and most images cost one table
look-up a voxel (see `phantom_images`). Nothing here is a patient's, and none of it is meant for science.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from isles24_zarr.geometry import Grid

    Floats = NDArray[np.floating[Any]]
    Codes = NDArray[np.uint16]

UNSEEN, OUTSIDE, AIR, SOFT, BONE, FLUID, GREY, WHITE, VEIN = range(9)
FLOWING, CLOT, STALLED = 16, 32, 48
"""Arteries: one of these plus the label of the Circle of Willis, 0 for the branches that have none."""

TISSUES: Final = 64
FAR: Final = 255
LEVELS_PER_Q: Final = 200
BRAIN: Final = [GREY, WHITE]

_NEAR_CLOT, _AT_CLOT, _PAST_CLOT = range(3)
_VESSELS: Final[tuple[tuple[int, int, float, int, tuple[tuple[float, float, float], ...]], ...]] = (
    (0, 0, 1.0, _PAST_CLOT, ((38, 10, -18), (46, 5, 0), (50, -10, 15), (52, -30, 22))),
    (0, 0, 1.0, _PAST_CLOT, ((38, 10, -18), (45, 20, 0), (46, 28, 18))),
    (1, 1, 1.8, _NEAR_CLOT, ((0, -14, -52), (0, -12, -35), (0, -10, -20))),
    (2, 3, 1.2, _NEAR_CLOT, ((0, -10, -20), (10, -10, -18), (20, -25, -12), (22, -45, -6))),
    (8, 9, 0.9, _NEAR_CLOT, ((13, 10, -25), (10, 0, -23), (8, -9, -19))),
    (4, 6, 2.2, _NEAR_CLOT, ((17, 8, -56), (15, 6, -36), (13, 12, -24))),
    (11, 12, 1.2, _NEAR_CLOT, ((13, 12, -24), (4, 24, -20), (3, 36, -6), (2, 40, 14), (2, 28, 30))),
    (10, 10, 1.0, _NEAR_CLOT, ((4, 24, -20), (0, 25, -20))),
    (5, 7, 1.6, _NEAR_CLOT, ((13, 12, -24), (18, 13, -23), (24, 13, -22))),
    (5, 7, 1.6, _PAST_CLOT, ((31, 12, -20), (38, 10, -18))),
    (5, 7, 1.6, _AT_CLOT, ((24, 13, -22), (31, 12, -20))),
)
"""Label on the right, label on the left, radius in mm, place and right-sided centre line, RAS mm."""

_THIRD_A2: Final = (15, 15, 0.9, _NEAR_CLOT, ((0, 25, -20), (0, 38, -6), (0, 42, 12)))
_CLOT_SIDE_STATE: Final = {_NEAR_CLOT: FLOWING, _AT_CLOT: CLOT, _PAST_CLOT: STALLED}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What makes one subject: all that images and tables have in common.

    Parameters
    ----------
    index
        Counts the subjects from 0; the oddities of a release depend on it.
    side
        1: right hemisphere, -1: left.
    occluded
        Whether there is a clot to mark.
    territory
        Size of the hypoperfused territory, 1 for about 130 mL.
    core, infarct
        q within which flow is lost at admission, and within which tissue is lost in the end.
    infarct_ml
        About the volume of the final infarct in mL.
    size, ventricles
        Of the head and of its ventricles, 1 on average.
    phases
        Of the gyri and of the border of the infarct, in radians.
    tilt
        Angles of the gantry about x, y and z by space, in degrees.
    turn, shift
        How far from where the headers of the CTP as acquired say the head was, when it was acquired: angles about x, y
        and z in degrees, and a way in RAS mm.
    """

    index: int
    side: int
    occluded: bool
    territory: float
    core: float
    infarct: float
    infarct_ml: float
    size: float
    ventricles: float
    phases: tuple[float, ...]
    tilt: dict[str, tuple[float, float, float]]
    turn: tuple[float, float, float]
    shift: tuple[float, float, float]


def _ball(x: Floats, y: Floats, z: Floats, centre: Sequence[float], radii: Sequence[float]) -> Floats:
    """Return the squared distance from the centre, in units of the radii."""
    (a, b, c), (i, j, k) = centre, radii
    return np.asarray(((x - a) / i) ** 2 + ((y - b) / j) ** 2 + ((z - c) / k) ** 2)


def _within_head(x: Floats, y: Floats, z: Floats) -> NDArray[np.bool_]:
    radius = np.where(z > 0, np.float32(91), np.float32(130))
    return np.asarray((x / 79) ** 2 + (y / 100) ** 2 + (z / radius) ** 2 < 1)


def _tissue(x: Floats, y: Floats, z: Floats, patient: Patient) -> NDArray[np.uint8]:
    """Return the tissue at points within the head, RAS mm of a head of average size; without arteries."""
    ax, phases = np.abs(x), patient.phases
    depth = np.where(z > 0, np.float32(78), np.float32(52))
    cerebrum = (x / 67) ** 2 + (y / 86) ** 2 + (z / depth) ** 2
    brain = np.minimum(cerebrum, _ball(x, y, z, (0, -42, -46), (50, 36, 24)))
    brain = np.sqrt(np.minimum(brain, _ball(x, y, z, (0, -16, -52), (13, 13, 34))))
    fold = np.sin(0.5 * x + 1.8 * np.sin(0.13 * y + phases[0])) * np.sin(0.45 * y + 1.8 * np.sin(0.14 * z + phases[1]))
    fold += 0.6 * np.sin(0.5 * z + 1.5 * np.sin(0.12 * x + phases[2]))

    tissue = np.full(x.shape, SOFT, dtype=np.uint8)
    tissue[_ball(ax, y, z, (55, -18, -55), (11, 13, 12)) < 1] = BONE
    for centre, radii in (((13, 72, -62), (15, 20, 18)), ((0, -5, -75), (12, 9, 25)), ((56, -20, -56), (6, 7, 7))):
        tissue[_ball(ax, y, z, centre, radii) < 1] = AIR
    tissue[_ball(ax, y, z, (31, 74, -40), (12, 12, 12)) < 1] = FLUID
    tissue[brain < 1.1] = BONE
    tissue[_ball(ax, y, z, (0, 90, 8), (14, 4, 9)) < 1] = AIR
    tissue[brain < 1] = FLUID
    tissue[brain < 0.975 - 0.07 * np.maximum(fold, 0)] = GREY
    tissue[brain < 0.87 - 0.11 * fold] = WHITE
    _add_fissures(tissue, ax, y, z, fold=fold, cerebrum=cerebrum)
    _add_deep_structures(tissue, ax, y, z, patient=patient)
    sinus = (ax < 4) & (np.abs(np.sqrt(cerebrum) - 0.99) < 0.035) & ((z > 10) | (y < -50))
    tissue[sinus] = VEIN
    return tissue


def _add_fissures(
    tissue: NDArray[np.uint8], ax: Floats, y: Floats, z: Floats, *, fold: Floats, cerebrum: Floats
) -> None:
    inner = cerebrum < 0.94
    midline = inner & ((z > 28) | (y > 38) | (y < -58)) & (z > -30)
    sylvian = np.abs(z + 8 - 0.3 * (15 - y)) + np.where((ax > 34) & (np.abs(y) < 32), np.float32(0), np.float32(99))
    tissue[(midline & (ax < 5 + fold)) | (inner & (sylvian < 5))] = GREY
    tissue[(midline & (ax < 1.3)) | (inner & (sylvian < 1.6))] = FLUID


def _add_deep_structures(tissue: NDArray[np.uint8], ax: Floats, y: Floats, z: Floats, *, patient: Patient) -> None:
    grey = (((14, 18, 10), (6, 12, 10)), ((26, 4, 2), (6, 17, 11)), ((11, -14, 8), (9, 14, 9)))
    horns = (((8, 2, 22), (6, 34, 7)), ((9, 27, 13), (5, 15, 10)), ((21, -40, 10), (8, 18, 9)))
    fluid = (*horns, ((0, -6, 6), (2, 14, 10)), ((0, -38, -38), (7, 6, 9)))
    for centre, radii in grey:
        tissue[_ball(ax, y, z, centre, radii) < 1] = GREY
    for centre, radii in fluid:
        tissue[_ball(ax, y, z, centre, radii) < patient.ventricles**2] = FLUID
    tissue[_ball(ax, y, z, (0, 8, -24), (17, 20, 6)) < 1] = FLUID


def _level(x: Floats, y: Floats, z: Floats, patient: Patient) -> NDArray[np.uint8]:
    """Return how far into the hypoperfused territory points lie, RAS mm of a head of average size."""
    a, b, c = patient.phases[3:]
    width = patient.territory
    q = np.sqrt(_ball(x * patient.side, y, z, (38, 0, 14), (27 * width, 42 * width, 33 * width)))
    q += 0.13 * np.sin(0.13 * x + a) * np.sin(0.11 * y + b) + 0.08 * np.sin(0.2 * z + 0.1 * x + c)
    q += 0.06 * np.sin(0.28 * y + 0.2 * z + c) + 0.04 * np.sin(0.9 * x + b) * np.sin(0.8 * y + c) * np.sin(0.6 * z + a)
    return np.asarray(np.clip(q * LEVELS_PER_Q, 0, FAR), dtype=np.uint8)


def plane_positions(affine: NDArray[np.float64], shape: tuple[int, int, int], k: int) -> tuple[Floats, ...]:
    """Return three float32 arrays, (y, x): what the affine makes of the voxels of one slice.

    Parameters
    ----------
    affine
        4 x 4.
    shape
        Of the volume, (x, y, z).
    k
        Index of the slice along z.
    """
    i = np.arange(shape[0], dtype=np.float32)
    j = np.arange(shape[1], dtype=np.float32)[:, None]
    rows = affine[:3].astype(np.float32)
    return tuple(row[0] * i + (row[1] * j + (row[2] * np.float32(k) + row[3])) for row in rows)


def phantom_codes(grid: Grid, patient: Patient) -> Codes:
    """Return the codes of all voxels, (z, y, x) in the order of the grid's axes, which are those of a file.

    Parameters
    ----------
    grid
        Where the voxels lie on the head.
    patient
        Whose head.
    """
    codes = np.full(grid.shape[::-1], AIR << 8 | FAR, dtype=np.uint16)
    shrink = np.diag([*[1 / patient.size] * 3, 1])
    for k, plane in enumerate(codes):
        x, y, z = plane_positions(shrink @ grid.affine, grid.shape, k)
        head = _within_head(x, y, z)
        points = x[head], y[head], z[head]
        plane[head] = _tissue(*points, patient).astype(np.uint16) << 8 | _level(*points, patient)
    _add_arteries(codes, grid, patient)
    return codes


def _add_arteries(codes: Codes, grid: Grid, patient: Patient) -> None:
    """Mark every voxel that an artery passes: on coarse grids arteries are thinner than a voxel."""
    inverse = np.linalg.inv(grid.affine)
    step = 0.7 * min(grid.spacing)
    vessels = (*_VESSELS, _THIRD_A2) if patient.index % 4 == 3 else _VESSELS
    for (right, left, radius, place, line), side in itertools.product(vessels, (1, -1)):
        state = _CLOT_SIDE_STATE[place] if patient.occluded and side == patient.side else FLOWING
        points = patient.size * _tube(line, radius=radius, step=step) * (side, 1, 1)
        index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.intp)
        x, y, z = index[((index >= 0) & (index < grid.shape)).all(axis=1)].T
        codes[z, y, x] = (state + (right if side == 1 else left)) << 8 | FAR


def _tube(line: Sequence[Sequence[float]], *, radius: float, step: float) -> NDArray[np.float64]:
    """Return points that fill a tube about a polyline, at most a step apart, (n, 3) in mm."""
    offsets = np.arange(-math.ceil(radius / step), math.ceil(radius / step) + 1) * step
    ball = np.stack(np.meshgrid(offsets, offsets, offsets), axis=-1).reshape(-1, 3)
    ball = ball[(ball**2).sum(axis=1) <= radius**2]
    centres = []
    for start, end in itertools.pairwise(np.array(line, dtype=np.float64)):
        pieces = math.ceil(float(np.linalg.norm(end - start)) / min(step, radius))
        centres.append(start + (end - start) * np.linspace(0, 1, pieces + 1)[:, None])
    return np.asarray(np.concatenate(centres)[:, None] + ball).reshape(-1, 3)


def seen_codes(codes: Codes, grid: Grid, scanner: Grid) -> Codes:
    """Return the codes of what a scanner saw: its slab, and a round field of view about its axis.

    Beyond the slab there is nothing to resample; a reconstruction pads the corners of its own slices.

    Parameters
    ----------
    codes
        (z, y, x), of everything.
    grid
        Of the codes.
    scanner
        The grid of the slab where it lay on the head.
    """
    seen = codes.copy()
    in_plane = [axis for axis, code in enumerate(scanner.axis_codes) if code not in "SI"]
    shape, spacing = np.array(scanner.shape), np.array(scanner.spacing)
    radius = (shape * spacing)[in_plane].min() / 2
    to_scanner = np.linalg.inv(scanner.affine) @ grid.affine
    for k, plane in enumerate(seen):
        index = plane_positions(to_scanner, grid.shape, k)
        offset = [(index[axis] - (shape[axis] - 1) / 2) * spacing[axis] for axis in range(3)]
        plane[offset[in_plane[0]] ** 2 + offset[in_plane[1]] ** 2 > radius**2] = OUTSIDE << 8
        for axis in range(3):
            plane[np.abs(offset[axis]) > shape[axis] * spacing[axis] / 2 + 1e-3] = UNSEEN << 8
    return seen
