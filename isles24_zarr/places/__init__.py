"""What is behind a path or URL: file systems, options, object stores, and what they say when they fail."""

from isles24_zarr.places.access import (
    PARTIAL,
    access_errors,
    filesystem_of,
    is_url,
    library_errors,
    local_path,
    lock_file,
    refusal,
)
from isles24_zarr.places.forks import is_left_behind, require_threads
from isles24_zarr.places.options import bucket_options, options_from_texts, own_options, service_of, session_of

__all__ = [
    "PARTIAL",
    "access_errors",
    "bucket_options",
    "filesystem_of",
    "is_left_behind",
    "is_url",
    "library_errors",
    "local_path",
    "lock_file",
    "options_from_texts",
    "own_options",
    "refusal",
    "require_threads",
    "service_of",
    "session_of",
]
