"""One slice of one image on a figure: its range and colours, its place in millimetres, outlines of masks.

Axial slices are shown as radiologists look at them, from the feet: the patient's right is on the left of the picture.
Panels are laid out in millimetres along x and y of the grid, so that voxels keep their proportions.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr

from isles24_zarr.analysis import computed_voxels
from isles24_zarr.errors import one_line
from isles24_zarr.figures._style import FAINT_INK, PAPER, SMALL
from isles24_zarr.geometry import UNKNOWN_ORIENTATION, scan_grid
from isles24_zarr.vocabulary import CT_WINDOWS, IMAGES, shown_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """How an image is shown: in a CT window, or in limits in its units, or in a range of its own.

    A map is what stands for numbers, by colours with a bar; a map of the user has a range that its values give.
    """

    label: str
    window: str | None = None
    limits: Span | None = None
    colours: str = "gray"

    @property
    def is_map(self) -> bool:
        """Whether colours stand for numbers."""
        return self.colours != "gray"


DISPLAYS: Final[dict[str, Display]] = {
    "ncct": Display(label="NCCT", window="stroke"),
    "cta": Display(label="CTA", window="angio"),
    "ctp": Display(label="CTP", window="brain"),
    "tmax": Display(label="Tmax", limits=(0, 12), colours="inferno"),
    "mtt": Display(label="MTT", limits=(0, 16), colours="inferno"),
    "cbf": Display(label="CBF", limits=(0, 80), colours="viridis"),
    "cbv": Display(label="CBV", limits=(0, 8), colours="viridis"),
    "dwi": Display(label="DWI"),
    "adc": Display(label="ADC"),
}

_FRAMES: Final = 5
"""Of a series that are averaged: enough against noise, few to read."""

_AIR_HU: Final = -300.0
_MARGIN_MM: Final = 4.0


# --- what to show ---


def mean_frames(series: xr.DataArray) -> slice:
    """Return the frames to average, about a third into the series: arteries and veins are then enhanced."""
    start = max(0, series.sizes["time"] // 3 - _FRAMES // 2)
    return slice(start, start + _FRAMES)


def loaded_planes(scan: xr.Dataset, names: Sequence[str], chosen: Sequence[int]) -> dict[str, Floats]:
    """Return the chosen slices of images, (slice, y, x); of series, the mean of a few frames."""

    def plane(image: xr.DataArray, index: int) -> xr.DataArray:
        part = image.isel(z=index)
        if "time" in part.dims:
            part = part.isel(time=mean_frames(part)).mean("time", skipna=False)
        return part.transpose("y", "x")

    lazy = {(name, index): plane(scan[name], index).variable for name in names for index in chosen}
    loaded = xr.Dataset(lazy).compute()
    return {name: np.stack([loaded[name, index].values.astype(np.float64) for index in chosen]) for name in names}


def display_of(name: str, planes: Floats) -> Display:
    """Return how an image is shown; one that the release does not have as a map, around 0 where it has both signs."""
    if name in DISPLAYS:
        return DISPLAYS[name]
    signed = bool(np.any(planes[np.isfinite(planes)] < 0))
    return Display(label=one_line(name.replace("_", " ")), colours="RdBu_r" if signed else "viridis")


def is_shown_as_image(image: xr.DataArray) -> bool:
    """Tell whether a montage can have a row of it: an image of the release, no mask, or numbers of the user's own."""
    known = IMAGES.get(str(image.name))
    own = known is None and image.dtype.kind in "biuf" and {"z", "y", "x"} <= set(image.dims) <= {"time", "z", "y", "x"}
    return str(image.name) in DISPLAYS or own


def display_limits(display: Display, planes: Floats) -> Span:
    """Return the lowest and highest value that is shown, in the units of the image."""
    if display.window:
        centre, width = CT_WINDOWS[display.window]
        return centre - width / 2, centre + width / 2
    if display.limits:
        return display.limits
    if display.is_map:
        size = np.abs(planes[np.isfinite(planes) & (planes != 0)])
        most = float(f"{np.percentile(size, 99):.2g}") if size.size else 1.0
        return (-most if display.colours == "RdBu_r" else 0.0), most
    seen = planes[np.isfinite(planes) & (planes > 0)]
    if not seen.size:
        return 0.0, 1.0
    # tissue in mid-grey, whatever there is of infarct or fluid; the noise of air does not count
    tissue = seen[seen > np.percentile(seen, 99) / 10]
    return 0.0, float(f"{2.5 * np.median(tissue):.2g}")


def caption(image: xr.DataArray, display: Display, limits: Span) -> str:
    """Return what a reader must know of a row: session, window or range, units, what is shown of a series."""
    kind = IMAGES.get(str(image.name))
    units = kind.units if kind else shown_units(image.attrs.get("units"))
    if display.window:
        centre, width = CT_WINDOWS[display.window]
        lines = [f"{display.window} window", f"W {width:g}  L {centre:g} {units}"]
    else:
        gap = " " if len(units) < 5 else "\n"
        lines = [f"{limits[0]:g} to {limits[1]:g}{gap}{units}".rstrip()]
    if kind and kind.session == 2:
        lines.insert(0, "at follow-up")
    if "time" in image.dims:
        seconds = image["time"].values[mean_frames(image)]
        lines.append(f"mean of {seconds[0]:g} to {seconds[-1]:g} s" if seconds.size > 1 else f"at {seconds[0]:g} s")
    return "\n".join(lines)


# --- where to show it ---


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
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


def view_of_head(scan: xr.Dataset, planes: Mapping[str, Floats]) -> View:
    """Return the view of all that is not air in CT, or not 0 where no CT is shown."""
    in_hu = {name: values for name, values in planes.items() if name in IMAGES and IMAGES[name].units == "HU"}
    planes = {name: values if name in IMAGES else np.abs(values) for name, values in planes.items()}
    lowest = _AIR_HU if in_hu else 0.0
    # registered CT is exactly 0 where the scanner did not look
    head = np.any(
        [
            computed_voxels(values, name) & (values != 0) & (values > lowest)
            for name, values in (in_hu or planes).items()
        ],
        axis=(0, 1),
    )
    grid = scan_grid(scan)
    spacing = dict(zip("xyz", grid.spacing, strict=True))
    x_edges, y_edges = (halfway(scan[axis].values, spacing[axis]) for axis in "xy")
    return View(
        x_edges=x_edges,
        y_edges=y_edges,
        x_span=_span(x_edges, head.sum(axis=0)),
        y_span=_span(y_edges, head.sum(axis=1)),
        oriented=grid.oriented and scan.attrs.get("orientation") != UNKNOWN_ORIENTATION,
    )


def halfway(points: Floats, spacing: float) -> Floats:
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


# --- drawing ---


def draw_plane(axes: Axes, plane: Floats, image: str, display: Display, limits: Span, view: View) -> AxesImage:
    """Draw a slice, (y, x), of an image where it lies in mm; what was not computed of a map is transparent."""
    shown = np.ma.masked_where(~computed_voxels(plane, image), plane)
    drawn = axes.imshow(
        shown.clip(*limits),
        cmap=display.colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=(view.x_edges[0], view.x_edges[-1], view.y_edges[0], view.y_edges[-1]),
        aspect="equal",
        # colours stand for numbers: none is made up between two voxels of a map
        interpolation="nearest" if display.is_map else "bicubic",
    )
    axes.set_axis_off()
    marks = [] if np.any(shown.filled(0)) else [(0.5, 0.5, "no data")]
    if view.oriented:
        marks += [(0.06, 0.94, "R"), (0.94, 0.94, "L")]
    for x, y, mark in marks:
        axes.text(x, y, mark, transform=axes.transAxes, color=FAINT_INK, size=SMALL, ha="center", va="center")
    return drawn


def draw_over(axes: Axes, plane: Floats, image: str, display: Display, limits: Span, view: View) -> AxesImage:
    """Draw a map over a slice that is drawn already; where it is 0 or holds nothing, the slice is seen."""
    seen = computed_voxels(plane, image) & (plane != 0)
    return axes.imshow(
        np.ma.masked_where(~seen, plane).clip(*limits),
        cmap=display.colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=(view.x_edges[0], view.x_edges[-1], view.y_edges[0], view.y_edges[-1]),
        aspect="equal",
        interpolation="nearest",
        alpha=0.6,
    )


def draw_outline(axes: Axes, mask: NDArray[np.bool_], view: View, colour: str) -> None:
    """Draw the line between voxels in and out of a mask, (y, x)."""
    from matplotlib.patheffects import withStroke

    # a border of zeros closes outlines that end at the edge
    marked = np.pad(mask, 1)
    if marked.any():
        x, y = (halfway(edges, 0) for edges in (view.x_edges, view.y_edges))
        lines = axes.contour(x, y, marked, levels=[0.5], colors=[colour], linewidths=1.0)
        lines.set_path_effects([withStroke(linewidth=2.0, foreground=PAPER)])
