"""Readers of chunked formats: HDF5, other converters to Zarr, our own store by several clients; and all readers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import zarr

import isles24_zarr
from benchmarks.blosc import B2ND
from benchmarks.measurement import OURS
from benchmarks.readers import (
    HuggingFace,
    MemoryMap,
    NibabelFloat,
    NibabelGzip,
    NibabelIndexed,
    Reader,
    TorchIO,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.readers import Fetch
    from benchmarks.reference import Reference


_HDF5_CHUNKS: Final = {4: (1, 8, 128, 128), 3: (16, 64, 128)}


class Hdf5(Reader):
    """HDF5 by h5py and hdf5plugin, in the chunks that it read quickest of seven shapes that were tried.

    They hold 256 KB of int16: smaller ones cost HDF5 more in the looking up than they save. The level is the default of
    hdf5plugin, at which it also decompresses quickest: the filter leaves the size of blocks to Blosc, which makes them
    larger at higher levels.
    """

    name = "HDF5 + Blosc"
    how = 'h5py.File("subject.h5")["ctp"][t, z], in chunks of (1, 8, 128, 128), volumes (16, 64, 128)'
    order = "canonical"
    needs = ("h5py", "hdf5plugin")

    @property
    def file(self) -> Path:
        return self.folder / "subject.h5"

    def paths_of(self, image: str) -> list[Path]:  # noqa: ARG002 - all are in one
        return [self.file]

    def prepare(self) -> None:
        import h5py
        import hdf5plugin

        blosc = hdf5plugin.Blosc(cname="zstd", shuffle=hdf5plugin.Blosc.SHUFFLE)
        with h5py.File(self.file, "w") as file:
            for name in self.reference.files:
                array: Any = zarr.open_array(self.reference.array_path(name), mode="r")
                chunks = tuple(map(min, array.shape, _HDF5_CHUNKS[array.ndim]))
                target = file.create_dataset(
                    name, shape=array.shape, dtype=array.dtype, chunks=chunks, compression=blosc
                )
                for start in range(0, array.shape[0], chunks[0]):
                    target[start : start + chunks[0]] = array[start : start + chunks[0]]

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        import h5py
        import hdf5plugin  # noqa: F401 - registers the filter

        with h5py.File(self.file, "r") as file:
            arrays = {name: file[name] for name in images}
            yield lambda name, index: arrays[name][index]


class NiftiZarr(Reader):
    """nifti-zarr's own converter and reader, without the pyramid, which no read here looks at."""

    name = "niizarr"
    how = 'niizarr.zarr2nii("ctp.nii.zarr").dataobj[:, :, z, t].compute()'
    order = "file"
    needs = ("niizarr",)

    def path_of(self, name: str) -> Path:
        return self.folder / "niizarr" / f"{name}.nii.zarr"

    def paths_of(self, image: str) -> list[Path]:
        return files_below(self.path_of(image))

    def prepare(self) -> None:
        import niizarr

        for name in self.reference.files:
            first = first_frames(self.reference, name)
            niizarr.nii2zarr(first, str(self.path_of(name)), nb_levels=1)
            grown(zarr.open_array(self.path_of(name) / "0"), self.reference, name)

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        import niizarr

        arrays: dict[str, Any] = {name: niizarr.zarr2nii(str(self.path_of(name))).dataobj for name in images}
        yield lambda name, index: arrays[name][index].compute()


class ZarrNii(Reader):
    """zarrnii's own converter and reader, without the pyramid, in the chunks of its documentation.

    Its default chunks are those that Dask takes for a whole series: more than 100 MB for every slice.
    """

    name = "zarrnii"
    how = 'ZarrNii.from_ome_zarr("ctp.ome.zarr").data[t, z].compute(), written with chunks=(64, 64, 64, 1)'
    order = "reversed"
    needs = ("zarrnii",)
    bytes_per_voxel = 18

    def path_of(self, name: str) -> Path:
        return self.folder / "zarrnii" / f"{name}.ome.zarr"

    def paths_of(self, image: str) -> list[Path]:
        return files_below(self.path_of(image))

    def prepare(self) -> None:
        import zarrnii

        (self.folder / "zarrnii").mkdir()
        for name in self.reference.files:
            first = first_frames(self.reference, name)
            path = self.folder / "first.nii"
            nib.save(first, path)
            chunks = (64, 64, 64, 1)[: len(first.shape)]
            zarrnii.ZarrNii.from_nifti(str(path), chunks=chunks).to_ome_zarr(str(self.path_of(name)), max_layer=1)
            grown(self._array(name), self.reference, name)

    def _array(self, name: str) -> Any:
        return zarr.open_array(self.path_of(name) / "s0")

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        import zarrnii

        arrays = {name: zarrnii.ZarrNii.from_ome_zarr(str(self.path_of(name))).data for name in images}

        def fetch(name: str, index: tuple[slice, ...]) -> Any:
            if len(index) == 4:
                return arrays[name][index].compute()
            return arrays[name][0][index].compute()

        yield fetch


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and those in it."""
    return [path for path in folder.rglob("*") if path.is_file()]


def first_frames(reference: Reference, name: str) -> Any:
    """Return an image with the first two frames alone: both converters hold several copies of all that they convert."""
    image: Any = nib.load(reference.files[name])
    return image.slicer[..., :2] if len(image.shape) == 4 else image


def grown(array: Any, reference: Reference, name: str) -> None:
    """Add the frames that `first_frames` left out to an array (t, z, y, x), in the chunks and codecs that it has."""
    image: Any = nib.load(reference.files[name])
    if len(image.shape) < 4:
        return
    array.resize((image.shape[3], *array.shape[1:]))
    voxels = image.dataobj.get_unscaled()
    for frame in range(2, image.shape[3]):
        array[frame] = voxels[..., frame].T


class _OurStore(Reader):
    order = "canonical"

    def paths_of(self, image: str) -> list[Path]:
        return files_below(self.reference.array_path(image))


class TensorStore(_OurStore):
    """Google's C++ client on our store: the limit for this format."""

    name = "tensorstore, our store"
    how = 'tensorstore.open({"driver": "zarr3", ...}).result()[t, z].read().result()'
    needs = ("tensorstore",)

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        import tensorstore

        limits = {name: {"limit": self.threads} for name in ("data_copy_concurrency", "file_io_concurrency")}
        context = tensorstore.Context(limits)
        opening = {
            name: tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{self.reference.array_path(name)}/"}},
                context=context,
                open=True,
                read=True,
            )
            for name in images
        }
        arrays = {name: future.result() for name, future in opening.items()}
        yield lambda name, index: arrays[name][index].read().result()


class ZarrPython(_OurStore):
    """zarr-python with its own codec pipeline on our store."""

    name = "zarr-python, our store"
    how = 'zarr.open_array("isles24.zarr/.../ctp")[t, z]'

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        arrays: dict[str, Any] = {name: zarr.open_array(self.reference.array_path(name), mode="r") for name in images}
        yield lambda name, index: arrays[name][index]


class ZarrsDirect(_OurStore):
    """zarr-python with the codec pipeline of zarrs: our reader without what it adds."""

    name = "zarr-python + zarrs, our store"
    how = 'the same, with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})'
    needs = ("zarrs",)

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            paths = {name: self.reference.array_path(name) for name in images}
            arrays: dict[str, Any] = {name: zarr.open_array(path, mode="r") for name, path in paths.items()}
        yield lambda name, index: arrays[name][index]


class Ours(_OurStore):
    """`open_scan` without Dask."""

    name = OURS
    how = 'isles24_zarr.open_scan(store, subject, chunks=None)["ctp"][t, z].values'

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:  # noqa: ARG002 - a scan has all of them
        scan = isles24_zarr.open_scan(self.reference.store, self.reference.subject, chunks=None)
        yield lambda name, index: scan[name][index].values


class OursDask(_OurStore):
    """`open_scan` as it is by default, on Dask."""

    name = f"{OURS}, Dask"
    how = 'isles24_zarr.open_scan(store, subject)["ctp"][t, z].values'

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:  # noqa: ARG002 - a scan has all of them
        scan = isles24_zarr.open_scan(self.reference.store, self.reference.subject)
        yield lambda name, index: scan[name][index].values


READERS: tuple[type[Reader], ...] = (
    Ours, OursDask, ZarrsDirect, ZarrPython, TensorStore, *B2ND, Hdf5, NiftiZarr, ZarrNii, MemoryMap,
    NibabelIndexed, NibabelGzip, HuggingFace, NibabelFloat, TorchIO,
)  # fmt: skip
"""Ours first, then other clients of our store, then other formats, from the quickest to the slowest."""

__all__ = ["READERS", "Ours", "OursDask"]
