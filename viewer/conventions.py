"""What the page takes from the package: names, windows, ranges, colours; `python viewer/conventions.py` writes them.

`tests/test_viewer.py` compares, so that the page and the figures of the package cannot diverge.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from isles24_zarr import conventions, vocabulary
from isles24_zarr.figures._panels import DISPLAYS
from isles24_zarr.figures._style import CATEGORY_COLOURS

WRITTEN = Path(__file__).parent / "src" / "conventions.json"


def colours(name: str) -> str:
    """Return the 256 colours of a map, six hexadecimal digits each."""
    return (mpl.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes().hex()


def taken() -> dict[str, Any]:
    """Return all that the page takes."""
    shown = {name: dataclasses.asdict(display) for name, display in DISPLAYS.items()}
    return {
        "formatVersion": 2,
        "windows": dict(vocabulary.CT_WINDOWS),
        "displays": shown,
        "images": {
            kind.name: {
                "longName": kind.long_name,
                "units": kind.units,
                "session": kind.session,
                "labels": kind.labels,
                "map": kind.name in vocabulary.PERFUSION_MAPS,
            }
            for kind in vocabulary.IMAGE_KINDS
        },
        "tmaxThreshold": conventions.TMAX_THRESHOLD,
        "softMaskThreshold": conventions.SOFT_MASK_THRESHOLD,
        "baselineFrames": conventions.BASELINE_FRAMES,
        "categoryColours": CATEGORY_COLOURS,
        "colours": {name: colours(name) for name in ("inferno", "viridis")},
    }


def text() -> str:
    """Return the file."""
    return json.dumps(taken(), indent=1) + "\n"


if __name__ == "__main__":
    WRITTEN.write_text(text())
