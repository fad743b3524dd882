"""Numbers from images, against nibabel, numpy, scipy and pandas on the files of the release."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage, stats

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.analysis import inside_mask, lesions
from isles24_zarr.analysis import statistics as analysis
from isles24_zarr.vocabulary import COW_LABELS
from tests import nifti_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

SUBJECTS = ["sub-stroke0001", "sub-stroke0002", "sub-stroke0004"]
ODD = SUBJECTS[2]
"""Its grid is turned about all three axes, and its MTT has voxels that are not finite."""

FOLDERS = {"lesion-msk": "ses-02", "dwi": "ses-02", "adc": "ses-02", "cow-msk": "ses-01", "lvo-msk": "ses-01"}
SHEARED = np.array([[-2.0, 0.3, 0.2, 30], [0.1, 1.5, -0.8, -20], [0.2, 0.4, 3.0, -15], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The cluster of the tests would else be used wherever it is up."""
    with dask.config.set(scheduler="threads"):
        yield


def file_image(release: Path, subject: str, suffix: str) -> Any:
    folder = FOLDERS.get(suffix, "ses-01/perfusion-maps")
    session = folder[:6]
    return nib.load(release / f"derivatives/{subject}/{folder}/{subject}_{session}_space-ncct_{suffix}.nii.gz")


def voxels(release: Path, subject: str, suffix: str) -> np.ndarray:
    return np.asarray(file_image(release, subject, suffix).dataobj)


def was_computed(values: np.ndarray, suffix: str) -> np.ndarray:
    """Where a map has a value: software leaves 0, and in Tmax -30, which interpolation mixes with tissue."""
    if suffix == "tmax":
        return np.isfinite(values) & (values > 0)
    return np.isfinite(values) & (values != 0) if suffix in ("cbf", "cbv", "mtt") else np.isfinite(values)


def voxel_ml(image: Any) -> float:
    return float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000


def variants(store: Path, subject: str) -> list[xr.Dataset]:
    """The same scan on Dask, in small Dask blocks that fit nothing, lazy without Dask, and loaded."""
    scan = isles24_zarr.open_scan(store, subject)
    return [
        scan,
        isles24_zarr.open_scan(store, subject, chunks={"z": 5, "y": 17, "x": 23}),
        isles24_zarr.open_scan(store, subject, chunks=None),
        scan.load(),
    ]


def make_volume(values: Any, affine: Any = SHEARED, *, name: str = "image") -> xr.DataArray:
    """Return an image (z, y, x) with the coordinates that a store gives it: voxel (i, j, k) lies at the affine's."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / steps
    origin = np.linalg.solve(direction, affine[:3, 3])
    coords = {
        axis: xr.Variable(
            axis,
            origin[index] + steps[index] * np.arange(np.shape(values)[2 - index]),
            {"direction": direction[:, index].tolist(), "spacing": steps[index]},
        )
        for index, axis in enumerate("xyz")
    }
    return xr.DataArray(values, dims=("z", "y", "x"), coords=coords, name=name)


# --- volumes ---


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_segments_of_the_circle_of_willis(store: Path, release: Path, subject: str) -> None:
    image = file_image(release, subject, "cow-msk")
    counts = pd.Series(np.asarray(image.dataobj).ravel()).value_counts()
    for scan in variants(store, subject):
        table = scan.isles.volumes()
        assert table.index.tolist() == [label for label, _ in COW_LABELS[1:]]
        assert table["name"].tolist() == [name for _, name in COW_LABELS[1:]]
        assert table["voxels"].tolist() == [counts.get(label, 0) for label in table.index]
        assert table["present"].tolist() == [label in counts for label in table.index]
        np.testing.assert_allclose(table["volume"], table["voxels"] * voxel_ml(image))
        for label in (5, 15):
            assert scan.isles.volume("cow_mask", label=label) == pytest.approx(table.loc[label, "volume"])
    pd.testing.assert_frame_equal(scan["cow_mask"].isles.volumes(), table)


def test_labels_nobody_knows_and_values_that_are_none() -> None:
    mask = make_volume(np.array([[[0.0, 5, 5], [99, 0, 0]]]), name="cow_mask")
    table = analysis.label_volumes(mask, 500.0)
    assert table.loc[[5, 99], ["name", "present", "voxels", "volume"]].to_numpy().tolist() == [
        ["R-MCA", True, 2, 1.0],
        ["", True, 1, 0.5],
    ]
    assert table["voxels"].sum() == 3
    assert analysis.label_volumes(mask.rename("other") * 0, 1.0).empty
    for wrong in (mask + 0.5, mask.where(mask != 99), -mask, mask + mask * 1e-4):
        with pytest.raises(errors.MaskError, match=r"no labels|two stored values"):
            analysis.label_volumes(wrong, 1.0)


@pytest.mark.parametrize("step", [1, -1, 2])
def test_volumes_on_a_sheared_grid(step: int) -> None:
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 7 == 0
    image = make_volume(values).isel(x=slice(None, None, step))
    wanted = np.count_nonzero(values[..., ::step]) * abs(np.linalg.det(SHEARED[:3, :3])) * abs(step) / 1000
    assert image.isles.volume() == pytest.approx(wanted)
    assert image.isles.volumes().loc[1, "volume"] == pytest.approx(wanted)
    assert image.isles.statistics(image).loc["image", "volume"] == pytest.approx(wanted)
    assert image.isles.challenge_metrics(image * 0).absolute_volume_difference == pytest.approx(wanted)


def test_no_volume_of_several_volumes() -> None:
    mask = make_volume(np.ones((3, 4, 5), np.uint8), name="cow_mask")
    for axis, words in (("time", "is a series; select a frame"), ("rater", "has an axis rater")):
        several = xr.concat([mask, mask], axis)
        for call in (
            several.isles.volume,
            several.isles.volumes,
            lambda several=several: analysis.mask_overlaps(mask, {"both": several}, 1.0),
        ):
            with pytest.raises(errors.GeometryError, match=words):
                call()
    assert mask.isel(z=0).isles.volume() == pytest.approx(mask.isles.volume() / 3)


# --- statistics ---


@pytest.mark.parametrize("suffix", ["tmax", "mtt", "cbv", "adc"])
@pytest.mark.parametrize("subject", SUBJECTS[1:])
def test_statistics_within_the_infarct(store: Path, release: Path, subject: str, suffix: str) -> None:
    mask = file_image(release, subject, "lesion-msk")
    if suffix == "mtt":  # many voxels, some of which are not finite
        mask = nib.Nifti1Image((voxels(release, subject, "tmax") > 0).astype(np.uint8), mask.affine)
    inside = np.asarray(mask.dataobj) >= 0.5
    values = voxels(release, subject, suffix)[inside].astype(np.float64)
    finite = pd.Series(values[was_computed(values, suffix)])
    if suffix == "adc":
        assert finite.size == values.size
    if suffix == "mtt" and subject == ODD:
        assert finite.size < np.count_nonzero(values != 0)
    for scan in variants(store, subject):
        region = scan["tmax"] > 0 if suffix == "mtt" else "lesion_mask"
        row = scan.isles.statistics(suffix, region, percentiles=(5, 50, 97.5), threshold=0.5).loc[suffix]
        assert row["voxels"] == finite.size
        assert row["left_out"] == values.size - finite.size
        assert row["volume"] == pytest.approx(inside.sum() * voxel_ml(mask))
        assert row["mean"] == pytest.approx(finite.mean(), rel=1e-12)
        assert row["std"] == pytest.approx(finite.std(ddof=0), rel=1e-12)
        assert (row["min"], row["max"]) == (finite.min(), finite.max())
        wanted = finite.quantile([0.05, 0.5, 0.975]).tolist()
        assert row[["p5", "p50", "p97.5"]].tolist() == pytest.approx(wanted, rel=1e-12)


def test_what_was_computed_from_a_map_is_none(store: Path) -> None:
    """By NumPy: names, attributes and NaN stay in arithmetic, what 0 and less mean does not."""
    for scan in variants(store, ODD):
        tmax, flow = scan["tmax"], scan["cbf"]
        region = (scan["ncct"] > 0) & (scan["ncct"] < 80)
        inside = region.values
        reversed_x = tmax.isel(x=slice(None, None, -1))
        for kept in (tmax, tmax.isel(y=slice(5, 40)), tmax.compute(), tmax.chunk(z=2), reversed_x):
            part = region.sel(z=kept["z"], y=kept["y"], x=kept["x"])
            values = kept.values[part.values]
            wanted = values[was_computed(values, "tmax")].astype(np.float64)
            assert 0 < wanted.size < values.size
            assert kept.isles.statistics(part).loc["tmax", "mean"] == pytest.approx(wanted.mean(), rel=1e-12)
            np.testing.assert_array_equal(kept.isles.computed(), was_computed(kept.values, "tmax"))
        for made in (tmax - 5, (tmax - flow).rename("tmax"), tmax.where(region)):
            values = made.values[inside].astype(np.float64)
            with pytest.warns(errors.UncomputedWarning, match="give computed=True"):
                row = made.isles.statistics(region).loc["tmax"]
            assert (row["mean"], row["left_out"]) == (pytest.approx(values.mean(), rel=1e-9), 0)
            np.testing.assert_array_equal(made.isles.computed(), np.isfinite(made.values))
            assert made.isles.statistics(region, computed=False).loc["tmax"].equals(row)
            wanted = values[was_computed(values, "tmax")]
            assert made.isles.statistics(region, computed=True).loc["tmax", "mean"] == pytest.approx(wanted.mean())
        late = tmax > 6
        assert late.isles.statistics(region).loc["tmax", "mean"] == pytest.approx(late.values[inside].mean())
        acquired = isles24_zarr.open_scan(store, ODD, "ctp")["tmax"].isles.resample_like(scan)
        values = acquired.values[inside]
        wanted = values[was_computed(values, "tmax")].astype(np.float64)
        assert acquired.isles.statistics(region).loc["tmax", "mean"] == pytest.approx(wanted.mean())


@pytest.mark.filterwarnings("ignore::isles24_zarr.errors.PerfusionWarning")
def test_chunks_in_space_do_not_matter(store: Path) -> None:
    whole = isles24_zarr.open_scan(store, ODD)
    scan = whole.chunk(z=4, y=20)
    for smoothing in (None, 8):
        found, wanted = (each.isles.perfusion_maps(smoothing=smoothing).compute() for each in (scan, whole))
        xr.testing.assert_allclose(found, wanted)
    pd.testing.assert_frame_equal(scan.isles.arterial_inputs(), whole.isles.arterial_inputs())
    acquired = isles24_zarr.open_scan(store, ODD, "ctp")["tmax"]
    placed = acquired.isles.resample_like(scan)
    late = acquired.isles.resample_like(whole).values > 6
    assert (placed > 6).isles.volume() == pytest.approx(late.sum() * whole.isles.voxel_volume / 1000)


def test_statistics_by_label(store: Path, release: Path) -> None:
    labels, values = voxels(release, ODD, "cow-msk"), voxels(release, ODD, "adc").astype(np.float64)
    wanted = pd.DataFrame({"label": labels.ravel(), "adc": values.ravel()}).query("label > 0").groupby("label")["adc"]
    present = np.unique(labels[labels > 0])
    for scan in variants(store, ODD):
        table = scan.isles.statistics("adc", "cow_mask", by_label=True)
        assert table.index.tolist() == present.tolist()
        assert table["voxels"].tolist() == wanted.size().tolist()
        np.testing.assert_allclose(table["mean"], ndimage.mean(values, labels, present))
        np.testing.assert_allclose(table["std"], ndimage.standard_deviation(values, labels, present))
        np.testing.assert_allclose(table["p50"], wanted.median())
        np.testing.assert_allclose(table["max"], wanted.max())
    pd.testing.assert_frame_equal(scan["adc"].isles.statistics(scan["cow_mask"].values, by_label=True), table)


def test_statistics_of_scaled_integers_and_uint16_masks(tmp_path: Path) -> None:
    """Values that need double precision, of a file with a slope, on a sheared grid."""
    rng = np.random.default_rng(0)
    raw = rng.integers(-32768, 32767, (9, 8, 7)).astype(np.int16)
    mask = (rng.random((9, 8, 7)) < 0.3).astype(np.uint16) * 40000
    names = {"ses-01/perfusion-maps/S_ses-01_space-ncct_cbf": raw, "ses-02/S_ses-02_space-ncct_lesion-msk": mask}
    for name, values in names.items():
        path = tmp_path / "train/derivatives" / SUBJECTS[0] / f"{name.replace('S_', SUBJECTS[0] + '_')}.nii.gz"
        scaling = {"scl_slope": 0.25, "scl_inter": 1e6} if values is raw else {}
        nifti_files.write(path, values, SHEARED, **scaling)
    isles24_zarr.convert(tmp_path / "train", tmp_path / "store", workers=1, progress=False)
    wanted = stats.describe(raw[mask > 0].astype(np.float64) * 0.25 + 1e6, ddof=0)
    for scan in variants(tmp_path / "store", SUBJECTS[0]):
        row = scan.isles.statistics("cbf").loc["cbf"]
        assert row["voxels"] == wanted.nobs
        assert row["mean"] == pytest.approx(wanted.mean, rel=1e-14)
        assert row["std"] ** 2 == pytest.approx(wanted.variance, rel=1e-9)
        assert (row["min"], row["max"]) == wanted.minmax
        assert scan.isles.volumes("lesion_mask").loc[40000, "voxels"] == wanted.nobs


@given(
    arrays(np.float32, (2, 3, 4), elements=st.floats(width=32)),
    arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 2)),
)
def test_what_is_not_finite_is_left_out_and_counted(values: np.ndarray, mask: np.ndarray) -> None:
    image = make_volume(values)
    row = analysis.mask_statistics(image, mask, 1000.0).loc["image"]
    inside = values[mask > 0].astype(np.float64)
    finite = inside[np.isfinite(inside)]
    assert (row["voxels"], row["left_out"], row["volume"]) == (finite.size, inside.size - finite.size, inside.size)
    if finite.size:
        assert row["min"] <= row["p5"] <= row["p50"] <= row["p95"] <= row["max"]
        assert row["mean"] == pytest.approx(np.mean(finite), rel=1e-12, abs=1e-30)
    else:
        assert row[3:].isna().all()
    chunked = make_volume(da.from_array(values, chunks=(1, 2, 3)))
    pd.testing.assert_series_equal(analysis.mask_statistics(chunked, mask, 1000.0).loc["image"], row)


def test_slices_and_axes_in_another_order() -> None:
    values, mask = np.random.default_rng(0).random((2, 4, 5, 6))
    image, region = make_volume(values), make_volume(mask > 0.5)
    turned = analysis.mask_statistics(image.transpose("x", "z", "y"), region.transpose("y", "x", "z"), 1.0)
    assert turned.loc["image", "mean"] == pytest.approx(values[mask > 0.5].mean())
    part = analysis.mask_statistics(image.isel(z=2), region.isel(z=2), 1.0)
    assert part.loc["image", "mean"] == pytest.approx(values[2][mask[2] > 0.5].mean())


def test_a_plain_mask_has_the_order_of_the_image() -> None:
    """Of a cube, another order is not found by the shape."""
    rng = np.random.default_rng(1)
    image = make_volume(rng.random((6, 6, 6))).transpose("x", "y", "z")
    mask = rng.random((6, 6, 6)) > 0.8
    other = image > 0.5
    assert image.isles.statistics(mask).loc["image", "mean"] == pytest.approx(image.values[mask].mean())
    both = analysis.mask_overlaps(mask, {"other": other}, 1000.0).loc["other", "overlap"]
    assert both == np.count_nonzero(other.values & mask)
    series = xr.concat([image, image * 2], "time").assign_coords(time=[0.0, 1.0]).transpose("x", "time", "y", "z")
    np.testing.assert_allclose(series.isles.time_curve(mask), image.values[mask].mean() * np.array([1, 2]))


def test_what_is_left_of_a_lazy_scan(store: Path) -> None:
    """Its encoding still tells the chunks of the whole image, in the order of the store."""
    whole = isles24_zarr.open_scan(store, ODD).load()
    for chunks in ("auto", None):
        lazy = isles24_zarr.open_scan(store, ODD, chunks=chunks)
        for part in ({"z": slice(2, 9, 3)}, {"x": slice(None, None, -1)}, {"y": 20}):
            wanted = whole.isel(part)["adc"].values[whole.isel(part)["tmax"].values > 0].astype(np.float64)
            assert wanted.size
            for dims in (("x", "y", "z"), ("z", "x", "y")):
                left = lazy.isel(part).transpose(*dims, ..., missing_dims="ignore")
                row = left["adc"].isles.statistics(left["tmax"] > 0).loc["adc"]
                assert row["voxels"] == wanted.size
                assert row["mean"] == pytest.approx(wanted.mean(), rel=1e-12)


def test_images_that_do_not_belong_together() -> None:
    image = make_volume(np.zeros((4, 5, 6)))
    shifted = SHEARED.copy()
    shifted[0, 3] += 2.0
    for other in (
        make_volume(np.zeros((4, 5, 6)), shifted),
        image.isel(x=slice(None, None, -1)),
        image.isel(z=slice(1, None)),
        image.isel(z=0),
        image.drop_vars("x"),
        np.zeros((4, 5, 5)),
    ):
        with pytest.raises(errors.GeometryError):
            analysis.mask_statistics(image, other, 1.0)
    with pytest.raises(errors.UnknownNameError, match="between 0 and 100"):
        analysis.mask_statistics(image, image, 1.0, percentiles=[101])
    with pytest.raises(errors.GeometryError, match="is a series"):
        analysis.mask_statistics(image.expand_dims("time"), image, 1.0)
    with pytest.raises(errors.GeometryError, match="has an axis echo"):
        analysis.mask_statistics(image.expand_dims("echo"), image, 1.0)


# --- perfusion lesions ---


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("thresholds", [{}, {"tmax_threshold": 4.0, "cbf_fraction": 0.7}])
@pytest.mark.parametrize("least", [-1.0, 9.0])
def test_perfusion_lesions(
    store: Path, release: Path, subject: str, thresholds: dict[str, float], least: float
) -> None:
    """Within a mask, which is everything or leaves out what has little flow, as scalp."""
    image = file_image(release, subject, "tmax")
    tmax, cbf = voxels(release, subject, "tmax"), voxels(release, subject, "cbf")
    inside = cbf > least
    left_out = (inside & ~was_computed(tmax, "tmax")).sum(), (inside & ~was_computed(cbf, "cbf")).sum()
    tmax, cbf = np.where(inside, tmax, 0), np.where(inside, cbf, 0)
    x = nib.affines.apply_affine(image.affine, np.moveaxis(np.indices(tmax.shape), 0, -1))[..., 0]
    slow = tmax > thresholds.get("tmax_threshold", 6.0)
    midline = np.percentile(x[cbf != 0], [1, 99]).mean()
    on_right = np.count_nonzero(slow & (x > midline)) > np.count_nonzero(slow & (x < midline))
    other = cbf[(cbf != 0) & ((x < midline) if on_right else (x > midline))]
    reference = np.median(other.astype(np.float64))
    core = slow & (cbf != 0) & (cbf < thresholds.get("cbf_fraction", 0.3) * reference)
    assert core.sum() < slow.sum()
    assert core.any() or not thresholds or least > 0  # scalp lowers the median flow of the other side
    ml = voxel_ml(image)
    for scan in variants(store, subject):
        brain = scan["cbf"] > least
        found = scan.isles.perfusion_lesions(brain=brain, **thresholds)
        assert found.side == ("right" if on_right else "left")
        assert found.midline == pytest.approx(midline, abs=1e-4)
        assert found.reference_cbf == pytest.approx(reference)
        assert found.hypoperfusion == pytest.approx(slow.sum() * ml)
        assert found.core == pytest.approx(core.sum() * ml)
        assert found.mismatch == pytest.approx((slow.sum() - core.sum()) * ml)
        assert found.mismatch_ratio == (pytest.approx(slow.sum() / core.sum()) if core.any() else np.inf)
        assert found.unknown == pytest.approx((slow & (cbf == 0)).sum() * ml)
        on_left = np.count_nonzero(slow & (cbf != 0) & (x < midline))
        slow_with_flow = np.count_nonzero(slow & (cbf != 0))
        assert found.laterality == pytest.approx((slow_with_flow - 2 * on_left) / slow_with_flow)
        assert found.intensity_ratio == pytest.approx(np.count_nonzero(slow & (tmax > 10)) / slow.sum())
        assert found.brain == pytest.approx(inside.sum() * ml)
        assert found.coverage == pytest.approx((cbf != 0).sum() / inside.sum())
        assert (found.tmax_left_out, found.cbf_left_out) == left_out
        masks = scan.isles.perfusion_masks(brain=brain, **thresholds)
        assert masks["hypoperfusion"].isles.volume() == pytest.approx(found.hypoperfusion)
        assert masks["core"].isles.volume() == pytest.approx(found.core)


def head(side: int, affine: Any, shape: tuple[int, int, int] = (20, 40, 36)) -> tuple[np.ndarray, np.ndarray]:
    """Return Tmax and CBF of a ball about (3, 0, 0) with a lesion on one side, 1 for the right one, by position."""
    indices = np.stack(np.broadcast_arrays(*np.ogrid[tuple(map(slice, shape))][::-1]), axis=-1)
    x, y, z = np.moveaxis(nib.affines.apply_affine(affine, indices), -1, 0)
    x = x - 3
    brain = x**2 + y**2 + z**2 < 30**2
    lesion = brain & ((x - 16 * side) ** 2 + y**2 + z**2 < 10**2)
    tmax = np.where(brain, np.where(lesion, 9.0, 1.0), 0.0)
    cbf = np.where(brain, np.where(lesion, 10.0, np.where(x * side < 0, 40.0, 55.0)), 0.0)
    return tmax, cbf


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("degrees", [0, 18])
def test_the_other_side_is_that_of_the_patient(side: int, flips: tuple[int, int, int], degrees: float) -> None:
    """Whatever way the axes of the grid run: the two sides have a CBF of their own."""
    angle = np.radians(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [2.0, 2.0, 4.0] * np.array(flips)
    affine[:3, 3] = -affine[:3, :3] @ [17.5, 19.5, 9.5]
    tmax, cbf = head(side, affine)
    found = lesions.perfusion_lesions(make_volume(tmax, affine), make_volume(cbf, affine))
    assert found.side == ("right" if side == 1 else "left")
    assert found.midline == pytest.approx(3, abs=1)
    assert found.reference_cbf == 40
    assert found.core == found.hypoperfusion == pytest.approx(np.count_nonzero(tmax == 9) * 16 / 1000)
    assert found.mismatch == 0
    assert found.mismatch_ratio == 1


def test_maps_with_voxels_that_are_not_finite() -> None:
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = (-35, -39, -38)
    tmax, cbf = head(1, affine)
    clean = lesions.perfusion_lesions(make_volume(tmax, affine), make_volume(cbf, affine))
    slow = np.argwhere(tmax == 9)
    for place, value in zip(slow[:3], (np.nan, np.inf, -np.inf), strict=True):
        tmax[tuple(place)] = value
    for place, value in zip(slow[3:7], (np.nan, np.inf, -np.inf, 0), strict=True):
        cbf[tuple(place)] = value
    image, flow = make_volume(tmax, affine), make_volume(cbf, affine)
    found = lesions.perfusion_lesions(image, flow)
    ml = 16 / 1000
    assert found.hypoperfusion == pytest.approx(clean.hypoperfusion - 3 * ml)
    assert found.core == pytest.approx(clean.core - 7 * ml)
    assert found.unknown == pytest.approx(4 * ml)
    assert found.tmax_left_out == clean.tmax_left_out + 3
    assert found.cbf_left_out == clean.cbf_left_out + 4
    assert found.reference_cbf == clean.reference_cbf
    masks = lesions.perfusion_masks(image.chunk(y=7), flow)
    assert all(mask.chunks for mask in masks.values())
    assert masks["core"].isles.volume() == pytest.approx(found.core)


def test_nothing_is_hypoperfused() -> None:
    tmax = make_volume(np.full((3, 4, 5), 2.0))
    found = lesions.perfusion_lesions(tmax, tmax * 20)
    assert (found.hypoperfusion, found.core, found.mismatch, found.side) == (0, 0, 0, None)
    assert np.isnan(found.mismatch_ratio)
    assert np.isnan(found.reference_cbf)
    empty = lesions.perfusion_lesions(tmax * 0, tmax * np.nan)
    assert empty.cbf_left_out == empty.tmax_left_out == 60
    assert np.isnan(empty.midline)
    no_core = lesions.perfusion_lesions(tmax * 5, tmax)
    assert no_core.mismatch_ratio == np.inf
    assert not lesions.perfusion_masks(tmax, tmax)["core"].any()


def kinds_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return a mask as what else may stand for it, without fractions."""
    return [mask.astype("u1"), mask.astype(">i2"), 3 * mask.astype("u2"), mask * 0.9999999997671694, mask.astype("f2")]


def no_masks(mask: np.ndarray) -> list[np.ndarray]:
    """Return what looks like a mask, and has values that are not 0 where nothing is meant by them."""
    return [np.where(mask, 1.0, np.nan), mask.astype("i2") - 1, np.where(mask, 1.0, -0.5), np.where(mask, 1, np.inf)]


def test_the_brain_is_a_mask_as_others_are() -> None:
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = (-35, -39, -38)
    values = head(1, affine)
    tmax, cbf = (make_volume(each, affine) for each in values)
    brain = np.random.default_rng(3).random(tmax.shape) < 0.4
    wanted = lesions.perfusion_lesions(tmax, cbf, brain=brain)
    assert wanted.brain == pytest.approx(brain.sum() * 16 / 1000)
    assert wanted.hypoperfusion == pytest.approx((brain & (values[0] > 6)).sum() * 16 / 1000)
    shown = lesions.perfusion_masks(tmax, cbf, brain=brain)
    np.testing.assert_array_equal(shown["hypoperfusion"], brain & (values[0] > 6))
    for other in kinds_of(brain):
        for given_as in (
            other,
            make_volume(other, affine),
            make_volume(other, affine).chunk(z=3).transpose("x", "z", "y"),
        ):
            assert lesions.perfusion_lesions(tmax, cbf, brain=given_as) == wanted
            assert lesions.perfusion_masks(tmax, cbf, brain=given_as).equals(shown)
    for measure in (lesions.perfusion_lesions, lesions.perfusion_masks):
        with pytest.warns(errors.SoftMaskWarning, match=r"the mask .*0\.5 and more") as told:
            found = measure(tmax, cbf, brain=brain * 0.9 + 0.05)
        assert [Path(each.filename) for each in told] == [Path(__file__)]
        assert found == wanted if measure is lesions.perfusion_lesions else found.equals(shown)
        for other in no_masks(brain):
            with pytest.raises(errors.MaskError):
                measure(tmax, cbf, brain=other)


def test_a_plain_mask_has_the_axes_of_the_image_that_was_given() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-29, -29, -29)
    tmax, cbf = (make_volume(each, affine) for each in head(1, affine, (30, 30, 30)))
    brain = np.random.default_rng(3).random(tmax.shape) < np.linspace(0.1, 0.9, 30)[:, None, None]
    wanted = lesions.perfusion_lesions(tmax, cbf, brain=brain)
    turned = tmax.transpose("x", "y", "z")
    assert lesions.perfusion_lesions(turned, cbf, brain=brain.T) == wanted
    found = lesions.perfusion_masks(turned, cbf, brain=brain.T)
    np.testing.assert_array_equal(found["hypoperfusion"].transpose("z", "y", "x"), brain & (tmax.values > 6))
    assert int(found["core"].sum()) * 8 / 1000 == pytest.approx(wanted.core)
    with pytest.raises(errors.GeometryError, match="an axis time2"):
        inside_mask(tmax.rename(x="time2"), brain)


def test_masks_whose_type_tells_are_not_read_before_they_must(store: Path) -> None:
    tmax = make_volume(np.ones((4, 5, 6)))
    for dtype in (bool, np.uint8):
        unread = tmax.copy(data=da.from_delayed(dask.delayed(pytest.fail)("was read"), tmax.shape, dtype))
        assert inside_mask(tmax, unread).chunks
    scan = isles24_zarr.open_scan(store, ODD, chunks=None)
    late = inside_mask(scan["tmax"], scan["cow_mask"])
    assert late.chunks
    np.testing.assert_array_equal(late, scan["cow_mask"].values > 0)
    assert late.isles.affine == pytest.approx(scan.isles.affine)


# --- overlaps ---


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_infarct_against_the_perfusion_lesions(store: Path, release: Path, subject: str) -> None:
    image = file_image(release, subject, "lesion-msk")
    lesion, slow = voxels(release, subject, "lesion-msk") >= 0.5, voxels(release, subject, "tmax") > 6
    both = np.count_nonzero(lesion & slow)
    for scan in variants(store, subject):
        table = scan.isles.overlaps(threshold=0.5)
        assert table.index.tolist() == ["hypoperfusion", "core"]
        row = table.loc["hypoperfusion"]
        assert row["volume"] == pytest.approx(slow.sum() * voxel_ml(image))
        assert row["overlap"] == pytest.approx(both * voxel_ml(image))
        assert row["inside"] == pytest.approx(both / lesion.sum())
        assert row["covered"] == pytest.approx(both / slow.sum())
        assert row["dice"] == pytest.approx(2 * both / (lesion.sum() + slow.sum()))
    other = scan.isles.overlaps(scan["lvo_mask"] * 0)
    assert other["overlap"].tolist() == [0, 0]
    assert other["inside"].isna().all()


def test_overlaps_of_nothing() -> None:
    mask = make_volume(np.zeros((2, 3, 4)))
    table = analysis.mask_overlaps(mask, {"nothing": mask, "all": mask + 1}, 1000.0)
    assert table.loc["nothing"].isna().tolist() == [False, False, True, True, True]
    assert table.loc["all", ["volume", "covered", "dice"]].tolist() == [24, 0, 0]
    assert analysis.mask_overlaps(mask, {}, 1.0).columns.tolist() == table.columns.tolist()


# --- promises ---


def test_what_a_scan_does_not_have(store: Path) -> None:
    scan = isles24_zarr.open_scan(store, SUBJECTS[0]).drop_vars(["tmax", "lesion_mask", "cow_mask", "ctp"])
    for ask in (
        scan.isles.volumes,
        scan.isles.perfusion_lesions,
        scan.isles.perfusion_masks,
        scan.isles.overlaps,
        scan.isles.arterial_inputs,
        lambda: scan.isles.statistics("cbf"),
        lambda: scan.isles.statistics("t2", "lvo_mask"),
        lambda: scan.isles.time_curve("lvo_mask"),
        lambda: scan.isles.time_curve("lesion_mask", series="cbf"),
    ):
        with pytest.raises(errors.UnknownNameError, match="is not in this scan, which has ncct, cta, mtt, cbf"):
            ask()


def test_on_a_cluster(store: Path, client: Client) -> None:
    scan = isles24_zarr.open_scan(store, ODD)
    with dask.config.set(scheduler=client):
        found = scan.isles.perfusion_lesions(), scan.isles.statistics("tmax", threshold=0.5), scan.isles.volumes()
    with dask.config.set(scheduler="synchronous"):
        wanted = scan.isles.perfusion_lesions(), scan.isles.statistics("tmax", threshold=0.5), scan.isles.volumes()
    assert dataclasses.asdict(found[0]) == dataclasses.asdict(wanted[0])
    pd.testing.assert_frame_equal(found[1], wanted[1])
    pd.testing.assert_frame_equal(found[2], wanted[2])
