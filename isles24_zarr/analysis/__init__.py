"""What is computed of arrays: volumes, statistics, curves, perfusion, metrics. Needs no store."""

from isles24_zarr.analysis.arteries import arterial_input_candidates
from isles24_zarr.analysis.blockwise import SPATIAL, computed_voxels, name_of, on_same_grid
from isles24_zarr.analysis.curves import ball_mask, enhancement, region_curve, time_curve, time_to_peak
from isles24_zarr.analysis.masks import LabelRule, label_rule, labelled, slice_areas
from isles24_zarr.analysis.metrics import ChallengeMetrics, challenge_metrics, dice_coefficient, lesion_components
from isles24_zarr.analysis.perfusion import (
    PerfusionLesions,
    hypoperfusion_mask,
    perfusion_lesions,
    perfusion_masks,
)
from isles24_zarr.analysis.statistics import label_volumes, mask_overlaps, mask_statistics, mask_volume, windowed

__all__ = [
    "SPATIAL",
    "ChallengeMetrics",
    "LabelRule",
    "PerfusionLesions",
    "arterial_input_candidates",
    "ball_mask",
    "challenge_metrics",
    "computed_voxels",
    "dice_coefficient",
    "enhancement",
    "hypoperfusion_mask",
    "label_rule",
    "label_volumes",
    "labelled",
    "lesion_components",
    "mask_overlaps",
    "mask_statistics",
    "mask_volume",
    "name_of",
    "on_same_grid",
    "perfusion_lesions",
    "perfusion_masks",
    "region_curve",
    "slice_areas",
    "time_curve",
    "time_to_peak",
    "windowed",
]
