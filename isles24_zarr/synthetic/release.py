"""A synthetic release: head phantoms in the layout of ISLES'24, for demonstrations, tests and benchmarks.

Grids, headers and file names have the habits of the real release; what the images show is in `phantom` and
`phantom_images`, the phenotype in `synthetic_tables`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import nibabel as nib
import numpy as np

from isles24_zarr.errors import DestinationError, UnknownNameError
from isles24_zarr.nifti import write_nifti
from isles24_zarr.synthetic._grids import SAMPLINGS, Sampling, Scale, ctp_to_ncct, scan_grids, true_grid
from isles24_zarr.synthetic._mask_planes import mask_planes
from isles24_zarr.synthetic._phantom import Patient, phantom_codes, seen_codes
from isles24_zarr.synthetic._planes import (
    FINISHES,
    MASK_FINISHES,
    NOT_COMPUTED,
    Bolus,
    broken_planes,
    image_planes,
    image_tables,
    perfusion_maps,
    resampled_planes,
    series_table,
)
from isles24_zarr.synthetic._tables import clinical_cells, write_dictionary, write_tables
from isles24_zarr.vocabulary import IMAGES, REFERENCE_SPACE, ImageKind

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from isles24_zarr.geometry import Grid
    from isles24_zarr.synthetic._phantom import Codes, Floats

_DUPLICATED: Final = 1
"""Index of the subject whose lesion mask lies there twice, as that of the real sub-stroke0142."""


def _generator(seed: int, index: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, *purpose])


def _patient(seed: int, index: int) -> Patient:
    rng = _generator(seed, index, 0)
    occluded = index % 3 != 2
    territory = rng.uniform(0.85, 1.05) if occluded else rng.uniform(0.6, 0.7)
    whole_ml = 130 * territory**3
    infarct_ml = float(np.clip(rng.lognormal(3.3 if occluded else 2.3, 0.9), 4, 0.85 * whole_ml))
    infarct = (infarct_ml / whole_ml) ** (1 / 3)
    about_x = rng.uniform(10, 20, 3)
    others = rng.uniform(-8, 8, 6) if index % 3 == 2 else np.zeros(6)
    pose = _generator(seed, index, 3).uniform(1, 4, 6) * (-1, 1, 1, 1, -1, 1) if index % 3 else np.zeros(6)
    return Patient(
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
        turn=(pose[0], pose[1], pose[2]),
        shift=(pose[3], pose[4], pose[5]),
    )


# --- what is true ---


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroundTruth:
    """What is true of a synthetic subject, whatever its files say.

    Parameters
    ----------
    side
        Of the infarct.
    occluded
        Whether an artery is.
    infarct_ml
        About the volume of the final infarct in mL.
    ctp_to_ncct
        4 x 4, rigid: from where the headers of the CTP and of the maps as acquired place a voxel, RAS in mm, to where
        it lies in the space of the NCCT. The identity in every third subject, some mm and degrees in the others.
    bolus
        The contrast agent at the arterial input, as time from the first frame.
    frame_seconds
        Time between frames of the CTP as acquired, in s.
    """

    side: Literal["left", "right"]
    occluded: bool
    infarct_ml: float
    ctp_to_ncct: NDArray[np.float64]
    bolus: Bolus
    frame_seconds: float


def ground_truth(*, subjects: int = 3, scale: Scale = "tiny", seed: int = 0) -> dict[str, GroundTruth]:
    """Return what is true of the subjects that `synthesize` writes, by name: no file of the release tells it.

    Parameters
    ----------
    subjects, scale, seed
        As for `synthesize`, whose errors it raises.
    """
    truths = {}
    for patient in _patients(subjects, scale, seed):
        truths[_subject_name(patient)] = GroundTruth(
            side="right" if patient.side == 1 else "left",
            occluded=patient.occluded,
            infarct_ml=patient.infarct_ml,
            ctp_to_ncct=ctp_to_ncct(patient),
            bolus=SAMPLINGS[scale].bolus,
            frame_seconds=SAMPLINGS[scale].protocol(patient).frame_seconds,
        )
    return truths


def _patients(subjects: int, scale: Scale, seed: int) -> list[Patient]:
    if seed < 0:
        raise UnknownNameError(seed, "is not a seed, give 0 or a larger number")
    if scale not in SAMPLINGS:
        raise UnknownNameError(scale, f"is not a scale, choose one of {', '.join(SAMPLINGS)}")
    if subjects < 1:
        raise UnknownNameError(subjects, "is not a number of subjects, ask for 1 or more")
    return [_patient(seed, index) for index in range(subjects)]


def _subject_name(patient: Patient) -> str:
    # numbers of the real subjects have gaps too
    return f"sub-stroke{1 + patient.index * 3 // 2:04d}"


# --- files ---


def _image_path(patient: Patient, kind: ImageKind, *, registered: bool) -> Path:
    session = f"ses-{kind.session:02d}"
    subject = _subject_name(patient)
    folder = Path("derivatives" if registered else "raw_data", subject, session)
    space = f"_space-{REFERENCE_SPACE}" if registered else ""
    name = f"{subject}_{session}{space}_{kind.suffix}.nii.gz"
    return folder / "perfusion-maps" / name if kind.name in NOT_COMPUTED else folder / name


class _ImageWriter:
    """Writes the images of one subject."""

    def __init__(self, folder: Path, patient: Patient, sampling: Sampling, seed: int) -> None:
        self._folder, self._patient, self._seed = folder, patient, seed
        self._protocol, self._bolus = sampling.protocol(patient), sampling.bolus
        self._tables, self._grids = image_tables(patient), scan_grids(patient, sampling)
        self._reference = self._grids[REFERENCE_SPACE]

    def write_all(self) -> None:
        anatomy = phantom_codes(self._reference, self._patient)
        for name in MASK_FINISHES:
            self._write_mask(name, anatomy)
        for name in ("dwi", "adc"):
            self._write_scan(name, anatomy, registered=True)
        for space, grid in self._grids.items():
            on_head = true_grid(grid, self._patient) if space == "ctp" else grid
            if space != REFERENCE_SPACE:
                self._write_scan(space, seen_codes(anatomy, self._reference, on_head), registered=True)
            codes = anatomy if space == REFERENCE_SPACE else phantom_codes(on_head, self._patient)
            codes = seen_codes(codes, on_head, on_head)
            self._write_scan(space, codes, registered=False)
            if space == "ctp":
                self._write_maps(codes, on_head)

    def _write_scan(self, name: str, codes: Codes, *, registered: bool) -> None:
        table = self._tables[name][None] if name != "ctp" else self._series(registered=registered)
        rng = self._generator(2, name, registered=registered)
        factor = self._protocol.noise_factor if name == "ctp" else 1.0
        planes = image_planes(name, table, codes, rng, registered=registered, noise_factor=factor)
        header = self._header(name, FINISHES[name].dtype, registered=registered)
        if name == "ctp":
            header.set_data_shape((*header.get_data_shape(), len(table)))
            seconds = self._protocol.frame_seconds
            header["pixdim"][4] = (0 if self._patient.index == 1 else 1) if registered else seconds
        self._write(name, header, planes, registered=registered)

    def _series(self, *, registered: bool) -> Floats:
        frames, step = self._protocol.frames, self._protocol.frame_seconds
        if registered:
            # resampled to a frame a second
            frames, step = math.floor((frames - 1) * step) + 1, 1.0
        return series_table(self._tables, self._bolus, np.arange(frames) * step)

    def _write_maps(self, codes: Codes, on_head: Grid) -> None:
        maps = perfusion_maps(self._tables, codes, self._generator(3, "ctp", registered=False))
        for name, registered in itertools.product(maps, (False, True)):
            rng = self._generator(2, name, registered=registered)
            planes = iter(maps[name][:, None])
            if registered:
                planes = resampled_planes(name, maps, on_head, self._reference, rng)
            if name == "mtt" and self._patient.index == 2:
                planes = broken_planes(planes, rng)
            header = self._header(name, FINISHES[name].dtype, registered=registered)
            self._write(name, header, planes, registered=registered)

    def _write_mask(self, name: str, codes: Codes) -> None:
        finish = MASK_FINISHES[name][self._patient.index % len(MASK_FINISHES[name])]
        header = self._header(name, finish.dtype, registered=True)
        header["scl_slope"], header["scl_inter"] = finish.slope, math.nan if math.isnan(finish.slope) else 0
        path = self._write(name, header, mask_planes(self._tables[name], codes, finish), registered=True)
        if name == "lesion_mask" and self._patient.index == _DUPLICATED:
            copy = path.with_name(path.name.replace(f"space-{REFERENCE_SPACE}_", "").removesuffix(".gz"))
            write_nifti(copy, _header_bytes(header), mask_planes(self._tables[name], codes, finish))

    def _write(self, name: str, header: nib.Nifti1Header, planes: Iterable[NDArray[Any]], *, registered: bool) -> Path:
        path = self._folder / _image_path(self._patient, IMAGES[name], registered=registered)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, _header_bytes(header), planes)
        return path

    def _header(self, name: str, dtype: type[np.generic], *, registered: bool) -> nib.Nifti1Header:
        """Return a header, with the habits of NiftyReg for registered volumes."""
        grid = self._reference if registered else self._grids[IMAGES[name].acquired_space]
        affine = grid.affine.copy()
        if registered:
            affine[:3, 3] += self._generator(4, name, registered=True).uniform(-1e-5, 1e-5, 3)
        header = nib.Nifti1Header(endianness="<")
        header.set_data_dtype(dtype)
        header.set_data_shape(grid.shape)
        sform_code, qform_code = (1, 2) if registered else ((1, 1), (0, 1), (1, 0))[self._patient.index % 3]
        header.set_qform(affine, qform_code)
        header.set_sform(affine, sform_code)
        header["pixdim"][4:] = 0
        header["xyzt_units"] = 2
        header["scl_slope"], header["scl_inter"] = (math.nan, math.nan) if registered else (1, 0)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        header["descrip"] = b"isles24-zarr synthetic phantom"
        return header

    def _generator(self, purpose: int, name: str, *, registered: bool) -> np.random.Generator:
        return _generator(self._seed, self._patient.index, purpose, list(IMAGES).index(name), int(registered))


def _header_bytes(header: nib.Nifti1Header) -> bytes:
    return bytes(header.binaryblock) + bytes(4)


UNFINISHED: Final = ".unfinished"
"""The file in a release that is being written, or was when its writer was killed: which call it was."""


def synthesize(destination: str | os.PathLike[str], *, subjects: int = 3, scale: Scale = "tiny", seed: int = 0) -> Path:
    """Write a synthetic release in the layout of ISLES'24.

    Every subject has 18 images (11 registered to the NCCT, 7 as acquired) and 2 phenotype tables, with the quirks
    of the real ones. Grids are oblique, with axes that run in different directions and affines that differ in their
    last digits. Masks have several types and scalings, and some lesion masks hold fractions at their rim; one of them
    lies there twice. CTP is acquired in slabs of three kinds, whose headers are off in two of three subjects
    (`ground_truth` tells how far), and one kind misses most of the head. Maps are not masked to the brain, hold -30
    (Tmax) or 0 where nothing was computed, and are interpolated at the edges of that; one MTT map has non-finite
    voxels. Durations are in four kinds of cells. The size of the infarct goes with NIHSS and mRS. The same seed gives
    the same bytes, and a subject does not depend on how many there are. What was interrupted
    is finished by the same call.

    Parameters
    ----------
    destination
        Folder to write to; made where it is missing.
    subjects
        How many, at least 1.
    scale
        ``"tiny"``: 48 x 56 x 12 registered voxels and some ten frames, well below a second a subject. ``"small"``:
        128 x 140 x 24 and some 28, a second. ``"full"``: 512 x 586 x 74 and 55 to 63, as large as the real ones (0.7 GB
        a subject), half a minute and half a GB of memory.
    seed
        Of everything random.

    Returns
    -------
    pathlib.Path
        The folder that holds raw_data/, derivatives/ and phenotype/: the destination.

    Raises
    ------
    DestinationError
        The destination is not an empty folder, and cannot be made one, and is not what the same call left unfinished.
    UnknownNameError
        There is no such scale, number of subjects or seed.

    Examples
    --------
    >>> isles24_zarr.synthesize("patients", subjects=1, scale="tiny").name
    'patients'
    """
    folder, patients = Path(destination), _patients(subjects, scale, seed)
    unfinished, call = folder / UNFINISHED, f"subjects={subjects} scale={scale} seed={seed}\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            unfinished.write_text(call)
        occupied = not (unfinished.exists() and unfinished.read_text() == call)
    except OSError as error:
        raise DestinationError(folder, f"cannot be written to ({error.strerror}), choose another place") from error
    if occupied:
        raise DestinationError(folder, "is not empty, choose another place")
    write_dictionary(folder)
    for patient in patients:
        _ImageWriter(folder, patient, SAMPLINGS[scale], seed).write_all()
        cells = clinical_cells(patient, _generator(seed, patient.index, 1))
        write_tables(folder / "phenotype", _subject_name(patient), cells)
    unfinished.unlink()
    return folder
