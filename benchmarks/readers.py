"""What readers have in common, and those that read the NIfTI files themselves."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import nibabel as nib
import numpy as np
from isal import igzip

from benchmarks.regions import LOADS, READS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from benchmarks.reference import Order, Reference

    Fetch = Callable[[str, tuple[slice, ...]], NDArray[Any]]
    """From the name of an image and slices in the reader's own axes to voxels."""


class Reader(ABC):
    """One way to read the reference subject.

    Parameters
    ----------
    reference
        The subject.
    folder
        For whatever the reader needs to have on the disk.
    threads
        How many it may use.
    """

    name: ClassVar[str]
    how: ClassVar[str]
    """What a user would write, for the page that shows the figures."""
    order: ClassVar[Order]
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that must be installed."""
    reads: ClassVar[tuple[str, ...]] = READS
    bytes_per_voxel: ClassVar[int] = 4
    """Memory that reading a whole int16 series takes."""

    def __init__(self, reference: Reference, folder: Path, threads: int) -> None:
        self.reference = reference
        self.folder = folder
        self.threads = threads

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Write what is read; not timed."""

    @abstractmethod
    def paths_of(self, image: str) -> list[Path]:
        """Return the files that an image is read from."""

    def paths(self) -> list[Path]:
        """Return all files that are read."""
        return [path for image in self.reference.files for path in self.paths_of(image)]

    @abstractmethod
    def opened(self, images: Sequence[str]) -> AbstractContextManager[Fetch]:
        """Open images, and close them again."""


class _NiftiReader(Reader):
    order = "file"

    def paths_of(self, image: str) -> list[Path]:
        return [self.reference.files[image]]

    def image(self, name: str) -> Any:
        return nib.load(self.reference.files[name])


class NibabelGzip(_NiftiReader):
    """Slices of the array proxy: what lies before them in the file is decompressed, and thrown away."""

    name = "nibabel .nii.gz"
    how = 'nibabel.load("ctp.nii.gz").dataobj[:, :, z, t]'

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        # nibabel takes indexed_gzip where it is installed; that is a reader of its own here
        with mock.patch("nibabel._compression.HAVE_INDEXED_GZIP", new=False):
            proxies = {name: self.image(name).dataobj for name in images}
            yield lambda name, index: np.asarray(proxies[name][index])


class NibabelFloat(_NiftiReader):
    """The whole image as float64: what training code and tutorials do."""

    name = "nibabel get_fdata"
    how = 'nibabel.load("ctp.nii.gz").get_fdata()[:, :, z, t]'
    reads = LOADS
    bytes_per_voxel = 12

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        with mock.patch("nibabel._compression.HAVE_INDEXED_GZIP", new=False):
            opened = {name: self.image(name) for name in images}
            yield lambda name, index: opened[name].get_fdata(caching="unchanged")[index]


class NibabelIndexed(_NiftiReader):
    """With an index of points to start decompressing from, written once and kept beside the file."""

    name = "nibabel + indexed_gzip"
    how = 'IndexedGzipFile("ctp.nii.gz", index_file="ctp.gzidx") as the file of a nibabel image'
    needs = ("indexed_gzip",)

    def index_of(self, name: str) -> Path:
        return self.folder / f"{name}.gzidx"

    def prepare(self) -> None:
        import indexed_gzip

        for name, path in self.reference.files.items():
            with indexed_gzip.IndexedGzipFile(path) as file:
                file.build_full_index()
                file.export_index(str(self.index_of(name)))

    def paths_of(self, image: str) -> list[Path]:
        return [self.reference.files[image], self.index_of(image)]

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        import indexed_gzip

        with contextlib.ExitStack() as stack:
            proxies = {}
            for name in images:
                file = indexed_gzip.IndexedGzipFile(self.reference.files[name], index_file=str(self.index_of(name)))
                files = nib.Nifti1Image.make_file_map({"image": stack.enter_context(file)})
                proxies[name] = nib.Nifti1Image.from_file_map(files).dataobj
            yield lambda name, index: np.asarray(proxies[name][index])


class MemoryMap(_NiftiReader):
    """Without compression: the limit of what a slice can cost, at many times the disk space."""

    name = "memory map .nii"
    how = 'nibabel.load("ctp.nii").dataobj[:, :, z, t]'

    def path_of(self, name: str) -> Path:
        return self.folder / f"{name}.nii"

    def prepare(self) -> None:
        for name, path in self.reference.files.items():
            with igzip.open(path) as source, self.path_of(name).open("wb") as target:
                while block := source.read(1 << 24):
                    target.write(block)

    def paths_of(self, image: str) -> list[Path]:
        return [self.path_of(image)]

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        proxies: dict[str, Any] = {name: nib.Nifti1Image.from_filename(self.path_of(name)).dataobj for name in images}
        # copied, as every other reader returns memory and not pages of a file
        yield lambda name, index: np.array(proxies[name][index])


class HuggingFace(_NiftiReader):
    """The Parquet files of the dataset card: a row holds the .nii.gz, which is decompressed when it is looked at."""

    name = "datasets Parquet"
    how = (
        'load_dataset("parquet", ...)[0]["ctp"].dataobj[:, :, z, t] (columns that are not read are left out of the row)'
    )
    needs = ("datasets",)
    reads = LOADS
    bytes_per_voxel = 8

    def paths_of(self, image: str) -> list[Path]:
        # Arrow keeps its copies in folders named by a digest of the Parquet file
        return [self.folder / "parquet" / f"{image}.parquet", *(self.folder / "arrow").rglob("*.arrow")]

    def prepare(self) -> None:
        datasets = self._datasets()
        (self.folder / "parquet").mkdir()
        for name, path in self.reference.files.items():
            row = datasets.Dataset.from_dict({name: [{"bytes": path.read_bytes(), "path": path.name}]})
            row.cast_column(name, datasets.Nifti()).to_parquet(self.folder / "parquet" / f"{name}.parquet")
            self._column(name)

    @staticmethod
    def _datasets() -> Any:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        import datasets

        datasets.disable_progress_bars()
        return datasets

    def _column(self, name: str) -> Any:
        file, cache = self.folder / "parquet" / f"{name}.parquet", self.folder / "arrow"
        return self._datasets().load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(cache))

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        columns = {name: self._column(name) for name in images}
        yield lambda name, index: np.asarray(columns[name][0][name].dataobj[index])


class TorchIO(_NiftiReader):
    """Tensors of whole images, frames as channels; a patch is cropped from them, as its samplers do."""

    name = "TorchIO"
    how = 'torchio.ScalarImage("ctp.nii.gz").data[t, :, :, z]'
    needs = ("torchio",)
    reads = LOADS
    bytes_per_voxel = 12

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:  # noqa: ARG002 - opened when read
        import torchio

        def fetch(name: str, index: tuple[slice, ...]) -> NDArray[Any]:
            *volume, frames = index if len(index) == 4 else (*index, slice(0, 1))
            # an image keeps what it has loaded: a new one for each read, as for each subject of an epoch
            tensor = torchio.ScalarImage(self.reference.files[name]).data[(frames, *volume)]
            voxels: NDArray[Any] = tensor.permute(1, 2, 3, 0).numpy()
            return voxels if len(index) == 4 else voxels[..., 0]

        yield fetch
