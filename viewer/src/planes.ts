/** The three planes of a grid: which chunks they need, and how voxels of a chunk come into a picture.

Radiological: the picture's left is the patient's right, its top is anterior or superior; a sagittal one looks to the left. All axes ascend
towards R, A and S, so every picture runs against its two axes: column 0 is the last voxel along `across`, row 0 the last along `down`. */

import type { Axis, Grid, Vec3 } from "./geometry.ts";

export type PlaneName = "axial" | "coronal" | "sagittal";

export interface Plane {
  readonly name: PlaneName;
  readonly normal: Axis;
  readonly across: Axis;
  readonly down: Axis;
}

export const PLANES: Readonly<Record<PlaneName, Plane>> = {
  axial: { name: "axial", normal: 2, across: 0, down: 1 },
  coronal: { name: "coronal", normal: 1, across: 0, down: 2 },
  sagittal: { name: "sagittal", normal: 0, across: 1, down: 2 },
};
export const PLANE_NAMES = ["axial", "coronal", "sagittal"] as const;

/** A part of an array along one slice: first voxel and number, in (x, y, z). */
export interface Box {
  readonly start: Vec3;
  readonly size: Vec3;
}

/** A chunk by its coordinates in the order of the array, and the box of voxels that it holds of the array. */
export interface Tile {
  readonly chunk: readonly number[];
  readonly box: Box;
}

export interface Layout {
  /** (z, y, x), or (time, z, y, x) */
  readonly shape: readonly number[];
  readonly chunk: readonly number[];
}

/** Sizes and chunks along x, y, z. */
function spatial(sizes: readonly number[]): Vec3 {
  return sizes.slice(-3).reverse() as unknown as Vec3;
}

/** The chunk of a voxel. */
export function chunkOf(layout: Layout, at: Vec3, frame: number): number[] {
  const chunk = spatial(layout.chunk);
  const own = [2, 1, 0].map((axis) => Math.floor(at[axis]! / chunk[axis]!));
  return layout.shape.length > 3 ? [Math.floor(frame / layout.chunk[0]!), ...own] : own;
}

/** Where a voxel lies in the values of its chunk. */
export function offsetIn(layout: Layout, at: Vec3, frame: number): number {
  const [cx, cy, cz] = spatial(layout.chunk);
  const inside = ((at[2] % cz) * cy + (at[1] % cy)) * cx + (at[0] % cx);
  return layout.shape.length > 3 ? (frame % layout.chunk[0]!) * cx * cy * cz + inside : inside;
}

/** All chunks that hold voxels of a slice, in the order in which they lie in a shard. */
export function tilesOf(layout: Layout, plane: Plane, index: number, frame: number): Tile[] {
  const shape = spatial(layout.shape);
  const chunk = spatial(layout.chunk);
  const first = shape.map((_, axis) => (axis === plane.normal ? Math.floor(index / chunk[axis]!) : 0));
  const count = shape.map((size, axis) => (axis === plane.normal ? 1 : Math.ceil(size / chunk[axis]!)));
  const tiles: Tile[] = [];
  for (let z = first[2]!; z < first[2]! + count[2]!; z += 1)
    for (let y = first[1]!; y < first[1]! + count[1]!; y += 1)
      for (let x = first[0]!; x < first[0]! + count[0]!; x += 1) {
        const start = [x * chunk[0], y * chunk[1], z * chunk[2]] as const;
        const size = start.map((at, axis) => Math.min(chunk[axis]!, shape[axis]! - at)) as unknown as Vec3;
        const own = [z, y, x];
        const coordinates = layout.shape.length > 3 ? [Math.floor(frame / layout.chunk[0]!), ...own] : own;
        tiles.push({ chunk: coordinates, box: { start, size } });
      }
  return tiles;
}

/** Copy what a chunk holds of a slice into a picture (height x width), by a function of offsets in the chunk. */
export function fill(
  picture: Float32Array,
  width: number,
  layout: Layout,
  plane: Plane,
  index: number,
  frame: number,
  box: Box,
  valueAt: (offset: number) => number,
): void {
  const shape = spatial(layout.shape);
  const { across, down, normal } = plane;
  const at: [number, number, number] = [0, 0, 0];
  at[normal] = index;
  for (let v = box.start[down]; v < box.start[down] + box.size[down]; v += 1) {
    at[down] = v;
    const row = (shape[down] - 1 - v) * width;
    for (let h = box.start[across]; h < box.start[across] + box.size[across]; h += 1) {
      at[across] = h;
      picture[row + shape[across] - 1 - h] = valueAt(offsetIn(layout, at, frame));
    }
  }
}

/** Voxel (fractions of it, centres are whole) at a place of the picture in pixels of the picture (0 is its left or upper edge). */
export function voxelOfPixel(grid: Grid, plane: Plane, index: number, column: number, row: number): Vec3 {
  const at: [number, number, number] = [0, 0, 0];
  at[plane.normal] = index;
  at[plane.across] = grid.shape[plane.across] - 0.5 - column;
  at[plane.down] = grid.shape[plane.down] - 0.5 - row;
  return at;
}

/** The inverse of `voxelOfPixel`. */
export function pixelOfVoxel(grid: Grid, plane: Plane, at: Vec3): readonly [number, number] {
  return [grid.shape[plane.across] - 0.5 - at[plane.across], grid.shape[plane.down] - 0.5 - at[plane.down]];
}
