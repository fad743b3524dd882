"""What all figures share: a figure that draws itself without pyplot, colours and sizes.

Without pyplot, figures are drawn the same in scripts, notebooks and workers, and none is kept alive by a registry.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH: Final = 140
INK: Final = "#f2f2f2"
FAINT_INK: Final = "#b0b0b0"
PAPER: Final = "#000000"
"""Of figures that show images: as on a workstation, on black."""

ON_WHITE: Final = ("#ffffff", "#202020", "#6a6a6a")
"""Paper, ink and faint ink of figures that show numbers."""

SMALL: Final = 8.0
"""Of type, in points."""


CATEGORY_COLOURS: Final = ("#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00")
"""Of Okabe and Ito (2008), told apart by all kinds of colour vision, on black and, but for yellow, on white."""


DEEP_BLUE: Final = "#0072b2"
"""The blue of Okabe and Ito, legible on white."""


@functools.cache
def figure_class() -> type[Figure]:
    """Return the class of all figures.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
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
