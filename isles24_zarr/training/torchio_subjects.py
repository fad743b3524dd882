"""Scans as subjects of TorchIO, which read images when they are asked for; and back. Imported where it is used."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.cohorts import cohort_target
from isles24_zarr.errors import MissingExtraError, UnknownNameError
from isles24_zarr.geometry import scan_grid
from isles24_zarr.training._paths import ImagePath, paths_of
from isles24_zarr.training._volumes import array_on_scan, images_of, ras_affine, volume_of

try:
    import torchio
except ImportError as error:
    advice = "needs TorchIO, install it by: pip install 'isles24-zarr[torchio]'"
    raise MissingExtraError("training", advice) from error

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

_AXES: Final = ("x", "y", "z")

Images = str | Sequence[str] | Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSource:
    """What an image of TorchIO is read from: its ``reader``. Of an image in a store it is small in every process.

    Parameters
    ----------
    image
        A path within a store, or an image of a scan.
    labels
        Whether it must be a mask.
    storage_options
        For a store behind a URL.
    label_threshold
        From which fraction on voxels of a soft mask belong to it; None for 0.5, with a `SoftMaskWarning`.
    region
        First voxel and the one after the last along x, y and z of the part that is read; None for all.
    """

    image: ImagePath | xr.DataArray
    labels: bool
    storage_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    label_threshold: float | None = None
    region: tuple[tuple[int, int], ...] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageSource:
        return self

    def __call__(self, path: Any = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Read it.

        Parameters
        ----------
        path
            As TorchIO has it; what is read is known without.

        Returns
        -------
        tuple
            Voxels (channel, x, y, z), and the affine, indices (i, j, k) to RAS mm.
        """
        del path
        volume = volume_of(self.opened(), threshold=self.label_threshold, labels=self.labels)
        return volume.channels, volume.affine

    def opened(self) -> xr.DataArray:
        """Return the image, or the part of it; no voxel is read."""
        image = self.image.opened(self.storage_options) if isinstance(self.image, ImagePath) else self.image
        if self.region is None:
            return image
        part = image.isel({axis: slice(*ends) for axis, ends in zip(_AXES, self.region, strict=True)})
        part.encoding = image.encoding
        return part


class _LazyImage:
    """Of an image of TorchIO: tells shape and affine, and takes slices, without reading a voxel."""

    reader: Any
    _loaded: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        self._geometry: tuple[ImageSource, tuple[int, ...], NDArray[np.float64]] | None = None
        # what is behind a URL is no file, and TorchIO asks again for each copy
        super().__init__(*args, **{"verify_path": False, **options})

    @property
    def _is_unread(self) -> bool:
        return not self._loaded and isinstance(self.reader, ImageSource)

    def _seen(self) -> tuple[ImageSource, tuple[int, ...], NDArray[np.float64]]:
        if self._geometry is None or self._geometry[0] is not self.reader:
            image = self.reader.opened()
            grid = scan_grid(image)
            self._geometry = self.reader, (image.sizes.get("time", 1), *grid.shape), ras_affine(grid)
        return self._geometry

    @property
    def shape(self) -> Any:
        """Shape, (channel, x, y, z)."""
        return self._seen()[1] if self._is_unread else super().shape  # type: ignore[misc]

    @property
    def affine(self) -> Any:
        """4 x 4, indices (i, j, k) to RAS mm."""
        return self._seen()[2].copy() if self._is_unread else super().affine  # type: ignore[misc]

    @affine.setter
    def affine(self, matrix: Any) -> None:
        torchio.Image.affine.fset(self, matrix)

    def __getitem__(self, item: Any) -> Any:
        """Return an item by its name; for slices along x, y and z, the part of the image, read when it is asked for."""
        if isinstance(item, str) or not self._is_unread:
            return super().__getitem__(item)  # type: ignore[misc]
        slices = item if isinstance(item, tuple) else (item,)
        slices = tuple(slice(each, each + 1 or None) if isinstance(each, int) else each for each in slices)
        if len(slices) > len(_AXES) or any(
            not isinstance(each, slice) or each.step not in (None, 1) for each in slices
        ):
            return super().__getitem__(item)  # type: ignore[misc]
        old = self.reader.region or tuple((0, count) for count in self.shape[1:])
        wanted = (*slices, *[slice(None)] * (len(_AXES) - len(slices)))
        ends = [part.indices(last - first) for part, (first, last) in zip(wanted, old, strict=True)]
        region = tuple(
            (first + start, first + max(start, stop)) for (start, stop, _), (first, _) in zip(ends, old, strict=True)
        )
        part: Any = copy.deepcopy(self)
        part.reader = dataclasses.replace(self.reader, region=region)
        return part


class StoredScalarImage(_LazyImage, torchio.ScalarImage):  # type: ignore[misc]  # TorchIO is optional
    """A ScalarImage that reads its voxels of a store when they are asked for, and of a slice those of the slice."""


class StoredLabelMap(_LazyImage, torchio.LabelMap):  # type: ignore[misc]
    """A LabelMap that does so."""


class Subjects(list[torchio.Subject]):
    """Subjects for TorchIO's SubjectsDataset.

    Parameters
    ----------
    subjects
        In order.
    skipped
        Names of those that were left out, and why.
    """

    def __init__(self, subjects: Sequence[torchio.Subject], skipped: Mapping[str, str]) -> None:
        super().__init__(subjects)
        self.skipped = dict(skipped)


def torchio_subjects(
    cohort: xr.DataTree,
    images: Images,
    label: Images | None = "lesion_mask",
    *,
    label_threshold: float | None = None,
    missing: str = "error",
    space: str = "ncct",
) -> Subjects:
    """Return the subjects of a cohort for TorchIO's SubjectsDataset. Nothing is read until it is asked for.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    images
        Names of images, ``"ncct"``, ``"ctp"`` whose frames are channels, ``"ctp[12]"`` for a frame,
        ``"pipeline/tmax"`` for a result. Each is a ScalarImage of that name; a mapping gives them other ones.
    label
        The same for masks, each a LabelMap; None for inference.
    label_threshold
        From which fraction on voxels of a soft mask belong to it; None for 0.5, with a `SoftMaskWarning`.
    missing
        ``"skip"``: subjects that lack an image are left out and listed in ``skipped``.
    space
        The grid.

    Returns
    -------
    Subjects
        A list of torchio.Subject. Tensors are (channel, x, y, z), x to the Right, y Anterior, z Superior, in the type
        of the store, the affine maps indices to RAS mm; ``subject["subject"]`` is the name.

    Raises
    ------
    UnknownNameError
        There is no such image, or it is missing of a subject.
    """
    keys, labels = _by_name(images), {} if label is None else _by_name(label)
    _check_names(keys, labels)
    found, skipped = paths_of(cohort, keys | labels, space=space, missing=missing)
    options = cohort_target(cohort).storage_options
    subjects = []
    for subject, paths in found.items():
        sources = {
            key: ImageSource(image=path, labels=key in labels, storage_options=options, label_threshold=label_threshold)
            for key, (path,) in paths.items()
        }
        subjects.append(_subject(sources, subject))
    return Subjects(subjects, skipped)


def _by_name(names: Images) -> dict[str, str]:
    if isinstance(names, Mapping):
        return dict(names)
    several = [names] if isinstance(names, str) else list(names)
    return dict(zip(several, several, strict=True))


def _check_names(images: Mapping[str, str], labels: Mapping[str, str]) -> None:
    twice = images.keys() & labels.keys() | {"subject"} & (images.keys() | labels.keys())
    if twice or not images:
        raise UnknownNameError("images", f"has the name {min(twice)!r} twice" if twice else "has no image")


def _subject(sources: Mapping[str, ImageSource], name: str) -> torchio.Subject:
    images = {
        key: (StoredLabelMap if source.labels else StoredScalarImage)(_path_of(source.image), reader=source)
        for key, source in sources.items()
    }
    return torchio.Subject({**images, "subject": name})


def _path_of(image: ImagePath | xr.DataArray) -> str:
    return str(image) if isinstance(image, ImagePath) else str(image.encoding.get("source", image.name))


def to_torchio(
    scan: xr.Dataset, images: Images, label: Images | None = None, *, label_threshold: float | None = None
) -> torchio.Subject:
    """Return images of a scan, of a part of it, or what was computed from it, as a subject of TorchIO.

    Parameters
    ----------
    scan
        With the coordinates x, y and z of a store.
    images, label, label_threshold
        As for `torchio_subjects`, by their names in the scan.

    Returns
    -------
    torchio.Subject
        Nothing is read until it is asked for.

    Raises
    ------
    UnknownNameError
        There is no such image.
    """
    keys, labels = _by_name(images), {} if label is None else _by_name(label)
    _check_names(keys, labels)
    found = images_of(scan, keys | labels)
    sources = {
        key: ImageSource(image=image, labels=key in labels, label_threshold=label_threshold)
        for key, image in found.items()
    }
    return _subject(sources, str(scan.coords["subject"].values) if "subject" in scan.coords else "scan")


def from_torchio(image: torchio.Image, scan: xr.Dataset | xr.DataArray, name: str = "prediction") -> xr.DataArray:
    """Return an image of TorchIO on the grid of a scan. Axes are flipped and swapped, nothing is resampled.

    Parameters
    ----------
    image
        With one channel, or as many as the scan has frames.
    scan
        That it belongs to.
    name
        Of the result.

    Returns
    -------
    xarray.DataArray
        (z, y, x) or (time, z, y, x) with the coordinates of the scan: what ``scan.isles.save`` takes.

    Raises
    ------
    OtherGridError
        By its affine and shape it is not on the grid.
    UnknownNameError
        It is no image of TorchIO, or has several channels.
    """
    if not isinstance(image, torchio.Image):
        raise UnknownNameError(name, f"is a {type(image).__name__}, which has no affine; give an image of TorchIO")
    return array_on_scan(image.data, image.affine, scan, name)
