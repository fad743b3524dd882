"""What MONAI gets of a store, against what its own NibabelReader gives for the files; a pipeline there and back."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.cohorts.opening import cohort_target, cohort_tree
from isles24_zarr.store import StoredVoxels
from tests.framework_stores import FILES, UNKNOWN, S, awkward_release, converted, with_mask
from tests.servers import free_port, running_server

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from monai import data as monai_data  # noqa: E402
from monai import transforms as mt  # noqa: E402
from monai.inferers import SlidingWindowInferer  # noqa: E402
from monai.networks.nets import UNet  # noqa: E402
from monai.utils import set_determinism  # noqa: E402

from isles24_zarr.training.monai_images import StoreReader, saved_name  # noqa: E402

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

BOTH = ["image", "label"]


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return awkward_release(tmp_path_factory.mktemp("awkward") / "train")


@pytest.fixture(scope="module")
def awkward_store(awkward: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(awkward, tmp_path_factory.mktemp("awkward-store") / "isles24.zarr", client)


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


def assert_same(found: Any, wanted: Any) -> None:
    """The same voxels in the same place, and what transforms and writers go by."""
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    for key in ("affine", "original_affine"):
        np.testing.assert_allclose(np.asarray(found.meta[key]), np.asarray(wanted.meta[key]), atol=2e-5)
    assert np.asarray(found.meta["spatial_shape"]).tolist() == np.asarray(wanted.meta["spatial_shape"]).tolist()
    assert found.meta["space"] == wanted.meta["space"]
    assert found.dtype == wanted.dtype


def of_file(path: Path, *, labels: bool) -> Any:
    """By MONAI's own reader; 65535 with a slope of 1/65535 is not quite 1."""
    image = mt.LoadImage(reader="NibabelReader", ensure_channel_first=True)(path)
    return (image >= 0.5).to(image.dtype) if labels else image


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("subject", [S, UNKNOWN])
def test_images_are_those_of_nibabel_reader(awkward: Path, awkward_store: Path, subject: str, name: str) -> None:
    load = mt.LoadImage(reader=StoreReader(), ensure_channel_first=True)
    found = load(f"{awkward_store}/{subject}/space-ncct/{name}")
    if subject == S:
        assert nib.orientations.aff2axcodes(found.affine.numpy()) == ("R", "A", "S")
    ras = mt.Orientation("RAS", labels=None)
    assert_same(ras(found), ras(of_file(awkward / FILES[name].format(subject), labels=name == "lesion_mask")))


def test_images_as_acquired(release: Path, store: Path) -> None:
    wanted = mt.Orientation("RAS", labels=None)(
        mt.LoadImage(ensure_channel_first=True)(release / f"raw_data/{S}/ses-01/{S}_ses-01_ctp.nii.gz")
    )
    (item,) = isles24_zarr.open_cohort(store).isles.select([S]).isles.monai_dataset("ctp", None, space="ctp")
    assert_same(item["image"], wanted)


@pytest.mark.parametrize("name", ["ncct", "ctp", "tmax", "lesion_mask"])
def test_and_so_are_they_after_all_transforms(release: Path, store: Path, name: str) -> None:
    keys = ["it"]
    chain = mt.Compose(
        [
            mt.EnsureChannelFirstd(keys),
            mt.Orientationd(keys, "RAS", labels=None),
            mt.Spacingd(keys, (5, 4, 6), mode="bilinear"),
            mt.ScaleIntensityRanged(keys, 0, 60, 0, 1, clip=True),
            mt.RandAffined(keys, prob=1, rotate_range=0.4, padding_mode="zeros"),
            mt.RandSpatialCropd(keys, (8, 8, 8), random_size=False),
        ]
    )
    for subject in isles24_zarr.open_cohort(store).isles.subjects:
        loaded: list[Any] = []
        for reader, path in (
            (StoreReader(label_threshold=0.5), f"{store}/{subject}/space-ncct/{name}"),
            ("NibabelReader", str(release / FILES[name].format(subject))),
        ):
            item = mt.LoadImaged(keys, reader=reader)({"it": path})
            if name == "lesion_mask":
                item["it"] = (item["it"] >= 0.5).float()
            loaded.append(chain.set_random_state(seed=3)(item)["it"])
        found, wanted = loaded
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-3)


def test_without_channels_first_axes_are_as_monai_has_them(release: Path, store: Path) -> None:
    for name, channel in (("ncct", "no_channel"), ("ctp", -1)):
        found = mt.LoadImage(reader=StoreReader())(f"{store}/{S}/space-ncct/{name}")
        wanted = mt.LoadImage()(release / FILES[name].format(S))
        assert found.shape == wanted.shape
        explicit = mt.EnsureChannelFirst(channel_dim=channel)
        np.testing.assert_array_equal(
            explicit(found), mt.Flip(0)(explicit(wanted)) if wanted.affine[0, 0] < 0 else explicit(wanted)
        )


def test_voxels_are_read_in_blocks_and_not_one_by_one(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredVoxels, "pick", None)
    scan = isles24_zarr.open_scan(store, S, chunks=None)
    found = mt.LoadImage(reader=StoreReader(), ensure_channel_first=True)(f"{store}/{S}/space-ncct/ctp")
    np.testing.assert_array_equal(found, scan.isles.to_monai("ctp"))
    assert isinstance(scan["ctp"].variable._data, type(scan["tmax"].variable._data))  # and the scan stays lazy


def test_paths_become_channels(awkward: Path, awkward_store: Path) -> None:
    paths = [f"{awkward_store}/{S}/space-ncct/{name}" for name in ("ncct", "ctp", "ctp[-2]", "lesion_mask")]
    found = mt.LoadImage(reader=StoreReader(), ensure_channel_first=True)(paths)
    ras = mt.Orientation("RAS", labels=None)
    ncct, ctp, mask = (
        ras(of_file(awkward / FILES[name].format(S), labels=name == "lesion_mask"))
        for name in ("ncct", "ctp", "lesion_mask")
    )
    together = mt.ConcatItemsd(["a", "b", "c", "d"], "all")
    assert_same(found, together({"a": ncct, "b": ctp, "c": ctp[3:4], "d": mask})["all"])
    other = f"{awkward_store}/{UNKNOWN}/space-ncct/ncct"
    with pytest.raises(errors.UnknownNameError, match=f"{UNKNOWN}/space-ncct/ncct: is on another grid than .*{S}"):
        mt.LoadImage(reader=StoreReader())([paths[0], other])


def test_a_path_chooses_the_reader(store: Path, release: Path) -> None:
    load = mt.LoadImaged(BOTH, ensure_channel_first=True)
    load.register(StoreReader())
    item = load({"image": f"{store}/{S}/space-ncct/ncct", "label": str(release / FILES["ncct"].format(S))})
    np.testing.assert_array_equal(np.sort(item["image"].ravel()), np.sort(item["label"].ravel()))
    reader = StoreReader()
    good = f"{store}/{S}/space-ncct/tmax"
    assert reader.verify_suffix(good)
    assert reader.verify_suffix([Path(good), good])
    assert not reader.verify_suffix([good, "ncct.nii.gz"])


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("{S}/space-ncct/ctp[12]", errors.UnknownNameError, r"ctp\[12\]: is no frame, the image has 12"),
        ("{S}/space-ncct/ncct[0]", errors.UnknownNameError, "is no frame, the image has none"),
        ("{S}/space-ncct/t1w", errors.UnknownNameError, "t1w: is not there, this grid has ncct, cta, ctp"),
        ("{S}/space-mni/ncct", errors.UnknownNameError, "has the spaces: "),
        ("sub-none/space-ncct/ncct", errors.UnknownNameError, "sub-none: is no subject"),
        ("derivatives/mine/{S}/space-ncct/core", errors.UnknownNameError, "pipeline 'mine': is not in"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(store: Path, path: str, error: type[Exception], words: str) -> None:
    """And not as the last of the tracebacks of all readers of MONAI."""
    with pytest.raises(error, match=words) as raised:
        mt.LoadImage(reader=StoreReader())(f"{store}/{path.format(S=S)}")
    assert "\n" not in str(raised.value)


def test_no_store_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(errors.NotAStoreError):
        mt.LoadImage(reader=StoreReader())(tmp_path / "none.zarr" / S / "space-ncct/ncct")
    with pytest.raises(errors.UnknownNameError, match="is no path of an image within a store; write it as"):
        StoreReader().read("sub-stroke0001/ncct")


def test_a_store_in_a_folder_of_derivatives(store: Path, tmp_path: Path) -> None:
    (tmp_path / "derivatives").mkdir()
    (tmp_path / "derivatives" / "isles24").symlink_to(store)
    found = mt.LoadImage(reader=StoreReader())(f"{tmp_path}/derivatives/isles24/{S}/space-ncct/ncct")
    np.testing.assert_array_equal(found, mt.LoadImage(reader=StoreReader())(f"{store}/{S}/space-ncct/ncct"))


def test_over_http(store: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(store.parent)]
    here = mt.LoadImage(reader=StoreReader())(f"{store}/{S}/space-ncct/tmax")
    with running_server(command, port=port, log=tmp_path / "log"):
        url = f"http://127.0.0.1:{port}/{store.name}"
        # LoadImage makes a Path of it, which takes a slash away
        np.testing.assert_array_equal(mt.LoadImage(reader=StoreReader())(f"{url}/{S}/space-ncct/tmax"), here)
        items = isles24_zarr.open_cohort(url).isles.monai_items("tmax", None)
        assert items[0]["image"] == f"{url}/{S}/space-ncct/tmax"
        np.testing.assert_array_equal(items.loader()(items[0])["image"][0], here)


# --- items and datasets ---


def test_items(store: Path, cohort: xr.DataTree) -> None:
    items = cohort.isles.monai_items(["ncct", "ctp[3]"], label_threshold=0.5)
    paths = [f"{store.resolve()}/{S}/space-ncct/{name}" for name in ("ncct", "ctp[3]", "lesion_mask")]
    assert items[0] == {"image": paths[:2], "label": paths[2], "subject": S}
    assert [item["subject"] for item in items] == cohort.isles.subjects
    assert (len(items), items[1:], items.skipped) == (3, list(items)[1:], {})
    assert pickle.loads(pickle.dumps(items))[2] == items[2]  # noqa: S301
    items[0]["image"] = "changed"
    assert items[0]["image"] == paths[:2]
    several = cohort.isles.monai_items({"ct": "ncct", "maps": ["tmax", "cbf"]}, {"label": ["lesion_mask", "lvo_mask"]})
    loaded = several.loader(dtype=None)(several[0])
    assert {key: each.shape[0] for key, each in loaded.items() if key != "subject"} == {"ct": 1, "maps": 2, "label": 2}
    assert (loaded["ct"].dtype, loaded["label"].dtype) == (torch.int16, torch.uint8)


def test_datasets(cohort: xr.DataTree, tmp_path: Path) -> None:
    items = cohort.isles.monai_items(["ncct", "tmax"], label_threshold=0.5)
    plain = cohort.isles.monai_dataset(["ncct", "tmax"], label_threshold=0.5)
    scan = cohort.isles.scan(S)
    for key, names in (("image", ["ncct", "tmax"]), ("label", ["lesion_mask"])):
        assert isinstance(plain[0][key], monai_data.MetaTensor)
        wanted = np.stack([scan[name].transpose("x", "y", "z") for name in names])
        if key == "label":
            wanted = wanted >= 0.5
        np.testing.assert_array_equal(plain[0][key], wanted.astype(np.float32))
        np.testing.assert_allclose(plain[0][key].affine, scan.isles.affine, atol=1e-9)
    crops = mt.RandCropByPosNegLabeld(BOTH, "label", (12, 12, 6), pos=1, neg=0, num_samples=2)
    pipeline = mt.Compose([items.loader(), mt.Orientationd(BOTH, "RAS", labels=None), crops])
    for kind, options in (
        (monai_data.CacheDataset, {"progress": False, "num_workers": 2}),
        (monai_data.PersistentDataset, {"cache_dir": tmp_path / "cache"}),
        (monai_data.PersistentDataset, {"cache_dir": tmp_path / "cache"}),  # as it was kept
    ):
        batch = next(iter(monai_data.DataLoader(kind(items, pipeline, **options), batch_size=3)))
        assert (batch["image"].shape, batch["label"].shape) == ((6, 2, 12, 12, 6), (6, 1, 12, 12, 6))
        assert batch["label"].any()
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 3
    # what is kept are images, up to the first random transform
    kept = monai_data.CacheDataset(items, pipeline, progress=False)._cache[0]
    assert (kept["image"].shape, kept["label"].shape) == ((2, 48, 56, 12), (1, 48, 56, 12))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes(cohort: xr.DataTree, method: str) -> None:
    found = cohort.isles.monai_dataset(
        "ctp[2]", label_threshold=0.5, transform=mt.CenterSpatialCropd(BOTH, (16, 16, 8))
    )
    wanted = [item["image"].numpy() for item in found]
    loader = monai_data.DataLoader(found, num_workers=2, multiprocessing_context=method, timeout=120)
    for batch, image in zip(loader, wanted, strict=True):
        np.testing.assert_array_equal(batch["image"][0], image)
        assert batch["image"].affine.shape == (1, 4, 4)


def test_who_lacks_an_image(cohort: xr.DataTree) -> None:
    table = cohort["phenotype"].to_dataset().copy(deep=True)
    table["available"].loc[{"subject": S, "image": "tmax"}] = False
    part = cohort_tree(table, {}, cohort_target(cohort))
    with pytest.raises(errors.UnknownNameError, match=f"{S}: has no tmax; give missing='skip'"):
        part.isles.monai_items("tmax")
    found = part.isles.monai_items("tmax", missing="skip")
    assert found.skipped == {S: "has no tmax"}
    assert [item["subject"] for item in found] == cohort.isles.subjects[1:]
    table["available"].loc[{"image": "tmax"}] = False
    with pytest.raises(errors.UnknownNameError, match="no subject with all"):
        cohort_tree(table, {}, cohort_target(cohort)).isles.monai_items("tmax", missing="skip")


@pytest.mark.parametrize(
    ("images", "label", "options", "words"),
    [
        ("t1w", None, {}, "'t1w': is no image"),
        (["ncct", 7], None, {}, "7: is no name of an image"),
        ([], None, {}, "'image': has no image"),
        ({}, None, {}, "images: has no image"),
        ({"label": "ncct"}, "lesion_mask", {}, "has the key 'label' twice"),
        ({"subject": "ncct"}, None, {}, "has the key 'subject' twice"),
        ("ncct", None, {"missing": "ignore"}, "missing='ignore': is none of error, skip"),
        ("nobody/core", None, {}, "pipeline 'nobody': is not in "),
    ],
)
def test_what_cannot_be_asked_for(
    cohort: xr.DataTree, images: Any, label: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.UnknownNameError, match=words):
        cohort.isles.monai_items(images, label, **options)


def test_labels_of_masks_of_fractions_and_of_others(release: Path, client: Client, tmp_path: Path) -> None:
    soft = converted(with_mask(release, tmp_path / "soft", np.float32(0.6)), tmp_path / "soft.zarr", client)
    part = isles24_zarr.open_cohort(soft)
    inside = of_file(tmp_path / "soft" / FILES["lesion_mask"].format(S), labels=True).numpy()
    with pytest.warns(errors.SoftMaskWarning, match="0.5 and more"):
        found = part.isles.monai_dataset("ncct")[0]["label"]
    assert set(np.unique(found)) == {0, 1}
    assert np.count_nonzero(found) == np.count_nonzero(inside) > 0
    assert not part.isles.monai_dataset("ncct", label_threshold=0.7)[0]["label"].any()
    other = converted(with_mask(release, tmp_path / "other", np.float32(-1)), tmp_path / "other.zarr", client)
    with pytest.raises(errors.MaskError, match="negative"):
        StoreReader().get_data(StoreReader().read(f"{other}/{S}/space-ncct/lesion_mask"))
    with pytest.raises(errors.MaskError):
        StoreReader(labels=True).get_data(StoreReader().read(f"{soft}/{S}/space-ncct/ncct"))


def test_without_monai(cohort: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("monai_images", "_monai_reader"):
        monkeypatch.delitem(sys.modules, f"isles24_zarr.training.{module}")
    monkeypatch.setitem(sys.modules, "monai.data", None)
    with pytest.raises(errors.MissingExtraError, match=r"isles24-zarr\[monai\]"):
        cohort.isles.monai_items("ncct")


# --- scans, and back ---


@pytest.mark.parametrize("subject", [S, UNKNOWN])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_there_and_back_in_any_orientation(awkward_store: Path, subject: str, codes: str) -> None:
    scan = isles24_zarr.open_scan(awkward_store, subject)
    for name in ("tmax", "ctp"):
        tensor = mt.Orientation(codes, labels=None)(scan.isles.to_monai(name))
        found = scan.isles.from_monai(tensor, name)
        np.testing.assert_array_equal(found, scan[name].astype(np.float32))
        assert found.dims == scan[name].dims
        assert all(found[axis].equals(scan[axis]) for axis in ("x", "y", "z", "i", "j", "k"))
    part = scan.isel(x=slice(2, 9), z=slice(1, None, 2), y=slice(3, 12))
    tensor = part.isles.to_monai("tmax")
    np.testing.assert_array_equal(tensor[0], part["tmax"].transpose("x", "y", "z"))
    if subject == S:
        np.testing.assert_allclose(tensor.affine, part.isles.affine, atol=1e-9)
    np.testing.assert_array_equal(part.isles.from_monai(tensor), part["tmax"])
    with pytest.raises(
        errors.OtherGridError, match=f"prediction: has 7 x 9 x 5 voxels .* the grid of {subject} has 20"
    ):
        scan.isles.from_monai(tensor)


def test_what_does_not_come_back(store: Path) -> None:
    scan = isles24_zarr.open_scan(store, S)
    tensor = scan.isles.to_monai(["ncct", "lesion_mask"], label_threshold=0.5)
    assert tensor.shape[0] == 2
    with pytest.raises(errors.UnknownNameError, match=r"mine: has the shape \(2, 48, 56, 12\); give one channel"):
        scan.isles.from_monai(tensor, "mine")
    moved = tensor[:1].clone()
    moved.affine = moved.affine + torch.tensor([[0, 0, 0, 3.0]] + [[0, 0, 0, 0]] * 3)
    with pytest.raises(errors.OtherGridError, match=r"lies elsewhere than .*, its corners are up to 3 mm apart; undo"):
        scan.isles.from_monai(moved)
    with pytest.raises(errors.OtherGridError, match=r"has .* voxels along x, y and z"):
        scan.isles.from_monai(mt.Spacing((6, 6, 6))(tensor[:1]))
    with pytest.raises(errors.UnknownNameError, match="is a Tensor, which has no affine"):
        scan.isles.from_monai(tensor[:1].as_tensor())
    moved.affine = torch.full((4, 4), torch.nan)
    with pytest.raises(errors.OtherGridError, match="an affine that places no voxels"):
        scan.isles.from_monai(moved)
    with pytest.raises(errors.UnknownNameError, match="scan: has no t1w; there are ncct"):
        scan.isles.to_monai("t1w")
    with pytest.raises(errors.UnknownNameError, match="has no image"):
        scan.isles.to_monai([])
    rough = scan.isles.from_monai(tensor[:1].to(torch.bfloat16))
    assert rough.dtype == np.float32
    assert scan.isles.from_monai(tensor[1:].requires_grad_(), "core").name == "core"


def test_files_that_monai_saves_are_on_the_grid_of_the_released_ones(
    awkward: Path, awkward_store: Path, tmp_path: Path
) -> None:
    """Also where it resamples them to where they came from: back to the axes of the file."""
    item = isles24_zarr.open_cohort(awkward_store).isles.monai_dataset("tmax", "lesion_mask")[0]
    options = {
        "output_dir": tmp_path,
        "output_name_formatter": saved_name,
        "print_log": False,
        "separate_folder": False,
    }
    mt.SaveImage(output_postfix="as-read", **options)(item["image"])
    mt.SaveImage(output_postfix="as-file", resample=True, **options)(item["image"])
    released: Any = nib.load(awkward / FILES["tmax"].format(S))
    for postfix, wanted in (("as-read", nib.as_closest_canonical(released)), ("as-file", released)):
        found: Any = nib.load(tmp_path / f"{S}_space-ncct_{postfix}.nii.gz")
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)
        np.testing.assert_allclose(np.asarray(found.dataobj), np.asarray(wanted.dataobj), rtol=1e-6)
    with pytest.raises(errors.UnknownNameError):
        saved_name({"filename_or_obj": "image.nii.gz"}, None)


@pytest.mark.usefixtures("in_threads")
def test_a_pipeline_from_the_store_into_the_store(release: Path, client: Client, tmp_path: Path) -> None:
    """Training on crops, inference by windows, the way back through all transforms, saved; a second model reads it."""
    set_determinism(seed=0)
    cohort = isles24_zarr.open_cohort(converted(release, tmp_path / "isles24.zarr", client))
    items = cohort.isles.monai_items(["ncct", "tmax"], label_threshold=0.5)
    prepare = [
        items.loader(),
        mt.Orientationd(BOTH, "LAS", labels=None),
        mt.Spacingd(BOTH, (5, 5, 8), mode=("bilinear", "nearest")),
        mt.ScaleIntensityRanged("image", 0, 80, 0, 1, clip=True),
    ]
    augment = [
        mt.RandCropByPosNegLabeld(BOTH, "label", (16, 16, 8), num_samples=2),
        mt.RandFlipd(BOTH, prob=0.5, spatial_axis=0),
        mt.RandAffined(BOTH, prob=1, rotate_range=0.2, mode=("bilinear", "nearest"), padding_mode="zeros"),
    ]
    training = monai_data.CacheDataset(items, mt.Compose([*prepare, *augment]), progress=False)
    net = UNet(spatial_dims=3, in_channels=2, out_channels=2, channels=(4, 8), strides=(2,), num_res_units=1)
    optimizer = torch.optim.Adam(net.parameters())
    for _, batch in zip(range(2), monai_data.DataLoader(training, batch_size=1), strict=False):
        loss = torch.nn.functional.cross_entropy(net(batch["image"].as_tensor()), batch["label"][:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)

    validate = mt.Compose(prepare)
    whole = validate(items[0])
    with torch.no_grad():
        logits = SlidingWindowInferer((16, 16, 8), overlap=0.25)(whole["image"][None], net)
    # the label goes the same way as the prediction: it must come back to where it was
    whole["pred"] = logits[0].softmax(0)[1:]
    back = mt.Invertd(["pred", "label"], validate, ["image", "label"], nearest_interp=[False, True])(whole)
    scan = cohort.isles.scan(S)
    probability = scan.isles.from_monai(back["pred"], "probability")
    label = scan.isles.from_monai(back["label"], "label").astype(np.uint8)
    saved = scan.isles.save([probability, label], "unet", description="two steps")
    assert (saved["label"].dtype, saved["probability"].dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(saved.isles.affine, scan.isles.affine)
    truth = scan["lesion_mask"] >= 0.5
    dice = 2 * int((truth & (saved["label"] == 1)).sum()) / int(truth.sum() + saved["label"].sum())
    assert dice > 0.7  # the spacing was changed twice

    postfix = {"output_postfix": "desc-unet_mask", "output_dtype": np.uint8, "separate_folder": False}
    save = mt.SaveImaged("label", output_dir=tmp_path, output_name_formatter=saved_name, print_log=False, **postfix)
    save(back)
    added = isles24_zarr.add(cohort_target(cohort).url, "files", tmp_path / f"{S}_space-ncct_desc-unet_mask.nii.gz")
    assert added.ok, added.problems
    of_file = cohort.isles.scan(S, pipeline="files")["unet_mask"]
    np.testing.assert_array_equal(of_file, label)

    again = cohort.isles.monai_items(["unet/probability", "ncct"], "files/unet_mask", missing="skip")
    assert list(again.skipped) == cohort.isles.subjects[1:]
    item = again.loader()(again[0])
    np.testing.assert_array_equal(item["image"][0], probability.transpose("x", "y", "z"))
    np.testing.assert_array_equal(item["label"][0], label.transpose("x", "y", "z"))
