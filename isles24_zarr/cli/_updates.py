"""The command `diff`, and what `convert` says of a release that has changed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from isles24_zarr.cli._options import AsJson, Options, Source, Store, Subjects
from isles24_zarr.cli._rendering import out, print_json, print_table, tell_problems
from isles24_zarr.places import options_from_texts

if TYPE_CHECKING:
    from isles24_zarr.conversion import ConvertReport, Difference, DiffReport


def diff(
    store: Store,
    source: Source,
    *,
    subject: Subjects = None,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Tell what of a release is new, changed or missing against a store. Exit code 1 where there is a difference."""
    import isles24_zarr

    report = isles24_zarr.diff(store, source, subjects=subject, storage_options=options_from_texts(storage_option))
    if as_json:
        print_json(ok=report.ok, **dataclasses.asdict(report))
        return report.ok
    _print_differences(report)
    tell_problems(report.problems)
    return report.ok


def _print_differences(report: DiffReport) -> None:
    states = ("new", "changed", "missing", "touched")
    removed = [each.subject for each in report.differences if each.state == "removed"]
    names = [name for name in dict.fromkeys(each.subject for each in report.differences) if name not in removed]
    rows = []
    for name in names:
        own = [each for each in report.differences if each.subject == name]
        columns = [[_label(each) for each in own if each.state == state] for state in states]
        whole = name in (*report.new, *report.missing)
        rows.append((name, *(_files(len(each)) if whole and each else " ".join(each) for each in columns)))
    if rows:
        print_table(("subject", "new", "changed", "missing", "touched, same content"), rows)
    counts = [f"{sum(each.state == state for each in report.differences)} {state}" for state in states]
    out().print(f"{len(report.same)} subjects are the same; of {len(names)} others: {', '.join(counts)}")
    if removed:
        out().print(f"removed from the store for good, and left out: {', '.join(removed)}", soft_wrap=True)


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _label(difference: Difference) -> str:
    if difference.image is None:
        return difference.path.rsplit("_", 1)[-1]
    return difference.image if difference.space == "ncct" else f"{difference.space}:{difference.image}"


def print_update(report: ConvertReport) -> None:
    """Print what was only touched, and who is gone."""
    if report.touched:
        count = _files(sum(map(len, report.touched.values())))
        what = f"{count} of {', '.join(list(report.touched)[:3])}{' ...' if len(report.touched) > 3 else ''}"
        out().print(f"{what} touched, same content: not written again", soft_wrap=True)
    for name in report.removed:
        out().print(f"{name} was removed: it is not in the release any more", soft_wrap=True)
