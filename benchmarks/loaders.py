"""Loaders of training patches, ours and others', each as its documentation has it: five images and the mask."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final

import nibabel as nib
import numpy as np
import zarr

import isles24_zarr
from benchmarks.blosc import nnunet_compression, nnunet_partition, opened_b2nd
from benchmarks.chunked import files_below
from benchmarks.machine import missing
from benchmarks.measurement import OURS
from benchmarks.reference import PATCH_IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.reference import Order, Reference

    Origin = tuple[int, ...]
    Found = tuple[Origin, dict[str, NDArray[Any]]]
    """Where a patch begins, and its images, both in the loader's order of axes."""

LABEL: Final = "lesion_mask"
BATCH: Final = 2
_NNUNET: Final = ("nnunetv2", "batchgenerators")
_CASE: Final = "case"
_TIMEOUT_SECONDS: Final = 120
"""After which a worker process is taken for dead: forked ones may wait for threads that they lack."""


class Loader(ABC):
    """One way to load patches of the reference subject, in batches of two.

    Parameters
    ----------
    reference
        The subject.
    folder
        For whatever it needs to have on the disk.
    origins
        First voxels (z, y, x) of patches, for loaders that let them be given.
    shape
        Of a patch, (z, y, x).
    """

    name: ClassVar[str]
    how: ClassVar[str]
    order: ClassVar[Order]
    needs: ClassVar[tuple[str, ...]] = ("torch",)
    patches: ClassVar[int] = 48
    """Of an epoch: fewer where each takes a second."""

    def __init__(self, reference: Reference, folder: Path, origins: Sequence[Origin], shape: Origin) -> None:
        self.reference = reference
        self.folder = folder
        self.origins = origins
        self.shape = shape

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Write what is read; not timed."""

    @abstractmethod
    def paths(self) -> list[Path]:
        """Return all files that are read."""

    @abstractmethod
    def epochs(self, workers: int) -> Iterator[Iterator[Any]]:
        """Yield one epoch after the other, each of batches, by the same worker processes; 0 for none."""

    @abstractmethod
    def found(self, batch: Any) -> Iterator[Found]:
        """Yield the patches of a batch."""


def origins_of(reference: Reference, count: int, shape: Origin) -> list[Origin]:
    """Return where our samples lie, for others to be given the same places. Starts threads: not to be forked after."""
    dataset = _our_dataset(reference, PATCH_IMAGES[:1], count, shape)
    return [tuple(dataset[index]["origin"].tolist()) for index in range(count)]


def _our_dataset(reference: Reference, images: Sequence[str], count: int, shape: Origin) -> Any:
    cohort = isles24_zarr.open_cohort(reference.store)
    options = {"samples_per_subject": count, "lesion_fraction": 0, "label_threshold": 0.5}
    return cohort.isles.torch_dataset(images, LABEL, patch=shape, **options)


def _by_place(dataset: Any, loader: Loader, workers: int) -> Iterator[Iterator[Any]]:
    """Yield epochs of a map-style Dataset, each of places of its own."""
    from torch.utils.data import DataLoader

    places: list[int] = [0] * loader.patches
    batches = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=places,
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=_TIMEOUT_SECONDS if workers else 0,
    )
    first = 0
    while True:
        places[:] = [(first + number) % len(loader.origins) for number in range(loader.patches)]
        first += loader.patches
        yield iter(batches)


def _stacked(batch: Any) -> Iterator[Found]:
    """Yield the patches of a batch of dicts with channels and origins."""
    for origin, channels in zip(batch["origin"].tolist(), batch["image"].numpy(), strict=True):
        yield tuple(origin), dict(zip(PATCH_IMAGES, channels, strict=True))


class OurPatches(Loader):
    """`torch_dataset`."""

    name = OURS
    how = "DataLoader(cohort.isles.torch_dataset(images, patch=(96, 96, 96), lesion_fraction=0), batch_size=2)"
    order = "canonical"
    needs = ("torch", "isles24_zarr")

    def paths(self) -> list[Path]:
        return [path for name in (*PATCH_IMAGES, LABEL) for path in files_below(self.reference.array_path(name))]

    def epochs(self, workers: int) -> Iterator[Iterator[Any]]:
        dataset = _our_dataset(self.reference, PATCH_IMAGES, len(self.origins), self.shape)
        yield from _by_place(dataset, self, workers)

    def found(self, batch: Any) -> Iterator[Found]:
        yield from _stacked(batch)


class NnUNet(Loader):
    """nnU-Net's preprocessed case, float32 as its networks take it, of which each patch is a slice."""

    name = "nnU-Net's b2nd"
    how = (
        "nnUNetDatasetBlosc2(folder).load_case(case), cropped at our places, in a DataLoader"
        if not missing(_NNUNET)
        else 'blosc2.open("case.b2nd", mmap_mode="r") with one thread, as nnUNetDatasetBlosc2 does, which is not '
        "installed; cropped at our places, in a DataLoader"
    )
    order = "canonical"
    needs = ("torch", "blosc2")

    def prepare(self) -> None:
        import blosc2

        arrays: list[Any] = [
            zarr.open_array(self.reference.array_path(name), mode="r")[...] for name in (*PATCH_IMAGES, LABEL)
        ]
        case, mask = np.stack(arrays[:-1]).astype(np.float32), (arrays[-1][np.newaxis] != 0).astype(np.int8)
        (chunks, blocks), (mask_chunks, mask_blocks) = (
            nnunet_partition(each.shape, each.itemsize, self.shape) for each in (case, mask)
        )
        if not missing(_NNUNET):
            from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

            path = str(self.folder / _CASE)
            nnUNetDatasetBlosc2.save_case(case, mask, {}, path, chunks, blocks, mask_chunks, mask_blocks)
            return
        parts = (("", case, chunks, blocks), ("_seg", mask, mask_chunks, mask_blocks))
        for suffix, array, chunk, block in parts:
            how = nnunet_compression(array, chunk, block)
            path = str(self.folder / f"{_CASE}{suffix}.b2nd")
            blosc2.asarray(array, urlpath=path, chunks=chunk, blocks=block, cparams=how)

    def paths(self) -> list[Path]:
        return files_below(self.folder)

    def epochs(self, workers: int) -> Iterator[Iterator[Any]]:
        yield from _by_place(_NnUNetPatches(self.folder, self.origins, self.shape), self, workers)

    def found(self, batch: Any) -> Iterator[Found]:
        yield from _stacked(batch)


class _NnUNetPatches:
    """A map-style Dataset of patches of nnU-Net's case, which it opens for each, as `nnUNetDataLoader` does."""

    def __init__(self, folder: Path, origins: Sequence[Origin], shape: Origin) -> None:
        self.folder = folder
        self.origins = origins
        self.shape = shape
        self.cases: Any = None
        if not missing(_NNUNET):
            from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

            self.cases = nnUNetDatasetBlosc2(str(folder))

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.cases is None:
            images, mask = (opened_b2nd(self.folder / f"{_CASE}{suffix}.b2nd", 1) for suffix in ("", "_seg"))
        else:
            images, mask, *_ = self.cases.load_case(_CASE)
        origin = self.origins[index]
        box = (slice(None), *(slice(first, first + size) for first, size in zip(origin, self.shape, strict=True)))
        return {"image": images[box], "label": mask[box].astype(np.int16), "origin": np.array(origin)}


class _OfFiles(Loader):
    """What reads the .nii.gz files, at random places of its own."""

    order = "file"
    patches = 8

    def files(self) -> dict[str, Path]:
        (mask,) = self.reference.release.rglob(f"{self.reference.subject}_*_space-ncct_lesion-msk.nii.gz")
        return {name: self.reference.files[name] for name in PATCH_IMAGES} | {LABEL: mask}

    def paths(self) -> list[Path]:
        return [*self.files().values(), *files_below(self.folder)]


class MonaiDecoding(_OfFiles):
    """MONAI without a cache: files are decompressed for every other patch, as two are cut from what was loaded."""

    name = "MONAI, .nii.gz"
    how = (
        "monai.data.Dataset with LoadImaged, EnsureChannelFirstd, ConcatItemsd, RandSpatialCropSamplesd(num_samples=2)"
    )
    needs = ("torch", "monai")

    def dataset(self, items: list[dict[str, str]], transform: Any) -> Any:
        from monai.data import Dataset

        return Dataset(items, transform)

    def epochs(self, workers: int) -> Iterator[Iterator[Any]]:
        from monai import transforms
        from monai.data import DataLoader

        files = {name: str(path) for name, path in self.files().items()}
        steps = [
            transforms.LoadImaged(list(files)),
            transforms.EnsureChannelFirstd(list(files)),
            transforms.ConcatItemsd(list(PATCH_IMAGES), "image"),
            transforms.DeleteItemsd(list(PATCH_IMAGES)),
            transforms.RandSpatialCropSamplesd(("image", LABEL), self.shape[::-1], BATCH, random_size=False),
        ]
        batches = DataLoader(
            self.dataset([files], transforms.Compose(steps)),
            batch_size=1,
            sampler=[0] * (self.patches // BATCH),
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=_TIMEOUT_SECONDS if workers else 0,
        )
        while True:
            yield iter(batches)

    def affine(self) -> Any:
        """Return the 4 x 4 affine that whole images have before they are cropped."""
        image: Any = nib.load(self.reference.files[PATCH_IMAGES[0]])
        return image.affine

    def found(self, batch: Any) -> Iterator[Found]:
        whole = self.affine()
        for affine, channels in zip(batch["image"].affine.numpy(), batch["image"].numpy(), strict=True):
            origin = np.rint(np.linalg.solve(whole, affine)[:3, 3]).astype(int)
            yield tuple(origin.tolist()), dict(zip(PATCH_IMAGES, channels, strict=True))


class MonaiCached(MonaiDecoding):
    """MONAI with whole images of all subjects in memory: of the full release about 80 GB."""

    name = "MONAI CacheDataset"
    how = "the same with CacheDataset(copy_cache=False), which holds whole images of all subjects in memory"
    patches = 48

    def dataset(self, items: list[dict[str, str]], transform: Any) -> Any:
        from monai.data import CacheDataset

        return CacheDataset(items, transform, copy_cache=False, progress=False)


class MonaiPersistent(MonaiDecoding):
    """MONAI with whole images as tensors on the disk, read as a whole for every other patch."""

    name = "MONAI PersistentDataset"
    how = "the same with PersistentDataset, which keeps whole images as tensors on the disk"
    patches = 16

    def dataset(self, items: list[dict[str, str]], transform: Any) -> Any:
        from monai.data import PersistentDataset

        shutil.rmtree(self.folder, ignore_errors=True)
        return PersistentDataset(items, transform, self.folder)

    def affine(self) -> Any:
        return np.eye(4)  # of tensors in its cache: that of the file is not kept


class TorchIOQueue(_OfFiles):
    """TorchIO's queue of patches, eight of each image that was loaded, as ours has of a subject in an epoch."""

    name = "TorchIO Queue"
    how = "torchio.Queue(subjects, max_length=16, samples_per_volume=8, sampler=UniformSampler((96, 96, 96)))"
    needs = ("torch", "torchio")
    patches = 32

    def epochs(self, workers: int) -> Iterator[Iterator[Any]]:
        import torchio

        files = self.files()
        images = {name: torchio.ScalarImage(files[name]) for name in PATCH_IMAGES}
        subject = torchio.Subject(images | {LABEL: torchio.LabelMap(files[LABEL])})
        samples = 8
        queue = torchio.Queue(
            torchio.SubjectsDataset([subject] * (self.patches // samples)),
            max_length=2 * samples,
            samples_per_volume=samples,
            sampler=torchio.UniformSampler(self.shape[::-1]),
            num_workers=workers,
            start_background=False,
        )
        batches = torchio.SubjectsLoader(queue, batch_size=BATCH)
        while True:
            yield iter(batches)

    def found(self, batch: Any) -> Iterator[Found]:
        for number, location in enumerate(batch["location"].tolist()):
            yield tuple(location[:3]), {name: batch[name]["data"][number, 0].numpy() for name in PATCH_IMAGES}


LOADERS: Final[tuple[type[Loader], ...]] = (
    OurPatches, NnUNet, MonaiCached, MonaiPersistent, MonaiDecoding, TorchIOQueue,
)  # fmt: skip
