"""What ISLES'24 holds and what its parts are called: data, no logic.

The names are those of the dataset card; the units and the clinical columns those of the release's data
dictionary (``clinical_data-description.xlsx``); the Circle of Willis labels those of the TopCoW challenge.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from types import MappingProxyType
from typing import Any, Final, Literal

TITLE: Final = "ISLES'24: a real-world longitudinal multimodal stroke dataset"
LICENCE: Final = "CC BY-NC-SA 4.0"
CITATION: Final = (
    "Riedel EO, de la Rosa E, Baran TA, et al. ISLES'24: A Real-World Longitudinal Multimodal Stroke "
    "Dataset. arXiv:2408.11142"
)
REFERENCES: Final = (
    "https://arxiv.org/abs/2408.11142",
    "https://arxiv.org/abs/2408.10966",
    "https://doi.org/10.5281/zenodo.17652035",
    "https://isles-24.grand-challenge.org/",
)

SUBJECT_NAME: Final = re.compile(r"sub-[0-9A-Za-z]+", re.ASCII)
"""A subject, as BIDS names it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageKind:
    """One kind of image of the release.

    Parameters
    ----------
    name
        The name of the array, after the dataset card.
    suffix
        The last part of its file name, after BIDS.
    long_name
        What it is, for people.
    units
        Units of the physical values.
    session
        1 at admission, 2 at follow-up.
    acquired_space
        The space whose grid it has where it was not registered to the NCCT.
    labels
        Voxel values and their meanings, for masks.
    """

    name: str
    suffix: str
    long_name: str
    units: str
    session: int
    acquired_space: str
    labels: tuple[tuple[int, str], ...] = ()

    @property
    def is_mask(self) -> bool:
        """Whether the voxels are labels."""
        return bool(self.labels)


COW_LABELS: Final = (
    (0, "background"),
    (1, "BA"),
    (2, "R-PCA"),
    (3, "L-PCA"),
    (4, "R-ICA"),
    (5, "R-MCA"),
    (6, "L-ICA"),
    (7, "L-MCA"),
    (8, "R-Pcom"),
    (9, "L-Pcom"),
    (10, "Acom"),
    (11, "R-ACA"),
    (12, "L-ACA"),
    (15, "3rd-A2"),
)
"""Labels of the TopCoW challenge (https://topcow24.grand-challenge.org/)."""

REFERENCE_SPACE: Final = "ncct"
"""The space that the derivatives were registered to."""

AS_RELEASED: Final = "as released"
"""Stands for the units of MRI, whose scale the release does not state."""

IMAGE_KINDS: Final = (
    ImageKind(name="ncct", suffix="ncct", long_name="non-contrast CT", units="HU", session=1, acquired_space="ncct"),
    ImageKind(name="cta", suffix="cta", long_name="CT angiography", units="HU", session=1, acquired_space="cta"),
    ImageKind(name="ctp", suffix="ctp", long_name="CT perfusion series", units="HU", session=1, acquired_space="ctp"),
    ImageKind(
        name="tmax",
        suffix="tmax",
        long_name="time to maximum of the residue function (Tmax)",
        units="s",
        session=1,
        acquired_space="ctp",
    ),
    ImageKind(
        name="mtt",
        suffix="mtt",
        long_name="mean transit time (MTT)",
        units="s",
        session=1,
        acquired_space="ctp",
    ),
    ImageKind(
        name="cbf",
        suffix="cbf",
        long_name="cerebral blood flow (CBF)",
        units="mL/100 g/min",
        session=1,
        acquired_space="ctp",
    ),
    ImageKind(
        name="cbv",
        suffix="cbv",
        long_name="cerebral blood volume (CBV)",
        units="mL/100 g",
        session=1,
        acquired_space="ctp",
    ),
    ImageKind(
        name="dwi",
        suffix="dwi",
        long_name="diffusion-weighted MRI at follow-up",
        units=AS_RELEASED,
        session=2,
        acquired_space="dwi",
    ),
    ImageKind(
        name="adc",
        suffix="adc",
        long_name="apparent diffusion coefficient (ADC) at follow-up",
        units=AS_RELEASED,
        session=2,
        acquired_space="dwi",
    ),
    ImageKind(
        name="lesion_mask",
        suffix="lesion-msk",
        long_name="final infarct, delineated on the follow-up MRI",
        units="1",
        session=2,
        acquired_space="dwi",
        labels=((0, "background"), (1, "infarct")),
    ),
    ImageKind(
        name="lvo_mask",
        suffix="lvo-msk",
        long_name="large vessel occlusion, marked on the CT angiography",
        units="1",
        session=1,
        acquired_space="cta",
        labels=((0, "background"), (1, "occlusion")),
    ),
    ImageKind(
        name="cow_mask",
        suffix="cow-msk",
        long_name="arteries of the Circle of Willis, labelled as in TopCoW",
        units="1",
        session=1,
        acquired_space="cta",
        labels=COW_LABELS,
    ),
)

IMAGES: Final = MappingProxyType({kind.name: kind for kind in IMAGE_KINDS})
"""Every kind of image by its name, in the order in which they are listed everywhere."""

IMAGE_OF_SUFFIX: Final = MappingProxyType({kind.suffix: kind.name for kind in IMAGE_KINDS})

FOLLOW_UP_PARTS: Final = re.compile(
    r"(^|_)(t1w?|t2w?|t2starw?|pdw|flair|swi|gre|tof|mra|asl|pwi|dwi|adc|wmh|(lesion|infarct)[0-9a-z]*)(_|$)", re.ASCII
)
"""In the name of an image beyond these: it belongs to the follow-up, as MRI and the infarct do in ISLES'24."""

MASK_NAME: Final = re.compile(r"(^|_)(mask|msk|seg|dseg|labels?)$", re.ASCII)
"""How names end of images beyond these, and of results, that are masks."""

SERIES_IMAGES: Final = frozenset({"ctp"})
"""Images that have a time axis by their nature."""

PERFUSION_MAPS: Final = ("tmax", "mtt", "cbf", "cbv")
"""Images that perfusion software computes, not everywhere."""

# --- the clinical tables ---

ClinicalKind = Literal["category", "flag", "score", "number", "duration"]
"""``category``: text. ``flag``: 0 or 1. ``score``: a whole number. ``number``: any number.
``duration``: minutes, whatever the cell holds."""

BASELINE: Final = "demographic_baseline"
OUTCOME: Final = "outcome"
TABLE_OF_SESSION: Final = MappingProxyType({1: BASELINE, 2: OUTCOME})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClinicalVariable:
    """One column of the clinical tables.

    Parameters
    ----------
    name
        The name in the store.
    column
        The header of the release's tables.
    table
        The table that holds it, `BASELINE` or `OUTCOME`.
    kind
        How a cell is read.
    long_name
        What it is, for people.
    units
        Units of the stored value; ``None`` for text, ``"1"`` for counts, flags and scores.
    aliases
        Other headers under which releases and the data dictionary list it.
    limits
        The smallest and the largest value that can be one, in `units`: of a scale its ends, of everything else what a
        body or a hospital can produce at the very most. Everything outside is a code, a slip or another unit.
    categories
        All texts that it can be, ``()`` where any can.
    """

    name: str
    column: str
    table: str
    kind: ClinicalKind
    long_name: str
    units: str | None = "1"
    aliases: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()


_FLAG: Final = (0, 1)
_NIHSS: Final = (0, 42)
_MRS: Final = (0, 6)
_MONTH: Final = (-31 * 1440, 31 * 1440)
"""A longer time is no door time. A stroke in hospital may come before, or after, all that is counted from the door."""


def _variable(table: str, name: str, column: str, kind: ClinicalKind, long_name: str, **more: Any) -> ClinicalVariable:
    return ClinicalVariable(table=table, name=name, column=column, kind=kind, long_name=long_name, **more)


_baseline: Final = functools.partial(_variable, BASELINE)
_outcome: Final = functools.partial(_variable, OUTCOME)

CLINICAL_VARIABLES: Final = (
    _baseline("center", "Center", "category", "centre that treated the patient", units=None, aliases=("Centre",)),
    _baseline("age", "Age", "number", "age at admission", units="a", aliases=("Age (years)",), limits=(0, 120)),
    _baseline("sex", "Sex", "category", "sex: M or F", units=None, aliases=("Gender",), categories=("M", "F")),
    _baseline("atrial_fibrillation", "Atrial fibrillation", "flag", "atrial fibrillation", limits=_FLAG),
    _baseline("hypertension", "Hypertension", "flag", "arterial hypertension", limits=_FLAG),
    _baseline("diabetes", "Diabetes", "flag", "diabetes mellitus", aliases=("Diabetes mellitus",), limits=_FLAG),
    _baseline("hyperlipidemia", "Hyperlipidemia", "flag", "hyperlipidemia", aliases=("Hyperlipidaemia",), limits=_FLAG),
    _baseline("anticoagulation", "Anticoagulation", "flag", "anticoagulation before admission", limits=_FLAG),
    _baseline(
        "lipid_lowering_drugs",
        "Lipid lowering drugs",
        "flag",
        "lipid lowering drugs before admission",
        aliases=("Statins",),
        limits=_FLAG,
    ),
    _baseline(
        "pais",
        "PAIs",
        "flag",
        "platelet aggregation inhibitors before admission",
        aliases=("Platelet aggregation inhibitors",),
        limits=_FLAG,
    ),
    _baseline("glucose", "Glucose", "number", "blood glucose at admission", units="mg/dL", limits=(20, 900)),
    _baseline(
        "leucocytes",
        "Leucocytes",
        "number",
        "leucocytes at admission",
        units="G/L",
        aliases=("Leukocytes",),
        limits=(0.1, 400),
    ),
    _baseline(
        "crp",
        "CRP",
        "number",
        "C-reactive protein at admission",
        units="mg/dL",
        aliases=("C-reactive protein",),
        limits=(0, 70),
    ),
    _baseline("inr", "INR", "number", "international normalized ratio at admission", limits=(0.5, 20)),
    _baseline("wake_up", "Wake-up", "flag", "stroke noticed on waking up", limits=_FLAG),
    _baseline("in_house", "In-House", "flag", "stroke in hospital", limits=_FLAG),
    _baseline("referral", "Referral", "flag", "referred by another hospital", limits=_FLAG),
    _baseline("onset_to_door", "Onset to door", "duration", "time from onset to arrival", units="min", limits=_MONTH),
    _baseline("alert_to_door", "Alert to door", "duration", "time from alert to arrival", units="min", limits=_MONTH),
    _baseline(
        "nihss_admission",
        "NIHSS at admission",
        "score",
        "NIH Stroke Scale at admission (0 to 42)",
        aliases=("NIHSS admission",),
        limits=_NIHSS,
    ),
    _baseline(
        "mrs_admission",
        "mRS at admission",
        "score",
        "modified Rankin Scale at admission (0 to 6)",
        aliases=("mRS admission",),
        limits=_MRS,
    ),
    _baseline(
        "mrs_premorbid",
        "mRS premorbid",
        "score",
        "modified Rankin Scale before the stroke (0 to 6)",
        aliases=("Premorbid mRS",),
        limits=_MRS,
    ),
    _baseline(
        "door_to_imaging", "Door to imaging", "duration", "time from arrival to imaging", units="min", limits=_MONTH
    ),
    _baseline(
        "door_to_groin", "Door to groin", "duration", "time from arrival to groin puncture", units="min", limits=_MONTH
    ),
    _baseline(
        "door_to_first_series",
        "Door to first series",
        "duration",
        "time from arrival to the first angiographic series",
        units="min",
        limits=_MONTH,
    ),
    _baseline(
        "time_of_intervention",
        "Time of intervention",
        "duration",
        "time of the intervention",
        units="min",
        limits=_MONTH,
    ),
    _baseline(
        "door_to_recanalization",
        "Door to recanalization",
        "duration",
        "time from arrival to recanalization",
        units="min",
        aliases=("Door to recanalisation",),
        limits=_MONTH,
    ),
    _outcome(
        "mtici",
        "TICI postinterventional",
        "category",
        "modified Thrombolysis in Cerebral Infarction score after the intervention (0, 1, 2a, 2b, 2c, 3)",
        units=None,
        aliases=("mTICI postinterventional", "mTICI", "TICI"),
        categories=("0", "1", "2a", "2b", "2c", "3"),
    ),
    _outcome("nihss_24h", "NIHSS 24h", "score", "NIH Stroke Scale after 24 hours (0 to 42)", limits=_NIHSS),
    _outcome("mrs_24h", "mRS 24h", "score", "modified Rankin Scale after 24 hours (0 to 6)", limits=_MRS),
    _outcome("nihss_discharge", "NIHSS discharge", "score", "NIH Stroke Scale at discharge (0 to 42)", limits=_NIHSS),
    _outcome("mrs_discharge", "mRS discharge", "score", "modified Rankin Scale at discharge (0 to 6)", limits=_MRS),
    _outcome(
        "mrs_3month",
        "mRS 3 months",
        "score",
        "modified Rankin Scale after three months (0 to 6)",
        aliases=("mRS 3 month", "mRS 3months", "mRS 90 days"),
        limits=_MRS,
    ),
)

CLINICAL: Final = MappingProxyType({variable.name: variable for variable in CLINICAL_VARIABLES})
"""Every known clinical variable by its name, in the order of the release's tables."""


def shown_units(units: str | None) -> str:
    """Return units as people write them: years, and nothing for what has none."""
    return {None: "", "1": "", "a": "years"}.get(units, units or "")


# --- display ---

CT_WINDOWS: Final = MappingProxyType(
    {"brain": (40.0, 80.0), "stroke": (35.0, 40.0), "bone": (600.0, 2800.0), "angio": (300.0, 600.0)}
)
"""Centre and width of the usual CT windows, in HU."""
