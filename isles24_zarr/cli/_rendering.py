"""What the commands print: tables, JSON, problems; names from outside as they are, but for what steers a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import logging
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isles24_zarr.errors import NoFolderError, Problem, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd
    import xarray as xr

    from isles24_zarr.release import LeftOut, Release, SourceFile
    from isles24_zarr.scans import ArrayInfo

_CANNOT_PRINT: Final = frozenset({errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EFBIG, errno.EDQUOT})
_READABLE: Final = 8
"""Letters that a column of a table has at least."""
NOBODY_READS: Final = 141
"""Exit code where stdout is a pipe that was closed: what shells give of programs that the system ends for it."""
_PLAIN: Final[dict[str, Any]] = {"markup": False, "emoji": False, "highlight": False}
"""Names from outside are shown as they are."""

PRINTED: Final = logging.getLogger("isles24_zarr.printed")
"""Logs the lines that are printed, tables and JSON aside."""

_quiet: Final[ContextVar[bool]] = ContextVar("_quiet", default=False)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Print no notices meanwhile."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def print_release(release: Release, *, strict: bool, as_json: bool) -> bool:
    """Print what a release holds; tell whether all of it is good.

    Raises
    ------
    LeftOutError
        After all is printed: something is left out, and nothing was to be.
    """
    _print_release(release, as_json=as_json)
    if strict:
        from isles24_zarr.release import check_nothing_left_out

        check_nothing_left_out(release.source, release.left_out)
    return all_good(release.problems)


def _print_release(release: Release, *, as_json: bool) -> None:
    if as_json:
        print_json(
            source=release.source,
            subjects={
                name: {
                    "images": [
                        {"space": space, "image": image, **_described(file)}
                        for (space, image), file in subject.images.items()
                    ],
                    "tables": [_described(file) for file in subject.tables.values()],
                }
                for name, subject in release.subjects.items()
            },
            dictionary=release.dictionary and release.dictionary.path,
            left_out=[dataclasses.asdict(each) for each in release.left_out],
            problems=plain(release.problems),
        )
        return
    rows = (
        (
            name,
            " ".join(image for space, image in subject.images if space == "ncct"),
            " ".join(f"{space}:{image}" for space, image in subject.images if space != "ncct"),
            str(len(subject.tables)),
            megabytes(sum(file.size for file in subject.images.values())),
        )
        for name, subject in release.subjects.items()
    )
    out().print(
        f"{release.source}: {len(release.subjects)} subjects, {len(release.images)} images, "
        f"{len(release.tables)} tables, {'a' if release.dictionary else 'no'} data dictionary, "
        f"{megabytes(release.bytes)} MB"
        f"{counted(release.left_out)}",
        soft_wrap=True,
    )
    print_table(("subject", "on the NCCT grid", "as acquired", "tables", "MB"), rows)
    tell_problems(release.problems)


def _described(file: SourceFile) -> dict[str, str | int]:
    return {"path": file.path, "size": file.size, "stamp": file.stamp}


def counted(left_out: Iterable[LeftOut]) -> str:
    """Return the end of a line that counts what is left out; nothing where nothing is."""
    from isles24_zarr.release import left_out_line

    line = left_out_line(left_out)
    return f"; {line}" if line else ""


def print_arrays(arrays: Iterable[ArrayInfo]) -> None:
    """Print the arrays of a subject with their sizes."""
    rows = (
        (
            array.group,
            array.image,
            by(array.shape),
            array.dtype,
            by(array.chunks),
            by(array.shards),
            megabytes(array.nbytes),
            megabytes(array.stored_bytes),
            f"{array.nbytes / array.stored_bytes:.1f}",
        )
        for array in arrays
    )
    print_table(("group", "image", "shape", "type", "chunks", "shards", "MB", "MB stored", "ratio"), rows)


def print_cohort(cohort: xr.DataTree) -> None:
    """Print the table of a cohort, as far as it fits."""
    columns = ("center", "age", "sex", "nihss_admission", "mtici", "mrs_3month")
    table, available = cohort.isles.table, cohort["phenotype"].to_dataset()["available"]
    rows = (
        (
            subject,
            *(
                ""
                if row[name] is None or row[name] != row[name]
                else f"{row[name]:g}"
                if isinstance(row[name], float)
                else str(row[name])
                for name in columns
            ),
            f"{int(available.sel(subject=subject).sum())} of {available.sizes['image']}",
        )
        for subject, row in table.iterrows()
    )
    print_table(("subject", *columns, "images"), rows)
    out().print(f"{len(table)} subjects, format version {cohort.attrs['format_version']}, {cohort.attrs['licence']}")


def tell_problems(problems: Iterable[Problem]) -> bool:
    """Print problems to stdout, errors last; tell whether there was none of severity error."""
    for problem in sorted(problems, key=lambda each: each.severity == "error"):
        if _quiet.get() and problem.severity != "error":
            PRINTED.info("%s: %s", problem.severity, problem)
            continue
        style = "red" if problem.severity == "error" else "yellow"
        out().print(f"{problem.severity}: {problem}", style=style, soft_wrap=True)
    return all_good(problems)


def all_good(problems: Iterable[Problem]) -> bool:
    """Tell whether there is no error among problems."""
    return all(problem.severity != "error" for problem in problems)


def plain(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems for JSON."""
    return [dataclasses.asdict(problem) for problem in problems]


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for JSON: numbers with all their digits, what is missing or infinite as null."""
    infinite = table.isin([float("inf"), float("-inf")])
    rows = table.astype(object).where(table.notna() & ~infinite, None).to_dict("records")
    return cast("list[dict[str, Any]]", rows)


def print_json(**document: Any) -> None:
    """Print one document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print texts in columns; on a terminal that is too narrow for them, a block of lines for each row."""
    names, cells = list(columns), [[one_line(cell) for cell in row] for row in rows]
    console = out()
    # a column of long texts is folded, as far as words stay words
    least = [min(max(map(cell_len, column)), _READABLE) for column in zip(names, *cells, strict=True)]
    if sum(least) + 2 * (len(names) - 1) > console.width:
        _print_blocks(console, names, cells)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _print_blocks(console: Console, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for first, *others in rows:
        console.print(Text(first, style="bold", overflow="fold"))
        for name, cell in zip(names[1:], others, strict=True):
            if cell:
                console.print(Padding(Text(f"{name}: {cell}".removeprefix(": "), overflow="fold"), (0, 0, 0, 2)))


def by(shape: Iterable[int]) -> str:
    """Write a shape."""
    return " x ".join(map(str, shape))


def megabytes(count: float) -> str:
    """Write a number of bytes as MB."""
    return f"{count / 1e6:,.1f}"


class _OneLine(Console):
    """A console for texts from outside, one line each: none of them steers the terminal or fakes another line."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts escaped by `one_line`, and tables, whose cells are."""
        shown = [one_line(each) if isinstance(each, str) else each for each in objects]
        for line in shown:
            if isinstance(line, str):
                PRINTED.info("%s", line)
        super().print(*shown, **options)

    def on_broken_pipe(self) -> None:
        """Leave it to `standard_streams`: rich would end with 1."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads it")


def out() -> Console:
    """Return the console of results, stdout."""
    # a file or pipe has no width: give tables room
    return _OneLine(width=None if sys.stdout.isatty() else 200, **_PLAIN)


def err() -> Console:
    """Return the console of errors, stderr."""
    return _OneLine(stderr=True, **_PLAIN)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Print what a terminal cannot show as escapes; end in one line where nothing can be printed, as on a full disk."""
    if sys.stdout is None:  # it was closed: what is printed goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # by Rich or Typer, which print help and end with 1
            sys.exit(NOBODY_READS)
        raise
    except OSError as error:
        if error.filename is not None or error.errno not in _CANNOT_PRINT:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            sys.exit(NOBODY_READS)
        err().print(f"error: stdout: cannot be written ({error.strerror})", style="red", soft_wrap=True)
        sys.exit(1)


def check_working_folder() -> None:
    """Make sure that there is a working folder, from which relative paths are.

    Raises
    ------
    NoFolderError
        It was deleted.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise NoFolderError("the working folder", f"is not there any more ({error.strerror})") from error
