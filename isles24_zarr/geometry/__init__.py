"""Where voxels lie: grids, orientations, coordinates, positions."""

from isles24_zarr.geometry.coordinates import UNKNOWN_ORIENTATION, nearest_voxels, scan_grid, voxel_numbers
from isles24_zarr.geometry.grid import (
    Grid,
    Orientation,
    canonical_from_file,
    canonical_grid,
    canonical_orientation,
    corner_displacement,
    file_from_canonical,
    file_grid,
    same_grid,
    same_positions,
    voxel_from_world,
    world_from_voxel,
)

__all__ = [
    "UNKNOWN_ORIENTATION",
    "Grid",
    "Orientation",
    "canonical_from_file",
    "canonical_grid",
    "canonical_orientation",
    "corner_displacement",
    "file_from_canonical",
    "file_grid",
    "nearest_voxels",
    "same_grid",
    "same_positions",
    "scan_grid",
    "voxel_from_world",
    "voxel_numbers",
    "world_from_voxel",
]
