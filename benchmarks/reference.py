"""The reference subject: its files, where a region of the patient lies in them, and what must be found there.

A region is given in canonical axes, (time,) z, y, x with x to the patient's Right, y Anterior, z Superior; nibabel
says which voxels of a file these are. Nothing of the package is used here.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Order = Literal["file", "reversed", "canonical"]
"""Axes of a reader: those of the file, x first; the same, x last; or (time,) z, y, x in canonical orientation."""

CTP: Final = "ctp"
PATCH_IMAGES: Final = ("cta", "tmax", "mtt", "cbf", "cbv")
IMAGES: Final = (CTP, *PATCH_IMAGES)


class WrongVoxelsError(Exception):
    """A reader did not return what nibabel does."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A box of voxels, the same of several images that share a grid.

    Parameters
    ----------
    images
        Names.
    zyx
        Slices of the canonical axes.
    time
        Frames; ``None`` of images without a time axis.
    """

    images: tuple[str, ...]
    zyx: tuple[slice, slice, slice]
    time: slice | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A subject of a release and its store.

    Parameters
    ----------
    release, store
        Folders.
    subject
        Name of the subject.
    """

    release: Path
    store: Path
    subject: str

    @functools.cached_property
    def files(self) -> dict[str, Path]:
        """The .nii.gz files of the images that are read, all on the grid of the NCCT."""
        return {image: next(self.release.rglob(f"{self.subject}_*_space-ncct_{image}.nii.gz")) for image in IMAGES}

    @functools.cached_property
    def orientations(self) -> dict[str, NDArray[Any]]:
        """As nibabel gives them: for each axis of the file its canonical axis (0 for x) and whether it runs with it."""
        return {image: io_orientation(_image(file).affine) for image, file in self.files.items()}

    def shape(self, image: str) -> tuple[int, ...]:
        """Return the shape of an image in canonical axes, (time,) z, y, x."""
        shape = _image(self.files[image]).shape
        axes = self.orientations[image][:, 0].astype(int).tolist()
        volume = [shape[axes.index(axis)] for axis in (2, 1, 0)]
        return (*shape[3:], *volume)

    def array_path(self, image: str) -> Path:
        """Return where the array of an image is in our store."""
        return self.store / self.subject / "space-ncct" / image

    def index(self, image: str, region: Region, order: Order) -> tuple[slice, ...]:
        """Return the slices of an image in the axes of a reader."""
        time = () if region.time is None else (region.time,)
        if order == "canonical":
            return (*time, *region.zyx)
        shape = self.shape(image)[-3:]
        found = []
        for axis, sign in self.orientations[image].astype(int).tolist():
            cut, count = region.zyx[2 - axis], shape[2 - axis]
            found.append(cut if sign > 0 else slice(count - cut.stop, count - cut.start))
        in_file = (*found, *time)
        return in_file if order == "file" else in_file[::-1]

    def canonical(self, image: str, cuts: Sequence[slice]) -> tuple[slice, ...]:
        """Return the canonical slices (z, y, x) of what lies at slices of the axes of a file."""
        counts = _image(self.files[image]).shape
        found = {}
        for (axis, sign), cut, count in zip(self.orientations[image].astype(int).tolist(), cuts, counts, strict=True):
            found[axis] = cut if sign > 0 else slice(count - cut.stop, count - cut.start)
        return found[2], found[1], found[0]

    def check(self, reader: str, image: str, region: Region, order: Order, voxels: NDArray[Any]) -> None:
        """Make sure that a reader returned the right voxels, of whatever type.

        Raises
        ------
        WrongVoxelsError
            It did not.
        """
        wanted = _voxels(self.files[image])[self.index(image, region, "file")]
        if order == "canonical":
            wanted = apply_orientation(wanted, self.orientations[image])
        if order != "file":
            wanted = wanted.T
        if voxels.shape != wanted.shape or not np.array_equal(voxels, wanted):
            raise WrongVoxelsError(f"{reader} returned other voxels of {image} than nibabel, at {region}")


def _image(file: Path) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(file)


@functools.cache
def _voxels(file: Path) -> NDArray[Any]:
    proxy: Any = _image(file).dataobj
    voxels: NDArray[Any] = proxy.get_unscaled()
    return voxels


def forget_voxels() -> None:
    """Free the memory that checking took."""
    _voxels.cache_clear()
