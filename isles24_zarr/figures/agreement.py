"""How two measurements of the same subjects agree, in pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from isles24_zarr.errors import UnknownNameError
from isles24_zarr.figures._style import CATEGORY_COLOURS, DEEP_BLUE, DOTS_PER_INCH, ON_WHITE, SMALL, figure_class
from isles24_zarr.perfusion import volume_agreement

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_PAPER, _INK, _FAINT = ON_WHITE
_DOT: Final = {"s": 26, "color": DEEP_BLUE, "alpha": 0.8, "linewidths": 0}


def agreement_plot(
    table: pd.DataFrame, name: str = "hypoperfusion", *, reference: str | None = None, units: str = "mL"
) -> Figure:
    """Draw one measurement by another, and their differences by their means (Bland and Altman).

    Parameters
    ----------
    table
        One row a subject.
    name
        Column of the measurement.
    reference
        Column of the other one; by default that of the same name with ``_reference``, as of
        `perfusion.perfusion_agreement`.
    units
        Of both.

    Returns
    -------
    matplotlib.figure.Figure
        At the left the line of identity and the intraclass correlation; at the right bias and limits of agreement, with
        their numbers.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The table has no such column, or fewer than two subjects with both values.

    Examples
    --------
    >>> import pandas as pd
    >>> from isles24_zarr.figures import agreement_plot
    >>> table = pd.DataFrame({"core": [3.0, 20.0, 41.0], "core_reference": [5.0, 18.0, 55.0]})
    >>> figure = agreement_plot(table, "core")
    """
    drawable = figure_class()
    other = reference or f"{name}_reference"
    for column in (name, other):
        if column not in table:
            raise UnknownNameError(repr(column), f"is no column of the table, which has {', '.join(map(str, table))}")
    pairs = table[[name, other]].astype(np.float64).to_numpy()
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < 2:
        raise UnknownNameError(name, "has fewer than two subjects with both values")
    figure = drawable(figsize=(8.6, 3.9), dpi=DOTS_PER_INCH, facecolor=_PAPER, layout="constrained")
    left, right = figure.subplots(1, 2)
    label, other_label = (text.replace("_", " ") for text in (name, other))
    _draw_identity(left, pairs)
    left.set_xlabel(f"{other_label} ({units})", color=_INK, size=9)
    left.set_ylabel(f"{label} ({units})", color=_INK, size=9)
    _draw_differences(right, pairs, units)
    right.set_xlabel(f"mean of both ({units})", color=_INK, size=9)
    right.set_ylabel(f"difference ({units})", color=_INK, size=9)
    for axes in (left, right):
        axes.tick_params(colors=_FAINT, labelsize=SMALL)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def _draw_identity(axes: Axes, pairs: NDArray[np.float64]) -> None:
    agreement = volume_agreement(pairs[:, 0], pairs[:, 1])
    top = max(float(pairs.max()) * 1.06, 1e-9)
    axes.plot([0, top], [0, top], color=_FAINT, linewidth=0.8, linestyle="--")
    axes.scatter(pairs[:, 1], pairs[:, 0], **_DOT)  # type: ignore[arg-type]
    low = min(0.0, float(pairs.min()) * 1.06)
    axes.set(xlim=(low, top), ylim=(low, top), aspect="equal")
    icc = f", ICC {agreement.icc:.2f}" if np.isfinite(agreement.icc) else ""
    axes.set_title(f"{agreement.subjects} subjects{icc}", color=_INK, size=9, loc="left")


def _draw_differences(axes: Axes, pairs: NDArray[np.float64], units: str) -> None:
    agreement = volume_agreement(pairs[:, 0], pairs[:, 1])
    axes.scatter(pairs.mean(axis=1), pairs[:, 0] - pairs[:, 1], **_DOT)  # type: ignore[arg-type]
    lines = (agreement.bias, "-"), (agreement.lower, ":"), (agreement.upper, ":")
    for value, style in lines:
        axes.axhline(value, color=CATEGORY_COLOURS[5] if style == "-" else _FAINT, linewidth=0.9, linestyle=style)
    text = f"bias {agreement.bias:.1f}, limits {agreement.lower:.1f} to {agreement.upper:.1f} {units}"
    axes.set_title(text, color=_INK, size=9, loc="left")
    axes.margins(x=0.08, y=0.15)
