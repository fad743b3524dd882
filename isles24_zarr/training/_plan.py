"""Which patches there are: of whom, of what, and how many. Small, and the same in every process."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.cohorts import cohort_target, subject_names
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.geometry import scan_grid
from isles24_zarr.scans import open_scan
from isles24_zarr.training._resampling import PatchGrid
from isles24_zarr.training.channels import Channel
from isles24_zarr.training.opening import check_missing, cohort_channels, label_channels, lacking_images, stored_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from isles24_zarr.store import StorePlace
    from isles24_zarr.training._options import PatchOptions
    from isles24_zarr.training.channels import ChannelLike

BRAIN: Final = "brain"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchPlan:
    """Which patches there are.

    Parameters
    ----------
    target
        The store.
    subjects
        Names, in the order of the samples.
    skipped
        Subjects that were left out, and why.
    channels, labels
        What a patch holds; there may be no label.
    around
        Number of the label around which patches are drawn.
    within
        What patches that are not around a label are drawn in: `BRAIN`, or a mask; None for the whole volume.
    options
        How.
    tiles
        Where patches form a grid, how many each subject has, along (z, y, x).
    """

    target: StorePlace
    subjects: tuple[str, ...]
    skipped: Mapping[str, str]
    channels: tuple[Channel, ...]
    labels: tuple[Channel, ...]
    around: int
    within: Channel | str | None
    options: PatchOptions
    tiles: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        if self.tiles is not None:
            return sum(map(math.prod, self.tiles))
        return len(self.subjects) * (self.options.samples_per_subject if self.options.draws else 1)

    def subject_of(self, index: int) -> tuple[str, int]:
        """Return whose sample has a number, and which of the subject's samples it is."""
        if self.tiles is None:
            which, number = divmod(index, self.options.samples_per_subject if self.options.draws else 1)
            return self.subjects[which], number
        for subject, counts in zip(self.subjects, self.tiles, strict=True):
            if index < math.prod(counts):
                return subject, index
            index -= math.prod(counts)
        raise IndexError(index)


def patch_plan(
    cohort: xr.DataTree,
    images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
    label: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike] | None,
    *,
    windows: Any,
    within: ChannelLike | None,
    options: PatchOptions,
) -> PatchPlan:
    """Check what was asked for, and who has it; see `training.torch_patches.torch_dataset` for the parameters.

    Raises
    ------
    UnknownNameError
        An image, result or window does not exist, or is missing of a subject.
    """
    channels = cohort_channels(cohort, images, windows)
    labels = () if label is None else label_channels(cohort, label)
    names = [each.name for each in labels]
    if options.around is not None and options.around not in names:
        raise UnknownNameError(repr(options.around), f"is no label, there are {', '.join(names) or 'none'}")
    mask: Channel | str | None = BRAIN if within == BRAIN else None
    if within is not None and mask is None:
        mask = cohort_channels(cohort, within)[0]
    needed = (*channels, *labels, *([mask] if isinstance(mask, Channel) else []))
    target = cohort_target(cohort)
    lacking = lacking_images(cohort, stored_names(needed), options.space, brain=mask == BRAIN and options.draws)
    check_missing(lacking, options.missing)
    subjects = tuple(name for name in subject_names(cohort) if name not in lacking)
    if not subjects:
        raise UnknownNameError("the cohort", "has no subject with all of these images")
    return PatchPlan(
        target=target,
        subjects=subjects,
        skipped=lacking,
        channels=channels,
        labels=labels,
        around=0 if options.around is None else names.index(options.around),
        within=mask,
        options=options,
        tiles=None if options.stride is None else tuple(_tiles(target, name, options) for name in subjects),
    )


def _tiles(target: StorePlace, subject: str, options: PatchOptions) -> tuple[int, ...]:
    """Return how many patches of a grid a subject has along (z, y, x)."""
    scan = open_scan(target.url, subject, options.space, chunks=None, storage_options=target.storage_options)
    shape = PatchGrid.of(scan_grid(scan), options.spacing).shape
    return tuple(
        max(0, -(-(count - size) // step)) + 1
        for count, size, step in zip(shape, options.patch or shape, options.stride or shape, strict=True)
    )
