"""What tests share: a synthetic release, its store, and one Dask cluster of processes for all of them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, settings

import isles24_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

# netCDF4 would set it to filters of its own, in this process and its children, beside which those of hdf5plugin fail
os.environ.setdefault("HDF5_PLUGIN_PATH", "/nonexistent")
# Dask looks at the stacks of workers; where garbage is collected meanwhile, Python 3.11 may wait for itself forever
# (https://github.com/python/cpython/issues/106883)
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "false"
dask.config.set({"distributed.worker.profile.enabled": False})

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(autouse=True)
def usual_interrupts() -> Iterator[None]:
    """Heed interrupts: shells have background jobs ignore them, and dask_jobqueue replaces their handler."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def in_threads() -> Iterator[None]:
    """Compute in threads of this process, also where another test has left a cluster as the current one."""
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects; tests must not change them."""
    return isles24_zarr.synthesize(tmp_path_factory.mktemp("release") / "train", subjects=3, scale="tiny")


@pytest.fixture(scope="session")
def store(release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release, converted; tests must not change it."""
    path = tmp_path_factory.mktemp("store") / "isles24.zarr"
    report = isles24_zarr.convert(release, path, client=client, progress=False)
    assert report.ok
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder of real volumes, for those who have them."""
    folder = Path(os.environ.get("ISLES24_ZARR_REAL_DATA", "/nonexistent"))
    if not folder.is_dir():
        pytest.skip("ISLES24_ZARR_REAL_DATA names no folder")
    return folder


_watched: list[tuple[str, list[str]]] = []


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str):
        folder, found = _watched[-1]
        if arguments[0].startswith(folder):
            found.append(arguments[0].removeprefix(folder))


sys.addaudithook(_note_opened)  # for good: Python lets none go


@pytest.fixture
def reads(store: Path) -> Iterator[list[str]]:
    """The files of the store that this process opens, by whatever library of Python."""
    found: list[str] = []
    _watched.append((f"{store}/", found))
    yield found
    _watched.pop()
