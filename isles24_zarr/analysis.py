"""Numbers from images: plain functions on arrays, lazy where the arrays are.

Axis order is (..., z, y, x) throughout; volumes are in millilitres, lengths in millimetres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

_MM3_PER_ML = 1000.0


def mask_volume(mask: xr.DataArray, voxel_volume: float, *, label: int | None = None) -> float:
    """Return the volume of a mask.

    Parameters
    ----------
    mask
        (z, y, x), labels; voxels that are 0 or not finite do not count.
    voxel_volume
        In mm^3.
    label
        Count this label alone.

    Returns
    -------
    float
        In mL.
    """
    marked = (mask != 0) & np.isfinite(mask) if label is None else mask == label
    return float(marked.sum(dtype=np.int64).compute()) * voxel_volume / _MM3_PER_ML


def windowed(image: xr.DataArray, centre: float, width: float) -> xr.DataArray:
    """Map a CT window to 0 .. 1, as on a display.

    Parameters
    ----------
    image
        In HU, any shape.
    centre, width
        Of the window, in HU: values up to ``centre - width / 2`` become 0, from ``centre + width / 2`` on 1.

    Returns
    -------
    xarray.DataArray
        float32, same shape.

    Notes
    -----
    The linear window of DICOM PS3.3 C.11.2.1.3.2.
    """
    scaled = (image.astype(np.float32) - np.float32(centre - width / 2)) / np.float32(width)
    return scaled.clip(0, 1)
