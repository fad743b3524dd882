"""Patches in worker processes: errors in one line, the same samples everywhere, nothing that grows."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import isles24_zarr
from isles24_zarr import errors
from tests.damage import spoil_chunks
from tests.test_training import PATCH, S

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Isles24Error)]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_survive_pytorch_and_pickle(kind: type[errors.Isles24Error]) -> None:
    """PyTorch calls the class of an error with one text, that of the traceback in the worker."""
    from torch._utils import ExceptionWrapper

    for subject, what in (("s3://bucket/a.zarr, sub-1", "is lost: all of it"), ("a: b", "has\na new line; and more")):
        told = None
        try:
            raise kind(subject, what) from ValueError("the cause: of it")
        except errors.Isles24Error as error:
            told = error
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        with pytest.raises(kind) as caught:
            wrapped.reraise()
        again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
        for found in (caught.value, again):
            assert type(found) is kind
            assert str(found) == str(told)
            assert "\n" not in str(found)
            assert len(found.args) == 2
        assert traceback.format_exception_only(caught.value)[-1].strip().endswith(str(told))


@pytest.fixture(autouse=True, scope="module")
def quick_workers() -> None:
    """Import once what each worker process would import for itself, if none was started before."""
    multiprocessing.set_forkserver_preload(["torch", "isles24_zarr.training.torch_patches"])


def loader(found: Any, **options: Any) -> Any:
    settings = {"batch_size": 1, "num_workers": 1, "multiprocessing_context": "forkserver", "timeout": 120}
    return torch.utils.data.DataLoader(found, **{**settings, **options})


def test_what_goes_wrong_in_a_worker_is_told_in_one_line(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    cohort = isles24_zarr.open_cohort(copy)
    first, second, third = cohort.isles.subjects
    spoil_chunks(copy / first / "space-ncct/ncct", but=())

    def flat(scan: xr.Dataset) -> xr.DataArray:
        return scan["ncct"][0]

    wanted: list[tuple[Any, Any, type[errors.Isles24Error], str]] = [
        ("ncct", first, errors.StoreDamageError, f"{first}/.*ncct/c/.* has a damaged chunk"),
        ("ncct", second, errors.UnknownNameError, f"{second}: is no subject"),
        ({"flat": flat}, third, errors.GeometryError, f"^{third}, channel 'flat': is a function that returned"),
    ]
    for images, subject, kind, words in wanted:
        part = cohort.isles.select([subject])
        found = part.isles.torch_dataset(images, None, patch=PATCH)
        if subject == second:  # it goes once the dataset is made
            shutil.rmtree(copy / second)
        with pytest.raises(kind, match=words) as here:
            found[0]
        with pytest.raises(kind, match=words) as there:
            next(iter(loader(found)))
        assert str(there.value) == str(here.value)
        assert "\n" not in str(there.value)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:this process was forked:isles24_zarr.errors.SlowReadWarning")
@pytest.mark.parametrize(("method", "workers"), [("spawn", 1), ("forkserver", 2), ("fork", 2)])
def test_samples_are_the_same_wherever_they_are_read(store: Path, method: str, workers: int) -> None:
    """Of a function of this test, too, which pickle cannot send; and while a Dask client is the current one."""
    cohort = isles24_zarr.open_cohort(store)
    found = cohort.isles.torch_dataset(
        {"ncct": "ncct", "frame": "ctp[2]", "mine": lambda scan: scan["ncct"] - scan["ncct"].mean()},
        ["lesion_mask", "cow_mask"],
        patch=PATCH,
        spacing=(3.1, 1.9, 2.2),
        within="brain",
        windows={"ncct": "brain"},
        label_threshold=0.5,
        samples_per_subject=2,
        seed=5,
    )
    wanted = [found[index] for index in range(len(found))]
    batches = list(loader(found, num_workers=workers, multiprocessing_context=method))
    assert len(batches) == len(wanted)
    for batch, sample in zip(batches, wanted, strict=True):
        assert batch["subject"] == [sample["subject"]]
        for key in ("image", "label", "origin", "affine"):
            assert torch.equal(batch[key][0], sample[key])
    # and in another order, by another object
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    for index in (3, 0, 5):
        assert torch.equal(again[index]["image"], wanted[index]["image"])


FEW_FILES = """
import resource, sys, psutil, torch
import isles24_zarr
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
    cohort = isles24_zarr.open_cohort(sys.argv[1])
    found = cohort.isles.torch_dataset(["ncct", "tmax"], label_threshold=0.5, patch=(4, 16, 16), samples_per_subject=40)
    batches = torch.utils.data.DataLoader(
        found, batch_size=2, num_workers=2, multiprocessing_context="forkserver", persistent_workers=True, timeout=120
    )
    counts = []
    for epoch in range(4):
        found.set_epoch(epoch)
        seen = sum(len(batch["subject"]) for batch in batches)
        own = psutil.Process()
        counts.append(sum(each.num_fds() for each in [own, *own.children(recursive=True)]))
    print(seen, *counts)
"""  # the first epoch has started the workers


def test_files_stay_few(store: Path, tmp_path: Path) -> None:
    """A process that runs out of files gets `received 0 items of ancdata` of PyTorch, and no word of what it means."""
    script = tmp_path / "train.py"
    script.write_text(FEW_FILES)
    done = subprocess.run(
        [sys.executable, str(script), str(store)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    seen, *counts = map(int, done.stdout.split())
    assert seen == 120
    assert max(counts[1:]) <= counts[0] + 24  # batches that are on their way


def test_workers_import_what_reads_and_no_more(store: Path) -> None:
    """Each worker imports for itself: a cluster, or what writes, takes longer than many patches."""
    statement = """
import sys, isles24_zarr
cohort = isles24_zarr.open_cohort(sys.argv[1])
cohort.isles.torch_dataset("ncct", "cow_mask", patch=(4, 8, 8), within="brain")[0]
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", statement, str(store)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"tensorstore", "torch"} <= loaded
    assert loaded.isdisjoint({"distributed", "isles24_zarr.tasks", "isles24_zarr.conversion", "matplotlib"})


def test_a_store_that_is_read_through_threads(store: Path) -> None:
    """As that behind a URL is: volumes of a patch at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    found = isles24_zarr.open_cohort(store).isles.torch_dataset(
        ["ncct", "tmax", "cbf"], label_threshold=0.5, patch=PATCH, samples_per_subject=1
    )
    with ThreadPoolExecutor(4) as threads:
        for index in range(3):
            sample = found[index]
            subject = found._subjects[sample["subject"]]
            image, label = subject.patch(sample["origin"].tolist(), threads)
            np.testing.assert_array_equal(image, sample["image"].numpy())
            np.testing.assert_array_equal(label, sample["label"].numpy())
    assert S in found.plan.subjects
