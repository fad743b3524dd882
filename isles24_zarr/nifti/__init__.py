"""NIfTI files as bounded streams: headers, checked; voxels; gzip."""

from isles24_zarr.nifti.files import Digest, VoxelStream, read_header, write_nifti
from isles24_zarr.nifti.header import MAX_AXIS, MAX_DEFLATE_RATIO, Header, header_from_bytes, result_header
from isles24_zarr.nifti.streams import MOST_MEMBERS, GzipStream, HashedFile, MemberStream, whole_file

__all__ = [
    "MAX_AXIS",
    "MAX_DEFLATE_RATIO",
    "MOST_MEMBERS",
    "Digest",
    "GzipStream",
    "HashedFile",
    "Header",
    "MemberStream",
    "VoxelStream",
    "header_from_bytes",
    "read_header",
    "result_header",
    "whole_file",
    "write_nifti",
]
