"""What patches are made of: channels, labels, spacings, brains, whole volumes, grids; against nibabel and SciPy."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.training import Channel
from isles24_zarr.training._subjects import Subjects
from tests.test_training import PATCH, S, canonical

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from pathlib import Path

SPACING = (2.9, 1.7, 1.3)


@pytest.fixture(scope="module")
def cohort(store: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    """The cohort, with results of one pipeline of all subjects but the last."""
    import shutil

    copy = tmp_path_factory.mktemp("results") / "isles24.zarr"
    shutil.copytree(store, copy)
    found = isles24_zarr.open_cohort(copy)
    for subject in found.isles.subjects[:-1]:
        scan = found.isles.scan(subject)
        late = (scan["tmax"] > 6).rename("late")
        scan.isles.save({"late": late, "doubled": scan["ncct"] * 2}, "mine", sources=["tmax", "ncct"])
    return found


def region_of(sample: dict[str, Any], shape: tuple[int, ...] = PATCH) -> tuple[slice, ...]:
    return tuple(slice(int(at), int(at) + size) for at, size in zip(sample["origin"], shape, strict=True))


def standardized(scan: xr.Dataset) -> xr.DataArray:
    """Whose mean and deviation are lazy."""
    image = scan["ncct"].astype("float64")
    return (image - image.mean()) / image.std()


def doubled(scan: xr.Dataset) -> xr.DataArray:
    return scan["ncct"].transpose("x", "y", "z") * 2.0


def bright(scan: xr.Dataset) -> xr.DataArray:
    return scan["ncct"] > 30


# --- channels ---


def test_frames_results_and_windows(release: Path, cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset(
        {"ncct": "ncct", "first": "ctp[1]", "last": "ctp[-1]", "late": "mine/late", "tmax": "tmax"},
        label="mine/late",
        patch=PATCH,
        windows={"ncct": "stroke", "tmax": (0, 7)},
        missing="skip",
    )
    last = cohort.isles.subjects[-1]
    assert found.skipped == {last: "has no mine/late"}
    (series,) = release.glob(f"**/{S}_*space-ncct_ctp.nii.gz")
    frames = np.asarray(nib.as_closest_canonical(nib.load(series)).dataobj).T
    ncct, tmax = (canonical(release, S, name)[0] for name in ("ncct", "tmax"))
    sample = found[0]
    region = region_of(sample)
    image = sample["image"].numpy()
    low, high = isles24_zarr.training.channels_of("ncct", {"ncct": "stroke"})[0].window
    np.testing.assert_array_equal(image[0], np.clip(ncct[region], low, high).astype(np.float32))
    np.testing.assert_array_equal(image[1], frames[1][region].astype(np.float32))
    np.testing.assert_array_equal(image[2], frames[-1][region].astype(np.float32))
    np.testing.assert_array_equal(image[3], tmax[region] > 6)
    np.testing.assert_array_equal(image[4], np.clip(tmax[region], 0, 7))
    np.testing.assert_array_equal(sample["label"][0].numpy(), tmax[region] > 6)


def test_functions_of_the_whole_volume(release: Path, cohort: xr.DataTree) -> None:
    scaled = Channel(name="scaled", function=doubled, window=(0, 100), unit=True)
    found = cohort.isles.torch_dataset([standardized, scaled], label=bright, patch=PATCH, samples_per_subject=3)
    assert [channel.name for channel in found.plan.channels] == ["standardized", "scaled"]
    for index in range(0, 9, 2):
        sample = found[index]
        voxels = canonical(release, sample["subject"], "ncct")[0].astype(np.float64)
        region = region_of(sample)
        wanted = ((voxels - voxels.mean()) / voxels.std())[region]
        np.testing.assert_allclose(sample["image"][0].numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sample["image"][1].numpy(), np.clip(voxels[region] * 2, 0, 100) / 100, atol=1e-6)
        np.testing.assert_array_equal(sample["label"][0].numpy(), voxels[region] > 30)


def test_functions_are_called_once_for_each_subject(cohort: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isles24_zarr.training._subjects._OPEN_SUBJECTS", 1)
    called = []

    def function(scan: xr.Dataset) -> xr.DataArray:
        called.append(str(scan["subject"].values))
        assert scan["ncct"].chunks
        return scan["ncct"] + 1

    found = cohort.isles.torch_dataset(function, None, patch=PATCH, samples_per_subject=2)
    for index in (0, 2, 4, 1, 3, 5):  # of all that are closed in between
        found[index]
    assert called == cohort.isles.subjects


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda scan: scan["ctp"], "no DataArray"),
        (lambda scan: scan["ncct"].values, "returned ndarray, no DataArray"),
        (lambda scan: scan[["ncct"]], "no DataArray"),
        (lambda scan: scan["ncct"][1:], "on another grid"),
        (lambda scan: scan["ncct"].drop_vars(["x", "y", "z"]), "coordinates"),
    ],
)
def test_functions_that_return_no_volume(cohort: xr.DataTree, function: Any, words: str) -> None:
    found = cohort.isles.torch_dataset({"mine": function}, None, patch=PATCH)
    with pytest.raises(errors.GeometryError, match=rf"^{S}, .*{words}"):
        found[0]


def test_an_error_in_a_function_is_its_own(cohort: xr.DataTree) -> None:
    def failing(scan: xr.Dataset) -> xr.DataArray:
        raise ZeroDivisionError(scan.sizes["z"])

    with pytest.raises(ZeroDivisionError) as caught:
        cohort.isles.torch_dataset(failing, None, patch=PATCH)[0]
    assert caught.value.__notes__ == [f"in the function of {S}, channel 'failing'"]


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ("ncct", {"label": "mine/late"}, "has no mine/late; give missing='skip'"),
        ("theirs/late", {"label": None}, "pipeline 'theirs': is not in .* the pipelines: mine"),
        ("ncct", {"label": Channel(name="lesion_mask", image="lesion_mask", window=(0, 1))}, "has a window"),
        ("ncct", {"label": ["lesion_mask", "lvo_mask"], "around": "cow_mask"}, "there are lesion_mask, lvo_mask"),
        ("ncct", {"spacing": (1, 1)}, "spacing"),
        ("ncct", {"spacing": (1, 0, 1), "stride": (0, 1, 1)}, "stride, spacing"),
        ("ncct", {"patch": None, "stride": (1, 1, 1)}, "whole volumes"),
        ("ncct", {"within": "skull"}, "is no image"),
    ],
)
def test_what_does_not_go_together(cohort: xr.DataTree, images: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.UnknownNameError, match=words):
        cohort.isles.torch_dataset(images, **{"patch": PATCH, **options})


def test_a_frame_that_is_not_there(cohort: xr.DataTree) -> None:
    with pytest.raises(errors.UnknownNameError, match=rf"ctp\[9999\]: does not exist, {S} has \d+ frames"):
        cohort.isles.torch_dataset("ctp[9999]", None, patch=PATCH)[0]


# --- labels ---


def test_without_a_label(release: Path, cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset("ncct", None, patch=PATCH, lesion_fraction=1)
    places = set()
    for index in range(len(found)):
        sample = found[index]
        assert sorted(sample) == ["affine", "image", "origin", "subject"]
        voxels = canonical(release, sample["subject"], "ncct")[0]
        np.testing.assert_array_equal(sample["image"][0].numpy(), voxels[region_of(sample)].astype(np.float32))
        places.add(tuple(sample["origin"].tolist()))
    assert len(places) > 12


def test_several_labels(cohort: xr.DataTree) -> None:
    names = ["cow_mask", "lesion_mask"]
    options: dict[str, Any] = {"patch": (1, 1, 1), "lesion_fraction": 1, "label_threshold": 0.5}
    alone = {name: cohort.isles.torch_dataset("ncct", name, **options) for name in names}
    for around in (None, *names):
        found = cohort.isles.torch_dataset("ncct", names, around=around, **options)
        same = alone[around or names[0]]
        for index in range(0, 24, 5):
            sample = found[index]
            assert sample["label"].shape == (2, 1, 1, 1)
            assert torch.equal(sample["origin"], same[index]["origin"])
            assert sample["label"][names.index(around or names[0])].item() > 0
    big = cohort.isles.torch_dataset("ncct", names, patch=None, label_threshold=0.5)[0]["label"].numpy()
    scan = cohort.isles.scan(S)
    for number, name in enumerate(names):
        np.testing.assert_array_equal(big[number], scan[name].isles.labels(threshold=0.5).values)


# --- spacing ---


def by_scipy(release: Path, subject: str, name: str, affine: Any, shape: tuple[int, ...], order: int) -> Any:
    """Sample the whole volume where a patch lies; outside NaN, or 0."""
    voxels, own = canonical(release, subject, name)
    matrix = np.linalg.inv(own) @ affine
    found = scipy.ndimage.affine_transform(
        voxels.T.astype(np.float64), matrix[:3, :3], matrix[:3, 3], shape[::-1], order=order, mode="nearest"
    )
    # the affines of nibabel are float32: a first or last voxel may be beyond the end by as much
    places = nib.affines.apply_affine(matrix, np.moveaxis(np.indices(shape[::-1]), 0, -1))
    inside = ((places > -1e-3) & (places < np.array(voxels.T.shape) - 1 + 1e-3)).all(axis=-1)
    return np.where(inside, found, np.nan if order else 0).T


@pytest.mark.parametrize("spacing", [SPACING, (0.83, 0.71, 3.3), (7.3, 11.1, 0.37)])
def test_patches_at_another_spacing(release: Path, cohort: xr.DataTree, spacing: tuple[float, ...]) -> None:
    shape = (5, 9, 11)
    found = cohort.isles.torch_dataset(
        ["ncct", "tmax"], label_threshold=0.5, patch=shape, spacing=spacing, pad_value=np.nan, samples_per_subject=6
    )
    for index in range(len(found)):
        sample = found[index]
        affine = sample["affine"].numpy()
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0)[::-1], spacing)
        for number, name in enumerate(("ncct", "tmax")):
            wanted = by_scipy(release, sample["subject"], name, affine, shape, 1)
            np.testing.assert_allclose(sample["image"][number].numpy(), wanted, rtol=1e-5, atol=1e-3)
        label = by_scipy(release, sample["subject"], "lesion_mask", affine, shape, 0)
        np.testing.assert_array_equal(sample["label"][0].numpy(), label)


def test_it_is_what_resample_like_gives(cohort: xr.DataTree) -> None:
    """Of a whole volume, on a grid whose voxel 0 is where it was."""
    found = cohort.isles.torch_dataset(["tmax"], label_threshold=0.5, patch=None, spacing=SPACING)[1]
    scan = cohort.isles.scan(found["subject"])
    shape = found["image"].shape[1:]
    axes = {
        name: xr.Variable(
            name, float(scan[name][0]) + wanted * np.arange(count), scan[name].attrs | {"spacing": wanted}
        )
        for name, wanted, count in zip("zyx", SPACING, shape, strict=True)
    }
    reference = xr.DataArray(np.zeros(shape), dims=list("zyx"), coords=axes, attrs=scan["tmax"].attrs)
    np.testing.assert_allclose(reference.isles.affine, found["affine"].numpy(), atol=1e-9)
    reach = [(count - 1) * size for count, size in zip(shape, SPACING, strict=True)]
    whole = [(scan.sizes[name] - 1) * size for name, size in zip("zyx", scan.isles.spacing[::-1], strict=True)]
    left = np.subtract(whole, reach)
    assert (left > -1e-6).all()
    assert (left < SPACING).all()
    linear = scan["tmax"].isles.resample_like(reference, method="linear").values
    np.testing.assert_allclose(found["image"][0].numpy(), linear, rtol=1e-5, atol=1e-4)
    label = scan["lesion_mask"].isles.labels(threshold=0.5).isles.resample_like(reference).values
    np.testing.assert_array_equal(found["label"][0].numpy(), label)


def test_its_own_spacing_changes_nothing(cohort: xr.DataTree) -> None:
    part = cohort.isles.select(f"subject == '{S}'")
    own = cohort.isles.scan(S).isles.spacing[::-1]
    options: dict[str, Any] = {"label_threshold": 0.5, "patch": PATCH}
    plain, found = (part.isles.torch_dataset("ncct", spacing=spacing, **options) for spacing in (None, own))
    for index in range(8):
        for key in ("image", "label", "origin", "affine"):
            assert torch.equal(plain[index][key], found[index][key])


def test_patches_around_lesions_at_another_spacing(cohort: xr.DataTree) -> None:
    """A voxel of the lesion is the middle: its place is known to half a voxel of the patch."""
    found = cohort.isles.torch_dataset(
        "ncct", label_threshold=0.5, patch=(1, 1, 1), spacing=(1.3, 0.9, 0.9), lesion_fraction=1
    )
    for index in range(0, 24, 3):
        sample = found[index]
        scan = cohort.isles.scan(sample["subject"])
        labels = scan["lesion_mask"].isles.labels(threshold=0.5).values
        voxels = nib.affines.apply_affine(scan.isles.affine, np.argwhere(labels)[:, ::-1])
        direction = scan.isles.affine[:3, :3] / scan.isles.spacing
        away = np.abs((voxels - sample["affine"].numpy()[:3, 3]) @ np.linalg.inv(direction).T)
        assert (away <= np.array([0.45, 0.45, 0.65]) + 1e-9).all(axis=1).any()


def test_a_small_volume_is_padded_at_another_spacing(cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset("ncct", None, patch=(60, 30, 30), spacing=(3, 3, 3), pad_value=-5)
    sample = found[0]
    scan = cohort.isles.scan(S)
    depth = int((scan.sizes["z"] - 1) * scan.isles.spacing[2] / 3 + 1e-6) + 1
    assert depth < 60
    first = (60 - depth) // 2
    assert sample["origin"][0].item() == -first
    outside = np.ones(60, dtype=bool)
    outside[first : first + depth] = False
    assert (sample["image"][0].numpy()[outside] == -5).all()
    assert sample["image"][0].numpy()[~outside].std() > 10


def test_gaps_do_not_spread_farther_than_they_must(cohort: xr.DataTree) -> None:
    """What weighs nothing is not looked at: NaN and infinite voxels reach those beside them, and no others."""

    def with_gap(scan: xr.Dataset) -> xr.DataArray:
        image = scan["ncct"].astype("float32").compute()
        image[4, 10, 10], image[4, 20, 20] = np.nan, np.inf
        return image

    x, y, z = cohort.isles.scan(S).isles.spacing
    options: dict[str, Any] = {"patch": None, "spacing": (z, y / 2, x / 2)}
    sample = cohort.isles.torch_dataset(with_gap, None, **options)[0]["image"][0].numpy()
    assert sorted(map(tuple, np.argwhere(np.isnan(sample)).tolist())) == [
        (4, 20 + j, 20 + i) for j in (-1, 0, 1) for i in (-1, 0, 1)
    ]
    assert np.isinf(sample).sum() == 9


def test_at_another_spacing_a_patch_reads_its_region_alone(cohort: xr.DataTree) -> None:
    seen: list[tuple[Any, Any]] = []
    found = cohort.isles.torch_dataset("ncct", None, patch=(2, 5, 5), spacing=(9.1, 2.9, 3.1))
    subject = Subjects(found.plan)[S]
    volume = subject.images[0]

    def block(start: Any, size: Any) -> Any:
        seen.append((start, size))
        return volume.block(start, size)

    subject.grid.sampled(block, (0, 3, 4), (2, 5, 5), linear=True)
    ((start, size),) = seen
    for first, count, place, step in zip(start, size, (0, 3, 4), subject.grid.step, strict=True):
        last = place + (2 if place == 0 else 5) - 1
        assert first == np.floor(place * step)
        assert first + count - 1 == np.ceil(last * step)


# --- brain ---


def test_patches_in_the_brain(cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset("ncct", None, patch=(1, 1, 1), within="brain", samples_per_subject=60)
    brains = {name: cohort.isles.scan(name).isles.brain_mask().values for name in cohort.isles.subjects}
    seen = []
    for index in range(180):
        sample = found[index]
        seen.append(tuple(sample["origin"].tolist()))
        assert brains[sample["subject"]][seen[-1]]
    assert len(set(seen)) > 170
    within = Subjects(found.plan)[S].within
    assert within is not None
    assert within[1].total == np.count_nonzero(brains[S])
    whole = within[0].inside((0, 0, 0), brains[S].shape)
    np.testing.assert_array_equal(whole, brains[S])
    np.testing.assert_array_equal(within[0].inside((3, 7, 9), (4, 9, 12)), brains[S][3:7, 7:16, 9:21])
    assert len(pickle.dumps(within[0].coarse)) < 100_000  # type: ignore[attr-defined]


def test_the_brain_is_for_patches_that_are_not_around_lesions(cohort: xr.DataTree) -> None:
    options: dict[str, Any] = {"label_threshold": 0.5, "patch": PATCH}
    plain, found = (cohort.isles.torch_dataset("ncct", within=within, **options) for within in (None, "brain"))
    same = [torch.equal(plain[index]["origin"], found[index]["origin"]) for index in range(24)]
    around = [np.random.default_rng([0, 0, index]).random() < 0.5 for index in range(24)]
    assert all(equal for equal, lesion in zip(same, around, strict=True) if lesion)
    assert not all(same)


def test_patches_in_a_mask(cohort: xr.DataTree) -> None:
    for within in ("cow_mask", bright):
        found = cohort.isles.torch_dataset("ncct", None, patch=(1, 1, 1), within=within)
        for index in range(0, 24, 5):
            sample = found[index]
            scan = cohort.isles.scan(sample["subject"])
            mask = scan["cow_mask"] if within == "cow_mask" else bright(scan)
            assert mask.values[tuple(sample["origin"].tolist())]


def test_the_brain_on_the_grid_of_the_series(cohort: xr.DataTree) -> None:
    """Where there is no NCCT, the series before the bolus shows the brain."""
    found = cohort.isles.torch_dataset("tmax", None, patch=(1, 1, 1), within="brain", space="ctp")
    brain = cohort.isles.scan(S, "ctp").isles.brain_mask().values
    for index in range(4):
        assert brain[tuple(found[index]["origin"].tolist())]
    with pytest.raises(errors.UnknownNameError, match=f"{S}: has no ncct or ctp for the brain in space-cta"):
        cohort.isles.torch_dataset("cta", None, patch=PATCH, within="brain", space="cta")[0]


# --- whole volumes, grids ---


def test_whole_volumes(release: Path, cohort: xr.DataTree) -> None:
    found = cohort.isles.torch_dataset(["ncct", "tmax"], label_threshold=0.5, patch=None)
    assert len(found) == 3
    for index, subject in enumerate(cohort.isles.subjects):
        sample = found[index]
        voxels, affine = canonical(release, subject, "ncct")
        assert sample["subject"] == subject
        np.testing.assert_array_equal(sample["image"][0].numpy(), voxels.astype(np.float32))
        np.testing.assert_array_equal(sample["label"][0].numpy(), canonical(release, subject, "lesion_mask")[0])
        np.testing.assert_allclose(sample["affine"].numpy(), affine, atol=1e-4)
        assert sample["origin"].tolist() == [0, 0, 0]
    batches = list(torch.utils.data.DataLoader(found, batch_size=1))
    assert [batch["subject"][0] for batch in batches] == cohort.isles.subjects


@pytest.mark.parametrize(("patch", "stride"), [((5, 16, 20), (4, 16, 9)), ((40, 70, 70), (1, 1, 1))])
def test_patches_of_a_grid_cover_each_volume(
    release: Path, cohort: xr.DataTree, patch: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    found = cohort.isles.torch_dataset("ncct", None, patch=patch, stride=stride, pad_value=-3000)
    volumes = {name: canonical(release, name, "ncct")[0] for name in cohort.isles.subjects}
    made = {name: np.full(voxels.shape, np.nan) for name, voxels in volumes.items()}
    order = []
    for index in range(len(found)):
        sample = found[index]
        order.append(sample["subject"])
        origin, whole = sample["origin"].tolist(), made[sample["subject"]]
        inside = tuple(
            slice(max(first, 0), min(first + size, count))
            for first, size, count in zip(origin, patch, whole.shape, strict=True)
        )
        part = tuple(slice(cut.start - first, cut.stop - first) for cut, first in zip(inside, origin, strict=True))
        whole[inside] = sample["image"][0].numpy()[part]
        if all(size <= count for size, count in zip(patch, whole.shape, strict=True)):
            assert all(0 <= at <= count - size for at, size, count in zip(origin, patch, whole.shape, strict=True))
    assert order == sorted(order)
    for name, voxels in volumes.items():
        np.testing.assert_array_equal(made[name], voxels)
    with pytest.raises(IndexError):
        found[len(found)]
