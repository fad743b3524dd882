"""The store contract: plans, chunks, shards, labels, documents. Nothing here reads or writes."""

from isles24_zarr.format.chunking import MAX_SHARD_BYTES, blocks_of_array, shard_key
from isles24_zarr.format.codecs import column_bytes, compressors
from isles24_zarr.format.documents import (
    COORDINATES,
    checked_document,
    checked_small_array,
    listed_members,
)
from isles24_zarr.format.encodings import DASK_CHUNK_BYTES, dask_chunks, record_of, stored_layout
from isles24_zarr.format.labels import (
    MaskValues,
    labels_from_stored,
    mask_values,
    merged,
    stored_from_labels,
    values_of,
)
from isles24_zarr.format.layout import (
    ASSUMED_FRAME_SECONDS,
    ATTRIBUTE_KEY,
    FORMAT_VERSION,
    PHENOTYPE,
    ArrayPlan,
    GridPlan,
    SubjectPlan,
    final_attributes,
    recorded_of,
    recorded_orientation,
    seal,
    subject_plan,
)
from isles24_zarr.format.mask_plans import mask_notices, mask_plan
from isles24_zarr.format.records import ArrayRecord, GridRecord, RootRecord, SourceRecord, SubjectRecord
from isles24_zarr.format.shards import (
    ABSENT,
    CHECKSUM_BYTES,
    index_bytes,
    index_from_bytes,
    joined_shard,
    merged_ranges,
    partial_shard,
    with_index,
)

__all__ = [
    "ABSENT",
    "ASSUMED_FRAME_SECONDS",
    "ATTRIBUTE_KEY",
    "CHECKSUM_BYTES",
    "COORDINATES",
    "DASK_CHUNK_BYTES",
    "FORMAT_VERSION",
    "MAX_SHARD_BYTES",
    "PHENOTYPE",
    "ArrayPlan",
    "ArrayRecord",
    "GridPlan",
    "GridRecord",
    "MaskValues",
    "RootRecord",
    "SourceRecord",
    "SubjectPlan",
    "SubjectRecord",
    "blocks_of_array",
    "checked_document",
    "checked_small_array",
    "column_bytes",
    "compressors",
    "dask_chunks",
    "final_attributes",
    "index_bytes",
    "index_from_bytes",
    "joined_shard",
    "labels_from_stored",
    "listed_members",
    "mask_notices",
    "mask_plan",
    "mask_values",
    "merged",
    "merged_ranges",
    "partial_shard",
    "record_of",
    "recorded_of",
    "recorded_orientation",
    "seal",
    "shard_key",
    "stored_from_labels",
    "stored_layout",
    "subject_plan",
    "values_of",
    "with_index",
]
