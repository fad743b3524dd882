"""What is exported is what was computed: images for nibabel, and files of xarray, after whatever was done to a scan."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr.errors import GeometryError, UnknownNameError, VoxelTypeError
from tests.nifti_files import OBLIQUE, write

if TYPE_CHECKING:
    from distributed import Client

S = "sub-stroke0001"
RAW, REGISTERED = f"raw_data/{S}/ses-01/{S}_ses-01", f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct"
MAP = f"derivatives/{S}/ses-01/perfusion-maps/{S}_ses-01_space-ncct"
FOLLOW_UP = f"derivatives/{S}/ses-02/{S}_ses-02_space-ncct"
SHAPE, FRAMES = (12, 10, 6), 4
TURNED = np.array([[0.1, -0.4, 0.0, 5.0], [0.5, 0.1, 0.1, 7.0], [0.0, 0.2, -2.0, 30.0], [0, 0, 0, 1]])
"""Axes to A, L and I."""


@pytest.fixture(scope="module")
def odd_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one grid in all kinds of types, scalings and orders of axes."""
    folder = tmp_path_factory.mktemp("odd") / "train"
    rng = np.random.default_rng(3)

    def axes(array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The same voxels in the order of `TURNED`."""
        steps = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(OBLIQUE), nib.orientations.io_orientation(TURNED)
        )
        affine = OBLIQUE @ nib.orientations.inv_ornt_aff(steps, array.shape[:3])
        return nib.orientations.apply_orientation(array, steps), affine

    hounsfield = rng.integers(0, 3000, SHAPE).astype(np.int16)
    write(folder / f"{RAW}_ncct.nii.gz", hounsfield, scl_slope=1.0, scl_inter=-1024.0)
    write(folder / f"{REGISTERED}_cta.nii.gz", *axes(rng.integers(-1000, 2000, SHAPE).astype(">i2")), byte_order=">")
    series = rng.integers(-100, 300, (*SHAPE, FRAMES)).astype(np.int16)
    sizes = np.linalg.norm(axes(series)[1][:3, :3], axis=0)
    write(folder / f"{REGISTERED}_ctp.nii.gz", *axes(series), pixdim=[1, *sizes, 1.41, 0, 0, 0])
    write(folder / f"{MAP}_tmax.nii.gz", rng.normal(5, 3, SHAPE).astype(np.float32))
    write(folder / f"{MAP}_cbf.nii.gz", rng.normal(40, 9, SHAPE))
    write(folder / f"{MAP}_cbv.nii.gz", *axes(rng.integers(0, 9000, SHAPE).astype(np.uint16)), scl_slope=0.001)
    write(folder / f"{FOLLOW_UP}_dwi.nii.gz", rng.integers(0, 2**31, SHAPE).astype(np.int64))
    write(
        folder / f"{FOLLOW_UP}_lesion-msk.nii.gz",
        *axes((rng.random(SHAPE) < 0.2) * np.uint16(65535)),
        scl_slope=1 / 65535,
    )
    return folder


@pytest.fixture(scope="module")
def odd_store(odd_release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd-store") / "x.zarr"
    report = isles24_zarr.convert(odd_release, path, client=client, progress=False)
    assert report.ok
    assert not [problem for problem in report.problems if "grid" in problem.message]
    return path


@pytest.fixture(scope="module")
def scan(odd_store: Path) -> xr.Dataset:
    return isles24_zarr.open_scan(odd_store, S)


IMAGES = ("ncct", "cta", "ctp", "tmax", "cbf", "cbv", "dwi", "lesion_mask")


def assert_written_as_computed(image: xr.DataArray, folder: Path, **options: Any) -> Any:
    """Read back by nibabel, every voxel has the value of the image, at the image's place, at its time."""
    file = folder / "image.nii.gz"
    nib.save(image.isles.to_nifti(**options), file)
    found: Any = nib.load(file)
    loaded = np.asarray(found.dataobj)
    values = image.transpose("time", "z", "y", "x", missing_dims="ignore").values
    assert loaded.ndim == values.ndim
    direction = np.column_stack([image[name].attrs["direction"] for name in "xyz"])
    rng = np.random.default_rng(0)
    voxels = [*np.ndindex(2, 2, 2)] if min(found.shape[:3]) > 1 else [(0, 0, 0)]
    corners = np.array(voxels) * (np.array(found.shape[:3]) - 1)
    for voxel in [*corners.tolist(), *rng.integers(0, found.shape[:3], (10, 3)).tolist()]:
        position = np.linalg.solve(direction, nib.affines.apply_affine(found.affine, voxel))
        z, y, x = (int(np.argmin(abs(image[name].values - at))) for name, at in zip("zyx", position[::-1], strict=True))
        np.testing.assert_allclose(
            [image[name].values[at] for name, at in zip("xyz", (x, y, z), strict=True)], position, atol=1e-4
        )
        there = values[..., z, y, x]
        np.testing.assert_array_equal(loaded[tuple(voxel)], there)
    np.testing.assert_array_equal(*(np.sort(np.ravel(each).astype(np.float64)) for each in (loaded, values)))
    if "time" in image.dims and image.sizes["time"] > 1:
        times = image["time"].values
        assert found.header["pixdim"][4] == pytest.approx(times[1] - times[0], rel=1e-6)
        assert found.header.get_xyzt_units() in (("mm", "sec"), ("mm", "unknown"))
        assert found.header["toffset"] == pytest.approx(times[0])
    np.testing.assert_allclose(found.header.get_zooms()[:3], np.linalg.norm(found.affine[:3, :3], axis=0), rtol=1e-5)
    return found


OPERATIONS: dict[str, Callable[[xr.DataArray], xr.DataArray]] = {
    "nothing": lambda image: image,
    "+ 0": lambda image: image + 0,
    "+ 0.25": lambda image: image + 0.25,
    "* 2": lambda image: image * 2,
    "negative": lambda image: -image.astype(np.int32),
    "where": lambda image: image.where(image > 3),
    "where with another": lambda image: image.where(image > 3, 0),
    "astype float32": lambda image: image.astype(np.float32),
    "astype int32": lambda image: image.astype(np.int32),
    "astype bool": lambda image: image.astype(bool),
    "astype float16": lambda image: (image.clip(0, 100) / 8).astype(np.float16),
    "comparison": lambda image: image > 3,
    "fillna": lambda image: image.where(image > 3).fillna(-7),
    "clip": lambda image: image.clip(0, 40),
    "round": lambda image: (image * 0.3).round(1),
    "copy with fractions": lambda image: image.copy(data=np.random.default_rng(1).random(image.shape)),
    "copy with booleans": lambda image: image.copy(data=np.random.default_rng(1).random(image.shape) < 0.5),
    "full_like": lambda image: xr.full_like(image, 1),
    "full_like with fractions": lambda image: xr.full_like(image, 0.5, dtype=float),
    "zeros_like": xr.zeros_like,
    "reversed": lambda image: image.isel(x=slice(None, None, -1)),
    "a part": lambda image: image.isel(x=slice(2, 9), y=slice(1, 8), z=slice(1, 5)),
    "strides": lambda image: image.isel(x=slice(1, None, 2), y=slice(None, None, 3), z=slice(None, None, 2)),
    "a slice": lambda image: image.isel(z=[3]),
    "one voxel": lambda image: image.isel(z=[3], y=[2], x=[1]),
    "coarsen": lambda image: image.coarsen(x=2, y=2, z=3).mean(),
    "interp": lambda image: image.interp(x=image["x"][:-1] + 0.1, method="nearest"),
    "shifted": lambda image: image.assign_coords(x=image["x"] + 0.01),
    "transposed": lambda image: image.transpose(..., "x", "y", "z"),
    "apply_ufunc": lambda image: xr.apply_ufunc(np.square, image.astype(np.float64), dask="allowed"),
    "map_blocks": lambda image: image.map_blocks(lambda block: block + 1),
    "drop_encoding": lambda image: image.drop_encoding(),
    "drop_attrs": lambda image: image.drop_attrs(deep=False),
    "rename": lambda image: image.rename("another"),
    "sorted back": lambda image: image.sortby("x", ascending=False),
    "rolled": lambda image: image.roll(x=1, roll_coords=False),
    "compute": lambda image: image.compute(),
    "chunked": lambda image: image.chunk(x=3),
    # as Dask does it: a graph may hold local functions, such as that of map_blocks
    "pickled": lambda image: pickle.loads(cloudpickle.dumps(image)),  # noqa: S301 - ours
    "a frame less": lambda image: image.isel(time=slice(1, None)) if "time" in image.dims else image,
    "every other frame": lambda image: image.isel(time=slice(None, None, 2)) if "time" in image.dims else image,
    "enhancement": lambda image: image.isles.enhancement(baseline_frames=2) if "time" in image.dims else image,
    "mean over time": lambda image: image.mean("time") if "time" in image.dims else image,
    "window": lambda image: image.isles.window("brain"),
    "computed": lambda image: image.isles.computed(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", IMAGES)
def test_values_places_and_times_are_those_that_were_computed(
    scan: xr.Dataset, name: str, operation: str, tmp_path: Path
) -> None:
    computed = OPERATIONS[operation](scan[name])
    assert_written_as_computed(computed, tmp_path)
    if "drop_attrs" not in operation:
        in_file = assert_written_as_computed(computed, tmp_path, like=scan[name])
        codes = nib.aff2axcodes(in_file.affine)
        wanted = "".join(codes)
        assert wanted == scan[name].attrs["file_orientation"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@example(name="ncct", steps=["map_blocks", "pickled"])
@example(name="ncct", steps=["one voxel", "strides"])
@given(
    name=st.sampled_from(IMAGES),
    steps=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=3),
)
def test_operations_after_each_other(scan: xr.Dataset, tmp_path: Path, name: str, steps: list[str]) -> None:
    image = scan[name]
    for step in steps:
        try:
            image = OPERATIONS[step](image)
        except (ValueError, KeyError, TypeError, IndexError):  # xarray's own, as of too few voxels to coarsen
            return
    try:
        assert_written_as_computed(image, tmp_path)
    except GeometryError as error:
        reasons = ("no voxel is left along", "one voxel along", "evenly spaced")
        assert any(reason in str(error) for reason in reasons), error  # noqa: PT017


def test_the_file_itself_where_nothing_was_done(odd_release: Path, scan: xr.Dataset) -> None:
    for name, file in (("cta", f"{REGISTERED}_cta"), ("ctp", f"{REGISTERED}_ctp"), ("tmax", f"{MAP}_tmax")):
        image: Any = nib.load(odd_release / f"{file}.nii.gz")
        for same in (scan[name], scan[name].load(), scan[name] + 0, scan[name].copy(data=scan[name].values)):
            found = same.isles.to_nifti()
            if name in scan and same.encoding:
                assert found.header == image.header
                np.testing.assert_array_equal(found.affine, image.affine)
                assert np.asarray(found.dataobj).tobytes() == np.asarray(image.dataobj).tobytes()
        changed = scan[name].copy(data=np.flip(scan[name].values, -1)).isles.to_nifti()
        assert changed.header != image.header


def test_a_stack_of_maps(scan: xr.Dataset, tmp_path: Path) -> None:
    stack = scan[["tmax", "cbf"]].to_array("map")
    found = stack.isles.to_nifti()
    nib.save(found, tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "x.nii.gz").dataobj).T, stack.values)
    with pytest.raises(GeometryError, match="besides z, y and x"):
        stack.expand_dims("more").isles.to_nifti()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.int64(5), "int32"),
        (np.int64(2**40), "int64"),
        (np.uint64(7), "uint32"),
        (np.uint64(2**63), "uint64"),
        (np.float16(0.1), "float32"),
        (np.longdouble(0.5), "float64"),
        (np.True_, "uint8"),
        (np.int8(-3), "int8"),
        (np.complex64(1j), "complex64"),
    ],
)
def test_every_number_in_a_type_that_holds_it(scan: xr.Dataset, tmp_path: Path, values: Any, dtype: str) -> None:
    image = xr.full_like(scan["tmax"], values, dtype=values.dtype).compute()
    found = image.isles.to_nifti()
    assert found.get_data_dtype() == np.dtype(dtype)
    nib.save(found, tmp_path / "x.nii")
    assert (np.asarray(nib.load(tmp_path / "x.nii").dataobj) == values).all()


@pytest.mark.parametrize("values", [np.array("text"), np.datetime64("2021-03-05", "ns"), np.longdouble(1) / 3])
def test_what_nifti_does_not_hold(scan: xr.Dataset, values: Any) -> None:
    image = scan["tmax"].compute().copy(data=np.full(scan["tmax"].shape, values))
    with pytest.raises(VoxelTypeError, match=r"tmax: has values of type .*; convert them"):
        image.isles.to_nifti()


def test_frames_that_have_no_step(scan: xr.Dataset) -> None:
    with pytest.raises(GeometryError, match="evenly spaced in time"):
        scan["ctp"].isel(time=[0, 1, 3]).isles.to_nifti()
    assert scan["ctp"].isel(time=[2]).isles.to_nifti().header["toffset"] == pytest.approx(2 * 1.41)


def test_whose_axes(scan: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match="neither 'file' nor"):
        scan["tmax"].isles.to_nifti(like="ncct")
    with pytest.raises(GeometryError, match=r"like=scan\['ncct'\]"):
        (scan["tmax"] > 3).drop_attrs(deep=False).isles.to_nifti(like="file")
    wrong = scan["tmax"].assign_attrs(file_orientation="LLS") + 1
    with pytest.raises(GeometryError, match="file_orientation is wrong"):
        wrong.isles.to_nifti(like="file")


def test_by_index_over_the_file(odd_release: Path, scan: xr.Dataset) -> None:
    """What a viewer lays over the file, voxel by voxel."""
    image: Any = nib.load(odd_release / f"{REGISTERED}_cta.nii.gz")
    over = (scan["cta"] > 100).isles.to_nifti(like="file")
    np.testing.assert_array_equal(np.asarray(over.dataobj), np.asarray(image.dataobj) > 100)
    np.testing.assert_allclose(over.affine, image.affine, atol=1e-4)
    assert scan.isles.to_nifti("cta", like=scan["cta"]).shape == image.shape


def test_an_orientation_that_is_not_known_stays_so(client: Client, tmp_path: Path) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write(tmp_path / f"train/{RAW}_ncct.nii.gz", voxels, codes=(0, 0), pixdim=[1, 2, 3, 4, 0, 0, 0, 0])
    isles24_zarr.convert(tmp_path / "train", tmp_path / "x.zarr", client=client, progress=False)
    for scan in (isles24_zarr.open_scan(tmp_path / "x.zarr", S), xr.open_zarr(tmp_path / f"x.zarr/{S}/space-ncct")):
        for image in (scan["ncct"], scan["ncct"] * 2, scan["ncct"].isel(x=slice(1, None))):
            found = image.isles.to_nifti()
            assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (0, 0)
            np.testing.assert_allclose(found.header.get_zooms(), (2, 3, 4))
            np.testing.assert_array_equal(np.asarray(found.dataobj), image.values.T)
        assert (scan["ncct"] * 2).isles.to_nifti(like="file").shape == (3, 4, 5)


# --- files of xarray ---


@pytest.mark.parametrize("chunks", ["auto", None])
@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_netcdf(odd_store: Path, tmp_path: Path, engine: Any, chunks: Any) -> None:
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    scan = isles24_zarr.open_scan(odd_store, S, chunks=chunks)
    scan.to_netcdf(tmp_path / "x.nc", engine=engine)
    with xr.open_dataset(tmp_path / "x.nc", engine=engine) as back:
        xr.testing.assert_equal(back, scan)
        np.testing.assert_allclose(back.isles.affine, scan.isles.affine)
        assert back["lesion_mask"].isles.volume() == scan.isles.volume()
        np.testing.assert_allclose(back["tmax"].isles.to_nifti().affine, scan["tmax"].isles.affine, atol=1e-4)
    (scan["ncct"].copy(data=scan["ncct"].values + 0.3)).to_netcdf(tmp_path / "y.nc", engine=engine)
    with xr.open_dataarray(tmp_path / "y.nc", engine=engine) as back:
        np.testing.assert_array_equal(back, scan["ncct"].values + 0.3)


@pytest.mark.parametrize("chunks", ["auto", None])
def test_zarr(odd_store: Path, tmp_path: Path, chunks: Any) -> None:
    scan = isles24_zarr.open_scan(odd_store, S, chunks=chunks)
    for number, part in enumerate((scan, scan.isel(z=slice(1, 4)), scan * 1.5, scan.chunk(x=5))):
        part.to_zarr(tmp_path / f"{number}.zarr", consolidated=False)
        with xr.open_zarr(tmp_path / f"{number}.zarr", consolidated=False) as back:
            xr.testing.assert_equal(back.load(), part.load())
            np.testing.assert_allclose(back.isles.affine, part.isles.affine)


def test_tables_pickles_and_merges(scan: xr.Dataset) -> None:
    part = scan[["tmax", "cbf"]].isel(z=[2], y=slice(0, 3))
    frame = part.to_dataframe()
    assert frame["tmax"].tolist() == part["tmax"].values.ravel().tolist()
    assert set(frame["subject"]) == {S}
    again = pickle.loads(pickle.dumps(scan))  # noqa: S301 - ours
    xr.testing.assert_identical(again.load(), scan.load())
    assert again["tmax"].encoding["isles24_zarr"]["source"] == scan["tmax"].encoding["isles24_zarr"]["source"]
    halves = xr.concat([scan.isel(z=slice(0, 3)), scan.isel(z=slice(3, None))], "z", data_vars="minimal")
    xr.testing.assert_equal(halves.load(), scan.load())
    np.testing.assert_allclose(halves.isles.affine, scan.isles.affine)
    merged = xr.merge([scan[["tmax"]], scan[["cbf"]]])
    xr.testing.assert_equal(merged.load(), scan[["tmax", "cbf"]].load())


# --- geometry ---


@pytest.mark.parametrize("count", [6, 5])
def test_one_slice_out_of_several_has_no_thickness(scan: xr.Dataset, count: int) -> None:
    """Of an odd number of slices, the middle one is where their mean is."""
    volume = scan.isel(z=slice(0, count))
    thick = volume.coarsen(z=count).mean()
    for one in (thick, thick.isel(z=0), thick["tmax"], thick.squeeze("z")):
        with pytest.raises(GeometryError, match="does not tell its thickness"):
            _ = one.isles.affine
        with pytest.raises(GeometryError):
            _ = one.isles.voxel_volume
    half = scan.coarsen(z=3).mean()
    assert half.isles.spacing[2] == pytest.approx(3 * scan.isles.spacing[2])
    assert scan.isel(z=[3]).isles.spacing == pytest.approx(scan.isles.spacing)


def test_two_heads_have_no_common_place(store: Path) -> None:
    first, second = (isles24_zarr.open_scan(store, name)[["ncct"]] for name in (S, "sub-stroke0004"))
    shape = {name: slice(0, min(first.sizes[name], second.sizes[name])) for name in "xyz"}
    parts = [first.isel(shape), second.isel(shape)]
    options: dict[str, Any] = {"join": "override", "coords": "different", "compat": "equals", "data_vars": "all"}
    for joined in (xr.concat(parts, dim, **options) for dim in ("subject", "patient", "z")):
        with pytest.raises(GeometryError, match="holds several subjects"):
            _ = joined.isles.affine
        with pytest.raises(GeometryError):
            joined["ncct"].isles.to_nifti()
    alone = xr.concat(parts, "subject", **options).isel(subject=1)
    assert str(alone["subject"].values) == "sub-stroke0004"
