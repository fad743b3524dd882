"""A synthetic release: head phantoms in the layout of ISLES'24, for demonstrations, tests and benchmarks.

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
import datetime as dt
import io
import itertools
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import nibabel as nib
import numpy as np

from isles24_zarr.errors import DestinationError, UnknownNameError
from isles24_zarr.grid import Grid
from isles24_zarr.nifti import write_nifti
from isles24_zarr.release import DICTIONARY_NAME
from isles24_zarr.vocabulary import (
    BASELINE,
    CLINICAL_VARIABLES,
    COW_LABELS,
    IMAGE_KINDS,
    REFERENCE_SPACE,
    TABLE_OF_SESSION,
    ImageKind,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Codes = NDArray[np.uint16]

Scale = Literal["tiny", "small", "full"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Sampling:
    """Voxels along the patient's x, y and z by space; fewest and most frames; arrival and width of the bolus, s."""

    shapes: dict[str, tuple[int, int, int]]
    frames: tuple[int, int]
    arrival: float
    width: float


_SAMPLINGS: Final[dict[str, _Sampling]] = {
    "tiny": _Sampling({"ncct": (48, 56, 12), "ctp": (32, 32, 6), "cta": (40, 40, 20)}, (10, 12), 1.0, 0.5),
    "small": _Sampling({"ncct": (128, 140, 24), "ctp": (64, 64, 8), "cta": (128, 128, 40)}, (24, 30), 4.0, 1.0),
    "full": _Sampling({"ncct": (512, 586, 74), "ctp": (256, 256, 16), "cta": (512, 512, 300)}, (45, 45), 8.0, 1.5),
}
_EXTENTS_MM: Final = {"ncct": (215.0, 246.0, 148.0), "ctp": (218.0, 218.0, 92.0), "cta": (215.0, 215.0, 180.0)}
_CENTRES_MM: Final = {"ncct": (0.0, 0.0, 8.0), "ctp": (0.0, 0.0, 10.0), "cta": (0.0, 0.0, 0.0)}
_AXES: Final = {"ncct": ("LAS", "LPS", "LAS"), "ctp": ("LPS", "LAS", "RAS"), "cta": ("RAS", "LPS", "ASR")}
"""By space, for the first, second and third subject and so on in turn."""

# --- anatomy ---

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
class _Patient:
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

    @property
    def name(self) -> str:
        return f"sub-stroke{1 + self.index * 3 // 2:04d}"


def _generator(seed: int, index: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, *purpose])


def _patient(seed: int, index: int) -> _Patient:
    rng = _generator(seed, index, 0)
    occluded = index % 3 != 2
    territory = rng.uniform(0.85, 1.05) if occluded else rng.uniform(0.6, 0.7)
    whole_ml = 130 * territory**3
    infarct_ml = float(np.clip(rng.lognormal(3.3 if occluded else 2.3, 0.9), 4, 0.85 * whole_ml))
    infarct = (infarct_ml / whole_ml) ** (1 / 3)
    about_x = rng.uniform(10, 20, 3)
    others = rng.uniform(-8, 8, 6) if index % 3 == 2 else np.zeros(6)
    return _Patient(
        index=index,
        side=1 if rng.random() < 0.5 else -1,
        occluded=occluded,
        territory=territory,
        core=infarct * rng.uniform(0.55, 0.9),
        infarct=infarct,
        infarct_ml=infarct_ml,
        size=rng.uniform(0.95, 1.03),
        ventricles=rng.uniform(0.8, 1.3),
        phases=tuple(rng.uniform(0, 2 * np.pi, 6)),
        tilt={
            "ncct": (about_x[0], others[0], others[1]),
            "ctp": (about_x[1], others[2], others[3]),
            "cta": (about_x[2] - 15, others[4], others[5]),
        },
    )


def _ball(x: Floats, y: Floats, z: Floats, centre: Sequence[float], radii: Sequence[float]) -> Floats:
    """Return the squared distance from the centre, in units of the radii."""
    (a, b, c), (i, j, k) = centre, radii
    return np.asarray(((x - a) / i) ** 2 + ((y - b) / j) ** 2 + ((z - c) / k) ** 2)


def _within_head(x: Floats, y: Floats, z: Floats) -> NDArray[np.bool_]:
    radius = np.where(z > 0, np.float32(91), np.float32(130))
    return np.asarray((x / 79) ** 2 + (y / 100) ** 2 + (z / radius) ** 2 < 1)


def _tissue(x: Floats, y: Floats, z: Floats, patient: _Patient) -> NDArray[np.uint8]:
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


def _add_deep_structures(tissue: NDArray[np.uint8], ax: Floats, y: Floats, z: Floats, *, patient: _Patient) -> None:
    grey = (((14, 18, 10), (6, 12, 10)), ((26, 4, 2), (6, 17, 11)), ((11, -14, 8), (9, 14, 9)))
    horns = (((8, 2, 22), (6, 34, 7)), ((9, 27, 13), (5, 15, 10)), ((21, -40, 10), (8, 18, 9)))
    fluid = (*horns, ((0, -6, 6), (2, 14, 10)), ((0, -38, -38), (7, 6, 9)))
    for centre, radii in grey:
        tissue[_ball(ax, y, z, centre, radii) < 1] = _GREY
    for centre, radii in fluid:
        tissue[_ball(ax, y, z, centre, radii) < patient.ventricles**2] = _FLUID
    tissue[_ball(ax, y, z, (0, 8, -24), (17, 20, 6)) < 1] = _FLUID


def _level(x: Floats, y: Floats, z: Floats, patient: _Patient) -> NDArray[np.uint8]:
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


def _phantom_codes(grid: Grid, patient: _Patient) -> Codes:
    """Return the codes of all voxels, (z, y, x) in the order of the grid's axes."""
    codes = np.full(grid.shape[::-1], _AIR << 8 | _FAR, dtype=np.uint16)
    shrink = np.diag([*[1 / patient.size] * 3, 1])
    for k, plane in enumerate(codes):
        x, y, z = _plane_positions(shrink @ grid.affine, grid.shape, k)
        head = _within_head(x, y, z)
        points = x[head], y[head], z[head]
        plane[head] = _tissue(*points, patient).astype(np.uint16) << 8 | _level(*points, patient)
    _add_arteries(codes, grid, patient)
    return codes


def _add_arteries(codes: Codes, grid: Grid, patient: _Patient) -> None:
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


def _seen_codes(codes: Codes, grid: Grid, scanner: Grid) -> Codes:
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


# --- images: tables over tissue and level ---

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
class _Finish:
    """How voxels of an image are stored: type, noise in the head and in air as (acquired, registered), step."""

    dtype: type[np.generic]
    head: tuple[float, float] = (0.0, 0.0)
    air: tuple[float, float] = (0.0, 0.0)
    step: float = 1.0


_FINISHES: Final = {
    "ncct": _Finish(dtype=np.int16, head=(5, 5), air=(8, 8)),
    "cta": _Finish(dtype=np.int16, head=(6, 8), air=(1.5, 8)),
    "ctp": _Finish(dtype=np.int16, head=(12, 10), air=(20, 20)),
    "tmax": _Finish(dtype=np.float32, head=(0.4, 0.3), step=0.001),
    "mtt": _Finish(dtype=np.float32, head=(0.4, 0.3), step=0.001),
    "cbf": _Finish(dtype=np.float32, head=(3, 2), step=0.01),
    "cbv": _Finish(dtype=np.float32, head=(0.25, 0.2), step=0.001),
    "dwi": _Finish(dtype=np.float32, head=(20, 20), step=0.01),
    "adc": _Finish(dtype=np.float32, head=(60, 60), step=0.01),
    "lesion_mask": _Finish(dtype=np.uint16),
    "lvo_mask": _Finish(dtype=np.uint16),
    "cow_mask": _Finish(dtype=np.uint8),
}
_MAPS: Final = ("tmax", "mtt", "cbf", "cbv")


def _image_tables(patient: _Patient, sampling: _Sampling, frames: int) -> dict[str, Floats]:
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
    curves = _curves(maps, sampling, frames)
    single = {"ncct": hu, "cta": hu + iodine, **maps, "dwi": dwi, "adc": adc}
    masks = {"lesion_mask": lesion, "lvo_mask": lvo, "cow_mask": cow}
    return {"ctp": hu + curves, **{name: table[None] for name, table in (single | masks).items()}}


def _perfusion_maps(q: NDArray[np.float64], patient: _Patient) -> dict[str, Floats]:
    """Return Tmax and MTT in s, CBF in mL/100 g/min and CBV in mL/100 g by (tissue, level); 0 outside the brain."""
    core = patient.core
    maps = {name: np.zeros((_TISSUES, q.size), dtype=np.float32) for name in _MAPS}
    for tissue, (flow, volume, delay) in _FLOW.items():
        maps["tmax"][tissue] = np.interp(q, (0, core, 1, 1.25), (13, 9.5, 6, delay))
        maps["cbf"][tissue] = flow * np.interp(q, (0, core, core + 0.08, 1, 1.25), (0.1, 0.22, 0.45, 0.7, 1))
        maps["cbv"][tissue] = volume * np.interp(q, (0, core, core + 0.08, 1, 1.25), (0.25, 0.5, 1.1, 1.15, 1))
        maps["mtt"][tissue] = 60 * maps["cbv"][tissue] / maps["cbf"][tissue]
    return maps


def _curves(maps: dict[str, Floats], sampling: _Sampling, frames: int) -> Floats:
    """Return the enhancement in HU by (frame, tissue, level), a frame a second."""
    stride = round(1 / _FINE_STEP)
    seconds = np.arange(frames * stride) * _FINE_STEP

    def arterial(delay: float) -> NDArray[np.float64]:
        # a gamma variate of exponent 3, scaled to its peak
        since = np.maximum(seconds - sampling.arrival - delay, 0) / (3 * sampling.width)
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


class _Noise:
    """Standard normal noise by the slice: windows of one pool, each somewhere else."""

    def __init__(self, rng: np.random.Generator, plane: tuple[int, int], *, smooth: bool) -> None:
        self._rng, self._plane = rng, plane
        # resampling smooths the noise of a registered volume
        rows, columns = (count + max(count, 256) + 2 for count in plane)
        pool: Floats = rng.standard_normal((rows, columns), dtype=np.float32)
        if smooth:
            pool = pool[:-2] + 2 * pool[1:-1] + pool[2:]
            pool = (pool[:, :-2] + 2 * pool[:, 1:-1] + pool[:, 2:]) / 6
        self._pool = pool

    def plane(self) -> Floats:
        """Return noise for one slice, (y, x)."""
        row, column = (self._rng.integers(a - b) for a, b in zip(self._pool.shape, self._plane, strict=True))
        return self._pool[row : row + self._plane[0], column : column + self._plane[1]]


def _voxels(
    image: str, table: Floats, codes: Codes, rng: np.random.Generator, *, registered: bool, broken: bool
) -> Iterator[NDArray[Any]]:
    """Yield an image slice by slice, in the order of its file."""
    finish = _FINISHES[image]
    noise = _Noise(rng, codes.shape[1:], smooth=registered)
    spread = _spread(image, registered=registered)
    lowest = -1024 if finish.dtype is np.int16 else 0
    for frame, plane in itertools.product(table, codes):
        values = frame.reshape(-1).take(plane)
        if finish.head[registered]:
            sample, scale = noise.plane(), spread.take(plane)
            values += sample * scale
            values = np.maximum(np.rint(values / finish.step) * np.float32(finish.step), lowest)
            if broken:
                values[(sample > 3) & (scale > 0)] = np.nan
                values[(sample < -3) & (scale > 0)] = np.inf
        yield values.astype(finish.dtype)[None]


def _spread(image: str, *, registered: bool) -> Floats:
    """Return the standard deviation of the noise by code."""
    finish = _FINISHES[image]
    spread = np.zeros((_TISSUES, _FAR + 1), dtype=np.float32)
    spread[_AIR] = finish.air[registered]
    spread[_BRAIN if image in _MAPS else slice(_SOFT, None)] = finish.head[registered]
    return spread.reshape(-1)


# --- files ---


def _grids(patient: _Patient, sampling: _Sampling) -> dict[str, Grid]:
    """Return the grid of each space."""
    turn = patient.index % 3
    return {
        space: _oblique_grid(
            codes=_AXES[space][turn],
            shape=(shape[0], round(shape[1] * (1, 0.93, 1.04)[turn]), round(shape[2] * (1, 1.08, 0.92)[turn])),
            extent=_EXTENTS_MM[space],
            centre=_CENTRES_MM[space],
            degrees=patient.tilt[space],
        )
        for space, shape in sampling.shapes.items()
    }


def _oblique_grid(
    *,
    codes: str,
    shape: tuple[int, int, int],
    extent: tuple[float, float, float],
    centre: tuple[float, float, float],
    degrees: tuple[float, float, float],
) -> Grid:
    """Return a grid about a centre, RAS mm; shape and extent are the patient's, the codes tell the file's order."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.roll([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]], axis, (0, 1))
        rotation = rotation @ turn
    axes = [next(axis for axis, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in codes]
    signs = [1.0 if code in "RAS" else -1.0 for code in codes]
    x, y, z = (shape[axis] for axis in axes)
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, axes] * signs * [round(extent[axis] / shape[axis], 6) for axis in axes]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    return Grid(shape=(x, y, z), affine=affine)


def _header(
    image: str, grid: Grid, frames: int, patient: _Patient, rng: np.random.Generator, *, registered: bool
) -> bytes:
    """Return all bytes before the voxels, with the habits of NiftyReg for registered volumes."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(_FINISHES[image].dtype)
    header.set_data_shape((*grid.shape, frames) if image == "ctp" else grid.shape)
    affine = grid.affine.copy()
    if registered:
        affine[:3, 3] += rng.uniform(-1e-5, 1e-5, 3)
    sform_code, qform_code = (1, 2) if registered else ((1, 1), (0, 1), (1, 0))[patient.index % 3]
    header.set_qform(affine, qform_code)
    header.set_sform(affine, sform_code)
    header["pixdim"][4:] = 0
    if image == "ctp":
        header["pixdim"][4] = 0 if registered and patient.index == 1 else 1
    header["xyzt_units"] = 2
    unscaled = registered and image != "cow_mask"
    header["scl_slope"], header["scl_inter"] = (np.nan, np.nan) if unscaled else (1, 0)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["descrip"] = b"isles24-zarr synthetic phantom"
    return bytes(header.binaryblock) + bytes(4)


def _image_path(patient: _Patient, kind: ImageKind, *, registered: bool) -> Path:
    session = f"ses-{kind.session:02d}"
    folder = Path("derivatives" if registered else "raw_data", patient.name, session)
    space = f"_space-{REFERENCE_SPACE}" if registered else ""
    name = f"{patient.name}_{session}{space}_{kind.suffix}.nii.gz"
    return folder / "perfusion-maps" / name if kind.name in _MAPS else folder / name


def _write_images(folder: Path, patient: _Patient, sampling: _Sampling, seed: int) -> None:
    fewest, most = sampling.frames
    frames = most - patient.index % (most - fewest + 1)
    tables, grids = _image_tables(patient, sampling, frames), _grids(patient, sampling)
    reference = grids[REFERENCE_SPACE]
    anatomy = _phantom_codes(reference, patient)

    def write(space: str, grid: Grid, codes: Codes, *, registered: bool) -> None:
        for position, kind in enumerate(IMAGE_KINDS):
            if kind.acquired_space != space or (kind.is_mask and not registered):
                continue
            rng = _generator(seed, patient.index, 2, position, int(registered))
            header = _header(kind.name, grid, frames, patient, rng, registered=registered)
            broken = kind.name == "mtt" and patient.index == 2
            blocks = _voxels(kind.name, tables[kind.name], codes, rng, registered=registered, broken=broken)
            path = folder / _image_path(patient, kind, registered=registered)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(path, header, blocks)

    write("dwi", reference, anatomy, registered=True)
    for space, grid in grids.items():
        if space == REFERENCE_SPACE:
            codes = anatomy
        else:
            write(space, reference, _seen_codes(anatomy, reference, grid), registered=True)
            codes = _phantom_codes(grid, patient)
        write(space, grid, _seen_codes(codes, grid, grid), registered=False)


# --- tables ---

_CELL_GAPS: Final = {"flag": 0.03, "number": 0.08, "category": 0.02, "score": 0.1, "duration": 0.6}
_GAPS: Final = {
    "age": 0.0, "sex": 0.0, "nihss_admission": 0.02, "mrs_3month": 0.08, "nihss_24h": 0.5, "onset_to_door": 0.2
}  # fmt: skip
_FREQUENCIES: Final = {"hypertension": 0.7, "atrial_fibrillation": 0.4, "referral": 0.5, "in_house": 0.05}
_NUMBERS: Final = {"glucose": (128, 35, 0), "leucocytes": (8.7, 2.4, 1), "crp": (0.9, 0.8, 1), "inr": (1.1, 0.15, 2)}
"""Mean, standard deviation and decimals."""

_MINUTES: Final = {"onset_to_door": 180.0, "alert_to_door": 60.0, "door_to_imaging": 20.0, "time_of_intervention": 55.0}
_DICTIONARY_NAMES: Final = {
    "mRS 3 months": "MRS 3 months",
    "mRS discharge": "MRS discharge",
    "TICI postinterventional": "mTici postinterventional",
    "Lipid lowering drugs": "Statins",
}
_DATA_TYPES: Final = {
    "category": "text", "flag": "0 = no, 1 = yes", "score": "integer", "number": "decimal", "duration": "hrs:min"
}  # fmt: skip


def _clinical_values(patient: _Patient, rng: np.random.Generator) -> dict[str, Any]:
    """Return every clinical variable by name, without gaps; what the infarct does grows with its volume."""
    volume = patient.infarct_ml
    nihss = 4 + 1.7 * math.sqrt(volume) + rng.normal(0, 2)
    age = float(np.clip(rng.normal(73, 12), 22, 97))
    mrs = 0.4 + 5.5 * volume / (volume + 40) + 0.03 * (age - 73) + rng.normal(0, 0.7)

    def score(value: float, most: int) -> int:
        return int(np.clip(round(value), 0, most))

    return {
        "center": f"Center {1 + rng.integers(2)}",
        "age": round(age, 1) if patient.index % 4 == 1 else round(age),
        "sex": "m" if patient.index == 1 else str(rng.choice(["F", "M"])),
        "hyperlipidemia": 2 if patient.index == 2 else int(rng.random() < 0.4),
        "nihss_admission": score(nihss, 42),
        "mrs_admission": score(3.2 + nihss / 15, 5),
        "mrs_premorbid": int(rng.choice(4, p=[0.7, 0.15, 0.1, 0.05])),
        "mtici": [0, 1, "2a", "2b", "2b", "2c", 3, "3"][rng.integers(8)],
        "nihss_24h": score(nihss * rng.uniform(0.4, 1.1), 42),
        "mrs_24h": score(mrs + 1, 5),
        "nihss_discharge": score(nihss * rng.uniform(0.2, 0.8), 42),
        "mrs_discharge": score(mrs + 0.5, 6),
        "mrs_3month": score(mrs, 6),
    }


def _duration_cell(rng: np.random.Generator, minutes: int) -> Any:
    """Return a duration in one of the ways in which spreadsheets hold it."""
    length = dt.timedelta(minutes=minutes)
    whole_days, rest = divmod(minutes, 24 * 60)
    clock = length if whole_days else dt.time(rest // 60, rest % 60)
    return (f"{minutes // 60}:{minutes % 60:02d}", clock, length, minutes / (24 * 60))[rng.integers(4)]


def _clinical_cells(patient: _Patient, seed: int) -> dict[str, Any]:
    """Return a cell for every clinical variable by name, ``None`` where nobody wrote it down."""
    rng = _generator(seed, patient.index, 1)
    cells = _clinical_values(patient, rng)
    for variable in CLINICAL_VARIABLES:
        name, kind = variable.name, variable.kind
        if kind == "duration":
            minutes = round(_MINUTES.get(name, 110.0) * rng.lognormal(0, 0.6))
            cells[name] = _duration_cell(rng, minutes)
        elif name in _NUMBERS:
            mean, deviation, decimals = _NUMBERS[name]
            cells[name] = max(round(rng.normal(mean, deviation), decimals), 0.1)
        elif name not in cells:
            cells[name] = int(rng.random() < _FREQUENCIES.get(name, 0.25))
        if rng.random() < _GAPS.get(name, _CELL_GAPS[kind]):
            cells[name] = None
    return cells


def _write_tables(folder: Path, patient: _Patient, seed: int) -> None:
    cells = _clinical_cells(patient, seed)
    for number, table in TABLE_OF_SESSION.items():
        columns = [variable for variable in CLINICAL_VARIABLES if variable.table == table]
        session = f"ses-{number:02d}"
        path = folder / "phenotype" / patient.name / session / f"{patient.name}_{session}_{table}.xlsx"
        rows = [[variable.column for variable in columns], [cells[variable.name] for variable in columns]]
        _write_workbook(path, rows, title="Sheet1")


def _write_dictionary(folder: Path) -> None:
    rows: list[list[Any]] = [["Supplementary Table 1: clinical data of a synthetic release"], []]
    rows.append(["Timepoint", "Parameter", "Unit", "Data type", "Description"])
    for variable in CLINICAL_VARIABLES:
        units = "hrs:min" if variable.kind == "duration" else (variable.units or "").strip("1")
        rows.append(
            [
                "Baseline" if variable.table == BASELINE else "Outcome",
                _DICTIONARY_NAMES.get(variable.column, variable.column),
                units or None,
                _DATA_TYPES[variable.kind],
                variable.long_name,
            ]
        )
    _write_workbook(folder / DICTIONARY_NAME, rows, title="Suppl. Tab. 1")


def _write_workbook(path: Path, rows: Sequence[list[Any]], *, title: str) -> None:
    from openpyxl import Workbook
    from openpyxl.writer.excel import ExcelWriter

    workbook = Workbook()
    workbook.properties.created = workbook.properties.modified = dt.datetime.fromisoformat("2024-01-01")
    sheet = workbook.worksheets[0]
    sheet.title = title
    for row in rows:
        sheet.append(row)
    for cell in itertools.chain.from_iterable(sheet.iter_rows()):
        if isinstance(cell.value, dt.timedelta):
            cell.number_format = "[h]:mm"
    packed = io.BytesIO()
    # Workbook.save would set the time of writing, and so do the entries of any new archive
    ExcelWriter(workbook, zipfile.ZipFile(packed, "w")).save()
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(packed) as dated, zipfile.ZipFile(path, "w") as undated:
        for name in dated.namelist():
            undated.writestr(zipfile.ZipInfo(name), dated.read(name), zipfile.ZIP_DEFLATED)


def synthesize(destination: str | os.PathLike[str], *, subjects: int = 3, scale: Scale = "tiny", seed: int = 0) -> Path:
    """Write a synthetic release in the layout of ISLES'24.

    Every subject has 18 images (11 registered to the NCCT, 7 as acquired) and 2 phenotype tables, with the quirks
    of the real ones: oblique grids whose axes run in different directions, affines that differ in their last digits,
    no time unit, non-finite voxels in one MTT map, durations in four kinds of cells. The size of the infarct goes
    with NIHSS and mRS. The same seed gives the same bytes, and a subject does not depend on how many there are.

    Parameters
    ----------
    destination
        Folder to write to; made where it is missing.
    subjects
        How many, at least 1.
    scale
        ``"tiny"``: 48 x 56 x 12 registered voxels and some ten frames, well below a second a subject. ``"small"``:
        128 x 140 x 24 and some 27, seconds. ``"full"``: 512 x 586 x 74 and 45, as large as the real ones (0.7 GB a
        subject), half a minute and half a GB of memory.
    seed
        Of everything random.

    Returns
    -------
    pathlib.Path
        The folder that holds raw_data/, derivatives/ and phenotype/: the destination.

    Raises
    ------
    DestinationError
        The destination is not an empty folder, and cannot be made one.
    UnknownNameError
        There is no such scale, number of subjects or seed.
    """
    folder = Path(destination)
    if seed < 0:
        raise UnknownNameError(seed, "is not a seed, give 0 or a larger number")
    if scale not in _SAMPLINGS:
        raise UnknownNameError(scale, f"is not a scale, choose one of {', '.join(_SAMPLINGS)}")
    if subjects < 1:
        raise UnknownNameError(subjects, "is not a number of subjects, ask for 1 or more")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise DestinationError(folder, f"cannot be written to ({error.strerror}), choose another place") from error
    if occupied:
        raise DestinationError(folder, "is not empty, choose another place")
    _write_dictionary(folder)
    for patient in (_patient(seed, index) for index in range(subjects)):
        _write_images(folder, patient, _SAMPLINGS[scale], seed)
        _write_tables(folder, patient, seed)
    return folder
