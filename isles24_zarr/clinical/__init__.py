"""Clinical tables: sheets, cells, rows, and the cohort table."""

from isles24_zarr.clinical.cells import UnreadCellError, value_from_cell
from isles24_zarr.clinical.phenotype import (
    ClinicalRecord,
    DictionaryEntry,
    cohort_table,
    dictionary_from_table,
    merged_record,
    record_from_row,
)
from isles24_zarr.clinical.rows import own_row, rows_from_table
from isles24_zarr.clinical.tables import MAX_TABLE_BYTES, guarded_text

__all__ = [
    "MAX_TABLE_BYTES",
    "ClinicalRecord",
    "DictionaryEntry",
    "UnreadCellError",
    "cohort_table",
    "dictionary_from_table",
    "guarded_text",
    "merged_record",
    "own_row",
    "record_from_row",
    "rows_from_table",
    "value_from_cell",
]
