"""Converting one subject: time, and how much memory a worker needs as the series grows."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from distributed import Client, LocalCluster

import isles24_zarr
from isles24_zarr.nifti import VoxelStream, write_nifti

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """One way of converting one subject, several times.

    Parameters
    ----------
    frames
        Of the registered CT perfusion series.
    workers
        Single-threaded processes.
    seconds, spread
        Median, and the difference of the slowest and the fastest run.
    megabytes_per_second
        Voxels before compression, by the median.
    peak_megabytes
        Largest resident size that any worker reached in any run, its interpreter and libraries included.
    idle_megabytes
        The same of a worker that has done nothing but import the package.
    stored_of_source
        Bytes stored, divided by those of the .nii.gz files.
    files
        Files that were written for the subject.
    """

    frames: int
    workers: int
    seconds: float
    spread: float
    megabytes_per_second: float
    peak_megabytes: float
    idle_megabytes: float
    stored_of_source: float
    files: int


def conversions(folder: Path, *, scale: str, workers: tuple[int, ...], repeats: int) -> Iterator[Conversion]:
    """Convert a synthetic subject, and the same with three times the frames, on clusters of several sizes.

    Parameters
    ----------
    folder
        For releases and stores; a full one needs 4 GB.
    scale
        Of `isles24_zarr.synthesize`.
    workers
        Sizes of clusters.
    repeats
        Runs of each.
    """
    short = isles24_zarr.synthesize(folder / "short", subjects=1, scale=scale)  # type: ignore[arg-type]
    long = isles24_zarr.synthesize(folder / "long", subjects=1, scale=scale)  # type: ignore[arg-type]
    lengthen(next(long.rglob("*space-ncct_ctp.nii.gz")), times=3)
    for release in (short, long):
        for count in workers:
            yield conversion(release, folder / "store.zarr", workers=count, repeats=repeats)


def lengthen(path: Path, *, times: int) -> None:
    """Repeat the frames of a series, in place."""
    with path.open("rb") as file:
        header = VoxelStream(file, path=path.name).header
    fields = nib.Nifti1Header(header.raw[:348], check=False)
    fields["dim"][4] *= times

    def frames() -> Iterator[NDArray[np.int16]]:
        frame = np.empty(header.volume_shape[::-1], header.dtype)
        for _ in range(times):
            with path.open("rb") as file:
                stream = VoxelStream(file, path=path.name)
                for _ in range(header.frames or 1):
                    stream.readinto(frame)
                    yield frame

    write_nifti(path, bytes(fields.binaryblock) + header.raw[348:], frames())


def conversion(release: Path, store: Path, *, workers: int, repeats: int) -> Conversion:
    """Convert a release several times, with fresh workers each time."""
    series = nib.Nifti1Image.from_filename(next(release.rglob("*space-ncct_ctp.nii.gz")))
    seconds, peaks, idle, voxels = [], [], [], 0
    for _ in range(repeats):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            idle += client.run(peak_megabytes).values()
            report = isles24_zarr.convert(release, store, client=client, overwrite=True, progress=False)
            peaks += client.run(peak_megabytes).values()
        seconds.append(report.seconds)
        voxels = report.voxel_bytes
    subject = store / report.converted[0]
    stored = [path.stat().st_size for path in subject.rglob("*") if path.is_file()]
    source = sum(path.stat().st_size for path in release.rglob("*.nii.gz"))
    return Conversion(
        frames=series.shape[3],
        workers=workers,
        seconds=round(statistics.median(seconds), 2),
        spread=round(max(seconds) - min(seconds), 2),
        megabytes_per_second=round(voxels / 1e6 / statistics.median(seconds), 1),
        peak_megabytes=round(max(peaks), 1),
        idle_megabytes=round(statistics.median(idle), 1),
        stored_of_source=round(sum(stored) / source, 3),
        files=len(stored),
    )


def peak_megabytes() -> float:
    """Return the largest resident size that this process has had, in MB of 10^6 bytes."""
    import isles24_zarr.convert  # noqa: F401 - so that an idle worker has what a busy one has

    # not getrusage: its maximum goes back to the process that this one was spawned from
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6
