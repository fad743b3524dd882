"""Figures from Datasets, without pyplot: they are drawn the same in scripts, notebooks and workers.

Axial slices are shown as radiologists look at them, from the feet: the patient's right is on the left of the picture.
Panels are laid out in millimetres along x and y of the grid, so that voxels keep their proportions.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.dataset import scan_grid
from isles24_zarr.errors import GeometryError, MissingExtraError, UnknownNameError
from isles24_zarr.vocabulary import CT_WINDOWS, IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Display:
    """How an image is shown: in a CT window, or in limits in its units, or in a range of its own."""

    label: str
    window: str | None = None
    limits: Span | None = None
    colours: str = "gray"


_DISPLAYS: Final[dict[str, _Display]] = {
    "ncct": _Display(label="NCCT", window="stroke"),
    "cta": _Display(label="CTA", window="angio"),
    "ctp": _Display(label="CTP", window="brain"),
    "tmax": _Display(label="Tmax", limits=(0, 12), colours="inferno"),
    "mtt": _Display(label="MTT", limits=(0, 16), colours="inferno"),
    "cbf": _Display(label="CBF", limits=(0, 80), colours="viridis"),
    "cbv": _Display(label="CBV", limits=(0, 8), colours="viridis"),
    "dwi": _Display(label="DWI"),
    "adc": _Display(label="ADC"),
}
_USUAL_IMAGES: Final[tuple[str, ...]] = ("ncct", "cta", "ctp", "tmax", "cbf", "dwi", "adc")
_OUTLINES: Final = {"lesion_mask": ("final infarct", "#00e5ff"), "lvo_mask": ("vessel occlusion", "#ff4fd8")}

_FRAMES: Final = 5
"""Of a series that are averaged: enough against noise, few to read."""

_AIR_HU: Final = -300.0
_MARGIN_MM: Final = 4.0

_DOTS_PER_INCH: Final = 140
_PANEL_INCHES, _LABEL_INCHES, _BAR_INCHES, _HEAD_INCHES, _GAP_INCHES = 1.95, 1.4, 0.6, 0.7, 0.06
_INK, _FAINT_INK, _PAPER = "#f2f2f2", "#b0b0b0", "#000000"
_SMALL: Final = 8.0
"""Of type, in points."""


def montage(
    scan: xr.Dataset, *, images: Sequence[str] | None = None, slices: int = 4, title: str | None = None
) -> Figure:
    """Draw axial slices of a scan: a row for each image, with outlines of the infarct and of the occlusion.

    Slices are spread over the infarct and hold its largest cross-section; of three or more, one goes to the occlusion.
    Without an infarct they are spread over the volume. These slices alone are loaded, and the masks once to choose
    them. Of a series, the mean of a few frames is shown, from where the bolus usually is.

    Parameters
    ----------
    scan
        As from `open_scan`: images (z, y, x) and series (time, z, y, x) on one grid.
    images
        Names of the images to show, from top to bottom; by default those that the scan has of ncct, cta, ctp, tmax,
        cbf, dwi and adc, or all where it has none of these.
    slices
        How many; all, where the scan has fewer.
    title
        Stands in for the subject and the volume of its infarct in mL.

    Returns
    -------
    matplotlib.figure.Figure
        With a canvas of its own: ``savefig`` writes it, a notebook shows it.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The scan does not have such an image, or none that can be shown, or the number of slices is not positive.
    GeometryError
        An axis or a coordinate of the scan is gone.

    Notes
    -----
    CT is shown in the windows of `vocabulary.CT_WINDOWS`, maps in fixed ranges, MRI (whose scale is not stated) from 0
    to 2.5 times the median of tissue. Voxels of a map that are not finite, or exactly 0 as where perfusion software
    computed nothing, are transparent.
    """
    figure_class = _figure_class()
    names = _row_names(scan, images)
    if slices < 1:
        raise UnknownNameError(slices, "is not a number of slices, ask for 1 or more")
    voxel_ml = scan_grid(scan).voxel_volume / 1000
    areas = _mask_areas(scan)
    volumes = {mask: int(area.sum()) * voxel_ml for mask, area in areas.items()}
    chosen = _chosen_slices(areas, scan.sizes["z"], slices)
    planes = _loaded_planes(scan, [*names, *areas], chosen)
    view = _view_of_head(scan, {name: planes[name] for name in names})
    sheet = _Sheet(rows=len(names), columns=len(chosen), ratio=view.ratio)
    figure = figure_class(figsize=sheet.size, dpi=_DOTS_PER_INCH, facecolor=_PAPER)
    _write_title(figure, _title(scan, volumes) if title is None else title, volumes)
    for column, index in enumerate(chosen):
        left, bottom, width, height = sheet.panel(0, column)
        place = f"slice {index + 1} of {scan.sizes['z']},  z {float(scan['z'][index]):+.0f} mm"
        figure.text(left + width / 2, bottom + height, place, color=_FAINT_INK, size=_SMALL, ha="center", va="bottom")
    masks = {mask: planes[mask] for mask in areas}
    for row, name in enumerate(names):
        _draw_row(figure, sheet, row, scan[name], planes[name], masks, view)
    return figure


@functools.cache
def _figure_class() -> type[Figure]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        advice = "needs matplotlib, install it by: pip install 'isles24-zarr[plot]'"
        raise MissingExtraError("plotting", advice) from error

    class StandaloneFigure(Figure):
        """Draws and shows itself: notebooks know how to show the figures of pyplot alone."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return StandaloneFigure


# --- what to show ---


def _row_names(scan: xr.Dataset, images: Sequence[str] | None) -> list[str]:
    present = [name for name in _DISPLAYS if name in scan]
    usual = [name for name in _USUAL_IMAGES if name in present] or present
    names = usual if images is None else list(images)
    choice = f"there are {', '.join(present) or 'none'}"
    for name in names:
        if name not in present:
            raise UnknownNameError(repr(name), f"is no image of this scan that can be shown, {choice}")
        if not {"z", "y", "x"} <= set(scan[name].dims):
            raise GeometryError(name, f"has lost an axis, what is left is ({', '.join(map(str, scan[name].dims))})")
    if not names:
        raise UnknownNameError("images", f"name one or more to be shown, {choice}")
    return names


def _mask_areas(scan: xr.Dataset) -> dict[str, NDArray[np.int64]]:
    """Return the number of voxels in each slice, (z,), of every mask that has an outline."""
    masks = {name: scan[name] for name in _OUTLINES if name in scan}
    marked = {name: (mask != 0) & np.isfinite(mask) for name, mask in masks.items()}
    areas = xr.Dataset({name: mask.sum(("y", "x"), dtype=np.int64) for name, mask in marked.items()}).compute()
    return {name: areas[name].values for name in masks}


def _chosen_slices(areas: Mapping[str, NDArray[np.int64]], count: int, wanted: int) -> list[int]:
    """Return indices of slices, ascending: spread over the infarct, one of them at the occlusion."""
    none = np.zeros(count, dtype=np.int64)
    infarct, occlusion = areas.get("lesion_mask", none), areas.get("lvo_mask", none)
    chosen = _spread_slices(infarct, min(wanted, count))
    if len(chosen) >= 3 and occlusion.any() and not occlusion[chosen].any():
        place = int(np.argmax(occlusion))
        largest = max(chosen, key=lambda index: infarct[index])
        chosen.remove(min((index for index in chosen if index != largest), key=lambda index: abs(index - place)))
        chosen.append(place)
    return sorted(chosen)


def _spread_slices(area: NDArray[np.int64], wanted: int) -> list[int]:
    marked = np.flatnonzero(area)
    if 0 < marked.size < wanted:
        # all of them, and those around
        distance = np.abs(np.arange(area.size)[:, None] - marked).min(axis=1)
        return [int(index) for index in np.argsort(distance, kind="stable")[:wanted]]
    slices = marked if marked.size else np.arange(area.size)
    steps = ((np.arange(wanted) + 0.5) / wanted * slices.size).astype(np.intp)
    if marked.size:
        largest = np.argmax(area[marked])
        steps[np.argmin(np.abs(steps - largest))] = largest
    return [int(index) for index in slices[steps]]


def _frames(series: xr.DataArray) -> slice:
    """Return the frames to average, about a third into the series: arteries and veins are then enhanced."""
    start = max(0, series.sizes["time"] // 3 - _FRAMES // 2)
    return slice(start, start + _FRAMES)


def _loaded_planes(scan: xr.Dataset, names: Sequence[str], chosen: Sequence[int]) -> dict[str, Floats]:
    """Return the chosen slices of images, (slice, y, x); of series, the mean of a few frames."""

    def plane(image: xr.DataArray, index: int) -> xr.DataArray:
        part = image.isel(z=index)
        if "time" in part.dims:
            part = part.isel(time=_frames(part)).mean("time", skipna=False)
        return part.transpose("y", "x")

    lazy = {(name, index): plane(scan[name], index).variable for name in names for index in chosen}
    loaded = xr.Dataset(lazy).compute()
    return {name: np.stack([loaded[name, index].values.astype(np.float64) for index in chosen]) for name in names}


# --- where to show it ---


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Edges of voxels along x and y, the part of them to show, low to high, all in mm; whether sides are known."""

    x_edges: Floats
    y_edges: Floats
    x_span: Span
    y_span: Span
    oriented: bool

    @property
    def ratio(self) -> float:
        """Height by width."""
        return (self.y_span[1] - self.y_span[0]) / (self.x_span[1] - self.x_span[0])


def _view_of_head(scan: xr.Dataset, planes: Mapping[str, Floats]) -> _View:
    """Return the view of all that is not air in CT, or not 0 where no CT is shown."""
    in_hu = {name: values for name, values in planes.items() if IMAGES[name].units == "HU"}
    lowest = _AIR_HU if in_hu else 0.0
    # registered CT is exactly 0 where the scanner did not look
    head = np.any(
        [np.isfinite(values) & (values != 0) & (values > lowest) for values in (in_hu or planes).values()], axis=(0, 1)
    )
    spacing = dict(zip("xyz", scan_grid(scan).spacing, strict=True))
    x_edges, y_edges = (_halfway(scan[axis].values, spacing[axis]) for axis in "xy")
    return _View(
        x_edges=x_edges,
        y_edges=y_edges,
        x_span=_span(x_edges, head.sum(axis=0)),
        y_span=_span(y_edges, head.sum(axis=1)),
        oriented=scan.attrs.get("orientation") != "unknown",
    )


def _halfway(points: Floats, spacing: float) -> Floats:
    """Return what lies half a step before, between and behind points."""
    # coordinates of a scan that was reversed descend
    step = points[1] - points[0] if points.size > 1 else spacing
    return np.append(points - step / 2, points[-1] + step / 2)


def _span(edges: Floats, profile: NDArray[np.int64]) -> Span:
    """Return from where to where something is seen, in mm; specks are left out."""
    seen = np.flatnonzero(profile > 0.02 * np.max(profile))
    first, last = (seen[0], seen[-1] + 1) if seen.size else (0, -1)
    low, high = sorted((float(edges[first]), float(edges[last])))
    return max(low - _MARGIN_MM, float(np.min(edges))), min(high + _MARGIN_MM, float(np.max(edges)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """Places on a figure that is as large as its panels need; ratio is the height of a panel by its width."""

    rows: int
    columns: int
    ratio: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        width = _LABEL_INCHES + self.columns * (_PANEL_INCHES + _GAP_INCHES) + _BAR_INCHES
        return width, _HEAD_INCHES + self.rows * (_PANEL_INCHES * self.ratio + _GAP_INCHES)

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height as fractions of the figure; of any column, even beyond the last."""
        height = _PANEL_INCHES * self.ratio
        left = _LABEL_INCHES + column * (_PANEL_INCHES + _GAP_INCHES)
        bottom = (self.rows - 1 - row) * (height + _GAP_INCHES) + _GAP_INCHES
        across, up = self.size
        return left / across, bottom / up, _PANEL_INCHES / across, height / up


# --- drawing ---


def _draw_row(
    figure: Figure,
    sheet: _Sheet,
    row: int,
    image: xr.DataArray,
    planes: Floats,
    masks: Mapping[str, Floats],
    view: _View,
) -> None:
    display, limits = _DISPLAYS[str(image.name)], _limits(_DISPLAYS[str(image.name)], planes)
    for column, plane in enumerate(planes):
        axes = figure.add_axes(sheet.panel(row, column))
        drawn = _draw_plane(axes, plane, display, limits, view)
        for mask, marked in masks.items():
            _draw_outline(axes, marked[column], view, _OUTLINES[mask][1])
        axes.set(xlim=view.x_span[::-1], ylim=view.y_span)
    left, bottom, width, height = sheet.panel(row, sheet.columns)
    middle, edge = bottom + height / 2, 0.12 / sheet.size[0]
    figure.text(edge, middle, display.label, color=_INK, size=12, weight="bold", va="bottom")
    figure.text(edge, middle, _caption(image, display, limits), color=_FAINT_INK, size=_SMALL, va="top")
    if display.limits:
        place = (left, middle - 0.35 * height, 0.04 * width, 0.7 * height)
        bar = figure.colorbar(drawn, cax=figure.add_axes(place), ticks=np.linspace(*limits, 5))
        bar.ax.tick_params(color=_FAINT_INK, labelcolor=_FAINT_INK, labelsize=_SMALL, length=2, pad=2)
        bar.outline.set_visible(False)


def _limits(display: _Display, planes: Floats) -> Span:
    if display.window:
        centre, width = CT_WINDOWS[display.window]
        return centre - width / 2, centre + width / 2
    if display.limits:
        return display.limits
    seen = planes[np.isfinite(planes) & (planes > 0)]
    if not seen.size:
        return 0.0, 1.0
    # tissue in mid-grey, whatever there is of infarct or fluid; the noise of air does not count
    tissue = seen[seen > np.percentile(seen, 99) / 10]
    return 0.0, float(f"{2.5 * np.median(tissue):.2g}")


def _caption(image: xr.DataArray, display: _Display, limits: Span) -> str:
    """Return what a reader must know of a row: session, window or range, units, what is shown of a series."""
    kind = IMAGES[str(image.name)]
    if display.window:
        centre, width = CT_WINDOWS[display.window]
        lines = [f"{display.window} window", f"W {width:g}  L {centre:g} {kind.units}"]
    else:
        gap = " " if len(kind.units) < 5 else "\n"
        lines = [f"{limits[0]:g} to {limits[1]:g}{gap}{kind.units}"]
    if kind.session == 2:
        lines.insert(0, "at follow-up")
    if "time" in image.dims:
        seconds = image["time"].values[_frames(image)]
        lines.append(f"mean of {seconds[0]:g} to {seconds[-1]:g} s")
    return "\n".join(lines)


def _draw_plane(axes: Axes, plane: Floats, display: _Display, limits: Span, view: _View) -> AxesImage:
    shown = np.ma.masked_invalid(plane)
    if display.limits:
        shown = np.ma.masked_equal(shown, 0)
    drawn = axes.imshow(
        shown.clip(*limits),
        cmap=display.colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=(view.x_edges[0], view.x_edges[-1], view.y_edges[0], view.y_edges[-1]),
        aspect="equal",
        # colours stand for numbers: none is made up between two voxels of a map
        interpolation="nearest" if display.limits else "bicubic",
    )
    axes.set_axis_off()
    marks = [] if plane.any() else [(0.5, 0.5, "no data")]
    if view.oriented:
        marks += [(0.06, 0.94, "R"), (0.94, 0.94, "L")]
    for x, y, mark in marks:
        axes.text(x, y, mark, transform=axes.transAxes, color=_FAINT_INK, size=_SMALL, ha="center", va="center")
    return drawn


def _draw_outline(axes: Axes, mask: Floats, view: _View, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    # a border of zeros closes outlines that end at the edge
    marked = np.pad(np.isfinite(mask) & (mask != 0), 1)
    if marked.any():
        x, y = (_halfway(edges, 0) for edges in (view.x_edges, view.y_edges))
        lines = axes.contour(x, y, marked, levels=[0.5], colors=[colour], linewidths=1.0)
        lines.set_path_effects([withStroke(linewidth=2.0, foreground=_PAPER)])


def _title(scan: xr.Dataset, volumes: Mapping[str, float]) -> str:
    subject = str(scan.attrs.get("subject", "scan"))
    return f"{subject},  final infarct {volumes['lesion_mask']:.1f} mL" if "lesion_mask" in volumes else subject


def _write_title(figure: Figure, title: str, volumes: Mapping[str, float]) -> None:
    """Write the title, and beside it which outline is what."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    top = 1 - 0.16 / height
    figure.text(0.12 / width, top, title, color=_INK, size=13, weight="bold", va="top")
    outlines = [_OUTLINES[mask] for mask, volume in volumes.items() if volume > 0]
    if outlines:
        figure.legend(
            handles=[Line2D([], [], color=colour, linewidth=2, label=label) for label, colour in outlines],
            loc="upper right",
            bbox_to_anchor=(1 - _BAR_INCHES / width, top),
            ncols=len(outlines),
            labelcolor=_INK,
            fontsize=9,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.4,
        )
