"""The montage of a scan: a row for each image, a column for each slice."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr

from isles24_zarr.analysis import label_rule, slice_areas
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
    view_of_head,
)
from isles24_zarr.figures._style import DOTS_PER_INCH, FAINT_INK, INK, PAPER, SMALL, figure_class
from isles24_zarr.geometry import scan_grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from isles24_zarr.analysis import LabelRule
    from isles24_zarr.figures._panels import Floats

_USUAL_IMAGES: Final[tuple[str, ...]] = ("ncct", "cta", "ctp", "tmax", "cbf", "dwi", "adc")
_OUTLINES: Final = {"lesion_mask": ("final infarct", "#00e5ff"), "lvo_mask": ("vessel occlusion", "#ff4fd8")}

_PANEL_INCHES, _LABEL_INCHES, _BAR_INCHES, _HEAD_INCHES, _GAP_INCHES = 1.95, 1.4, 0.6, 0.7, 0.06


def montage(
    scan: xr.Dataset,
    *,
    images: Sequence[str] | None = None,
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
        cbf, dwi and adc, or all where it has none of these.
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
        An axis or a coordinate of the scan is gone.
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
    sheet = _Sheet(rows=len(names), columns=len(chosen), ratio=view.ratio)
    figure = drawable(figsize=sheet.size, dpi=DOTS_PER_INCH, facecolor=PAPER)
    _write_title(figure, _title(scan, volumes, rules) if title is None else title, volumes)
    for column, index in enumerate(chosen):
        left, bottom, width, height = sheet.panel(0, column)
        place = f"slice {index + 1} of {scan.sizes['z']},  z {float(scan['z'][index]):+.0f} mm"
        figure.text(left + width / 2, bottom + height, place, color=FAINT_INK, size=SMALL, ha="center", va="bottom")
    masks = {mask: rule.inside(planes[mask]) for mask, rule in rules.items()}
    for row, name in enumerate(names):
        _draw_row(figure, sheet, row, scan[name], planes[name], masks, view)
    return figure


# --- what to show ---


def _row_names(scan: xr.Dataset, images: Sequence[str] | None) -> list[str]:
    present = [name for name in DISPLAYS if name in scan]
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


def _draw_row(
    figure: Figure,
    sheet: _Sheet,
    row: int,
    image: xr.DataArray,
    planes: Floats,
    masks: Mapping[str, NDArray[np.bool_]],
    view: View,
) -> None:
    display, limits = DISPLAYS[str(image.name)], display_limits(DISPLAYS[str(image.name)], planes)
    for column, plane in enumerate(planes):
        axes = figure.add_axes(sheet.panel(row, column))
        drawn = draw_plane(axes, plane, str(image.name), limits, view)
        for mask, marked in masks.items():
            draw_outline(axes, marked[column], view, _OUTLINES[mask][1])
        axes.set(xlim=view.x_span[::-1], ylim=view.y_span)
    left, bottom, width, height = sheet.panel(row, sheet.columns)
    middle, edge = bottom + height / 2, 0.12 / sheet.size[0]
    figure.text(edge, middle, display.label, color=INK, size=12, weight="bold", va="bottom")
    figure.text(edge, middle, caption(image, display, limits), color=FAINT_INK, size=SMALL, va="top")
    if display.limits:
        place = (left, middle - 0.35 * height, 0.04 * width, 0.7 * height)
        bar = figure.colorbar(drawn, cax=figure.add_axes(place), ticks=np.linspace(*limits, 5))
        bar.ax.tick_params(color=FAINT_INK, labelcolor=FAINT_INK, labelsize=SMALL, length=2, pad=2)
        bar.outline.set_visible(False)


def _title(scan: xr.Dataset, volumes: Mapping[str, float], rules: Mapping[str, LabelRule]) -> str:
    subject = str(scan.attrs.get("subject", "scan"))
    if "lesion_mask" not in volumes:
        return subject
    threshold = rules["lesion_mask"].threshold
    cut = "" if threshold is None else f" (fractions of {threshold:g} and more)"
    return f"{subject},  final infarct {volumes['lesion_mask']:.1f} mL{cut}"


def _write_title(figure: Figure, title: str, volumes: Mapping[str, float]) -> None:
    """Write the title, and beside it which outline is what."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    top = 1 - 0.16 / height
    figure.text(0.12 / width, top, title, color=INK, size=13, weight="bold", va="top")
    outlines = [_OUTLINES[mask] for mask, volume in volumes.items() if volume > 0]
    if outlines:
        figure.legend(
            handles=[Line2D([], [], color=colour, linewidth=2, label=label) for label, colour in outlines],
            loc="upper right",
            bbox_to_anchor=(1 - _BAR_INCHES / width, top),
            ncols=len(outlines),
            labelcolor=INK,
            fontsize=9,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.4,
        )
