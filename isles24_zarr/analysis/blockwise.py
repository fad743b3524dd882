"""Work on images block by block, in memory that a block bounds, whether they are on Dask, lazy without it or loaded.

Images that are looked at together must sample the same points. That is checked by their affines, never assumed from
their shapes: xarray by itself would keep what two images have in common, and answer for that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.errors import GeometryError
from isles24_zarr.format import DASK_CHUNK_BYTES, dask_chunks, record_of, stored_layout
from isles24_zarr.geometry import same_grid, scan_grid
from isles24_zarr.vocabulary import PERFUSION_MAPS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from numpy.typing import ArrayLike

SPATIAL: Final = ("z", "y", "x")
"""The order in which functions on blocks get the axes of a volume; ``time`` comes before."""

AS_NAMED: Final = "isles24_zarr_as_named"
"""Key of the encoding of an image that is what its name says, and in no store: on another grid, or a map just made."""


def canonical_axes(image: xr.DataArray) -> xr.DataArray:
    """Return an image with the axes (time,) z, y, x, those that it has, in this order.

    Raises
    ------
    GeometryError
        It has another axis.
    """
    strange = [str(dim) for dim in image.dims if dim not in ("time", *SPATIAL)]
    if strange:
        raise GeometryError(name_of(image), f"has an axis {', '.join(strange)} besides time, z, y and x")
    return image.transpose("time", *SPATIAL, missing_dims="ignore")


def series_axes(series: xr.DataArray) -> xr.DataArray:
    """Return a series with the axes time, z, y, x, those that it has, in this order.

    Raises
    ------
    GeometryError
        There is no time axis, or another one.
    """
    check_time_axis(series)
    return canonical_axes(series)


def check_time_axis(series: xr.DataArray) -> None:
    """Raise where an image is no series."""
    if "time" not in series.dims:
        raise GeometryError(name_of(series), "has no time axis")


def spatial_axes(image: xr.DataArray) -> xr.DataArray:
    """Return an image with the axes z, y, x, those that it has, in this order.

    Raises
    ------
    GeometryError
        It has another axis.
    """
    if "time" in image.dims:
        raise GeometryError(name_of(image), "is a series; select a frame, as time=0, or take a time curve")
    return canonical_axes(image)


def volume_axes(image: xr.DataArray) -> xr.DataArray:
    """Return a volume with the axes z, y, x.

    Raises
    ------
    GeometryError
        It is no volume.
    """
    if set(image.dims) != set(SPATIAL):
        dims = ", ".join(map(str, image.dims)) or "no axes"
        raise GeometryError(name_of(image), f"has {dims} where z, y and x are needed")
    return image.transpose(*SPATIAL)


def on_same_grid(image: xr.DataArray, other: xr.DataArray | ArrayLike) -> xr.DataArray:
    """Return another image, such as a mask, on the grid of an image.

    Parameters
    ----------
    image
        ((time,) z, y, x), or a slice of that, in any order, as the user has given it.
    other
        With the spatial axes of the image. A plain array has them in the image's order.

    Returns
    -------
    xarray.DataArray
        The other one with the axes z, y, x, those that it has, in this order.

    Raises
    ------
    GeometryError
        They do not sample the same points.
    """
    spatial = [dim for dim in image.dims if dim != "time"]
    shape = tuple(image.sizes[dim] for dim in spatial)
    if not isinstance(other, xr.DataArray):
        values = np.asarray(other)
        if values.shape != shape:
            raise GeometryError(name_of(image), f"has the shape {shape}, an array of shape {values.shape} is not on it")
        return canonical_axes(xr.DataArray(values, dims=spatial))
    if set(other.dims) != set(spatial):
        dims = [", ".join(map(str, dims)) or "none" for dims in (other.dims, spatial)]
        raise GeometryError(name_of(other), f"has the axes {dims[0]}, those of {name_of(image)} are {dims[1]}")
    if not {"x", "y", "z"} & {*image.coords, *other.coords}:  # neither says where it lies
        if any(image.sizes[dim] != other.sizes[dim] for dim in spatial):
            raise GeometryError(name_of(other), f"has another shape than {name_of(image)}")
        return canonical_axes(other)
    if not same_grid(scan_grid(image), scan_grid(other)):
        raise GeometryError(name_of(other), f"is not on the grid of {name_of(image)}")
    return canonical_axes(other)


def on_dask(image: xr.DataArray) -> xr.DataArray:
    """Return an image on Dask, in blocks of about `DASK_CHUNK_BYTES` where it is not yet."""
    return image if image.chunks is not None else image.chunk(_cuts(image))


def loaded_coordinates(image: xr.DataArray | xr.Dataset) -> dict[Hashable, xr.Variable]:
    """Return the coordinates of an image in memory, by name: they are small.

    ``chunk`` puts on Dask those that are no index, too, and data in other chunks cannot be attached to them.
    """
    return {name: each.variable.compute() for name, each in image.coords.items()}


def whole_curves(series: xr.DataArray) -> xr.DataArray:
    """Return a series (time, z, y, x) on Dask, in chunks of all frames, of about `DASK_CHUNK_BYTES`.

    Raises
    ------
    GeometryError
        There is no time axis.
    """
    series = series_axes(series)
    layout = stored_layout(series.variable)
    unit = dict(zip(series.dims, layout[0], strict=True)) if layout else {}
    room = max(1, DASK_CHUNK_BYTES // (series.sizes["time"] * series.dtype.itemsize))
    sizes = {dim: series.sizes[dim] for dim in series.dims[1:]}
    for dim, size in list(sizes.items()):
        step = unit.get(dim, 1)
        beside = math.prod(sizes.values()) // size
        sizes[dim] = min(size, max(step, room // beside // step * step))
    if series.chunks is None:
        data = series.chunk({"time": -1, **sizes}).data
    else:
        data = _put_together(series.data, (), list(sizes.values()))
    return series.assign_coords(loaded_coordinates(series)).copy(data=data)


def _put_together(series: Any, cut: tuple[slice, ...], sizes: list[int]) -> Any:
    """Return a part of a Dask array (time, ...) in chunks of all frames, made of slices.

    To rechunk would read, and hold, the chunks that there are. A slice reads what it shows where it comes from a store,
    but only if it is made a graph of its own before others take slices of the same chunk.
    """
    import dask.array as da
    from dask.base import optimize

    if not sizes:
        (part,) = optimize(series[(slice(None), *cut)].rechunk(-1))
        return part
    axis = len(cut) + 1
    starts = range(0, series.shape[axis], sizes[0])
    parts = [_put_together(series, (*cut, slice(start, start + sizes[0])), sizes[1:]) for start in starts]
    return da.concatenate(parts, axis=axis)


def computed_voxels(values: Any, image: str) -> Any:
    """Return where an image holds values, and not what stands for none: booleans, lazy if it is.

    Perfusion software leaves 0 where it computes nothing, and -30 in Tmax, which interpolation has mixed with tissue at
    the border. No image of the release means anything by NaN or infinity.

    Parameters
    ----------
    values
        An array of any kind, in physical units. Booleans and unsigned integers are masks, and no map.
    image
        Its name, which tells whether it is a map: see `map_name`.
    """
    finite = np.isfinite(values)
    if image not in PERFUSION_MAPS or values.dtype.kind not in "if":
        return finite
    return finite & (values > 0 if image == "tmax" else values != 0)


def is_as_opened(image: xr.DataArray) -> bool:
    """Tell whether the values of an image are still those of a store, or of a map that was made, or some of them.

    Names and attributes stay in arithmetic: a difference of two Tmax maps is called ``tmax``, and all of it means
    something. What tells is the encoding, which xarray keeps where it selects, loads, chunks, copies or turns, and
    drops where it computes, also in ``where``, ``fillna`` and ``astype``. Data that were put into a ``copy`` it misses.
    """
    return bool(image.encoding) and (AS_NAMED in image.encoding or record_of(image) is not None)


def map_name(image: xr.DataArray) -> str:
    """Return the name of an image for `computed_voxels`, empty unless its values are those of a store.

    Parameters
    ----------
    image
        Of a scan, a result of a pipeline, or what was made of one; see `is_as_opened`.

    Examples
    --------
    >>> from isles24_zarr.analysis import map_name
    >>> map_name(scan["tmax"].isel(z=slice(2, 5))), map_name(scan["tmax"] - 6)
    ('tmax', '')
    """
    return str(image.name) if is_as_opened(image) else ""


def name_of(image: xr.DataArray) -> str:
    """Return what to call an image in a message."""
    return str(image.name or "this image")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Corresponding blocks of several arrays.

    Parameters
    ----------
    start
        Indices of its first element in the first array.
    arrays
        NumPy arrays, or what Dask will make into such.
    lazy
        Whether they are Dask's.
    """

    start: tuple[int, ...]
    arrays: tuple[Any, ...]
    lazy: bool

    def call(self, function: Callable[..., Any], *before: Any) -> Any:
        """Call ``function(*before, *arrays)``, now or later."""
        if not self.lazy:
            return function(*before, *self.arrays)
        from dask.delayed import delayed

        return delayed(function, pure=False)(*before, *self.arrays)


def blocks(image: xr.DataArray, *others: xr.DataArray, innermost: str | None = None) -> Iterator[Block]:
    """Iterate over an image by its Dask chunks, or by blocks of about `DASK_CHUNK_BYTES` where it is not on Dask.

    Parameters
    ----------
    image
        Any axes.
    others
        With all or some of its axes, in the same order, of the same lengths.
    innermost
        Run fastest along this axis, so that blocks which differ in nothing else come one after the other.

    Yields
    ------
    Block
        Of the image, then of the others. Without Dask, a block is read when it is reached.
    """
    arrays = (image, *others)
    lazy = any(array.chunks is not None for array in arrays)
    cuts = _cuts(image, *others)
    indexed: list[Any] = [_delayed_blocks(array, cuts) for array in arrays] if lazy else []
    dims = list(image.dims)
    outer = [dim for dim in dims if dim != innermost]
    order = [*outer, *(dim for dim in dims if dim == innermost)]
    starts = {dim: [0, *itertools.accumulate(cuts[dim])] for dim in dims}
    for places in itertools.product(*(range(len(cuts[dim])) for dim in order)):
        place = dict(zip(order, places, strict=True))
        if lazy:
            parts = tuple(
                delayed[tuple(place[dim] for dim in array.dims)] for delayed, array in zip(indexed, arrays, strict=True)
            )
        else:
            where = {dim: slice(starts[dim][place[dim]], starts[dim][place[dim] + 1]) for dim in dims}
            parts = tuple(array.isel({dim: where[dim] for dim in array.dims}).to_numpy() for array in arrays)
        yield Block(start=tuple(starts[dim][place[dim]] for dim in dims), arrays=parts, lazy=lazy)


def block_results(
    function: Callable[..., Any], image: xr.DataArray, *others: xr.DataArray, starts: bool = False
) -> list[Any]:
    """Return what a function makes of each block, in the order of the blocks.

    Parameters
    ----------
    function
        Of NumPy arrays, one for the image and each of the others. What it returns should be small: all of it is kept,
        and travels when Dask computes elsewhere.
    image, others
        As for `blocks`.
    starts
        Whether the function takes the indices of the block's first element before the arrays.
    """
    return computed(block.call(function, *([block.start] if starts else [])) for block in blocks(image, *others))


def computed(results: Iterator[Any] | Sequence[Any]) -> list[Any]:
    """Compute what is still to be computed, all at once."""
    from dask.base import compute

    return list(compute(*results))


def _cuts(image: xr.DataArray, *others: xr.DataArray) -> dict[Any, tuple[int, ...]]:
    """Return the lengths of the blocks along every axis of the image."""
    cuts = {dim: (size,) for dim, size in image.sizes.items()}
    on_dask = [array for array in (image, *others) if array.chunks is not None]
    if on_dask:
        return cuts | {dim: sizes for array in reversed(on_dask) for dim, sizes in array.variable.chunksizes.items()}
    if stored_layout(image.variable):
        sizes = dask_chunks(image.to_dataset(name="image"))
    else:
        sizes, left = {}, max(1, DASK_CHUNK_BYTES // max(1, image.dtype.itemsize))
        for dim, size in reversed(list(image.sizes.items())):
            sizes[str(dim)] = max(1, min(size, left))
            left //= max(1, size)
    return {dim: _even_cuts(size, sizes[str(dim)]) for dim, size in image.sizes.items()}


def _even_cuts(size: int, length: int) -> tuple[int, ...]:
    return tuple(min(length, size - start) for start in range(0, size, max(1, length))) or (0,)


def _delayed_blocks(array: xr.DataArray, cuts: dict[Any, tuple[int, ...]]) -> Any:
    return array.chunk({dim: cuts[dim] for dim in array.dims}).data.to_delayed()
