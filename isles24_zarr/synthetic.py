"""A synthetic release: head phantoms in the layout of ISLES'24, for demonstrations, tests and benchmarks.

Grids, headers, file names and tables have the habits of the real release; what the images show is in `phantom`.
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
from isles24_zarr.phantom import (
    FINISHES,
    PERFUSION_MAPS,
    Bolus,
    Patient,
    image_planes,
    image_tables,
    phantom_codes,
    seen_codes,
)
from isles24_zarr.release import DICTIONARY_NAME
from isles24_zarr.vocabulary import (
    BASELINE,
    CLINICAL_VARIABLES,
    IMAGE_KINDS,
    REFERENCE_SPACE,
    TABLE_OF_SESSION,
    ImageKind,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from isles24_zarr.phantom import Codes

Scale = Literal["tiny", "small", "full"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Sampling:
    """Voxels along the patient's x, y and z by space; fewest and most frames; the bolus that fits into them."""

    shapes: dict[str, tuple[int, int, int]]
    frames: tuple[int, int]
    bolus: Bolus


_SAMPLINGS: Final[dict[str, _Sampling]] = {
    "tiny": _Sampling(
        {"ncct": (48, 56, 12), "ctp": (32, 32, 6), "cta": (40, 40, 20)}, (10, 12), Bolus(arrival=1.0, width=0.5)
    ),
    "small": _Sampling(
        {"ncct": (128, 140, 24), "ctp": (64, 64, 8), "cta": (128, 128, 40)}, (24, 30), Bolus(arrival=4.0, width=1.0)
    ),
    "full": _Sampling(
        {"ncct": (512, 586, 74), "ctp": (256, 256, 16), "cta": (512, 512, 300)}, (45, 45), Bolus(arrival=8.0, width=1.5)
    ),
}
_EXTENTS_MM: Final = {"ncct": (215.0, 246.0, 148.0), "ctp": (218.0, 218.0, 92.0), "cta": (215.0, 215.0, 180.0)}
_CENTRES_MM: Final = {"ncct": (0.0, 0.0, 8.0), "ctp": (0.0, 0.0, 10.0), "cta": (0.0, 0.0, 0.0)}
_AXES: Final = {"ncct": ("LAS", "LPS", "LAS"), "ctp": ("LPS", "LAS", "RAS"), "cta": ("RAS", "LPS", "ASR")}
"""By space, for the first, second and third subject and so on in turn."""


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
    )


def _subject_name(patient: Patient) -> str:
    # numbers of the real subjects have gaps too
    return f"sub-stroke{1 + patient.index * 3 // 2:04d}"


# --- files ---


def _grids(patient: Patient, sampling: _Sampling) -> dict[str, Grid]:
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
    image: str, grid: Grid, frames: int, patient: Patient, rng: np.random.Generator, *, registered: bool
) -> bytes:
    """Return all bytes before the voxels, with the habits of NiftyReg for registered volumes."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(FINISHES[image].dtype)
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


def _image_path(patient: Patient, kind: ImageKind, *, registered: bool) -> Path:
    session = f"ses-{kind.session:02d}"
    subject = _subject_name(patient)
    folder = Path("derivatives" if registered else "raw_data", subject, session)
    space = f"_space-{REFERENCE_SPACE}" if registered else ""
    name = f"{subject}_{session}{space}_{kind.suffix}.nii.gz"
    return folder / "perfusion-maps" / name if kind.name in PERFUSION_MAPS else folder / name


def _write_images(folder: Path, patient: Patient, sampling: _Sampling, seed: int) -> None:
    fewest, most = sampling.frames
    frames = most - patient.index % (most - fewest + 1)
    tables, grids = image_tables(patient, sampling.bolus, frames), _grids(patient, sampling)
    reference = grids[REFERENCE_SPACE]
    anatomy = phantom_codes(reference, patient)

    def write(space: str, grid: Grid, codes: Codes, *, registered: bool) -> None:
        for position, kind in enumerate(IMAGE_KINDS):
            if kind.acquired_space != space or (kind.is_mask and not registered):
                continue
            rng = _generator(seed, patient.index, 2, position, int(registered))
            header = _header(kind.name, grid, frames, patient, rng, registered=registered)
            broken = kind.name == "mtt" and patient.index == 2
            blocks = image_planes(kind.name, tables[kind.name], codes, rng, registered=registered, broken=broken)
            path = folder / _image_path(patient, kind, registered=registered)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(path, header, blocks)

    write("dwi", reference, anatomy, registered=True)
    for space, grid in grids.items():
        if space == REFERENCE_SPACE:
            codes = anatomy
        else:
            write(space, reference, seen_codes(anatomy, reference, grid), registered=True)
            codes = phantom_codes(grid, patient)
        write(space, grid, seen_codes(codes, grid, grid), registered=False)


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


def _clinical_values(patient: Patient, rng: np.random.Generator) -> dict[str, Any]:
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


def _clinical_cells(patient: Patient, seed: int) -> dict[str, Any]:
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


def _write_tables(folder: Path, patient: Patient, seed: int) -> None:
    cells, subject = _clinical_cells(patient, seed), _subject_name(patient)
    for number, table in TABLE_OF_SESSION.items():
        columns = [variable for variable in CLINICAL_VARIABLES if variable.table == table]
        session = f"ses-{number:02d}"
        path = folder / "phenotype" / subject / session / f"{subject}_{session}_{table}.xlsx"
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
