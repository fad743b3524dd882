"""Images of the phantom: values of tissues, and what scanners, software and readers make of them.

Most images are tables over the phantom's codes, by (tissue, level). The perfusion maps are made on the grid of the CTP
as acquired, as software makes them, and resampled for the registered ones.

Perfusion follows the indicator-dilution model (Ostergaard 1996, doi:10.1002/mrm.1910360510): a tissue curve is
CBF x AIF(t - Tmax) convolved with exp(-t / MTT), MTT = CBV / CBF, the arterial input AIF a gamma variate, and the
factor for haematocrit and density that of the literature. In vessels the maps stop at a limit, below what their curves
would give.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.conventions import blood_factor
from isles24_zarr.synthetic._phantom import (
    AIR,
    BONE,
    BRAIN,
    CLOT,
    FAR,
    FLOWING,
    FLUID,
    GREY,
    LEVELS_PER_Q,
    OUTSIDE,
    SOFT,
    STALLED,
    TISSUES,
    VEIN,
    WHITE,
    plane_positions,
)
from isles24_zarr.vocabulary import COW_LABELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from isles24_zarr.geometry import Grid
    from isles24_zarr.synthetic._phantom import Codes, Floats, Patient

_TISSUE_VALUES: Final = {
    # HU, iodine in the CTA in HU, DWI and ADC as an MR scanner stores them
    OUTSIDE: (-1024, 0, 0, 0),
    AIR: (-1000, 0, 0, 0),
    SOFT: (25, 10, 110, 1300),
    BONE: (900, 0, 25, 250),
    FLUID: (8, 0, 70, 2900),
    GREY: (38, 8, 300, 830),
    WHITE: (29, 4, 255, 750),
    VEIN: (50, 160, 45, 900),
    FLOWING: (42, 330, 45, 900),
    CLOT: (65, 10, 45, 900),
    STALLED: (42, 120, 45, 900),
}
_FLOW: Final = {
    GREY: (62.0, 4.0, 1.2),
    WHITE: (25.0, 2.1, 1.8),
    SOFT: (8.0, 0.7, 4.0),
    BONE: (3.0, 0.25, 3.5),
    FLUID: (4.0, 0.35, 3.5),
}
"""Of healthy tissue: CBF in mL/100 g/min, CBV in mL/100 g, Tmax in s. The maps are not masked to the brain."""

_BLOOD: Final = {VEIN: (1, 0.7, 4.5), FLOWING: (16, 1.0, 0.0), STALLED: (16, 0.5, 7.0)}
"""How many codes, and the curve as a part of the arterial input and its delay in s, which is Tmax."""

_VESSEL_LIMITS: Final = {"cbf": 200.0, "cbv": 12.0}
_AIF_PEAK_HU: Final = 380.0
_FINE_STEP: Final = 0.1
NOT_COMPUTED: Final = {"tmax": -30.0, "mtt": 0.0, "cbf": 0.0, "cbv": 0.0}
"""What perfusion maps hold where there was nothing to compute."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bolus:
    """Contrast agent at the arterial input: when it arrives and how long its peak is, in seconds."""

    arrival: float
    width: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How voxels of an image are stored: type, noise in the head and in air as (acquired, registered), step.

    Noise is a standard deviation, in units of the image; there are so many steps in one unit.
    """

    dtype: type[np.generic]
    head: tuple[float, float] = (0.0, 0.0)
    air: tuple[float, float] = (0.0, 0.0)
    steps: float = 1.0


FINISHES: Final = {
    "ncct": Finish(dtype=np.int16, head=(5, 5), air=(8, 8)),
    "cta": Finish(dtype=np.int16, head=(6, 8), air=(1.5, 8)),
    "ctp": Finish(dtype=np.int16, head=(12, 10), air=(20, 20)),
    "dwi": Finish(dtype=np.float32, head=(20, 20), steps=100),
    "adc": Finish(dtype=np.float32, head=(60, 60), steps=100),
    "tmax": Finish(dtype=np.float32, steps=1000),
    "mtt": Finish(dtype=np.float32, steps=1000),
    "cbf": Finish(dtype=np.float32, steps=100),
    "cbv": Finish(dtype=np.float32, steps=1000),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MaskFinish:
    """How a mask is stored.

    Parameters
    ----------
    dtype
        Of the voxels.
    slope
        That the header holds; NaN and 1 leave voxels as they are.
    soft
        Whether it was interpolated: fractions at its rim.
    """

    dtype: type[np.generic]
    slope: float = math.nan
    soft: bool = False


_PER_65535: Final = float(np.float32(1 / 65535))
MASK_FINISHES: Final = {
    "lesion_mask": (
        MaskFinish(dtype=np.uint16),
        MaskFinish(dtype=np.uint16, slope=_PER_65535),
        MaskFinish(dtype=np.uint16, slope=_PER_65535, soft=True),
        MaskFinish(dtype=np.uint16, slope=1),
        MaskFinish(dtype=np.float32, soft=True),
    ),
    "lvo_mask": (
        MaskFinish(dtype=np.uint16),
        MaskFinish(dtype=np.float32),
        MaskFinish(dtype=np.uint8, slope=1),
    ),
    "cow_mask": (
        MaskFinish(dtype=np.uint8, slope=1),
        MaskFinish(dtype=np.uint16),
        MaskFinish(dtype=np.float32),
    ),
}
"""For the first, second and third subject and so on in turn."""


# --- values by tissue and level ---


def image_tables(patient: Patient) -> dict[str, Floats]:
    """Return the noise-free values of all images but the CTP by name, (tissue, level)."""
    q = _territory()
    lost = np.ix_(np.isin(np.arange(TISSUES), BRAIN), q < patient.infarct)
    values = np.zeros((4, TISSUES, 1), dtype=np.float32)
    for tissue, row in _TISSUE_VALUES.items():
        values[:, tissue : tissue + 16 if tissue >= FLOWING else tissue + 1, 0] = np.array(row)[:, None]
    hu, iodine, dwi, adc = np.repeat(values, FAR + 1, axis=2)
    hu[lost] -= 6
    dwi[lost], adc[lost] = 720, 420
    lesion, lvo, cow = np.zeros((3, *hu.shape), dtype=np.float32)
    lesion[lost] = 1
    lvo[CLOT : CLOT + 16] = 1
    for artery, (label, _) in itertools.product((FLOWING, CLOT, STALLED), COW_LABELS):
        cow[artery + label] = label
    masks = {"lesion_mask": lesion, "lvo_mask": lvo, "cow_mask": cow}
    return {"ncct": hu, "cta": hu + iodine, "dwi": dwi, "adc": adc, **_map_tables(patient), **masks}


def _territory() -> NDArray[np.float64]:
    """Return q in the middle of every level."""
    return (np.arange(FAR + 1) + 0.5) / LEVELS_PER_Q


def _map_tables(patient: Patient) -> dict[str, Floats]:
    """Return Tmax and MTT in s, CBF in mL/100 g/min and CBV in mL/100 g, (tissue, level)."""
    q, core = _territory(), patient.core
    tmax, mtt, cbf, cbv = (np.full((TISSUES, q.size), NOT_COMPUTED[name], np.float32) for name in NOT_COMPUTED)
    for tissue, (flow, volume, delay) in _FLOW.items():
        cbf[tissue], cbv[tissue], tmax[tissue] = flow, volume, delay
    for tissue in BRAIN:
        tmax[tissue] = np.interp(q, (0, core, 1, 1.25), (13, 9.5, 6, _FLOW[tissue][2]))
        cbf[tissue] *= np.interp(q, (0, core, core + 0.08, 1, 1.25), (0.1, 0.22, 0.45, 0.7, 1))
        cbv[tissue] *= np.interp(q, (0, core, core + 0.08, 1, 1.25), (0.25, 0.5, 1.1, 1.15, 1))
    for vessel, (count, _, delay) in _BLOOD.items():
        codes = slice(vessel, vessel + count)
        tmax[codes], cbf[codes], cbv[codes] = delay, _VESSEL_LIMITS["cbf"], _VESSEL_LIMITS["cbv"]
    np.divide(60 * cbv, cbf, out=mtt, where=cbf > 0)
    return {"tmax": tmax, "mtt": mtt, "cbf": cbf, "cbv": cbv}


def series_table(tables: dict[str, Floats], bolus: Bolus, seconds: Floats) -> Floats:
    """Return the noise-free CTP in HU by (frame, tissue, level).

    Parameters
    ----------
    tables
        As of `image_tables`.
    bolus
        At the arterial input.
    seconds
        Times of the frames, ascending from 0.
    """
    fine = np.arange(math.ceil(seconds[-1] / _FINE_STEP) + 1) * _FINE_STEP

    def arterial(delay: float) -> NDArray[np.float64]:
        # a gamma variate of exponent 3, scaled to its peak
        since = np.maximum(fine - bolus.arrival - delay, 0) / (3 * bolus.width)
        return np.asarray(_AIF_PEAK_HU * since**3 * np.exp(3 * (1 - since)))

    curves = np.zeros((seconds.size, TISSUES, FAR + 1), dtype=np.float32)
    for vessel, (count, part, delay) in _BLOOD.items():
        curves[:, vessel : vessel + count] = part * np.interp(seconds, fine, arterial(delay))[:, None, None]
    for tissue in _FLOW:
        # everywhere the same but in the brain
        levels = [slice(level, level + 1) for level in range(FAR + 1)] if tissue in BRAIN else [slice(None)]
        for level in levels:
            tmax, mtt, cbf = (float(tables[name][tissue, level][0]) for name in ("tmax", "mtt", "cbf"))
            # residue at the middle of each step: the area under the curve is CBV times the arterial one
            residue = np.exp(-(fine + _FINE_STEP / 2) / mtt)
            response = np.convolve(arterial(tmax), residue)[: fine.size]
            curves[:, tissue, level] = (
                cbf / 6000 / blood_factor() * _FINE_STEP * np.interp(seconds, fine, response)[:, None]
            )
    return tables["ncct"] + curves


# --- images as scanners and MRI give them ---


def image_planes(
    image: str, table: Floats, codes: Codes, rng: np.random.Generator, *, registered: bool, noise_factor: float = 1.0
) -> Iterator[NDArray[Any]]:
    """Yield an image slice by slice, (1, y, x), in the order of its file.

    Parameters
    ----------
    image
        Its name, of CT or MRI.
    table
        Its values by (frame, tissue, level).
    codes
        (z, y, x), of what was seen.
    rng
        For the noise.
    registered
        Whether to finish it as a registered image or as an acquired one.
    noise_factor
        By which noise is less than usual, as in voxels that are larger.
    """
    finish = FINISHES[image]
    noise = _noise_planes(rng, codes.shape[1:], smooth=registered)
    spread = np.zeros((TISSUES, FAR + 1), dtype=np.float32)
    spread[AIR], spread[SOFT:] = finish.air[registered], finish.head[registered]
    spread *= np.float32(noise_factor)
    lowest = -1024 if finish.dtype is np.int16 else 0
    for frame, plane in itertools.product(table, codes):
        values = frame.reshape(-1).take(plane) + next(noise) * spread.reshape(-1).take(plane)
        yield np.maximum(_stepped(image, values), lowest).astype(finish.dtype)[None]


def _stepped(image: str, values: Floats) -> Floats:
    steps = np.float32(FINISHES[image].steps)
    return np.asarray(np.rint(values * steps) / steps)


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


# --- perfusion maps ---


def perfusion_maps(tables: dict[str, Floats], codes: Codes, rng: np.random.Generator) -> dict[str, Floats]:
    """Return the perfusion maps by name, (z, y, x), as software makes them of a series as acquired.

    Nothing is computed in air. MTT is 60 CBV / CBF of the noisy maps, but for less than 1 %.

    Parameters
    ----------
    tables
        As of `image_tables`.
    codes
        (z, y, x), of what was seen.
    rng
        For the noise.
    """

    def noise(deviation: float) -> Floats:
        return deviation * rng.standard_normal(codes.shape, dtype=np.float32)

    tmax, cbf, cbv = (tables[name].reshape(-1).take(codes) for name in ("tmax", "cbf", "cbv"))
    computed = cbf > 0
    cbf, cbv = _stepped("cbf", cbf * np.exp(noise(0.08))), _stepped("cbv", cbv * np.exp(noise(0.06)))
    tmax[computed] = np.maximum(tmax + noise(0.4), 0)[computed]
    return {"tmax": _stepped("tmax", tmax), "mtt": _transit_times(cbf, cbv, rng), "cbf": cbf, "cbv": cbv}


def _transit_times(cbf: Floats, cbv: Floats, rng: np.random.Generator) -> Floats:
    mtt = np.divide(60 * cbv, cbf, out=np.zeros_like(cbf), where=cbf > 0)
    return _stepped("mtt", mtt * np.exp(np.float32(0.005) * rng.standard_normal(cbf.shape, dtype=np.float32)))


def resampled_planes(
    name: str, maps: dict[str, Floats], source: Grid, target: Grid, rng: np.random.Generator
) -> Iterator[Floats]:
    """Yield a perfusion map on another grid slice by slice, (1, y, x).

    Maps are interpolated linearly, up to what was not computed: their edges lie between that and tissue. MTT is made of
    the interpolated CBF and CBV, as the ratio of interpolated maps is not the interpolated ratio.

    Parameters
    ----------
    name
        Of the map.
    maps
        As of `perfusion_maps`.
    source, target
        The grid of the maps where it lay on the head, and that of the slices.
    rng
        For what is random in MTT.
    """
    if name != "mtt":
        for plane in _interpolated_planes(maps[name], source, target, NOT_COMPUTED[name]):
            yield _stepped(name, plane)
        return
    volumes = maps["cbf"], maps["cbv"], (maps["cbf"] > 0).astype(np.float32)
    for cbf, cbv, computed in zip(*(_interpolated_planes(v, source, target, 0) for v in volumes), strict=True):
        yield _stepped(name, computed * _transit_times(cbf, cbv, rng))


def _interpolated_planes(volume: Floats, source: Grid, target: Grid, background: float) -> Iterator[Floats]:
    # indices count from the layer around it
    padded = np.pad(volume, 1, constant_values=background)
    to_padded = np.linalg.inv(source.affine) @ target.affine
    to_padded[:3, 3] += 1
    strides = 1, padded.shape[2], padded.shape[1] * padded.shape[2]
    for k in range(target.shape[2]):
        index = plane_positions(to_padded, target.shape, k)
        inside = np.logical_and.reduce([(i >= 0) & (i < n + 1) for i, n in zip(index, source.shape, strict=True)])
        parts, lows = zip(*(np.modf(i[inside]) for i in index), strict=True)
        corner = sum(low.astype(np.intp) * stride for low, stride in zip(lows, strides, strict=True))
        values = np.zeros(np.count_nonzero(inside), np.float32)
        for steps in itertools.product((0, 1), repeat=3):
            weights = [part if step else 1 - part for step, part in zip(steps, parts, strict=True)]
            offset = sum(step * stride for step, stride in zip(steps, strides, strict=True))
            values += math.prod(weights) * padded.reshape(-1).take(corner + offset)
        plane = np.full(inside.shape, background, np.float32)
        plane[inside] = values
        yield plane[None]


def broken_planes(planes: Iterator[Floats], rng: np.random.Generator) -> Iterator[Floats]:
    """Yield the slices of a map with a few voxels not finite, where it was computed."""
    for plane in planes:
        sample = rng.standard_normal(plane.shape, dtype=np.float32)
        odd = np.select([sample > 3, sample < -3], [np.float32(np.nan), np.float32(np.inf)], plane)
        yield np.where(plane > 0, odd, plane)
