"""One page per subject: clinical values, pictures, volumes, grids and arrays, as HTML or PNG."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from isles24_zarr.analysis import hypoperfusion_mask, label_rule, mask_volume
from isles24_zarr.cohorts import clinical_table, cohort_target
from isles24_zarr.conventions import SOFT_MASK_THRESHOLD, TMAX_THRESHOLD
from isles24_zarr.errors import DestinationError, MaskError, UnknownNameError, one_line
from isles24_zarr.figures._panels import DISPLAYS
from isles24_zarr.figures._style import DOTS_PER_INCH, FAINT_INK, INK, PAPER, SMALL, figure_class
from isles24_zarr.figures._text import shortened_text
from isles24_zarr.figures.cohort import grid_row
from isles24_zarr.figures.slices import montage
from isles24_zarr.geometry import scan_grid
from isles24_zarr.scans import described_arrays, open_scan
from isles24_zarr.vocabulary import CLINICAL, IMAGES, MASK_NAME, shown_units

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import xarray as xr
    from matplotlib.figure import Figure

_IMAGES: Final = ("ncct", "cta", "tmax", "cbf", "dwi")
_SLICES: Final = 3
_TABLE_INCHES, _ROW_INCHES, _EDGE_INCHES, _GAP_INCHES = 4.6, 0.17, 0.15, 0.05
_LETTERS: Final = 70
"""Of small type that fit beside each other."""

_STYLE: Final = """
.isles24 { font: 14px/1.4 system-ui, sans-serif; color: #f2f2f2; background: #000; padding: 16px }
.isles24 h1 { font-size: 22px; margin: 0 0 12px } .isles24 h2 { font-size: 15px; margin: 14px 0 4px }
.isles24 main { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start }
.isles24 img { max-width: 100%; width: 760px; height: auto }
.isles24 table { border-collapse: collapse; color: inherit } .isles24 tr { background: none }
.isles24 th, .isles24 td { text-align: left; padding: 1px 14px 1px 0; color: inherit; font-size: 13px }
.isles24 th { color: #b0b0b0; font-weight: normal } .isles24 p { color: #b0b0b0; margin: 4px 0; max-width: 60ch }
""".strip()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table of the page: what it is, names of its columns (none where rows name themselves), rows, and a note."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSummary:
    """What there is to say of one subject; a notebook shows it, `save` writes it.

    Parameters
    ----------
    subject
        Its name.
    sections
        Tables, from top to bottom.
    picture
        A montage, PNG; empty where the subject has no image that can be shown.
    """

    subject: str
    sections: tuple[Section, ...]
    picture: bytes

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page.

        Parameters
        ----------
        path
            Of a file that ends in ``.html``, which needs nothing beside it, or in ``.png``.

        Returns
        -------
        pathlib.Path
            Of the file.

        Raises
        ------
        DestinationError
            The name ends otherwise, or the file cannot be written.
        """
        destination = Path(path)
        makers = {".html": lambda: html_page(self).encode(), ".png": lambda: _png(page_figure(self))}
        if destination.suffix.lower() not in makers:
            raise DestinationError(destination, "is no name for a page, end it in .html or .png")
        try:
            destination.write_bytes(makers[destination.suffix.lower()]())
        except OSError as error:
            raise DestinationError(destination, f"cannot be written ({error.strerror})") from error
        return destination

    def figure(self) -> Figure:
        """Draw the page (see `page_figure`)."""
        return page_figure(self)

    def _repr_html_(self) -> str:
        return _html_body(self)


def subject_summary(cohort: xr.DataTree, subject: str) -> SubjectSummary:
    """Gather what there is to say of one subject.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    subject
        As ``"sub-stroke0001"``.

    Returns
    -------
    SubjectSummary
        Clinical values; volumes of masks and of Tmax > 6 s, in mL; grids and arrays with their sizes; a montage. The
        masks, Tmax and the slices that are shown are read.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The cohort does not have this subject.
    """
    table, target = clinical_table(cohort), cohort_target(cohort)
    if subject not in table.index:
        raise UnknownNameError(subject, "is no subject of this cohort")
    arrays = described_arrays(target.url, subject, storage_options=target.storage_options)
    groups = sorted({each.group for each in arrays}, key=lambda group: (group != "space-ncct", group))
    scans = {group: open_scan(target.url, subject, group, storage_options=target.storage_options) for group in groups}
    shown = [name for name in _IMAGES if groups and name in scans[groups[0]]]
    picture = b""
    if groups and any(name in DISPLAYS for name in scans[groups[0]].data_vars):
        scan = scans[groups[0]]
        drawn = scan.drop_vars([name for name in scan.data_vars if _is_refused(scan[name])])
        picture = _png(
            montage(drawn, images=shown or None, slices=_SLICES, title="Axial slices", threshold=SOFT_MASK_THRESHOLD)
        )
    rows = tuple(
        (_space(each.group), each.image, _times(each.shape), each.dtype, _size(each.nbytes), _size(each.stored_bytes))
        for each in arrays
    )
    held = {each.image for each in arrays}
    absent = [name for name in IMAGES if name not in held]
    return SubjectSummary(
        subject=subject,
        sections=(
            _clinical(table.loc[[subject]]),
            _volumes(scans[groups[0]] if groups else None),
            Section(title="Grids", columns=("grid", "x, y, z", "mm", "tilt", "frames"), rows=_grids(scans)),
            Section(
                title="Arrays",
                columns=("grid", "image", "shape", "type", "in memory", "in store"),
                rows=rows,
                note=f"Not there: {', '.join(absent)}." if absent else "",
            ),
        ),
        picture=picture,
    )


# --- what it says ---


def _clinical(values: pd.DataFrame) -> Section:
    rows, missing = [], []
    for key, column in values.items():
        name, value = str(key), column.iloc[0]
        known = CLINICAL.get(name)
        units = shown_units(known.units) if known else ""
        if pd.isna(value):
            missing.append(name)
        else:
            text = f"{value:g}" if isinstance(value, int | float) else str(value)
            rows.append((name, f"{text} {units}".strip()))
    note = f"Missing: {', '.join(missing)}." if missing else ""
    return Section(title="Clinical values", columns=(), rows=tuple(rows), note=note)


def _volumes(scan: xr.Dataset | None) -> Section:
    rows = []
    if scan is not None:
        voxel = scan_grid(scan).voxel_volume
        masks = {_long_name(str(name)): scan[name] for name in scan.data_vars if _is_mask(str(name))}
        if "tmax" in scan:
            masks[f"Tmax > {TMAX_THRESHOLD:g} s"] = hypoperfusion_mask(scan["tmax"])
        rows = [(label.split(",")[0], _volume(mask, voxel)) for label, mask in masks.items()]
    return Section(title="Volumes", columns=(), rows=tuple(rows))


def _is_refused(image: xr.DataArray) -> bool:
    """Tell whether an image is a mask without labels, of which there is no outline; the table of volumes says why."""
    if not _is_mask(str(image.name)):
        return False
    try:
        label_rule(image, SOFT_MASK_THRESHOLD)
    except MaskError:
        return True
    return False


def _is_mask(name: str) -> bool:
    return IMAGES[name].is_mask if name in IMAGES else MASK_NAME.search(name) is not None


def _long_name(name: str) -> str:
    return IMAGES[name].long_name if name in IMAGES else name.replace("_", " ")


def _volume(mask: xr.DataArray, voxel: float) -> str:
    try:
        rule = label_rule(mask, SOFT_MASK_THRESHOLD)
    except MaskError as error:
        return f"none: {error.what}"
    cut = "" if rule.threshold is None else f" (of {rule.threshold:g} and more)"
    return f"{mask_volume(mask, voxel, threshold=rule.threshold):.1f} mL{cut}"


def _grids(scans: Mapping[str, xr.Dataset]) -> tuple[tuple[str, ...], ...]:
    rows = []
    for group, scan in scans.items():
        row = grid_row(scan)
        shape = _times(f"{row[axis]:.0f}" for axis in "xyz")
        spacing = _times(f"{row[f'spacing_{axis}']:.2f}" for axis in "xyz")
        frames = "" if np.isnan(row["frames"]) else f"{row['frames']:.0f}"
        rows.append((_space(group), shape, spacing, f"{row['tilt']:.0f}\N{DEGREE SIGN}", frames))
    return tuple(rows)


def _times(parts: Any) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, parts))


def _size(count: int) -> str:
    for scale, units in ((1e9, "GB"), (1e6, "MB")):
        if count >= scale:
            return f"{count / scale:.1f} {units}"
    return f"{count / 1e3:.0f} kB"


def _space(group: str) -> str:
    return group.removeprefix("space-")


# --- HTML ---


def html_page(page: SubjectSummary) -> str:
    """Return a document that needs nothing beside it: the picture is in it, there is no script."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<title>{html.escape(page.subject)}</title><meta name="viewport" content="width=device-width">'
        "<style>body { margin: 0; background: #000 }</style></head>\n"
        f"<body>{_html_body(page)}</body>\n</html>\n"
    )


def _html_body(page: SubjectSummary) -> str:
    picture = "<p>No image of this subject can be shown.</p>"
    if page.picture:
        data = base64.b64encode(page.picture).decode()
        picture = f'<img alt="Axial slices of {html.escape(page.subject)}" src="data:image/png;base64,{data}">'
    tables = "".join(_html_section(section) for section in page.sections)
    title = html.escape(page.subject)
    return (
        f'<div class="isles24"><style>{_STYLE}</style><h1>{title}</h1><main>{picture}<div>{tables}</div></main></div>'
    )


def _html_section(section: Section) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in section.columns)
    rows = [f"<tr>{head}</tr>"] if head else []
    for first, *others in section.rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        rows.append(f"<tr><th>{html.escape(first)}</th>{cells}</tr>")
    body = f"<table>{''.join(rows)}</table>" if section.rows else "<p>None.</p>"
    note = f"<p>{html.escape(section.note)}</p>" if section.note else ""
    return f"<h2>{html.escape(section.title)}</h2>{body}{note}"


# --- PNG ---


def page_figure(page: SubjectSummary) -> Figure:
    """Draw the page: the montage, and the tables at its right.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    drawable = figure_class()
    from matplotlib.image import imread

    picture = imread(io.BytesIO(page.picture), format="png") if page.picture else np.zeros((0, 0, 4))
    height, width = (count / DOTS_PER_INCH for count in picture.shape[:2])
    lines = sum(_lines(section) for section in page.sections)
    size = width + 2 * _EDGE_INCHES + _TABLE_INCHES, max(height, lines * _ROW_INCHES + 0.6)
    figure = drawable(figsize=size, dpi=DOTS_PER_INCH, facecolor=PAPER)
    if picture.size:
        axes = figure.add_axes((0, 1 - height / size[1], width / size[0], height / size[1]))
        axes.imshow(picture, interpolation="none", aspect="auto")
        axes.set_axis_off()
    left, top = width + _EDGE_INCHES, size[1] - 0.16
    figure.text(
        left / size[0], top / size[1], page.subject, color=INK, size=13, weight="bold", va="top", parse_math=False
    )
    top -= 0.45
    for section in page.sections:
        _draw_section(figure, section, left, top)
        top -= _lines(section) * _ROW_INCHES
    return figure


def _lines(section: Section) -> float:
    """Return the height of a table in rows, with its title and the gap behind it."""
    return 2.6 + bool(section.columns) + len(section.rows) + len(_wrapped(section.note))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _LETTERS)


def _draw_section(figure: Figure, section: Section, left: float, top: float) -> None:
    """Draw a table with its upper left corner at (left, top), in inches from the lower left of the figure."""
    width, height = figure.get_size_inches()

    def write(text: str, right: float, row: float, colour: str, **options: Any) -> None:
        place = (left + right) / width, (top - row * _ROW_INCHES) / height
        # what is between two dollars in a table is no formula
        figure.text(*place, one_line(text), color=colour, va="top", parse_math=False, **options)

    write(section.title, 0, 0, INK, size=10, weight="bold")
    row = 1.4
    starts = _column_starts(section)
    rooms = np.diff([*starts, _TABLE_INCHES]) - _GAP_INCHES
    for cells in (*([section.columns] if section.columns else []), *section.rows):
        for column, (text, start) in enumerate(zip(cells, starts, strict=True)):
            cell = shortened_text(one_line(text), float(rooms[column]), SMALL)
            write(cell, start, row, FAINT_INK if cells is section.columns or column == 0 else INK, size=SMALL)
        row += 1
    for line in _wrapped(section.note):
        write(line, 0, row, FAINT_INK, size=SMALL)
        row += 1


def _column_starts(section: Section) -> list[float]:
    """Return where columns begin, in inches: at one place in all tables without names, else by what they hold."""
    if not section.columns:
        return [0.0, 0.45 * _TABLE_INCHES]
    lengths = [max(map(len, cells)) for cells in zip(section.columns, *section.rows, strict=True)]
    ends = np.cumsum(np.array(lengths) + 2.0)
    return [0.0, *(_TABLE_INCHES * ends[:-1] / max(ends[-1], _LETTERS)).tolist()]


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
