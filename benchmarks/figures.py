"""The figures of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import chunks, cohort, conversion, converters, reads, regions, scaling, training
from benchmarks.measurement import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.measurement import Measurement, Results

_OURS: Final = "#1b6ca8"
_OUR_FORMAT: Final = "#7fb3d5"
_OTHERS: Final = "#b0b0b0"
_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def write_figures(folder: Path, results: Results) -> list[Path]:
    """Draw every figure that a run has values for; return the files."""
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    written = []
    for name, (section, draw) in FIGURES.items():
        found = list(results.of(section))
        if found:
            path = folder / f"{name}.png"
            draw(found).savefig(path, dpi=130)
            written.append(path)
    return written


def _colour(by: str) -> str:
    if by.startswith(OURS):
        return _OURS
    return _OUR_FORMAT if by.endswith("our store") else _OTHERS


def _time(seconds: float) -> str:
    scale, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def _bars(axes: Any, found: Sequence[Measurement], label: Callable[[float], str], *, log: bool) -> None:
    """Draw medians as horizontal bars, quartiles as lines on them, the first one on top."""
    medians = [each.median for each in found]
    errors = [
        [each.median - each.quartiles[0] for each in found],
        [each.quartiles[1] - each.median for each in found],
    ]
    places = range(len(found))
    axes.barh(places, medians, color=[_colour(each.by) for each in found], xerr=errors, error_kw={"lw": 0.8})
    axes.set_yticks(places, [each.by for each in found])
    axes.invert_yaxis()
    for place, each in zip(places, found, strict=True):
        axes.text(
            each.quartiles[1] * (1.1 if log else 1.01), place, f" {label(each.median)}", va="center", fontsize=7.5
        )
    if log:
        axes.set_xscale("log")
        axes.set_xlim(min(medians) / 2, max(each.quartiles[1] for each in found) * 8)
    else:
        axes.set_xlim(0, max(each.quartiles[1] for each in found) * 1.25)


def _reads_figure(found: Sequence[Measurement]) -> Figure:
    measures = list(dict.fromkeys(each.measure for each in found))
    rows = -(-len(measures) // 2)
    figure = Figure(figsize=(13, 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, measure in zip(grid, measures, strict=False):
        _bars(axes, [each for each in found if each.measure == measure], _time, log=True)
        axes.set_title(measure, loc="left", fontweight="bold")
    for axes in grid[len(measures) :]:
        axes.set_axis_off()
    figure.suptitle("Seconds for a read (log scale, median and quartiles; blue: this package, light blue: its store)")
    return figure


def _training_figure(found: Sequence[Measurement]) -> Figure:
    rates = [each for each in found if each.unit == training.UNIT]
    measures = list(dict.fromkeys(each.measure for each in rates))
    rows = -(-len(measures) // 2)
    figure = Figure(figsize=(13, 2.2 * rows), layout="constrained")
    for axes, measure in zip(figure.subplots(rows, 2, squeeze=False).ravel(), measures, strict=True):
        _bars(axes, [each for each in rates if each.measure == measure], "{:.3g}".format, log=True)
        axes.set_title(measure, loc="left", fontsize=9, fontweight="bold")
    return figure


def _chunks_figure(found: Sequence[Measurement]) -> Figure:
    """Draw what is to be weighed: a slice against a curve, and the bytes that either is paid for with."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    medians = {(each.measure, each.by): each.median for each in found}
    # of series alone: of a volume there are no curves
    names = [name for name in dict.fromkeys(each.by for each in found) if (regions.CURVE, name) in medians]
    panels = ((regions.CURVE, "curve of one voxel"), (regions.FRAME, "one frame"))
    for axes, (measure, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, name in enumerate(names, 1):
            x, y = medians[regions.AXIAL, name] * 1000, medians[measure, name] * 1000
            ours = name == chunks.chosen().name
            label = f"{number}: {name} ({medians[chunks.STORED, name]:.3f})"
            axes.scatter(x, y, color=_OURS if ours else _OTHERS, zorder=3, label=label)
            # around the point, as some lie on each other
            place = ((5, 3), (-11, 3), (5, -9), (-11, -9))[number % 4]
            axes.annotate(str(number), (x, y), xytext=place, textcoords="offset points", fontsize=8)
        axes.set(xscale="log", yscale="log", xlabel="axial slice [ms]", ylabel=f"{title} [ms]")
        axes.set_title(f"slice and {title}", loc="left", fontsize=9)
        axes.grid(visible=True, which="both", alpha=0.2)
    title = "in brackets the bytes stored of the voxels"
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7, title=title, frameon=False)
    return figure


def _conversion_figure(found: Sequence[Measurement]) -> Figure:
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = (
        (conversion.SECONDS, conversion.BOUND, "conversion of the subject, and the bound"),
        (converters.QUARTER_SECONDS, None, "conversion of a quarter of the subject"),
        (conversion.PEAK, conversion.LONG_PEAK, "peak memory of a worker; last, with three times the frames"),
        (converters.QUARTER_PEAK, None, "peak memory of a worker, a quarter of the subject"),
    )
    for axes, (measure, other, title) in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        shown = [each for each in found if each.measure in (measure, other)]
        if not shown:
            axes.set_axis_off()
            continue
        label = _time if shown[0].unit == "s" else "{:,.0f} MB".format
        _bars(axes, shown, label, log=False)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    return figure


def _cohort_figure(found: Sequence[Measurement]) -> Figure:
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for title, name in (("open_cohort", cohort.open_name), ("open_scan", cohort.scan_name)):
        _curve(left, found, title, name, OURS)
    _curve(left, found, cohort.DATATREE, cohort.open_name, cohort.DATATREE)
    for by in dict.fromkeys(each.by for each in found if each.by.startswith(f"{OURS}, ")):
        _curve(right, found, by, cohort.map_name, by)
    for axes, title in ((left, "opening"), (right, "lesion and Tmax > 6 s volumes")):
        axes.set(xscale="log", yscale="log", xlabel="subjects", ylabel="seconds")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(visible=True, which="both", alpha=0.2)
        if axes.has_data():
            axes.legend(frameon=False)
    return figure


def _curve(axes: Any, found: Sequence[Measurement], label: str, name: Callable[[int], str], by: str) -> None:
    points = [(size, each) for size in cohort.SIZES for each in found if (each.measure, each.by) == (name(size), by)]
    if points:
        medians = [each.median for _, each in points]
        low = [each.median - each.quartiles[0] for _, each in points]
        high = [each.quartiles[1] - each.median for _, each in points]
        axes.errorbar([size for size, _ in points], medians, yerr=[low, high], marker="o", label=label)


def _startup_figure(found: Sequence[Measurement]) -> Figure:
    measures = list(dict.fromkeys(each.measure for each in found))
    figure = Figure(figsize=(13, 2.2), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False).ravel(), measures, strict=True):
        _bars(axes, [each for each in found if each.measure == measure], _time, log=False)
        axes.set_title(measure, loc="left", fontweight="bold")
    return figure


def _scaling_figure(found: Sequence[Measurement]) -> Figure:
    """Draw the hours and the speed-up of the model over the number of workers."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    medians = {(each.measure, each.by): each.median for each in found}
    for cores in (cores for cores in range(1, 1025) if (scaling.FULL, scaling.full_name(1, cores)) in medians):
        for measure, style in ((scaling.FULL, "-o"), (scaling.IN_OTHER_ORDERS["given"], ":")):
            seconds = [medians[measure, scaling.full_name(workers, cores)] for workers in scaling.WORKERS]
            label = f"{scaling.cores_name(cores)}, {'files as listed' if style == ':' else 'as it is'}"
            (line,) = left.plot(scaling.WORKERS, [each / 3600 for each in seconds], style, label=label)
            alone = medians[scaling.FULL, scaling.full_name(1, cores)]
            right.plot(scaling.WORKERS, [alone / each for each in seconds], style, color=line.get_color(), label=label)
    right.plot(scaling.WORKERS, scaling.WORKERS, color=_OTHERS, lw=0.8, label="as many times as workers")
    for axes, title in ((left, "hours"), (right, "speed-up")):
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel=title)
        axes.set_xticks(scaling.WORKERS, [str(count) for count in scaling.WORKERS])
        axes.set_title(f"{title} of the full release, modelled", loc="left", fontweight="bold")
        axes.grid(visible=True, which="major", alpha=0.2)
        axes.legend(frameon=False)
    return figure


FIGURES: Final[dict[str, tuple[str, Callable[[Sequence[Measurement]], Figure]]]] = {
    "reads": (reads.SECTION, _reads_figure),
    "training": (training.SECTION, _training_figure),
    "chunks": (chunks.SECTION, _chunks_figure),
    "conversion": (conversion.SECTION, _conversion_figure),
    "scaling": (scaling.SECTION, _scaling_figure),
    "cohort": (cohort.SECTION, _cohort_figure),
    "startup": (cohort.STARTUP, _startup_figure),
}
"""By name: the section that a figure shows, and what draws it."""
