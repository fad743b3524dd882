"""A scan as a Dataset, and images out of one for nibabel."""

from isles24_zarr.scans.images import grid_header, nifti_class, nifti_image
from isles24_zarr.scans.opening import (
    ArrayInfo,
    ScanPlace,
    described_arrays,
    image_groups,
    open_scan,
    read_path,
    scan_place,
    stored_array,
)

__all__ = [
    "ArrayInfo",
    "ScanPlace",
    "described_arrays",
    "grid_header",
    "image_groups",
    "nifti_class",
    "nifti_image",
    "open_scan",
    "read_path",
    "scan_place",
    "stored_array",
]
