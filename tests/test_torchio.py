"""Subjects of TorchIO against its own reader of files; lazy until asked; its queue, its grids, and back."""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import isles24_zarr
from isles24_zarr import errors
from tests.damage import spoil_chunks
from tests.framework_stores import FILES, UNKNOWN, S, awkward_release, converted, with_mask
from tests.servers import free_port, running_server

torch = pytest.importorskip("torch")
tio = pytest.importorskip("torchio")

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from distributed import Client

IMAGES = ["ncct", "ctp", "tmax"]


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return awkward_release(tmp_path_factory.mktemp("awkward") / "train")


@pytest.fixture(scope="module")
def awkward_store(awkward: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(awkward, tmp_path_factory.mktemp("awkward-store") / "isles24.zarr", client)


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


@pytest.fixture
def spawned() -> Iterator[None]:
    """The queue of TorchIO starts its workers as PyTorch does by default."""
    before = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    yield
    torch.multiprocessing.set_start_method(before, force=True)


def of_file(release: Path, subject: str, name: str) -> Any:
    """By TorchIO, with canonical axes; 65535 with a slope of 1/65535 is not quite 1."""
    path = release / FILES[name].format(subject)
    if name != "lesion_mask":
        return tio.ToCanonical()(tio.ScalarImage(path))
    image = tio.ScalarImage(path)
    image.set_data((image.data >= 0.5).to(torch.uint8))
    return tio.ToCanonical()(tio.LabelMap(tensor=image.data, affine=image.affine))


@pytest.mark.filterwarnings("ignore:Error loading image with SimpleITK")  # which takes no sheared axes
@pytest.mark.parametrize("kind", ["synthetic", "awkward"])
def test_images_are_those_of_torchio(release: Path, store: Path, awkward: Path, awkward_store: Path, kind: str) -> None:
    folder, place = (release, store) if kind == "synthetic" else (awkward, awkward_store)
    part = isles24_zarr.open_cohort(place).isles.select([S])
    (subject,) = part.isles.torchio_subjects(IMAGES, ["lesion_mask"], label_threshold=0.5)
    assert list(subject) == [*IMAGES, "lesion_mask", "subject"]
    for name in (*IMAGES, "lesion_mask"):
        found, wanted = subject[name], of_file(folder, S, name)
        assert isinstance(found, tio.LabelMap if name == "lesion_mask" else tio.ScalarImage)
        assert found.shape == wanted.shape
        assert found.orientation_str == "RAS"
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)
        np.testing.assert_array_equal(found.data.numpy(), wanted.data.numpy())
    subject.check_consistent_space()


def test_and_so_are_they_after_transforms(release: Path, cohort: xr.DataTree) -> None:
    together = tio.Compose(
        [
            tio.ToCanonical(),
            tio.Resample((5, 5, 8)),
            tio.Clamp(-100, 100),
            tio.RandomFlip(axes=(0, 1), flip_probability=1),
            tio.RandomAffine(degrees=10),
            tio.CropOrPad((32, 32, 12)),
        ]
    )
    dataset = tio.SubjectsDataset(cohort.isles.torchio_subjects(["ncct", "tmax"], label_threshold=0.5), together)
    for index, name in enumerate(cohort.isles.subjects):
        files = tio.Subject({key: of_file(release, name, key) for key in ("ncct", "tmax", "lesion_mask")})
        results = []
        for subject in (lambda i=index: dataset[i], lambda: together(files)):  # noqa: B023 - called at once
            torch.manual_seed(5)
            results.append(subject())
        found, wanted = results
        for key in files:
            np.testing.assert_allclose(found[key].affine, wanted[key].affine, atol=1e-3)
            difference = np.abs(found[key].data.numpy().astype(float) - wanted[key].data.numpy())
            assert np.nanmean(difference > 0.05) < 0.001  # of a border between voxels, either side may be nearest
        assert found["lesion_mask"].data.any()


def test_nothing_is_read_until_it_is_asked_for(cohort: xr.DataTree, reads: list[str]) -> None:
    subjects = cohort.isles.torchio_subjects(IMAGES, label_threshold=0.5)
    assert set(reads) == {f"{name}/zarr.json" for name in cohort.isles.subjects}  # who has what
    reads.clear()
    subject = copy.deepcopy(subjects[0])
    assert len(pickle.dumps(subject)) < 3000
    assert (subject.ncct.shape, subject.spatial_shape) == ((1, 48, 56, 12), (48, 56, 12))
    assert "StoredScalarImage" in repr(subject.ctp)
    subject.check_consistent_space()
    part = subject.ctp[4:9, -6:, 3]
    assert part.shape == (12, 5, 6, 1)
    again = part[1:3, :, :]
    assert again.shape == (12, 2, 6, 1)
    assert not any(image._loaded for image in (subject.ctp, part, again))
    for image, region in ((part, np.s_[:, 4:9, -6:, 3:4]), (again, np.s_[:, 5:7, -6:, 3:4])):
        affine = image.affine
        np.testing.assert_array_equal(image.data, subject.ctp.data[region])
        np.testing.assert_allclose(image.affine, affine)
        wanted = tio.ScalarImage(tensor=subject.ctp.data, affine=subject.ctp.affine)
        start = [region[axis].indices(wanted.shape[axis])[0] for axis in (1, 2, 3)]
        np.testing.assert_allclose(affine[:3, 3], (wanted.affine @ [*start, 1])[:3], atol=1e-9)
    subject.ctp.unload()
    assert subject.ctp.shape == (12, 48, 56, 12)


def test_slices_are_those_of_torchio(cohort: xr.DataTree) -> None:
    lazy, read = (cohort.isles.torchio_subjects("tmax", None)[0] for _ in range(2))
    read.load()
    assert lazy.tmax[-1].shape == (1, 1, 56, 12)  # of which TorchIO itself takes no voxel
    for item in (3, slice(2, 7), (slice(None), 4), (slice(-9, -2), slice(3, None), slice(0, 5))):
        found, wanted = lazy.tmax[item], read.tmax[item]
        assert not found._loaded
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found.data, wanted.data)
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-9)
    whole = lazy[4:20, 4:20, 2:8]
    np.testing.assert_array_equal(whole["tmax"].data, read.tmax.data[:, 4:20, 4:20, 2:8])
    for item in (slice(0, 9, 2), (Ellipsis, 3)):
        with pytest.raises((ValueError, NotImplementedError)):
            lazy.tmax[item]


def test_a_slice_reads_its_chunks_alone(store: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy.zarr"
    shutil.copytree(store, copied)
    assert spoil_chunks(copied / S / "space-ncct/ncct", but={(1, 0, 0)}) == 1  # chunks are (6, 56, 48) along z, y, x
    subject = isles24_zarr.open_cohort(copied).isles.torchio_subjects("ncct", None)[0]
    whole = isles24_zarr.open_cohort(store).isles.torchio_subjects("ncct", None)[0]
    np.testing.assert_array_equal(subject.ncct[:, :, 6:].data, whole.ncct.data[..., 6:])
    with pytest.raises(errors.StoreDamageError, match=f"{S}/space-ncct/ncct/c.* has a damaged chunk"):
        subject.ncct[:, :, 5:].load()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("spawned")
def test_a_queue_of_patches(cohort: xr.DataTree, workers: int) -> None:
    subjects = cohort.isles.torchio_subjects(["ncct", "tmax"], label_threshold=0.5)
    dataset = tio.SubjectsDataset(subjects, tio.RandomFlip(axes=0))
    for sampler, marked in ((tio.UniformSampler(8), False), (tio.LabelSampler(8, "lesion_mask"), True)):
        queue = tio.Queue(dataset, 12, 4, sampler, num_workers=workers)
        batches = list(tio.SubjectsLoader(queue, batch_size=6))
        assert [batch["ncct"]["data"].shape for batch in batches] == [(6, 1, 8, 8, 8)] * 2
        assert sorted(set(batches[0]["subject"] + batches[1]["subject"])) == cohort.isles.subjects
        if marked:
            assert all(patch.any() for batch in batches for patch in batch["lesion_mask"]["data"])


def test_a_grid_of_patches_and_back_into_the_store(release: Path, client: Client, tmp_path: Path) -> None:
    cohort = isles24_zarr.open_cohort(converted(release, tmp_path / "isles24.zarr", client))
    subject = cohort.isles.torchio_subjects(["tmax"], label_threshold=0.5)[0]
    prepare = tio.Compose([tio.ToOrientation("LPS"), tio.CropOrPad((52, 60, 16))])
    sampler = tio.GridSampler(prepare(subject), (16, 16, 8), (4, 4, 2))
    aggregator = tio.GridAggregator(sampler, overlap_mode="hann")
    for batch in tio.SubjectsLoader(sampler, batch_size=4):
        aggregator.add_batch((batch["tmax"]["data"] > 6).float(), batch["location"])
    ready = prepare(subject)
    ready.add_image(tio.ScalarImage(tensor=aggregator.get_output_tensor(), affine=ready.tmax.affine), "prediction")
    scan = cohort.isles.scan(S)
    with pytest.raises(errors.OtherGridError, match=r"has 52 x 60 x 16 voxels .* apply_inverse_transform of TorchIO"):
        scan.isles.from_torchio(ready.prediction)
    back = ready.apply_inverse_transform(warn=False)
    late = scan.isles.from_torchio(back.prediction, "late") > 0.5
    np.testing.assert_array_equal(late, scan["tmax"] > 6)
    mask = scan.isles.from_torchio(back.lesion_mask, "mask")
    assert mask.dtype == np.uint8
    saved = scan.isles.save([late, mask], "thresholds")
    np.testing.assert_array_equal(saved["late"], scan["tmax"] > 6)
    again = cohort.isles.torchio_subjects({"image": "tmax"}, {"late": "thresholds/late"}, missing="skip")
    assert list(again.skipped) == cohort.isles.subjects[1:]
    np.testing.assert_array_equal(again[0].late.data[0], saved["late"].transpose("x", "y", "z"))


@pytest.mark.parametrize("subject", [S, UNKNOWN])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_there_and_back_in_any_orientation(awkward_store: Path, subject: str, codes: str) -> None:
    scan = isles24_zarr.open_scan(awkward_store, subject)
    turned = tio.ToOrientation(codes)(scan.isles.to_torchio(["tmax", "ctp"], "cow_mask"))
    assert turned["subject"] == subject
    for name in ("tmax", "ctp", "cow_mask"):
        found = scan.isles.from_torchio(turned[name], name)
        np.testing.assert_array_equal(found, scan[name])
        assert found.dims == scan[name].dims
    part = scan.isel(x=slice(2, 9), z=slice(1, None, 2))
    image = part.assign(late=part["tmax"] > 6).isles.to_torchio("tmax", "late")
    assert image.tmax.shape == (1, 7, 16, 5)
    np.testing.assert_array_equal(image.late.data[0], (part["tmax"] > 6).transpose("x", "y", "z"))
    np.testing.assert_array_equal(part.isles.from_torchio(image.tmax), part["tmax"])


def test_over_http(store: Path, cohort: xr.DataTree, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(store.parent)]
    with running_server(command, port=port, log=tmp_path / "log"):
        remote = isles24_zarr.open_cohort(f"http://127.0.0.1:{port}/{store.name}")
        subject = tio.SubjectsDataset(remote.isles.torchio_subjects("tmax", None))[1]
        # what is behind a URL is no file, which TorchIO asks for when it crops and copies
        patch = next(iter(tio.UniformSampler(8)(subject)))
        copied = copy.copy(subject.tmax)
    wanted = cohort.isles.torchio_subjects("tmax", None)[1].tmax
    np.testing.assert_array_equal(subject.tmax.data, wanted.data)
    np.testing.assert_array_equal(copied.data, wanted.data)
    assert patch.tmax.shape == (1, 8, 8, 8)


def test_labels_of_masks_of_fractions(release: Path, client: Client, tmp_path: Path) -> None:
    soft = converted(with_mask(release, tmp_path / "soft", np.float32(0.6)), tmp_path / "soft.zarr", client)
    part = isles24_zarr.open_cohort(soft)
    with pytest.warns(errors.SoftMaskWarning, match="0.5 and more"):
        found = part.isles.torchio_subjects("ncct")[0].lesion_mask.data
    assert (found.dtype, set(found.unique().tolist())) == (torch.uint8, {0, 1})
    assert not part.isles.torchio_subjects("ncct", label_threshold=0.7)[0].lesion_mask.data.any()
    with pytest.raises(errors.MaskError):
        part.isles.scan(S).isles.to_torchio("lesion_mask", "ncct").ncct.load()


def test_what_cannot_be_asked_for(cohort: xr.DataTree) -> None:
    scan = cohort.isles.scan(S)
    for call, words in (
        (lambda: cohort.isles.torchio_subjects("t1w"), "'t1w': is no image"),
        (lambda: cohort.isles.torchio_subjects([]), "images: has no image"),
        (lambda: cohort.isles.torchio_subjects("ncct", "ncct"), "has the name 'ncct' twice"),
        (lambda: scan.isles.to_torchio("t1w"), "scan: has no t1w; there are ncct"),
        (lambda: scan.isles.from_torchio(torch.zeros(1, 2, 2, 2)), "is a Tensor, which has no affine"),
        (
            lambda: scan.isles.from_torchio(tio.ScalarImage(tensor=torch.zeros(3, 48, 56, 12))),
            r"has the shape \(3, 48, 56, 12\); give one channel",
        ),
    ):
        with pytest.raises(errors.UnknownNameError, match=words):
            call()


def test_without_torchio(cohort: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "isles24_zarr.training.torchio_subjects", raising=False)
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(errors.MissingExtraError, match=r"isles24-zarr\[torchio\]"):
        cohort.isles.torchio_subjects("ncct")
