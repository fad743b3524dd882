"""The challenge's metrics against panoptica, against what panoptica said once, and against masks drawn by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.analysis.metrics import challenge_metrics, lesion_components
from tests.test_analysis import kinds_of, no_masks

SHAPE = (6, 9, 8)


def blobs(seed: int, shape: tuple[int, int, int] = (12, 16, 14)) -> tuple[np.ndarray, np.ndarray]:
    """Return a reference with a few boxes, and a prediction that misses, shifts, grows and invents some."""
    rng = np.random.default_rng(seed)
    reference, prediction = np.zeros((2, *shape), np.uint8)
    for _ in range(rng.integers(1, 8)):
        size = rng.integers(1, 6, 3)
        corner = rng.integers(0, np.array(shape) - size)
        shift = rng.integers(-1, 2, 3) * rng.integers(0, 2, 3)
        fate = rng.random()
        if fate < 0.85:
            reference[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = 1
        if fate > 0.2:
            moved = np.clip(corner + shift, 0, None)
            prediction[tuple(slice(a, a + n) for a, n in zip(moved, size, strict=True))] = 1
    return reference, prediction


THRESHOLDS = (0.1, 0.2, 0.35, 0.5, 0.8)


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of many small lesions, of which several overlap with several."""
    rng = np.random.default_rng(seed)
    first = rng.random((12, 16, 14)) < 0.06
    return first, first ^ (rng.random(first.shape) < 0.03)


def pairs_of_masks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    box, nothing = np.zeros((2, 12, 16, 14), np.uint8)
    box[1:3, 2:5, 2:4] = 1
    edges = [(box, nothing), (nothing, box), (nothing, nothing)]
    cases = [*map(blobs, range(30)), *map(random_masks, range(20)), *edges]
    return [reference for reference, _ in cases], [prediction for _, prediction in cases]


def test_as_panoptica_says(tmp_path: Path) -> None:
    """Asked now, where ISLES24_ZARR_PANOPTICA names a Python that has it."""
    python = os.environ.get("ISLES24_ZARR_PANOPTICA")
    if not python:
        pytest.skip("ISLES24_ZARR_PANOPTICA names no Python that has panoptica")
    references, predictions = pairs_of_masks()
    np.savez(tmp_path / "pairs.npz", reference=references, prediction=predictions, thresholds=THRESHOLDS)
    script = Path(__file__).parent / "panoptica_oracle.py"
    told = subprocess.run([python, script, tmp_path / "pairs.npz"], check=True, capture_output=True, text=True)
    for threshold, numbers in zip(THRESHOLDS, json.loads(told.stdout), strict=True):
        for reference, prediction, wanted in zip(references, predictions, numbers, strict=True):
            found = challenge_metrics(prediction, reference, 8.0, matching_threshold=threshold)
            assert found.matching_threshold == threshold
            assert (found.lesion_f1, found.absolute_lesion_count_difference, found.dice) == pytest.approx(wanted)


# seed, difference of lesion counts, Dice, F1 by threshold: by panoptica 2.1.7
RECORDED = [
    (0, 2, 0.5525672371638142, (0.75, 0.75, 0.5, 0.0, 0.0)),
    (1, 1, 0.6666666666666666, (0.8, 0.8, 0.8, 0.8, 0.4)),
    (2, 0, 0.5462962962962963, (0.5, 0.5, 0.0, 0.0, 0.0)),
    (3, 3, 0.6612903225806451, (0.5714285714285714, 0.5714285714285714, 0.0, 0.0, 0.0)),
    (4, 1, 0.22145328719723184, (0.4, 0.4, 0.4, 0.4, 0.4)),
    (
        5,
        2,
        0.6716417910447762,
        (0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 0.3333333333333333),
    ),
    (6, 1, 0.4153846153846154, (0.8, 0.8, 0.4, 0.4, 0.4)),
    (7, 1, 0.4171322160148976, (0.5714285714285714, 0.5714285714285714, 0.0, 0.0, 0.0)),
    (8, 1, 0.52, (0.8571428571428571, 0.8571428571428571, 0.5714285714285714, 0.2857142857142857, 0.0)),
    (9, 0, 0.183206106870229, (1.0, 0.0, 0.0, 0.0, 0.0)),
    (
        10,
        1,
        0.3333333333333333,
        (0.4444444444444444, 0.4444444444444444, 0.2222222222222222, 0.2222222222222222, 0.2222222222222222),
    ),
    (11, 1, 0.0, (0.0, 0.0, 0.0, 0.0, 0.0)),
    (12, 0, 0.5298013245033113, (0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 0.0)),
    (13, 0, 0.4943310657596372, (0.6666666666666666, 0.6666666666666666, 0.3333333333333333, 0.0, 0.0)),
    (14, 0, 0.7272727272727273, (1.0, 1.0, 0.5, 0.5, 0.5)),
    (15, 0, 0.46846846846846846, (0.5, 0.5, 0.5, 0.0, 0.0)),
    (16, 0, 0.6176470588235294, (1.0, 1.0, 1.0, 0.0, 0.0)),
    (
        17,
        0,
        0.585635359116022,
        (0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 0.3333333333333333, 0.3333333333333333),
    ),
    (18, 0, 0.4344262295081967, (1.0, 1.0, 0.3333333333333333, 0.0, 0.0)),
    (19, 1, 0.5064935064935064, (0.8571428571428571, 0.8571428571428571, 0.5714285714285714, 0.2857142857142857, 0.0)),
]


@pytest.mark.parametrize(("seed", "count", "dice", "f1"), RECORDED)
def test_as_panoptica_has_said(seed: int, count: int, dice: float, f1: tuple[float, ...]) -> None:
    reference, prediction = blobs(seed)
    for threshold, wanted in zip(THRESHOLDS, f1, strict=True):
        found = challenge_metrics(prediction, reference, 8.0, matching_threshold=threshold)
        assert (found.absolute_lesion_count_difference, found.dice) == pytest.approx((count, dice))
        assert found.lesion_f1 == pytest.approx(wanted)
    # the challenge's own, since December 2025
    assert challenge_metrics(prediction, reference, 8.0).lesion_f1 == pytest.approx(f1[1])


@pytest.mark.parametrize(("truth", "guess", "wanted"), [(0, 0, (1, 0, 1)), (1, 0, (0, 1, 0)), (0, 1, (0, 1, 0))])
def test_as_panoptica_has_said_of_empty_masks(truth: int, guess: int, wanted: tuple[int, int, int]) -> None:
    box = np.zeros(SHAPE, np.uint8)
    box[1:3, 2:5, 2:4] = 1
    found = challenge_metrics(guess * box, truth * box, 8.0)
    assert (found.lesion_f1, found.absolute_lesion_count_difference, found.dice) == wanted


# --- by hand ---


def test_lesions_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    labels, count = lesion_components(mask)
    assert count == 1
    np.testing.assert_array_equal(labels != 0, mask)
    mask[1, 1, 1] = False
    assert lesion_components(mask)[1] == 2


@pytest.mark.parametrize(("length", "threshold", "f1"), [(4, 0.5, 1.0), (3, 0.5, 0.0), (2, 0.25, 1.0), (1, 0.2, 0.0)])
def test_the_threshold_itself_is_a_match(length: int, threshold: float, f1: float) -> None:
    """A lesion of 8 voxels of which some are found: an IoU of just as much counts."""
    reference, prediction = np.zeros((2, *SHAPE), bool)
    reference[2, 3, :8] = True
    prediction[2, 3, :length] = True
    found = challenge_metrics(prediction, reference, 1.0, matching_threshold=threshold)
    assert (found.lesion_f1, found.matching_threshold) == (f1, threshold)


def test_a_lesion_is_matched_once_and_with_the_best() -> None:
    reference, prediction = np.zeros((2, *SHAPE), bool)
    reference[2, 3, :8] = True
    prediction[2, 3, :3] = prediction[2, 3, 4:8] = True
    found = challenge_metrics(prediction, reference, 1.0)
    assert found.lesion_f1 == pytest.approx(2 * 1 / (1 + 2))


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, np.nan])
def test_impossible_thresholds(threshold: float) -> None:
    mask = np.ones(SHAPE, bool)
    with pytest.raises(errors.UnknownNameError, match="threshold"):
        challenge_metrics(mask, mask, 1.0, matching_threshold=threshold)
    with pytest.raises(errors.UnknownNameError, match="threshold"):
        challenge_metrics(mask, mask, 1.0, threshold=threshold)


def test_soft_masks_are_cut_at_a_threshold_that_is_told() -> None:
    reference = np.zeros(SHAPE)
    reference[2, 3:5, :8] = 1
    prediction = np.where(reference > 0, np.linspace(0.1, 1, 8), 0.0).astype(np.float32)
    with pytest.warns(errors.SoftMaskWarning, match=r"0\.5 and more"):
        found = challenge_metrics(prediction, reference, 1.0)
    assert found.mask_threshold == 0.5
    assert found.dice == challenge_metrics(prediction >= 0.5, reference, 1.0).dice
    lower = challenge_metrics(prediction, reference, 1.0, threshold=0.2)
    assert lower.mask_threshold == 0.2
    assert lower.dice == challenge_metrics(prediction >= 0.2, reference, 1.0).dice
    assert challenge_metrics(reference, reference, 1.0).mask_threshold is None


def test_every_number_by_hand() -> None:
    reference, prediction = np.zeros((2, *SHAPE), np.uint16)
    reference[0, 0, 0:4] = 1  # found, 3 of 4
    reference[3, 4, 0:2] = 1  # missed
    prediction[0, 0, 1:4] = 1
    prediction[5, 8, 0:5] = 1  # not there
    prediction[5, 0, 0] = 1  # nor is this
    found = challenge_metrics(prediction, reference, 250.0)
    assert found.dice == pytest.approx(2 * 3 / (6 + 9))
    assert found.absolute_volume_difference == pytest.approx(3 * 0.25)
    assert found.absolute_lesion_count_difference == 1
    assert found.lesion_f1 == pytest.approx(1 / (1 + 0.5 * 2 + 0.5 * 1))


masks = arrays(np.uint8, (4, 5, 6), elements=st.sampled_from([0, 0, 0, 1]))


@given(masks)
def test_a_mask_agrees_with_itself(mask: np.ndarray) -> None:
    found = challenge_metrics(mask, mask, 2.0)
    assert (found.dice, found.lesion_f1) == (1, 1)
    assert (found.absolute_volume_difference, found.absolute_lesion_count_difference) == (0, 0)


@given(masks, masks, st.sampled_from([0, 1, 2]))
def test_neither_order_nor_flips_nor_padding_matter(first: np.ndarray, second: np.ndarray, axis: int) -> None:
    found = challenge_metrics(first, second, 2.0)
    assert challenge_metrics(second, first, 2.0) == found
    assert challenge_metrics(np.flip(first, axis), np.flip(second, axis), 2.0) == found
    assert challenge_metrics(np.pad(first, 3), np.pad(second, 3), 2.0) == found
    assert 0 <= found.dice <= 1
    assert 0 <= found.lesion_f1 <= 1


@given(masks, masks)
def test_lesions_as_a_flood_finds_them(first: np.ndarray, second: np.ndarray) -> None:
    ours, theirs = flooded(first), flooded(second)
    matches = sum(len(a & b) / len(a | b) >= 0.5 for a in ours for b in theirs)
    # from a half on no lesion has two partners, so that there is nothing to choose from
    found = challenge_metrics(first, second, 1.0, matching_threshold=0.5)
    assert found.absolute_lesion_count_difference == abs(len(ours) - len(theirs))
    if ours or theirs:
        assert found.lesion_f1 == pytest.approx(2 * matches / (len(ours) + len(theirs)))


def flooded(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Return lesions as sets of voxels, by walking from neighbour to neighbour."""
    left = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    lesions = []
    while left:
        reached, frontier = set(), [left.pop()]
        while frontier:
            voxel = frontier.pop()
            reached.add(voxel)
            near = {other for other in left if max(abs(a - b) for a, b in zip(voxel, other, strict=True)) == 1}
            left -= near
            frontier += near
        lesions.append(reached)
    return lesions


# --- on scans ---


def test_a_prediction_of_a_scan(store: Path, release: Path) -> None:
    scan = isles24_zarr.open_scan(store, "sub-stroke0001")
    folder = release / "derivatives/sub-stroke0001"
    lesion = nib.load(folder / "ses-02/sub-stroke0001_ses-02_space-ncct_lesion-msk.nii.gz")
    tmax = nib.load(folder / "ses-01/perfusion-maps/sub-stroke0001_ses-01_space-ncct_tmax.nii.gz")
    true, guess = np.asarray(lesion.dataobj) != 0, np.asarray(tmax.dataobj) > 9
    found = (scan["tmax"] > 9).isles.challenge_metrics(scan["lesion_mask"])
    ml = abs(np.linalg.det(lesion.affine[:3, :3])) / 1000
    assert found.dice == pytest.approx(2 * (true & guess).sum() / (true.sum() + guess.sum()))
    assert found.absolute_volume_difference == pytest.approx(abs(int(true.sum()) - int(guess.sum())) * ml)
    loaded = scan.load()
    assert (loaded["tmax"] > 9).isles.challenge_metrics(loaded["lesion_mask"].values) == found
    assert challenge_metrics((loaded["tmax"] > 9).values, loaded["lesion_mask"]) == found
    assert challenge_metrics(loaded["tmax"].transpose("x", "z", "y") > 9, loaded["lesion_mask"]) == found


def grid_scan(values: Any, *, origin: float = 0.0, step: float = 2.0) -> xr.DataArray:
    coords = {
        name: xr.Variable(name, origin + step * np.arange(size), {"direction": np.eye(3)[axis], "spacing": step})
        for axis, (name, size) in enumerate(zip("xyz", np.shape(values)[::-1], strict=True))
    }
    return xr.DataArray(values, dims=("z", "y", "x"), coords=coords, name="mask")


def test_blocks_do_not_show() -> None:
    reference, prediction = blobs(3)
    wanted = challenge_metrics(prediction, reference, 8.0)
    on_dask = [grid_scan(da.from_array(mask, chunks=(5, 7, 3))) for mask in (prediction, reference)]
    assert dataclasses.asdict(challenge_metrics(*on_dask)) == pytest.approx(dataclasses.asdict(wanted))


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (np.full(SHAPE, 1.5), "values up to 1.5, which are no labels"),
        (np.full(SHAPE, np.nan), "not finite"),
        (np.full(SHAPE, 2), "other labels than 0 and 1"),
        (np.full(SHAPE, -1), "negative"),
        (np.full(SHAPE, "yes"), "of type"),
    ],
)
def test_what_is_no_mask(prediction: np.ndarray, words: str) -> None:
    with pytest.raises(errors.MaskError, match=words):
        challenge_metrics(prediction, np.zeros(SHAPE), 1.0)


def test_masks_on_different_grids() -> None:
    mask = np.zeros(SHAPE, bool)
    for other in (grid_scan(mask, origin=1.0), grid_scan(mask, step=2.2), grid_scan(mask[:5]), mask[:5]):
        with pytest.raises(errors.GeometryError):
            challenge_metrics(other, grid_scan(mask))
    with pytest.raises(errors.GeometryError, match="give it in mm"):
        challenge_metrics(mask, mask)
    with pytest.raises(errors.GeometryError, match="z, y and x"):
        challenge_metrics(mask[0], mask[0], 1.0)


def test_nothing_outside_of_the_brain_counts() -> None:
    rng = np.random.default_rng(4)
    prediction, reference, brain = (rng.random(SHAPE) < part for part in (0.1, 0.1, 0.6))
    found = challenge_metrics(prediction, reference, 2.0, brain=brain)
    assert found == challenge_metrics(prediction & brain, reference & brain, 2.0)
    assert found != challenge_metrics(prediction, reference, 2.0)
    mask, other = grid_scan(prediction), grid_scan(brain)
    assert (
        mask.isles.challenge_metrics(grid_scan(reference), brain=other.transpose("x", "z", "y"), voxel_volume=2.0)
        == found
    )
    assert challenge_metrics(prediction, reference, 2.0, brain=brain & False).dice == 1
    with pytest.raises(errors.GeometryError):
        challenge_metrics(mask, grid_scan(reference), brain=grid_scan(brain, origin=1.0))
    for each in kinds_of(brain):
        assert challenge_metrics(prediction, reference, 2.0, brain=each) == found
    with pytest.warns(errors.SoftMaskWarning, match=r"brain .*0\.5 and more") as told:
        soft = challenge_metrics(prediction, reference, 2.0, brain=0.05 + 0.9 * brain)
    assert [each.filename for each in told] == [__file__]
    assert soft == dataclasses.replace(found, mask_threshold=0.5)
    assert challenge_metrics(prediction, reference, 2.0, brain=0.4 * brain, threshold=0.3).dice == found.dice
    for each in no_masks(brain):
        with pytest.raises(errors.MaskError, match="brain"):
            challenge_metrics(prediction, reference, 2.0, brain=each)


def test_plain_masks_have_the_axes_of_the_one_that_has_a_grid() -> None:
    prediction, reference, brain = np.random.default_rng(4).random((3, 9, 9, 9)) < 0.3
    wanted = challenge_metrics(prediction, reference, 8.0, brain=brain)
    turned = grid_scan(reference).transpose("x", "y", "z")
    assert challenge_metrics(prediction.T, turned, 8.0, brain=brain.T) == wanted
    assert wanted.dice == pytest.approx(
        2 * (prediction & reference & brain).sum() / ((prediction & brain).sum() + (reference & brain).sum())
    )
