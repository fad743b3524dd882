"""Figures of a cohort: what is drawn, against pandas, scipy, nibabel and plain xarray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import isles24_zarr
from isles24_zarr.errors import MissingExtraError, UnknownNameError
from isles24_zarr.figures import cohort as charts
from isles24_zarr.figures._style import figure_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    grades = rng.integers(0, 7, 60).astype(float)
    volumes = np.exp(rng.normal(1 + grades / 3, 1))
    volumes[::9] = 0
    frame = pd.DataFrame({"mrs_3month": grades, "infarct": volumes, "late": 3 * volumes[::-1]})
    frame.loc[[3, 8], "mrs_3month"] = np.nan
    frame.loc[[8, 11], "infarct"] = np.nan
    return frame


def dots(axes: Axes) -> np.ndarray:
    return np.asarray(axes.collections[0].get_offsets())


# --- outcome ---


def test_every_subject_is_a_dot_at_its_volume_and_grade(table: pd.DataFrame) -> None:
    figure = charts.outcome_by_volume(table, ["infarct", "late"], labels=["final infarct", "Tmax > 6 s"])
    for axes, column, label in zip(figure.axes, ("infarct", "late"), ("final infarct", "Tmax > 6 s"), strict=True):
        whole = table[["mrs_3month", column]].dropna()
        grades, volumes = dots(axes).T
        np.testing.assert_array_equal(volumes, whole[column])
        np.testing.assert_array_equal(np.rint(grades), whole["mrs_3month"])
        assert axes.get_ylabel() == f"{label} [mL]"
        assert axes.get_ylim()[0] < 0
        assert axes.get_ylim()[1] > volumes.max()
        assert axes.get_xlabel() == "modified Rankin Scale after three months (0 to 6)"
        medians = {round(float(np.mean(line.get_xdata()))): line.get_ydata()[0] for line in axes.lines}
        assert medians == whole.groupby("mrs_3month")[column].median().to_dict()
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        counts = whole["mrs_3month"].value_counts()
        assert ticks == [f"{grade}\nn = {counts.get(grade, 0)}" for grade in range(7)]


def test_the_correlation_is_spearmans(table: pd.DataFrame) -> None:
    stats = pytest.importorskip("scipy.stats")
    (axes,) = charts.outcome_by_volume(table, "infarct").axes
    whole = table[["mrs_3month", "infarct"]].dropna()
    rho = stats.spearmanr(whole["mrs_3month"], whole["infarct"]).statistic
    title = axes.get_title(loc="left")
    assert title == f"Spearman's \N{GREEK SMALL LETTER RHO} = {rho:.2f},  n = {len(whole)},  3 without a value"


def test_few_or_equal_values_have_no_correlation() -> None:
    few = pd.DataFrame({"mrs_3month": [1.0, 2.0], "v": [0.0, 5.0]})
    equal = pd.DataFrame({"mrs_3month": [2.0, 2.0, 2.0], "v": [0.0, 5.0, 6.0]})
    for frame in (few, equal):
        (axes,) = charts.outcome_by_volume(frame, "v").axes
        assert axes.get_title(loc="left") == f"n = {len(frame)}"
        axes.figure.canvas.draw()


def test_the_axis_begins_below_the_least_volume() -> None:
    for least, start in ((0.0, -1.0), (0.5, -1.0), (3.0, 0.5), (40.0, 5.0)):
        (axes,) = charts.outcome_by_volume(pd.DataFrame({"mrs_3month": [0.0, 6.0], "v": [least, 90.0]}), "v").axes
        assert start < axes.get_ylim()[0] < least or (least == 0 and axes.get_ylim()[0] < 0)
        assert axes.get_xlim()[0] < -0.4
        assert axes.get_xlim()[1] > 6.4


def test_dots_of_a_grade_do_not_hide_each_other() -> None:
    frame = pd.DataFrame({"mrs_3month": [3.0] * 5, "v": [10.0, 10.1, 10.2, 9.9, 10.0]})
    (axes,) = charts.outcome_by_volume(frame, "v").axes
    assert len(np.unique(dots(axes)[:, 0])) == 5


def test_impossible_outcomes(table: pd.DataFrame) -> None:
    with pytest.raises(UnknownNameError, match="'size': is no column of the table, which has mrs_3month, inf"):
        charts.outcome_by_volume(table, "size")
    with pytest.raises(UnknownNameError, match="'mrs': is no column"):
        charts.outcome_by_volume(table, "late", outcome="mrs")
    with pytest.raises(UnknownNameError, match="name one or more"):
        charts.outcome_by_volume(table, [])
    with pytest.raises(UnknownNameError, match="no subject has both"):
        charts.outcome_by_volume(table.assign(late=np.nan), "late")


# --- what is missing ---


def test_missing_cells_are_those_of_the_store(store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    # as in a release that lacks an image
    node = cohort["phenotype"].to_dataset().load()
    node["available"].loc[{"subject": "sub-stroke0002", "image": "dwi"}] = False
    figure = charts.missingness(charts_tree(cohort, node))
    top, bottom = figure.axes
    plain = xr.open_zarr(store / "phenotype").load()
    names = [text.get_text() for text in top.get_yticklabels()]
    assert set(names) == set(plain.data_vars) - {"available"}
    for name, row in zip(names, np.asarray(top.images[0].get_array()), strict=True):
        values = plain[name].values
        expected = np.isnan(values) if values.dtype.kind == "f" else values == ""
        np.testing.assert_array_equal(row, expected, err_msg=name)
    rows = [text.get_text() for text in bottom.get_yticklabels()]
    missing = np.argwhere(np.asarray(bottom.images[0].get_array()))
    assert [(rows[row], column) for row, column in missing] == [("dwi", 1)]
    assert [text.get_text() for text in bottom.texts] == ["1  (33%)" if name == "dwi" else "0" for name in rows]
    assert [text.get_text() for text in bottom.get_xticklabels()] == ["stroke0001", "stroke0002", "stroke0004"]
    figure.canvas.draw()


def charts_tree(cohort: xr.DataTree, node: xr.Dataset) -> xr.DataTree:
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=cohort.attrs), "/phenotype": node})


def test_of_many_subjects_some_are_named(store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    node = cohort["phenotype"].to_dataset().load().isel(subject=np.resize([0, 1, 2], 149))
    node["subject"] = [f"sub-stroke{number:04d}" for number in range(149)]
    bottom = charts.missingness(charts_tree(cohort, node)).axes[1]
    names = [text.get_text() for text in bottom.get_xticklabels()]
    places = bottom.get_xticks()
    assert 20 < len(names) <= 40
    assert names == [f"stroke{int(place):04d}" for place in places]


def test_a_cohort_without_subjects(store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    with pytest.raises(UnknownNameError, match="has no subject"):
        charts.missingness(cohort.isles.select("age > 200"))


# --- grids ---


@pytest.mark.parametrize("subject", ["sub-stroke0001", "sub-stroke0002", "sub-stroke0004"])
def test_sizes_are_those_of_the_file(release: Path, store: Path, subject: str) -> None:
    row = charts.grid_row(isles24_zarr.open_scan(store, subject))
    image = nib.as_closest_canonical(nib.load(next(release.glob(f"derivatives/{subject}/**/*space-ncct_ctp.nii.gz"))))
    assert [row[axis] for axis in ("x", "y", "z", "frames")] == list(image.shape)
    zooms = nib.affines.voxel_sizes(image.affine)
    np.testing.assert_allclose([row[f"spacing_{axis}"] for axis in "xyz"], zooms, rtol=1e-5)
    assert row["tilt"] == pytest.approx(np.degrees(np.arccos(image.affine[2, 2] / zooms[2])), abs=1e-3)


def test_without_a_series_there_are_no_frames(store: Path) -> None:
    scan = isles24_zarr.open_scan(store, "sub-stroke0001")[["ncct"]]
    assert np.isnan(charts.grid_row(scan)["frames"])


def test_dots_count_subjects_that_share_a_grid() -> None:
    row = {"x": 512, "y": 586, "z": 74, "spacing_x": 0.4, "spacing_z": 2, "frames": 43, "tilt": 12.5}
    rows = [row, row, row | {"y": 512, "z": 101, "spacing_z": 0.8, "frames": np.nan}]
    figure = charts.grid_sizes(pd.DataFrame(rows))
    plane, slices, frames, tilt = figure.axes
    assert dots(plane).tolist() == [[512, 512], [512, 586]]
    assert [text.get_text() for text in plane.texts] == ["1", "2"]
    assert dots(slices).tolist() == [[0.8, 101], [2, 74]]
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in frames.patches] == [(43, 2)]
    assert "(1 without)" in frames.get_xlabel()
    assert sum(bar.get_height() for bar in tilt.patches) == 3
    figure.canvas.draw()


def test_tables_that_are_no_grids() -> None:
    with pytest.raises(UnknownNameError, match="spacing_z, frames, tilt: is no column of the table"):
        charts.grid_sizes(pd.DataFrame({"x": [1], "y": [1], "z": [1], "spacing_x": [1]}))
    names = ["x", "y", "z", "spacing_x", "spacing_z", "frames", "tilt"]
    with pytest.raises(UnknownNameError, match="has no row"):
        charts.grid_sizes(pd.DataFrame(columns=names))


def test_without_matplotlib(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="plot"):
        charts.outcome_by_volume(table, "infarct")
