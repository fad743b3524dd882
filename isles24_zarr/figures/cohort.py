"""Figures of a cohort, from its tables: outcome by volume, what is missing, sizes of grids."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from isles24_zarr.cohorts import clinical_table
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.figures._style import CATEGORY_COLOURS, DEEP_BLUE, DOTS_PER_INCH, ON_WHITE, SMALL, figure_class
from isles24_zarr.figures._text import counted
from isles24_zarr.format import PHENOTYPE
from isles24_zarr.geometry import scan_grid
from isles24_zarr.vocabulary import CLINICAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_PAPER, _INK, _FAINT = ON_WHITE
_BLUE, _VERMILLION, _PALE = CATEGORY_COLOURS[0], CATEGORY_COLOURS[5], "#e8e8e8"
_MOST_NAMES: Final = 40
"""Of subjects that can be read below a figure."""

_MOST_NUMBERS: Final = 12
"""Beside dots."""


def outcome_by_volume(
    table: pd.DataFrame, volumes: str | Sequence[str], *, outcome: str = "mrs_3month", labels: Sequence[str] = ()
) -> Figure:
    """Draw volumes by outcome: a dot for each subject, a bar at the median of each grade.

    Parameters
    ----------
    table
        One row a subject, as the cohort's clinical table with columns of measured volumes joined.
    volumes
        Columns in mL, one panel for each.
    outcome
        Column of a score, by default the modified Rankin Scale after three months: 0 no symptoms, 6 dead.
    labels
        Of the volumes, for people, in their order; by default the names of the columns.

    Returns
    -------
    matplotlib.figure.Figure
        Volumes are on a logarithmic axis that is linear from 0 to 1 mL, so that 0 is shown. Each panel states
        Spearman's rank correlation, of how many subjects, and how many had no outcome or no volume.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The table has no such column, or no subject with both values.
    """
    drawable = figure_class()
    columns = [volumes] if isinstance(volumes, str) else list(volumes)
    for name in (outcome, *columns):
        if name not in table:
            raise UnknownNameError(repr(name), f"is no column of the table, which has {', '.join(map(str, table))}")
    if not columns:
        raise UnknownNameError("volumes", "name one or more columns of volumes")
    names = list(labels) or columns
    figure = drawable(
        figsize=(1.0 + 4.2 * len(columns), 4.2), dpi=DOTS_PER_INCH, facecolor=_PAPER, layout="constrained"
    )
    for axes, column, name in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, names, strict=True):
        _draw_outcome(axes, table[[outcome, column]].astype(np.float64), name)
        axes.set_xlabel(_outcome_label(outcome), color=_INK, size=9, parse_math=False)
    return figure


def missingness(cohort: xr.DataTree) -> Figure:
    """Draw which clinical variables and which images each subject of a cohort lacks.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it. No subject is opened.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each variable and image, a column for each subject, vermillion where the value is missing; at the
        right, how many subjects lack it.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The cohort has no subject.
    """
    drawable = figure_class()
    clinical = clinical_table(cohort).isna()
    if clinical.empty:
        raise UnknownNameError("cohort", "has no subject")
    available = cohort[PHENOTYPE].to_dataset()["available"]
    images = pd.DataFrame(
        ~available.values, index=clinical.index, columns=[str(name) for name in available["image"].values]
    )
    rows = clinical.shape[1], images.shape[1]
    height = 0.9 + 0.165 * sum(rows) + 0.3
    width = 3.3 + min(6.5, max(2.5, 0.2 * len(clinical)))
    figure = drawable(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=_PAPER, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=rows)
    _draw_missing(top, clinical)
    _draw_missing(bottom, images)
    top.set_title(
        f"what is missing, {counted(len(clinical), 'subject')}", loc="left", color=_INK, size=11, weight="bold"
    )
    named = np.arange(0, len(clinical), math.ceil(len(clinical) / _MOST_NAMES))
    bottom.set_xticks(
        named, [str(clinical.index[int(place)]).removeprefix("sub-") for place in named], rotation=90, parse_math=False
    )
    bottom.tick_params(axis="x", labelsize=SMALL - 1, length=0)
    bottom.set_xlabel("subject", color=_INK, size=9)
    return figure


def grid_row(scan: xr.Dataset) -> dict[str, float]:
    """Return the size of a scan's grid, one row of the table that `grid_sizes` draws. No voxel is read.

    Parameters
    ----------
    scan
        As from `open_scan`.

    Returns
    -------
    dict
        ``x``, ``y``, ``z``: voxels; ``spacing_x``, ``spacing_y``, ``spacing_z``: mm; ``frames``: of the series, NaN
        where there is none; ``tilt``: angle between z and the patient's Superior, in degrees.
    """
    grid = scan_grid(scan)
    cosine = float(np.clip(grid.affine[2, 2] / np.linalg.norm(grid.affine[:3, 2]), -1, 1))
    return {
        **{axis: float(scan.sizes[axis]) for axis in "xyz"},
        **{f"spacing_{axis}": spacing for axis, spacing in zip("xyz", grid.spacing, strict=True)},
        "frames": float(scan.sizes.get("time", np.nan)),
        "tilt": float(np.degrees(np.arccos(cosine))),
    }


def grid_sizes(grids: pd.DataFrame) -> Figure:
    """Draw the sizes of the grids of a cohort: no two patients need have the same.

    Parameters
    ----------
    grids
        One row a subject, with the columns of `grid_row`; rows with gaps are left out of the panels concerned.

    Returns
    -------
    matplotlib.figure.Figure
        Voxels in plane, slices by their distance, frames, and tilt. Dots grow with the number of subjects.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The table lacks a column, or has no row.
    """
    drawable = figure_class()
    needed = ("x", "y", "z", "spacing_x", "spacing_z", "frames", "tilt")
    if missing := [name for name in needed if name not in grids]:
        raise UnknownNameError(", ".join(missing), "is no column of the table; make its rows by charts.grid_row")
    if grids.empty:
        raise UnknownNameError("grids", "has no row")
    figure = drawable(figsize=(9.6, 6.6), dpi=DOTS_PER_INCH, facecolor=_PAPER, layout="constrained")
    panels = figure.subplots(2, 2)
    _draw_counts(panels[0, 0], grids, "x", "y", ("voxels along x", "voxels along y"))
    _draw_counts(panels[0, 1], grids, "spacing_z", "z", ("distance of slices [mm]", "slices"))
    _draw_histogram(panels[1, 0], grids["frames"], "frames of CT perfusion")
    _draw_histogram(panels[1, 1], grids["tilt"], "tilt of the slices [degrees]")
    spacing = grids["spacing_x"].astype(np.float64)
    least, most = f"{spacing.min():.2f}", f"{spacing.max():.2f}"
    sizes = f"{least if least == most else f'{least} to {most}'} mm in plane"
    title = f"grids of {counted(len(grids), 'subject')}, {sizes}"
    figure.suptitle(title, color=_INK, size=11, weight="bold", x=0.01, ha="left")
    return figure


# --- outcome ---


def _draw_outcome(axes: Axes, pairs: pd.DataFrame, name: str) -> None:
    whole = pairs.dropna()
    if whole.empty:
        raise UnknownNameError(name, "no subject has both a volume and an outcome")
    grades, volumes = (whole.iloc[:, column].to_numpy() for column in (0, 1))
    axes.scatter(grades + _spread(grades, volumes), volumes, s=26, color=DEEP_BLUE, alpha=0.65, linewidths=0)
    first, last = min(0, int(grades.min())), max(6, int(grades.max()))
    for grade in np.unique(grades):
        median = float(np.median(volumes[grades == grade]))
        axes.plot([grade - 0.32, grade + 0.32], [median, median], color=_VERMILLION, linewidth=2.4)
    ticks = np.arange(first, last + 1)
    axes.set_xticks(ticks, [f"{tick}\nn = {np.count_nonzero(grades == tick)}" for tick in ticks])
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    least, most = float(volumes.min()), max(float(volumes.max()), 4.5)
    decades = [0.0, *(10.0**power for power in range(math.ceil(math.log10(most)) + 1))]
    axes.set_yticks(decades, [f"{decade:g}" for decade in decades])
    axes.set_ylim(-0.15 if least < 1 else 0.8 * 10 ** math.floor(math.log10(least)), 2 * most)
    axes.set_xlim(first - 0.6, last + 0.6)
    axes.set_ylabel(f"{name} [mL]", color=_INK, size=9, parse_math=False)
    notes = [f"n = {len(whole)}"]
    if len(whole) > 2 and np.unique(grades).size > 1 and np.unique(volumes).size > 1:
        notes.insert(0, f"Spearman's \N{GREEK SMALL LETTER RHO} = {_rank_correlation(whole):.2f}")
    if len(pairs) > len(whole):
        notes.append(f"{len(pairs) - len(whole)} without a value")
    axes.set_title(",  ".join(notes), loc="left", color=_FAINT, size=9)
    _plain(axes)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)


def _spread(grades: NDArray[np.float64], volumes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each dot is moved aside, so that dots of one grade do not hide each other: the same each time."""
    moved = np.zeros(len(grades))
    for grade in np.unique(grades):
        members = np.flatnonzero(grades == grade)
        order = members[np.argsort(volumes[members], kind="stable")]
        # neighbours in volume go to opposite sides
        moved[order] = np.resize([0.0, 0.16, -0.16, 0.08, -0.08], order.size)
    return moved


def _rank_correlation(pairs: pd.DataFrame) -> float:
    """Return Spearman's rho: Pearson's of the ranks, ties averaged."""
    ranks = pairs.rank()
    return float(ranks.iloc[:, 0].corr(ranks.iloc[:, 1]))


def _outcome_label(outcome: str) -> str:
    known = CLINICAL.get(outcome)
    return known.long_name if known else outcome


# --- what is missing ---


def _draw_missing(axes: Axes, missing: pd.DataFrame) -> None:
    from matplotlib.colors import ListedColormap

    values = missing.to_numpy().T
    axes.imshow(values, cmap=ListedColormap([_PALE, _VERMILLION]), vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.set_yticks(
        np.arange(len(values)), [str(name) for name in missing.columns], size=SMALL, color=_INK, parse_math=False
    )
    axes.tick_params(length=0)
    # lines of paper between cells
    edges = np.arange(len(values) + 1) - 0.5
    axes.hlines(edges, -0.5, values.shape[1] - 0.5, color=_PAPER, linewidth=1)
    if values.shape[1] <= _MOST_NAMES:
        axes.vlines(np.arange(values.shape[1] + 1) - 0.5, -0.5, len(values) - 0.5, color=_PAPER, linewidth=1)
    for row, count in enumerate(values.sum(axis=1)):
        words = f"{count}  ({count / values.shape[1]:.0%})" if count else "0"
        ink = _INK if count else _FAINT
        axes.annotate(
            words, (1, row), (4, 0), ("axes fraction", "data"), "offset points", size=7, va="center", color=ink
        )
    for spine in axes.spines.values():
        spine.set_visible(False)


# --- grids ---


def _draw_counts(axes: Axes, grids: pd.DataFrame, across: str, up: str, labels: tuple[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    points = grids[[across, up]].astype(np.float64).dropna().round(3)
    counts = points.value_counts().sort_index()
    x, y = (counts.index.get_level_values(level).to_numpy() for level in (across, up))
    axes.scatter(x, y, s=24 + 14 * (counts.to_numpy() - 1), color=DEEP_BLUE, alpha=0.6, linewidths=0)
    if len(counts) <= _MOST_NUMBERS:
        for right, above, count in zip(x, y, counts, strict=True):
            axes.annotate(
                str(count), (right, above), (6 + 0.4 * count, 0), textcoords="offset points", size=8, va="center"
            )
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        if (values == np.rint(values)).all():
            axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel(labels[0], color=_INK, size=9)
    axes.set_ylabel(labels[1], color=_INK, size=9)
    axes.margins(0.12)
    _plain(axes)
    axes.grid(color="#e8e8e8", linewidth=0.6)


def _draw_histogram(axes: Axes, values: pd.Series[float], label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    known = values.astype(np.float64).dropna()
    if len(known):
        whole = bool((known == known.round()).all()) and np.ptp(known) < _MOST_NAMES
        # one bar for each number of frames
        bins = [*np.arange(known.min(), known.max() + 2) - 0.5] if whole else min(20, max(5, len(known)))
        axes.hist(known, bins=bins, color=DEEP_BLUE, alpha=0.75, rwidth=0.92)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel(label + (f"  ({len(values) - len(known)} without)" if len(known) < len(values) else ""), size=9)
    axes.set_ylabel("subjects", color=_INK, size=9)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelsize=SMALL, colors=_FAINT, labelcolor=_INK)
    axes.set_axisbelow(True)
