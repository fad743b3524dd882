/** How a slice is laid on its canvas: fitted, zoomed, panned; and which voxel is under a point of the canvas. */

import { clamped, type Grid, placeOf, type Vec3, worldOf } from "./geometry.ts";
import { type Plane, type PlaneName, pixelOfVoxel, voxelOfPixel } from "./planes.ts";

/** CSS pixels: a width and a height, or a place from the upper left corner of the canvas. */
export type Pixels = readonly [number, number];

/** How a plane is looked at. The position in the middle, and not pixels, so that it is the same on another screen. */
export interface Look {
  /** Against the whole slice fitted into the canvas. */
  readonly zoom: number;
  /** RAS position in mm in the middle of the canvas; only what lies along the plane counts. */
  readonly centre: Vec3;
}

/** Planes without one show their whole slice. */
export type Looks = Readonly<Partial<Record<PlaneName, Look>>>;

/** CSS pixels for one pixel of the slice in both directions, and where the slice begins. */
export interface Placement {
  readonly sx: number;
  readonly sy: number;
  readonly x0: number;
  readonly y0: number;
}

/** Room for the letters of the sides, which stand at the edges of the canvas. */
const MARGINS = 28;
const ZOOMS = [0.5, 32] as const;

/** The same look within what is possible: never so far that nothing is seen. */
export function within(grid: Grid, { zoom, centre }: Look): Look {
  const ends = placeOf(grid, centre).map((at, axis) => Math.min(Math.max(at, -0.5), grid.shape[axis]! - 0.5));
  return { zoom: Math.min(Math.max(zoom, ZOOMS[0]), ZOOMS[1]), centre: worldOf(grid, ends as unknown as Vec3) };
}

/** A slice of a grid on a canvas of a size. */
export class Viewport {
  readonly placement: Placement;
  readonly zoom: number;
  readonly #plane: Plane;
  readonly #grid: Grid;
  readonly #index: number;
  readonly #size: Pixels;

  constructor(plane: Plane, grid: Grid, index: number, size: Pixels, look: Look | undefined) {
    this.#plane = plane;
    this.#grid = grid;
    this.#index = index;
    this.#size = size;
    this.zoom = look?.zoom ?? 1;
    const { across, down } = plane;
    // in millimetres, not in voxels, so that it is not distorted
    const [width, height] = [grid.shape[across] * grid.spacing[across], grid.shape[down] * grid.spacing[down]];
    const fitted = Math.min(Math.max(size[0] - MARGINS, 1) / width, Math.max(size[1] - MARGINS, 1) / height);
    const [sx, sy] = [grid.spacing[across] * fitted * this.zoom, grid.spacing[down] * fitted * this.zoom];
    const [column, row] = look
      ? pixelOfVoxel(grid, plane, placeOf(grid, look.centre))
      : [grid.shape[across] / 2, grid.shape[down] / 2];
    this.placement = { sx, sy, x0: size[0] / 2 - column * sx, y0: size[1] / 2 - row * sy };
  }

  #pixelAt([x, y]: Pixels): Pixels {
    const { sx, sy, x0, y0 } = this.placement;
    return [(x - x0) / sx, (y - y0) / sy];
  }

  #placeOfPixel([column, row]: Pixels): Vec3 {
    return voxelOfPixel(this.#grid, this.#plane, this.#index, column, row);
  }

  #look(zoom: number, middle: Pixels): Look {
    return within(this.#grid, { zoom, centre: worldOf(this.#grid, this.#placeOfPixel(middle)) });
  }

  panned(right: number, down: number): Look {
    const [width, height] = this.#size;
    return this.#look(this.zoom, this.#pixelAt([width / 2 - right, height / 2 - down]));
  }

  /** Zoomed so that a point of the canvas stays where it is. */
  zoomed(factor: number, point?: Pixels): Look {
    const [width, height] = this.#size;
    const [x, y] = point ?? [width / 2, height / 2];
    const zoom = Math.min(Math.max(this.zoom * factor, ZOOMS[0]), ZOOMS[1]);
    const real = zoom / this.zoom;
    const [column, row] = this.#pixelAt([x, y]);
    const { sx, sy } = this.placement;
    return this.#look(zoom, [column + (width / 2 - x) / (sx * real), row + (height / 2 - y) / (sy * real)]);
  }

  /** The voxel of the slice under a point of the canvas; the nearest one, and whether the point is outside of the slice. */
  voxelAt(point: Pixels): { readonly at: Vec3; readonly outside: boolean } {
    const place = this.#placeOfPixel(this.#pixelAt(point));
    const at = clamped(this.#grid, place);
    return { at, outside: place.some((value, axis) => Math.round(value) !== at[axis]) };
  }
}
