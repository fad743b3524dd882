"""A head phantom: anatomy, perfusion and the values of every image, as functions of a position in the head.

The phantom is analytic, in head-centred RAS millimetres, and every image is a look-up in it. A voxel's code is
``tissue << 8 | level``. The level tells how far into the hypoperfused territory the point lies: with q = 0 in its
midst and q = 1 at its border, level = 200 q, up to 255. Volumes of one subject therefore agree in world space
whatever their grids, and an image costs one table look-up a voxel.

Perfusion follows the indicator-dilution model (Ostergaard 1996, doi:10.1002/mrm.1910360510): a tissue curve is
CBF x AIF(t - Tmax) convolved with exp(-t / MTT), MTT = CBV / CBF, and the arterial input AIF a gamma variate.
Nothing here is a patient's, and none of it is meant for science.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.vocabulary import COW_LABELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from isles24_zarr.grid import Grid

    Floats = NDArray[np.floating[Any]]
    Codes = NDArray[np.uint16]

_UNSEEN, _OUTSIDE, _AIR, _SOFT, _BONE, _FLUID, _GREY, _WHITE, _VEIN = range(9)
_FLOWING, _CLOT, _STALLED = 16, 32, 48
"""Arteries: one of these plus the label of the Circle of Willis, 0 for the branches that have none."""

_TISSUES: Final = 64
_FAR: Final = 255
_LEVELS_PER_Q: Final = 200
_BRAIN: Final = [_GREY, _WHITE]

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
_CLOT_SIDE_STATE: Final = {_NEAR_CLOT: _FLOWING, _AT_CLOT: _CLOT, _PAST_CLOT: _STALLED}


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bolus:
    """Contrast agent at the arterial input: when it arrives and how long its peak is, in seconds."""

    arrival: float
    width: float


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

    tissue = np.full(x.shape, _SOFT, dtype=np.uint8)
    tissue[_ball(ax, y, z, (55, -18, -55), (11, 13, 12)) < 1] = _BONE
    for centre, radii in (((13, 72, -62), (15, 20, 18)), ((0, -5, -75), (12, 9, 25)), ((56, -20, -56), (6, 7, 7))):
        tissue[_ball(ax, y, z, centre, radii) < 1] = _AIR
    tissue[_ball(ax, y, z, (31, 74, -40), (12, 12, 12)) < 1] = _FLUID
    tissue[brain < 1.1] = _BONE
    tissue[_ball(ax, y, z, (0, 90, 8), (14, 4, 9)) < 1] = _AIR
    tissue[brain < 1] = _FLUID
    tissue[brain < 0.975 - 0.07 * np.maximum(fold, 0)] = _GREY
    tissue[brain < 0.87 - 0.11 * fold] = _WHITE
    _add_fissures(tissue, ax, y, z, fold=fold, cerebrum=cerebrum)
    _add_deep_structures(tissue, ax, y, z, patient=patient)
    sinus = (ax < 4) & (np.abs(np.sqrt(cerebrum) - 0.99) < 0.035) & ((z > 10) | (y < -50))
    tissue[sinus] = _VEIN
    return tissue


def _add_fissures(
    tissue: NDArray[np.uint8], ax: Floats, y: Floats, z: Floats, *, fold: Floats, cerebrum: Floats
) -> None:
    inner = cerebrum < 0.94
    midline = inner & ((z > 28) | (y > 38) | (y < -58)) & (z > -30)
    sylvian = np.abs(z + 8 - 0.3 * (15 - y)) + np.where((ax > 34) & (np.abs(y) < 32), np.float32(0), np.float32(99))
    tissue[(midline & (ax < 5 + fold)) | (inner & (sylvian < 5))] = _GREY
    tissue[(midline & (ax < 1.3)) | (inner & (sylvian < 1.6))] = _FLUID


def _add_deep_structures(tissue: NDArray[np.uint8], ax: Floats, y: Floats, z: Floats, *, patient: Patient) -> None:
    grey = (((14, 18, 10), (6, 12, 10)), ((26, 4, 2), (6, 17, 11)), ((11, -14, 8), (9, 14, 9)))
    horns = (((8, 2, 22), (6, 34, 7)), ((9, 27, 13), (5, 15, 10)), ((21, -40, 10), (8, 18, 9)))
    fluid = (*horns, ((0, -6, 6), (2, 14, 10)), ((0, -38, -38), (7, 6, 9)))
    for centre, radii in grey:
        tissue[_ball(ax, y, z, centre, radii) < 1] = _GREY
    for centre, radii in fluid:
        tissue[_ball(ax, y, z, centre, radii) < patient.ventricles**2] = _FLUID
    tissue[_ball(ax, y, z, (0, 8, -24), (17, 20, 6)) < 1] = _FLUID


def _level(x: Floats, y: Floats, z: Floats, patient: Patient) -> NDArray[np.uint8]:
    """Return how far into the hypoperfused territory points lie, RAS mm of a head of average size."""
    a, b, c = patient.phases[3:]
    width = patient.territory
    q = np.sqrt(_ball(x * patient.side, y, z, (38, 0, 14), (27 * width, 42 * width, 33 * width)))
    q += 0.13 * np.sin(0.13 * x + a) * np.sin(0.11 * y + b) + 0.08 * np.sin(0.2 * z + 0.1 * x + c)
    q += 0.06 * np.sin(0.28 * y + 0.2 * z + c) + 0.04 * np.sin(0.9 * x + b) * np.sin(0.8 * y + c) * np.sin(0.6 * z + a)
    return np.asarray(np.clip(q * _LEVELS_PER_Q, 0, _FAR), dtype=np.uint8)


def _plane_positions(affine: NDArray[np.float64], shape: tuple[int, int, int], k: int) -> tuple[Floats, ...]:
    """Return three float32 arrays, (y, x): what the affine makes of the voxels of one slice."""
    i = np.arange(shape[0], dtype=np.float32)
    j = np.arange(shape[1], dtype=np.float32)[:, None]
    rows = affine[:3].astype(np.float32)
    return tuple(row[0] * i + (row[1] * j + (row[2] * np.float32(k) + row[3])) for row in rows)


def phantom_codes(grid: Grid, patient: Patient) -> Codes:
    """Return the codes of all voxels, (z, y, x) in the order of the grid's axes, which are those of a file."""
    codes = np.full(grid.shape[::-1], _AIR << 8 | _FAR, dtype=np.uint16)
    shrink = np.diag([*[1 / patient.size] * 3, 1])
    for k, plane in enumerate(codes):
        x, y, z = _plane_positions(shrink @ grid.affine, grid.shape, k)
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
        state = _CLOT_SIDE_STATE[place] if patient.occluded and side == patient.side else _FLOWING
        points = patient.size * _tube(line, radius=radius, step=step) * (side, 1, 1)
        index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.intp)
        x, y, z = index[((index >= 0) & (index < grid.shape)).all(axis=1)].T
        codes[z, y, x] = (state + (right if side == 1 else left)) << 8 | _FAR


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
    """
    seen = codes.copy()
    in_plane = [axis for axis, code in enumerate(scanner.axis_codes) if code not in "SI"]
    shape, spacing = np.array(scanner.shape), np.array(scanner.spacing)
    radius = (shape * spacing)[in_plane].min() / 2
    to_scanner = np.linalg.inv(scanner.affine) @ grid.affine
    for k, plane in enumerate(seen):
        index = _plane_positions(to_scanner, grid.shape, k)
        offset = [(index[axis] - (shape[axis] - 1) / 2) * spacing[axis] for axis in range(3)]
        plane[offset[in_plane[0]] ** 2 + offset[in_plane[1]] ** 2 > radius**2] = _OUTSIDE << 8
        for axis in range(3):
            plane[np.abs(offset[axis]) > shape[axis] * spacing[axis] / 2 + 1e-3] = _UNSEEN << 8
    return seen


# --- images: tables over tissue and level, and what a scanner makes of them ---

_TISSUE_VALUES: Final = {
    # HU, iodine in the CTA in HU, DWI and ADC as an MR scanner stores them
    _OUTSIDE: (-1024, 0, 0, 0),
    _AIR: (-1000, 0, 0, 0),
    _SOFT: (25, 10, 110, 1300),
    _BONE: (900, 0, 25, 250),
    _FLUID: (8, 0, 70, 2900),
    _GREY: (38, 8, 300, 830),
    _WHITE: (29, 4, 255, 750),
    _VEIN: (50, 160, 45, 900),
    _FLOWING: (42, 330, 45, 900),
    _CLOT: (65, 10, 45, 900),
    _STALLED: (42, 120, 45, 900),
}
_FLOW: Final = {_GREY: (62.0, 4.0, 1.2), _WHITE: (25.0, 2.1, 1.8)}
"""Of healthy tissue: CBF in mL/100 g/min, CBV in mL/100 g, Tmax in s."""

_AIF_PEAK_HU: Final = 380.0
_FINE_STEP: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How voxels of an image are stored: type, noise in the head and in air as (acquired, registered), step.

    Noise is a standard deviation, it and the step are in units of the image.
    """

    dtype: type[np.generic]
    head: tuple[float, float] = (0.0, 0.0)
    air: tuple[float, float] = (0.0, 0.0)
    step: float = 1.0


FINISHES: Final = {
    "ncct": Finish(dtype=np.int16, head=(5, 5), air=(8, 8)),
    "cta": Finish(dtype=np.int16, head=(6, 8), air=(1.5, 8)),
    "ctp": Finish(dtype=np.int16, head=(12, 10), air=(20, 20)),
    "tmax": Finish(dtype=np.float32, head=(0.4, 0.3), step=0.001),
    "mtt": Finish(dtype=np.float32, head=(0.4, 0.3), step=0.001),
    "cbf": Finish(dtype=np.float32, head=(3, 2), step=0.01),
    "cbv": Finish(dtype=np.float32, head=(0.25, 0.2), step=0.001),
    "dwi": Finish(dtype=np.float32, head=(20, 20), step=0.01),
    "adc": Finish(dtype=np.float32, head=(60, 60), step=0.01),
    "lesion_mask": Finish(dtype=np.uint16),
    "lvo_mask": Finish(dtype=np.uint16),
    "cow_mask": Finish(dtype=np.uint8),
}
PERFUSION_MAPS: Final = ("tmax", "mtt", "cbf", "cbv")


def image_tables(patient: Patient, bolus: Bolus, frames: int) -> dict[str, Floats]:
    """Return the noise-free value of every code by image, (frames, tissue, level); one frame but for the CTP."""
    q = (np.arange(_FAR + 1) + 0.5) / _LEVELS_PER_Q
    lost = np.ix_(np.isin(np.arange(_TISSUES), _BRAIN), q < patient.infarct)
    values = np.zeros((4, _TISSUES, 1), dtype=np.float32)
    for tissue, row in _TISSUE_VALUES.items():
        values[:, tissue : tissue + 16 if tissue >= _FLOWING else tissue + 1, 0] = np.array(row)[:, None]
    hu, iodine, dwi, adc = np.repeat(values, _FAR + 1, axis=2)
    hu[lost] -= 6
    dwi[lost], adc[lost] = 720, 420
    lesion, lvo, cow = np.zeros((3, *hu.shape), dtype=np.float32)
    lesion[lost] = 1
    lvo[_CLOT : _CLOT + 16] = 1
    for artery, (label, _) in itertools.product((_FLOWING, _CLOT, _STALLED), COW_LABELS):
        cow[artery + label] = label
    maps = _perfusion_maps(q, patient)
    curves = _curves(maps, bolus, frames)
    single = {"ncct": hu, "cta": hu + iodine, **maps, "dwi": dwi, "adc": adc}
    masks = {"lesion_mask": lesion, "lvo_mask": lvo, "cow_mask": cow}
    return {"ctp": hu + curves, **{name: table[None] for name, table in (single | masks).items()}}


def _perfusion_maps(q: NDArray[np.float64], patient: Patient) -> dict[str, Floats]:
    """Return Tmax and MTT in s, CBF in mL/100 g/min and CBV in mL/100 g by (tissue, level); 0 outside the brain."""
    core = patient.core
    maps = {name: np.zeros((_TISSUES, q.size), dtype=np.float32) for name in PERFUSION_MAPS}
    for tissue, (flow, volume, delay) in _FLOW.items():
        maps["tmax"][tissue] = np.interp(q, (0, core, 1, 1.25), (13, 9.5, 6, delay))
        maps["cbf"][tissue] = flow * np.interp(q, (0, core, core + 0.08, 1, 1.25), (0.1, 0.22, 0.45, 0.7, 1))
        maps["cbv"][tissue] = volume * np.interp(q, (0, core, core + 0.08, 1, 1.25), (0.25, 0.5, 1.1, 1.15, 1))
        maps["mtt"][tissue] = 60 * maps["cbv"][tissue] / maps["cbf"][tissue]
    return maps


def _curves(maps: dict[str, Floats], bolus: Bolus, frames: int) -> Floats:
    """Return the enhancement in HU by (frame, tissue, level), a frame a second."""
    stride = round(1 / _FINE_STEP)
    seconds = np.arange(frames * stride) * _FINE_STEP

    def arterial(delay: float) -> NDArray[np.float64]:
        # a gamma variate of exponent 3, scaled to its peak
        since = np.maximum(seconds - bolus.arrival - delay, 0) / (3 * bolus.width)
        return np.asarray(_AIF_PEAK_HU * since**3 * np.exp(3 * (1 - since)))

    curves = np.zeros((frames, _TISSUES, _FAR + 1), dtype=np.float32)
    for artery, delay, part in ((_FLOWING, 0.0, 1.0), (_STALLED, 5.0, 0.5)):
        curves[:, artery : artery + 16] = part * arterial(delay)[::stride, None, None]
    curves[:, _VEIN] = 0.7 * arterial(6.0)[::stride, None]
    for tissue, level in itertools.product(_BRAIN, range(_FAR + 1)):
        tmax, mtt, cbf = (float(maps[name][tissue, level]) for name in ("tmax", "mtt", "cbf"))
        # residue at the middle of each step: the area under the curve is CBV times the arterial one
        residue = np.exp(-(seconds + _FINE_STEP / 2) / mtt)
        response = np.convolve(arterial(tmax), residue)[: seconds.size : stride]
        curves[:, tissue, level] = cbf / 6000 * _FINE_STEP * response
    return curves


def _noise_planes(rng: np.random.Generator, plane: tuple[int, int], *, smooth: bool) -> Iterator[Floats]:
    """Yield standard normal noise by the slice, (y, x), without end: windows of one pool, each somewhere else."""
    rows, columns = (count + max(count, 256) + 2 for count in plane)
    pool: Floats = rng.standard_normal((rows, columns), dtype=np.float32)
    # resampling smooths the noise of a registered volume
    if smooth:
        pool = pool[:-2] + 2 * pool[1:-1] + pool[2:]
        pool = (pool[:, :-2] + 2 * pool[:, 1:-1] + pool[:, 2:]) / 6
    while True:
        row, column = (rng.integers(a - b) for a, b in zip(pool.shape, plane, strict=True))
        yield pool[row : row + plane[0], column : column + plane[1]]


def image_planes(
    image: str, table: Floats, codes: Codes, rng: np.random.Generator, *, registered: bool, broken: bool
) -> Iterator[NDArray[Any]]:
    """Yield an image slice by slice, (1, y, x), in the order of its file.

    Parameters
    ----------
    image
        Its name.
    table
        Its values by (frame, tissue, level).
    codes
        (z, y, x), of what was seen.
    rng
        For the noise.
    registered
        Whether to finish it as a registered image or as an acquired one.
    broken
        Whether it has a few non-finite voxels.
    """
    finish = FINISHES[image]
    noise = _noise_planes(rng, codes.shape[1:], smooth=registered)
    spread = _spread(image, registered=registered)
    lowest = -1024 if finish.dtype is np.int16 else 0
    for frame, plane in itertools.product(table, codes):
        values = frame.reshape(-1).take(plane)
        if finish.head[registered]:
            sample, scale = next(noise), spread.take(plane)
            values += sample * scale
            values = np.maximum(np.rint(values / finish.step) * np.float32(finish.step), lowest)
            if broken:
                values[(sample > 3) & (scale > 0)] = np.nan
                values[(sample < -3) & (scale > 0)] = np.inf
        yield values.astype(finish.dtype)[None]


def _spread(image: str, *, registered: bool) -> Floats:
    """Return the standard deviation of the noise by code."""
    finish = FINISHES[image]
    spread = np.zeros((_TISSUES, _FAR + 1), dtype=np.float32)
    spread[_AIR] = finish.air[registered]
    spread[_BRAIN if image in PERFUSION_MAPS else slice(_SOFT, None)] = finish.head[registered]
    return spread.reshape(-1)
