"""What lies in a store, read and written: places, documents, voxels, versions."""

from isles24_zarr.store.arrays import (
    ONLY_CHUNK,
    StoredArray,
    column_table,
    coordinate_variable,
    image_variable,
)
from isles24_zarr.store.file_order import file_blocks, file_voxels, voxel_checksum
from isles24_zarr.store.files import NO_FILE, opened_file
from isles24_zarr.store.history import HeldVersion, expire_versions, told_versions, versions_with
from isles24_zarr.store.objects import (
    ZARR_JSON,
    StorePlace,
    check_version,
    child_names,
    committed_subjects,
    document_from_bytes,
    document_stamp,
    encoded_document,
    listed_keys,
    read_document,
    read_members,
    read_objects,
    read_root,
    reading,
)
from isles24_zarr.store.remote import RemoteStore
from isles24_zarr.store.repository import (
    LOCAL,
    Place,
    VersionStore,
    is_versioned,
    opened_version,
    writable_repository,
    write_errors,
)
from isles24_zarr.store.voxels import StoredVoxels

__all__ = [
    "LOCAL",
    "NO_FILE",
    "ONLY_CHUNK",
    "ZARR_JSON",
    "HeldVersion",
    "Place",
    "RemoteStore",
    "StorePlace",
    "StoredArray",
    "StoredVoxels",
    "VersionStore",
    "check_version",
    "child_names",
    "column_table",
    "committed_subjects",
    "coordinate_variable",
    "document_from_bytes",
    "document_stamp",
    "encoded_document",
    "expire_versions",
    "file_blocks",
    "file_voxels",
    "image_variable",
    "is_versioned",
    "listed_keys",
    "opened_file",
    "opened_version",
    "read_document",
    "read_members",
    "read_objects",
    "read_root",
    "reading",
    "told_versions",
    "versions_with",
    "voxel_checksum",
    "writable_repository",
    "write_errors",
]
