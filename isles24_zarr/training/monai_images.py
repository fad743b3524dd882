"""Images for MONAI, read by its own LoadImaged; and back. Imported where it is used: MONAI is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.cohorts import cohort_target
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.training._monai_reader import StoreReader, stacked
from isles24_zarr.training._paths import ImagePath, paths_of
from isles24_zarr.training._volumes import array_on_scan, images_of, volume_of

# isort: split
# MONAI is there, or the import of the reader has said what to do
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, LoadImaged, MapTransform
from monai.utils import ImageMetaKey, MetaKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from isles24_zarr.training._paths import Names

IMAGE: Final = "image"
LABEL: Final = "label"
Item = dict[str, Any]


class StoreLoader(MapTransform):  # type: ignore[misc]  # MONAI is optional, mypy does not follow it
    """MONAI's LoadImaged for images and for masks, channel first; see `MonaiItems.loader`.

    One transform, and no Compose of two: that counts as random, and CacheDataset keeps nothing from there on.

    Parameters
    ----------
    images, labels
        Keys.
    storage_options, label_threshold
        As for `StoreReader`.
    dtype
        Of the tensors; None for that of the store.
    """

    def __init__(
        self,
        images: Sequence[str],
        labels: Sequence[str],
        *,
        storage_options: Mapping[str, Any],
        label_threshold: float | None,
        dtype: Any,
    ) -> None:
        super().__init__([*images, *labels])
        self._loaders = [
            LoadImaged(
                keys,
                reader=StoreReader(storage_options=storage_options, label_threshold=label_threshold, labels=masks),
                dtype=dtype,
                ensure_channel_first=True,
                # as a Path, a URL loses a slash
                expanduser=False,
            )
            for keys, masks in ((images, False), (labels, True))
            if keys
        ]

    def __call__(self, data: Mapping[str, Any]) -> Item:
        """Read the images of an item."""
        loaded = dict(data)
        for load in self._loaders:
            loaded = load(loaded)
        return loaded


class MonaiItems(Sequence[Item]):
    """Items for MONAI's datasets; see `monai_items`.

    Parameters
    ----------
    paths
        Of the images of each subject by key: one path, or several that become channels.
    skipped
        Subjects that were left out, and why.
    label_keys
        Keys of masks.
    storage_options, label_threshold
        As for `StoreReader`.
    """

    def __init__(
        self,
        paths: Mapping[str, Mapping[str, str | list[str]]],
        *,
        skipped: Mapping[str, str],
        label_keys: Sequence[str],
        storage_options: Mapping[str, Any],
        label_threshold: float | None,
    ) -> None:
        self._items = [{**keys, "subject": subject} for subject, keys in paths.items()]
        self.skipped = dict(skipped)
        self._labels = tuple(label_keys)
        self._images = tuple(key for key in self._items[0] if key not in {*label_keys, "subject"})
        self._options, self._threshold = dict(storage_options), label_threshold

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return (dict(item) for item in self._items)

    def __getitem__(self, index: Any) -> Any:
        """Return an item, or of a slice a list of items."""
        found = self._items[index]
        return [dict(item) for item in found] if isinstance(index, slice) else dict(found)

    def loader(self, *, dtype: Any = np.float32) -> StoreLoader:
        """Return the transform to begin with: MONAI's LoadImaged for these items, channel first.

        Parameters
        ----------
        dtype
            Of the tensors; None for that of the store.
        """
        return StoreLoader(
            self._images,
            self._labels,
            storage_options=self._options,
            label_threshold=self._threshold,
            dtype=dtype,
        )


def monai_items(
    cohort: xr.DataTree,
    images: Names | Mapping[str, Names],
    label: Names | Mapping[str, Names] | None = "lesion_mask",
    *,
    label_threshold: float | None = None,
    missing: str = "error",
    space: str = "ncct",
) -> MonaiItems:
    """Return one item a subject for MONAI's datasets: dicts of paths, which `MonaiItems.loader` or LoadImaged read.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    images
        Names of images, ``"ncct"``, ``"ctp[12]"`` for a frame, ``"pipeline/tmax"`` for a result. Several become
        channels of the key ``"image"``, as all frames of ``"ctp"`` do; a mapping gives images keys of their own.
    label
        The same for masks, whose key is ``"label"``; None for inference.
    label_threshold
        From which fraction on voxels of a soft mask belong to it; None for 0.5, with a `SoftMaskWarning`.
    missing
        ``"skip"``: subjects that lack an image are left out and listed in ``skipped``.
    space
        The grid.

    Returns
    -------
    MonaiItems
        A sequence of dicts: paths by key, and ``"subject"``. Nothing is read.

    Raises
    ------
    UnknownNameError
        There is no such image, or it is missing of a subject.
    """
    by_key = _by_key(images, IMAGE)
    labels = {} if label is None else _by_key(label, LABEL)
    twice = by_key.keys() & labels.keys() | {"subject"} & (by_key.keys() | labels.keys())
    if twice or not by_key:
        raise UnknownNameError("images", f"has the key {min(twice)!r} twice" if twice else "has no image")
    asked = by_key | labels
    found, skipped = paths_of(cohort, asked, space=space, missing=missing)
    paths = {
        subject: {
            key: str(several[0]) if isinstance(asked[key], str) else [str(path) for path in several]
            for key, several in keys.items()
        }
        for subject, keys in found.items()
    }
    options = cohort_target(cohort).storage_options
    return MonaiItems(
        paths, skipped=skipped, label_keys=list(labels), storage_options=options, label_threshold=label_threshold
    )


def _by_key(names: Names | Mapping[str, Names], key: str) -> dict[str, Names]:
    return dict(names) if isinstance(names, Mapping) else {key: names}


def monai_dataset(
    cohort: xr.DataTree,
    images: Names | Mapping[str, Names],
    label: Names | Mapping[str, Names] | None = "lesion_mask",
    *,
    transform: Callable[[Item], Any] | None = None,
    **options: Any,
) -> Dataset:
    """Return a MONAI Dataset whose items are tensors with their affines.

    Parameters
    ----------
    cohort, images, label
        As for `monai_items`.
    transform
        Called with each item.
    **options
        As for `monai_items`.

    Returns
    -------
    monai.data.Dataset
        Each item is a dict: by key a MetaTensor, float32 (channel, x, y, z), x to the Right, y Anterior, z Superior,
        whose affine maps indices to RAS mm; and ``"subject"``. Its ``data`` are `MonaiItems`, for other datasets of
        MONAI.

    Raises
    ------
    UnknownNameError
        As of `monai_items`.
    """
    items = monai_items(cohort, images, label, **options)
    return Dataset(items, Compose([items.loader(), *([transform] if transform else [])]))


def to_monai(scan: xr.Dataset, images: Names, *, label_threshold: float | None = None) -> MetaTensor:
    """Return images of a scan, or of a part of it, as a tensor with its affine.

    Parameters
    ----------
    scan
        With the coordinates x, y and z of a store.
    images
        Names, which become channels; all frames of a series do.
    label_threshold
        Of soft masks.

    Returns
    -------
    monai.data.MetaTensor
        Float32 (channel, x, y, z), as MONAI's LoadImage gives it for such images, channel first.

    Raises
    ------
    UnknownNameError
        There is no such image.
    MaskError, StoreDamageError
        A mask has values that are no labels, or voxels cannot be read.
    """
    names = [images] if isinstance(images, str) else images
    if not names:
        raise UnknownNameError("images", "has no image")
    found = list(images_of(scan, dict(zip(names, names, strict=True))).values())
    volumes = [volume_of(image, threshold=label_threshold) for image in found]
    _, meta = stacked(volumes)
    meta[MetaKeys.ORIGINAL_CHANNEL_DIM.value] = 0
    meta[ImageMetaKey.FILENAME_OR_OBJ] = found[0].encoding.get("source", found[0].name)
    voxels = np.concatenate([volume.channels for volume in volumes])
    tensor: MetaTensor = MetaTensor.ensure_torch_and_prune_meta(np.ascontiguousarray(voxels, np.float32), meta)
    return tensor


def from_monai(image: MetaTensor, scan: xr.Dataset | xr.DataArray, name: str = "prediction") -> xr.DataArray:
    """Return a tensor of MONAI as an image on the grid of a scan. Axes are flipped and swapped, nothing is resampled.

    Parameters
    ----------
    image
        With its affine, (x, y, z), or with channels first: one, or as many as the scan has frames.
    scan
        That it belongs to.
    name
        Of the image.

    Returns
    -------
    xarray.DataArray
        (z, y, x) or (time, z, y, x) with the coordinates of the scan: what ``scan.isles.save`` takes.

    Raises
    ------
    OtherGridError
        By its affine and shape it is not on the grid, or it has lost its affine.
    UnknownNameError
        It has several channels.
    """
    if not isinstance(image, MetaTensor):
        raise UnknownNameError(name, f"is a {type(image).__name__}, which has no affine; give a MetaTensor of MONAI")
    return array_on_scan(image.as_tensor(), image.affine.cpu().numpy(), scan, name)


def saved_name(meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:  # noqa: ARG001 - as MONAI calls it
    """Name files of SaveImage after the subject: its ``output_name_formatter``.

    Parameters
    ----------
    meta
        Of a tensor that `StoreReader` read, or that was predicted of one.
    saver
        The transform that saves.

    Returns
    -------
    dict
        For MONAI's FolderLayout. With ``output_postfix="desc-lesion_mask"`` and ``separate_folder=False``, a file is
        ``sub-stroke0001_space-ncct_desc-lesion_mask.nii.gz``, which `isles24_zarr.add` takes.

    Raises
    ------
    UnknownNameError
        The tensor was not read of a store.
    """
    path = ImagePath.of(str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")))
    return {"subject": f"{path.subject}_space-{path.space}", "idx": meta.get(ImageMetaKey.PATCH_INDEX)}
