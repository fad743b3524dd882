"""The phenotype of the synthetic release: clinical tables, and the dictionary that describes them."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import math
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.release import DICTIONARY_NAME
from isles24_zarr.vocabulary import BASELINE, CLINICAL_VARIABLES, TABLE_OF_SESSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from isles24_zarr.synthetic._phantom import Patient

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


def clinical_cells(patient: Patient, rng: np.random.Generator) -> dict[str, Any]:
    """Return a cell for every clinical variable by name, ``None`` where it was not recorded.

    Parameters
    ----------
    patient
        Whose infarct decides about scores.
    rng
        For all else.
    """
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


def write_tables(folder: Path, subject: str, cells: dict[str, Any]) -> None:
    """Write the tables of a subject.

    Parameters
    ----------
    folder
        Of the phenotype.
    subject
        Its name.
    cells
        By the names of the variables.
    """
    for number, table in TABLE_OF_SESSION.items():
        columns = [variable for variable in CLINICAL_VARIABLES if variable.table == table]
        session = f"ses-{number:02d}"
        path = folder / subject / session / f"{subject}_{session}_{table}.xlsx"
        rows = [[variable.column for variable in columns], [cells[variable.name] for variable in columns]]
        _write_workbook(path, rows, title="Sheet1")


def write_dictionary(folder: Path) -> None:
    """Write the data dictionary into the top folder of a release."""
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
