"""Results beside the originals: what was computed is what is stored, read and exported; originals stay as they are.

Oracles are zarr-python, nibabel and NumPy; grids are tilted, and files flipped, as those of the synthetic release.
"""

from __future__ import annotations

import filecmp
import functools
import gzip
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import distributed
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
import zarr

import isles24_zarr
from isles24_zarr.derivatives import _preparing, _writing, function_identity
from isles24_zarr.errors import (
    DestinationError,
    GeometryError,
    RequestError,
    StoreLockedError,
    UnknownNameError,
    VoxelTypeError,
)
from isles24_zarr.format import chunking
from tests.nifti_files import write
from tests.oracle import assert_same_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

S = "sub-stroke0001"

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_current_client(client: Client) -> Iterator[None]:
    """Without one, work is done by threads of this process; tests of clusters give theirs."""
    token = distributed.client._current_client.set(None)
    distributed.client._del_global_client(client)
    with dask.config.set(scheduler="threads"):
        yield
    distributed.client._set_global_client(client)
    distributed.client._current_client.reset(token)


@pytest.fixture
def target(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "x.zarr"))


def opened(target: Path, space: str = "ncct", **options: Any) -> xr.Dataset:
    return isles24_zarr.open_scan(target, S, space, **options)


def files_of(target: Path) -> dict[str, Path]:
    return {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}


def assert_originals_untouched(store: Path, target: Path) -> None:
    mine = {name: path for name, path in files_of(target).items() if not name.startswith("derivatives/")}
    assert mine.keys() == files_of(store).keys()
    assert all(filecmp.cmp(path, store / name, shallow=False) for name, path in mine.items())


def verified(target: Path, *, fast: bool = False) -> list[str]:
    report = isles24_zarr.verify(target, client=None, workers=1, fast=fast, progress=False)
    return [f"{problem.path}: {problem.message}" for problem in report.problems]


def maps(scan: xr.Dataset) -> dict[str, xr.DataArray]:
    """Results of every kind: a mask, a map, a series; lazy, and in memory."""
    rng = np.random.default_rng(0)
    noise = scan["ncct"].copy(data=rng.normal(size=scan["ncct"].shape))
    return {
        "late": scan["tmax"] > 6,
        "half": (scan["ncct"] / 2).astype(np.float32),
        "noise": noise.assign_attrs(units="1", long_name="noise", seed=np.int64(0), of=rng),
        "rise": scan["ctp"].astype(np.int32) - scan["ctp"][0].astype(np.int32),
        "labels": (scan["cow_mask"] * 2).astype(np.uint16).assign_attrs(flag_values=[0, 2], flag_meanings="none two"),
    }


@pytest.mark.parametrize("chunks", ["auto", None, {"z": 5, "y": 17}])
def test_what_was_computed_is_what_is_stored(target: Path, store: Path, chunks: Any) -> None:
    scan = opened(target, chunks=chunks)
    wanted = maps(scan)
    saved = scan.isles.save(wanted, "first-try", description="a try", version="0.3")
    again = opened(target, pipeline="first-try")
    assert list(again) == sorted(wanted)
    group = zarr.open_group(target, mode="r")[f"derivatives/first-try/{S}/space-ncct"]
    for name, values in wanted.items():
        plain = values.values
        found = group[name][...]
        assert found.dtype == (np.uint8 if plain.dtype == bool else plain.dtype)
        assert found.tobytes() == plain.astype(found.dtype).tobytes()
        for other in (saved[name], again[name]):
            np.testing.assert_array_equal(other.values, plain)
            assert other.dtype == found.dtype
    for name, coordinate in scan.coords.items():
        xr.testing.assert_identical(again.coords[name].variable, coordinate.variable)
    merged = scan[["ncct"]].merge(again, join="exact", compat="override")
    assert set(merged) == {"ncct", *wanted}
    assert_originals_untouched(store, target)


def test_documents_say_what_it_is(target: Path) -> None:
    scan = opened(target)
    program = {"Name": "mine", "Version": "2.1", "CodeURL": "https://example.org/mine"}
    scan.isles.save(maps(scan), "p-1", description="a try", generated_by=program, sources=["ncct", "tmax"])
    root = zarr.open_group(target, mode="r", use_consolidated=False)
    assert root["derivatives"].attrs["pipelines"] == ["p-1"]
    assert root["derivatives/p-1"].attrs["description"] == "a try"
    subject = root[f"derivatives/p-1/{S}"]
    own, ours = subject.attrs["GeneratedBy"]
    assert program.items() <= own.items()
    assert ours == {"Name": "isles24-zarr", "Version": isles24_zarr.__version__}
    assert subject.attrs["Sources"] == [f"{S}/space-ncct/ncct", f"{S}/space-ncct/tmax"]
    attributes = {name: dict(array.attrs) for name, array in subject["space-ncct"].arrays() if name in maps(scan)}
    assert (attributes["noise"]["units"], attributes["noise"]["long_name"]) == ("1", "noise")
    assert attributes["noise"]["seed"] == 0
    assert "of" not in attributes["noise"]
    assert (attributes["late"]["flag_values"], attributes["late"]["units"]) == ([0, 1], None)
    assert attributes["late"]["long_name"] == "late"
    assert attributes["labels"]["flag_meanings"] == "none two"
    originals = root[f"{S}/space-ncct"]
    for name in "zyx":
        assert dict(subject[f"space-ncct/{name}"].attrs) == dict(originals[name].attrs)
    assert subject["space-ncct"].attrs["direction"] == originals.attrs["direction"]
    # consolidated: one document has them all
    document = json.loads((target / f"derivatives/p-1/{S}/zarr.json").read_text())
    assert {f"space-ncct/{name}" for name in maps(scan)} < document["consolidated_metadata"]["metadata"].keys()


@pytest.mark.parametrize("space", ["ncct", "ctp"])
def test_a_result_lies_where_the_file_of_its_grid_does(target: Path, release: Path, space: str) -> None:
    scan = opened(target, space)
    rng = np.random.default_rng(1)
    like = scan["tmax"]
    results = {
        "field": like.copy(data=rng.normal(size=like.shape)),
        "spot": like.copy(data=rng.random(like.shape) > 0.9),
        "series": scan["ctp"] * np.float32(1.5),
    }
    scan.isles.save(results, "mine")
    again = opened(target, space, pipeline="mine")
    source = next(release.glob(f"raw_data/{S}/ses-01/{S}_ses-01_{space}.nii.gz"))
    reference = nib.load(source)
    array = zarr.open_group(target, mode="r")[f"derivatives/mine/{S}/space-{space}/field"]
    for name in results:
        image = again.isles.to_nifti(name)
        assert image.shape[:3] == reference.shape[:3]
        np.testing.assert_array_equal(image.affine, reference.affine)
        assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(reference.affine)
    field = again.isles.to_nifti("field")
    assert_same_places(field, array, array[...], np.asarray(field.dataobj)[..., None], shift=0.0)
    assert again.isles.to_nifti("series").header.get_zooms()[3] == pytest.approx(scan["time"].values[1])
    assert again.isles.volume("spot") == pytest.approx(results["spot"].values.sum() * scan.isles.voxel_volume / 1000)
    # of a part, and of what was computed from it, the values in place
    part = again["field"].isel(z=slice(2, 5)).isles.to_nifti(like="file")
    assert nib.aff2axcodes(part.affine) == nib.aff2axcodes(reference.affine)


def test_export_writes_derivatives_of_bids(target: Path, tmp_path: Path) -> None:
    scan = opened(target)
    wanted = maps(scan)
    scan.isles.save(wanted, "mine", description="a try", version="7")
    report = isles24_zarr.export(target, tmp_path / "out", workers=1, progress=False)
    assert report.ok
    folder = tmp_path / "out/derivatives/mine"
    about = json.loads((folder / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Version"] == "7"
    assert about["SourceDatasets"]
    assert about["BIDSVersion"]
    stem = f"{S}/ses-01/anat/{S}_ses-01_space-ncct_desc-"
    names = {"late": "late_mask", "half": "half_map", "noise": "noise_map", "rise": "rise_map", "labels": "labels_dseg"}
    reference = nib.load(tmp_path / f"out/raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz")
    for name, ending in names.items():
        image = nib.load(folder / f"{stem}{ending}.nii.gz")
        np.testing.assert_array_equal(image.affine, reference.affine)
        saved = scan.isles.to_nifti("ncct") if name == "none" else opened(target, pipeline="mine").isles.to_nifti(name)
        values = np.asarray(image.dataobj)
        np.testing.assert_array_equal(values, np.asarray(saved.dataobj))
        assert values.dtype == opened(target, pipeline="mine")[name].dtype
        # by position: nibabel's own way to the canonical axes
        turned = np.asarray(nib.as_closest_canonical(image).dataobj)
        np.testing.assert_array_equal(turned.T, wanted[name].values)
        sidecar = json.loads((folder / f"{stem}{ending}.json").read_text())
        assert f"{S}/space-ncct/ncct" in sidecar["Sources"]
    assert len(list(folder.rglob("*.nii.gz"))) == len(names)
    images = isles24_zarr.export(target, tmp_path / "images", images=["ncct"], workers=1, progress=False)
    assert images.written == 3
    assert not (tmp_path / "images/derivatives/mine").exists()
    with pytest.raises(UnknownNameError, match="nothing"):
        isles24_zarr.export(target, tmp_path / "none", pipelines=["nothing"], progress=False)
    # the release within the export converts as before
    back = isles24_zarr.convert(tmp_path / "out", tmp_path / "back.zarr", subjects=[S], workers=1, progress=False)
    assert back.ok


def test_shards_are_written_one_by_one(
    target: Path, store: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several shards, of which none is the whole array, by the threads of this process and by workers."""
    monkeypatch.setattr(chunking, "MAX_SHARD_BYTES", 200_000)
    scan = opened(target, chunks={"z": 3, "time": 5})
    wanted = {name: values for name, values in maps(scan).items() if name != "noise"}
    scan.isles.save(wanted, "here")
    scan.isles.save(wanted, "there", client=client)
    for pipeline in ("here", "there"):
        folder = target / f"derivatives/{pipeline}/{S}/space-ncct"
        assert len([path for path in (folder / "rise/c").rglob("*") if path.is_file()]) > 2
        group = zarr.open_group(folder, mode="r")
        for name, values in wanted.items():
            np.testing.assert_array_equal(group[name][...], values.values)
    assert verified(target) == []
    mine = files_of(target / "derivatives/here")
    theirs = files_of(target / "derivatives/there")
    assert mine.keys() == theirs.keys()
    assert all(filecmp.cmp(mine[name], theirs[name], shallow=False) for name in mine if "/c/" in name)
    assert_originals_untouched(store, target)


def test_a_region_is_computed_once_and_never_the_whole(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "MAX_SHARD_BYTES", 100_000)
    seen: list[tuple[int, ...]] = []

    def look(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(block.shape)
        return block + np.float32(1)

    scan = opened(target, chunks={"z": 2})
    lazy = dask.array.map_blocks(look, scan["tmax"].data, dtype=np.float32, meta=np.zeros((0, 0, 0), np.float32))
    plus = scan["tmax"].copy(data=lazy)
    scan.isles.save({"one": plus, "two": plus * 2, "three": plus * 3}, "many")
    assert {shape[0] for shape in seen} == {2}
    regions = len([name for name in files_of(target) if "/space-ncct/one/c/" in name])
    assert regions > 1
    # for all three at once; again only where a block lies across the border of two regions
    assert len(seen) <= -(-scan.sizes["z"] // 2) + regions - 1
    np.testing.assert_array_equal(opened(target, pipeline="many")["three"], (scan["tmax"].values + 1) * 3)


def test_regions_are_cut_between_blocks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "MAX_SHARD_BYTES", 100_000)
    monkeypatch.setattr(chunking, "CHUNK_ZYX", (2, 64, 64))
    seen: list[int] = []

    def look(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(len(block))
        return block + np.float32(1)

    scan = opened(target, chunks={"z": 4})
    lazy = dask.array.map_blocks(look, scan["tmax"].data, dtype=np.float32, meta=np.zeros((0, 0, 0), np.float32))
    scan.isles.save({"one": scan["tmax"].copy(data=lazy)}, "many")
    assert len([name for name in files_of(target) if "/space-ncct/one/c/" in name]) > 1
    assert seen == [4, 4, 4]


def test_voxels_do_not_pass_through_the_scheduler(
    target: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory is written from here; what is lazy is sent as what is to be done."""
    from isles24_zarr.tasks import cluster

    sizes: list[int] = []
    packed = cluster.packed

    def watched(*args: Any, **options: Any) -> bytes:
        call = packed(*args, **options)
        sizes.append(len(call))
        return call

    monkeypatch.setattr(cluster, "packed", watched)
    scan = opened(target)
    scan.isles.save({"memory": scan["ncct"].load() * 2}, "a", client=client)
    assert sizes == []
    lazy = opened(target)
    lazy.isles.save({"lazy": lazy["ncct"] * 2}, "b", client=client)
    assert len(sizes) == 1
    assert sizes[0] < 100_000
    monkeypatch.setattr(_writing, "_MOST_MESSAGE", 10_000)
    mixed = lazy["ncct"] * lazy["ncct"].copy(data=np.ones(lazy["ncct"].shape))
    lazy.isles.save({"mixed": mixed}, "c", client=client)
    assert len(sizes) == 1
    np.testing.assert_array_equal(opened(target, pipeline="c")["mixed"], lazy["ncct"].values)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda scan: {"part": scan["ncct"][1:]}, GeometryError, "save results of whole scans"),
        (lambda scan: {"moved": scan["ncct"].assign_coords(x=scan["x"] + 0.01)}, GeometryError, "lost|elsewhere"),
        (lambda scan: {"flat": scan["ncct"].mean("z")}, GeometryError, "axes|coordinate"),
        (lambda scan: {"bare": scan["ncct"].drop_vars(["x", "i"])}, GeometryError, "no coordinate x"),
        (lambda scan: {"raw": scan["ncct"].values}, GeometryError, "no coordinates"),
        (lambda _: {"raw": isles24_zarr.open_scan("STORE", S, "ctp")["tmax"]}, GeometryError, "voxels"),
        (lambda scan: {"fewer": scan["ctp"][:3]}, GeometryError, "frames"),
        (lambda _: {"other": isles24_zarr.open_scan("STORE", "sub-stroke0004")["ncct"]}, GeometryError, "not of"),
        (lambda scan: {"Name": scan["ncct"]}, UnknownNameError, "no name of an array"),
        (lambda scan: {"../up": scan["ncct"]}, UnknownNameError, "no name of an array"),
        (lambda scan: {"time": scan["ncct"]}, UnknownNameError, "no name of an array"),
        (lambda scan: {"a_1": scan["ncct"], "a1": scan["ncct"]}, UnknownNameError, "same file name"),
        (lambda scan: [scan["ncct"], scan["ncct"]], UnknownNameError, "same name"),
        (lambda _: {}, UnknownNameError, "nothing to save"),
        (lambda _: 3, GeometryError, "no array of xarray"),
        (lambda scan: {"words": scan["ncct"].astype(str)}, VoxelTypeError, "not stored"),
        (lambda scan: {"waves": scan["ncct"] * 1j}, VoxelTypeError, "not stored"),
    ],
)
def test_what_cannot_be_saved_is_one_clear_error(
    target: Path, make: Any, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "STORE").symlink_to(target)
    monkeypatch.chdir(tmp_path)
    scan = opened(target)
    with pytest.raises(error, match=words) as raised:
        scan.isles.save(make(scan), "mine")
    assert "\n" not in str(raised.value)
    assert not (target / "derivatives").exists()


@pytest.mark.parametrize("name", ["", "-x", "a/b", "..", "sub-stroke0001", "x y", "ä", "a\n"])
def test_pipelines_have_names_as_bids_has_them(target: Path, name: str) -> None:
    scan = opened(target)
    with pytest.raises(UnknownNameError, match="is no name of a pipeline"):
        scan.isles.save({"half": scan["ncct"]}, name)
    with pytest.raises(UnknownNameError):
        opened(target, pipeline=name)


def test_names_are_of_a_length_that_files_can_have(target: Path, release: Path, tmp_path: Path) -> None:
    scan = opened(target)
    file = next(release.glob(f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"))
    for call in (
        lambda: scan.isles.save({"a" * 101: scan["ncct"]}, "mine"),
        lambda: scan.isles.save({"a": scan["ncct"]}, "p" * 101),
        lambda: isles24_zarr.add(target, "p" * 101, file),
    ):
        with pytest.raises(UnknownNameError, match="too long for a name: it has 101 characters, at most 100"):
            call()
    assert "too long for a name" in added(target, file, name="a" * 101).problems[0].message
    assert not (target / "derivatives").exists()
    scan.isles.save({"a" * 100: scan["ncct"] > 0}, "p" * 100)
    assert isles24_zarr.export(target, tmp_path / "out", pipelines=["p" * 100], workers=1, progress=False).ok


@pytest.mark.parametrize("programs", ["x", ["x"], b"x", 3, [{"Name": "x"}, None], {"Version": "1", "Name": 3}])
def test_programs_are_as_bids_has_them(target: Path, programs: Any) -> None:
    scan = opened(target)
    for call in (
        lambda: scan.isles.save({"half": scan["ncct"]}, "mine", generated_by=programs),
        lambda: added(target, target, generated_by=programs),
    ):
        with pytest.raises(UnknownNameError, match="generated_by: ") as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not (target / "derivatives").exists()


def test_a_scan_that_forgot_its_store(target: Path) -> None:
    scan = opened(target)
    with pytest.raises(UnknownNameError, match="does not know its store"):
        xr.Dataset({"ncct": scan["ncct"]}).isles.save({"a": scan["ncct"]}, "mine")
    scan[["ncct"]].isles.save({"a": scan["ncct"]}, "mine")  # a selection still does


def test_what_turns_out_otherwise_is_refused(target: Path) -> None:
    scan = opened(target)
    lie = scan["ncct"].copy(data=scan["ncct"].data.map_blocks(lambda block: block.astype(np.float64), dtype=np.int16))
    with pytest.raises(VoxelTypeError, match="computed as float64, where int16 was announced"):
        scan.isles.save({"lie": lie}, "mine")
    with pytest.raises(UnknownNameError, match=r"no results|has the pipelines"):
        opened(target, pipeline="mine")


def test_results_are_added_and_replaced(target: Path) -> None:
    scan = opened(target)
    scan.isles.save({"a": scan["ncct"] + 1}, "mine", version="1")
    scan.isles.save({"b": scan["ncct"] + 2}, "mine", version="2")
    raw = opened(target, "ctp")
    raw.isles.save({"a": raw["tmax"] * 2}, "mine", version="2")
    assert list(opened(target, pipeline="mine")) == ["a", "b"]
    with pytest.raises(DestinationError, match="has a already; give overwrite=True"):
        scan.isles.save({"a": scan["ncct"] + 3, "c": scan["ncct"]}, "mine")
    for number in range(3, 6):
        scan.isles.save({"a": scan["ncct"] + number}, "mine", overwrite=True, version=str(number))
        np.testing.assert_array_equal(opened(target, pipeline="mine")["a"], scan["ncct"].values + number)
        np.testing.assert_array_equal(opened(target, pipeline="mine")["b"], scan["ncct"].values + 2)
        plain = zarr.open_group(target, mode="r")[f"derivatives/mine/{S}"]
        np.testing.assert_array_equal(plain["space-ncct/a"][...], scan["ncct"].values + number)
        assert len([name for name in files_of(target) if "space-ncct/a/c" in name]) == 1
    np.testing.assert_array_equal(opened(target, "ctp", pipeline="mine")["a"], raw["tmax"].values * 2)
    assert verified(target) == []
    versions = [each["Version"] for each in plain.attrs["GeneratedBy"]]
    assert set(versions) == {"2", "5", isles24_zarr.__version__}


def test_unknown_pipelines_list_what_there_is(target: Path) -> None:
    scan = opened(target)
    with pytest.raises(UnknownNameError, match="which has the pipelines: none"):
        opened(target, pipeline="mine")
    scan.isles.save({"a": scan["ncct"]}, "mine")
    scan.isles.save({"a": scan["ncct"]}, "other")
    with pytest.raises(UnknownNameError, match="which has the pipelines: mine, other"):
        opened(target, pipeline="nothing")
    with pytest.raises(UnknownNameError, match="has no results of 'mine', which has them in the spaces: ncct"):
        opened(target, "ctp", pipeline="mine")
    cohort = isles24_zarr.open_cohort(target)
    assert cohort.isles.pipelines == ["mine", "other"]
    with pytest.raises(UnknownNameError, match="has no results"):
        cohort.isles.scan("sub-stroke0002", pipeline="mine")
    assert list(cohort.isles.scan(S, pipeline="mine")) == ["a"]


# --- cohorts ---


def half(scan: xr.Dataset, factor: float = 0.5) -> dict[str, xr.DataArray]:
    return {"half": scan["ncct"] * factor}


def picky(scan: xr.Dataset) -> xr.DataArray:
    if str(scan["subject"].values) == "sub-stroke0002":
        raise ValueError("not this\none")
    return (scan["tmax"] > 6).rename("late")


@pytest.mark.parametrize("on_workers", [False, True])
def test_derive_keeps_what_a_function_returns(target: Path, store: Path, client: Client, on_workers: bool) -> None:
    cohort = isles24_zarr.open_cohort(target)
    options: dict[str, Any] = {"client": client if on_workers else None, "progress": False}
    rows = cohort.isles.derive(picky, "late", **options)
    assert rows.index.tolist() == cohort.isles.subjects
    assert rows["state"].tolist() == ["written", "failed", "written"]
    assert rows["error"].tolist() == [None, "ValueError: not this one", None]
    for name in (S, "sub-stroke0004"):
        scan = cohort.isles.scan(name)
        np.testing.assert_array_equal(cohort.isles.scan(name, pipeline="late")["late"], scan["tmax"].values > 6)
    assert cohort.isles.derive(picky, "late", **options)["state"].tolist() == ["kept", "failed", "kept"]
    assert verified(target) == []
    assert_originals_untouched(store, target)


def test_derive_knows_what_was_done(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = isles24_zarr.open_cohort(target)

    def states(function: Any, **options: Any) -> list[str]:
        rows = cohort.isles.derive(function, "half", progress=False, subjects=[S], **options)
        return [f"{state} {'overwrite=True' in (error or '')}" for state, error in rows.itertuples(index=False)]

    assert states(half) == ["written False"]
    assert states(half) == ["kept False"]
    monkeypatch.setattr(_preparing, "PACKAGE_VERSION", "99")
    assert states(half) == ["kept False"]
    assert states(functools.partial(half, factor=0.25)) == ["failed True"]
    assert states(half, version="2") == ["failed True"]
    assert states(functools.partial(half, factor=0.25), overwrite=True) == ["written False"]
    assert states(functools.partial(half, factor=0.25)) == ["kept False"]
    found = cohort.isles.scan(S, pipeline="half")["half"]
    np.testing.assert_array_equal(found, cohort.isles.scan(S)["ncct"].values * 0.25)
    assert states(half, space="nowhere")[0].startswith("failed")


class Above:
    """A model as users write them: what it holds decides what it returns."""

    def __init__(self, limit: float, known: np.ndarray[Any, Any] | None = None) -> None:
        self.limit = limit
        self.known = known

    def __call__(self, scan: xr.Dataset) -> xr.DataArray:
        return (scan["tmax"] > self.limit).rename("late")

    def named(self, scan: xr.Dataset) -> xr.DataArray:
        return self(scan)


def above(limit: float) -> Any:
    return lambda scan: (scan["tmax"] > limit).rename("late")


def above_default(limit: float) -> Any:
    def late(scan: xr.Dataset, limit: float = limit) -> xr.DataArray:
        return Above(limit)(scan)

    return late


MAKERS = {
    "variable": above,
    "default": above_default,
    "object": Above,
    "method": lambda limit: Above(limit).named,
    "array": lambda limit: Above(6, np.append(np.zeros(5000), limit)),
    "argument": lambda limit: functools.partial(Above.__call__, Above(limit)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_a_function_holds_is_part_of_it(make: Any) -> None:
    assert function_identity(make(6)) == function_identity(make(6)) != function_identity(make(4))


def test_a_function_that_holds_another_value_is_another_one(target: Path) -> None:
    cohort = isles24_zarr.open_cohort(target)
    for limit, state in ((6, "written"), (6, "kept"), (4, "failed")):
        rows = cohort.isles.derive(above(limit), "late", progress=False, subjects=[S])
        assert rows["state"].tolist() == [state]
    assert "overwrite=True" in rows["error"].iloc[0]


def test_functions_are_known_again_by_other_processes() -> None:
    code = """
        import numpy, torch
        from tests.test_derivatives import MAKERS
        from isles24_zarr.derivatives import function_identity
        for make in MAKERS.values():
            print(function_identity(make(6)))
        torch.manual_seed(3)
        network = torch.nn.Linear(40, 40)
        print(function_identity(network))
        with torch.no_grad():
            network.weight[0, 0] += 1
        print(function_identity(network))
    """
    pytest.importorskip("torch")
    line = [sys.executable, "-c", textwrap.dedent(code)]
    told = [subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert told[0] == told[1]
    *_, before, after = told[0].splitlines()
    assert before != after


def test_a_store_that_is_written_is_refused(target: Path) -> None:
    scan, cohort = opened(target), isles24_zarr.open_cohort(target)
    script = f"import fcntl, os, time; fcntl.flock(os.open({str(target)!r}, 0), fcntl.LOCK_EX); print(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-u", "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for call in (
            lambda: scan.isles.save({"a": scan["ncct"]}, "mine"),
            lambda: cohort.isles.derive(half, "mine", progress=False),
        ):
            with pytest.raises(StoreLockedError, match="another process is writing into it"):
                call()
        holder.kill()
    scan.isles.save({"a": scan["ncct"]}, "mine")


# --- files of others ---


def added(target: Path, *files: Path, **options: Any) -> Any:
    return isles24_zarr.add(target, "reader", files, **options)


def test_files_come_back_byte_for_byte(target: Path, store: Path, release: Path, tmp_path: Path) -> None:
    files = [*release.glob(f"derivatives/{S}/*/*-msk.nii.gz"), *release.glob(f"raw_data/{S}/ses-01/*ctp.nii.gz")]
    files += release.glob(f"derivatives/{S}/ses-01/perfusion-maps/*.nii.gz")
    report = added(target, *files)
    assert len(report.added) == len(files)
    assert isles24_zarr.export(target, tmp_path / "out", pipelines=["reader"], workers=1, progress=False).ok
    exported = (tmp_path / "out").rglob("*.nii.gz")
    assert sorted(gzip.decompress(file.read_bytes()) for file in exported) == sorted(
        gzip.decompress(file.read_bytes()) for file in files
    )
    again, scan = opened(target, pipeline="reader"), opened(target)
    assert again["lesion_msk"].dtype == scan["lesion_mask"].dtype
    np.testing.assert_array_equal(again["lesion_msk"], scan["lesion_mask"])
    np.testing.assert_array_equal(again["tmax"], scan["tmax"])
    assert again["tmax"].attrs["units"] == "s"
    assert "ctp" in opened(target, "ctp", pipeline="reader")
    assert verified(target) == []
    assert_originals_untouched(store, target)


@pytest.mark.parametrize(
    ("said", "session"), [("_ses-02", "ses-02"), ("_ses-2", "ses-02"), ("", "ses-01"), ("_ses-later", "ses-01")]
)
def test_files_that_are_added_keep_their_sessions(
    target: Path, release: Path, tmp_path: Path, said: str, session: str
) -> None:
    """A mask of the follow-up is on the grid of the NCCT, which is of the admission."""
    source = next(release.glob(f"derivatives/{S}/ses-02/*lesion-msk.nii.gz"))
    file = Path(shutil.copy(source, tmp_path / f"{S}{said}_desc-core_mask.nii.gz"))
    assert added(target, file).ok
    assert opened(target, pipeline="reader")["core_mask"].attrs["session"] == int(session[-1])
    isles24_zarr.export(target, tmp_path / "out", pipelines=["reader"], workers=1, progress=False)
    (back,) = (tmp_path / "out").rglob("*.nii.gz")
    folder = f"derivatives/reader/{S}/{session}/anat"
    assert back.relative_to(tmp_path / "out").as_posix() == (
        f"{folder}/{S}_{session}_space-ncct_desc-coreMask_mask.nii.gz"
    )
    assert verified(target) == []


@pytest.fixture
def affine(release: Path) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = nib.load(release / f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz").affine
    return found


def test_the_grid_of_a_file_is_found_by_its_affine(
    target: Path, release: Path, tmp_path: Path, affine: np.ndarray[Any, Any]
) -> None:
    """In whatever axes it was written; what is on no grid is said so, and the others are added."""
    shape = nib.load(release / f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz").shape
    rng = np.random.default_rng(2)
    voxels = rng.normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(voxels, affine)
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    good = tmp_path / f"{S}_desc-otherAxes_map.nii.gz"
    nib.save(turned, good)
    off = affine.copy()
    off[:3, 3] += 0.5 * np.linalg.norm(affine[:3, 0])
    moved = write(tmp_path / f"{S}_desc-moved_map.nii.gz", voxels, off)
    cut = write(tmp_path / f"{S}_desc-cut_map.nii.gz", voxels[1:], affine)
    stranger = write(tmp_path / "sub-stroke0099_desc-x_map.nii.gz", voxels, affine)
    nameless = write(tmp_path / "prediction.nii.gz", voxels, affine)
    broken = tmp_path / f"{S}_desc-broken_map.nii.gz"
    broken.write_bytes(good.read_bytes()[:-20])
    missing = tmp_path / f"{S}_desc-missing_map.nii.gz"
    nowhere = tmp_path / "nowhere.nii.gz"  # nor does its name say whose it is
    folder = tmp_path / "folder.nii.gz"
    folder.mkdir()
    endless = tmp_path / f"{'n' * 300}.nii.gz"
    report = added(target, good, moved, cut, stranger, nameless, broken, missing, nowhere, folder, endless)
    assert list(report.added) == [f"derivatives/reader/{S}/space-ncct/other_axes"]
    assert not report.ok
    told = {Path(problem.path).name: problem.message for problem in report.problems}
    assert "mm apart" in told[moved.name]
    assert "is on no grid of" in told[cut.name]
    assert "is no subject of" in str(told)
    assert "does not say whose it is" in told[nameless.name]
    assert broken.name in told
    assert "does not exist" in told[missing.name]
    assert "does not exist" in told[nowhere.name]
    assert "is no file" in told[folder.name]
    assert "too long" in told[endless.name]
    found = opened(target, pipeline="reader")
    assert list(found) == ["other_axes"]
    by_nibabel = np.asarray(nib.as_closest_canonical(image).dataobj).T
    np.testing.assert_array_equal(found["other_axes"], by_nibabel)
    named = added(target, nameless, subject=S, name="guess")
    assert list(named.added) == [f"derivatives/reader/{S}/space-ncct/guess"]
    assert list(opened(target, pipeline="reader")) == ["guess", "other_axes"]
    again = added(target, nameless, subject=S, name="guess")
    assert "overwrite" in again.problems[0].message
    assert added(target, nameless, subject=S, name="guess", overwrite=True).ok
    assert verified(target) == []


def test_masks_are_labels_by_the_same_rule(target: Path, tmp_path: Path, release: Path) -> None:
    like = nib.load(release / f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz")
    rng = np.random.default_rng(3)
    stored = (rng.random(like.shape) > 0.8).astype(np.uint16) * 65535
    scaled = write(tmp_path / f"{S}_mask.nii.gz", stored, like.affine, scl_slope=1 / 65535)
    soft = write(tmp_path / f"{S}_desc-soft_mask.nii", rng.random(like.shape).astype(np.float32), like.affine)
    report = added(target, scaled, soft)
    assert report.ok
    assert "fractions" in report.problems[0].message
    found = opened(target, pipeline="reader")
    assert found["mask"].dtype == np.uint8
    assert found["mask"].attrs["flag_values"] == [0, 1]
    assert found["soft_mask"].dtype == np.float32
    assert found.isles.volume("mask") == pytest.approx((stored > 0).sum() * found.isles.voxel_volume / 1000)
    isles24_zarr.export(target, tmp_path / "out", pipelines=["reader"], workers=1, progress=False)
    (back,) = (tmp_path / "out").rglob("*desc-mask_mask.nii.gz")
    assert gzip.decompress(back.read_bytes()) == gzip.decompress(scaled.read_bytes())


def test_pipelines_are_taken_out(target: Path, store: Path) -> None:
    cohort = isles24_zarr.open_cohort(target)
    for name in ("one", "two"):
        cohort.isles.derive(half, name, progress=False)
    report = isles24_zarr.remove(target, [S], derivative="one")
    assert report.removed == (f"derivatives/one/{S}",)
    assert not (target / f"derivatives/one/{S}/zarr.json").exists()
    assert not any((target / f"derivatives/one/{S}").rglob("c"))
    with pytest.raises(UnknownNameError, match="has no results"):
        opened(target, pipeline="one")
    assert cohort.isles.scan("sub-stroke0002", pipeline="one")
    assert verified(target) == []
    isles24_zarr.remove(target, derivative="one")
    assert cohort.isles.pipelines == ["two"]
    for call in (
        lambda: isles24_zarr.remove(target, derivative="one"),
        lambda: isles24_zarr.remove(target, derivative="../phenotype"),
        lambda: isles24_zarr.remove(target, ["sub-none"], derivative="two"),
    ):
        with pytest.raises(RequestError):
            call()
    isles24_zarr.remove(target, derivative="two")
    assert cohort.isles.pipelines == []
    assert verified(target) == []
    assert_originals_untouched(store, target)


# --- the command line ---


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "isles24_zarr", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_commands(target: Path, release: Path, tmp_path: Path) -> None:
    mask = next(release.glob(f"derivatives/{S}/*/*lesion-msk.nii.gz"))
    done = command("add", target, "reader-2", mask, "--description", "the second reader", "--version", "1")
    assert done.returncode == 0, done.stderr
    assert f"derivatives/reader-2/{S}/space-ncct/lesion_msk" in done.stdout
    assert command("add", target, "reader-2", mask).returncode == 1
    assert command("add", target, "reader/2", mask).returncode == 2
    assert command("add", tmp_path / "none", "reader-2", mask).returncode == 2
    described = json.loads(command("info", target, "--json").stdout)["pipelines"]
    assert [(each["name"], each["subjects"], each["arrays"]) for each in described] == [
        ("reader-2", [S], ["lesion_msk"])
    ]
    assert described[0]["stored_bytes"] > 0
    assert described[0]["description"] == "the second reader"
    assert "reader-2" in command("info", target).stdout
    assert "reader-2" in command("info", target, S).stdout
    assert "reader-2" not in command("info", target, "sub-stroke0002").stdout
    out = tmp_path / "out"
    assert command("export", target, out, "--pipeline", "reader-2", "--workers", "1").returncode == 0
    (back,) = out.rglob("*.nii.gz")
    assert gzip.decompress(back.read_bytes()) == gzip.decompress(mask.read_bytes())
    assert command("remove", target, "--derivative", "nothing").returncode == 2
    assert command("remove", target, "--derivative", "reader-2", S).returncode == 0
    assert json.loads(command("remove", target, "--derivative", "reader-2", "--json").stdout)["removed"]
    assert json.loads(command("info", target, "--json").stdout)["pipelines"] == []
