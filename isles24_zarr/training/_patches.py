"""Patches of aligned images for training: where they lie, and what they hold. Plain NumPy, deterministic.

A sample is decided by (seed, epoch, index) alone, so that it does not matter which process draws it. Where the label
is, is kept as a count for each stored chunk, which takes a few kB a subject: a voxel of the label is drawn by its
number, which tells the chunk, and that chunk is read. So every voxel of the label is as likely as any other, without a
list of them in memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.analysis import LabelRule, label_rule
from isles24_zarr.cohorts import available_images, cohort_target, subject_names
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.format import stored_layout
from isles24_zarr.geometry import scan_grid, world_from_voxel
from isles24_zarr.scans import open_scan
from isles24_zarr.store import reading
from isles24_zarr.vocabulary import IMAGES, SERIES_IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from isles24_zarr.store import StorePlace

_MISSING: Final = ("error", "skip")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchPlan:
    """Which patches are drawn; small, and the same in every process.

    Parameters
    ----------
    target
        The store.
    subjects
        Names, in the order of the samples.
    skipped
        Subjects that were left out, and why.
    images, label, space
        What a patch holds.
    shape
        Of a patch, (z, y, x).
    samples_per_subject
        Patches of each subject in an epoch.
    lesion_fraction
        Chance of a patch to lie around a voxel of the label.
    pad_value
        What images hold outside of the volume.
    label_threshold
        From which fraction on voxels of a soft mask belong to the label; None for 0.5, with a warning.
    seed
        Of everything random.
    """

    target: StorePlace
    subjects: tuple[str, ...]
    skipped: Mapping[str, str]
    images: tuple[str, ...]
    label: str
    space: str
    shape: tuple[int, int, int]
    samples_per_subject: int
    lesion_fraction: float
    pad_value: float
    label_threshold: float | None
    seed: int

    def __len__(self) -> int:
        return len(self.subjects) * self.samples_per_subject

    def opened(self, subject: str) -> xr.Dataset:
        """Open the images of a subject without Dask; nothing is read.

        Raises
        ------
        UnknownNameError
            An image is not on the grid of this space.
        """
        options = self.target.storage_options
        scan = open_scan(self.target.url, subject, self.space, chunks=None, storage_options=options)
        absent = [name for name in (*self.images, self.label) if name not in scan]
        if absent:
            raise UnknownNameError(f"{subject}, space {self.space!r}", f"has no {', '.join(absent)} on its grid")
        wanted = scan[list(dict.fromkeys((*self.images, self.label)))]
        for name, image in wanted.variables.items():
            image.encoding["source"] = f"{scan.encoding['source']}/{name}"
        return wanted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelCounts:
    """Where a label is, by numbers.

    Parameters
    ----------
    starts
        (n, 3), first voxel (z, y, x) of each stored chunk.
    chunk
        Shape of a chunk.
    totals
        (n,), voxels of the label up to and with each chunk.
    rule
        How its values become labels.
    """

    starts: NDArray[np.int64]
    chunk: tuple[int, int, int]
    totals: NDArray[np.int64]
    rule: LabelRule


def patch_plan(
    cohort: xr.DataTree,
    images: Sequence[str],
    label: str = "lesion_mask",
    *,
    patch: Sequence[int],
    samples_per_subject: int = 8,
    lesion_fraction: float = 0.5,
    pad_value: float = 0.0,
    label_threshold: float | None = None,
    missing: str = "error",
    space: str = "ncct",
    seed: int = 0,
) -> PatchPlan:
    """Check what was asked for, and who has it; see `training.torch_patches.torch_dataset` for the parameters.

    Raises
    ------
    UnknownNameError
        An image does not exist, is a series, or is missing of a subject; or a number makes no sense.
    """
    names = (images,) if isinstance(images, str) else tuple(images)
    for name in (*names, label):
        if name not in IMAGES:
            raise UnknownNameError(repr(name), f"is no image, there are {', '.join(IMAGES)}")
        if name in SERIES_IMAGES:
            raise UnknownNameError(repr(name), "is a series over time, patches are of volumes")
    shape = tuple(int(size) for size in patch)
    sound = {
        "images": bool(names),
        "patch": len(shape) == 3 and min(shape) > 0,
        "samples_per_subject": samples_per_subject > 0,
        "lesion_fraction": 0 <= lesion_fraction <= 1,
        "missing": missing in _MISSING,
        "label_threshold": label_threshold is None or 0 < label_threshold <= 1,
        "seed": seed >= 0,
    }
    wrong = [name for name, good in sound.items() if not good]
    if wrong:
        raise UnknownNameError(", ".join(wrong), "patch is (z, y, x), missing 'error' or 'skip'; give possible values")
    available = available_images(cohort)
    skipped = {}
    for subject in subject_names(cohort):
        absent = [name for name in dict.fromkeys((*names, label)) if not available.loc[subject, name]]
        if absent:
            skipped[subject] = f"has no {', '.join(absent)}"
    if skipped and missing == "error":
        first = next(iter(skipped))
        more = f", as {len(skipped) - 1} more lack an image" if len(skipped) > 1 else ""
        raise UnknownNameError(first, f"{skipped[first]}{more}; give missing='skip' to leave out who has not all")
    subjects = tuple(name for name in subject_names(cohort) if name not in skipped)
    if not subjects:
        raise UnknownNameError("the cohort", "has no subject with all of these images")
    return PatchPlan(
        target=cohort_target(cohort),
        subjects=subjects,
        skipped=skipped,
        images=names,
        label=label,
        space=space,
        shape=(shape[0], shape[1], shape[2]),
        samples_per_subject=samples_per_subject,
        lesion_fraction=lesion_fraction,
        pad_value=pad_value,
        label_threshold=label_threshold,
        seed=seed,
    )


def label_counts(label: xr.DataArray, threshold: float | None = None) -> LabelCounts:
    """Count the voxels of a mask that are inside of it, by chunks.

    Parameters
    ----------
    label
        (z, y, x), as from `PatchPlan.opened`.
    threshold
        Of a soft mask.

    Raises
    ------
    MaskError
        Its values are neither labels nor fractions between 0 and 1.
    """
    rule, layout = label_rule(label, threshold), stored_layout(label.variable)
    z, y, x = layout[0] if layout else label.shape
    starts = np.array(list(_starts(label.shape, (z, y, x))), dtype=np.int64)
    # slab by slab: a read costs more than a chunk does
    counts = []
    for first in range(0, label.shape[0], z):
        inside = rule.inside(_block(label, (first, 0, 0), (z, *label.shape[1:]))).sum(axis=0, dtype=np.int64)
        of_rows = np.add.reduceat(inside, np.arange(0, label.shape[1], y), axis=0)
        counts.append(np.add.reduceat(of_rows, np.arange(0, label.shape[2], x), axis=1).ravel())
    totals = np.cumsum(np.concatenate(counts))
    return LabelCounts(starts=starts, chunk=(z, y, x), totals=totals, rule=rule)


def _starts(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(0, count, size) for count, size in zip(shape, chunk, strict=True)))


def _block(image: xr.DataArray, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    region = {
        name: slice(first, first + count) for name, first, count in zip(("z", "y", "x"), start, size, strict=True)
    }
    with reading(image.encoding.get("source", str(image.name))):
        return np.asarray(image.isel(region).values)


def patch_origin(plan: PatchPlan, label: xr.DataArray, counts: LabelCounts, *, epoch: int, index: int) -> list[int]:
    """Decide where a patch lies.

    Parameters
    ----------
    plan
        What is drawn.
    label, counts
        Of the subject.
    epoch, index
        Which sample.

    Returns
    -------
    list
        First voxel (z, y, x). The patch lies in the volume; along an axis on which the volume is smaller, the volume
        lies in the middle of the patch, and the origin is negative.
    """
    rng = np.random.default_rng([plan.seed, epoch, index])
    around_label = rng.random() < plan.lesion_fraction
    anywhere, total = rng.random(3), int(counts.totals[-1])
    room = [count - size for count, size in zip(label.shape, plan.shape, strict=True)]
    if around_label and total:
        centre = _labelled_voxel(label, counts, int(rng.integers(total)))
        first = [int(at) - size // 2 for at, size in zip(centre, plan.shape, strict=True)]
    else:
        first = [int(share * (free + 1)) for share, free in zip(anywhere, room, strict=True)]
    return [min(max(start, 0), free) if free >= 0 else -(-free // 2) for start, free in zip(first, room, strict=True)]


def _labelled_voxel(label: xr.DataArray, counts: LabelCounts, number: int) -> NDArray[np.int64]:
    chunk = int(np.searchsorted(counts.totals, number, side="right"))
    before = int(counts.totals[chunk - 1]) if chunk else 0
    start = counts.starts[chunk]
    inside = counts.rule.inside(_block(label, start, counts.chunk))
    return np.asarray(start + np.argwhere(inside)[number - before])


def fill_patch(patch: NDArray[Any], image: xr.DataArray, origin: Sequence[int], rule: LabelRule | None = None) -> None:
    """Read a patch of an image into an array.

    Parameters
    ----------
    patch
        (z, y, x); whole numbers take no fractions. Where it lies outside of the image, it stays as it is.
    image
        (z, y, x).
    origin
        First voxel (z, y, x) of the patch; negative ones lie outside.
    rule
        By which the values of a mask become labels.
    """
    inside = [
        (max(start, 0), min(start + size, count))
        for start, size, count in zip(origin, patch.shape, image.shape, strict=True)
    ]
    place = tuple(slice(first - start, last - start) for (first, last), start in zip(inside, origin, strict=True))
    values = _block(image, [first for first, _ in inside], [last - first for first, last in inside])
    np.copyto(patch[place], rule.labels(values) if rule else values, casting="same_kind")


def patch_affine(scan: xr.Dataset, origin: Sequence[int]) -> NDArray[np.float64]:
    """Return 4 x 4, indices (x, y, z) of a patch to RAS mm."""
    affine = scan_grid(scan).affine.copy()
    affine[:3, 3] = world_from_voxel(affine, list(reversed(origin)))
    return affine
