"""The cohort: its table, its scans, records."""

from isles24_zarr.cohorts.codebook import cohort_codebook, portable_table
from isles24_zarr.cohorts.hugging_face import hf_dataset
from isles24_zarr.cohorts.opening import (
    available_images,
    clinical_table,
    cohort_target,
    mapped_subjects,
    open_cohort,
    subject_names,
)
from isles24_zarr.cohorts.parts import cohort_folds, selected_cohort, split_cohort
from isles24_zarr.cohorts.perfusion_rows import perfusion_table
from isles24_zarr.cohorts.records import Record, Records, cohort_records

__all__ = [
    "Record",
    "Records",
    "available_images",
    "clinical_table",
    "cohort_codebook",
    "cohort_folds",
    "cohort_records",
    "cohort_target",
    "hf_dataset",
    "mapped_subjects",
    "open_cohort",
    "perfusion_table",
    "portable_table",
    "selected_cohort",
    "split_cohort",
    "subject_names",
]
