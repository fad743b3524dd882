"""Results beside the originals: saved, derived over a cohort, added from files, listed, taken out."""

from isles24_zarr.derivatives.adding import AddReport, add
from isles24_zarr.derivatives.deriving import derived_subjects, function_identity
from isles24_zarr.derivatives.listing import PipelineInfo, described_pipelines, pipeline_names
from isles24_zarr.derivatives.removing import RemoveReport, remove
from isles24_zarr.derivatives.saving import save_results

__all__ = [
    "AddReport",
    "PipelineInfo",
    "RemoveReport",
    "add",
    "derived_subjects",
    "described_pipelines",
    "function_identity",
    "pipeline_names",
    "remove",
    "save_results",
]
