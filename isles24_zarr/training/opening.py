"""Channels of a subject, opened lazily. No window is applied: `Channel.scaled` does that to what was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from isles24_zarr.analysis import SPATIAL
from isles24_zarr.cohorts import available_images, cohort_target, subject_names
from isles24_zarr.errors import GeometryError, UnknownNameError
from isles24_zarr.format import DerivativeRecord, SubjectRecord, pipeline_path
from isles24_zarr.geometry import same_grid, scan_grid
from isles24_zarr.scans import open_scan
from isles24_zarr.store import ZARR_JSON, document_from_bytes, read_objects
from isles24_zarr.training.channels import channels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from isles24_zarr.store import StorePlace
    from isles24_zarr.training.channels import Channel, ChannelLike


def cohort_channels(
    cohort: xr.DataTree,
    images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
    windows: str | Mapping[str, tuple[float, float] | str] | None = None,
) -> tuple[Channel, ...]:
    """Return the channels that were asked for of a cohort.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    images, windows
        As for `channels_of`, whose errors it raises.

    Raises
    ------
    UnknownNameError
        The cohort knows no such image.
    """
    channels = channels_of(images, windows)
    known = [str(name) for name in available_images(cohort).columns]
    for channel in channels:
        if channel.image and channel.pipeline is None and channel.image not in known:
            raise UnknownNameError(repr(channel.image), f"is no image, there are {', '.join(known)}")
    return channels


def label_channels(
    cohort: xr.DataTree, label: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike]
) -> tuple[Channel, ...]:
    """Return the channels of labels, which are no intensities.

    Raises
    ------
    UnknownNameError
        The cohort knows no such image, or it is to be scaled.
    """
    labels = cohort_channels(cohort, label)
    if scaled := [each.name for each in labels if each.window is not None or each.mean_sd is not None]:
        raise UnknownNameError(f"label {scaled[0]!r}", "has a window, and labels are no intensities; leave it out")
    return labels


def lacking_images(
    cohort: xr.DataTree, images: Iterable[tuple[str | None, str]], space: str, *, brain: bool = False
) -> dict[str, str]:
    """Return the subjects that lack an image or result on the grid of a space, and what each lacks.

    Parameters
    ----------
    cohort
        As from `open_cohort`. Its table knows of images in any space, the records of the subjects in which.
    images
        Pipeline, or None for images of the release, and name of each.
    space
        As for `open_scan`.
    brain
        Whether a brain is to be found, in the NCCT or the series.

    Raises
    ------
    UnknownNameError
        There is no such pipeline.
    """
    group = f"space-{space.removeprefix('space-')}"
    target, subjects = cohort_target(cohort), subject_names(cohort)
    images = list(dict.fromkeys(images))
    held = _held_images(cohort, target, group)
    for pipeline in dict.fromkeys(pipeline for pipeline, _ in images if pipeline is not None):
        for subject, paths in _results(target, pipeline, subjects).items():
            own = (path.rpartition("/") for path in paths)
            held[subject] |= {f"{pipeline}/{name}" for parent, _, name in own if parent == group}
    wanted = [name if pipeline is None else f"{pipeline}/{name}" for pipeline, name in images]
    lacking = {}
    for subject in subjects:
        absent = [name for name in wanted if name not in held[subject]]
        if brain and held[subject].isdisjoint({"ncct", "ctp"}):
            absent.append("ncct or ctp for the brain")
        if absent:
            lacking[subject] = f"has no {', '.join(absent)}" + ("" if group == "space-ncct" else f" in {group}")
    return lacking


def _held_images(cohort: xr.DataTree, target: StorePlace, group: str) -> dict[str, set[str]]:
    """Return the images of the release that each subject has in a group."""
    available = available_images(cohort)
    subjects = subject_names(cohort)
    held: dict[str, set[str]] = {}
    for subject, document in zip(subjects, _documents(target, subjects), strict=True):
        held[subject] = set()
        if document is not None:  # it may have been removed meanwhile
            record = SubjectRecord.from_attributes(document.get("attributes", {}), f"{target.url}/{subject}")
            there = available.loc[subject]
            own = [name for name, groups in record.images.items() if group in groups]
            held[subject] = {name for name in own if there.get(name, False)}
    return held


def _results(target: StorePlace, pipeline: str, subjects: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the paths of what a pipeline has of each subject, as ``"space-ncct/core"``."""
    from isles24_zarr.derivatives import pipeline_names  # which imports all that writes, in each worker

    pipelines = pipeline_names(target)
    if pipeline not in pipelines:
        what = f"is not in {target.url}, which has the pipelines: {', '.join(pipelines) or 'none'}"
        raise UnknownNameError(f"pipeline {pipeline!r}", what)
    paths = [pipeline_path(pipeline, name) for name in subjects]
    return {
        name: DerivativeRecord.from_document(document, f"{path}/{ZARR_JSON}").arrays if document is not None else ()
        for name, path, document in zip(subjects, paths, _documents(target, paths), strict=True)
    }


def _documents(target: StorePlace, groups: Sequence[str]) -> list[dict[str, Any] | None]:
    """Read the documents of groups at once; None for those that are not there."""
    keys = [f"{group}/{ZARR_JSON}" for group in groups]
    objects = read_objects(target.opened(read_only=True), keys)
    return [document_from_bytes(objects[key], path=f"{target.url}/{key}") for key in keys]


def stored_names(channels: Iterable[Channel]) -> list[tuple[str | None, str]]:
    """Return pipeline and name of the images that channels show; what functions look at is not known."""
    return [(each.pipeline, each.image) for each in channels if each.image]


def check_missing(lacking: Mapping[str, str], missing: str) -> None:
    """Raise where subjects lack an image, given why each does, unless they are to be left out by ``"skip"``.

    Raises
    ------
    UnknownNameError
        Some lack one.
    """
    if lacking and missing == "error":
        first = next(iter(lacking))
        more = f", as {len(lacking) - 1} more lack an image" if len(lacking) > 1 else ""
        raise UnknownNameError(first, f"{lacking[first]}{more}; give missing='skip' to leave out who has not all")


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
        What a function returns is no volume on the grid of the scan.
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
            stored_image(scan(channel.pipeline), channel, subject, space)
            if channel.function is None
            else function_result(scan(None, on_dask=True), channel, subject)
        ).rename(channel.name)
        for channel in channels
    ]


def stored_image(scan: xr.Dataset, channel: Channel, subject: str, space: str) -> xr.DataArray:
    """Return the image, or the frame, of a scan that a channel names, (z, y, x).

    Raises
    ------
    UnknownNameError
        There is no such image or frame.
    """
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


def function_result(scan: xr.Dataset, channel: Channel, subject: str) -> xr.DataArray:
    """Return what the function of a channel makes of a scan on Dask, (z, y, x).

    Raises
    ------
    GeometryError
        That is no volume on the grid of the scan.
    """
    assert channel.function is not None  # noqa: S101 - for the type checker
    where = f"{subject}, channel {channel.name!r}"
    try:
        result = channel.function(scan)
    except Exception as error:
        error.add_note(f"in the function of {where}")
        raise
    if not isinstance(result, xr.DataArray) or set(result.dims) != set(SPATIAL):
        found = f"{type(result).__name__} {getattr(result, 'dims', '')}".strip()
        raise GeometryError(where, f"is a function that returned {found}, no DataArray (z, y, x)")
    if not same_grid(scan_grid(scan), scan_grid(result)):
        raise GeometryError(where, "is a function whose result is on another grid than the scan")
    return result.transpose(*SPATIAL)
