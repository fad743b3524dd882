"""Vessels are found in awkward series, or it is said that there are none: few arteries, motion, no bolus, odd times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr

from isles24_zarr import errors
from isles24_zarr.perfusion import perfusion_inputs, perfusion_maps
from tests.test_analysis import kinds_of, no_masks
from tests.test_perfusion import AFFINE, KAPPA, arterial, make_series, tissue

pytestmark = pytest.mark.usefixtures("in_threads")

SECONDS = np.arange(60.0)
SHAPE = (3, 20, 24)


def head(
    arteries: int, veins: int, *, noise: float = 2.0, start: float = 0.0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a series (time, z, y, x) of tissue with so many voxels of vessels, and where they are."""
    rng = np.random.default_rng(11)
    values = 35 + noise * rng.standard_normal((60, *SHAPE)) + tissue(SECONDS + start, 3, 5, 1)[:, None, None, None]
    places = rng.permutation(np.prod(SHAPE))
    where = {}
    for name, count, delay in (("artery", arteries, 0.0), ("vein", veins, 5.0)):
        where[name] = np.unravel_index(places[:count], SHAPE)
        places = places[count:]
        values[(slice(None), *where[name])] += 1.3 ** (name == "vein") * arterial(SECONDS + start - delay, 1.5)[:, None]
    return values, where


def series_of(values: np.ndarray) -> xr.DataArray:
    return make_series(values.astype(np.float32), AFFINE, SECONDS)


def inputs_of(values: np.ndarray):
    return perfusion_inputs(series_of(values))


@pytest.mark.parametrize("arteries", [3, 8, 20, 40, 200])
@pytest.mark.parametrize("veins", [60, 480])
def test_few_arteries_among_many_veins(arteries: int, veins: int) -> None:
    values, _ = head(arteries, veins)
    found = inputs_of(values)
    assert abs(int(np.argmax(found.arterial_input.values)) - int(arterial(SECONDS, 1.5).argmax())) <= 1
    assert found.venous_output is not None
    assert found.venous_scale == pytest.approx(1.3, rel=0.08)
    assert found.findings == ()


def test_no_vein_is_told() -> None:
    values, _ = head(40, 0)
    with pytest.warns(errors.PerfusionWarning, match="no vein was found"):
        found = inputs_of(values)
    assert found.venous_scale == 1


@pytest.mark.parametrize("kind", ["jump for good", "jump for a frame", "jump early"])
def test_bone_that_moves_is_no_vessel(kind: str) -> None:
    values, where = head(30, 60)
    bone = values[:, :, :4]
    frames = {"jump for good": slice(25, None), "jump for a frame": slice(9, 10), "jump early": slice(4, None)}[kind]
    bone[:, :, :, ::2] = 40
    bone[frames, :, :, ::2] = 900
    found = inputs_of(values)
    clean = inputs_of(head(30, 60)[0])
    np.testing.assert_allclose(found.arterial_input, clean.arterial_input, atol=12)
    assert found.venous_scale == pytest.approx(clean.venous_scale, rel=0.05)
    assert len(where["vein"][0]) == 60


@pytest.mark.parametrize("noise", [5.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0])
@pytest.mark.parametrize("seed", range(12))
def test_noise_is_no_bolus(noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with pytest.raises(errors.PerfusionError, match=r"arterial_input"):
        inputs_of(rng.normal(35, noise, (60, *SHAPE)))


def test_a_bolus_that_begins_with_the_series() -> None:
    values, where = head(40, 80, start=10.0)
    found = inputs_of(values)
    assert abs(int(np.argmax(found.arterial_input.values)) - int(arterial(SECONDS + 10, 1.5).argmax())) <= 1
    assert found.bolus_arrival <= 2
    assert len(where["artery"][0]) == 40


def test_frames_that_cannot_be_used_are_named() -> None:
    values, _ = head(40, 80)
    broken = values.copy()
    broken[59] = np.nan
    with pytest.raises(errors.PerfusionError, match="no finite value in frame 59"):
        inputs_of(broken)
    bright = values.copy()
    bright[0] += 100
    with pytest.raises(errors.PerfusionError, match="brightest in its first frame"):
        inputs_of(bright)
    np.testing.assert_allclose(
        perfusion_inputs(series_of(bright).isel(time=slice(1, None))).arterial_input,
        inputs_of(values).arterial_input[1:],
        atol=5,
    )


def test_times_in_other_units() -> None:
    values, _ = head(40, 80)
    series = series_of(values)
    wanted = perfusion_maps(series, 40 + arterial(SECONDS, 1.5)).compute()
    spans = series.assign_coords(time=(SECONDS * 1e9).astype("timedelta64[ns]"))
    np.testing.assert_allclose(perfusion_maps(spans, 40 + arterial(SECONDS, 1.5))["tmax"].values, wanted["tmax"].values)
    with pytest.raises(errors.PerfusionError, match="times in ms"):
        perfusion_inputs(series.assign_coords(time=("time", SECONDS * 1000, {"units": "ms"})))
    with pytest.raises(errors.PerfusionError, match="do not ascend"):
        perfusion_inputs(series.isel(time=slice(None, None, -1)))
    odd = SECONDS.copy()
    odd[31] = odd[30] + 0.01
    found = perfusion_maps(series.assign_coords(time=odd), 40 + arterial(odd, 1.5)).compute()
    assert np.nanmedian(np.abs(found["cbv"] / wanted["cbv"] - 1)) < 0.1


def test_arguments_in_every_shape() -> None:
    values, where = head(40, 80)
    series = series_of(values)
    found = perfusion_inputs(series)
    assert found.arteries is not None
    positions = xr.DataArray(found.arteries[["x", "y", "z"]].to_numpy()[:5], dims=("voxel", "axis"))
    by_array = perfusion_inputs(series, positions.to_numpy()).arterial_input
    np.testing.assert_array_equal(perfusion_inputs(series, positions).arterial_input, by_array)
    wanted = perfusion_maps(series, found, smoothing=(8.0, 3.0)).compute()
    for smoothing in ([8, 3], np.array([8.0, 3.0])):
        np.testing.assert_array_equal(
            perfusion_maps(series, found, smoothing=smoothing)["cbf"].values, wanted["cbf"].values
        )
    with pytest.raises(errors.UnknownNameError, match="give one of both"):
        perfusion_maps(series, found, found.venous_output)
    for options in ({"haematocrit": 0.45}, {"density": np.nan}, {"smoothing": (1, 2, 3)}, {"smoothing": np.nan}):
        with pytest.raises(errors.UnknownNameError):
            perfusion_maps(series, found, **options)
    # without coordinates, masks are taken by their axes
    plain = series.drop_vars(["x", "y", "z"])
    mask = xr.DataArray(np.zeros(SHAPE, bool), dims=("z", "y", "x"))
    mask.values[where["vein"]] = True
    maps = perfusion_maps(plain, found, mask=mask.transpose("x", "y", "z")).compute()
    assert np.isfinite(maps["cbv"].values).sum() == 80
    assert np.median(maps["cbv"].values[where["vein"]]) == pytest.approx(100 * KAPPA, rel=0.1)
    with pytest.raises(errors.GeometryError, match="another shape"):
        perfusion_maps(plain, found, mask=mask[:2])


def test_the_mask_of_maps_is_a_mask_as_others_are() -> None:
    values, _ = head(40, 80)
    series, artery = series_of(values), 40 + arterial(SECONDS, 1.5)
    mask = np.random.default_rng(2).random(SHAPE) < 0.5
    wanted = perfusion_maps(series, artery, mask=mask, smoothing=3.0).compute()
    np.testing.assert_array_equal(np.isfinite(wanted["ttp"]), mask)
    for each in kinds_of(mask):
        found = perfusion_maps(series, artery, mask=each, smoothing=3.0)
        np.testing.assert_array_equal(found["cbf"], wanted["cbf"])
    with pytest.warns(errors.SoftMaskWarning, match=r"0\.5 and more") as told:
        found = perfusion_maps(series, artery, mask=0.05 + 0.9 * mask, smoothing=3.0)
    assert [each.filename for each in told] == [__file__]
    np.testing.assert_array_equal(found["cbf"], wanted["cbf"])
    for each in no_masks(mask):
        with pytest.raises(errors.MaskError):
            perfusion_maps(series, artery, mask=each)


def test_plain_masks_have_the_axes_of_the_series_that_was_given() -> None:
    values, _ = head(40, 80)
    series, artery = series_of(values).isel(y=slice(3), x=slice(3)), 40 + arterial(SECONDS, 1.5)
    mask = np.random.default_rng(2).random((3, 3, 3)) < 0.5
    turned = series.transpose("x", "time", "y", "z")
    found = perfusion_maps(turned, artery, mask=mask.T)["ttp"].transpose("z", "y", "x")
    np.testing.assert_array_equal(np.isfinite(found), mask)


def test_inputs_are_of_the_frames_of_the_series() -> None:
    values, _ = head(40, 80)
    series = series_of(values)
    found = perfusion_inputs(series)
    with pytest.raises(errors.PerfusionError, match="other times"):
        perfusion_maps(series.assign_coords(time=2 * SECONDS), found)
    with pytest.raises(errors.PerfusionError, match="has 59 frames, the curve that was given 60"):
        perfusion_maps(series.isel(time=slice(59)), found)
    early = perfusion_inputs(series.isel(time=slice(0, 59)))
    late = series.isel(time=slice(1, 60))
    with pytest.raises(errors.PerfusionError, match="other times"):
        perfusion_maps(late, early)
    vein = dataclasses.replace(perfusion_inputs(late), venous_output=early.venous_output)
    with pytest.raises(errors.PerfusionError, match="other times"):
        perfusion_maps(late, vein)
    with pytest.raises(errors.GeometryError, match="no time axis"):
        perfusion_maps(series.isel(time=0), found)
    spans = series.assign_coords(time=(SECONDS * 1e9).astype("timedelta64[ns]"))
    wanted = perfusion_maps(series, found)["tmax"].values
    np.testing.assert_array_equal(perfusion_maps(spans, found)["tmax"].values, wanted)
    curve = found.arterial_input.assign_coords(time=spans["time"])
    np.testing.assert_array_equal(perfusion_inputs(spans, curve).arterial_input, found.arterial_input)


def test_blocks_whose_last_is_thinner_than_the_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    from isles24_zarr.analysis import blockwise

    values, _ = head(40, 80)
    values = np.concatenate([values, values, values[:, :1]], axis=1)  # seven slices, in blocks of three, three and one
    series = series_of(values)
    artery, mask = 40 + arterial(SECONDS, 1.5), values[0] > 30
    wanted = perfusion_maps(series, artery, mask=mask, smoothing=8.0).compute()
    monkeypatch.setattr(blockwise, "DASK_CHUNK_BYTES", 60 * 4 * 20 * 24 * 3)
    found = perfusion_maps(series, artery, mask=mask, smoothing=8.0)
    assert len(found["cbf"].chunks[0]) > 1
    np.testing.assert_allclose(found["cbf"].values, wanted["cbf"].values, rtol=1e-3, atol=1e-3)
