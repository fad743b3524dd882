"""Opening a scan: xarray objects against nibabel and the promises about cost."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format import layout
from isles24_zarr.format.chunking import chunks_and_shards
from isles24_zarr.scans import opening as dataset
from isles24_zarr.scans.opening import dask_chunks
from isles24_zarr.store.objects import document_from_bytes

if TYPE_CHECKING:
    from distributed import Client

S = "sub-stroke0001"


@pytest.fixture(scope="module")
def scan(store: Path) -> xr.Dataset:
    return isles24_zarr.open_scan(store, S)


def lesion(release: Path) -> Any:
    return nib.load(release / f"derivatives/{S}/ses-02/{S}_ses-02_space-ncct_lesion-msk.nii.gz")


def test_opening_a_scan_reads_metadata_and_coordinates_only(store: Path, reads: list[str]) -> None:
    isles24_zarr.open_scan(store, S)
    assert len(reads) <= 8
    assert [key for key in reads if key.startswith(S)]
    assert {key.split("/")[2] for key in reads if "/c/" in key} == {"x", "y", "z", "time"}


def test_documents_are_strict_json(store: Path) -> None:
    """However one is laid out; half of one is damage, and so is what other parsers let pass."""
    data = (store / S / "zarr.json").read_bytes()
    whole = json.loads(data)
    assert document_from_bytes(data, path="x") == whole
    for order in itertools.permutations(whole):
        for indent in (None, 4):
            other = json.dumps({name: whole[name] for name in order}, indent=indent).encode()
            assert document_from_bytes(other, path="x") == whole
    nested = b'{"attributes": ' + b'{"a": ' * 100_000
    for odd in (
        data[: len(data) // 2],
        data[:-1],
        b'{"a": NaN}',
        rb'{"a": "\ud800"}',
        b'{"a": 1e999}',
        nested,
        b"[]",
        b"",
    ):
        with pytest.raises(StoreDamageError, match="is not a Zarr document"):
            document_from_bytes(odd, path="x")


def test_images_are_in_the_order_of_the_card(scan: xr.Dataset) -> None:
    names = "ncct cta ctp tmax mtt cbf cbv dwi adc lesion_mask lvo_mask cow_mask"
    assert list(scan.data_vars) == names.split()
    assert scan["ctp"].dims == ("time", "z", "y", "x")
    assert scan["cow_mask"].attrs["flag_meanings"].split()[1] == "BA"
    assert scan["tmax"].attrs["units"] == "s"


def test_position_of_a_voxel(release: Path, scan: xr.Dataset) -> None:
    direction = np.column_stack([scan[name].attrs["direction"] for name in "xyz"])
    image = lesion(release)
    mask = scan["lesion_mask"].compute()
    z, y, x = np.argwhere(mask.values)[0]
    here = mask[z, y, x]
    position = direction @ [here.x.item(), here.y.item(), here.z.item()]
    i, j, k = np.rint(np.linalg.inv(image.affine) @ [*position, 1])[:3].astype(int)
    assert round(np.asarray(image.dataobj)[i, j, k]) == here.item() == 1
    np.testing.assert_allclose(scan.isles.to_world([x, y, z]), position, atol=1e-9)


@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"x": slice(5, 30, 3), "y": slice(None, None, -1), "z": slice(2, None)},
        {"z": 4},
        {"x": [3], "y": slice(7, 9)},
    ],
)
def test_the_affine_of_any_part(store: Path, scan: xr.Dataset, cut: dict[str, Any]) -> None:
    part = scan.isel(cut)
    whole = np.array(zarr.open_group(store / S / "space-ncct", mode="r").attrs["affine"])
    for data in (part, part["ncct"], part["ncct"] * 2.0):
        first = [np.atleast_1d(np.arange(scan.sizes[name])[cut.get(name, slice(None))])[0] for name in "xyz"]
        np.testing.assert_allclose(
            nib.affines.apply_affine(data.isles.affine, (0, 0, 0)), nib.affines.apply_affine(whole, first), atol=1e-9
        )
        steps = np.linalg.norm(data.isles.affine[:3, :3], axis=0)
        np.testing.assert_allclose(data.isles.spacing, steps, rtol=1e-9)
    assert part.isles.voxel_volume == pytest.approx(abs(np.linalg.det(part.isles.affine[:3, :3])))


def test_geometry_that_is_gone_is_an_error(scan: xr.Dataset) -> None:
    with pytest.raises(errors.GeometryError, match="no coordinate z"):
        _ = scan["ncct"].isel(z=0, drop=True).isles.affine
    with pytest.raises(errors.GeometryError, match="not evenly spaced"):
        _ = scan.isel(x=[0, 1, 5]).isles.affine


def test_select_by_position(scan: xr.Dataset) -> None:
    positions = scan.isles.to_world([[3, 4, 5], [10, 11, 6]])
    one = scan.isles.sel_world(positions[0] + 0.1)
    assert one["ncct"].values == scan["ncct"].values[5, 4, 3]
    many = scan["ctp"].isles.sel_world(positions)
    assert many.dims == ("time", "point")
    np.testing.assert_array_equal(many[:, 1], scan["ctp"][:, 6, 11, 10])
    with pytest.raises(errors.GeometryError, match="does not reach"):
        scan.isles.sel_world([1e4, 0, 0])


def test_volume_in_ml(release: Path, scan: xr.Dataset) -> None:
    image = lesion(release)
    wanted = np.count_nonzero(np.asarray(image.dataobj)) * abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert wanted > 0
    assert scan.isles.volume() == pytest.approx(wanted)
    assert scan["lesion_mask"].isles.volume() == pytest.approx(wanted)
    assert scan.isles.volume("cow_mask", label=1) < scan.isles.volume("cow_mask")
    with pytest.raises(errors.UnknownNameError, match="which has ncct"):
        scan.isles.volume("tumour")


def test_a_ct_window(scan: xr.Dataset) -> None:
    shown = scan.isles.window("brain")
    assert set(shown.data_vars) == {"ncct", "cta", "ctp"}
    wanted = np.clip(scan["ncct"].values / 80.0, 0, 1)
    np.testing.assert_allclose(shown["ncct"], wanted, atol=1e-6)
    np.testing.assert_allclose(scan["ncct"].isles.window("brain"), wanted, atol=1e-6)
    with pytest.raises(errors.UnknownNameError, match="brain"):
        scan.isles.window("belly")


@pytest.mark.parametrize(
    "key",
    [
        {"z": 3},
        {"z": slice(None, None, -2), "x": [5, 1, 5]},
        {"y": -1, "x": slice(-7, None)},
        {"time": [2, 0], "y": slice(4, 2)},
        {"z": xr.DataArray([1, 4, 2], dims="point"), "x": xr.DataArray([7, 0, 3], dims="point")},
    ],
)
@pytest.mark.parametrize("chunks", [None, "auto"])
def test_any_way_to_index(store: Path, key: dict[str, Any], chunks: Any) -> None:
    scan = isles24_zarr.open_scan(store, S, chunks=chunks)
    for name in ("ctp", "tmax"):
        array = zarr.open_array(store / S / "space-ncct" / name, mode="r")
        wanted = xr.DataArray(array[...], dims=scan[name].dims)
        part = {dim: index for dim, index in key.items() if dim in wanted.dims}
        np.testing.assert_array_equal(scan[name].isel(part).values, wanted.isel(part).values)


def test_the_same_values_with_and_without_dask(store: Path, client: Client) -> None:
    with isles24_zarr.open_scan(store, S, chunks=None) as plain:
        wanted = plain["ctp"].mean("time").load()
    with isles24_zarr.open_scan(store, S) as lazy:
        assert isinstance(lazy["ctp"].data, da.Array)
        with dask.config.set(scheduler="synchronous"):
            xr.testing.assert_equal(lazy["ctp"].mean("time").compute(), wanted)
        computed = client.compute(lazy["ctp"].mean("time")).result()
        xr.testing.assert_equal(computed, wanted)
        assert len(pickle.dumps(lazy)) < 200_000
    again = isles24_zarr.open_scan(store, S)
    assert again["ctp"].data.name == lazy["ctp"].data.name


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 200), st.integers(1, 700), st.integers(1, 700)),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 2),
)
def test_dask_chunks_never_cross_a_shard(shape: tuple[int, ...], itemsize: int, slow_axis: int) -> None:
    dims = ("time", "z", "y", "x")
    images = {}
    for name, part in (("series", shape), ("volume", shape[1:])):
        chunks, shards = chunks_and_shards(part, itemsize, slow_axis=slow_axis)
        data = da.zeros(part, dtype=f"u{itemsize}", chunks=part)
        images[name] = xr.Variable(
            dims[-len(part) :], data, encoding={layout.ATTRIBUTE_KEY: {"chunk_shape": chunks, "shard_shape": shards}}
        )
    sizes = dask_chunks(xr.Dataset(images))
    for image in images.values():
        record = image.encoding[layout.ATTRIBUTE_KEY]
        stored = zip(image.dims, record["chunk_shape"], record["shard_shape"], image.shape, strict=True)
        for dim, chunk, shard, count in stored:
            size = sizes[dim]
            assert size % chunk == 0
            assert size >= count or shard >= count or shard % size == 0
        smallest = np.prod(record["chunk_shape"]) * itemsize
        block = np.prod([min(sizes[dim], n) for dim, n in zip(image.dims, image.shape, strict=True)]) * itemsize
        assert block <= max(dataset.DASK_CHUNK_BYTES, smallest)


def test_dask_chunks_of_the_reference_subject() -> None:
    images = {}
    for name, shape, dtype in (("ctp", (45, 74, 586, 512), "i2"), ("tmax", (74, 586, 512), "f4")):
        chunks, shards = chunks_and_shards(shape, np.dtype(dtype).itemsize, slow_axis=0)
        dims = ("time", "z", "y", "x")[-len(shape) :]
        data = da.zeros(shape, dtype=dtype, chunks=shape)
        images[name] = xr.Variable(
            dims, data, encoding={layout.ATTRIBUTE_KEY: {"chunk_shape": chunks, "shard_shape": shards}}
        )
    sizes = dask_chunks(xr.Dataset(images))
    assert sizes["time"] == 4
    assert (sizes["y"], sizes["x"]) >= (586, 512)
    assert 20e6 <= 4 * min(sizes["z"], 74) * 586 * 512 * 2 <= 64e6


@pytest.mark.parametrize(
    ("subject", "space", "words"),
    [
        ("sub-stroke9999", "ncct", "is no subject of"),
        (S, "mni", "which has the spaces: cta, ctp, ncct"),
        ("", "ncct", "is no subject of"),
        ("phenotype", "ncct", "is no subject of"),
    ],
)
def test_unknown_names(store: Path, subject: str, space: str, words: str) -> None:
    with pytest.raises(errors.UnknownNameError, match=words):
        isles24_zarr.open_scan(store, subject, space)


def test_what_is_no_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "other.zarr"):
        with pytest.raises(errors.NotAStoreError):
            isles24_zarr.open_cohort(path)
        with pytest.raises(errors.NotAStoreError):
            isles24_zarr.open_scan(path, S)


def test_a_newer_format_and_an_interrupted_conversion(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["state"] = "converting"
    (copy / "zarr.json").write_text(json.dumps(root))
    (copy / S / "zarr.json").unlink()
    with pytest.raises(errors.IncompleteStoreError, match="run the same"):
        isles24_zarr.open_scan(copy, S)
    shutil.rmtree(copy / "phenotype")
    with pytest.raises(errors.IncompleteStoreError):
        isles24_zarr.open_cohort(copy)
    root["attributes"]["format_version"] = layout.FORMAT_VERSION + 1
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(errors.StoreVersionError, match="upgrade"):
        isles24_zarr.open_cohort(copy)


@pytest.mark.parametrize("chunks", [None, "auto"])
def test_a_scan_whose_subject_was_converted_again(store: Path, tmp_path: Path, chunks: Any) -> None:
    """Of the same sizes, so that nothing but the file system tells."""
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    scan = isles24_zarr.open_scan(copy, S, chunks=chunks)
    wanted = scan["ctp"].values
    for path in (copy / S / "space-ncct/tmax/c").rglob("*"):
        if path.is_file():
            again = path.with_name("again")
            again.write_bytes(path.read_bytes())
            again.replace(path)
    for part in (scan["tmax"], scan["tmax"].isel(z=[1], y=[2]), pickle.loads(pickle.dumps(scan["tmax"]))):  # noqa: S301
        with pytest.raises(
            errors.StaleReadError, match=r"tmax/c/0/0/0: was replaced after it was opened.*open it again"
        ):
            part.load()
    np.testing.assert_array_equal(scan["ctp"].values, wanted)
    isles24_zarr.open_scan(copy, S, chunks=chunks)["tmax"].load()
