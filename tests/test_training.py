"""Patches against nibabel, and the DataLoader of PyTorch in processes of every kind."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.cohorts.opening import cohort_target, cohort_tree
from isles24_zarr.training import _patches as patches
from isles24_zarr.training._subjects import Subjects
from tests.damage import spoil_chunks
from tests.nifti_files import write

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

S = "sub-stroke0001"
FILES = {
    "ncct": "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    "tmax": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_tmax.nii.gz",
    "lesion_mask": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
}
PATCH = (4, 16, 20)


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


def canonical(release: Path, subject: str, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Voxels (z, y, x) and affine, by nibabel."""
    image = nib.as_closest_canonical(nib.load(release / FILES[name].format(subject)))
    found = np.asarray(image.dataobj).T
    return (found >= 0.5).astype(np.uint8) if name == "lesion_mask" else found, image.affine


def test_patches_are_those_of_the_files(release: Path, cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset(
        ["ncct", "tmax"], "lesion_mask", label_threshold=0.5, patch=PATCH, samples_per_subject=5
    )
    assert isinstance(found, torch.utils.data.Dataset)
    assert len(found) == 15
    for index in range(len(found)):
        sample = found[index]
        subject = cohort.isles.subjects[index // 5]
        assert sample["subject"] == subject
        region = tuple(slice(int(at), int(at) + size) for at, size in zip(sample["origin"], PATCH, strict=True))
        for place, name in ((0, "ncct"), (1, "tmax")):
            voxels, affine = canonical(release, subject, name)
            np.testing.assert_array_equal(sample["image"][place].numpy(), voxels[region].astype(np.float32))
        label, _ = canonical(release, subject, "lesion_mask")
        np.testing.assert_array_equal(sample["label"].numpy(), label[region][None])
        assert sample["image"].shape == (2, *PATCH)
        assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.int64)
        first = nib.affines.apply_affine(affine, sample["origin"].numpy()[::-1])
        np.testing.assert_allclose(sample["affine"][:3, 3], first, atol=1e-4)
        np.testing.assert_allclose(sample["affine"][:3, :3], affine[:3, :3], atol=1e-6)
    assert found[-1]["subject"] == cohort.isles.subjects[-1]
    with pytest.raises(IndexError):
        found[15]


def test_lesions_are_sampled_as_often_as_asked_and_each_voxel_alike(release: Path, cohort: xr.DataTree) -> None:
    part = cohort.isles.select(f"subject == '{S}'")
    label, _ = canonical(release, S, "lesion_mask")
    lesion = {tuple(voxel) for voxel in np.argwhere(label).tolist()}

    def centres(fraction: float, count: int) -> list[tuple[int, ...]]:
        # a patch of one voxel is its own centre
        found = part.isles.torch_dataset(
            "ncct", label_threshold=0.5, patch=(1, 1, 1), samples_per_subject=count, lesion_fraction=fraction, seed=3
        )
        return [tuple(found[index]["origin"].tolist()) for index in range(count)]

    seen = centres(1.0, 12 * len(lesion))
    assert set(seen) == lesion
    counts = np.array([seen.count(voxel) for voxel in lesion])
    # chi-square of a uniform choice: its mean is the number of voxels less one, its variance twice that
    freedom = len(lesion) - 1
    assert abs(((counts - 12) ** 2 / 12).sum() - freedom) < 5 * np.sqrt(2 * freedom)
    assert len(set(centres(0.0, 200)) & lesion) < 20
    half = sum(centre in lesion for centre in centres(0.5, 400))
    assert 160 < half < 250
    whole = np.array(centres(0.0, 600))
    assert whole.min(axis=0).tolist() == [0, 0, 0]
    assert (whole.max(axis=0) == np.array(label.shape) - 1).all()


def test_patches_around_lesions_hold_them_and_stay_inside(release: Path, cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset(
        "ncct", label_threshold=0.5, patch=PATCH, samples_per_subject=20, lesion_fraction=1
    )
    for index in range(0, 60, 7):
        sample = found[index]
        assert sample["label"].any()
        shape = canonical(release, sample["subject"], "ncct")[0].shape
        assert all(0 <= at <= count - size for at, size, count in zip(sample["origin"], PATCH, shape, strict=True))


def test_a_volume_smaller_than_the_patch_lies_in_its_middle(release: Path, cohort: xr.DataTree) -> None:
    shape = (17, 16, 60)
    found = cohort.isles.torch_dataset("ncct", label_threshold=0.5, patch=shape, pad_value=-1024, lesion_fraction=0)
    sample = found[0]
    voxels, affine = canonical(release, S, "ncct")
    assert voxels.shape == (12, 56, 48)
    z, y, x = sample["origin"].tolist()
    assert (z, x) == (-2, -6)
    inside = np.s_[2:14, :, 6:54]
    np.testing.assert_array_equal(sample["image"][0].numpy()[inside], voxels[:, y : y + 16])
    outside = np.ones(shape, dtype=bool)
    outside[inside] = False
    assert (sample["image"][0].numpy()[outside] == -1024).all()
    assert sample["label"].shape == (1, *shape)
    assert not sample["label"].numpy()[0][outside].any()
    np.testing.assert_allclose(sample["affine"][:3, 3], nib.affines.apply_affine(affine, [x, y, z]), atol=1e-4)


def test_a_sample_depends_on_seed_epoch_and_index(cohort: xr.DataTree) -> None:
    def origins(seed: int, epoch: int) -> list[list[int]]:
        found = cohort.isles.torch_dataset("ncct", label_threshold=0.5, patch=PATCH, seed=seed)
        found.set_epoch(epoch)
        assert found.epoch == epoch
        return [found[index]["origin"].tolist() for index in (5, 0, 20)]

    first = origins(0, 0)
    assert origins(0, 0) == first
    assert origins(0, 1) != first
    assert origins(1, 0) != first


def test_a_patch_reads_its_chunks_alone(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    # chunks are (6, 56, 48): two along z
    assert spoil_chunks(copy / S / "space-ncct/ncct", but={(1, 0, 0)}) == 1
    found = isles24_zarr.open_cohort(copy).isles.torch_dataset(
        "ncct", label_threshold=0.5, patch=(3, 9, 9), samples_per_subject=30
    )
    whole = isles24_zarr.open_cohort(store).isles.torch_dataset(
        "ncct", label_threshold=0.5, patch=(3, 9, 9), samples_per_subject=30
    )
    above = [index for index in range(30) if whole[index]["origin"][0] >= 6]
    assert 0 < len(above) < 30
    for index in range(30):
        if index in above:
            assert torch.equal(found[index]["image"], whole[index]["image"])
        else:
            with pytest.raises(errors.StoreDamageError, match=f"{S}/.*ncct/c/.* has a damaged chunk"):
                found[index]


def test_labels_are_read_once_and_kept_as_counts(release: Path, cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset("ncct", label_threshold=0.5, patch=PATCH)
    around = Subjects(found.plan)[S].around
    assert around is not None
    counts = around[1]
    label, _ = canonical(release, S, "lesion_mask")
    assert np.diff(counts.totals, prepend=0).tolist() == [np.count_nonzero(half) for half in (label[:6], label[6:])]
    assert len(pickle.dumps(counts)) < 1000


class Doubled:
    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "image": sample["image"] * 2}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:this process was forked:isles24_zarr.errors.SlowReadWarning")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_worker_processes(cohort: xr.DataTree, method: str) -> None:
    found = cohort.isles.torch_dataset(
        ["ncct", "tmax"], label_threshold=0.5, patch=PATCH, samples_per_subject=2, transform=Doubled()
    )
    wanted = []
    for epoch in (0, 1):
        found.set_epoch(epoch)
        wanted.append([found[index] for index in range(len(found))])  # threads have run before the fork
    found.set_epoch(0)
    assert len(pickle.dumps(found)) < 10_000
    loader = torch.utils.data.DataLoader(
        found, batch_size=2, num_workers=2, multiprocessing_context=method, persistent_workers=True, timeout=60
    )
    for epoch in (0, 1):
        found.set_epoch(epoch)
        batches = list(loader)
        subjects = [name for batch in batches for name in batch["subject"]]
        assert subjects == [sample["subject"] for sample in wanted[epoch]]
        for key in ("image", "label", "origin", "affine"):
            assert torch.equal(
                torch.cat([batch[key] for batch in batches]), torch.stack([s[key] for s in wanted[epoch]])
            )
    del loader


def test_who_lacks_an_image(cohort: xr.DataTree) -> None:
    table = cohort["phenotype"].to_dataset().copy(deep=True)
    table["available"].loc[{"subject": S, "image": "tmax"}] = False
    part = cohort_tree(table, {}, cohort_target(cohort))
    with pytest.raises(errors.UnknownNameError, match=f"{S}: has no tmax; give missing='skip'"):
        part.isles.torch_dataset("tmax", patch=PATCH)
    found = part.isles.torch_dataset("tmax", label_threshold=0.5, patch=PATCH, missing="skip")
    assert found.skipped == {S: "has no tmax"}
    assert found.plan.subjects == tuple(cohort.isles.subjects[1:])
    assert found[0]["subject"] == cohort.isles.subjects[1]
    table["available"].loc[{"image": "tmax"}] = False
    with pytest.raises(errors.UnknownNameError, match="no subject with all"):
        cohort_tree(table, {}, cohort_target(cohort)).isles.torch_dataset("tmax", patch=PATCH, missing="skip")


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (["ctp"], {}, "is a series over time"),
        (["t1w"], {}, "is no image"),
        ([], {}, "images"),
        (["ncct"], {"patch": (4, 4)}, "patch"),
        (["ncct"], {"lesion_fraction": 1.5}, "lesion_fraction"),
        (["ncct"], {"samples_per_subject": 0, "seed": -1}, "samples_per_subject, seed"),
    ],
)
def test_what_cannot_be_drawn(cohort: xr.DataTree, images: list[str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.UnknownNameError, match=words):
        cohort.isles.torch_dataset(images, **{"patch": PATCH, **options})


def test_an_image_on_another_grid_is_an_error(cohort: xr.DataTree) -> None:
    with pytest.raises(errors.UnknownNameError, match=f"{S}: has no ncct, lesion_mask in space-ctp, as 2 more"):
        cohort.isles.torch_dataset(["ncct"], patch=PATCH, space="ctp")
    with pytest.raises(errors.UnknownNameError, match="no subject with all of these images"):
        cohort.isles.torch_dataset(["ncct"], patch=PATCH, space="nowhere", missing="skip")


def test_an_image_that_is_there_on_another_grid_alone_is_missing(release: Path, client: Client, tmp_path: Path) -> None:
    """The raw CTA is there, the registered one is not: whoever asks for the latter skips the subject."""
    part = shutil.copytree(release, tmp_path / "train")
    (part / f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_cta.nii.gz").unlink()
    target = tmp_path / "part.zarr"
    isles24_zarr.convert(part, target, images=["ncct", "cta", "lesion_mask"], client=client, progress=False)
    cohort = isles24_zarr.open_cohort(target)
    assert cohort["phenotype"].to_dataset()["available"].sel(subject=S, image="cta")
    images = ["ncct", "cta"]
    ours = cohort.isles.torch_dataset(images, patch=PATCH, missing="skip", label_threshold=0.5)
    assert ours.skipped == {S: "has no cta"}
    assert ours[0]["subject"] != S
    report = cohort.isles.to_nnunet(tmp_path / "Dataset031_part", images, progress=False)
    assert (report.skipped, report.ok) == ({S: "has no cta"}, True)
    with pytest.raises(errors.UnknownNameError, match=f"{S}: has no cta; give missing='skip'"):
        cohort.isles.torch_dataset(images, patch=PATCH)


def test_without_torch(cohort: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "isles24_zarr.training.torch_patches", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.MissingExtraError, match=r"isles24-zarr\[torch\]"):
        cohort.isles.torch_dataset("ncct", patch=PATCH)


# --- MONAI ---


def test_a_pipeline_of_monai_turns_image_and_label_alike(cohort: xr.DataTree) -> None:
    """The mask is a channel of the image, too: whatever is flipped, turned and cropped, both stay the same."""
    transforms = pytest.importorskip("monai.transforms")
    keys = ["image", "label"]
    pipeline = transforms.Compose(
        [
            *(transforms.RandFlipd(keys=keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            transforms.RandRotate90d(keys=keys, prob=0.5, spatial_axes=(1, 2)),
            transforms.RandAffined(
                keys=keys, prob=1, rotate_range=(0.3, 0, 0), mode=("nearest", "nearest"), padding_mode="zeros"
            ),
            transforms.RandCropByPosNegLabeld(
                keys=keys, label_key="label", spatial_size=(4, 12, 12), pos=1, neg=0, num_samples=2
            ),
        ]
    ).set_random_state(seed=0)
    found = cohort.isles.torch_dataset(
        ["cow_mask", "ncct"],
        "cow_mask",
        patch=(6, 24, 24),
        samples_per_subject=4,
        lesion_fraction=1,
        transform=pipeline,
    )
    seen = 0
    for index in range(12):
        for crop in found[index]:
            assert crop["label"].shape == (1, 4, 12, 12)
            image, label = (np.asarray(crop[key]) for key in keys)
            np.testing.assert_array_equal(image[0], label[0])
            seen += int(label.sum())
    assert seen


def test_batches_of_monai(cohort: xr.DataTree) -> None:
    data = pytest.importorskip("monai.data")
    losses = pytest.importorskip("monai.losses")
    found = cohort.isles.torch_dataset(["ncct", "tmax"], label_threshold=0.5, patch=PATCH, lesion_fraction=1)
    batch = next(iter(data.DataLoader(found, batch_size=3)))
    assert (batch["image"].shape, batch["label"].shape) == ((3, 2, *PATCH), (3, 1, *PATCH))
    assert set(np.unique(batch["label"])) == {0, 1}
    perfect = losses.DiceLoss(include_background=True)(batch["label"].float(), batch["label"])
    assert float(perfect) == pytest.approx(0, abs=1e-4)


def test_labels_of_masks_as_the_release_has_them(release: Path, client: Any, tmp_path: Path) -> None:
    """0 and 65535 with a slope of 1/65535, fractions, and what has no labels."""
    kinds = {
        "scaled": (np.uint16(65535), 1 / 65535),
        "soft": (np.float32(0.9), 0.0),
        "other": (np.float32(-1), 0.0),
    }
    for kind, (value, slope) in kinds.items():
        source = tmp_path / kind
        for name in ("ncct", "lesion_mask"):
            (source / FILES[name].format(S)).parent.mkdir(parents=True)
        shutil.copy(release / FILES["ncct"].format(S), source / FILES["ncct"].format(S))
        image: Any = nib.load(release / FILES["lesion_mask"].format(S))
        inside = np.asarray(image.dataobj) > 0.5
        write(source / FILES["lesion_mask"].format(S), inside * value, image.affine, scl_slope=slope)
        isles24_zarr.convert(source, tmp_path / f"{kind}.zarr", client=client, progress=False)
        part = isles24_zarr.open_cohort(tmp_path / f"{kind}.zarr")
        options: dict[str, Any] = {"patch": PATCH, "lesion_fraction": 1, "samples_per_subject": 6}
        found = part.isles.torch_dataset("ncct", **options)
        if kind == "other":
            with pytest.raises(errors.MaskError, match="negative"):
                found[0]
            continue
        if kind == "soft":
            with pytest.warns(errors.SoftMaskWarning, match="0.5 and more"):
                found[0]
            found = part.isles.torch_dataset("ncct", label_threshold=0.7, **options)
            assert not part.isles.torch_dataset("ncct", label_threshold=0.95, **options)[0]["label"].any()
        label = np.asarray(nib.as_closest_canonical(nib.Nifti1Image(inside.astype(np.uint8), image.affine)).dataobj).T
        for index in range(6):
            sample = found[index]
            region = tuple(slice(int(at), int(at) + size) for at, size in zip(sample["origin"], PATCH, strict=True))
            assert sample["label"].any()
            np.testing.assert_array_equal(sample["label"][0].numpy(), label[region])


def test_no_fraction_becomes_a_whole_number() -> None:
    with pytest.raises(TypeError, match="same_kind"):
        patches.fill_patch(np.zeros(PATCH, np.int64), PATCH, (0, 0, 0), lambda start, size: np.full(size, 0.5))  # noqa: ARG005
