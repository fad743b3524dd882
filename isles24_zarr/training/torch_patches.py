"""Patches as a PyTorch Dataset. Imported where it is used: PyTorch is."""

from __future__ import annotations

import collections
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.errors import MissingExtraError
from isles24_zarr.training import _patches as patches

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as error:
    advice = "needs PyTorch, install it by: pip install 'isles24-zarr[torch]'"
    raise MissingExtraError("training", advice) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr

    from isles24_zarr.training._patches import LabelCounts, PatchPlan

_OPEN_SCANS: Final = 32
"""How many subjects a process keeps open: headers of a few hundred kB each."""

Sample = dict[str, Any]


class PatchDataset(Dataset):  # type: ignore[misc]  # PyTorch is optional, mypy does not follow it
    """A map-style Dataset of patches; see `torch_dataset`.

    Parameters
    ----------
    plan
        Which patches.
    transform
        Called with each sample; what it returns is given.
    """

    def __init__(self, plan: PatchPlan, transform: Callable[[Sample], Any] | None = None) -> None:
        self.plan = plan
        self.transform = transform
        # in shared memory: worker processes that stay from epoch to epoch see it change
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._scans: collections.OrderedDict[str, xr.Dataset] = collections.OrderedDict()
        self._counts: dict[str, LabelCounts] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_scans", "_counts", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def skipped(self) -> Mapping[str, str]:
        """Subjects that were left out, and why."""
        return self.plan.skipped

    @property
    def epoch(self) -> int:
        """Of which the samples are."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Draw other patches from now on, in running worker processes too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Any:
        """Read a sample."""
        place = range(len(self))[index]
        subject = self.plan.subjects[place // self.plan.samples_per_subject]
        scan = self._scan(subject)
        label = scan[self.plan.label]
        origin = patches.patch_origin(self.plan, label, self._counts[subject], epoch=self.epoch, index=place)
        image = np.full((len(self.plan.images), *self.plan.shape), self.plan.pad_value, np.float32)
        for channel, name in zip(image, self.plan.images, strict=True):
            patches.fill_patch(channel, scan[name], origin)
        # with an axis of channels, as the image has it: transforms flip and rotate both along the same axes
        marked = np.zeros((1, *self.plan.shape), np.int64)
        patches.fill_patch(marked[0], label, origin, self._counts[subject].rule)
        sample = {
            "image": torch.from_numpy(image),
            "label": torch.from_numpy(marked),
            "subject": subject,
            "origin": torch.tensor(origin, dtype=torch.int64),
            "affine": torch.from_numpy(patches.patch_affine(scan, origin)),
        }
        return self.transform(sample) if self.transform else sample

    def _scan(self, subject: str) -> xr.Dataset:
        if os.getpid() != self._process:
            self._forget()  # a forked process cannot use what its parent has opened
        if subject not in self._scans:
            self._scans[subject] = self.plan.opened(subject)
            if len(self._scans) > _OPEN_SCANS:
                self._scans.popitem(last=False)
        self._scans.move_to_end(subject)
        if subject not in self._counts:
            label = self._scans[subject][self.plan.label]
            self._counts[subject] = patches.label_counts(label, self.plan.label_threshold)
        return self._scans[subject]


def torch_dataset(
    cohort: xr.DataTree,
    images: Sequence[str],
    label: str = "lesion_mask",
    *,
    patch: Sequence[int],
    transform: Callable[[Sample], Any] | None = None,
    **options: Any,
) -> PatchDataset:
    """Return patches of aligned images of a cohort as a map-style PyTorch Dataset.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    images
        Names of volumes, which become the channels; all on one grid.
    label
        Name of the mask. Any label but 0 counts as lesion where patches are drawn.
    patch
        Shape of a patch, (z, y, x) voxels. Spacings differ between subjects: nothing is resampled.
    transform
        Called with each sample, in the worker process; must be picklable.
    **options
        ``samples_per_subject`` (8): patches of each subject in an epoch, which has this many times the subjects.
        ``lesion_fraction`` (0.5): chance of a patch to lie around a voxel of the label, each as likely as any other, as
        far as the border lets it be in the middle; the others lie anywhere in the volume, and so do those of a subject
        without a lesion. ``pad_value`` (0): what images hold outside of a volume that is smaller than the patch, in
        the middle of which it then lies; the label is 0 there. ``label_threshold`` (None): from which fraction on
        voxels of a soft mask belong to it; without one it is 0.5, with a `SoftMaskWarning`. ``missing`` ("error"): with
        "skip", subjects that lack an image are left out and listed in ``skipped``. ``space`` ("ncct"). ``seed`` (0).

    Returns
    -------
    PatchDataset
        Each sample is a dict: ``image``, float32 (image, z, y, x) in physical units, x to the Right, y Anterior, z
        Superior, non-finite voxels as they are; ``label``, int64 (1, z, y, x), labels; ``subject``; ``origin``, int64
        (z, y, x), the first voxel; ``affine``, float64 4 x 4, indices (x, y, z) of the patch to RAS mm.
        `PatchDataset.set_epoch` draws others; a sample depends on seed, epoch and index alone.

    Raises
    ------
    UnknownNameError
        An image does not exist, is a series, or is missing of a subject.
    MissingExtraError
        PyTorch is not installed.
    MaskError
        When a sample is read: its mask holds neither labels nor fractions between 0 and 1.

    Notes
    -----
    Patches read the chunks that they touch. The label of a subject is read once in each process, slab by slab; what is
    kept of it is a count for each chunk. What goes to worker processes are names and places. Give the DataLoader
    ``multiprocessing_context="forkserver"``: processes that are forked from one that has read voxels lack the threads
    of the reader, and read many times more slowly, with a warning.
    """
    plan = patches.patch_plan(cohort, images, label, patch=patch, **options)
    return PatchDataset(plan, transform)
