"""What an array of xarray carries of the array of the store that it comes from, in its encoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.format.layout import ATTRIBUTE_KEY, recorded_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

DASK_CHUNK_BYTES: Final = 64 * 10**6
"""How large a Dask chunk may be: far above the cost of a task, far below the memory of a worker."""


def record_of(image: xr.DataArray | xr.Variable) -> Mapping[str, Any] | None:
    """Return what was recorded of an image, as far as it is still known; it proves nothing of its values.

    Parameters
    ----------
    image
        Of a scan, or opened by xarray alone.
    """
    found = image.encoding.get(ATTRIBUTE_KEY) or image.attrs.get(ATTRIBUTE_KEY)
    return found if isinstance(found, dict) else None


def stored_layout(variable: xr.Variable) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shapes of the chunks and of the shards that an image has in its store, where it is still known."""
    record = recorded_of(variable.encoding)
    layout = tuple(record.get("chunk_shape", ())), tuple(record.get("shard_shape", ()))
    return layout if all(len(lengths) == variable.ndim for lengths in layout) and variable.ndim else None


def dask_chunks(scan: xr.Dataset, *, most: int = DASK_CHUNK_BYTES) -> dict[str, int]:
    """Choose Dask chunks for the arrays of a scan, the same for all so that they combine without rechunking.

    Parameters
    ----------
    scan
        As it comes from the store, with the chunks and shards of its arrays in their encoding.
    most
        Bytes of a chunk of the largest array.

    Returns
    -------
    dict
        By dimension: multiples of the stored chunks that never cross a shard, of up to ``most`` bytes for the largest
        array. Planes stay whole as long as possible: it is along z and then along time that arrays are cut.
    """
    layouts = {name: stored_layout(array.variable) for name, array in scan.data_vars.items()}
    arrays = [scan[name] for name, layout in layouts.items() if layout]
    unit: dict[str, int] = {}
    cuts: dict[str, int] = {}
    for array in arrays:
        for dim, chunk, shard, count in zip(array.dims, *(layouts[array.name] or ()), array.shape, strict=True):
            name = str(dim)
            unit[name] = math.lcm(unit.get(name, 1), chunk)
            if shard < count:
                cuts[name] = math.gcd(cuts.get(name, 0), shard)
    sizes = {name: cuts.get(name, math.ceil(scan.sizes[name] / unit[name]) * unit[name]) for name in unit}

    def largest() -> int:
        return max(math.prod(sizes[str(dim)] for dim in each.dims) * each.dtype.itemsize for each in arrays)

    for name in ("z", "time", "y", "x"):
        units = sizes.get(name, 0) // unit.get(name, 1)
        if units:
            wanted = min(units, max(1, units * most // largest()))
            # between two cuts, only a divisor keeps later chunks from crossing one
            fitting = wanted if name not in cuts else max(n for n in range(1, wanted + 1) if units % n == 0)
            sizes[name] = fitting * unit[name]
    return sizes
