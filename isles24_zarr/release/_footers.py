"""Rows of a Parquet file with one case a row, as datasets of the Hugging Face Hub are; no image is read.

What a column of ``datasets.Nifti`` holds are the bytes of a file and its name. The footer tells where the bytes lie.
With one row in a row group its statistics also tell the name and the values of all other columns, so that one read at
the end of the file is enough; else the small columns are read by pyarrow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from isles24_zarr.errors import (
    DamagedShardError,
    MissingExtraError,
    Problem,
    SourceError,
    UnreadableFileError,
    UnsupportedShardError,
)
from isles24_zarr.places import library_errors
from isles24_zarr.release._pages import cell_sizes
from isles24_zarr.release._thrift import Compact
from isles24_zarr.release.files import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from isles24_zarr.release.files import SourceFile

_TAIL_BYTES: Final = 2**16
_MOST_FOOTER_BYTES: Final = 2**24
_MOST_SMALL_BYTES: Final = 2**26
"""Of all columns of a row group that hold no files."""

_MOST_ROWS: Final = 100_000
_CONTENT, _NAME = ".bytes", ".path"
_ROW_GROUPS, _COLUMNS, _METADATA, _SIZE_STATISTICS, _VALUE_BYTES = 4, 1, 3, 16, 1
"""Fields of the footer on the way to the bytes that all values of a column chunk have, which pyarrow does not show."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a Parquet file.

    Parameters
    ----------
    number
        From 1 on.
    values
        Of plain columns, by column.
    cells, names
        By column that holds files: where the bytes lie, or why they cannot be had; and what the files are called.
    """

    number: int
    values: Mapping[str, Any]
    cells: Mapping[str, Cell | SourceError | None]
    names: Mapping[str, str | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """What a Parquet file holds: rows; names of columns with files, with plain values, with anything else; problems."""

    rows: tuple[Row, ...]
    files: tuple[str, ...]
    plain: tuple[str, ...]
    others: tuple[str, ...]
    problems: tuple[Problem, ...]


def require_parquet(url: str) -> None:
    """Make sure that pyarrow is there.

    Raises
    ------
    MissingExtraError
        It is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(url, "to read Parquet files, run: pip install 'isles24-zarr[hf]'") from error


def rows_of_shard(file: BinaryIO, shard: SourceFile, *, name: str) -> ShardRows:
    """Read the footer of a Parquet file, and whatever else it takes to know its rows.

    Parameters
    ----------
    file
        The file, opened.
    shard
        Its path and size.
    name
        What errors call it.

    Raises
    ------
    DamagedShardError, UnsupportedShardError, UnreadableFileError
        Nothing of it can be used.
    """
    with _footer_errors(name):
        found = _Shard(file, shard, name)
    rows: list[Row] = []
    problems: list[Problem] = []
    for group in range(found.metadata.num_row_groups):
        try:
            with _footer_errors(name):
                rows += found.rows(group, first=len(rows) + 1)
        except SourceError as error:
            problems.append(Problem.from_error(error))
    tops = dict.fromkeys(leaf.partition(".")[0] for leaf in found.leaves)
    others = tuple(top for top in tops if top not in found.files and top not in found.plain)
    return ShardRows(rows=tuple(rows), files=found.files, plain=found.plain, others=others, problems=tuple(problems))


@contextlib.contextmanager
def _footer_errors(name: str) -> Iterator[None]:
    """Turn what pyarrow and Thrift say of a damaged footer into an error about its file."""
    try:
        yield
    except library_errors(
        ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, TypeError, ValueError
    ) as error:
        raise DamagedShardError(
            name, f"cannot be read as Parquet, or is damaged or cut off ({_short(error)})"
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class _Shard:
    """A Parquet file by its footer.

    Attributes
    ----------
    metadata
        What pyarrow makes of the footer.
    leaves
        All columns, by their paths in the schema.
    files, plain
        Names of the columns that hold files, and of those with one value a row.
    """

    def __init__(self, file: BinaryIO, shard: SourceFile, name: str) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._file, self._shard, self._name = file, shard, name
        tail, footer = _footer(file, shard.size, name)
        self.metadata: Any = parquet.read_metadata(pa.BufferReader(tail))
        self._footer = Compact(footer).struct()
        if self.metadata.num_rows > _MOST_ROWS:
            raise ValueError(f"it has {self.metadata.num_rows:,} rows")
        schema = self.metadata.schema
        self.leaves = {schema.column(index).path: index for index in range(len(schema))}
        flat = [leaf for leaf, index in self.leaves.items() if not schema.column(index).max_repetition_level]
        texts = {leaf for leaf in flat if schema.column(self.leaves[leaf]).physical_type == "BYTE_ARRAY"}
        self.files = tuple(leaf.removesuffix(_CONTENT) for leaf in flat if leaf.endswith(_CONTENT) and leaf in texts)
        numbers = {leaf for leaf in flat if leaf not in texts}
        strings = {leaf for leaf in texts if schema.column(self.leaves[leaf]).logical_type.type == "STRING"}
        self.plain = tuple(leaf for leaf in flat if "." not in leaf and leaf in numbers | strings)
        self._labels = _labels(self.metadata.metadata or {})
        self._names = [f"{column}{_NAME}" for column in self.files if f"{column}{_NAME}" in texts]

    def rows(self, group: int, *, first: int) -> list[Row]:
        """Return the rows of a row group, of which the first one has a number."""
        count = self.metadata.row_group(group).num_rows
        small = self._small_columns(group, [*self.plain, *self._names])
        cells = {column: self._cells(group, column) for column in self.files}
        return [
            Row(
                number=first + row,
                values={column: small[column][row] for column in self.plain},
                cells={
                    column: found if isinstance(found, SourceError) else found[row] for column, found in cells.items()
                },
                names={column: small.get(f"{column}{_NAME}", [None] * count)[row] for column in self.files},
            )
            for row in range(count)
        ]

    def _small_columns(self, group: int, leaves: Sequence[str]) -> dict[str, list[Any]]:
        """Return the values of columns row by row: from statistics, or read."""
        described = self.metadata.row_group(group)
        found: dict[str, list[Any]] = {}
        for leaf in leaves:
            stated = described.column(self.leaves[leaf]).statistics
            if described.num_rows == 1 and stated is not None and stated.null_count == 1:
                found[leaf] = [None]
            # of texts that are cut short, the largest value is not the smallest one
            elif described.num_rows == 1 and stated is not None and stated.has_min_max and stated.min == stated.max:
                found[leaf] = [stated.max]
        unknown = [leaf for leaf in leaves if leaf not in found]
        size = sum(described.column(self.leaves[leaf]).total_uncompressed_size for leaf in unknown)
        if size > _MOST_SMALL_BYTES:
            raise ValueError(f"columns without images have {size:,} bytes")
        if unknown:
            from pyarrow import parquet

            table = parquet.ParquetFile(self._file, metadata=self.metadata).read_row_group(group, columns=unknown)
            for leaf in unknown:
                column, _, inner = leaf.partition(".")
                read = table.column(column).to_pylist()
                found[leaf] = [value and value[inner] for value in read] if inner else read
        schema = self.metadata.schema
        for leaf in leaves:
            if schema.column(self.leaves[leaf]).physical_type == "FLOAT":
                found[leaf] = [_double(value) for value in found[leaf]]
            if labels := self._labels.get(leaf):
                found[leaf] = [labels.get(value, value) for value in found[leaf]]
        return found

    def _cells(self, group: int, column: str) -> list[Cell | None] | SourceError:
        """Return where the values of a column lie, row by row, or why they cannot be had."""
        index = self.leaves[f"{column}{_CONTENT}"]
        described = self.metadata.row_group(group)
        chunk = described.column(index)
        start = min(at for at in (chunk.dictionary_page_offset, chunk.data_page_offset) if at)
        cell = Cell(
            shard=self._shard.path,
            start=start,
            stop=start + chunk.total_compressed_size,
            codec=chunk.compression,
            levels=self.metadata.schema.column(index).max_definition_level,
            rows=described.num_rows,
            row=0,
            size=0,
        )
        if not 0 < start <= cell.stop <= self._shard.size:
            return DamagedShardError(self._name, f"is cut off, or its footer is damaged: {column} lies beyond its end")
        if chunk.statistics is not None and chunk.statistics.null_count == cell.rows:
            return [None] * cell.rows
        sizes: list[int | None] = [self._footer_size(group, index)]
        if cell.rows != 1 or sizes == [None]:
            try:
                sizes = cell_sizes(self._file, cell, path=self._name, shard=f"its column {column}")
            except SourceError as error:
                return error
        return [
            None if size is None else dataclasses.replace(cell, row=row, size=size) for row, size in enumerate(sizes)
        ]

    def _footer_size(self, group: int, index: int) -> int | None:
        """Return the bytes of all values of a column chunk, where the footer tells."""
        described = self._footer[_ROW_GROUPS][group][_COLUMNS][index][_METADATA]
        size = described.get(_SIZE_STATISTICS, {}).get(_VALUE_BYTES)
        statistics = self.metadata.row_group(group).column(index).statistics
        return size if isinstance(size, int) and statistics is not None and statistics.null_count == 0 else None


def _footer(file: BinaryIO, size: int, name: str) -> tuple[bytes, bytes]:
    """Return the end of a Parquet file, with all of its footer, and the footer."""
    tail = _end(file, size, _TAIL_BYTES, name)
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] == b"PARE":
        raise UnsupportedShardError(name, "is encrypted")
    if tail[-4:] != b"PAR1" or length > min(size, _MOST_FOOTER_BYTES) - 8:
        raise ValueError("it does not end as such a file does")
    if length + 8 > len(tail):
        tail = _end(file, size, length + 8, name)
    return tail, tail[-8 - length : -8]


def _end(file: BinaryIO, size: int, count: int, name: str) -> bytes:
    found = b""
    try:
        file.seek(max(0, size - count))
        while piece := file.read(count - len(found)):
            found += piece
    except library_errors() as error:
        raise UnreadableFileError(name, f"cannot be read ({_short(error)})") from error
    return found


def _labels(metadata: Mapping[bytes, bytes]) -> dict[str, dict[Any, str | None]]:
    """Return what the numbers of each column of ``datasets.ClassLabel`` mean."""
    described = json.loads(metadata.get(b"huggingface") or "{}")
    features = described.get("info", {}).get("features", {})
    return {
        column: {-1: None, **dict(enumerate(feature["names"]))}
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _double(value: float | None) -> float | None:
    """Return the number that was meant by one of single precision: 72.3, not 72.30000305."""
    import numpy as np

    return None if value is None else float(str(np.float32(value)))
