"""The machine: what it is, how many of its cores a reader may use, and what the kernel keeps in memory."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, ParamSpec, Protocol, TypeVar
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from benchmarks.measurement import Results

P = ParamSpec("P")
K = TypeVar("K", bound="Peer")
T = TypeVar("T")

PACKAGES: Final = (
    "isles24-zarr", "zarr", "zarrs", "numcodecs", "isal", "xarray", "dask", "numpy", "nibabel", "indexed_gzip", "h5py",
    "hdf5plugin", "datasets", "pyarrow", "nifti-zarr", "zarrnii", "torchio", "torch", "tensorstore", "blosc2", "monai",
    "nnunetv2",
)  # fmt: skip

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "BLOSC_NTHREADS")


def described() -> dict[str, Any]:
    """Return what the figures depend on."""
    import psutil

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(modules: Iterable[str]) -> list[str]:
    """Return those of the modules that are not installed."""
    return [module for module in modules if find_spec(module) is None]


class Peer(Protocol):
    """Whoever is compared with: by what name, and the modules that must be installed."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]


def installed(kinds: Iterable[type[K]], results: Results, section: str) -> list[type[K]]:
    """Return those that can be measured; of the others a section says why they are left out."""
    found = []
    for kind in kinds:
        if absent := missing(kind.needs):
            results.leave_out(section, kind.name, f"{', '.join(absent)} is not installed")
        else:
            found.append(kind)
    return found


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, so that no thread pool, cache or memory of one part is left for another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=quiet) as pool:
        return pool.submit(function, *args, **kwargs).result()


def quiet() -> None:
    """Keep what libraries have to say of the data or of themselves from the terminal."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


@contextlib.contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Give everything in this process so many threads, and keep it on so many cores.

    The cores are the measure that nothing escapes; the settings of the libraries keep them from running more threads
    than that on those cores, which would slow them down. To be called before the libraries start their threads.
    """
    import dask
    import zarr
    from numcodecs import blosc

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[-count:])
    before = blosc.set_nthreads(count)
    if not missing(["torch"]):
        import torch

        torch.set_num_threads(count)
    if not missing(["pyarrow"]):
        import pyarrow as pa

        pa.set_cpu_count(count)
        pa.set_io_thread_count(count)
    scheduler: dict[str, Any] = {"scheduler": "threads", "num_workers": count} if count > 1 else {"scheduler": "sync"}
    with (
        mock.patch.dict(os.environ, dict.fromkeys(_THREAD_VARIABLES, str(count))),
        dask.config.set(scheduler),
        zarr.config.set({"threading.max_workers": count}),
    ):
        try:
            yield
        finally:
            blosc.set_nthreads(before)
            os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def small_pages() -> Iterator[None]:
    """Have NumPy ask for no huge pages, in processes that are started meanwhile.

    A virtual machine may hand free huge pages back to its host, and wait milliseconds for each one that it takes again:
    by chance, whatever needs much memory takes several times as long as it would have a moment later.
    """
    with mock.patch.dict(os.environ, {"NUMPY_MADVISE_HUGEPAGE": "0"}):
        yield


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Make the kernel forget files, so that the next read comes from the disk.

    Parameters
    ----------
    paths
        Files. Pages that are mapped stay.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_through(paths: Iterable[Path]) -> None:
    """Bring files into the page cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def peak_megabytes() -> float:
    """Return the largest resident size that this process has had, in MB of 10^6 bytes."""
    # not getrusage: its maximum goes back to the process that this one was spawned from
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def available_bytes() -> int:
    """Return how much memory can still be had."""
    import psutil

    return int(psutil.virtual_memory().available)
