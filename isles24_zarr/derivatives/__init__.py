"""Results beside the originals: saved, derived over a cohort, listed."""

from isles24_zarr.derivatives.deriving import derived_subjects
from isles24_zarr.derivatives.listing import pipeline_names
from isles24_zarr.derivatives.saving import save_results

__all__ = ["derived_subjects", "pipeline_names", "save_results"]
