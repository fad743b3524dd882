"""How the synthetic scans are acquired: grids, frames, and where the head was."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from isles24_zarr.geometry import Grid
from isles24_zarr.synthetic._planes import Bolus
from isles24_zarr.vocabulary import REFERENCE_SPACE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isles24_zarr.synthetic._phantom import Patient

_SCANNER_VOXEL_MM3: Final = 5.0
"""Of a CTP of full size, 1 x 1 x 5 mm."""

Scale = Literal["tiny", "small", "full"]


@dataclasses.dataclass(frozen=True, slots=True)
class Protocol:
    """How a CTP is acquired: voxels, extent and centre along the patient's x, y and z, frames and their time in s."""

    shape: tuple[int, int, int]
    extent: tuple[float, float, float]
    centre: tuple[float, float, float]
    frames: int
    frame_seconds: float

    @property
    def noise_factor(self) -> float:
        """By which noise is less than in the voxels of a scanner, as more photons pass larger ones."""
        volume = math.prod(size / count for size, count in zip(self.extent, self.shape, strict=True))
        return min(1.0, math.sqrt(_SCANNER_VOXEL_MM3 / volume))


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """Voxels along the patient's x, y and z by space, voxels and frames of each CTP, the bolus that fits into them."""

    shapes: dict[str, tuple[int, int, int]]
    series: tuple[tuple[int, int, int, int], ...]
    bolus: Bolus

    def protocol(self, patient: Patient) -> Protocol:
        """Return how the CTP of a patient is acquired."""
        turn = patient.index % len(self.series)
        *shape, frames = self.series[turn]
        extent, centre, frame_seconds = _SLABS[turn]
        return Protocol((shape[0], shape[1], shape[2]), extent, centre, frames, frame_seconds)


SAMPLINGS: Final[dict[str, Sampling]] = {
    "tiny": Sampling(
        {"ncct": (48, 56, 12), "cta": (40, 40, 20)},
        ((32, 32, 8, 12), (32, 32, 4, 11), (30, 30, 11, 8)),
        Bolus(arrival=1.0, width=0.5),
    ),
    "small": Sampling(
        {"ncct": (128, 140, 24), "cta": (128, 128, 40)},
        ((64, 64, 8, 30), (64, 64, 4, 29), (58, 58, 12, 20)),
        Bolus(arrival=4.0, width=1.0),
    ),
    "full": Sampling(
        {"ncct": (512, 586, 74), "cta": (512, 512, 300)},
        ((220, 220, 16, 55), (220, 220, 8, 60), (200, 200, 23, 45)),
        Bolus(arrival=8.0, width=1.5),
    ),
}
_SLABS: Final = (
    ((220.0, 220.0, 80.0), (0.0, 0.0, 10.0), 1.0),
    ((220.0, 220.0, 40.0), (0.0, 0.0, -12.0), 1.0),
    ((210.0, 210.0, 115.0), (0.0, 0.0, 10.0), 1.41),
)
"""Extent and centre of the CTP in mm and the time of a frame in s, for the first, second and third subject in turn."""

_EXTENTS_MM: Final = {"ncct": (215.0, 246.0, 148.0), "cta": (215.0, 215.0, 180.0)}
_CENTRES_MM: Final = {"ncct": (0.0, 0.0, 8.0), "cta": (0.0, 0.0, 0.0)}
_AXES: Final = {"ncct": ("LAS", "LPS", "LAS"), "ctp": ("LPS", "LAS", "RAS"), "cta": ("RAS", "LPS", "ASR")}
"""By space, for the first, second and third subject and so on in turn."""


def scan_grids(patient: Patient, sampling: Sampling) -> dict[str, Grid]:
    """Return the grid of each space, as the headers have it."""
    turn, protocol = patient.index % 3, sampling.protocol(patient)
    grids = {}
    for space, (x, y, z) in sampling.shapes.items():
        shape = x, round(y * (1, 0.93, 1.04)[turn]), round(z * (1, 1.08, 0.92)[turn])
        grids[space] = _oblique_grid(patient, space, shape, _EXTENTS_MM[space], _CENTRES_MM[space])
    ctp = _oblique_grid(patient, "ctp", protocol.shape, protocol.extent, protocol.centre)
    return {REFERENCE_SPACE: grids[REFERENCE_SPACE], "ctp": ctp, "cta": grids["cta"]}


def _oblique_grid(
    patient: Patient,
    space: str,
    shape: tuple[int, int, int],
    extent: tuple[float, float, float],
    centre: tuple[float, float, float],
) -> Grid:
    """Return a grid about a centre, RAS mm; shape and extent are along the patient's axes."""
    codes = _AXES[space][patient.index % 3]
    axes = [next(axis for axis, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in codes]
    signs = [1.0 if code in "RAS" else -1.0 for code in codes]
    x, y, z = (shape[axis] for axis in axes)
    affine = np.eye(4)
    steps = [round(extent[axis] / shape[axis], 6) for axis in axes]
    affine[:3, :3] = _rotation(patient.tilt[space])[:, axes] * signs * steps
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    return Grid(shape=(x, y, z), affine=affine)


def _rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return 3 x 3, a rotation about z, then y, then x."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.roll([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]], axis, (0, 1))
        rotation = rotation @ turn
    return rotation


def ctp_to_ncct(patient: Patient) -> NDArray[np.float64]:
    """Return 4 x 4, rigid: where the headers of the CTP place a voxel to where it lay on the head, RAS mm."""
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = _rotation(patient.turn), patient.shift
    return rigid


def true_grid(grid: Grid, patient: Patient) -> Grid:
    """Return where the voxels of the CTP as acquired lie on the head, given where its header has them."""
    return Grid(shape=grid.shape, affine=ctp_to_ncct(patient) @ grid.affine)
