"""Time curves beside the slices that show where they were measured."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import xarray as xr

from isles24_zarr.analysis import label_rule, labelled, on_same_grid, slice_areas, time_curve
from isles24_zarr.conventions import MM3_PER_ML
from isles24_zarr.errors import GeometryError, UnknownNameError
from isles24_zarr.figures._panels import (
    DISPLAYS,
    View,
    caption,
    display_limits,
    draw_outline,
    draw_plane,
    loaded_planes,
    mean_frames,
    view_of_head,
)
from isles24_zarr.figures._style import CATEGORY_COLOURS, DOTS_PER_INCH, FAINT_INK, INK, PAPER, SMALL, figure_class
from isles24_zarr.figures._text import counted, shortened_text, text_inches, wrapped_text
from isles24_zarr.geometry import scan_grid
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from isles24_zarr.figures._panels import Floats

_MOST_PANELS: Final = 3
_PANEL_INCHES, _CURVE_INCHES, _FOOT_INCHES, _EDGE_INCHES = 2.3, 4.6, 0.55, 0.12
_TITLE_INCHES, _TITLE_LINE_INCHES, _LEGEND_INCHES = 0.5, 0.22, 0.17
_AXIS_INCHES: Final = 0.75
"""For the numbers and the name of the vertical axis."""

_LINE_STYLES: Final[tuple[Literal["-", "--", "-.", ":"], ...]] = ("-", "--", "-.", ":")
"""Beside colours, for those who cannot tell colours apart and for printers."""

_MUCH_LESS: Final = 6.0
"""By how much curves must differ in their rise to be drawn apart."""

_FEW_VOXELS: Final = 30
"""Regions whose outline would be overlooked are ringed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """A region with its curve: area is its voxels in each slice, (z,), all 0 where only the curve is known."""

    name: str
    curve: xr.DataArray
    area: NDArray[np.int64]
    colour: str
    style: Literal["-", "--", "-.", ":"]


def time_curves(
    scan: xr.Dataset,
    regions: Mapping[str, xr.DataArray],
    *,
    curves: Mapping[str, xr.DataArray] | None = None,
    image: str = "ctp",
    title: str | None = None,
    threshold: float | None = None,
) -> Figure:
    """Draw time curves of regions beside the slices that show where the regions are, in the same colours.

    Parameters
    ----------
    scan
        As from `open_scan`, with the series and the masks on one grid.
    regions
        Name of each region and its mask, (z, y, x), on the grid of the scan: booleans, labels or fractions, 0 is
        outside. Or its curve, (time,), where no place is to be shown.
    curves
        Curves of regions that have been measured before, (time,); the mean over the mask is measured for all others,
        without the voxels that are not finite, and one Dask chunk at a time.
    image
        The series, (time, z, y, x).
    title
        Stands in for the subject.
    threshold
        From which fraction on voxels of a soft mask belong to it; 0.5 where none is given, with a `SoftMaskWarning`.

    Returns
    -------
    matplotlib.figure.Figure
        Up to three slices, chosen so that as many regions as possible are seen, each where it is largest. They show
        the mean of the frames that are shaded behind the curves. Time is in seconds from the first frame.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The scan does not have the series, there is no region, or one is empty.
    GeometryError
        A region is neither a mask on the grid of the scan nor a curve over the frames of the series.
    MaskError
        The values of a mask are neither labels nor fractions between 0 and 1.
    """
    drawable = figure_class()
    series = _series(scan, image)
    regions = {name: _region(series, name, region, threshold) for name, region in regions.items()}
    found = _measured_regions(series, regions, curves or {})
    masks = {region.name: regions[region.name] for region in found if region.area.any()}
    chosen = _slices_that_show({name: region.area for name, region in zip(regions, found, strict=True)})
    loaded = _planes(series, masks, chosen)
    view = view_of_head(series.to_dataset(name=image), {image: loaded[image]})
    height = _PANEL_INCHES * view.ratio if chosen else 2.6
    left = _EDGE_INCHES + len(chosen) * (_PANEL_INCHES + _EDGE_INCHES)
    width = left + _AXIS_INCHES + _CURVE_INCHES + _EDGE_INCHES
    lines = wrapped_text(title or str(scan.attrs.get("subject", "scan")), width - 2 * _EDGE_INCHES, 13, bold=True)
    labels, columns = _legend_labels(scan_grid(series).voxel_volume / MM3_PER_ML, found)
    head = _TITLE_INCHES + (len(lines) - 1) * _TITLE_LINE_INCHES + math.ceil(len(found) / columns) * _LEGEND_INCHES
    size = width, head + height + _FOOT_INCHES
    figure = drawable(figsize=size, dpi=DOTS_PER_INCH, facecolor=PAPER)
    top = 1 - 0.14 / size[1]
    figure.text(_EDGE_INCHES / size[0], top, "\n".join(lines), color=INK, size=13, weight="bold", va="top")
    for column, index in enumerate(chosen):
        place = (_EDGE_INCHES + column * (_PANEL_INCHES + _EDGE_INCHES), _FOOT_INCHES, _PANEL_INCHES, height)
        axes = figure.add_axes(tuple(np.divide(place, [*size, *size]).tolist()))
        _draw_place(axes, series, loaded, found, column, view)
        axes.set_title(f"slice {index + 1} of {scan.sizes['z']}", color=FAINT_INK, size=SMALL, pad=3)
    across, up = (left + _AXIS_INCHES) / size[0], _FOOT_INCHES / size[1]
    _draw_curves(figure, (across, up, _CURVE_INCHES / size[0], height / size[1]), series, found)
    _write_legend(figure, (across, up + (height + 0.08) / size[1]), labels, columns, found)
    if chosen:
        words = caption(series, DISPLAYS[image], display_limits(DISPLAYS[image], loaded[image])).replace("\n", ", ")
        words = "\n".join(wrapped_text(f"{DISPLAYS[image].label}, {words} (shaded)", left - 2 * _EDGE_INCHES, SMALL))
        place_of_words = _EDGE_INCHES / size[0], (_FOOT_INCHES - 0.08) / size[1]
        figure.text(*place_of_words, words, color=FAINT_INK, size=SMALL, va="top")
    return figure


def _series(scan: xr.Dataset, image: str) -> xr.DataArray:
    if image not in scan or "time" not in scan[image].dims or image not in DISPLAYS:
        there = [str(name) for name, array in scan.data_vars.items() if "time" in array.dims]
        raise UnknownNameError(repr(image), f"is no series of this scan, there are {', '.join(there) or 'none'}")
    missing = {"z", "y", "x"} - set(scan[image].dims)
    if missing:
        raise GeometryError(image, f"has lost the axis {', '.join(sorted(missing))}")
    return scan[image]


# --- measuring ---


def _region(series: xr.DataArray, name: str, region: xr.DataArray, threshold: float | None) -> xr.DataArray:
    """Return a mask as labels on the grid of the series, and a curve as it is."""
    if region.dims == ("time",):
        return region
    if set(region.dims) != {"z", "y", "x"}:
        raise GeometryError(name, f"is no mask (z, y, x), it has ({', '.join(map(str, region.dims))})")
    mask = on_same_grid(series, region.rename(name))
    # both are on one grid, though the last digits of their coordinates need not agree
    return labelled(mask, threshold).assign_coords({axis: series[axis] for axis in "zyx"})


def _measured_regions(
    series: xr.DataArray, regions: Mapping[str, xr.DataArray], curves: Mapping[str, xr.DataArray]
) -> list[_Region]:
    if not regions:
        raise UnknownNameError("regions", "name one or more, each with its mask or its curve")
    if unknown := sorted(curves.keys() - regions.keys()):
        raise UnknownNameError(", ".join(unknown), f"has a curve and is no region, there are {', '.join(regions)}")
    known = {name: region for name, region in regions.items() if region.dims == ("time",)} | dict(curves)
    masks = {name: region for name, region in regions.items() if region.dims != ("time",)}
    for name, curve in known.items():
        if curve.dims != ("time",) or curve.sizes["time"] != series.sizes["time"]:
            raise GeometryError(name, f"is no curve over the {series.sizes['time']} frames of {series.name}")
    areas = {name: slice_areas(mask, label_rule(mask)) for name, mask in masks.items()}
    for name, area in areas.items():
        if not area.any():
            raise UnknownNameError(name, "is an empty region, it has no curve")
    wanted = {name: mask for name, mask in masks.items() if name not in known}
    measured = known | {name: time_curve(series, mask) for name, mask in wanted.items()}
    none = np.zeros(series.sizes["z"], dtype=np.int64)
    return [
        _Region(
            name=name,
            curve=measured[name],
            area=areas.get(name, none),
            colour=CATEGORY_COLOURS[position % len(CATEGORY_COLOURS)],
            style=_LINE_STYLES[position // len(CATEGORY_COLOURS) % len(_LINE_STYLES)],
        )
        for position, name in enumerate(regions)
    ]


def _slices_that_show(areas: Mapping[str, NDArray[np.int64]]) -> list[int]:
    """Return slices, ascending: each time the one that shows most of the regions that are not seen yet."""
    unseen = {name: area / np.max(area) for name, area in areas.items() if area.any()}
    chosen: list[int] = []
    while unseen and len(chosen) < _MOST_PANELS:
        # a region counts in full where it is largest; the first one given decides between equals
        index = int(np.argmax(np.sum(list(unseen.values()), axis=0)))
        chosen.append(index)
        unseen = {name: share for name, share in unseen.items() if not share[index] > 0}
    return sorted(chosen)


def _planes(series: xr.DataArray, masks: Mapping[str, xr.DataArray], chosen: Sequence[int]) -> dict[str, Floats]:
    """Return the chosen slices, (slice, y, x), of the series and of masks; a whole slice where none is chosen."""
    parts = {str(series.name): series, **{name: mask.rename(name) for name, mask in masks.items()}}
    where = chosen or [series.sizes["z"] // 2]
    return {name: loaded_planes(part.to_dataset(name=name), [name], where)[name] for name, part in parts.items()}


# --- drawing ---


def _draw_place(
    axes: Axes, series: xr.DataArray, loaded: Mapping[str, Floats], found: Sequence[_Region], column: int, view: View
) -> None:
    name = str(series.name)
    display = DISPLAYS[name]
    draw_plane(axes, loaded[name][column], name, display, display_limits(display, loaded[name]), view)
    for region in found:
        marked = loaded.get(region.name)
        if marked is None or region.name == name or not marked[column].any():
            continue
        draw_outline(axes, marked[column] != 0, view, region.colour)
        if region.area.sum() < _FEW_VOXELS:
            rows, columns = np.nonzero(marked[column])
            x, y = (
                np.mean(edges[[at.min(), at.max() + 1]])
                for edges, at in ((view.x_edges, columns), (view.y_edges, rows))
            )
            axes.plot(x, y, marker="o", markersize=15, fillstyle="none", color=region.colour, markeredgewidth=1.2)
    axes.set(xlim=view.x_span[::-1], ylim=view.y_span)


def _draw_curves(
    figure: Figure, place: tuple[float, float, float, float], series: xr.DataArray, found: Sequence[_Region]
) -> None:
    """Draw curves into a place, in fractions of the figure; beside an artery, tissue has axes of its own."""
    left, bottom, width, height = place
    groups = _curves_by_size(found)
    part = height / len(groups)
    lowest = None
    for row, group in enumerate(groups):
        axes = figure.add_axes(
            (left, bottom + row * part, width, part * (1 if len(groups) == 1 else 0.94)), sharex=lowest
        )
        _draw_group(axes, series, group, shaded=any(region.area.any() for region in found))
        axes.tick_params(labelbottom=lowest is None)
        if lowest is None:
            axes.set_xlabel("time from the first frame [s]", color=INK, size=9)
        lowest = lowest or axes
    name = f"{DISPLAYS[str(series.name)].label} [{IMAGES[str(series.name)].units}]"
    middle = left - 0.6 / figure.get_size_inches()[0], bottom + height / 2
    figure.text(*middle, name, color=INK, size=9, rotation=90, ha="center", va="center")


def _curves_by_size(found: Sequence[_Region]) -> list[list[_Region]]:
    """Return one group of curves, or two where some rise much less than others, those first."""
    spans = [_rise(region.curve.values) for region in found]
    low = [region for region, span in zip(found, spans, strict=True) if span < max(spans) / _MUCH_LESS]
    high = [region for region, span in zip(found, spans, strict=True) if span >= max(spans) / _MUCH_LESS]
    return [group for group in (low, high) if group]


def _rise(curve: Floats) -> float:
    finite = curve[np.isfinite(curve)]
    return float(np.ptp(finite)) if finite.size else 0.0


def _draw_group(axes: Axes, series: xr.DataArray, group: Sequence[_Region], *, shaded: bool) -> None:
    seconds = series["time"].values
    axes.set_facecolor(PAPER)
    if shaded:
        shown = seconds[mean_frames(series)]
        half = (seconds[1] - seconds[0]) / 2 if seconds.size > 1 else 0.5
        axes.axvspan(shown[0] - half, shown[-1] + half, color="#2a2a2a", linewidth=0)
    for region in group:
        axes.plot(seconds, region.curve.values, color=region.colour, linestyle=region.style, linewidth=1.8)
    axes.tick_params(colors=FAINT_INK, labelsize=SMALL)
    axes.grid(color="#303030", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT_INK)


def _legend_labels(voxel_ml: float, found: Sequence[_Region]) -> tuple[list[str], int]:
    """Return names of regions with their sizes, cut where they are too long, and in how many columns they fit."""
    handle = 3.2 * SMALL / 72
    labels = []
    for region in found:
        voxels, size = int(region.area.sum()), ""
        if voxels:
            size = f"  ({voxels * voxel_ml:.1f} mL)" if voxels >= _FEW_VOXELS else f"  ({counted(voxels, 'voxel')})"
        labels.append(shortened_text(region.name, _CURVE_INCHES - handle - text_inches(size, SMALL), SMALL) + size)
    widest = max(text_inches(label, SMALL) for label in labels)
    return labels, 2 if widest + handle + 2 * SMALL / 72 < _CURVE_INCHES / 2 else 1


def _write_legend(
    figure: Figure, corner: tuple[float, float], labels: Sequence[str], columns: int, found: Sequence[_Region]
) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[
            Line2D([], [], color=region.colour, linestyle=region.style, linewidth=2, label=label)
            for region, label in zip(found, labels, strict=True)
        ],
        loc="lower left",
        bbox_to_anchor=corner,
        ncols=columns,
        labelcolor=INK,
        fontsize=SMALL,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.8,
    )
