/** Where voxels lie: affines, positions in RAS millimetres, letters of sides. Indices run (x, y, z). */

import { type Fields, list, numbers, text } from "./values.ts";

export type Vec3 = readonly [number, number, number];
export type Axis = 0 | 1 | 2;

export interface Grid {
  /** Voxels along x, y and z. */
  readonly shape: Vec3;
  /** Three rows of the affine that takes indices to RAS millimetres. */
  readonly affine: readonly (readonly [number, number, number, number])[];
  /** Inverse of its 3 x 3 part, rows first. */
  readonly inverse: readonly Vec3[];
  readonly spacing: Vec3;
  /** Whether the file says where its axes point. */
  readonly oriented: boolean;
}

function determinantOf(m: readonly Vec3[]): number {
  const [[a, b, c], [d, e, f], [g, h, i]] = m as readonly [Vec3, Vec3, Vec3];
  return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

/** Of one voxel, in cubic millimetres. */
export function voxelVolume(grid: Grid): number {
  return 1 / Math.abs(determinantOf(grid.inverse));
}

export function inverted(m: readonly Vec3[]): Vec3[] | undefined {
  const [[a, b, c], [d, e, f], [g, h, i]] = m as readonly [Vec3, Vec3, Vec3];
  const determinant = determinantOf(m);
  if (!Number.isFinite(determinant) || Math.abs(determinant) < 1e-12) return undefined;
  const s = 1 / determinant;
  return [
    [s * (e * i - f * h), s * (c * h - b * i), s * (b * f - c * e)],
    [s * (f * g - d * i), s * (a * i - c * g), s * (c * d - a * f)],
    [s * (d * h - e * g), s * (b * g - a * h), s * (a * e - b * d)],
  ];
}

/** The grid of a group, by its attributes and the shape (z, y, x) of an array in it. */
export function gridOf(attributes: Fields, shape: readonly number[]): Grid | string {
  const rows = list(attributes.affine).map(numbers);
  const [nz, ny, nx] = shape.slice(-3) as [number, number, number];
  if (rows.length < 3 || rows.slice(0, 3).some((row) => row.length !== 4)) return "its group has no affine";
  const affine = rows.slice(0, 3) as [number, number, number, number][];
  const inverse = inverted(affine.map((row) => [row[0], row[1], row[2]] as const));
  if (!inverse) return "the affine of its group cannot be inverted";
  const spacing = [0, 1, 2].map((j) => Math.hypot(...affine.map((row) => row[j]!))) as unknown as Vec3;
  return { shape: [nx, ny, nz], affine, inverse, spacing, oriented: text(attributes.orientation) !== "unknown" };
}

export function worldOf(grid: Grid, at: Vec3): Vec3 {
  return grid.affine.map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]) as unknown as Vec3;
}

/** The voxel, with fractions, at a position. */
export function placeOf(grid: Grid, position: Vec3): Vec3 {
  const d = position.map((value, row) => value - grid.affine[row]![3]) as unknown as Vec3;
  return grid.inverse.map((row) => row[0] * d[0] + row[1] * d[1] + row[2] * d[2]) as unknown as Vec3;
}

/** The voxel that holds a position, or undefined where it is outside. */
export function voxelAt(grid: Grid, position: Vec3): Vec3 | undefined {
  const at = placeOf(grid, position).map(Math.round) as unknown as Vec3;
  return at.every((index, axis) => index >= 0 && index < grid.shape[axis]!) ? at : undefined;
}

export function clamped(grid: Grid, at: Vec3): Vec3 {
  return at.map((index, axis) => Math.min(Math.max(Math.round(index), 0), grid.shape[axis]! - 1)) as unknown as Vec3;
}

const LETTERS = [
  ["L", "R"],
  ["P", "A"],
  ["I", "S"],
] as const;
const OBLIQUE = Math.sin((17.5 * Math.PI) / 180);

/** Letters of the two ends of an axis, low and high: of the nearest direction, and of a second one where it is oblique. */
export function lettersOf(grid: Grid, axis: Axis): readonly [string, string] {
  if (!grid.oriented) return ["", ""];
  const along = grid.affine.map((row) => row[axis] / grid.spacing[axis]);
  const order = [0, 1, 2].sort((a, b) => Math.abs(along[b]!) - Math.abs(along[a]!));
  const told = order.filter((world, rank) => rank === 0 || Math.abs(along[world]!) > OBLIQUE);
  const end = (up: boolean) => told.map((world) => LETTERS[world]![along[world]! > 0 === up ? 1 : 0]).join("");
  return [end(false), end(true)];
}

/** Degrees by which the grid is turned against the scanner's axes. */
export function tiltOf(grid: Grid): number {
  const along = [0, 1, 2].map((axis) => Math.abs(grid.affine[axis]![axis]!) / grid.spacing[axis]!);
  return (Math.acos(Math.min(1, Math.min(...along))) * 180) / Math.PI;
}

/** Whether two grids may be laid on each other by index: no corner is displaced by a tenth of a voxel. */
export function sameGrid(one: Grid, other: Grid): boolean {
  if (one.shape.some((size, axis) => size !== other.shape[axis])) return false;
  const limit = Math.min(...one.spacing) / 10;
  for (let corner = 0; corner < 8; corner += 1) {
    const at = one.shape.map((size, axis) => (corner >> axis) & 1 && size - 1) as unknown as Vec3;
    const [a, b] = [worldOf(one, at), worldOf(other, at)];
    if (Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]) > limit) return false;
  }
  return true;
}
