"""Converting the reference subject: time, memory of a worker and what is written, against what the work must cost."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
import zarr
from isal import igzip
from numcodecs import Blosc

import isles24_zarr
from benchmarks.machine import peak_megabytes
from benchmarks.measurement import OURS, Results, alternated
from isles24_zarr.format.layout import ATTRIBUTE_KEY, COMPRESSOR
from isles24_zarr.nifti.files import VoxelStream, write_nifti
from isles24_zarr.tasks.cluster import dask_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SECTION: Final = "conversion"
SECONDS: Final = "conversion of the subject"
LONG_SECONDS: Final = "conversion, three times the frames"
RATE: Final = "voxels converted per second"
PEAK: Final = "peak memory of a worker"
LONG_PEAK: Final = "peak memory of a worker, three times the frames"
IDLE: Final = "memory of an idle worker"
STORED: Final = "stored bytes of the .nii.gz bytes"
FILES: Final = "files written"
BOUND: Final = "bound: CPU seconds of gunzip and Blosc, over the cores"

GUNZIP: Final = "gunzip, isal"
ENCODE: Final = "encode, Blosc"


def workers_name(count: int) -> str:
    """Return the name of our converter with so many workers."""
    return f"{OURS}, {count} worker{'s' if count > 1 else ''}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One conversion by this package.

    Parameters
    ----------
    seconds
        Without the start of the workers.
    voxel_bytes, stored_bytes, files
        Of what was written for the subject.
    peaks, idle
        Resident MB of each worker: the most it had, and before it did anything.
    """

    seconds: float
    voxel_bytes: int
    stored_bytes: int
    files: int
    peaks: tuple[float, ...]
    idle: tuple[float, ...]


def conversion(release: Path, folder: Path, *, repeats: int) -> Results:
    """Convert a release of one subject on clusters of several sizes, and the same with three times the frames.

    Parameters
    ----------
    release
        Of one subject.
    folder
        For releases and stores; a full one needs 5 GB.
    repeats
        Runs of each.
    """
    cores = len(os.sched_getaffinity(0))
    store = folder / "store.zarr"
    converted: dict[str, list[Converted]] = {}
    bounds: dict[str, list[float]] = {GUNZIP: [], ENCODE: []}

    def convert(name: str, source: Path, count: int, _: int) -> list[float]:
        converted.setdefault(name, []).append(converted_by_us(source, store, workers=count))
        return []

    def bound(_: int) -> list[float]:
        bounds[GUNZIP].append(gunzip_seconds(release))
        bounds[ENCODE].append(encode_seconds(store))
        return []

    converted_by_us(release, store, workers=cores)
    long = lengthened(release, folder / "long", times=3)
    runs = {
        workers_name(count): functools.partial(convert, workers_name(count), release, count)
        for count in sorted({1, cores})
    }
    alternated({**runs, BOUND: bound}, rounds=repeats, seed=1)
    convert(LONG_SECONDS, long, cores, 0)
    results = Results()
    _add_ours(results, converted, release)
    both = [sum(pair) / cores for pair in zip(*bounds.values(), strict=True)]
    results.add(SECTION, BOUND, "gunzip + encode", both)
    for name, seconds in bounds.items():
        results.add(SECTION, "CPU seconds on one core", name, seconds)
    shutil.rmtree(long)
    return results


def _add_ours(results: Results, converted: dict[str, list[Converted]], release: Path) -> None:
    source = sum(path.stat().st_size for path in release.rglob("*.nii.gz"))
    for by, runs in converted.items():
        if by == LONG_SECONDS:
            results.add(SECTION, LONG_SECONDS, OURS, [run.seconds for run in runs])
            results.add(SECTION, LONG_PEAK, OURS, [max(run.peaks) for run in runs], "MB")
            continue
        results.add(SECTION, SECONDS, by, [run.seconds for run in runs])
        results.add(SECTION, RATE, by, [run.voxel_bytes / 1e6 / run.seconds for run in runs], "MB/s")
        results.add(SECTION, PEAK, by, [max(run.peaks) for run in runs], "MB")
    runs = next(iter(converted.values()))
    results.add(SECTION, IDLE, OURS, [megabytes for run in runs for megabytes in run.idle], "MB")
    results.add(SECTION, STORED, OURS, [runs[0].stored_bytes / source], "x")
    results.add(SECTION, FILES, OURS, [runs[0].files], "files")


def converted_by_us(release: Path, store: Path, *, workers: int) -> Converted:
    """Convert a release of one subject to a place that is empty, with fresh workers."""
    shutil.rmtree(store, ignore_errors=True)
    with dask_client(None, workers) as client:
        idle = tuple(client.run(_idle_megabytes).values())
        report = isles24_zarr.convert(release, store, client=client, progress=False)
        peaks = tuple(client.run(peak_megabytes).values())
    stored = [path.stat().st_size for path in (store / report.converted[0]).rglob("*") if path.is_file()]
    return Converted(
        seconds=report.seconds,
        voxel_bytes=report.voxel_bytes,
        stored_bytes=sum(stored),
        files=len(stored),
        peaks=peaks,
        idle=idle,
    )


def _idle_megabytes() -> float:
    import isles24_zarr.conversion.converting  # noqa: F401 - so that an idle worker has what a busy one has

    return peak_megabytes()


def gunzip_seconds(release: Path) -> float:
    """Return the CPU seconds that decompressing all files takes, by isal on one core."""
    started = time.process_time()
    for path in release.rglob("*.nii.gz"):
        with igzip.open(path) as file:
            while file.read(1 << 22):
                pass
    return time.process_time() - started


def encode_seconds(store: Path) -> float:
    """Return the CPU seconds that Blosc takes to encode every chunk of a store anew, on one core."""
    return sum(_encode_seconds(array) for array in _images(store))


def _images(store: Path) -> Iterator[zarr.Array[Any]]:
    for _, node in zarr.open_group(store, mode="r", use_consolidated=False).members(max_depth=None):
        if isinstance(node, zarr.Array) and ATTRIBUTE_KEY in node.attrs:
            yield node


def _encode_seconds(array: zarr.Array[Any]) -> float:
    names: dict[str, Any] = dict(COMPRESSOR)
    size = math.prod(array.chunks[-3:]) * array.dtype.itemsize
    codec = Blosc(cname=names["cname"], clevel=names["clevel"], shuffle=Blosc.SHUFFLE, blocksize=size)
    spent = 0.0
    step = (array.shards or array.chunks)[0]
    for start in range(0, array.shape[0], step):
        # copied out of the store's chunks, so that what is timed has its voxels in one piece, as the store has
        for chunk in list(_chunks(np.asarray(array[start : start + step]), array.chunks)):
            began = time.process_time()
            codec.encode(chunk)
            spent += time.process_time() - began
    return spent


def _chunks(block: NDArray[Any], shape: Sequence[int]) -> Iterator[NDArray[Any]]:
    grid = [math.ceil(count / size) for count, size in zip(block.shape, shape, strict=True)]
    for place in np.ndindex(*grid):
        cut = tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, shape, strict=True))
        chunk = np.zeros(tuple(shape), block.dtype)
        part = block[cut]
        chunk[tuple(slice(0, count) for count in part.shape)] = part
        yield chunk


def lengthened(release: Path, folder: Path, *, times: int) -> Path:
    """Copy a release with its registered series repeated, and return the copy."""
    shutil.copytree(release, folder)
    path = _series(folder)
    fields = _header_fields(path)
    fields["dim"][4] *= times
    _rewrite(path, fields, times=times)
    return folder


def shortened(release: Path, folder: Path, *, by: int) -> Path:
    """Copy a release with its registered series cut to a fraction of its frames, and return the copy."""
    shutil.copytree(release, folder)
    path = _series(folder)
    fields = _header_fields(path)
    fields["dim"][4] //= by
    _rewrite(path, fields, times=1)
    return folder


def _series(release: Path) -> Path:
    return next(release.rglob("*space-ncct_ctp.nii.gz"))


def _header_fields(path: Path) -> nib.Nifti1Header:
    with path.open("rb") as file:
        return nib.Nifti1Header(VoxelStream(file, path=path.name).header.raw[:348], check=False)


def _rewrite(path: Path, fields: nib.Nifti1Header, *, times: int) -> None:
    """Write the first frames of a series, or all of them several times, in place."""
    with path.open("rb") as file:
        header = VoxelStream(file, path=path.name).header
    count = header.frames or 1

    def frames() -> Iterator[NDArray[Any]]:
        frame = np.empty(header.volume_shape[::-1], header.dtype)
        left = int(fields["dim"][4])
        for _ in range(times):
            with path.open("rb") as file:
                stream = VoxelStream(file, path=path.name)
                for _ in range(min(count, left)):
                    stream.readinto(frame)
                    yield frame

    written = path.with_suffix(".new.gz")
    write_nifti(written, bytes(fields.binaryblock) + header.raw[348:], frames())
    written.replace(path)
