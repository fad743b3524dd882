"""Patches as a PyTorch Dataset. Imported where it is used: PyTorch is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cloudpickle

from isles24_zarr.errors import MissingExtraError
from isles24_zarr.training._options import PatchOptions
from isles24_zarr.training._plan import patch_plan
from isles24_zarr.training._subjects import Subjects

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as error:
    advice = "needs PyTorch, install it by: pip install 'isles24-zarr[torch]'"
    raise MissingExtraError("training", advice) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr

    from isles24_zarr.training._plan import PatchPlan
    from isles24_zarr.training.channels import ChannelLike

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
        self._subjects = Subjects(plan)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is open in this process; functions of a notebook go along, which pickle by itself refuses."""
        return {**self.__dict__, "plan": cloudpickle.dumps(self.plan), "_subjects": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        plan = cloudpickle.loads(state["plan"])
        self.__dict__.update(state, plan=plan, _subjects=Subjects(plan))

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
        name, number = self.plan.subject_of(place)
        subject = self._subjects[name]
        origin = subject.origin(epoch=self.epoch, index=place, number=number)
        image, label = subject.patch(origin, self._subjects.threads)
        # with an axis of channels, as the image has it: transforms flip and rotate both along the same axes
        labelled = {"label": torch.from_numpy(label)} if self.plan.labels else {}
        sample = {
            "image": torch.from_numpy(image),
            **labelled,
            "subject": name,
            "origin": torch.tensor(origin, dtype=torch.int64),
            "affine": torch.from_numpy(subject.grid.affine_at(origin)),
        }
        return self.transform(sample) if self.transform else sample


def torch_dataset(
    cohort: xr.DataTree,
    images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
    label: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike] | None = "lesion_mask",
    *,
    patch: Sequence[int] | None,
    windows: str | Mapping[str, tuple[float, float] | str] | None = None,
    within: ChannelLike | None = None,
    transform: Callable[[Sample], Any] | None = None,
    **options: Any,
) -> PatchDataset:
    """Return patches of aligned images of a cohort as a map-style PyTorch Dataset.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    images
        The channels, as `training.channels_of` takes them: names of volumes, ``"ctp[12]"`` for a frame of a series,
        ``"pipeline/name"`` for a result, functions of a scan, `training.Channel`; a mapping names them. All on one
        grid.
    label
        Name of the mask, or a result or function in its place; several give as many channels, in order. Any label but
        0 counts as lesion where patches are drawn. None for images alone.
    patch
        Shape of a patch, (z, y, x) voxels. None for whole volumes, one sample a subject, each of its own shape.
    windows
        Name of one of `training.WINDOW_PRESETS`, or by channel or image (lowest, highest) or the name of a CT window.
    within
        Where patches are drawn that do not lie around a lesion: with their middle in the ``"brain"``, found by
        `perfusion.scan_brain`, or in a mask, given as a label is. By default anywhere in the volume.
    transform
        Called with each sample, in the worker process; must be picklable.
    **options
        ``stride`` (None): steps (z, y, x) between patches that cover each volume, in order, in place of patches that
        are drawn; the last along each axis ends with the volume. ``spacing`` (None): voxel size in mm, (z, y, x), that
        patches are resampled to; by default each subject keeps its own. ``samples_per_subject`` (8): patches of each
        subject in an epoch, which has this many times the subjects. ``lesion_fraction`` (0.5): chance of a patch to lie
        around a voxel of the label, each as likely as any other, as far as the border lets it be in the middle; the
        others lie anywhere, or `within`, and so do those of a subject without a lesion. ``around`` (None): name of the
        label that is meant, where there are several; the first. ``pad_value`` (0): what images, after their windows,
        hold outside of a volume that is smaller than the patch, in the middle of which it then lies; the label is 0
        there. ``label_threshold`` (None): from which fraction on voxels of a soft mask belong to it; without one it is
        0.5, with a `SoftMaskWarning`. ``missing`` ("error"): with "skip", subjects that lack an image or a result are
        left out and listed in ``skipped``. ``space`` ("ncct"). ``seed`` (0).

    Returns
    -------
    PatchDataset
        Each sample is a dict: ``image``, float32 (image, z, y, x) in physical units but for windows that map them, x to
        the Right, y Anterior, z Superior, non-finite voxels as they are; ``label``, int64 (label, z, y, x), where there
        is one; ``subject``; ``origin``, int64 (z, y, x), the first voxel, of the resampled volume if there is a
        spacing; ``affine``, float64 4 x 4, indices (x, y, z) of the patch to RAS mm.
        `PatchDataset.set_epoch` draws others; a sample depends on seed, epoch and index alone.

    Raises
    ------
    UnknownNameError
        An image, result or window does not exist, is a series, or is missing of a subject; or a number makes no sense.
    MissingExtraError
        PyTorch is not installed.
    MaskError
        When a sample is read: its mask holds neither labels nor fractions between 0 and 1.
    GeometryError
        When a sample is read: a function returns no volume on the grid of its scan, or there is no brain.

    Notes
    -----
    Patches read the chunks that they touch. The label of a subject is read once in each process, slab by slab, and so
    is the NCCT, twice, to draw within the brain; what is kept is a count for each chunk, and of the brain a mask of 2
    mm, some 100 kB. What goes to worker processes are names and places. Give the DataLoader
    ``multiprocessing_context="forkserver"``: processes that are forked from one that has read voxels lack the threads
    of the reader, and read many times more slowly, with a warning.

    A function is called once for each subject in each process, with the scan on Dask, and its lazy result is cut to
    each patch: a function of the whole volume means the same in every patch. Dask computes whole chunks, which are
    slabs of all planes; a number that takes the whole volume, such as a mean, is computed anew for each patch unless
    the function computes it: ``float(scan["ncct"].mean())``. What a function has loaded stays in memory. For costly
    functions `cohort.isles.derive` saves the result once, and ``"pipeline/name"`` reads it.

    With a spacing the axes stay what they are, voxel 0 lies where it lay, and the last one not beyond the last of the
    volume; images are interpolated linearly, labels and masks are taken from the nearest voxel, both as
    `isles.resample_like` does it, and windows come afterwards. Nothing is averaged: on a much coarser grid fine detail
    turns into noise.
    """
    chosen = PatchOptions.of(patch, **options)
    plan = patch_plan(cohort, images, label, windows=windows, within=within, options=chosen)
    return PatchDataset(plan, transform)
