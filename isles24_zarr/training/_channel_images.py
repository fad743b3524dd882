"""Channels of a scan as arrays, lazy: what a channel names, looked up; nothing is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from isles24_zarr.analysis import SPATIAL
from isles24_zarr.errors import GeometryError, UnknownNameError
from isles24_zarr.geometry import same_positions, scan_grid
from isles24_zarr.scans import open_scan, scan_place

if TYPE_CHECKING:
    from isles24_zarr.training.channels import Channel


def channel_image(scan: xr.Dataset, channel: Channel) -> xr.DataArray:
    """Return what a channel is of a scan, before its window.

    Parameters
    ----------
    scan
        As from `open_scan`, on Dask or not.
    channel
        Which image, frame, result or function.

    Returns
    -------
    xarray.DataArray
        (z, y, x), lazy as the scan is, in the unit of the image: `Channel.scaled` of any block of it is what a network
        sees. What a function returns is as lazy as that.

    Raises
    ------
    UnknownNameError
        The scan has no such image, frame or result.
    GeometryError
        It is no volume on the grid of the scan.
    """
    if channel.function is not None:
        image = channel.function(_on_dask(scan))
        if not isinstance(image, xr.DataArray):
            raise GeometryError(channel.name, f"is a function that returns a {type(image).__name__}, no DataArray")
    else:
        image = _stored_image(scan, channel)
    if set(image.dims) != set(SPATIAL):
        raise GeometryError(channel.name, f"has the axes {', '.join(map(str, image.dims)) or 'none'}, not z, y and x")
    if not same_positions(scan_grid(image), scan_grid(scan)):
        raise GeometryError(channel.name, f"is not on the grid of {scan_place(scan).path}: its voxels lie elsewhere")
    return image.transpose(*SPATIAL)


def _stored_image(scan: xr.Dataset, channel: Channel) -> xr.DataArray:
    place = scan_place(scan)
    where = f"{place.subject}, space {place.group.removeprefix('space-')!r}"
    source = scan
    if channel.pipeline is not None:
        chunks = "auto" if _is_on_dask(scan) else None
        options = place.target.storage_options
        source = open_scan(
            place.target.url,
            place.subject,
            place.group,
            pipeline=channel.pipeline,
            chunks=chunks,
            storage_options=options,
        )
    if channel.image not in source:
        of = f"results of {channel.pipeline!r}" if channel.pipeline else "images"
        raise UnknownNameError(where, f"has no {channel.image} among the {of} on its grid")
    image = source[channel.image]
    if channel.frame is None:
        return image
    frames = image.sizes.get("time", 0)
    if not -frames <= channel.frame < frames:
        raise UnknownNameError(where, f"has {frames} frames of {channel.image}, and none is {channel.frame}")
    return image.isel(time=channel.frame)


def _is_on_dask(scan: xr.Dataset) -> bool:
    return any(image.chunks is not None for image in scan.data_vars.values())


def _on_dask(scan: xr.Dataset) -> xr.Dataset:
    """Return a scan as functions get it."""
    if _is_on_dask(scan):
        return scan
    place = scan_place(scan)
    return open_scan(place.target.url, place.subject, place.group, storage_options=place.target.storage_options)
