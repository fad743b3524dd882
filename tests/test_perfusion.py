"""Maps from the series: against a phantom of known flow, singular value decomposition by LAPACK, and recorded curves.

The phantom is made after Kudo et al., Radiology 2013;267:201-211: tiles of blood volume, transit time and delay, with
the arterial input of the literature, sampled as a scanner does, on a grid that is tilted and flipped.
"""

from __future__ import annotations

import csv
import dataclasses
import doctest
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.spatial
import xarray as xr

import isles24_zarr
from isles24_zarr import errors, perfusion, synthetic
from isles24_zarr.analysis import blockwise, bolus_arrivals
from isles24_zarr.perfusion import deconvolution_of, perfusion_inputs, perfusion_maps
from tests.test_analysis import make_volume

pytestmark = pytest.mark.usefixtures("in_threads")

CBV = (1.0, 2.0, 3.0, 4.0, 5.0)
MTT = (3.4, 4.0, 4.8, 6.0, 8.0, 12.0, 24.0)
DELAY = (0.0, 1.0, 2.0, 3.0)
KAPPA = (1 - 0.45) / (1 - 0.25) / 1.04
STEP = 0.05

TURN = scipy.spatial.transform.Rotation.from_euler("xyz", (15, -7, 4), degrees=True).as_matrix()
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([-1.0, 1.0, 5.0])
AFFINE[:3, 3] = (40, -30, 12)


def make_series(values: Any, affine: Any, seconds: Any) -> xr.DataArray:
    """Return a series (time, z, y, x) with the coordinates that a store gives it."""
    series = xr.concat([make_volume(frame, affine, name="ctp") for frame in values], "time")
    return series.assign_coords(time=("time", np.asarray(seconds, float), {"units": "s"}))


def arterial(seconds: np.ndarray, width: float = 0.75, peak: float = 380.0) -> np.ndarray:
    """Return a gamma variate of exponent 3 that begins after 10 s, in HU."""
    since = np.maximum(np.asarray(seconds) - 10, 0) / (3 * width)
    return np.asarray(peak * since**3 * np.exp(3 * (1 - since)))


def tissue(seconds: np.ndarray, cbv: float, mtt: float, delay: float, **options: Any) -> np.ndarray:
    """Return the enhancement of tissue in HU at some times; options: residue, width."""
    residue = options.pop("residue", "exponential")
    fine = np.arange(0, 130, STEP)
    left = np.exp(-(fine + STEP / 2) / mtt) if residue == "exponential" else (fine < mtt) * 1.0
    response = np.convolve(arterial(fine - delay, **options), left)[: fine.size] * STEP
    return np.interp(seconds, fine, response * cbv / 100 / mtt / KAPPA)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phantom:
    """A series and the truth of its voxels, (cbv, mtt, delay, repeats)."""

    series: xr.DataArray
    artery: xr.DataArray
    truth: dict[str, np.ndarray]

    def tiles(self, image: xr.DataArray) -> np.ndarray:
        """Return the mean of a map in every tile, (cbv, mtt, delay)."""
        values = image.transpose("z", "y", "x").values.reshape(len(CBV), len(MTT), len(DELAY), -1)
        return np.asarray(values.mean(axis=-1))


def phantom(seconds: np.ndarray, *, noise: float = 0.0, repeats: int = 1, **options: Any) -> Phantom:
    rng = np.random.default_rng(7)
    curves = np.array([[[tissue(seconds, a, b, c, **options) for c in DELAY] for b in MTT] for a in CBV])
    curves = np.repeat(np.moveaxis(curves, -1, 0)[..., None], repeats, axis=-1)
    values = 35 + curves + noise * rng.standard_normal(curves.shape)
    shape = (len(seconds), len(CBV), len(MTT), len(DELAY) * repeats)
    series = make_series(values.reshape(shape).astype(np.float32), AFFINE, seconds)
    options.pop("residue", None)
    artery = xr.DataArray(40 + arterial(seconds, **options), dims="time", coords={"time": series["time"]})
    cbv, mtt, delay = np.meshgrid(CBV, MTT, DELAY, indexing="ij")
    return Phantom(series=series, artery=artery, truth={"cbv": cbv, "mtt": mtt, "delay": delay, "cbf": 60 * cbv / mtt})


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


# --- truth ---


@pytest.mark.parametrize("method", ["bcsvd", "osvd"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_phantom_of_exponential_residues(method: Literal["bcsvd", "osvd"], *, chunked: bool) -> None:
    made = phantom(np.arange(0, 110.0))
    series = made.series.chunk(time=7, z=2, y=3, x=4) if chunked else made.series
    maps = perfusion_maps(series, made.artery, method=method)
    assert all(image.chunks for image in maps.values())  # nothing is computed yet
    maps = maps.compute()
    found = {str(name): made.tiles(image) for name, image in maps.data_vars.items()}
    assert np.abs(found["cbv"] / made.truth["cbv"] - 1).max() < 0.1
    assert correlation(found["cbv"], made.truth["cbv"]) > 0.98
    fast = made.truth["cbf"] >= 30
    ratio = found["cbf"][fast] / made.truth["cbf"][fast]
    assert ratio.min() > 0.75
    assert ratio.max() < 1.1
    assert correlation(found["cbf"][fast], made.truth["cbf"][fast]) > 0.95
    response = found["tmax"] - found["tmax"][..., :1] - made.truth["delay"]
    assert np.abs(response).max() < 0.35
    # truncations of voxels go by steps
    assert np.abs(found["cbf"] / found["cbf"][..., :1] - 1).max() < (0.03 if method == "bcsvd" else 0.06)
    bias = found["tmax"] - made.truth["delay"]
    assert bias.min() > 0
    assert bias.max() < 3
    np.testing.assert_allclose(found["cbf"] * found["mtt"] / found["cbv"], 60, rtol=1e-5)
    assert maps["ttp"].values.min() >= 12


def test_a_delay_between_frames() -> None:
    times = np.arange(0, 110.0)
    made = deconvolution_of(40 + arterial(times, 1.5), times)
    curves = [40 + tissue(times, 4.0, 5.0, delay, width=1.5) for delay in np.arange(0, 3, 0.2)]
    flows = made.flows(np.stack(curves, axis=1))
    np.testing.assert_allclose(flows.flow, flows.flow[0], rtol=0.03)
    np.testing.assert_allclose(flows.delay - flows.delay[0], np.arange(0, 3, 0.2), atol=0.35)
    early = deconvolution_of(40 + arterial(times - 2, 1.5), times).flows(curves[0])
    assert float(early.delay) == pytest.approx(float(flows.delay[0]) - 2, abs=0.01)  # an input that lies downstream
    assert float(early.flow) == pytest.approx(float(flows.flow[0]), rel=0.01)


def test_a_wide_arterial_input_costs_flow() -> None:
    """As wide as that of the literature, 6 s: what truncation leaves of short transit times."""
    made = phantom(np.arange(0, 110.0), width=1.5)
    maps = perfusion_maps(made.series, made.artery).compute()
    fast = made.truth["cbf"] >= 30
    ratio = made.tiles(maps["cbf"])[fast] / made.truth["cbf"][fast]
    assert 0.59 < ratio.min() < 0.65
    assert 0.75 < ratio.max() < 0.82
    assert correlation(made.tiles(maps["cbf"])[fast], made.truth["cbf"][fast]) > 0.95
    assert np.abs(made.tiles(maps["cbv"]) / made.truth["cbv"] - 1).max() < 0.1


def test_a_phantom_of_box_residues() -> None:
    """Truncation makes an edge overshoot, by 18 % at both ends of a box."""
    made = phantom(np.arange(0, 110.0), residue="box")
    maps = perfusion_maps(made.series, made.artery).compute()
    cbv, cbf = made.tiles(maps["cbv"]), made.tiles(maps["cbf"])
    assert np.abs(cbv / made.truth["cbv"] - 1).max() < 0.1
    fast = made.truth["cbf"] >= 30
    ratio = cbf[fast] / made.truth["cbf"][fast]
    assert ratio.min() > 0.75
    assert ratio.max() < 1.19
    assert correlation(cbf[fast], made.truth["cbf"][fast]) > 0.95
    assert np.abs(cbf / cbf[..., :1] - 1).max() < 0.03


def test_noise_and_smoothing() -> None:
    """The mean of a tile is right in noise; smoothing within a mask leaves neighbouring tiles alone."""
    made = phantom(np.arange(0, 60.0), noise=0.5, repeats=400)
    maps = perfusion_maps(made.series, made.artery).compute()
    short = made.truth["mtt"] <= 8  # later blood has not passed after 60 s
    cbv = made.tiles(maps["cbv"])
    assert np.abs(cbv / made.truth["cbv"] - 1)[short & (made.truth["cbv"] >= 2)].max() < 0.1
    assert correlation(cbv[short], made.truth["cbv"][short]) > 0.98
    deviation = float(maps["cbv"].isel(z=2, y=3, x=slice(400)).std())
    tile = (np.arange(made.series.sizes["x"]) < 400) & (np.arange(len(MTT)) == 3)[:, None]
    tile = np.broadcast_to(tile & (np.arange(len(CBV)) == 2)[:, None, None], maps["cbv"].shape)
    smooth = perfusion_maps(made.series, made.artery, mask=tile, smoothing=(8.0, 3.0)).compute()
    assert np.isfinite(smooth["cbv"].values).sum() == 400
    inside = smooth["cbv"].isel(z=2, y=3, x=slice(400))
    assert float(inside.std()) < deviation / 2
    assert float(inside.mean()) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("chunks", [{"x": 9, "y": 4}, {"z": 3, "x": 50}, {}])
@pytest.mark.parametrize("block", [64_000_000, 40 * 4 * 12 * 40, 40 * 4 * 12 * 80, 40 * 4 * 70])
def test_smoothing_is_the_same_across_blocks(
    chunks: dict[str, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of all frames, of one slice, of two, and of less, which are thinner than the Gaussian."""
    monkeypatch.setattr(blockwise, "DASK_CHUNK_BYTES", block)
    rng = np.random.default_rng(3)
    values = 30 + rng.standard_normal((40, 6, 12, 40)).astype(np.float32)
    values[:, 2, 5, 11] += arterial(np.arange(40.0))  # a vessel, which must not spread
    seconds = np.arange(40.0)
    series = make_series(values, AFFINE, seconds)
    mask = rng.random(values.shape[1:]) < 0.9
    artery = 40 + arterial(seconds)
    maps = perfusion_maps(series.chunk(chunks), artery, mask=mask, smoothing=6.0).compute()
    # by scipy on the whole
    lifted = values[:, mask] - values[: bolus_arrivals(artery)].mean(axis=0)[mask]
    area = np.zeros(mask.shape)
    area[mask] = lifted.sum(axis=0) / (artery - 40).sum()
    tissue_mask = mask & (area < 0.2)
    assert not tissue_mask[2, 5, 11] or not mask[2, 5, 11]
    sigma = 6.0 / 2.3548200450309493 / np.array([5.0, 1.0, 1.0])
    weights = scipy.ndimage.gaussian_filter(tissue_mask.astype(float), sigma, mode="constant", truncate=3)
    smooth = values.copy()
    for frame in smooth:
        sums = scipy.ndimage.gaussian_filter(np.where(tissue_mask, frame, 0.0), sigma, mode="constant", truncate=3)
        frame[tissue_mask] = (sums / np.where(weights > 0, weights, 1))[tissue_mask]
    wanted = perfusion_maps(make_series(smooth, AFFINE, seconds), artery, mask=mask).compute()
    np.testing.assert_allclose(maps["cbf"].values, wanted["cbf"].values, rtol=2e-3, atol=2e-3)
    assert np.isfinite(maps["tmax"].values).sum() == mask.sum()


def test_uneven_times() -> None:
    seconds = np.concatenate([np.arange(0, 40.0), np.arange(40.0, 110, 3)])
    made = phantom(seconds)
    maps = perfusion_maps(made.series, made.artery).compute()
    even = phantom(np.arange(0, 110.0))
    wanted = perfusion_maps(even.series, even.artery).compute()
    assert np.abs(made.tiles(maps["cbv"]) / made.truth["cbv"] - 1).max() < 0.1
    np.testing.assert_allclose(maps["cbf"].values, wanted["cbf"].values, rtol=0.05)
    np.testing.assert_allclose(maps["tmax"].values, wanted["tmax"].values, atol=0.3)


def block_circulant(artery: np.ndarray, step: float) -> np.ndarray:
    return np.asarray(scipy.linalg.circulant(np.concatenate([artery, np.zeros_like(artery)])) * step)


@pytest.mark.parametrize("truncation", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("step", [1.0, 1.41])
def test_truncation_in_the_frequency_domain_is_that_of_singular_values(truncation: float, step: float) -> None:
    times = np.arange(45) * step
    artery, curve = arterial(times, width=1.2), tissue(times, 4.0, 5.0, 1.5, width=1.2)
    u, s, vt = np.linalg.svd(block_circulant(artery, step))
    kept = s >= truncation * s.max()
    residue = (vt[kept].T / s[kept]) @ u[:, kept].T @ np.concatenate([curve, np.zeros_like(curve)])
    made = deconvolution_of(artery, times, truncation=truncation, baseline_frames=0)
    lags = np.rint((made.first_lag + made.step * np.arange(made.searched)) / step).astype(int)
    np.testing.assert_allclose(made.residue(curve), residue[lags], rtol=0, atol=1e-10)
    assert float(made.flows(curve[:, None]).volume[0]) == pytest.approx(residue.sum() * step, rel=1e-5)


def test_the_oscillation_of_each_voxel_chooses_its_truncation() -> None:
    times = np.arange(60.0)
    artery = arterial(times, width=1.5)
    rng = np.random.default_rng(1)
    curves = np.stack([tissue(times, 4, 5, 1, width=1.5) + n * rng.standard_normal(60) for n in (0, 0.2, 1, 3)], axis=1)
    flows = deconvolution_of(artery, times, method="osvd", baseline_frames=0).flows(curves)
    u, s, vt = np.linalg.svd(block_circulant(artery, 1.0))
    for voxel, curve in enumerate(curves.T):
        for part in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            kept = s >= part * s.max() * (1 - 1e-12)
            residue = (vt[kept].T / s[kept]) @ u[:, kept].T @ np.concatenate([curve, np.zeros_like(curve)])
            residue = np.roll(residue, 5)
            if np.abs(np.diff(residue, n=2)).sum() / residue.size / residue.max() <= 0.035:
                break
        # the vertex of a parabola is no lower than the highest sample, and not far above it
        assert residue[:65].max() * 0.9999 <= flows.flow[voxel] <= residue[:65].max() * 1.1


OSIPI = Path(os.environ.get("ISLES24_ZARR_REAL_DATA", "/nowhere")).parent / "osipi" / "osipi_dsc.csv"


@pytest.mark.skipif(not OSIPI.exists(), reason="the curves of OSIPI are not here")
@pytest.mark.parametrize(("method", "truncation"), [("bcsvd", 0.05), ("bcsvd", 0.1), ("osvd", 0.1)])
def test_reference_curves(method: Literal["bcsvd", "osvd"], truncation: float) -> None:
    csv.field_size_limit(10**7)
    with OSIPI.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    for row in rows:
        curve, artery = (np.array(row[name].split(), float) for name in ("C_tis", "C_aif"))
        times = np.arange(curve.size) * float(row["tr"])
        flows = deconvolution_of(artery, times, method=method, truncation=truncation, baseline_frames=0).flows(curve)
        np.testing.assert_allclose(flows.flow * 6000, float(row["cbf"]), rtol=0.1, atol=15, err_msg=row["label"])
        np.testing.assert_allclose(flows.volume * 100, float(row["cbv"]), rtol=0.1, atol=1, err_msg=row["label"])


# --- real-looking data ---


@pytest.fixture(scope="module")
def acquired(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.DataTree, Path]:
    """A small synthetic release, whose series have tens of frames and the noise of CT."""
    folder = tmp_path_factory.mktemp("perfusion")
    isles24_zarr.synthesize(folder / "release", subjects=1, scale="small", seed=5)
    isles24_zarr.convert(
        folder / "release",
        folder / "store.zarr",
        images=["ncct", "ctp", "tmax", "cbf", "cbv", "mtt"],
        progress=False,
        workers=1,
    )
    return isles24_zarr.open_cohort(folder / "store.zarr"), folder


def test_maps_of_a_patient(acquired: tuple[xr.DataTree, Path]) -> None:
    """All by itself: vessels and brain are found, and the blood in the brain is as much as there is."""
    cohort, _ = acquired
    scan = cohort.isles.scan(cohort.isles.subjects[0], space="ctp")
    inputs = scan.isles.perfusion_inputs()
    truth = next(iter(synthetic.ground_truth(subjects=1, scale="small", seed=5).values()))
    assert abs(inputs.bolus_arrival - truth.bolus.arrival) <= 1
    curve = inputs.arterial_input.values - inputs.arterial_input.values[: inputs.baseline_frames].mean()
    since = np.maximum(np.arange(curve.size) - truth.bolus.arrival, 0) / (3 * truth.bolus.width)
    wanted = 380 * since**3 * np.exp(3 * (1 - since))
    assert curve.sum() == pytest.approx(wanted.sum(), rel=0.08)
    assert np.abs(curve - wanted).max() < 40
    assert inputs.findings == ()
    brain = scan.isles.brain_mask().compute()
    maps = scan.isles.perfusion_maps(inputs, smoothing=(8.0, 3.0)).compute()
    known = brain.values & (scan["cbf"].values > 0) & (scan["cbf"].values < 150)  # without vessels
    assert np.isfinite(maps["tmax"].values[known]).mean() > 0.999
    assert np.isnan(maps["tmax"].values[~brain.values]).all()
    cbv = np.median(maps["cbv"].values[known]), np.median(scan["cbv"].values[known])
    assert cbv[0] == pytest.approx(cbv[1], rel=0.15)
    slow = known & (scan["tmax"].values > 9)
    assert np.median(maps["tmax"].values[slow]) > np.median(maps["tmax"].values[known & ~slow]) + 3
    low = np.median(maps["cbf"].values[slow]) / np.median(maps["cbf"].values[known & ~slow])
    assert low < 0.8
    assert maps.attrs["arterial_input"] == inputs.arterial_input.values.tolist()
    assert maps["cbf"].attrs["method"] == "bcsvd"


def test_inputs_can_be_given_in_every_way(acquired: tuple[xr.DataTree, Path]) -> None:
    cohort, _ = acquired
    scan = cohort.isles.scan(cohort.isles.subjects[0], space="ctp")
    found = scan.isles.perfusion_inputs()
    assert found.arteries is not None
    place = found.arteries[["x", "y", "z"]].to_numpy()[:4]
    mask = xr.zeros_like(scan["tmax"].load(), dtype=bool)
    voxels = np.rint(np.linalg.solve(scan.isles.affine, np.c_[place, np.ones(4)].T)[:3]).astype(int)
    mask.values[voxels[2], voxels[1], voxels[0]] = True
    curve = scan["ctp"].values[:, voxels[2], voxels[1], voxels[0]].mean(axis=1)
    for given in (place, mask, mask.values, curve, scan.isles.time_curve(mask)):
        inputs = scan.isles.perfusion_inputs(given)
        np.testing.assert_allclose(inputs.arterial_input.values, curve, rtol=1e-6)
        assert inputs.venous_output is None
        assert inputs.venous_scale == 1
    vein = 2 * (curve - curve[:4].mean())
    assert scan.isles.perfusion_inputs(curve, vein).venous_scale == pytest.approx(2, rel=1e-6)
    assert scan.isles.perfusion_inputs(curve, vein / 8).venous_scale == 1
    half = scan.isles.perfusion_maps(scan.isles.perfusion_inputs(curve, vein), mask=mask)["cbv"].values[mask.values]
    whole = scan.isles.perfusion_maps(curve, mask=mask)["cbv"].values[mask.values]
    np.testing.assert_allclose(2 * half, whole, rtol=1e-5)


def test_what_is_wrong_with_a_series_is_told() -> None:
    seconds = np.arange(0, 60.0)
    values = np.full((60, 2, 3, 4), 35.0) + tissue(seconds, 4, 5, 1)[:, None, None, None]
    artery = 40 + arterial(seconds)
    series = make_series(values, AFFINE, seconds)
    with (
        pytest.warns(errors.PerfusionWarning, match="ends while the artery is at 9"),
        pytest.warns(errors.PerfusionWarning, match="ends 5 s after the bolus"),
    ):
        perfusion_inputs(series.isel(time=slice(17)), 40 + arterial(seconds[:17], 1.5))
    with pytest.warns(errors.PerfusionWarning, match="begins at 217 HU"):
        perfusion_inputs(series.isel(time=slice(11, None)), artery[11:])
    with pytest.raises(errors.PerfusionError, match="highest in the first frame"):
        perfusion_inputs(series.isel(time=slice(13, None)), artery[13:])
    with pytest.raises(errors.PerfusionError, match="give arterial_input"):
        perfusion_inputs(series)
    with pytest.raises(errors.PerfusionError, match="or flat"):
        perfusion_maps(series, np.full(60, 40.0))
    with pytest.raises(errors.PerfusionError, match="other times"):
        perfusion_inputs(series, xr.DataArray(artery, dims="time", coords={"time": 1.41 * seconds}))
    with pytest.raises(errors.PerfusionError, match="60 frames"):
        perfusion_inputs(series, xr.DataArray(artery[:50], dims="time"))
    with pytest.raises(errors.GeometryError, match="no time axis"):
        perfusion_maps(series.isel(time=0), artery)
    for options in (
        {"method": "svd"},
        {"truncation": 0},
        {"haematocrit": (0.45, 1)},
        {"smoothing": -1},
        {"density": 0},
    ):
        with pytest.raises(errors.UnknownNameError):
            perfusion_maps(series, artery, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perfusion_maps(series, artery)


def test_voxels_without_a_curve() -> None:
    seconds = np.arange(0, 60.0)
    values = np.full((60, 2, 3, 4), 35.0) + tissue(seconds, 4, 5, 1)[:, None, None, None]
    values[30, 0, 0, 0] = np.nan
    values[:, 0, 0, 1] = -1024.0
    values[20, 0, 0, 2] = np.inf
    maps = perfusion_maps(make_series(values, AFFINE, seconds), 40 + arterial(seconds)).compute()
    for image in maps.values():
        assert np.isnan(image.values[0, 0, :3]).all()
        assert np.isfinite(image.values).sum() == 21


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float64"])
def test_types_and_axes(dtype: str) -> None:
    seconds = np.arange(0, 60.0)
    values = np.rint(2 * (35 + tissue(seconds, 4, 5, 1)))[:, None, None, None] * np.ones((1, 2, 3, 4))
    artery = np.rint(2 * (40 + arterial(seconds)))
    wanted = perfusion_maps(make_series(values, AFFINE, seconds), artery).compute()
    series = make_series(values.astype(dtype), AFFINE, seconds).transpose("x", "time", "z", "y")
    found = perfusion_maps(series, artery).compute()
    assert found["cbf"].dims == ("z", "y", "x")
    for name in found:
        np.testing.assert_allclose(found[name].values, wanted[name].values, rtol=1e-4)
    one = perfusion_maps(series.isel(z=1), artery).compute()
    np.testing.assert_allclose(one["cbf"].values, wanted["cbf"].values[1], rtol=1e-4)
    assert found.isles.affine == pytest.approx(AFFINE)


def test_the_arrival_of_a_bolus() -> None:
    rng = np.random.default_rng(0)
    for start in (3, 8, 15):
        for noise in (0.0, 2.0, 8.0):
            curve = 40 + np.roll(arterial(np.arange(60.0), 1.5), start - 10) + noise * rng.standard_normal(60)
            assert abs(bolus_arrivals(curve) - start) <= 2
    assert bolus_arrivals(np.linspace(100, 0, 20)) == 0


def test_the_brain_of_a_phantom(acquired: tuple[xr.DataTree, Path]) -> None:
    """Grey and white matter and what lies within them, nothing of skull and scalp, whatever the blocks."""
    cohort, _ = acquired
    scan = cohort.isles.scan(cohort.isles.subjects[0])
    brain = scan.isles.brain_mask()
    assert brain.chunks
    inside = brain.values
    hu = scan["ncct"].values
    assert hu[inside].max() < 160
    assert 1000 < inside.sum() * scan.isles.voxel_volume / 1000 < 2200
    labels, count = scipy.ndimage.label(inside)
    sizes = np.bincount(labels.ravel())[1:]
    assert count
    assert sizes.max() / sizes.sum() > 0.99
    # every ray from the brain meets bone before air, in the slices that show the vault
    filled = np.stack([scipy.ndimage.binary_fill_holes(plane > 300) for plane in hu])
    within = filled & (hu < 160)
    assert np.count_nonzero(within[4:] & inside[4:]) > 0.97 * np.count_nonzero(within[4:])
    # above its base the skull is a ring
    closed = [k for k, plane in enumerate(within) if k > len(hu) // 2 and np.count_nonzero(plane) > 1000]
    assert len(closed) > 4
    for k in closed:
        both = np.count_nonzero(within[k] & inside[k])
        assert 2 * both / (np.count_nonzero(within[k]) + np.count_nonzero(inside[k])) > 0.97
    for chunks in ({"z": 5, "y": 33, "x": 50}, {"z": 1}):
        np.testing.assert_array_equal(scan["ncct"].chunk(chunks).isles.computed().shape, inside.shape)
        np.testing.assert_array_equal(isles24_zarr.analysis.brain_mask(scan["ncct"].chunk(chunks)).values, inside)
    loaded = isles24_zarr.analysis.brain_mask(scan["ncct"].load())
    assert loaded.chunks is None
    np.testing.assert_array_equal(loaded.values, inside)
    padded = scan["ncct"].where(scan["ncct"].z > scan["ncct"].z[9], -1024)  # as a slab is
    found = isles24_zarr.analysis.brain_mask(padded).values
    assert not found[:10].any()
    assert np.count_nonzero(found[11:] != inside[11:]) < 0.01 * np.count_nonzero(inside)
    with pytest.raises(errors.GeometryError, match="nothing like a brain"):
        isles24_zarr.analysis.brain_mask(scan["ncct"] * 0 - 1000)


def test_a_map_comes_back_in_its_place(acquired: tuple[xr.DataTree, Path]) -> None:
    cohort, folder = acquired
    scan = cohort.isles.scan(cohort.isles.subjects[0], space="ctp")
    maps = scan.isles.perfusion_maps()
    image = maps["cbf"].isles.to_nifti(like=scan["ctp"])
    source = next((folder / "release").rglob("raw_data/**/*_ctp.nii.gz"))
    import nibabel as nib

    reference = nib.load(source)
    np.testing.assert_allclose(image.affine, reference.affine, atol=1e-4)
    assert image.shape == reference.shape[:3]
    # where the file has air, there is no map; where it has the brain, there is
    first = np.asarray(reference.dataobj[..., 0])
    assert np.isnan(np.asarray(image.dataobj)[first < -500]).all()
    assert np.isfinite(np.asarray(image.dataobj)).sum() == np.isfinite(maps["cbf"].values).sum()


def test_what_was_not_computed_of_maps_that_were_just_made_is_left_out(acquired: tuple[xr.DataTree, Path]) -> None:
    cohort, _ = acquired
    scan = cohort.isles.scan(cohort.isles.subjects[0], space="ctp")
    maps, brain = scan.isles.perfusion_maps().compute(), scan.isles.brain_mask().compute()
    for name in ("cbv", "cbf", "mtt", "tmax"):
        values = maps[name].values[brain.values]
        wanted = values[np.isfinite(values) & (values > 0 if name == "tmax" else values != 0)]
        row = maps[name].isles.statistics(brain).iloc[0]
        assert row["voxels"] == wanted.size
        assert row["mean"] == pytest.approx(wanted.mean(dtype=np.float64))


@pytest.mark.parametrize("name", perfusion.__all__)
def test_examples(name: str, acquired: tuple[xr.DataTree, Path]) -> None:
    cohort, _ = acquired
    names = {"scan": cohort.isles.scan(cohort.isles.subjects[0], space="ctp"), "isles24_zarr": isles24_zarr}
    member = getattr(perfusion, name)
    tests = doctest.DocTestFinder().find(member, name, globs=dict(vars(perfusion)) | names, module=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        assert runner.run(test).failed == 0
