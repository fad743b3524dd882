"""Processes that are forked, for real, from one that has used libraries with threads: right voxels, or one line."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import pytest
import zarr

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.store.voxels import StoredVoxels
from tests.s3_server import KEYS, moto_server, s3_client
from tests.test_shards import damaged_byte, document_of, voxels_of, without_first_chunk, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def _answer(function: Callable[[], Any], answers: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = function()
        except Exception as error:  # noqa: BLE001 - it is what is asked for
            found = error
    answers.put((found, {each.category for each in caught}))


def forked(function: Callable[[], Any]) -> tuple[Any, set[type[Warning]]]:
    """Call a function in a forked process; return what it returns or raises, and its warnings."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_answer, args=(function, answers))
    process.start()
    try:
        found: tuple[Any, set[type[Warning]]] = answers.get(timeout=60)
    finally:
        process.kill()
        process.join()
    return found


SELECTIONS = [(slice(None),) * 3, (3, slice(5, 140, 7), np.array([149, 0, 70])), (0, 0, 0)]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_a_forked_process_reads_the_same_and_says_that_it_is_slow(tmp_path: Path, selection: Any) -> None:
    _, plan = written(tmp_path, (150, 150, 20), "<i2", np.eye(3), 0)
    array = voxels_of(tmp_path, plan.path)
    array.read((0, 0, 0))  # threads have started
    found, told = forked(lambda: array.read(selection))
    np.testing.assert_array_equal(found, zarr.open_array(tmp_path / plan.path, mode="r").oindex[selection])
    assert errors.SlowReadWarning in told
    points = [np.array([[19, 0], [7, 7]]), np.array([[149, 3], [0, 0]]), np.array([[1, 2], [3, 148]])]
    found, _ = forked(lambda: array.pick(points))
    np.testing.assert_array_equal(found, zarr.open_array(tmp_path / plan.path, mode="r").vindex[tuple(points)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: None, "is lost"),
        (lambda data: data[:-1], "has .* bytes"),
        (lambda data: damaged_byte(data, 300), "cannot be read"),
        (lambda data: damaged_byte(data, len(data) - 2), "damaged index|cannot be read"),
        (without_first_chunk, "lacks a chunk"),
    ],
)
@pytest.mark.parametrize("selection", [(0, 0, 0), (slice(None),) * 3], ids=str)
def test_damage_is_an_error_in_a_forked_process_too(tmp_path: Path, damage: Any, message: str, selection: Any) -> None:
    _, plan = written(tmp_path, (150, 150, 20), "<i2", np.eye(3), 0)
    voxels_of(tmp_path, plan.path).read((0, 0, 0))
    (shard,) = [each for each in (tmp_path / plan.path / "c").rglob("*") if each.is_file()]
    data = damage(shard.read_bytes())
    shard.unlink()
    if data is not None:
        shard.write_bytes(data)
    array: StoredVoxels = voxels_of(tmp_path, plan.path)
    assert document_of(tmp_path / plan.path)["shape"] == [20, 150, 150]
    found, _ = forked(lambda: array.read(selection))
    assert isinstance(found, errors.StoreDamageError)
    with pytest.raises(errors.StoreDamageError, match=message):
        raise found


def test_who_has_read_nothing_forks_quick_readers(release: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.zarr"
    assert isles24_zarr.convert(release, store, subjects=["sub-stroke0001"], workers=1, progress=False).ok
    script = f"""
import os, warnings, isles24_zarr
scan = isles24_zarr.open_scan({str(store)!r}, "sub-stroke0001", chunks=None)
child = os.fork()
if not child:
    warnings.simplefilter("error")
    os._exit(int(scan["ncct"].values.shape != scan["ncct"].shape))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_bucket_is_refused_in_one_line_where_it_would_never_answer(tmp_path: Path) -> None:
    with moto_server(tmp_path / "log") as port:
        s3_client(port).create_bucket(Bucket="bucket")
        options = {**KEYS, "endpoint_url": f"http://127.0.0.1:{port}"}
        # obstore has been used, whatever it has found
        with pytest.raises(errors.NotAStoreError):
            isles24_zarr.open_cohort("s3://bucket/x.zarr", storage_options=options)
        found, _ = forked(lambda: isles24_zarr.open_cohort("s3://bucket/x.zarr", storage_options=options))
    assert isinstance(found, errors.ForkedProcessError)
    assert "s3://bucket/x.zarr: cannot be used by a process that was forked" in str(found)


def test_so_is_an_icechunk_repository(tmp_path: Path) -> None:
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "x")))
    found, _ = forked(lambda: isles24_zarr.open_cohort(f"icechunk://{tmp_path / 'x'}"))
    assert isinstance(found, errors.ForkedProcessError)
