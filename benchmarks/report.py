"""A run as JSON, as Markdown, and as the page of the documentation."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from benchmarks import chunks, cohort, conversion, perfusion, reads, regions, scaling, stages, training
from benchmarks.bounds import bounds
from benchmarks.chunked import READERS
from benchmarks.cohort import check_share
from benchmarks.figures import FIGURES
from benchmarks.loaders import LOADERS, MonaiDecoding
from benchmarks.measurement import OURS, LeftOut, Measurement, Results
from benchmarks.readers import NibabelGzip
from benchmarks.targets import WEIGHTED, all_workers, best_peer, verdicts, weighted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

TITLES = {
    reads.SECTION: "Reads",
    training.SECTION: "Training",
    perfusion.SECTION: "Perfusion maps",
    chunks.SECTION: "Chunks, levels and blocks",
    conversion.SECTION: "Conversion",
    scaling.SECTION: "Scaling to a cluster",
    cohort.SECTION: "Cohorts of toy subjects",
    cohort.STARTUP: "Start-up",
    stages.SECTION: "Where the time goes",
}


def write_json(path: Path, results: Results, about: Mapping[str, Any]) -> None:
    """Write all values of a run, by section how they were measured, and the verdicts."""
    document = {
        "targets": [verdict.as_json() for verdict in verdicts(results)],
        "sections": dict(about),
        "measurements": [each.as_json() for each in results.measurements],
        "left_out": [dataclasses.asdict(each) for each in results.left_out],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> tuple[Results, dict[str, Any]]:
    """Read a run back, and by section how it was measured; nothing where there is no file."""
    if not path.exists():
        return Results(), {}
    document = json.loads(path.read_text(encoding="utf-8"))
    results = Results(
        measurements=[Measurement.from_json(row) for row in document["measurements"]],
        left_out=[LeftOut(**row) for row in document["left_out"]],
    )
    return results, document["sections"]


def markdown(results: Results, about: Mapping[str, Any], *, figures: str) -> str:
    """Return a run as a page.

    Parameters
    ----------
    results, about
        The run, and by section how it was measured.
    figures
        Path of the folder of the figures from that of the page.
    """
    introduction = "This page is written by the benchmarks themselves; each section has the command that made it."
    parts = ["# Performance", introduction, *_in_short(results), "## Targets", _targets(results)]
    if reasons := list(bounds(results)):
        parts += ["### What is in the way of those that are missed", "\n".join(f"- {reason}" for reason in reasons)]
    for section, title in TITLES.items():
        found = list(results.of(section))
        if not found:
            continue
        parts += [f"## {title}", *_circumstances(about[section]), *_remarks(section, results)]
        parts += [f"![{title}]({figures}/{name}.png)" for name, (of, _) in FIGURES.items() if of == section]
        if section == scaling.SECTION:
            parts.append(_table(*scaling.model_rows(results)))
            shown = {scaling.FULL, *scaling.IN_OTHER_ORDERS.values()}
            found = [each for each in found if each.measure not in shown]
        if section == stages.SECTION:
            parts += [
                part
                for title, rows in stages.tables(results)
                for part in (f"### {title[0].upper()}{title[1:]}", _table(["stage", "takes", "share"], rows))
            ]
            continue
        if section == reads.SECTION:
            parts.append(_table(["by", WEIGHTED], _weighted_rows(results)))
        parts.append(_matrix(found) if section in (reads.SECTION, chunks.SECTION) else _list(found))
    if results.left_out:
        rows = [[TITLES[each.section], each.what, each.why] for each in results.left_out]
        parts += ["## Left out", _table(["section", "what", "why"], rows)]
    for title, used in (("reader", READERS), ("loader", LOADERS)):
        parts += [
            f"## How each {title} is used",
            _table([title, "as"], [[each.name, f"`{each.how}`"] for each in used]),
        ]
    return "\n\n".join(parts) + "\n"


def _in_short(results: Results) -> Iterator[str]:
    """Yield the five numbers that users ask for first, each beside that of what they would use without this package."""
    rate = training.rate_name(training.WORKERS, "forkserver", cold=False)
    readings = (
        ("one slice of the perfusion series, store not yet open", regions.AXIAL_CLOSED, OURS, NibabelGzip.name),
        ("time curve of one voxel", regions.CURVE, OURS, NibabelGzip.name),
        ("training patches of 96^3 voxels x 5 images, 2 workers", rate, OURS, MonaiDecoding.name),
        ("converting one patient, once, on all cores", conversion.SECONDS, all_workers(results), None),
        ("size", conversion.STORED, OURS, None),
    )
    rows = []
    for what, measure, by, other in readings:
        found, theirs = results.median(measure, by), results.median(measure, other) if other else None
        if found is not None:
            rows.append([what, _amount(measure, found), f"{_amount(measure, theirs)} ({other})" if theirs else ""])
    if rows:
        yield "## In short"
        yield _table(["", OURS, "the files as they are"], rows)


def _amount(measure: str, value: float) -> str:
    if measure == conversion.STORED:
        return f"{value:.2f} of the .nii.gz"
    if measure.startswith(training.RATE):
        return f"{value:.2g} a second"
    return f"{value:.2g} s" if value >= 1 else f"{value * 1e3:.2g} ms"


def _circumstances(about: Mapping[str, Any]) -> Iterator[str]:
    machine = about["machine"]
    yield f"```\n{about['command']}\n```"
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    yield (
        f"On {about['date']}, with {machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB of "
        f"memory, {machine['system']}, Python {machine['python']}; load of the machine before the run "
        f"{machine['load_before']}. {packages}."
    )
    yield "\n".join(f"- {note}" for note in about["notes"])


def _remarks(section: str, results: Results) -> Iterator[str]:
    if section == reads.SECTION:
        yield "Median milliseconds, and in brackets the first and third quartile."
        weights = ", ".join(f"{read} {weight:g}" for read, weight in regions.WEIGHTS.items())
        yield (
            f"The weighted mean is the geometric one of the medians, of who was asked for all reads, by weight: "
            f"{weights}. "
            f"The best single peer is {best_peer(results) or 'not measured'}."
        )
    if section == chunks.SECTION:
        yield (
            "Median milliseconds, and in brackets the first and third quartile. A row gives the most voxels of a chunk "
            "along (time, z, y, x), the level of Zstandard, and what is one block of Blosc. "
            f"The store uses: {chunks.chosen().name}."
        )
    if section == scaling.SECTION:
        yield from scaling.remarks(results)
    share = check_share(results)
    if section == cohort.STARTUP and share is not None:
        yield f"Looking whether every shard is there and whole takes {share:.0%} of `open_scan(chunks=None)`."


def _targets(results: Results) -> str:
    rows = []
    for verdict in verdicts(results):
        target = verdict.target
        value = "not measured" if verdict.value is None else f"{_short(verdict.value)} {target.unit}"
        met = {True: "yes", False: "**no**", None: ""}[verdict.met]
        rows.append([target.measure, target.against, target.wanted, value, met])
    reached = sum(verdict.met is True for verdict in verdicts(results))
    measured = sum(verdict.met is not None for verdict in verdicts(results))
    head = f"{reached} of {measured} measured targets are met. Ratios are of medians.\n\n"
    return head + _table(["measure", "against", "target", "measured", "met"], rows)


def _weighted_rows(results: Results) -> list[list[str]]:
    means = {by: weighted(results, by) for by in dict.fromkeys(each.by for each in results.of(reads.SECTION))}
    found = sorted((mean, by) for by, mean in means.items() if mean is not None)
    return [[by, f"{_short(mean * 1000)} ms"] for mean, by in found]


def _matrix(found: Sequence[Measurement]) -> str:
    measures = list(dict.fromkeys(each.measure for each in found))
    readers = list(dict.fromkeys(each.by for each in found))
    cells = {(each.by, each.measure): each for each in found}
    rows = [[by, *(_milliseconds(cells.get((by, measure))) for measure in measures)] for by in readers]
    return _table(["by", *measures], rows)


def _milliseconds(found: Measurement | None) -> str:
    if found is None:
        return ""
    if found.unit != "s":
        return _short(found.median)
    low, high = (_short(value * 1000) for value in found.quartiles)
    return f"{_short(found.median * 1000)} [{low} .. {high}]"


def _list(found: Iterable[Measurement]) -> str:
    rows = []
    for each in found:
        low, high = map(_short, each.quartiles)
        rows.append(
            [each.measure, each.by, f"{_short(each.median)} {each.unit}", f"{low} .. {high}", str(len(each.values))]
        )
    return _table(["measure", "by", "median", "quartiles", "runs"], rows)


def _short(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
