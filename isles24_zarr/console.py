"""What the commands print: tables, JSON, problems; names from outside as they are."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from isles24_zarr.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr

_PLAIN: Final[dict[str, Any]] = {"markup": False, "emoji": False, "highlight": False}
"""Names from outside are shown as they are."""


def _print_cohort(cohort: xr.DataTree) -> None:
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
        table.add_row(*row)
    out().print(table)


def by(shape: Iterable[int]) -> str:
    """Write a shape."""
    return " x ".join(map(str, shape))


def megabytes(count: float) -> str:
    """Write a number of bytes as MB."""
    return f"{count / 1e6:,.1f}"


def out() -> Console:
    """Return the console of results, stdout."""
    # a file or pipe has no width: give tables room
    return Console(width=None if sys.stdout.isatty() else 200, **_PLAIN)


def err() -> Console:
    """Return the console of errors, stderr."""
    return Console(stderr=True, **_PLAIN)
