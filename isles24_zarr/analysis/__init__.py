"""What is computed of arrays: volumes, statistics, curves, perfusion, metrics. Needs no store."""

from isles24_zarr.analysis.arteries import arterial_input_candidates, arterial_of, enhancing_vessels, venous_of
from isles24_zarr.analysis.blockwise import (
    AS_NAMED,
    SPATIAL,
    block_results,
    computed_voxels,
    map_name,
    name_of,
    on_same_grid,
    series_axes,
    whole_curves,
)
from isles24_zarr.analysis.brain import CoarseBrain, brain_mask, coarse_brain
from isles24_zarr.analysis.curves import ball_mask, bolus_arrivals, enhancement, region_curve, time_curve, time_to_peak
from isles24_zarr.analysis.lesions import (
    PerfusionLesions,
    hypoperfusion_mask,
    perfusion_lesions,
    perfusion_masks,
)
from isles24_zarr.analysis.masks import LabelRule, inside_mask, label_rule, labelled, slice_areas
from isles24_zarr.analysis.metrics import ChallengeMetrics, challenge_metrics, dice_coefficient, lesion_components
from isles24_zarr.analysis.resampling import ResamplingMethod, resampled_like
from isles24_zarr.analysis.statistics import label_volumes, mask_overlaps, mask_statistics, mask_volume, windowed

__all__ = [
    "AS_NAMED",
    "SPATIAL",
    "ChallengeMetrics",
    "CoarseBrain",
    "LabelRule",
    "PerfusionLesions",
    "ResamplingMethod",
    "arterial_input_candidates",
    "arterial_of",
    "ball_mask",
    "block_results",
    "bolus_arrivals",
    "brain_mask",
    "challenge_metrics",
    "coarse_brain",
    "computed_voxels",
    "dice_coefficient",
    "enhancement",
    "enhancing_vessels",
    "hypoperfusion_mask",
    "inside_mask",
    "label_rule",
    "label_volumes",
    "labelled",
    "lesion_components",
    "map_name",
    "mask_overlaps",
    "mask_statistics",
    "mask_volume",
    "name_of",
    "on_same_grid",
    "perfusion_lesions",
    "perfusion_masks",
    "region_curve",
    "resampled_like",
    "series_axes",
    "slice_areas",
    "time_curve",
    "time_to_peak",
    "venous_of",
    "whole_curves",
    "windowed",
]
