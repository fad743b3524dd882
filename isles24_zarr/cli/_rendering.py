"""What the commands print: tables, JSON, problems; names from outside as they are, but for what steers a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from isles24_zarr.errors import NoFolderError, Problem, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import xarray as xr

    from isles24_zarr.format import SubjectPlan
    from isles24_zarr.release import Release, SourceFile
    from isles24_zarr.scans import ArrayInfo

_CANNOT_PRINT: Final = frozenset({errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EFBIG, errno.EDQUOT})
_PLAIN: Final[dict[str, Any]] = {"markup": False, "emoji": False, "highlight": False}
"""Names from outside are shown as they are."""


def print_release(release: Release, *, as_json: bool) -> bool:
    """Print what a release holds; tell whether all of it is good."""
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
            problems=plain(release.problems),
        )
        return all_good(release.problems)
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
    print_table(("subject", "on the NCCT grid", "as acquired", "tables", "MB"), rows)
    out().print(
        f"{len(release.subjects)} subjects, {len(release.images)} images, {len(release.tables)} tables, "
        f"{'a' if release.dictionary else 'no'} data dictionary, {megabytes(release.bytes)} MB"
    )
    return tell_problems(release.problems)


def _described(file: SourceFile) -> dict[str, str | int]:
    return {"path": file.path, "size": file.size, "stamp": file.stamp}


def print_plan(plans: Iterable[SubjectPlan], problems: Sequence[Problem], *, as_json: bool) -> bool:
    """Print the arrays that a conversion would write; tell whether all files are good."""
    arrays = [array for plan in plans for array in plan.arrays]
    if as_json:
        keys = ("path", "shape", "dtype", "chunks", "shards", "nbytes")
        print_json(
            arrays=[
                {
                    **{key: getattr(array, key) for key in keys},
                    "source": array.source.path,
                    "estimated_bytes": array.source.size,
                }
                for array in arrays
            ],
            problems=plain(problems),
        )
        return all_good(problems)
    rows = (
        (
            array.path,
            by(array.shape),
            f"{array.dtype}, or labels" if array.is_mask else array.dtype,
            by(array.chunks),
            by(array.shards),
            megabytes(array.nbytes),
            megabytes(array.source.size),
        )
        for array in arrays
    )
    print_table(("array", "shape", "type", "chunks", "shards", "MB of voxels", "MB stored, about"), rows)
    total, stored = sum(array.nbytes for array in arrays), sum(array.source.size for array in arrays)
    out().print(f"{len(arrays)} arrays, {megabytes(total)} MB of voxels, about {megabytes(stored)} MB stored")
    return tell_problems(problems)


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
        style = "red" if problem.severity == "error" else "yellow"
        out().print(f"{problem.severity}: {problem}", style=style, soft_wrap=True)
    return all_good(problems)


def all_good(problems: Iterable[Problem]) -> bool:
    """Tell whether there is no error among problems."""
    return all(problem.severity != "error" for problem in problems)


def plain(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems for JSON."""
    return [dataclasses.asdict(problem) for problem in problems]


def print_json(**document: Any) -> None:
    """Print one document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print texts in columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(one_line, row))
    out().print(table)


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
        super().print(*(one_line(each) if isinstance(each, str) else each for each in objects), **options)


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
    except OSError as error:
        if error.filename is not None or error.errno not in _CANNOT_PRINT:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
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
