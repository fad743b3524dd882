"""Time curves against nibabel on the files of the release, and against curves that were put in; peak memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.analysis import arteries, curves
from tests.oracle import canonical_voxels
from tests.test_analysis import SHEARED, SUBJECTS, make_volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The cluster of the tests would else be used wherever it is up."""
    with dask.config.set(scheduler="threads"):
        yield


def ctp_file(release: Path, subject: str) -> Any:
    return nib.load(release / f"derivatives/{subject}/ses-01/{subject}_ses-01_space-ncct_ctp.nii.gz")


def cow_voxels(release: Path, subject: str) -> np.ndarray:
    path = release / f"derivatives/{subject}/ses-01/{subject}_ses-01_space-ncct_cow-msk.nii.gz"
    return np.asarray(nib.load(path).dataobj)


def world_positions(image: Any) -> np.ndarray:
    indices = np.moveaxis(np.indices(image.shape[:3]), 0, -1)
    return np.asarray(nib.affines.apply_affine(image.affine, indices))


def variants(store: Path, subject: str, space: str = "ncct") -> list[xr.Dataset]:
    scan = isles24_zarr.open_scan(store, subject, space)
    return [
        scan,
        isles24_zarr.open_scan(store, subject, space, chunks={"time": 3, "z": 5, "y": 17, "x": 23}),
        isles24_zarr.open_scan(store, subject, space, chunks=None),
        scan.load(),
    ]


def make_series(values: Any, affine: Any = SHEARED, *, times: Any = None) -> xr.DataArray:
    frame = make_volume(values[0], affine, name="ctp")
    coords = dict(frame.coords) | {"time": np.arange(len(values), dtype=float) if times is None else times}
    return xr.DataArray(values, dims=("time", "z", "y", "x"), coords=coords, name="ctp", attrs={"units": "HU"})


# --- curves of regions ---


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_mean_in_a_mask(store: Path, release: Path, subject: str) -> None:
    image, cow = ctp_file(release, subject), cow_voxels(release, subject)
    voxels = np.asarray(image.dataobj).astype(np.float64)
    for scan in variants(store, subject):
        curve = scan.isles.time_curve("cow_mask")
        np.testing.assert_allclose(curve, voxels[cow > 0].mean(axis=0), rtol=1e-12)
        assert curve.dims == ("time",)
        assert curve.attrs["units"] == "HU"
        assert (curve["voxels"] == np.count_nonzero(cow)).all()
        np.testing.assert_array_equal(curve["time"], scan["time"])
        np.testing.assert_allclose(
            scan.isles.time_curve("cow_mask", label=5), voxels[cow == 5].mean(axis=0), rtol=1e-12
        )
        by_array = scan["ctp"].isles.time_curve(scan["cow_mask"].values == 5)
        np.testing.assert_allclose(by_array, voxels[cow == 5].mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_mean_about_positions(store: Path, release: Path, subject: str) -> None:
    image = ctp_file(release, subject)
    voxels, places = np.asarray(image.dataobj).astype(np.float64), world_positions(image)
    centres = np.array([[25.0, -8.0, 12.0], [-30.3, 14.2, 20.1]])
    distances = np.linalg.norm(places[..., None, :] - centres, axis=-1)
    nearest = [np.unravel_index(np.argmin(distances[..., n]), image.shape[:3]) for n in range(2)]
    for scan in variants(store, subject):
        one = scan.isles.time_curve(centres[0])
        np.testing.assert_allclose(one, voxels[nearest[0]], rtol=1e-12)
        both = scan.isles.time_curve(centres.tolist())
        np.testing.assert_allclose(both, (voxels[nearest[0]] + voxels[nearest[1]]) / 2, rtol=1e-12)
        balls = scan.isles.time_curve(centres, radius=14.0)
        inside = (distances <= 14.0).any(axis=-1)
        assert inside.sum() > 20
        assert (balls["voxels"] == inside.sum()).all()
        np.testing.assert_allclose(balls, voxels[inside].mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("radius", [0.0, 2.5, 7.0, 100.0])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_a_ball_on_a_sheared_grid(radius: float, step: int) -> None:
    image = make_volume(np.zeros((7, 9, 8))).isel(y=slice(None, None, step))
    indices = np.moveaxis(np.indices((8, 9, 7)), 0, -1)[:, ::step]
    places = nib.affines.apply_affine(SHEARED, indices)
    for voxel in [(0, 0, 0), (3, 2, 4), (7, places.shape[1] - 1, 6)]:
        centre = places[voxel] + 0.1
        distances = np.linalg.norm(places - centre, axis=-1)
        wanted = distances <= radius
        wanted[voxel] = True
        np.testing.assert_array_equal(curves.ball_mask(image, centre, radius).values.T, wanted)


def test_what_is_not_finite_is_left_out_of_a_curve() -> None:
    values = np.random.default_rng(0).normal(40, 5, (5, 4, 6, 7))
    values[1, 2, 3, 4], values[1, 2, 3, 5], values[3] = np.nan, np.inf, np.nan
    mask = np.zeros((4, 6, 7), np.uint16)
    mask[1:3, 2:5, 2:6] = 3
    wanted = pd.DataFrame(values[:, mask > 0].T).replace(np.inf, np.nan)
    for series in (make_series(values), make_series(da.from_array(values, chunks=(2, 3, 4, 5)))):
        curve = curves.time_curve(series, mask)
        np.testing.assert_allclose(curve, wanted.mean())
        assert curve["voxels"].values.tolist() == wanted.count().tolist()
    assert np.isnan(curve[3])
    nothing = curves.time_curve(series, mask, label=9)
    assert nothing["voxels"].values.tolist() == [0] * 5
    assert nothing.isnull().all()


def test_scaled_integers_do_not_overflow() -> None:
    values = np.full((4, 3, 40, 50), 32000, np.int16)
    series = make_series(values)
    np.testing.assert_array_equal(curves.time_curve(series, np.ones((3, 40, 50), bool)), 32000.0)
    values[0] = -32000
    lifted = curves.enhancement(series, baseline_frames=1)
    assert lifted.dtype == np.float32
    np.testing.assert_array_equal(lifted[1:], 64000.0)


def test_regions_that_cannot_be(store: Path) -> None:
    scan = isles24_zarr.open_scan(store, SUBJECTS[0])
    with pytest.raises(errors.UnknownNameError, match="is not in this scan"):
        scan.isles.time_curve("thalamus")
    with pytest.raises(errors.GeometryError, match="does not reach"):
        scan.isles.time_curve([0, 0, 900])
    with pytest.raises(errors.GeometryError, match="no time axis"):
        scan.isles.time_curve("cow_mask", series="tmax")
    with pytest.raises(errors.GeometryError, match="is not on it"):
        scan.isles.time_curve(np.ones((2, 3, 4), bool))
    with pytest.raises(errors.GeometryError, match="is not on the grid of ctp"):
        scan.isles.time_curve(scan["cow_mask"].isel(x=slice(1, None)))
    with pytest.raises(errors.UnknownNameError, match="is no radius"):
        scan.isles.time_curve([0, 0, 0], radius=-1)


# --- enhancement and peaks ---


@pytest.mark.parametrize("subject", SUBJECTS)
def test_enhancement_and_time_to_peak(store: Path, release: Path, subject: str) -> None:
    voxels = canonical_voxels(ctp_file(release, subject)).astype(np.float64)
    constant = np.ptp(voxels, axis=0) == 0
    assert 0 < constant.sum() < constant.size
    for scan in variants(store, subject):
        found = scan["ctp"].isles.enhancement(baseline_frames=2)
        np.testing.assert_allclose(found, voxels - voxels[:2].mean(axis=0), atol=1e-3)
        peak = scan["ctp"].isles.time_to_peak()
        assert peak.dtype == np.float32
        wanted = np.where(constant, np.nan, np.argmax(voxels, axis=0))  # frames are 1 s apart
        np.testing.assert_array_equal(peak, wanted.astype(np.float32))
    assert isles24_zarr.open_scan(store, subject)["ctp"].isles.time_to_peak().chunks is not None


def test_peaks_of_a_curve_and_of_what_is_not_finite() -> None:
    values = np.array([[5, 7, 9, 9], [1, np.nan, 3, 2], [np.inf, 1, 2, 0], [4, 4, 4, 4], [np.nan] * 4])
    times = np.array([0.0, 1.5, 3.0, 4.5])
    series = make_series(np.moveaxis(values[:, None, None], -1, 0).transpose(0, 2, 3, 1), times=times)
    for variant in (series, series.chunk(time=1), series.chunk(time=3)):
        peak = variant.isles.time_to_peak()
        np.testing.assert_array_equal(peak.values[0, 0], [3, 3, 3, np.nan, np.nan])
    assert float(series[:, 0, 0, 0].isles.time_to_peak()) == 3
    lifted = curves.enhancement(series[:, 0, 0, 2], baseline_frames=2)
    np.testing.assert_allclose(lifted, [np.inf, 0, 1, -1])
    for frames in (0, 5):
        with pytest.raises(errors.UnknownNameError, match="baseline frames"):
            curves.enhancement(series, baseline_frames=frames)


# --- arterial input ---


def bolus(times: np.ndarray, arrival: float, height: float, spread: float) -> np.ndarray:
    late = np.maximum(times - arrival, 0) / spread
    return np.asarray(height * late**2 * np.exp(2 - 2 * late) if height else 0 * times)


def make_vessels(chunks: Any = None) -> tuple[xr.DataArray, np.ndarray]:
    """Return a series with artery, veins, tissue, bone and air, and where (z, y, x) the arteries are."""
    rng = np.random.default_rng(1)
    times, shape = np.arange(0.0, 40.0), (6, 20, 24)
    values = np.full((40, *shape), 35.0) + bolus(times, 9, 8, 6)[:, None, None, None]
    values[:, :, :2], values[:, :, -2:] = -1000, 900
    artery = np.zeros(shape, bool)
    artery[1:4, 5, 4:7] = True
    values[:, artery] = 40 + bolus(times, 6, 300, 3)[:, None]
    values[:, :, 12, 8:20] = 42 + bolus(times, 13, 380, 4)[:, None, None]  # veins: higher, but late
    values[:, 4, 8, 4:7] = 40 + bolus(times, 3, 300, 6)[:, None]  # early, but wide
    values[:, 5, 16, 1:4] = 40 + bolus(times, 6, 120, 3)[:, None]  # an artery thinner than a voxel
    values[:, 0, 18, 3] = 900 + bolus(times, 6, 350, 3)  # beside bone
    values += rng.normal(0, 2, values.shape)
    values[20, 1, 5, 4] = np.nan
    artery[1, 5, 4] = False
    voxels = values.astype(np.float32)
    return make_series(voxels if chunks is None else da.from_array(voxels, chunks=chunks), times=times), artery


@pytest.mark.parametrize("chunks", [None, (7, 2, 9, 24), (40, 6, 20, 24), (1, 6, 20, 24)])
def test_arteries_are_found(chunks: Any) -> None:
    series, wanted = make_vessels(chunks)
    table = series.to_dataset().isles.arterial_inputs(count=6)
    assert len(table) == 6
    assert (table["peak"] / table["width"]).is_monotonic_decreasing
    places = nib.affines.apply_affine(np.linalg.inv(SHEARED), table[["x", "y", "z"]].to_numpy())
    i, j, k = np.rint(places).astype(int).T
    np.testing.assert_allclose(places.T, (i, j, k), atol=1e-6)
    assert wanted[k, j, i].all()
    loaded = series.values.astype(np.float64)[:, k, j, i]
    lifted = loaded - loaded[:3].mean(axis=0)
    np.testing.assert_allclose(table["baseline"], loaded[:3].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(table["peak"], lifted.max(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(table["time_to_peak"], loaded.argmax(axis=0))
    np.testing.assert_allclose(table["width"], np.trapezoid(lifted, axis=0) / lifted.max(axis=0), rtol=1e-4)
    pd.testing.assert_frame_equal(table, arteries.arterial_input_candidates(make_vessels()[0], count=6))


def test_no_arteries() -> None:
    series, _ = make_vessels()
    table = arteries.arterial_input_candidates(series, lowest_peak=1000)
    assert table.empty
    assert table.columns.tolist() == ["x", "y", "z", "baseline", "peak", "time_to_peak", "width"]
    with pytest.raises(errors.UnknownNameError, match="ask for 1 or more"):
        arteries.arterial_input_candidates(series, count=0)
    with pytest.raises(errors.GeometryError):
        arteries.arterial_input_candidates(series.isel(z=0))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_arteries_of_the_release(store: Path, release: Path, subject: str) -> None:
    """Each candidate lies in a vessel of the file: its curve is that of the voxel at its position."""
    image = ctp_file(release, subject)
    voxels = np.asarray(image.dataobj).astype(np.float64)
    tables = [scan.isles.arterial_inputs(count=8, baseline_frames=1) for scan in variants(store, subject)]
    places = nib.affines.apply_affine(np.linalg.inv(image.affine), tables[0][["x", "y", "z"]].to_numpy())
    series = voxels[tuple(np.rint(places).astype(int).T)]
    np.testing.assert_allclose(tables[0]["peak"], series.max(axis=1) - series[:, 0])
    assert (tables[0]["peak"] > 250).all()
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


# --- cost ---


def test_on_a_cluster(store: Path, client: Client) -> None:
    scan = isles24_zarr.open_scan(store, SUBJECTS[1])
    here = scan.load()
    with dask.config.set(scheduler=client):
        lazy = isles24_zarr.open_scan(store, SUBJECTS[1])
        xr.testing.assert_allclose(lazy.isles.time_curve("cow_mask"), here.isles.time_curve("cow_mask"))
        pd.testing.assert_frame_equal(
            lazy.isles.arterial_inputs(baseline_frames=1), here.isles.arterial_inputs(baseline_frames=1)
        )


def test_a_curve_reads_the_blocks_of_its_region_alone() -> None:
    touched = []

    def block(block_info: Any = None) -> np.ndarray:
        where = block_info[None]["chunk-location"]
        touched.append(where)
        return np.full(block_info[None]["chunk-shape"], 40, np.int16)

    series = make_series(da.map_blocks(block, chunks=((2,) * 4, (3,) * 5, (10,), (12,)), dtype=np.int16))
    mask = np.zeros((15, 10, 12), bool)
    mask[7:8] = True
    touched.clear()
    np.testing.assert_array_equal(curves.time_curve(series, mask), 40.0)
    assert sorted(touched) == [(time, 2, 0, 0) for time in range(4)]


def test_memory_is_bounded_by_blocks(tmp_path: Path) -> None:
    """1.1 GB of a series, made block by block, in two threads, and blocks of 17 MB."""
    script = tmp_path / "measure.py"
    script.write_text(
        textwrap.dedent("""
        from pathlib import Path

        import dask
        import dask.array as da
        import numpy as np

        from isles24_zarr.analysis import arteries
        from isles24_zarr.analysis import curves
        from tests.test_curves import make_series

        def peak():
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) / 1000

        def block(block_info=None):
            first = block_info[None]["array-location"][0][0]
            return np.full(block_info[None]["chunk-shape"], 40 + first, np.int16)

        chunks = ((4,) * 11, (8,) * 6, (512,), (512,))
        series = make_series(da.map_blocks(block, chunks=chunks, dtype=np.int16, meta=np.empty((0,) * 4, np.int16)))
        mask = np.ones(series.shape[1:], bool)
        before = peak()
        with dask.config.set(scheduler="threads", num_workers=2):
            curve = curves.time_curve(series, mask)
            assert curve.values.tolist() == [40 + 4 * (frame // 4) for frame in range(44)]
            after_curve = peak()
            table = arteries.arterial_input_candidates(series, lowest_peak=1000)
            assert table.empty
            after_arteries = peak()
            assert float(curves.time_to_peak(series).max()) == 40
        print(series.nbytes / 1e6, after_curve - before, after_arteries - before, peak() - before)
    """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    series, curve, arteries, peaks = map(float, done.stdout.split())
    assert series > 1100
    assert curve < 300
    assert arteries < 600
    assert peaks < 900
