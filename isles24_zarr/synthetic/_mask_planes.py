"""Masks of the phantom, as awkward as readers and software leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from isles24_zarr.synthetic._phantom import Codes, Floats
    from isles24_zarr.synthetic._planes import MaskFinish


def mask_planes(table: Floats, codes: Codes, finish: MaskFinish) -> Iterator[NDArray[Any]]:
    """Yield a mask slice by slice, (1, y, x), as its file holds it.

    Parameters
    ----------
    table
        Its labels by (tissue, level).
    codes
        (z, y, x).
    finish
        How it is stored.
    """
    scale = 1 / finish.slope if 0 < finish.slope < 1 else 1.0
    whole = np.issubdtype(finish.dtype, np.integer)
    for plane in codes:
        values = table.reshape(-1).take(plane)
        if finish.soft:
            values = _softened(_softened(values).T).T
        stored = np.rint(values * scale) if whole else values
        yield np.ascontiguousarray(stored.astype(finish.dtype))[None]


def _softened(plane: Floats) -> Floats:
    """Interpolate between columns, as on a grid of other columns, each of which lies less than half a voxel away."""
    part = np.modf(np.arange(plane.shape[1], dtype=np.float32) * np.float32(0.37))[0] * np.float32(0.49)
    following = np.concatenate([plane[:, 1:], plane[:, -1:]], axis=1)
    return np.asarray((1 - part) * plane + part * following)
