"""Images on other grids: against scipy and nibabel, which know of voxels and affines and nothing of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage
from scipy.spatial.transform import Rotation

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.analysis import resampled_like
from tests.test_analysis import make_volume

pytestmark = pytest.mark.usefixtures("in_threads")


def tilted(spacing: tuple[float, float, float], origin: tuple[float, float, float], degrees: Any) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


SOURCE = tilted((1.1, 0.9, 2.5), (-8, -9, -11), (12, -5, 3))
TARGETS = {
    "finer": (tilted((0.7, 0.8, 1.3), (-3, -4, -5), (12, -5, 3)), (9, 11, 10)),
    "turned": (tilted((-1.3, 1.0, -2.0), (9, -9, 9), (-20, 8, 30)), (12, 17, 16)),
    "far": (tilted((1.0, 1.0, 1.0), (300, 0, 0), (0, 0, 0)), (4, 5, 6)),
    "sheared": (np.array([[1, 0.2, 0, -6], [0, 1, 0.1, -7], [0, 0, 2, -6], [0, 0, 0, 1.0]]), (7, 13, 14)),
}
SHAPE = (10, 20, 18)


def wanted(values: np.ndarray, source: np.ndarray, target: np.ndarray, shape: Any, order: int) -> np.ndarray:
    """Return what scipy makes of it, NaN outside."""
    to_source = np.linalg.inv(source) @ target
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)[..., ::-1]
    places = nib.affines.apply_affine(to_source, index)[..., ::-1]
    if order == 0:
        places = np.floor(places + 0.5)  # scipy has another rule for halves
    limit = np.array(values.shape) - 1
    inside = ((places >= -1e-6) & (places <= limit + 1e-6)).all(axis=-1)
    found = ndimage.map_coordinates(values.astype(float), np.moveaxis(places, -1, 0), order=order, mode="nearest")
    return np.where(inside, found, np.nan)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", ["nearest", "linear"])
@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.parametrize("chunks", [{}, {"z": 3, "y": 7, "x": 5}])
def test_against_scipy(name: str, method: Literal["nearest", "linear"], dtype: str, chunks: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    values = (1000 * rng.standard_normal(SHAPE)).astype(dtype)
    image = make_volume(values, SOURCE, name="ncct")
    affine, shape = TARGETS[name]
    reference = make_volume(np.zeros(shape, np.int8), affine)
    found = resampled_like(image.chunk(chunks) if chunks else image, reference, method=method)
    assert found.chunks
    truth = wanted(values, SOURCE, affine, shape, order=method == "linear")
    assert found.dims == ("z", "y", "x")
    assert found.dtype == (dtype if not np.isnan(truth).any() and method == "nearest" else np.result_type(dtype, "f4"))
    assert not np.isnan(truth).any() or name != "finer"
    tolerance = 0 if method == "nearest" else 1e-2 if dtype != "float64" else 1e-8
    np.testing.assert_allclose(found.values, truth, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.isles.affine, affine, atol=1e-12)


@pytest.mark.parametrize("name", TARGETS)
def test_masks_stay_labels(name: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 4, SHAPE).astype(np.uint8)
    affine, shape = TARGETS[name]
    reference = make_volume(np.zeros(shape), affine)
    for mask in (make_volume(values, SOURCE, name="cow_mask"), make_volume(values > 1, SOURCE, name="mine")):
        found = resampled_like(mask, reference)
        assert found.dtype == mask.dtype
        truth = np.nan_to_num(wanted(mask.values, SOURCE, affine, shape, order=0))
        np.testing.assert_array_equal(found.values, truth.astype(mask.dtype))
    with pytest.raises(errors.MaskError, match="take the nearest"):
        resampled_like(make_volume(values, SOURCE, name="cow_mask"), reference, method="linear")
    soft = resampled_like(make_volume(values > 1, SOURCE, name="mine"), reference, method="linear")
    assert soft.dtype == np.float32
    assert 0 <= float(soft.min()) <= float(soft.max()) <= 1


def test_what_was_computed_of_a_mask_is_none() -> None:
    """Name and flags stay in arithmetic, what they say of the values does not."""
    labels = np.random.default_rng(4).integers(0, 2, SHAPE).astype(np.uint8)
    affine, shape = TARGETS["turned"]
    reference = make_volume(np.zeros(shape), affine)
    flags = {"flag_values": [0, 1], "flag_meanings": "background lesion"}
    cases: dict[str, tuple[Any, bool]] = {
        "soft": (labels * np.float32(0.7), True),
        "numbers": (labels * 37.5 + 100, False),
        "other labels": (labels * np.uint8(37) + np.uint8(100), False),
    }
    for values, is_mask in cases.values():
        image = make_volume(values, SOURCE, name="lesion_mask").assign_attrs(flags)
        truth = wanted(values, SOURCE, affine, shape, order=1)
        found = resampled_like(image, reference, method="linear")
        np.testing.assert_allclose(found, np.nan_to_num(truth) if is_mask else truth, atol=1e-4)
    for name, given in (("lesion_mask", labels), ("lesion_mask", labels.astype(float)), ("mine", labels)):
        image = make_volume(given, SOURCE, name=name).assign_attrs(flags)
        with pytest.raises(errors.MaskError, match="take the nearest"):
            resampled_like(image, reference, method="linear")
    image = make_volume(labels * np.uint8(200), SOURCE, name="picture")
    truth = wanted(image.values, SOURCE, affine, shape, order=1)
    np.testing.assert_allclose(resampled_like(image, reference, method="linear"), truth, atol=1e-3)
    assert resampled_like(image, reference).dtype == np.uint8


def test_a_series_and_parts_of_it() -> None:
    rng = np.random.default_rng(2)
    frames = rng.standard_normal((5, *SHAPE)).astype(np.float32)
    series = xr.concat([make_volume(frame, SOURCE, name="ctp") for frame in frames], "time")
    series = series.assign_coords(time=np.arange(5) * 1.5)
    affine, shape = TARGETS["turned"]
    reference = make_volume(np.zeros(shape), affine)
    for given in (series, series.chunk(time=2, y=6), series.transpose("x", "z", "time", "y")):
        found = resampled_like(given, reference, method="linear")
        assert found.dims == ("time", "z", "y", "x")
        assert found["time"].values.tolist() == [0, 1.5, 3, 4.5, 6]
        for frame, part in zip(frames, found.values, strict=True):
            np.testing.assert_allclose(part, wanted(frame, SOURCE, affine, shape, order=1), atol=1e-5)
    # what is left of an image, with every second voxel and backwards, still knows where it lies
    part = series.isel(time=0, x=slice(None, None, -2), z=slice(2, 9))
    found = resampled_like(part, reference, method="nearest")
    cut = frames[0][2:9, :, ::-2]
    moved = SOURCE @ np.array([[-2, 0, 0, SHAPE[2] - 1], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(found.values, wanted(cut, moved, affine, shape, order=0))


def test_what_is_not_finite_does_not_spread_further_than_it_weighs() -> None:
    values = np.ones(SHAPE)
    values[4, 5, 6] = np.nan
    image = make_volume(values, np.diag([1.0, 1, 1, 1]))
    same = resampled_like(image, image, method="linear")
    np.testing.assert_array_equal(same.values, values)


def test_one_slice_and_one_voxel() -> None:
    image = make_volume(np.arange(24.0).reshape(1, 4, 6), np.diag([1.0, 1, 5, 1]))
    for method in ("nearest", "linear"):
        np.testing.assert_array_equal(resampled_like(image, image, method=method).values, image.values)
        # beside it by what is left of double precision
        beside = make_volume(image.values, np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 5, 1e-8], [0, 0, 0, 1]]))
        np.testing.assert_allclose(resampled_like(image, beside, method=method), image, rtol=1e-6)
    with pytest.raises(errors.GeometryError, match="no axis z"):
        resampled_like(image.isel(z=0), image)
    with pytest.raises(errors.GeometryError, match="no axis x"):
        resampled_like(image, image.isel(x=0))
    with pytest.raises(errors.UnknownNameError, match="nearest, linear"):
        resampled_like(image, image, method="cubic")


def test_a_mask_on_the_ctp_as_acquired(store: Path, release: Path) -> None:
    """By nibabel, from the files to the file: labels at the voxels of the raw CTP."""
    cohort = isles24_zarr.open_cohort(store)
    name = cohort.isles.subjects[0]
    acquired = cohort.isles.scan(name, space="ctp")
    mask = cohort.isles.scan(name)["cow_mask"].isles.resample_like(acquired)
    source = nib.load(next(release.rglob(f"{name}_ses-01_space-ncct_cow-msk.nii.gz")))
    target = nib.load(next(release.rglob(f"raw_data/**/{name}_ses-01_ctp.nii.gz")))
    truth = nibabel.processing.resample_from_to(
        nib.Nifti1Image(np.asarray(source.dataobj).astype(np.float64), source.affine),
        (target.shape[:3], target.affine),
        order=0,
    )
    found = np.asarray(mask.isles.to_nifti(like=acquired["ctp"]).dataobj)
    assert np.count_nonzero(found) > 0
    assert np.count_nonzero(found != np.asarray(truth.dataobj)) <= 2  # halves of a voxel are rounded the other way
    everything = cohort.isles.scan(name)[["ncct", "tmax", "lesion_mask"]].isles.resample_like(acquired)
    assert set(everything.data_vars) == {"ncct", "tmax", "lesion_mask"}
    assert everything.sizes == acquired["tmax"].sizes
