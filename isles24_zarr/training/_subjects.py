"""The subjects of a plan, opened in one process: what is read of them, and what is kept.

What is opened is closed again after a while; what was found out by reading, or by calling a function, is kept: rules of
masks, counts, where a brain is, lazy results.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from isles24_zarr.analysis import CoarseBrain, LabelRule, coarse_brain, label_rule
from isles24_zarr.errors import GeometryError, MaskError, PerfusionError
from isles24_zarr.geometry import scan_grid
from isles24_zarr.training._patches import Drawn, MaskCounts, drawn_origin, fill_patch, mask_counts, tile_origin
from isles24_zarr.training._plan import BRAIN
from isles24_zarr.training._regions import Brain, Mask, Scans, Volume, computed_here, function_results
from isles24_zarr.training._resampling import PatchGrid
from isles24_zarr.training.channels import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from isles24_zarr.training._plan import PatchPlan

_OPEN_SUBJECTS: Final = 32
"""How many a process keeps open: headers of a few hundred kB each."""

_READS_AT_ONCE: Final = 16
"""From a store behind a URL, where each waits for its answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """What is kept of a subject.

    Parameters
    ----------
    results
        What functions of its scan returned, lazy, by the number of the channel.
    rules
        Of its labels.
    label_counts
        Of the label around which patches are drawn; None where none are.
    brain
        Where it is, if patches are drawn in it.
    within_rule, within_counts
        Of the mask in which patches are drawn.
    """

    results: Mapping[int, xr.DataArray]
    rules: tuple[LabelRule, ...] = ()
    label_counts: MaskCounts | None = None
    brain: CoarseBrain | None = None
    within_rule: LabelRule | None = None
    within_counts: MaskCounts | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A subject, open.

    Parameters
    ----------
    plan
        What is read of it.
    grid
        That its patches are on.
    images, labels
        In the order of the channels of the plan.
    around, within
        Masks to draw patches by.
    tiles
        Where patches form a grid, how many there are along (z, y, x).
    """

    plan: PatchPlan
    grid: PatchGrid
    images: tuple[Volume, ...]
    labels: tuple[Mask, ...]
    around: Drawn = None
    within: Drawn = None
    tiles: tuple[int, ...] | None = None

    def origin(self, *, epoch: int, index: int, number: int) -> list[int]:
        """Return the first voxel (z, y, x) of a sample, by its number among all and among those of this subject."""
        options = self.plan.options
        if self.tiles is not None:
            return tile_origin(options, self.grid, self.tiles, number)
        if options.patch is None:
            return [0, 0, 0]
        return drawn_origin(options, self.grid, label=self.around, within=self.within, epoch=epoch, index=index)

    def patch(
        self, origin: Sequence[int], threads: ThreadPoolExecutor | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Read images (channel, z, y, x) and labels (label, z, y, x).

        Parameters
        ----------
        origin
            First voxel (z, y, x).
        threads
            By which volumes are read at the same time; None for one after the other.
        """
        shape = self.plan.options.patch or self.grid.shape
        image = np.full((len(self.images), *shape), self.plan.options.pad_value, np.float32)
        label = np.zeros((len(self.labels), *shape), np.int64)
        fill = functools.partial(fill_patch, shape=self.grid.shape, origin=origin)
        jobs = [
            functools.partial(fill, part, region=functools.partial(self._image, volume, channel))
            for part, volume, channel in zip(image, self.images, self.plan.channels, strict=True)
        ] + [
            functools.partial(fill, part, region=functools.partial(self.grid.sampled, mask.labels, linear=False))
            for part, mask in zip(label, self.labels, strict=True)
        ]
        for _ in (threads.map if threads else map)(lambda job: job(), jobs):
            pass
        return image, label

    def _image(
        self, volume: Volume, channel: Channel, start: Sequence[int], size: Sequence[int]
    ) -> NDArray[np.float32]:
        return channel.scaled(self.grid.sampled(volume.block, start, size, linear=True))


class Subjects:
    """The subjects of a plan, by their names, as this process has opened them.

    Parameters
    ----------
    plan
        What is read of them.
    """

    def __init__(self, plan: PatchPlan) -> None:
        self._plan = plan
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: collections.OrderedDict[str, Subject] = collections.OrderedDict()
        self._known: dict[str, Known] = {}
        self._threads = ThreadPoolExecutor(_READS_AT_ONCE) if "://" in self._plan.target.url else None

    @property
    def threads(self) -> ThreadPoolExecutor | None:
        """By which volumes are read at the same time, where that helps."""
        return self._threads

    def __getitem__(self, name: str) -> Subject:
        if os.getpid() != self._process:
            self._forget()  # a forked process cannot use what its parent has opened
        if name not in self._open:
            with _named(name):
                self._open[name] = self._opened(name)
            if len(self._open) > _OPEN_SUBJECTS:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    def _opened(self, name: str) -> Subject:
        plan, scans = self._plan, Scans(self._plan, name)
        mask = [plan.within] if isinstance(plan.within, Channel) else []
        wanted = [*plan.channels, *plan.labels, *mask]
        known = self._known.get(name)
        results = function_results(scans, wanted) if known is None else known.results
        volumes = scans.volumes(wanted, results)
        images, labels = volumes[: len(plan.channels)], volumes[len(plan.channels) :]
        if known is None:
            known = self._known[name] = _found(plan, scans, labels, Known(results=results))
        masks = tuple(Mask(volume=volume, rule=rule) for volume, rule in zip(labels, known.rules, strict=False))
        around = (masks[plan.around], known.label_counts) if known.label_counts else None
        within: Drawn = None
        if known.within_counts and known.brain:
            within = Brain(image=scans.brain_image(), coarse=known.brain), known.within_counts
        elif known.within_counts and known.within_rule:
            within = Mask(volume=volumes[-1], rule=known.within_rule), known.within_counts
        grid = PatchGrid.of(scan_grid(images[0].image), plan.options.spacing)
        tiles = plan.tiles[plan.subjects.index(name)] if plan.tiles else None
        return Subject(plan=plan, grid=grid, images=images, labels=masks, around=around, within=within, tiles=tiles)


@contextlib.contextmanager
def _named(subject: str) -> Iterator[None]:
    """Say whose image it is that an error of analysis is about."""
    try:
        yield
    except (GeometryError, MaskError, PerfusionError) as error:
        if error.subject.startswith(subject):
            raise
        raise type(error)(f"{subject}, {error.subject}", error.what) from error


def _found(plan: PatchPlan, scans: Scans, labels: Sequence[Volume], known: Known) -> Known:
    """Find out what is kept of a subject: masks are read once."""
    threshold, draws = plan.options.label_threshold, plan.options.draws
    with computed_here(lazy=any(volume.is_lazy for volume in labels)):
        rules = tuple(label_rule(volume.image, threshold) for volume in labels)
    known = dataclasses.replace(known, rules=rules[: len(plan.labels)])
    if draws and plan.labels and plan.options.lesion_fraction > 0:
        label = Mask(volume=labels[plan.around], rule=rules[plan.around])
        known = dataclasses.replace(known, label_counts=mask_counts(label))
    if draws and plan.within == BRAIN:
        image = scans.brain_image()
        with computed_here(lazy=image.is_lazy):
            brain = coarse_brain(image.image)
        counts = mask_counts(Brain(image=image, coarse=brain))
        known = dataclasses.replace(known, brain=brain, within_counts=counts)
    elif draws and plan.within is not None:
        counts = mask_counts(Mask(volume=labels[-1], rule=rules[-1]))
        known = dataclasses.replace(known, within_rule=rules[-1], within_counts=counts)
    return known
