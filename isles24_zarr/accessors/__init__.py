"""``.isles`` on xarray objects: short names for functions of other packages, which are imported when they are called.

Accessors hold no state. In the examples, ``cohort`` and ``scan`` are those of a synthetic release of three subjects::

    isles24_zarr.synthesize("train", subjects=3, scale="tiny")
    isles24_zarr.convert("train", "isles24.zarr")
    cohort = isles24_zarr.open_cohort("isles24.zarr")
    scan = cohort.isles.scan("sub-stroke0001")
"""

from isles24_zarr.accessors._cohort import CohortAccessor
from isles24_zarr.accessors._image import ImageAccessor
from isles24_zarr.accessors._scan import ScanAccessor

__all__ = ["CohortAccessor", "ImageAccessor", "ScanAccessor"]
