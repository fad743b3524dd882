"""Channels of a subject, opened lazily. No window is applied: `Channel.scaled` does that to what was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from isles24_zarr.analysis import on_same_grid
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.scans import open_scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isles24_zarr.store import StorePlace
    from isles24_zarr.training.channels import Channel


def opened_channels(
    target: StorePlace, subject: str, channels: Sequence[Channel], *, space: str = "ncct", chunks: Any = "auto"
) -> list[xr.DataArray]:
    """Open what the channels show of a subject.

    Parameters
    ----------
    target, subject, space
        Of the scan.
    channels
        As of `channels_of`.
    chunks
        As for `open_scan`. Functions get a scan on Dask in any case.

    Returns
    -------
    list of xarray.DataArray
        (z, y, x) of each channel, in physical units, named after it, all on one grid.

    Raises
    ------
    UnknownNameError
        The subject lacks an image or result on this grid, or a series has no such frame.
    GeometryError
        What a function returns is not on the grid of the scan.
    TypeError
        It is no DataArray.
    """
    scans: dict[tuple[str | None, bool], xr.Dataset] = {}

    def scan(pipeline: str | None, *, on_dask: bool = False) -> xr.Dataset:
        how = "auto" if on_dask and chunks is None else chunks
        key = (pipeline, how is not None)
        if key not in scans:
            options = target.storage_options
            scans[key] = open_scan(target.url, subject, space, pipeline=pipeline, chunks=how, storage_options=options)
        return scans[key]

    return [
        (
            _image(scan(channel.pipeline), channel, subject, space)
            if channel.function is None
            else _result(scan(None, on_dask=True), channel)
        ).rename(channel.name)
        for channel in channels
    ]


def _image(scan: xr.Dataset, channel: Channel, subject: str, space: str) -> xr.DataArray:
    if channel.image not in scan:
        of = "" if channel.pipeline is None else f", pipeline {channel.pipeline!r}"
        raise UnknownNameError(f"{subject}, space {space!r}{of}", f"has no {channel.image} on its grid")
    image = scan[channel.image]
    if channel.frame is None:
        if "time" in image.dims:
            raise UnknownNameError(channel.name, f"is a series over time, name a frame of it as '{channel.name}[0]'")
        return image
    frames = image.sizes.get("time", 0)
    if not -frames <= channel.frame < frames:
        raise UnknownNameError(channel.name, f"does not exist, {subject} has {frames} frames")
    return image.isel(time=channel.frame)


def _result(scan: xr.Dataset, channel: Channel) -> xr.DataArray:
    assert channel.function is not None  # noqa: S101 - for the type checker
    result = channel.function(scan)
    if not isinstance(result, xr.DataArray):
        raise TypeError(
            f"channel {channel.name!r} is of type {type(result).__name__}, its function returns no DataArray"
        )
    grid = next(iter(scan.data_vars.values()))
    return on_same_grid(grid.isel(time=0) if "time" in grid.dims else grid, result)
