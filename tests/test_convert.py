"""Whole conversions, compared with nibabel through plain Zarr readers."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr

import isles24_zarr
from isles24_zarr.conversion import forecast
from isles24_zarr.errors import DestinationError, UnknownNameError
from isles24_zarr.format import COORDINATES, chunking
from tests.nifti_files import OBLIQUE, random_voxels, write
from tests.oracle import (
    arrays_by_source,
    assert_identical_stores,
    assert_same_image,
    chunk_files,
    documents,
    images_below,
    scaling_of,
    stored_voxels,
)

if TYPE_CHECKING:
    from distributed import Client

S = "sub-stroke0001"
RAW, REGISTERED, FOLLOW_UP = (f"raw_data/{S}/ses-01", f"derivatives/{S}/ses-01", f"derivatives/{S}/ses-02")


def test_every_image_by_zarr_alone(release: Path, store: Path) -> None:
    arrays, files = arrays_by_source(store), images_below(release)
    assert arrays.keys() == files.keys()
    for name, file in files.items():
        assert_same_image(file, arrays[name], shift=1e-3)


def test_every_image_by_tensorstore(release: Path, store: Path) -> None:
    for name, array in arrays_by_source(store).items():
        path = str(array.store_path).removeprefix("file://")
        opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}).result()
        assert_same_image(release / name, array, voxels=opened.read().result(), shift=1e-3)


@pytest.mark.parametrize("chunks", [None, {}])
def test_every_image_by_plain_xarray(release: Path, store: Path, chunks: Any) -> None:
    for name, array in arrays_by_source(store).items():
        path = Path(str(array.store_path).removeprefix("file://"))
        with xr.open_zarr(path.parent, chunks=chunks, mask_and_scale=False) as scan:
            assert scan[array.basename].dims[-3:] == ("z", "y", "x")
            assert_same_image(release / name, array, voxels=scan[array.basename].values, shift=1e-3)
        with xr.open_zarr(path.parent, chunks=chunks) as scan:
            wanted = stored_voxels(release / name)
            if "scale_factor" in array.attrs:
                slope, intercept = scaling_of(release / name)
                wanted = wanted * np.float64(slope) + intercept
            np.testing.assert_array_equal(scan[array.basename].values, wanted)


def test_plain_xarray_by_group(store: Path) -> None:
    with xr.open_zarr(store, group=f"{S}/space-ncct", consolidated=False) as scan:
        assert scan["ctp"].dtype == np.int16
        assert scan["time"].attrs["units"] == "s"
        assert scan["time"].dtype == np.float64
        assert {name: scan[name].attrs["units"] for name in "xyz"} == dict.fromkeys("xyz", "mm")


def test_an_all_zero_mask_is_written(release: Path, store: Path) -> None:
    empty = [
        array
        for name, array in arrays_by_source(store).items()
        if name.endswith("lvo-msk.nii.gz") and not np.asarray(nib.load(release / name).dataobj).any()
    ]
    assert empty, "the synthetic release has a subject without an occlusion"
    for array in empty:
        folder = Path(str(array.store_path).removeprefix("file://"))
        assert len([path for path in (folder / "c").rglob("*") if path.is_file()]) == 1


def test_metadata_is_consolidated_by_subject_and_grid_only(store: Path) -> None:
    held = {name for name, document in documents(store).items() if "consolidated_metadata" in document}
    assert "zarr.json" not in held
    assert f"{S}/zarr.json" in held
    assert f"{S}/space-ncct/zarr.json" in held
    subject = zarr.open_consolidated(store, path=S)
    plain = zarr.open_group(store, path=S, mode="r", use_consolidated=False)
    for name, node in plain.members(max_depth=None):
        assert subject[name].metadata.attributes == node.metadata.attributes
    for name, document in documents(store).items():
        if document["node_type"] == "array":
            assert document["dimension_names"], name


def test_the_same_release_gives_the_same_bytes(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    isles24_zarr.convert(release, tmp_path / "again.zarr", client=client, progress=False)
    assert_identical_stores(store, tmp_path / "again.zarr")


def test_a_second_run_leaves_everything_alone(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    report = isles24_zarr.convert(release, copy, client=client, progress=False)
    assert report.converted == ()
    assert len(report.unchanged) == 3
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_an_uncommitted_subject_is_finished_without_rewriting(
    release: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    (copy / S / "zarr.json").unlink()
    (copy / S / "space-ncct" / "zarr.json").unlink()
    (copy / S / "space-ncct" / "tmax" / "zarr.json").unlink()
    shutil.rmtree(copy / S / "space-cta")
    before = {name: path.stat().st_mtime_ns for name, path in chunk_files(copy / S).items()}
    report = isles24_zarr.convert(release, copy, client=client, progress=False)
    assert report.converted == (S,)
    assert report.images == 2
    assert_identical_stores(store, copy)
    after = {name: path.stat().st_mtime_ns for name, path in chunk_files(copy / S).items()}
    untouched = [name for name in before if "/c/" in name and name.split("/")[1] not in {*"xyz", "time", "tmax"}]
    assert len(untouched) == 15
    assert all(before[name] == after[name] for name in untouched)


def test_parts_add_up_to_the_whole(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    parts = tmp_path / "parts.zarr"
    first = isles24_zarr.convert(release, parts, subjects=[S], images=["ctp", "tmax"], client=client, progress=False)
    assert first.images == 4
    with isles24_zarr.open_scan(parts, S) as scan:
        assert set(scan.data_vars) == {"ctp", "tmax"}
    second = isles24_zarr.convert(release, parts, images=["lesion_mask"], client=client, progress=False)
    assert second.images == 3
    with isles24_zarr.open_scan(parts, S) as scan:
        assert set(scan.data_vars) == {"ctp", "tmax", "lesion_mask"}
    isles24_zarr.convert(release, parts, client=client, progress=False)
    assert_identical_stores(store, parts)


def test_overwrite_converts_again(release: Path, store: Path, client: Client, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    shard = next(path for name, path in chunk_files(copy / S).items() if name.startswith("space-ncct/ncct/c/"))
    shard.write_bytes(b"damaged")
    report = isles24_zarr.convert(release, copy, subjects=[S], overwrite=True, client=client, progress=False)
    assert report.images == 18
    assert_identical_stores(store, copy)


def test_overwrite_of_named_images_leaves_the_others(
    release: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    source, copy = shutil.copytree(release, tmp_path / "train"), shutil.copytree(store, tmp_path / "copy.zarr")
    options: dict[str, Any] = {"overwrite": True, "images": ["ncct"]}
    shard = next(path for name, path in chunk_files(copy / S).items() if name.startswith("space-ncct/ncct/c/"))
    shard.write_bytes(bytes(shard.stat().st_size))
    of_images = [name for name in chunk_files(copy) if "/space-" in name and name.split("/")[2] not in COORDINATES]
    before = {name: chunk_files(copy)[name].stat().st_ino for name in of_images}
    told = forecast(source, copy, **options)
    assert {array.image for array in told.arrays} == {"ncct"}
    assert {array.path for array in told.arrays}.isdisjoint(told.standing)
    assert len(told.arrays) + len(told.standing) == len({name.split("/c/")[0] for name in before})
    report = isles24_zarr.convert(source, copy, client=client, progress=False, **options)
    assert report.images == len(told.arrays)
    assert len(report.converted) == 3
    assert_identical_stores(store, copy)
    after = {name: chunk_files(copy)[name].stat().st_ino for name in of_images}
    assert {name.split("/")[2] for name in of_images if before[name] != after[name]} == {"ncct"}
    # and what vanished of the others costs nothing, as without the option; of the named ones it goes
    for image in ("cta", "ncct"):
        (source / f"raw_data/{S}/ses-01/{S}_ses-01_{image}.nii.gz").unlink()
        report = isles24_zarr.convert(source, copy, client=client, progress=False, overwrite=True, images=["ncct"])
        assert S not in report.converted
        assert_identical_stores(store, copy)
    isles24_zarr.convert(
        source, copy, subjects=[S], overwrite=True, images=["ncct", "cta"], client=client, progress=False
    )
    with isles24_zarr.open_scan(copy, S) as scan, isles24_zarr.open_scan(store, S) as whole:
        assert set(whole.data_vars) - set(scan.data_vars) == {"ncct"}


def test_a_foreign_folder_is_never_touched(release: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DestinationError, match="neither empty nor an isles24-zarr store"):
        isles24_zarr.convert(release, tmp_path, overwrite=True, progress=False)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(DestinationError):
        isles24_zarr.convert(release, tmp_path / "other.zarr", overwrite=True, progress=False)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("names", [{"subjects": ["sub-stroke9999"]}, {"images": ["t1w"]}])
def test_unknown_names_are_refused(release: Path, tmp_path: Path, names: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError):
        isles24_zarr.convert(release, tmp_path / "x.zarr", progress=False, **names)
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("most", [3_000, 40_000])
def test_series_and_slabs_of_many_shards(
    release: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(chunking, "MAX_SHARD_BYTES", most)
    isles24_zarr.convert(release, tmp_path / "x.zarr", subjects=[S], client=client, progress=False)
    for name, array in arrays_by_source(tmp_path / "x.zarr").items():
        assert_same_image(release / name, array, shift=1e-3)
        assert array.shards is not None
    assert any(array.nchunks > 3 and array.ndim == 3 for array in arrays_by_source(tmp_path / "x.zarr").values())


# --- a release of another hand: every type, order, orientation and damage ---


@pytest.fixture(scope="module")
def odd_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    shape = (9, 10, 7)
    flipped = OBLIQUE @ np.array([[-1, 0, 0, 8], [0, -1, 0, 9], [0, 0, -1, 6], [0, 0, 0, 1.0]])
    cyclic = np.array([[0, 0, 2.0, -10], [-0.5, 0, 0, 20], [0, 0.7, 0, -30], [0, 0, 0, 1]])
    nudged = OBLIQUE + np.array([[0, 0, 0, 2e-5], [0, 1e-7, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    shifted = OBLIQUE + np.array([[0, 0, 0, 3.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    write(root / RAW / f"{S}_ses-01_ncct.nii.gz", random_voxels(shape, "<i2", 1))
    write(root / RAW / f"{S}_ses-01_cta.nii.gz", random_voxels((4, 5, 6), ">u4", 2), cyclic, byte_order=">")
    write(root / RAW / f"{S}_ses-01_ctp.nii.gz", random_voxels((4, 5, 6, 5), "<i1", 3), codes=(0, 1))
    write(
        root / f"{REGISTERED}/{S}_ses-01_space-ncct_ctp.nii.gz",
        random_voxels((*shape, 3), ">i2", 4),
        flipped,
        byte_order=">",
    )
    write(root / f"{REGISTERED}/{S}_ses-01_space-ncct_cta.nii.gz", random_voxels(shape, "<f8", 5), nudged, version=2)
    maps = root / REGISTERED / "perfusion-maps"
    write(maps / f"{S}_ses-01_space-ncct_tmax.nii.gz", random_voxels((*shape, 1), "<f4", 6), extension=b"a note")
    write(maps / f"{S}_ses-01_space-ncct_mtt.nii.gz", random_voxels(shape, "<i8", 7), shifted)
    write(maps / f"{S}_ses-01_space-ncct_cbf.nii.gz", random_voxels(shape, "<u8", 8), codes=(0, 0))
    write(maps / f"{S}_ses-01_space-ncct_cbv.nii", random_voxels(shape, ">f4", 9), version=2, byte_order=">")
    write(
        root / f"{FOLLOW_UP}/{S}_ses-02_space-ncct_dwi.nii.gz",
        random_voxels(shape, "<i2", 10),
        scl_slope=0.5,
        scl_inter=-3,
    )
    write(root / f"{FOLLOW_UP}/{S}_ses-02_space-ncct_adc.nii.gz", random_voxels((5, 5, 5), "<u2", 11))
    write(
        root / f"{FOLLOW_UP}/{S}_ses-02_lesion-msk.nii.gz",
        random_voxels(shape, "|u1", 12),
        scl_slope=np.nan,
        scl_inter=np.nan,
    )
    return root


DAMAGED = {
    f"{REGISTERED}/{S}_ses-01_space-ncct_lvo-msk.nii.gz": "is empty (0 bytes)",
    f"{REGISTERED}/{S}_ses-01_space-ncct_cow-msk.nii.gz": "breaks off after",
    f"{RAW}/perfusion-maps/{S}_ses-01_tmax.nii.gz": "damaged within",
    f"{RAW}/perfusion-maps/{S}_ses-01_mtt.nii.gz": "complex64",
    f"{RAW}/perfusion-maps/{S}_ses-01_cbf.nii.gz": "no gzip data",
    f"{RAW}/perfusion-maps/{S}_ses-01_cbv.nii.gz": "more than four dimensions",
    f"phenotype/{S}/ses-01/{S}_ses-01_demographic_baseline.xlsx": "",
}


@pytest.fixture(scope="module")
def damaged_release(odd_release: Path) -> Path:
    root = odd_release
    good = gzip.compress((root / RAW / f"{S}_ses-01_ncct.nii.gz").read_bytes()[:0] + b"")
    assert good
    whole = (root / RAW / f"{S}_ses-01_ncct.nii.gz").read_bytes()
    for name, content in {
        "lvo-msk": b"",
        "cow-msk": whole[: len(whole) // 2],
    }.items():
        (root / REGISTERED / f"{S}_ses-01_space-ncct_{name}.nii.gz").write_bytes(content)
    maps = root / RAW / "perfusion-maps"
    maps.mkdir()
    flipped = bytearray(whole)
    flipped[-6] ^= 0x10
    (maps / f"{S}_ses-01_tmax.nii.gz").write_bytes(bytes(flipped))
    write(maps / f"{S}_ses-01_mtt.nii.gz", random_voxels((3, 3, 3), "<c8"))
    (maps / f"{S}_ses-01_cbf.nii.gz").write_bytes(whole + b"left over")
    write(maps / f"{S}_ses-01_cbv.nii.gz", random_voxels((3, 3, 3, 2, 2), "<i2"))
    table = root / "phenotype" / S / "ses-01"
    table.mkdir(parents=True)
    (table / f"{S}_ses-01_demographic_baseline.xlsx").write_bytes(b"PK\3\4 not a workbook")
    return root


def test_every_oddity_converts_and_every_damage_is_named(damaged_release: Path, client: Client, tmp_path: Path) -> None:
    store = tmp_path / "odd.zarr"
    report = isles24_zarr.convert(damaged_release, store, client=client, progress=False)
    errors = {problem.path: problem for problem in report.problems if problem.severity == "error"}
    assert errors.keys() == DAMAGED.keys()
    for path, words in DAMAGED.items():
        assert words in errors[path].message
        assert "\n" not in str(errors[path])
    assert not report.ok
    good = {name: file for name, file in images_below(damaged_release).items() if name not in DAMAGED}
    arrays = arrays_by_source(store)
    assert arrays.keys() == good.keys()
    for name, file in good.items():
        assert_same_image(file, arrays[name], shift=1e-4)
    recorded = json.loads((store / S / "zarr.json").read_text())["attributes"]["isles24_zarr"]["problems"]
    assert {problem["path"] for problem in recorded if problem["severity"] == "error"} == DAMAGED.keys()
    again = isles24_zarr.convert(damaged_release, store, client=client, progress=False)
    assert again.unchanged == (S,)
    assert set(map(str, again.problems)) == set(map(str, report.problems))


def test_where_odd_images_are_kept(damaged_release: Path, client: Client, tmp_path: Path) -> None:
    store = tmp_path / "odd.zarr"
    report = isles24_zarr.convert(damaged_release, store, client=client, progress=False)
    groups = {name: array.path.split("/")[1] for name, array in arrays_by_source(store).items()}
    own = {
        "mtt": "corners lie up to 3 mm apart",
        "cbf": "only one of them states its orientation",
        "adc": "5 x 5 x 5 voxels, not",
    }
    for name, group in groups.items():
        image = name.removesuffix(".gz").removesuffix(".nii").rsplit("_", 1)[1]
        if "derivatives" in name:
            assert group == (f"space-ncct_desc-{image}" if image in own else "space-ncct")
    notices = {problem.image: str(problem) for problem in report.problems if "kept in the group" in problem.message}
    assert notices.keys() == own.keys()
    for image, words in own.items():
        assert words in notices[image]
    unknown = json.loads((store / S / "space-ncct_desc-cbf" / "zarr.json").read_text())
    assert unknown["attributes"]["orientation"] == "unknown"


def test_scaled_images_decode_to_what_nibabel_shows(damaged_release: Path, client: Client, tmp_path: Path) -> None:
    isles24_zarr.convert(damaged_release, tmp_path / "odd.zarr", client=client, progress=False)
    with xr.open_zarr(tmp_path / "odd.zarr" / S / "space-ncct") as scan:
        file = damaged_release / f"{FOLLOW_UP}/{S}_ses-02_space-ncct_dwi.nii.gz"
        closest = nib.as_closest_canonical(nib.load(file))
        np.testing.assert_array_equal(scan["dwi"].values.T, np.asarray(closest.dataobj))
        assert "scale_factor" not in scan["lesion_mask"].encoding
        assert scan["lesion_mask"].dtype == np.uint8
        assert all("_FillValue" not in image.encoding for image in scan.data_vars.values())


def test_without_ncct_the_first_registered_image_is_the_reference(
    odd_release: Path, client: Client, tmp_path: Path
) -> None:
    release = tmp_path / "train"
    shutil.copytree(odd_release / "derivatives", release / "derivatives")
    isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    group = zarr.open_group(tmp_path / "x.zarr" / S / "space-ncct", mode="r")
    assert group.attrs["reference"] == "cta"


def test_a_damaged_replacement_does_not_cost_the_good_image(
    release: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    source, copy = tmp_path / "train", tmp_path / "copy.zarr"
    shutil.copytree(release, source)
    isles24_zarr.convert(source, copy, subjects=[S], client=client, progress=False)
    name = f"{REGISTERED}/{S}_ses-01_space-ncct_ctp.nii.gz"
    whole = (source / name).read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:50]):
        (source / name).write_bytes(damage)
        report = isles24_zarr.convert(source, copy, subjects=[S], client=client, progress=False)
        assert [problem.path for problem in report.problems if problem.severity == "error"] == [name]
        assert_same_image(release / name, arrays_by_source(copy)[name], shift=1e-3)
        assert set(isles24_zarr.open_scan(copy, S).data_vars) == set(isles24_zarr.open_scan(store, S).data_vars)
    (source / name).write_bytes(whole)
    assert isles24_zarr.convert(source, copy, subjects=[S], client=client, progress=False).ok


def test_real_volumes(real_data: Path, client: Client, tmp_path: Path) -> None:
    mask = "sub-stroke0158"
    members = {
        f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz": "CT_AVM.nii.gz",
        f"raw_data/{S}/ses-01/{S}_ses-01_ctp.nii.gz": "pcasl.nii.gz",
        f"derivatives/{mask}/ses-02/{mask}_ses-02_space-ncct_lesion-msk.nii.gz": f"{mask}_ses-02_lesion-msk.nii.gz",
    }
    for name, file in members.items():
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_data / file, tmp_path / "train" / name)
    report = isles24_zarr.convert(tmp_path / "train", tmp_path / "real.zarr", client=client, progress=False)
    assert report.ok
    arrays = arrays_by_source(tmp_path / "real.zarr")
    for name in members:
        assert_same_image(tmp_path / "train" / name, arrays[name])
    ours = arrays[f"derivatives/{mask}/ses-02/{mask}_ses-02_space-ncct_lesion-msk.nii.gz"].attrs["isles24_zarr"]
    assert ours["orientation"] == {"axes": [0, 1, 2], "flips": [True, True, False]}
    with isles24_zarr.open_scan(tmp_path / "real.zarr", S, "ctp") as scan:
        np.testing.assert_allclose(scan["time"], 2.54 * np.arange(10), rtol=1e-6)
