"""The montage of a scan: a row for each image, a column for each slice."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr

from isles24_zarr.analysis import label_rule, on_same_grid, slice_areas
from isles24_zarr.conventions import MM3_PER_ML
from isles24_zarr.errors import GeometryError, UnknownNameError, one_line
from isles24_zarr.figures._panels import (
    DISPLAYS,
    View,
    caption,
    display_limits,
    display_of,
    draw_outline,
    draw_over,
    draw_plane,
    is_shown_as_image,
    loaded_planes,
    view_of_head,
)
from isles24_zarr.figures._style import DOTS_PER_INCH, FAINT_INK, INK, PAPER, SMALL, figure_class
from isles24_zarr.figures._text import text_inches, wrapped_text
from isles24_zarr.geometry import scan_grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from isles24_zarr.analysis import LabelRule
    from isles24_zarr.figures._panels import Display, Floats

_USUAL_IMAGES: Final[tuple[str, ...]] = ("ncct", "cta", "ctp", "tmax", "cbf", "dwi", "adc")
_OUTLINES: Final = {"lesion_mask": ("final infarct", "#00e5ff"), "lvo_mask": ("vessel occlusion", "#ff4fd8")}

_OVERLAY_COLOUR: Final = "#ffe14d"

_PANEL_INCHES, _LABEL_INCHES, _BAR_INCHES, _HEAD_INCHES, _GAP_INCHES = 1.95, 1.4, 0.6, 0.7, 0.06
_EDGE_INCHES, _TITLE_LINE_INCHES, _LEGEND_LINE_INCHES = 0.12, 0.22, 0.18
_LABEL_POINTS: Final = 12.0
_LINE: Final = 1.25
"""Height of a line by that of its letters."""
_TITLE_POINTS, _LEGEND_POINTS = 13, 9


def montage(
    scan: xr.Dataset,
    images: str | Sequence[str] | None = None,
    *,
    overlay: xr.DataArray | None = None,
    slices: int = 4,
    title: str | None = None,
    threshold: float | None = None,
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
        cbf, dwi and adc, or all where it has none of these. Maps of your own are variables of the scan, as by
        ``scan.assign(uptake=...)``: they are shown in colours, up to the 99th percentile of what is not 0.
    overlay
        A map of your own, (z, y, x), on the grid of the scan. Booleans and whole numbers are outlined where they are
        not 0; floating-point numbers are laid in colours over the images that are grey, or all where none is.
    slices
        How many; all, where the scan has fewer.
    title
        Stands in for the subject and the volume of its infarct in mL.
    threshold
        From which fraction on voxels of a soft mask lie within its outline; 0.5 where none is given, with a
        `SoftMaskWarning`.

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
        An axis or a coordinate of the scan is gone, or the overlay is not on its grid.
    MaskError
        The values of a mask are neither labels nor fractions between 0 and 1.

    Notes
    -----
    CT is shown in the windows of `vocabulary.CT_WINDOWS`, maps in fixed ranges, MRI (whose scale is not stated) from 0
    to 2.5 times the median of tissue. Voxels of a map where perfusion software computed nothing (0 or not finite, in
    Tmax also below 0) are transparent.
    """
    drawable = figure_class()
    names = _row_names(scan, images)
    if slices < 1:
        raise UnknownNameError(slices, "is not a number of slices, ask for 1 or more")
    voxel_ml = scan_grid(scan).voxel_volume / MM3_PER_ML
    rules = {name: label_rule(scan[name], threshold) for name in _OUTLINES if name in scan}
    areas = {name: slice_areas(scan[name], rule) for name, rule in rules.items()}
    volumes = {mask: int(area.sum()) * voxel_ml for mask, area in areas.items()}
    chosen = _chosen_slices(areas, scan.sizes["z"], slices)
    planes = loaded_planes(scan, [*names, *areas], chosen)
    view = view_of_head(scan, {name: planes[name] for name in names})
    outlines = [
        _Outline(label=_OUTLINES[mask][0], colour=_OUTLINES[mask][1], planes=rule.inside(planes[mask]))
        for mask, rule in rules.items()
        if volumes[mask] > 0
    ]
    rows = [_Layer.of(scan[name], planes[name]) for name in names]
    over = None if overlay is None else _overlay(scan[names[0]], overlay, chosen)
    if isinstance(over, _Outline):
        outlines.append(over)
    grey = [layer for layer in rows if not layer.display.is_map] or rows
    covers = [over if isinstance(over, _Layer) and layer in grey else None for layer in rows]
    text = max(_row_text_inches(layer, cover) for layer, cover in zip(rows, covers, strict=True))
    sheet = _Sheet(rows=len(names), columns=len(chosen), ratio=view.ratio, text=text)
    head = _Head.of(
        _title(scan, volumes, rules) if title is None else title,
        [outline.label for outline in outlines],
        sheet.size[0],
    )
    sheet = dataclasses.replace(sheet, head=head.inches)
    figure = drawable(figsize=sheet.size, dpi=DOTS_PER_INCH, facecolor=PAPER)
    _write_head(figure, head, outlines)
    for column, index in enumerate(chosen):
        left, bottom, width, height = sheet.panel(0, column)
        place = f"slice {index + 1} of {scan.sizes['z']},  z {float(scan['z'][index]):+.0f} mm"
        figure.text(left + width / 2, bottom + height, place, color=FAINT_INK, size=SMALL, ha="center", va="bottom")
    for row, (layer, cover) in enumerate(zip(rows, covers, strict=True)):
        _draw_row(figure, sheet, row, layer, cover, outlines, view)
    return figure


# --- what to show ---


def _row_names(scan: xr.Dataset, images: str | Sequence[str] | None) -> list[str]:
    own = [str(name) for name in scan.data_vars if name not in DISPLAYS and is_shown_as_image(scan[name])]
    present = [name for name in DISPLAYS if name in scan]
    usual = [name for name in _USUAL_IMAGES if name in present] or present or own
    present += own
    names = usual if images is None else [images] if isinstance(images, str) else list(images)
    choice = f"there are {', '.join(present) or 'none'}"
    for name in names:
        if name not in present:
            raise UnknownNameError(repr(name), f"is no image of this scan that can be shown, {choice}")
        if not {"z", "y", "x"} <= set(scan[name].dims):
            raise GeometryError(name, f"has lost an axis, what is left is ({', '.join(map(str, scan[name].dims))})")
    if not names:
        raise UnknownNameError("images", f"name one or more to be shown, {choice}")
    return names


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outline:
    """What is outlined: its name for people, its colour, and where it is, (slice, y, x)."""

    label: str
    colour: str
    planes: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """Slices of an image, (slice, y, x), and how they are shown."""

    name: str
    planes: Floats
    display: Display
    limits: tuple[float, float]
    caption: str

    @classmethod
    def of(cls, image: xr.DataArray, planes: Floats) -> _Layer:
        """Make one of an image and its slices."""
        display = display_of(str(image.name), planes)
        limits = display_limits(display, planes)
        words = caption(image, display, limits)
        return cls(name=str(image.name), planes=planes, display=display, limits=limits, caption=words)


def _overlay(image: xr.DataArray, overlay: xr.DataArray, chosen: Sequence[int]) -> _Outline | _Layer:
    """Return a map of the user on the grid of an image, as what is outlined or what is laid over."""
    name = str(overlay.name or "overlay")
    overlay = overlay.rename(name)
    if set(overlay.dims) != {"z", "y", "x"}:
        raise GeometryError(name, f"is no map (z, y, x), it has ({', '.join(map(str, overlay.dims))})")
    part = image.isel(time=0, drop=True) if "time" in image.dims else image
    # on one grid, the last digits of coordinates need not agree
    placed = on_same_grid(part, overlay).assign_coords({axis: image[axis] for axis in "zyx"})
    planes = loaded_planes(placed.to_dataset(name=name), [name], chosen)[name]
    if overlay.dtype.kind == "f":
        return _Layer.of(placed, planes)
    return _Outline(label=one_line(name.replace("_", " ")), colour=_OVERLAY_COLOUR, planes=planes != 0)


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


# --- drawing ---


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """Places on a figure that is as large as its panels need.

    Ratio is the height of a panel by its width, text the height in inches of what stands beside the highest.
    """

    rows: int
    columns: int
    ratio: float
    text: float = 0.0
    head: float = _HEAD_INCHES

    @property
    def row(self) -> float:
        """Height of a row in inches: of a panel, or of what stands beside it where slices are flat."""
        return max(_PANEL_INCHES * self.ratio, self.text)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        width = _LABEL_INCHES + self.columns * (_PANEL_INCHES + _GAP_INCHES) + _BAR_INCHES
        return width, self.head + self.rows * (self.row + _GAP_INCHES)

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height as fractions of the figure; of any column, even beyond the last."""
        height = _PANEL_INCHES * self.ratio
        left = _LABEL_INCHES + column * (_PANEL_INCHES + _GAP_INCHES)
        bottom = (self.rows - 1 - row) * (self.row + _GAP_INCHES) + _GAP_INCHES + (self.row - height) / 2
        across, up = self.size
        return left / across, bottom / up, _PANEL_INCHES / across, height / up


def _row_text(layer: _Layer, over: _Layer | None) -> tuple[list[str], list[str]]:
    """Return what stands beside a row, above and below its middle, as lines that fit."""
    room = _LABEL_INCHES - 0.16
    words = layer.caption if over is None else f"{layer.caption}\nin colours: {over.display.label}\n{over.caption}"
    lines = [line for text in words.split("\n") for line in wrapped_text(text, room, SMALL)]
    return wrapped_text(layer.display.label, room, _LABEL_POINTS, bold=True)[:2], lines


def _row_text_inches(layer: _Layer, over: _Layer | None) -> float:
    label, lines = _row_text(layer, over)
    return 2 * _LINE / 72 * max(len(label) * _LABEL_POINTS, len(lines) * SMALL)


def _draw_row(
    figure: Figure,
    sheet: _Sheet,
    row: int,
    layer: _Layer,
    over: _Layer | None,
    outlines: Sequence[_Outline],
    view: View,
) -> None:
    for column, plane in enumerate(layer.planes):
        axes = figure.add_axes(sheet.panel(row, column))
        drawn = draw_plane(axes, plane, layer.name, layer.display, layer.limits, view)
        if over is not None:
            drawn = draw_over(axes, over.planes[column], over.name, over.display, over.limits, view)
        for outline in outlines:
            draw_outline(axes, outline.planes[column], view, outline.colour)
        axes.set(xlim=view.x_span[::-1], ylim=view.y_span)
    left, bottom, width, height = sheet.panel(row, sheet.columns)
    middle, edge = bottom + height / 2, 0.12 / sheet.size[0]
    label, lines = _row_text(layer, over)
    figure.text(
        edge, middle, "\n".join(label), color=INK, size=_LABEL_POINTS, weight="bold", va="bottom", parse_math=False
    )
    figure.text(edge, middle, "\n".join(lines), color=FAINT_INK, size=SMALL, va="top", parse_math=False)
    scale = layer if over is None else over
    if scale.display.is_map:
        place = (left, middle - 0.35 * height, 0.04 * width, 0.7 * height)
        bar = figure.colorbar(drawn, cax=figure.add_axes(place), ticks=np.linspace(*scale.limits, 5))
        bar.ax.tick_params(color=FAINT_INK, labelcolor=FAINT_INK, labelsize=SMALL, length=2, pad=2)
        bar.outline.set_visible(False)


def _title(scan: xr.Dataset, volumes: Mapping[str, float], rules: Mapping[str, LabelRule]) -> str:
    subject = str(scan.attrs.get("subject", "scan"))
    if "lesion_mask" not in volumes:
        return subject
    threshold = rules["lesion_mask"].threshold
    cut = "" if threshold is None else f" (fractions of {threshold:g} and more)"
    return f"{subject},  final infarct {volumes['lesion_mask']:.1f} mL{cut}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Lines of the title, and where the legend is: beside it, or below in some columns; height of both in inches."""

    lines: tuple[str, ...]
    beside: bool
    legend_columns: int
    inches: float

    @classmethod
    def of(cls, title: str, labels: Sequence[str], width: float) -> _Head:
        """Arrange a title and the labels of a legend on a width in inches."""
        room = width - 2 * _EDGE_INCHES
        lines = wrapped_text(title, room, _TITLE_POINTS, bold=True)
        entries = [text_inches(label, _LEGEND_POINTS) + 4.4 * _LEGEND_POINTS / 72 for label in labels]
        longest = max((text_inches(line, _TITLE_POINTS, bold=True) for line in lines), default=0.0)
        beside = not labels or (len(lines) <= 1 and longest + sum(entries) + _BAR_INCHES < room)
        columns = len(labels) if sum(entries) < room or beside else 1
        rows = 0 if beside else len(labels) // max(columns, 1)
        inches = _HEAD_INCHES + max(len(lines) - 1, 0) * _TITLE_LINE_INCHES + rows * _LEGEND_LINE_INCHES
        return cls(lines=tuple(lines), beside=beside, legend_columns=columns, inches=inches)


def _write_head(figure: Figure, head: _Head, outlines: Sequence[_Outline]) -> None:
    """Write the title, and beside or below it which outline is what."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    left, top = _EDGE_INCHES / width, 1 - 0.16 / height
    text = "\n".join(head.lines)
    figure.text(left, top, text, color=INK, size=_TITLE_POINTS, weight="bold", va="top", linespacing=1.15)
    below = 1 - (0.16 + len(head.lines) * _TITLE_LINE_INCHES + 0.04) / height
    if outlines:
        figure.legend(
            handles=[Line2D([], [], color=each.colour, linewidth=2, label=each.label) for each in outlines],
            loc="upper right" if head.beside else "upper left",
            bbox_to_anchor=(1 - _BAR_INCHES / width, top) if head.beside else (left, below),
            ncols=head.legend_columns,
            labelcolor=INK,
            fontsize=_LEGEND_POINTS,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.4,
        )
