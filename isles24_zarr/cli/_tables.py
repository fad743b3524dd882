"""The table of a cohort and its codebook, for other programs: CSV and Parquet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from isles24_zarr.cli._rendering import out, plain_rows, print_json, print_table
from isles24_zarr.clinical import guarded_text
from isles24_zarr.errors import DestinationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    import xarray as xr


def give_table(cohort: xr.DataTree, *, codebook: bool, csv: bool, parquet: Path | None, as_json: bool) -> None:
    """Print or write the clinical table of a cohort, or what its variables are."""
    from isles24_zarr.cohorts import cohort_codebook, portable_table

    table = cohort_codebook(cohort) if codebook else portable_table(cohort)
    if parquet is not None:
        write_parquet(table, parquet)
        out().print(f"{parquet}: {len(table)} rows, {table.shape[1]} columns beside {table.index.name}", soft_wrap=True)
    if csv:
        # ranges of the codebook are ours, and may begin with a sign
        print_csv(table, trusted=["range"] if codebook else [])
    elif as_json:
        print_json(rows=plain_rows(table.reset_index()))
    elif parquet is None:
        print_table([str(table.index.name), *table], ((str(name), *map(str, row)) for name, *row in table.itertuples()))


def print_csv(table: pd.DataFrame, *, trusted: Sequence[str] = ()) -> None:
    """Print a table as CSV: UTF-8, what is missing empty, and no text that a spreadsheet program would compute.

    Columns that are trusted are printed as they are.
    """
    from pandas.api.types import is_numeric_dtype  # of flags, too; what texts are called differs among versions

    texts = [str(name) for name in table if not is_numeric_dtype(table[name]) and name not in trusted]
    guarded = table.assign(**{name: table[name].astype(object).map(guarded_text, na_action="ignore") for name in texts})
    sys.stdout.write(guarded.to_csv(lineterminator="\n"))


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table as a file of Parquet, with its types.

    Raises
    ------
    MissingExtraError
        PyArrow is not installed.
    DestinationError
        The file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("Parquet", "needs PyArrow, install it by: pip install pyarrow") from error
    try:
        pq.write_table(pa.Table.from_pandas(table.reset_index(), preserve_index=False), path)
    except OSError as error:
        raise DestinationError(path, f"cannot be written ({error.strerror or error})") from error
