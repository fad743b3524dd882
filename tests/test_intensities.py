"""Means and percentiles of a cohort against NumPy on all voxels."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.training._selection import SHIFTS, Counts, Selection, counts_of, joined
from tests.damage import spoil_chunks

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from distributed import Client

FILES = {
    "ncct": "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    "tmax": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_tmax.nii.gz",
    "ctp": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_ctp.nii.gz",
    "lesion_mask": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
}
SHARES = (0, 0.5, 25, 50, 99.5, 100)
NAMES = ["percentile_00_0", "percentile_00_5", "percentile_25_0", "median", "percentile_99_5", "percentile_100_0"]


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


def voxels(release: Path, cohort: xr.DataTree, name: str, masked: bool) -> np.ndarray[Any, Any]:
    """All voxels of the cohort, by nibabel."""
    parts = []
    for subject in cohort.isles.subjects:
        image = np.asarray(nib.load(release / FILES[name].format(subject)).dataobj, dtype=np.float64)
        image = image[..., 2] if image.ndim == 4 else image
        if masked:
            mask = np.asarray(nib.load(release / FILES["lesion_mask"].format(subject)).dataobj)
            image = image[mask >= 0.5]
        parts.append(image.ravel())
    return np.concatenate(parts)


@pytest.mark.parametrize("masked", [False, True])
def test_numbers_are_those_of_all_voxels(release: Path, cohort: xr.DataTree, masked: bool) -> None:
    options: dict[str, Any] = {"mask": "lesion_mask", "label_threshold": 0.5} if masked else {}
    found = cohort.isles.intensities(["ncct", "tmax", "ctp[2]"], percentiles=SHARES, progress=False, **options)
    for name in ("ncct", "tmax", "ctp[2]"):
        values = voxels(release, cohort, name.removesuffix("[2]"), masked)
        row, finite = found.loc[name], values[np.isfinite(values)]
        assert (row["subjects"], row["voxels"]) == (len(cohort.isles.subjects), finite.size)
        assert row["nonfinite"] == values.size - finite.size
        np.testing.assert_allclose(row[["mean", "sd"]].tolist(), [finite.mean(), finite.std()], rtol=1e-11)
        assert (row["min"], row["max"]) == (finite.min(), finite.max())
        np.testing.assert_allclose(row[NAMES].tolist(), np.percentile(finite, SHARES), rtol=1e-12)


def test_voxels_without_a_computed_value_are_told_and_left_out(release: Path, cohort: xr.DataTree) -> None:
    every = cohort.isles.intensities(["tmax", "ncct"], progress=False)
    found = cohort.isles.intensities(["tmax", "ncct"], computed=True, progress=False)
    values = voxels(release, cohort, "tmax", masked=False)
    assert every.loc["tmax", "uncomputed"] == found.loc["tmax", "uncomputed"] == np.count_nonzero(values <= 0) > 0
    assert found.loc["tmax", "voxels"] == np.count_nonzero(values > 0)
    np.testing.assert_allclose(found.loc["tmax", "mean"], values[values > 0].mean(), rtol=1e-11)
    assert found.loc["tmax", "min"] > 0 > every.loc["tmax", "min"]
    assert found.loc["ncct"].equals(every.loc["ncct"])


def test_the_same_on_processes(cohort: xr.DataTree, client: Client) -> None:
    images = {"ct": "ncct", "late": lambda scan: scan["tmax"].where(scan["tmax"] > 6)}
    here = cohort.isles.intensities(images, progress=False)
    there = cohort.isles.intensities(images, progress=False, client=client)
    assert there.equals(here)
    assert here.loc["late", "min"] > 6
    assert here.loc["late", "nonfinite"] > 0 == here.loc["ct", "nonfinite"]


def test_the_brain_alone(cohort: xr.DataTree) -> None:
    every = cohort.isles.intensities("ncct", progress=False)
    brain = cohort.isles.intensities("ncct", mask="brain", progress=False)
    expected = sum(int(cohort.isles.scan(name).isles.brain_mask().sum()) for name in cohort.isles.subjects)
    assert brain.loc["ncct", "voxels"] == expected < every.loc["ncct", "voxels"]
    assert 20 < brain.loc["ncct", "median"] < 50 > 0 > every.loc["ncct", "median"]


def test_who_lacks_an_image_is_told_of(cohort: xr.DataTree, store: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.zarr"
    shutil.copytree(store, spoiled)
    assert spoil_chunks(spoiled / "sub-stroke0002/space-ncct/ncct", but=set())
    with pytest.raises(errors.StoreDamageError, match="sub-stroke0002"):
        isles24_zarr.open_cohort(spoiled).isles.intensities("ncct", progress=False)
    with pytest.raises(errors.UnknownNameError, match=r"does not exist, .* has .* frames"):
        cohort.isles.intensities("ctp[999]", progress=False)
    skipped = cohort.isles.intensities("ctp[999]", missing="skip", progress=False)
    assert skipped.attrs["skipped"].keys() == set(cohort.isles.subjects)
    assert skipped.loc["ctp[999]", ["subjects", "voxels"]].tolist() == [0, 0]
    assert np.isnan(skipped.loc["ctp[999]", "median"])


@given(
    st.lists(hnp.arrays(st.sampled_from(["f4", "f8", "i2", "u1", ">i4"]), st.integers(0, 30)), min_size=1, max_size=4),
    st.lists(st.floats(0, 100), min_size=1, max_size=3),
)
def test_selection_is_exact(parts: list[np.ndarray[Any, Any]], shares: list[float]) -> None:
    # of larger numbers the squares overflow, as NumPy's do
    parts = [np.where(np.isfinite(part) & (abs(part.astype("f8")) > 1e150), 1, part) for part in parts]

    def counted(shift: int, begins: Any = None) -> Counts:
        total = Counts()
        for part in parts:
            total = joined(total, counts_of(part, shift, begins))
        return total

    values = np.concatenate([part.astype(np.float64) for part in parts])
    values = np.sort(values[np.isfinite(values)])
    selection = Selection.of(counted(SHIFTS[0]), shares)
    for shift in SHIFTS[1:]:
        selection = selection.narrowed(counted(shift, selection.begins), shift)
    places = [(values.size - 1) * share / 100 for share in shares if values.size]
    expected = [values[int(f(place))] for f in (np.floor, np.ceil) for place in places]
    np.testing.assert_array_equal(selection.values(), expected)
