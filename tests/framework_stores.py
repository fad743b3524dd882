"""A release whose files have their axes in every order, for what reads images by another way than theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

import isles24_zarr
from tests.nifti_files import OBLIQUE, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distributed import Client

S, UNKNOWN = "sub-stroke0001", "sub-stroke0002"
FILES = {
    "ncct": "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    "ctp": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_ctp.nii.gz",
    "tmax": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_tmax.nii.gz",
    "cow_mask": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_cow-msk.nii.gz",
    "lesion_mask": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
}
SHAPE = (20, 16, 11)
CODES = {"ncct": "LAS", "ctp": "RPI", "tmax": "SLP", "cow_mask": "PIR", "lesion_mask": "IAL"}
"""Where the axes of each file point; all are of one tilted grid."""


def oriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """An image with its axes pointing elsewhere, by nibabel."""
    ornt = nib.orientations
    now, then = ornt.io_orientation(image.affine), ornt.axcodes2ornt(codes)
    found: nib.Nifti1Image = image.as_reoriented(ornt.ornt_transform(now, then))
    return found


def voxels_of(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(len(name))
    if name == "ctp":
        return rng.integers(-100, 300, (*shape, 5), dtype=np.int16)
    if name == "ncct":
        return rng.integers(-1000, 1000, shape, dtype=np.int16)
    if name == "tmax":
        return rng.normal(6, 3, shape).astype(np.float32)
    marked = np.zeros(shape, np.uint16)
    if name == "lesion_mask":
        marked[5:12, 4:9, 3:8] = 65535  # scaled by 1/65535, as the release has them
    else:
        marked[3:15, 3:12, 2:9] = rng.integers(0, 4, (12, 9, 7))
    return marked


def awkward_release(folder: Path, names: Iterable[str] = FILES) -> Path:
    """Two subjects: files with axes in every order; files that do not say where their axes point."""
    for name in names:
        image = oriented(nib.Nifti1Image(voxels_of(name, SHAPE), OBLIQUE), CODES[name])
        scaling = {"scl_slope": 1 / 65535} if name == "lesion_mask" else {}
        write(folder / FILES[name].format(S), np.asarray(image.dataobj), image.affine, **scaling)
        other = folder / FILES[name].format(UNKNOWN)
        zooms = {"pixdim": [1, 0.5, 0.75, 2, 1, 1, 1, 1]}
        write(other, voxels_of(name, SHAPE), np.diag([0.5, 0.75, 2, 1]), codes=(0, 0), **scaling, **zooms)
    return folder


def converted(release: Path, store: Path, client: Client) -> Path:
    isles24_zarr.convert(release, store, client=client, progress=False)
    return store


def with_mask(release: Path, folder: Path, value: Any, *, of: str = S) -> Path:
    """A release of a NCCT and a lesion mask that stores a value of some type where there is lesion."""
    shutil.copytree(release / "raw_data" / of, folder / "raw_data" / of)
    image: Any = nib.load(release / FILES["lesion_mask"].format(of))
    inside = np.asarray(image.dataobj) > 0.5
    write(folder / FILES["lesion_mask"].format(of), inside * value, image.affine)
    return folder
