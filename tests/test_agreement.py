"""How maps agree with others: against scipy, pandas and recorded tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from isles24_zarr import errors
from isles24_zarr.figures import agreement_plot
from isles24_zarr.perfusion import map_agreement, perfusion_agreement, volume_agreement
from tests.test_analysis import head, kinds_of, make_volume, no_masks

pytestmark = pytest.mark.usefixtures("in_threads")

AFFINE = np.diag([2.0, -2.0, 4.0, 1.0])
AFFINE[:3, 3] = (-35, 39, -38)


def maps_of(seed: int) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    tmax, cbf = head(1, AFFINE)
    inside = cbf > 0
    tmax = np.where(inside, np.abs(tmax + rng.normal(0, 2, tmax.shape)), -30)
    cbf = np.where(inside, cbf * rng.lognormal(0, 0.3, cbf.shape), 0)
    cbv = np.where(inside, cbf * rng.lognormal(-3, 0.2, cbf.shape), 0)
    cbv[10, 20, 18] = np.nan
    return xr.Dataset(
        {"tmax": make_volume(tmax, AFFINE), "cbf": make_volume(cbf, AFFINE), "cbv": make_volume(cbv, AFFINE)}
    )


@pytest.mark.parametrize("chunks", [{}, {"z": 3, "y": 11}])
def test_voxels_against_scipy(chunks: dict[str, int]) -> None:
    first, second = maps_of(1), maps_of(2)
    mask = np.random.default_rng(5).random(first["tmax"].shape) < 0.7
    table = map_agreement(first.chunk(chunks) if chunks else first, second.transpose("x", "z", "y"), mask=mask)
    assert table.index.tolist() == ["tmax", "cbf", "cbv"]
    for name in table.index:
        x, y = first[name].values, second[name].values
        known = mask & np.isfinite(x) & np.isfinite(y) & ((x > 0) & (y > 0) if name == "tmax" else (x != 0) & (y != 0))
        row = table.loc[name]
        assert row["voxels"] == known.sum()
        assert row["pearson"] == pytest.approx(stats.pearsonr(x[known], y[known])[0])
        assert row["spearman"] == pytest.approx(pd.Series(x[known]).corr(pd.Series(y[known]), method="spearman"))
        assert row["bias"] == pytest.approx((x[known] - y[known]).mean())
        assert (row["median"], row["median_reference"]) == (np.median(x[known]), np.median(y[known]))
    assert np.isnan(map_agreement(first, second, mask=mask & False).loc["tmax", "pearson"])
    with pytest.raises(errors.UnknownNameError, match="no map that both have"):
        map_agreement(first, second[["cbf"]].rename(cbf="flow"))
    with pytest.raises(errors.GeometryError, match="not on the grid"):
        map_agreement(first, second.assign_coords(x=second["x"] + 5))


def test_lesions_of_both() -> None:
    first, second = maps_of(1), maps_of(2)
    row = perfusion_agreement(first, second, mask=first["cbf"] > 0)
    slow = [np.where(first["cbf"].values > 0, each["tmax"].values, 0) > 6 for each in (first, second)]
    ml = 16 / 1000
    assert row["hypoperfusion"] == pytest.approx(slow[0].sum() * ml)
    assert row["hypoperfusion_reference"] == pytest.approx(slow[1].sum() * ml)
    assert row["hypoperfusion_dice"] == pytest.approx(2 * (slow[0] & slow[1]).sum() / (slow[0].sum() + slow[1].sum()))
    assert 0 < row["core_dice"] < 1
    assert row["core"] < row["hypoperfusion"]
    assert row["tmax_pearson"] == pytest.approx(map_agreement(first, second).loc["tmax", "pearson"], abs=0.02)
    same = perfusion_agreement(first, first)
    assert same["hypoperfusion_dice"] == same["core_dice"] == 1
    with pytest.raises(errors.UnknownNameError, match="no cbf"):
        perfusion_agreement(first, second[["tmax"]])


@pytest.mark.parametrize("compare", [map_agreement, perfusion_agreement])
def test_where_is_a_mask_as_others_are(compare: Any) -> None:
    first, second = maps_of(1), maps_of(2)
    mask = np.random.default_rng(5).random(first["tmax"].shape) < 0.7

    def same(found: Any, wanted: Any) -> bool:
        return bool(found.equals(wanted)) if compare is map_agreement else found == wanted

    wanted = compare(first, second, mask=mask)
    assert not same(compare(first, second), wanted)
    for each in (*kinds_of(mask), first["tmax"].copy(data=mask).transpose("y", "x", "z")):
        assert same(compare(first, second, mask=each), wanted)
    with pytest.warns(errors.SoftMaskWarning, match=r"0\.5 and more") as told:
        assert same(compare(first, second, mask=0.05 + 0.9 * mask), wanted)
    assert [each.filename for each in told] == [__file__]
    for each in no_masks(mask):
        with pytest.raises(errors.MaskError):
            compare(first, second, mask=each)


def test_a_plain_mask_has_the_axes_of_the_maps() -> None:
    """Of the first ones, whatever order those have that they are compared with: cubes tell nothing by their shape."""
    cube = {"z": slice(4, 16), "y": slice(14, 26), "x": slice(12, 24)}
    first, second = maps_of(1).isel(cube), maps_of(2).isel(cube)
    mask = np.random.default_rng(5).random((12, 12, 12)) < 0.5
    turned = first.transpose("x", "y", "z")
    wanted, found = perfusion_agreement(first, second, mask=mask), perfusion_agreement(turned, second, mask=mask.T)
    assert found == pytest.approx(wanted)
    table = map_agreement(turned, second, mask=mask.T)
    pd.testing.assert_frame_equal(table, map_agreement(first, second, mask=mask))


def test_what_stands_for_no_value_makes_no_difference() -> None:
    """Other software leaves 0 where this leaves NaN."""
    own, other = maps_of(1), maps_of(2)
    part = own.where(own["tmax"].z < 0)
    row = perfusion_agreement(part, other)
    slow = (other["tmax"] > 6) & (own["tmax"] > 0) & (own["tmax"].z < 0)
    assert row["hypoperfusion_reference"] == pytest.approx(int(slow.sum()) * 16 / 1000)
    for nothing in (part.fillna(0), part.fillna({"tmax": -30, "cbf": 0, "cbv": 0})):
        assert perfusion_agreement(nothing, other) == row


SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


@pytest.mark.parametrize("raters", [(0, 1), (0, 3), (2, 3)])
def test_volumes_by_the_analysis_of_variance(raters: tuple[int, int]) -> None:
    """Mean squares as Shrout and Fleiss, on their own table, tell what ICC(2,1) of two raters is."""
    pairs = SHROUT_FLEISS[:, raters]
    n, k = pairs.shape
    grand = pairs.mean()
    total = ((pairs - grand) ** 2).sum()
    rows, columns = k * ((pairs.mean(1) - grand) ** 2).sum(), n * ((pairs.mean(0) - grand) ** 2).sum()
    bms, jms, ems = rows / (n - 1), columns / (k - 1), (total - rows - columns) / ((n - 1) * (k - 1))
    found = volume_agreement(*pairs.T)
    assert found.icc == pytest.approx((bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n))
    difference = pairs[:, 0] - pairs[:, 1]
    assert found.bias == pytest.approx(difference.mean())
    assert (found.lower, found.upper) == pytest.approx(
        stats.norm.interval(0.95, difference.mean(), difference.std(ddof=1)), rel=1e-3
    )
    assert found.pearson == pytest.approx(stats.pearsonr(*pairs.T)[0])


def test_volumes_with_gaps() -> None:
    found = volume_agreement([1, np.nan, 3, 4.0], [1, 2, np.inf, 6.0])
    assert (found.subjects, found.bias) == (2, -1)
    assert np.isnan(found.icc)
    assert volume_agreement([1.0, 2, 3], [1.0, 2, 3]).icc == 1
    assert np.isnan(volume_agreement([np.nan], [1.0]).bias)
    with pytest.raises(errors.UnknownNameError, match="same subjects"):
        volume_agreement([1, 2], [1, 2, 3])


def test_the_figure_says_what_the_numbers_are() -> None:
    table = pd.DataFrame({"core": [3.0, 20.0, 41.0, np.nan], "core_reference": [5.0, 18.0, 55.0, 1.0]})
    figure = agreement_plot(table, "core")
    left, right = figure.axes
    agreement = volume_agreement(table["core"], table["core_reference"])
    assert left.get_title(loc="left") == f"3 subjects, ICC {agreement.icc:.2f}"
    assert f"bias {agreement.bias:.1f}" in right.get_title(loc="left")
    dots = np.asarray(right.collections[0].get_offsets())
    np.testing.assert_allclose(dots, [[4, -2], [19, 2], [48, -14]])
    np.testing.assert_allclose(np.asarray(left.collections[0].get_offsets()), [[5, 3], [18, 20], [55, 41]])
    with pytest.raises(errors.UnknownNameError, match="'penumbra'"):
        agreement_plot(table, "penumbra")
    with pytest.raises(errors.UnknownNameError, match="fewer than two"):
        agreement_plot(table.iloc[2:], "core")
