"""A file of a release, and where its bytes are."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where a value lies in a Parquet file.

    Parameters
    ----------
    shard
        The path of the Parquet file, relative to the source; ``""`` where it is the source.
    start, stop
        The bytes of its column chunk in the file: those of one column for some rows.
    codec, levels, rows
        Of the column chunk: its compression, the definition level of a value that is there, and the number of its rows.
    row
        The row of the value among these.
    size
        Bytes of the value.
    """

    shard: str
    start: int
    stop: int
    codec: str
    levels: int
    rows: int
    row: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file of a release.

    Parameters
    ----------
    path
        Relative to the release, with forward slashes.
    size
        In bytes.
    stamp
        A token that changes when the file is replaced: a time, an ETag or a CRC, as the file system has it.
    content
        Of a file that is not there as such: where in a Parquet file its bytes lie, or the bytes themselves.
    """

    path: str
    size: int
    stamp: str
    content: Cell | bytes | None = None
