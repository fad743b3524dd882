"""Voxels as nnU-Net takes them: channels in their windows, labels in a row from 0, all of them finite. Block by block.

Nothing is rounded but floating-point numbers to single precision, in which nnU-Net holds whatever it reads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.errors import MaskError, NotFiniteError, VoxelTypeError
from isles24_zarr.format import DASK_CHUNK_BYTES, record_of
from isles24_zarr.store import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import xarray as xr
    from numpy.typing import NDArray

    from isles24_zarr.training.channels import Channel

_WHOLE: Final = tuple(np.dtype(name) for name in ("int16", "uint16", "int32", "uint32"))
"""Types for whole numbers that all readers of NIfTI know, the preferred one first."""


_WIDEST: Final = 8
"""Bytes of a voxel on its way."""


def channel_dtype(channel: Channel, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the voxels of a channel in its file.

    Parameters
    ----------
    channel
        With its window.
    dtype
        Of the image.

    Returns
    -------
    numpy.dtype
        The smallest of int16, uint16, int32, uint32 that holds all values that there can be, where they are whole
        numbers, within the window and without it; int32 for 64-bit numbers without a window, of which
        `channel_voxels` makes sure. Else float32.
    """
    if dtype.kind not in "biu" or channel.unit or channel.mean_sd:
        return np.dtype(np.float32)
    if channel.window is not None:
        low, high = channel.window
        if low != math.floor(low) or high != math.floor(high):
            return np.dtype(np.float32)
    elif dtype.kind == "b":
        low, high = 0, 1
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    fitting = (each for each in _WHOLE if np.iinfo(each).min <= low and high <= np.iinfo(each).max)
    return next(fitting, np.dtype(np.int32 if channel.window is None else np.float32))


def channel_voxels(
    values: NDArray[Any], channel: Channel, dtype: np.dtype[Any], fill: float | None
) -> tuple[NDArray[Any], int]:
    """Return voxels of a channel as they are written.

    Parameters
    ----------
    values
        Of the image, in its unit.
    channel, dtype
        The channel, and the type of its file, see `channel_dtype`.
    fill
        What voxels that are not finite become; without it, the lowest value of the window.

    Returns
    -------
    numpy.ndarray
        Same shape.
    int
        How many were not finite.

    Raises
    ------
    NotFiniteError
        There is neither a window nor a value for voxels that are not finite.
    VoxelTypeError
        Whole numbers of 64 bits do not fit.
    """
    if dtype.kind != "f":
        # whole numbers up to 2**53 pass through unchanged
        whole = np.clip(values.astype(np.float64), *channel.window) if channel.window else values
        limits = np.iinfo(dtype)
        if whole.size and not (limits.min <= whole.min() and whole.max() <= limits.max):
            raise VoxelTypeError(channel.name, "has whole numbers of more than 32 bits; give it a window")
        return whole.astype(dtype), 0
    with np.errstate(over="ignore"):  # what is too large is found below
        voxels = channel.scaled(values)
    wrong = ~np.isfinite(voxels)
    count = int(np.count_nonzero(wrong))
    if count:
        if fill is None and channel.window is None:
            raise NotFiniteError(channel.name, "has voxels that are not finite, which nnU-Net refuses")
        least = channel.scaled(np.array(channel.window[0])) if channel.window else np.float32(0)
        voxels = np.where(wrong, least if fill is None else np.float32(fill), voxels)
    return voxels, count


def label_voxels(labels: NDArray[Any], values: Mapping[int, int], name: str) -> NDArray[np.uint8]:
    """Return labels as they are written.

    Parameters
    ----------
    labels
        Whole numbers.
    values
        What each label becomes.
    name
        Of the mask.

    Raises
    ------
    MaskError
        There is another label.
    """
    known = np.array(sorted(values), dtype=np.int64)
    become = np.array([values[int(label)] for label in known], dtype=np.uint8)
    place = np.minimum(np.searchsorted(known, labels), known.size - 1)
    strange = np.unique(labels[known[place] != labels])
    if strange.size:
        listed = ", ".join(map(str, strange[:5].tolist()))
        raise MaskError(name, f"has voxels of {listed}, which are none of its labels; name them by labels=")
    return become[place]


def volume_slabs(image: xr.DataArray) -> Iterator[NDArray[Any]]:
    """Yield a volume from its first slice on, (z, y, x) each: by its chunks on Dask, else by slabs of whole chunks.

    Raises
    ------
    StoreDamageError
        A slab cannot be read.
    """
    if image.chunks is not None:
        lengths = image.variable.chunksizes["z"]
    else:
        chunk = (record_of(image) or {}).get("chunk_shape", (1, 1, 1))[-3]
        fitting = DASK_CHUNK_BYTES // (image.sizes["y"] * image.sizes["x"] * _WIDEST)
        length = max(chunk, fitting // chunk * chunk)
        lengths = (length,) * math.ceil(image.sizes["z"] / length)
    start = 0
    for length in lengths:
        slab = image.isel(z=slice(start, start + length))
        start += length
        if record_of(image) is None:
            yield np.asarray(slab.values)
            continue
        with reading(str(image.name)):
            voxels = np.asarray(slab.values)
        yield voxels
