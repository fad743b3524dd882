"""Time curves beside slices: curves against numpy, places against pixels."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

import isles24_zarr
from isles24_zarr.errors import GeometryError, MissingExtraError, UnknownNameError
from isles24_zarr.figures._style import figure_class
from isles24_zarr.figures.curves import _slices_that_show, time_curves
from tests.test_plot import SHAPE, Recorded, box_mask, centre_of_colour, has_colour, make_scan, panels, pixels, texts

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAMES = 12
RIGHT, LEFT = slice(22, 34), slice(6, 18)  # of x, as in the patient


@pytest.fixture
def scan() -> xr.Dataset:
    rng = np.random.default_rng(3)
    series = 40 + rng.normal(0, 3, (FRAMES, *SHAPE))
    series[:, :, :, LEFT] += np.arange(FRAMES)[:, None, None, None]
    masks = {"lesion_mask": box_mask(slice(4, 9), x=LEFT), "lvo_mask": box_mask(slice(14, 16), x=RIGHT)}
    return make_scan({"ctp": series, **masks})


def curve_axes(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.lines and not axes.images]


def drawn_curves(figure: Figure) -> dict[str, tuple[Any, Any]]:
    """Return what is drawn, by the label of the legend that has the same colour."""
    (legend,) = figure.legends
    labels = {
        line.get_color(): text.get_text().split("  (")[0]
        for line, text in zip(legend.get_lines(), legend.texts, strict=True)
    }
    lines = [line for axes in curve_axes(figure) for line in axes.lines]
    return {labels[line.get_color()]: (line.get_xdata(), line.get_ydata()) for line in lines}


def test_curves_are_means_over_what_is_finite(scan: xr.Dataset) -> None:
    voxels = scan["ctp"].values.copy()
    voxels[3, 5, 22, 8] = np.nan
    voxels[4, 5, 22, 8] = np.inf
    scan["ctp"] = scan["ctp"].dims, voxels
    scan = scan.assign_coords(time=("time", 1.5 * np.arange(FRAMES), {"units": "s"}))
    figure = time_curves(scan, {"infarct": scan["lesion_mask"], "occlusion": scan["lvo_mask"]})
    curves = drawn_curves(figure)
    assert curves.keys() == {"infarct", "occlusion"}
    finite = np.where(np.isfinite(voxels), voxels, np.nan)
    for name, mask in (("infarct", "lesion_mask"), ("occlusion", "lvo_mask")):
        seconds, values = curves[name]
        np.testing.assert_array_equal(seconds, 1.5 * np.arange(FRAMES))
        np.testing.assert_allclose(values, np.nanmean(finite[:, scan[mask].values == 1], axis=1))
    assert curve_axes(figure)[0].get_xlabel() == "time from the first frame [s]"
    assert "CTP [HU]" in texts(figure)


def test_a_region_has_one_colour_and_lies_where_it_is(scan: xr.Dataset) -> None:
    figure = time_curves(scan, {"infarct": scan["lesion_mask"], "occlusion": scan["lvo_mask"]})
    assert [axes.get_title() for axes in panels(figure)] == ["slice 5 of 20", "slice 15 of 20"]
    (legend,) = figure.legends
    for axes, line, side in zip(panels(figure), legend.get_lines(), ("left", "right"), strict=True):
        colour = tuple(round(255 * part) for part in to_rgb(line.get_color()))
        picture = pixels(figure, axes)
        # the patient's right is on the left of the picture
        assert (centre_of_colour(picture, colour)[1] < 0.5) == (side == "right")
    first, second = (tuple(round(255 * c) for c in to_rgb(line.get_color())) for line in legend.get_lines())
    assert not has_colour(pixels(figure, panels(figure)[0]), second)
    assert not has_colour(pixels(figure, panels(figure)[1]), first)


def test_one_slice_for_regions_that_share_one(scan: xr.Dataset) -> None:
    masks = {"a": scan["lesion_mask"], "b": scan["lesion_mask"].roll(x=16)}
    assert len(panels(time_curves(scan, masks))) == 1
    apart = {str(z): scan["lvo_mask"].roll(z=z) for z in (0, 4, 8, 12, 16)}
    assert len(panels(time_curves(scan, apart))) == 3


@given(areas=st.lists(st.lists(st.integers(0, 9), min_size=12, max_size=12).filter(any), min_size=1, max_size=5))
def test_chosen_slices_show_as_many_regions_as_three_can(areas: list[list[int]]) -> None:
    regions = {str(number): np.array(area) for number, area in enumerate(areas)}
    chosen = _slices_that_show(regions)
    assert chosen == sorted(set(chosen))
    seen = [{name for name, area in regions.items() if area[index]} for index in chosen]
    assert len(chosen) <= 3
    assert set.union(*seen) == set(regions) or len(chosen) == 3
    assert all(seen)


def test_small_regions_are_ringed(scan: xr.Dataset) -> None:
    mask = scan["lvo_mask"] * 0
    mask[7, 25, 30] = 1
    figure = time_curves(scan, {"artery": mask})
    (axes,) = panels(figure)
    (ring,) = axes.lines
    assert ring.get_xdata() == pytest.approx(scan["x"].values[[30]])
    assert ring.get_ydata() == pytest.approx(scan["y"].values[[25]])
    assert "artery  (1 voxel)" in [text.get_text() for text in figure.legends[0].texts]


def test_an_artery_does_not_flatten_tissue(scan: xr.Dataset) -> None:
    time = np.arange(FRAMES)
    artery = scan["ctp"].isel(x=0, y=0, z=0, drop=True).copy(data=300 * np.exp(-((time - 5) ** 2) / 4))
    figure = time_curves(scan, {"infarct": scan["lesion_mask"], "artery": artery})
    low, high = curve_axes(figure)
    assert low.get_position().y1 < high.get_position().y0
    assert low.get_ylim()[1] < 60 < high.get_ylim()[1]
    assert low.get_xlim() == high.get_xlim()
    assert drawn_curves(figure).keys() == {"infarct", "artery"}


def test_curves_that_were_measured_are_drawn_as_they_are(scan: xr.Dataset) -> None:
    recorded = Recorded(scan["ctp"].values)
    lazy = scan.assign(ctp=(scan["ctp"].dims, recorded.array))
    measured = xr.DataArray(np.linspace(30, 50, FRAMES), dims="time")
    with dask.config.set(scheduler="threads"):
        figure = time_curves(lazy, {"infarct": lazy["lesion_mask"]}, curves={"infarct": measured})
    np.testing.assert_array_equal(drawn_curves(figure)["infarct"][1], measured)
    # the frames that are shown of one slice, and nothing for the curve
    assert len(recorded.blocks) == 5
    assert {z for _, z in recorded.blocks} == {4}


def test_only_slices_of_the_regions_are_read(scan: xr.Dataset) -> None:
    recorded = Recorded(scan["ctp"].values)
    lazy = scan.assign(ctp=(scan["ctp"].dims, recorded.array))
    with dask.config.set(scheduler="threads"):
        time_curves(lazy, {"infarct": lazy["lesion_mask"]})
    assert {z for _, z in recorded.blocks} == {4, 5, 6, 7, 8}


def test_curves_alone_have_no_picture(scan: xr.Dataset) -> None:
    curve = scan["ctp"].mean(("z", "y", "x"))
    figure = time_curves(scan, {"mean": curve}, title="mine")
    assert panels(figure) == []
    assert "mine" in texts(figure)
    np.testing.assert_array_equal(drawn_curves(figure)["mean"][1], curve)


def test_the_shaded_frames_are_those_of_the_picture(scan: xr.Dataset) -> None:
    figure = time_curves(scan, {"infarct": scan["lesion_mask"]})
    caption = next(text for text in texts(figure) if "mean of" in text)
    assert " ".join(caption.split()) == "CTP, brain window, W 80 L 40 HU, mean of 2 to 6 s (shaded)"
    shade = curve_axes(figure)[0].patches[0]
    assert (shade.get_x(), shade.get_width()) == (1.5, 5.0)
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), scan["ctp"][2:7, 4].mean("time").clip(0, 80))


def test_impossible_requests(scan: xr.Dataset) -> None:
    mask = scan["lesion_mask"]
    with pytest.raises(UnknownNameError, match="regions: name one or more"):
        time_curves(scan, {})
    with pytest.raises(UnknownNameError, match="'tmax': is no series of this scan, there are ctp"):
        time_curves(scan, {"a": mask}, image="tmax")
    with pytest.raises(UnknownNameError, match="a: is an empty region"):
        time_curves(scan, {"a": mask * 0})
    with pytest.raises(UnknownNameError, match="b: has a curve and is no region, there are a"):
        time_curves(scan, {"a": mask}, curves={"b": scan["ctp"].mean(("z", "y", "x"))})
    with pytest.raises(GeometryError, match="a: is not on the grid of ctp"):
        time_curves(scan, {"a": mask.isel(z=slice(3, 12))})
    with pytest.raises(GeometryError, match=r"a: is no mask \(z, y, x\)"):
        time_curves(scan, {"a": mask.isel(z=5)})
    with pytest.raises(GeometryError, match="a: is no curve over the 12 frames of ctp"):
        time_curves(scan, {"a": scan["ctp"].mean(("z", "y", "x"))[:4]})
    with pytest.raises(GeometryError, match="ctp: has lost the axis y"):
        time_curves(scan.isel(y=3), {"a": mask})


def test_without_matplotlib(scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="plot"):
        time_curves(scan, {"a": scan["lesion_mask"]})


def test_scan_of_a_store(store: Path) -> None:
    scan = isles24_zarr.open_scan(store, "sub-stroke0001")
    figure = scan.isles.plot_time_curves({"infarct": scan["lesion_mask"], "late": scan["tmax"] > 6})
    plain = xr.open_zarr(store / "sub-stroke0001" / "space-ncct").load()
    for name, mask in (("infarct", plain["lesion_mask"] == 1), ("late", plain["tmax"] > 6)):
        expected = plain["ctp"].values[:, mask.values].mean(axis=1)
        np.testing.assert_allclose(drawn_curves(figure)[name][1], expected)
    volume = float((plain["lesion_mask"] == 1).sum()) * abs(np.linalg.det(np.array(plain.attrs["affine"])[:3, :3]))
    assert f"infarct  ({volume / 1000:.1f} mL)" in [text.get_text() for text in figure.legends[0].texts]
