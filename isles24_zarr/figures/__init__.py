"""Figures of scans and cohorts, by Matplotlib."""

from isles24_zarr.figures.agreement import agreement_plot
from isles24_zarr.figures.cohort import grid_row, grid_sizes, missingness, outcome_by_volume
from isles24_zarr.figures.curves import time_curves
from isles24_zarr.figures.slices import montage
from isles24_zarr.figures.subject_page import SubjectSummary, subject_summary

__all__ = [
    "SubjectSummary",
    "agreement_plot",
    "grid_row",
    "grid_sizes",
    "missingness",
    "montage",
    "outcome_by_volume",
    "subject_summary",
    "time_curves",
]
