"""What a subject has, as volumes of which regions are read: images, results, what functions return, the brain."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.analysis import CoarseBrain, LabelRule
from isles24_zarr.errors import GeometryError, UnknownNameError
from isles24_zarr.format import stored_layout
from isles24_zarr.geometry import same_grid, scan_grid
from isles24_zarr.perfusion import brain_image
from isles24_zarr.scans import open_scan
from isles24_zarr.store import reading
from isles24_zarr.training.opening import function_result, stored_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from isles24_zarr.training._plan import PatchPlan
    from isles24_zarr.training.channels import Channel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """A volume of a subject, of which regions are read.

    Parameters
    ----------
    name
        Of the array in the store, for errors; None where it is computed.
    image
        (z, y, x), lazy.
    """

    name: str | None
    image: xr.DataArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volume, (z, y, x)."""
        return self.image.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """What is read at once, (z, y, x)."""
        if self.image.chunks is not None:
            return tuple(sizes[0] for sizes in self.image.chunks)
        layout = stored_layout(self.image.variable)
        return layout[0] if layout else self.image.shape

    def block(self, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
        """Read a region, (z, y, x), as far as there is one."""
        # of the variable: to cut its coordinates as well takes as long as to read
        part = self.image.variable[tuple(slice(first, first + count) for first, count in zip(start, size, strict=True))]
        if self.is_lazy:
            # in this thread: worker processes are what runs in parallel, and a cluster's client does not outlive a fork
            return np.asarray(part.data.compute(scheduler="synchronous"))
        with reading(self.name) if self.name else contextlib.nullcontext():
            return np.asarray(part.values)

    @property
    def is_lazy(self) -> bool:
        """Whether it is computed by Dask."""
        return self.image.chunks is not None


def computed_here(*, lazy: bool = True) -> contextlib.AbstractContextManager[None]:
    """Compute with Dask in this thread, whatever is called inside."""
    if not lazy:
        return contextlib.nullcontext()
    from isles24_zarr.tasks import COMPUTED_HERE  # which imports distributed: a second for each worker

    return COMPUTED_HERE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """A volume whose values are labels by a rule."""

    volume: Volume
    rule: LabelRule

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the mask, (z, y, x)."""
        return self.volume.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """What is read at once, (z, y, x)."""
        return self.volume.chunk

    def inside(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
        """Return which voxels of a region have a label."""
        return self.rule.inside(self.volume.block(start, size))

    def labels(self, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
        """Read the labels of a region."""
        return self.rule.labels(self.volume.block(start, size))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Brain:
    """The mask of a brain, drawn where it is read."""

    image: Volume
    coarse: CoarseBrain

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the mask, (z, y, x)."""
        return self.image.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """What is read at once, (z, y, x)."""
        return self.image.chunk

    def inside(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
        """Return which voxels of a region are in the brain."""
        return self.coarse.mask(self.image.block(start, size), start)


class Scans:
    """What a subject has, opened as it is needed: images and results as lazy NumPy, and images on Dask."""

    def __init__(self, plan: PatchPlan, subject: str) -> None:
        self.subject = subject
        self._plan = plan
        self._scans: dict[tuple[str | None, str | None], xr.Dataset] = {}

    def scan(self, pipeline: str | None = None, chunks: str | None = None) -> xr.Dataset:
        """Open the images of the release, or the results of a pipeline."""
        if (pipeline, chunks) not in self._scans:
            target, space = self._plan.target, self._plan.options.space
            self._scans[pipeline, chunks] = open_scan(
                target.url,
                self.subject,
                space,
                pipeline=pipeline,
                chunks=chunks,
                storage_options=target.storage_options,
            )
        return self._scans[pipeline, chunks]

    def volumes(self, channels: Sequence[Channel], results: Mapping[int, xr.DataArray]) -> tuple[Volume, ...]:
        """Return what is read of each channel.

        Raises
        ------
        UnknownNameError
            An image or frame is not there.
        """
        absent = [
            each.image if each.pipeline is None else f"{each.pipeline}/{each.image}"
            for each in channels
            if each.image is not None and each.image not in self.scan(each.pipeline)
        ]
        if absent:
            where = f"{self.subject}, space {self._plan.options.space!r}"
            raise UnknownNameError(where, f"has no {', '.join(dict.fromkeys(absent))} on its grid")
        return tuple(
            Volume(name=None, image=results[number]) if number in results else self._stored(channel)
            for number, channel in enumerate(channels)
        )

    def _stored(self, channel: Channel) -> Volume:
        scan = self.scan(channel.pipeline)
        image = stored_image(scan, channel, self.subject, self._plan.options.space)
        if channel.pipeline is not None and not same_grid(scan_grid(self.scan()), scan_grid(scan)):
            what = "is not on the grid of the images, which were converted anew since; derive, save or add it again"
            raise GeometryError(f"{channel.pipeline}/{channel.image}", what)
        return Volume(name=f"{scan.encoding['source']}/{channel.image}", image=image)

    def brain_image(self) -> Volume:
        """Return the CT that shows where the brain is.

        Raises
        ------
        UnknownNameError
            There is none on the grid.
        """
        scan = self.scan()
        # the NCCT chunk by chunk; what has to be computed, on Dask
        with computed_here(lazy="ncct" not in scan):
            image = brain_image(scan if "ncct" in scan else self.scan(chunks="auto"))
        if image is None:
            what = "has neither NCCT nor CTP on its grid to find the brain in; give within= a mask"
            raise UnknownNameError(f"{self.subject}, space {self._plan.options.space!r}", what)
        return Volume(name=f"{scan.encoding['source']}/ncct" if "ncct" in scan else None, image=image)


def function_results(scans: Scans, channels: Sequence[Channel]) -> dict[int, xr.DataArray]:
    """Call the functions among the channels, each with the scan on Dask."""
    results = {}
    for number, channel in enumerate(channels):
        if channel.function is not None:
            with computed_here():
                results[number] = function_result(scans.scan(chunks="auto"), channel, scans.subject)
    return results
