"""Geometry against nibabel: real voxels are looked up to prove that arrays and affines agree."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isles24_zarr.geometry.grid import (
    Grid,
    Orientation,
    canonical_from_file,
    canonical_grid,
    canonical_orientation,
    corner_displacement,
    file_from_canonical,
    grid_from_coordinates,
    same_grid,
    voxel_from_world,
    world_from_voxel,
)

SHAPE = (3, 4, 5)
ALL_48 = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1.0, -1.0), repeat=3)
]


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Axis order and signs, sizes, a rotation and a shear, an origin: whatever a scanner or a registration gives."""
    axes, signs = draw(st.sampled_from(ALL_48))
    sizes = draw(st.tuples(*[st.floats(0.05, 20)] * 3))
    angles = draw(st.tuples(*[st.floats(-0.6, 0.6)] * 3))
    shears = draw(st.tuples(*[st.floats(-0.2, 0.2)] * 3))
    rotation = nib.eulerangles.euler2mat(*angles)
    shear = np.array([[1, shears[0], shears[1]], [0, 1, shears[2]], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ shear @ np.diag(sizes) @ (np.eye(3)[:, axes] * signs)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def assert_every_voxel_where_nibabel_has_it(affine: np.ndarray) -> None:
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE), affine)
    orientation = canonical_orientation(affine)
    grid = canonical_grid(Grid(shape=SHAPE, affine=affine), orientation)
    canonical = canonical_from_file(np.ascontiguousarray(np.asarray(image.dataobj).T), orientation)
    coordinates = grid.coordinates()
    for z, y, x in np.ndindex(canonical.shape):
        label = np.array([coordinates["x"][x], coordinates["y"][y], coordinates["z"][z]])
        i, j, k = np.argwhere(np.asarray(image.dataobj) == canonical[z, y, x])[0]
        wanted = nib.affines.apply_affine(affine, (i, j, k))
        np.testing.assert_allclose(grid.direction @ label, wanted, atol=1e-9)
        np.testing.assert_allclose(world_from_voxel(grid.affine, (x, y, z)), wanted, atol=1e-9)


@pytest.mark.parametrize(("axes", "signs"), ALL_48)
def test_all_48_axis_orders_and_signs(axes: tuple[int, int, int], signs: tuple[float, float, float]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.5, 0.7, 2.0])[:, axes] * signs
    affine[:3, 3] = 10, -20, 30
    assert_every_voxel_where_nibabel_has_it(affine)
    grid = canonical_grid(Grid(shape=SHAPE, affine=affine), canonical_orientation(affine))
    assert grid.axis_codes == "RAS"
    assert np.array_equal(grid.direction, np.eye(3))  # to the last bit: the coordinates are those of the scanner


@given(affines())
def test_oblique_and_sheared_grids(affine: np.ndarray) -> None:
    assert_every_voxel_where_nibabel_has_it(affine)


@given(affines())
def test_canonical_is_what_nibabel_calls_closest(affine: np.ndarray) -> None:
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE), affine)
    closest = nib.as_closest_canonical(image)
    orientation = canonical_orientation(affine)
    ours = canonical_from_file(np.asarray(image.dataobj).T, orientation)
    np.testing.assert_array_equal(ours.T, np.asarray(closest.dataobj))
    np.testing.assert_allclose(
        canonical_grid(Grid(shape=SHAPE, affine=affine), orientation).affine, closest.affine, atol=1e-9
    )


@given(affines())
def test_coordinates_ascend_by_the_voxel_size(affine: np.ndarray) -> None:
    grid = canonical_grid(Grid(shape=SHAPE, affine=affine), canonical_orientation(affine))
    sizes = nib.affines.voxel_sizes(grid.affine)
    for size, values in zip(sizes, grid.coordinates().values(), strict=True):
        np.testing.assert_allclose(np.diff(values), size, rtol=1e-9)


@given(
    st.sampled_from(ALL_48),
    hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=5, max_side=4)),
)
def test_orientation_is_undone_exactly(order: tuple[tuple[int, ...], tuple[float, ...]], block: np.ndarray) -> None:
    axes, signs = order
    orientation = Orientation(axes=axes, flips=tuple(sign < 0 for sign in signs))
    back = file_from_canonical(canonical_from_file(block, orientation), orientation)
    np.testing.assert_array_equal(back, block)
    assert np.shares_memory(canonical_from_file(block, orientation), block)


@given(affines(), hnp.arrays(np.float64, (6, 3), elements=st.floats(-200, 200)))
def test_voxel_and_world_are_inverse(affine: np.ndarray, positions: np.ndarray) -> None:
    voxels = voxel_from_world(affine, positions)
    np.testing.assert_allclose(nib.affines.apply_affine(affine, voxels), positions, atol=1e-6)


@given(affines(), st.tuples(*[st.integers(0, 1)] * 3), st.tuples(*[st.sampled_from([-2, -1, 1, 2])] * 3))
def test_grid_of_what_slicing_left(
    affine: np.ndarray, starts: tuple[int, int, int], steps: tuple[int, int, int]
) -> None:
    grid = Grid(shape=(7, 8, 9), affine=affine)
    slices = [slice(s if step > 0 else -1 - s, None, step) for s, step in zip(starts, steps, strict=True)]
    wanted = nib.Nifti1Image(np.zeros(grid.shape, np.uint8), affine)
    first = [range(n)[cut][0] for n, cut in zip(grid.shape, slices, strict=True)]
    moved = np.eye(4)
    moved[:3, :3] = np.diag(steps)
    moved[:3, 3] = first
    left = {name: values[cut] for (name, values), cut in zip(grid.coordinates().items(), slices, strict=True)}
    found = grid_from_coordinates(left, direction=grid.direction, spacing=grid.spacing)
    np.testing.assert_allclose(found.affine, wanted.affine @ moved, atol=1e-9)


def test_one_plane_keeps_its_thickness() -> None:
    grid = Grid(shape=(4, 4, 4), affine=np.diag([0.5, 0.5, 2.0, 1.0]))
    coordinates = {**grid.coordinates(), "z": grid.coordinates()["z"][2]}
    assert grid_from_coordinates(coordinates, direction=np.eye(3), spacing=grid.spacing).spacing == (0.5, 0.5, 2.0)


def test_uneven_coordinates_have_no_grid() -> None:
    with pytest.raises(ValueError, match="not evenly spaced"):
        grid_from_coordinates({"x": [0, 1, 3], "y": 0, "z": 0}, direction=np.eye(3), spacing=(1, 1, 1))


@pytest.mark.parametrize(
    ("shift", "same"),
    [(0.0, True), (0.04, True), (0.06, False), (-0.06, False)],
)
def test_same_grid_within_a_tenth_of_the_smallest_voxel_size(shift: float, *, same: bool) -> None:
    reference = Grid(shape=(10, 10, 10), affine=np.diag([0.5, 0.5, 2.0, 1.0]))
    moved = reference.affine.copy()
    moved[2, 3] += shift
    other = Grid(shape=(10, 10, 10), affine=moved)
    assert corner_displacement(reference, other) == pytest.approx(abs(shift))
    assert same_grid(reference, other) is same


def test_a_small_rotation_counts_at_the_far_corner() -> None:
    reference = Grid(shape=(512, 512, 10), affine=np.diag([0.5, 0.5, 2.0, 1.0]))
    turned = reference.affine.copy()
    turned[:3, :3] = nib.eulerangles.euler2mat(z=0.001) @ turned[:3, :3]
    assert not same_grid(reference, Grid(shape=(512, 512, 10), affine=turned))


@pytest.mark.parametrize(
    "other",
    [
        Grid(shape=(10, 10, 11), affine=np.eye(4)),
        Grid(shape=(10, 10, 10), affine=np.eye(4), oriented=False),
    ],
)
def test_other_shape_or_unknown_orientation_is_another_grid(other: Grid) -> None:
    assert not same_grid(Grid(shape=(10, 10, 10), affine=np.eye(4)), other)


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan), np.ones((3, 3)), np.diag([1, 1, 1, 2.0])],
)
def test_impossible_grids_cannot_be_made(affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="affine"):
        Grid(shape=SHAPE, affine=affine)
