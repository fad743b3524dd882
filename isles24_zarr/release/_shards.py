"""From rows of Parquet files to files of a release: what each cell is called there, and the tables of each subject.

The columns are those of the dataset card: ``subject_id``, the images by their names, and clinical values. A cell has
the name of the file that it was made from, which says where it lies in a release. Clinical values become the tables
that the subject would have, as CSV.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import math
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import Problem, SourceError, UnsafePathError
from isles24_zarr.release.files import SourceFile
from isles24_zarr.release.left_out import LeftOut
from isles24_zarr.release.names import ImageName, Stray, classified
from isles24_zarr.vocabulary import (
    CLINICAL_VARIABLES,
    IMAGES,
    PERFUSION_MAPS,
    REFERENCE_SPACE,
    SUBJECT_NAME,
    TABLE_OF_SESSION,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from isles24_zarr.release._footers import Row, ShardRows
    from isles24_zarr.release.files import Cell

_ID_COLUMNS: Final = ("subject_id", "participant_id", "subject")
_TABLES: Final = {
    name.casefold(): variable.table
    for variable in CLINICAL_VARIABLES
    for name in (variable.name, variable.column, *variable.aliases)
}
"""Which table of a release has a column."""

_MINUTES: Final = frozenset(variable.name for variable in CLINICAL_VARIABLES if variable.kind == "duration")
"""Columns of a store's own names: a number in one is what the store has, where tables have times."""

_CARD_VALUES: Final = ("age", "sex", "nihss_admission", "mrs_admission", "mrs_3month")
_GZIP: Final = b"\x1f\x8b"


def files_of_shards(
    shards: Sequence[tuple[SourceFile, ShardRows]], *, name: Callable[[SourceFile], str], start: Callable[[Cell], bytes]
) -> tuple[list[SourceFile], list[Problem], list[LeftOut]]:
    """Return the files of a release that Parquet files stand for.

    Parameters
    ----------
    shards
        The Parquet files, and what they hold.
    name
        Tells what problems call one.
    start
        Reads the first bytes of a cell, which tell whether one without a name is compressed.

    Returns
    -------
    tuple
        The files: those of images lie in cells, those of tables hold their content. What is odd, or cannot be used. And
        what is left out with a notice.
    """
    files: list[SourceFile] = []
    problems = [problem for _, shard in shards for problem in shard.problems]
    problems += _column_problems(shards, name)
    left_out = list(_left_out_columns(shards, name))
    images = {column for _, shard in shards for column in shard.files if column in IMAGES}
    seen: dict[str, str] = {}
    for shard, found in shards:
        for row in found.rows if images.intersection(found.files) else ():
            where = f"row {row.number}"
            try:
                subject = _subject(row, name(shard))
            except SourceError as error:
                problems.append(Problem.from_error(error))
                continue
            if subject in seen:
                message = f"{where} is another one of {subject}, after {seen[subject]}; left out"
                problems.append(_notice(name(shard), message, subject))
                left_out.append(LeftOut(path=name(shard), kind="refused", subject=subject))
                continue
            seen[subject] = f"{where} of {name(shard)}"
            of_row, odd = _images(row, subject, shard, name(shard), start)
            files += [*of_row, *_tables(row, subject)]
            left_out += [
                LeftOut(path=name(shard), kind="image", subject=subject)
                for column, cell in row.cells.items()
                if column not in IMAGES and cell is not None
            ]
            problems += odd
            if missing := [
                image for image in IMAGES if image in images and not row.cells.get(image) and not row.names.get(image)
            ]:
                problems.append(_notice(name(shard), f"{where} has no {', '.join(missing)}", subject))
    return files, problems, left_out


def _left_out_columns(
    shards: Sequence[tuple[SourceFile, ShardRows]], name: Callable[[SourceFile], str]
) -> Iterator[LeftOut]:
    """Yield Parquet files of which no row is used, and what is no value of a release where there is none."""
    for shard, found in shards:
        if not set(found.files) & IMAGES.keys():
            yield LeftOut(path=name(shard), kind="image" if found.files else "table")
        elif _unused_values(found):
            yield LeftOut(path=name(shard), kind="table")


def _unused_values(found: ShardRows) -> list[str]:
    """Return columns of values that become no table, as none of them is one of a release."""
    is_table = any(column.casefold() in _TABLES for column in found.plain)
    return [] if is_table else [column for column in found.plain if column not in _ID_COLUMNS]


def _column_problems(
    shards: Sequence[tuple[SourceFile, ShardRows]], name: Callable[[SourceFile], str]
) -> Iterator[Problem]:
    """Tell of columns that are not used, and of those of the dataset card that are not there."""
    told: set[str] = set()
    there: set[str] = set()
    for shard, found in shards:
        if not set(found.files) & IMAGES.keys():
            yield _notice(name(shard), "has no column with images of a release; left out", None)
            continue
        there.update(found.files, found.plain)
        unused = [*(column for column in found.files if column not in IMAGES), *found.others, *_unused_values(found)]
        if fresh := [column for column in unused if column not in told]:
            told.update(fresh)
            yield _notice(name(shard), f"has columns that are no part of a release: {', '.join(fresh)}; left out", None)
    missing = [column for column in (*IMAGES, *_CARD_VALUES) if column not in there]
    if there and missing:
        yield _notice(name(shards[0][0]), f"has no column {', '.join(missing)}, and no other Parquet file has", None)


def _subject(row: Row, name: str) -> str:
    column = next((column for column in _ID_COLUMNS if column in row.values), None)
    if column is None:
        raise UnsafePathError(name, f"row {row.number} has no column {_ID_COLUMNS[0]} that says whose it is")
    text = str(row.values[column] or "")
    subject = text if text.startswith("sub-") else f"sub-{text}"
    if not SUBJECT_NAME.fullmatch(subject):
        raise UnsafePathError(
            name, f"row {row.number} is of {text!r}, which is not 'sub-' and a label of letters and digits"
        )
    return subject


def _images(
    row: Row, subject: str, shard: SourceFile, name: str, start: Callable[[Cell], bytes]
) -> tuple[list[SourceFile], list[Problem]]:
    """Return the images of a row, and what is wrong with others."""
    files: list[SourceFile] = []
    problems: list[Problem] = []
    for image in (image for image in IMAGES if image in row.cells):
        cell = row.cells[image]
        given = row.names[image]
        try:
            if isinstance(cell, SourceError):
                raise cell
            if cell is None and given:
                what = f"row {row.number} names {given!r} for {image} and does not hold it"
                raise UnsafePathError(name, what)
            if cell:
                path = _release_path(subject, image, given, functools.partial(start, cell), name)
                files.append(SourceFile(path=path, size=cell.size, stamp=shard.stamp, content=cell))
        except SourceError as error:
            problems.append(Problem.from_error(error, subject=subject, image=image))
    return files, problems


def _release_path(subject: str, image: str, given: str | None, start: Callable[[], bytes], name: str) -> str:
    """Return the path that an image has in a release: by the name of its file, or by that of its column."""
    session = f"ses-{IMAGES[image].session:02d}"
    own = PurePosixPath((given or "").split("::")[0].replace("\\", "/")).name

    def path(file: str) -> str:
        section = "derivatives" if "_space-" in file else "raw_data"
        folder = "perfusion-maps/" if image in PERFUSION_MAPS else ""
        return f"{section}/{subject}/{session}/{folder}{file}"

    found = classified(path(own)) if own else None
    if isinstance(found, ImageName) and found.image == image:
        return path(own)
    if isinstance(found, ImageName) or (isinstance(found, Stray) and own.startswith("sub-")):
        why = f"is one of {found.image}" if isinstance(found, ImageName) else found.reason
        raise UnsafePathError(name, f"{subject} has the file {own!r} for {image}: {why}")
    registered = "" if image == REFERENCE_SPACE else f"_space-{REFERENCE_SPACE}"
    ending = next((ending for ending in (".nii.gz", ".nii") if own.lower().endswith(ending)), None)
    if ending is None:
        ending = ".nii.gz" if start() == _GZIP else ".nii"
    return path(f"{subject}_{session}{registered}_{IMAGES[image].suffix}{ending}")


def _tables(row: Row, subject: str) -> Iterator[SourceFile]:
    """Yield the tables of a subject: what is known nowhere else is put into the first one."""
    values = {column: value for column, value in row.values.items() if column not in _ID_COLUMNS}
    tables: dict[str, dict[str, Any]] = {}
    for column, value in values.items():
        if column.casefold() in _TABLES:
            tables.setdefault(_TABLES[column.casefold()], {})[column] = value
    for session, table in TABLE_OF_SESSION.items():
        if table in tables:
            if table == next(iter(name for name in TABLE_OF_SESSION.values() if name in tables)):
                tables[table] |= {column: value for column, value in values.items() if column.casefold() not in _TABLES}
            content = _csv(tables[table])
            folder = f"phenotype/{subject}/ses-{session:02d}"
            yield SourceFile(
                path=f"{folder}/{subject}_ses-{session:02d}_{table}.csv",
                size=len(content),
                stamp=hashlib.sha256(content).hexdigest()[:16],
                content=content,
            )


def _csv(values: Mapping[str, Any]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(values)
    writer.writerow(_text(value, column) for column, value in values.items())
    return text.getvalue().encode()


def _text(value: Any, column: str) -> str:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if column in _MINUTES and isinstance(value, int | float) and math.isfinite(value):
        hours, rest = divmod(round(abs(value) * 60_000), 3_600_000)
        minutes, milliseconds = divmod(rest, 60_000)
        return f"{'-' if value < 0 else ''}{hours}:{minutes:02d}:{milliseconds / 1000:06.3f}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _notice(path: str, message: str, subject: str | None) -> Problem:
    return Problem(path=path, message=message, severity="notice", subject=subject)
