"""Images on the grid of another, through both affines, block by block."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr

from isles24_zarr.analysis.blockwise import (
    AS_NAMED,
    SPATIAL,
    canonical_axes,
    is_as_opened,
    loaded_coordinates,
    name_of,
    on_dask,
)
from isles24_zarr.analysis.masks import recorded_kind, values_in
from isles24_zarr.errors import GeometryError, MaskError, UnknownNameError
from isles24_zarr.geometry import Grid, scan_grid, world_from_voxel
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isles24_zarr.format import MaskKind

ResamplingMethod = Literal["nearest", "linear"]
METHODS: Final = ("nearest", "linear")

_BLOCK_VOXELS: Final = 2 * 10**6
"""Of a block of the result: its positions take 24 bytes a voxel."""

_EDGE: Final = 1e-6
"""Part of a voxel by which positions may be outside of the last centre, for what is left of double precision."""


def resampled_like(
    image: xr.DataArray,
    reference: xr.DataArray | xr.Dataset,
    *,
    method: ResamplingMethod = "nearest",
) -> xr.DataArray:
    """Return an image on the grid of another.

    Parameters
    ----------
    image
        ((time,) z, y, x), with the coordinates of its grid.
    reference
        An image or a scan, whose grid the result has.
    method
        ``"nearest"``: the value of the voxel whose box holds the position; what masks take. ``"linear"``: between the
        eight voxels around it, float32 or wider.

    Returns
    -------
    xarray.DataArray
        ((time,) z, y, x), lazy, on Dask. Outside of the image masks are 0; all else is NaN, for which integers become
        float32 (64 bits for 32) where the reference reaches beyond the image. Masks are booleans, whatever has the name
        or the flags of labels and holds such, or fractions, and, for the nearest, whatever is of type uint8.

    Raises
    ------
    GeometryError
        One of them is no volume, or the orientation of one is not known.
    MaskError
        Labels cannot be interpolated linearly.
    UnknownNameError
        There is no such method.

    Notes
    -----
    Only headers say how two images lie to one another. Those of CT perfusion as acquired are off the NCCT by some mm
    and degrees in many subjects, and by centimetres in a few: look at the result. Nothing is averaged: on a much
    coarser grid smooth first. `interp_like` of xarray compares x, y and z, which are those of another direction on
    another grid.

    A block of the result holds up to 2 million voxels, and the box of the image around it.

    Examples
    --------
    >>> from isles24_zarr.analysis import resampled_like
    >>> acquired = isles24_zarr.open_scan("isles24.zarr", "sub-stroke0001", space="ctp")
    >>> mask = resampled_like(scan["lvo_mask"], acquired)
    >>> mask.shape == acquired["tmax"].shape, mask.dtype == scan["lvo_mask"].dtype
    (True, True)
    """
    if method not in METHODS:
        raise UnknownNameError(repr(method), f"is no method of resampling, there are {', '.join(METHODS)}")
    image = on_dask(canonical_axes(image))
    source, target = _grid_of(image), _grid_of(reference)
    kind = _mask_kind(image)
    if method == "linear" and kind == "labels":
        raise MaskError(name_of(image), "labels cannot be interpolated linearly; take the nearest")
    sampling = _Sampling(
        to_source=np.linalg.inv(source.affine) @ target.affine, source_shape=source.shape[::-1], method=method
    )
    # labels without a meaning, as of a prediction, cannot be told from an image of 8 bits but by the method
    mask = kind != "other" or (image.dtype == np.uint8 and method == "nearest")
    dtype, fill = _type_and_fill(image, method, mask=mask, within=sampling.is_within(target.shape[::-1]))
    frames = [image.variable.chunksizes["time"]] if "time" in image.dims else []
    values = _assembled(image, sampling, [*frames, *_cuts(target.shape[::-1])], dtype, fill)
    coords = {name: each for name, each in loaded_coordinates(reference).items() if "time" not in (name, *each.dims)}
    coords |= {"time": loaded_coordinates(image)["time"]} if frames else {}
    dims = [dim for dim in ("time", *SPATIAL) if dim != "time" or frames]
    attributes = {name: value for name, value in image.attrs.items() if name != "file_orientation"}
    result = xr.DataArray(values, dims=dims, coords=coords, name=image.name, attrs=attributes)
    result.encoding = {AS_NAMED: True} if is_as_opened(image) else {}
    return result


def _grid_of(image: xr.DataArray | xr.Dataset) -> Grid:
    missing = [dim for dim in SPATIAL if dim not in image.dims]
    if missing:
        raise GeometryError(str(getattr(image, "name", None) or "this image"), f"has no axis {', '.join(missing)}")
    grid = scan_grid(image)
    if not grid.oriented:
        raise GeometryError(str(getattr(image, "name", None) or "this image"), "does not say where its axes point")
    return grid


def _mask_kind(image: xr.DataArray) -> MaskKind:
    """Return whether an image is labels, a mask that may be interpolated (soft), or no mask (other).

    Its name and its attributes stay in arithmetic, and only say what is to be looked for: what was recorded of the
    image as it was opened, else its values, which are read, tell whether it is a mask still.
    """
    if image.dtype == np.dtype(bool):
        return "soft"
    kind = IMAGES.get(str(image.name))
    flags = np.ravel(image.attrs.get("flag_values", [])).tolist()
    meanings = set(flags or [label for label, _ in (kind.labels if kind else ())])
    if not meanings or image.dtype.kind not in "iuf":
        return "other"
    recorded = recorded_kind(image)
    if recorded is not None:
        return recorded
    found = values_in(image)
    known = found.kind != "labels" or meanings.issuperset(found.labels or [found.highest])
    return found.kind if known else "other"


def _type_and_fill(
    image: xr.DataArray, method: ResamplingMethod, *, mask: bool, within: bool
) -> tuple[np.dtype[Any], float]:
    """Return the type of the result, and what stands where the image has no value."""
    if method == "nearest" and (mask or within):
        return image.dtype, 0
    return np.result_type(image.dtype, np.float32), 0 if mask else np.nan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sampling:
    """Where the voxels of a result lie in an image.

    Parameters
    ----------
    to_source
        4 x 4, voxel indices (x, y, z) of the result to those of the image.
    source_shape
        Of the image, (z, y, x).
    method
        How values are taken there.
    """

    to_source: NDArray[np.float64]
    source_shape: tuple[int, ...]
    method: ResamplingMethod

    def is_within(self, shape: tuple[int, ...]) -> bool:
        """Tell whether all voxels of a result, (z, y, x), lie in the image."""
        corners = self._corners((0, 0, 0), shape)
        return bool(self._inside(corners.T).all())

    def box(self, start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...] | None:
        """Return the part of the image, (z, y, x), that a block of the result needs; None where they do not meet."""
        corners = self._corners(start, shape)[:, ::-1]
        lows = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        highs = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, self.source_shape)
        return tuple(map(slice, lows, highs)) if (lows < highs).all() else None

    def _corners(self, start: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the indices (x, y, z) in the image of the corner voxels of a block (z, y, x), 8 x 3."""
        ends = itertools.product(*((first, first + size - 1) for first, size in zip(start, shape, strict=True)))
        return world_from_voxel(self.to_source, np.array(list(ends))[:, ::-1])

    def _inside(self, index: Any) -> NDArray[np.bool_]:
        """Tell which indices, one array for each of x, y and z, lie in the image."""
        rim = 0.5 if self.method == "nearest" else _EDGE
        sizes = zip(index, self.source_shape[::-1], strict=True)
        inside: NDArray[np.bool_] = np.logical_and.reduce(
            [(each >= -rim) & (each <= size - 1 + rim) for each, size in sizes]
        )
        return inside

    def sampled(
        self,
        part: NDArray[Any],
        corner: tuple[int, ...],
        start: tuple[int, ...],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        fill: float,
    ) -> NDArray[Any]:
        """Return a block of the result, ((time,) z, y, x), plane by plane.

        Parameters
        ----------
        part
            Of the image, ((time,) z, y, x).
        corner
            Its first voxel in the image, (z, y, x).
        start, shape
            Of the block, (z, y, x).
        dtype, fill
            Of the result, and of what is outside of the image.
        """
        result = np.full((*part.shape[:-3], *shape), fill, dtype)
        j, i = np.meshgrid(
            *(first + np.arange(n, dtype=float) for first, n in zip(start[1:], shape[1:], strict=True)), indexing="ij"
        )
        take = _nearest if self.method == "nearest" else _linear
        for plane in range(shape[0]):
            index = [row[0] * i + row[1] * j + (row[2] * (start[0] + plane) + row[3]) for row in self.to_source[:3]]
            inside = self._inside(index)
            if inside.any():
                within = [each[inside] - first for each, first in zip(index[::-1], corner, strict=True)]
                result[..., plane, :, :][..., inside] = take(part, within, dtype)
        return result


def _nearest(part: NDArray[Any], index: list[NDArray[np.float64]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of a part ((time,) z, y, x) at the voxels nearest to indices (z, y, x)."""
    nearest = [
        np.clip(np.floor(each + 0.5).astype(np.intp), 0, size - 1)
        for each, size in zip(index, part.shape[-3:], strict=True)
    ]
    return np.asarray(part[..., nearest[0], nearest[1], nearest[2]].astype(dtype))


def _linear(part: NDArray[Any], index: list[NDArray[np.float64]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of a part ((time,) z, y, x) between the eight voxels around indices (z, y, x)."""
    low = [
        np.clip(np.floor(each).astype(np.intp), 0, max(0, size - 2))
        for each, size in zip(index, part.shape[-3:], strict=True)
    ]
    weight = [np.clip(each - first, 0, 1) for each, first in zip(index, low, strict=True)]
    values = np.zeros((*part.shape[:-3], index[0].size), dtype)
    for steps in itertools.product((0, 1), repeat=3):
        share = np.prod([part if step else 1 - part for step, part in zip(steps, weight, strict=True)], axis=0)
        used = np.flatnonzero(share)  # what weighs nothing may lie outside, or not be finite
        # along an axis of one voxel there is no second
        at = [
            np.minimum(first[used] + step, size - 1)
            for first, step, size in zip(low, steps, part.shape[-3:], strict=True)
        ]
        values[..., used] += part[..., at[0], at[1], at[2]] * share[used].astype(dtype)
    return values


def _cuts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Cut a volume (z, y, x) into slabs of about `_BLOCK_VOXELS`."""
    planes = max(1, _BLOCK_VOXELS // (shape[1] * shape[2]))
    return [tuple(min(planes, shape[0] - start) for start in range(0, shape[0], planes)), (shape[1],), (shape[2],)]


def _assembled(
    image: xr.DataArray, sampling: _Sampling, cuts: list[tuple[int, ...]], dtype: np.dtype[Any], fill: float
) -> Any:
    """Return the result as a Dask array of blocks, each of which takes its part of the image alone."""
    import dask.array as da
    from dask.delayed import delayed

    sample = delayed(sampling.sampled, pure=False)
    slabs = []
    for first, count in zip(itertools.accumulate(cuts[-3], initial=0), cuts[-3], strict=False):
        start, shape = (first, 0, 0), (count, cuts[-2][0], cuts[-1][0])
        box = sampling.box(start, shape)
        frames = zip(itertools.accumulate(cuts[0], initial=0), cuts[0], strict=False) if len(cuts) == 4 else [None]
        blocks = []
        for span in frames:
            when = () if span is None else (slice(span[0], span[0] + span[1]),)
            whole = (*(() if span is None else (span[1],)), *shape)
            if box is None:
                blocks.append(da.full(whole, fill, dtype=dtype, chunks=whole))
            else:
                corner = tuple(each.start for each in box)
                block = sample(image.data[(*when, *box)], corner, start, shape, dtype, fill)
                blocks.append(da.from_delayed(block, whole, dtype=dtype))
        slabs.append(da.concatenate(blocks, axis=0) if len(cuts) == 4 else blocks[0])
    return da.concatenate(slabs, axis=len(cuts) - 3)
