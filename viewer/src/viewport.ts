/** How a slice is laid on its canvas: fitted, zoomed, panned; and which voxel is under a point of the canvas. */

import { clamped, type Grid, type Vec3 } from "./geometry.ts";
import { type Plane, voxelOfPixel } from "./planes.ts";

/** CSS pixels: a width and a height, or a place from the upper left corner of the canvas. */
export type Pixels = readonly [number, number];

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

export class Viewport {
  readonly #plane: Plane;
  #zoom = 1;
  /** Of the slice's centre, in CSS pixels. */
  #pan: Pixels = [0, 0];

  constructor(plane: Plane) {
    this.#plane = plane;
  }

  get zoom(): number {
    return this.#zoom;
  }

  /** Fit the whole slice again. */
  reset(): void {
    this.#zoom = 1;
    this.#pan = [0, 0];
  }

  panBy(right: number, down: number): void {
    this.#pan = [this.#pan[0] + right, this.#pan[1] + down];
  }

  /** Zoom so that a point of the canvas stays where it is. */
  zoomBy(factor: number, [width, height]: Pixels, [x, y]: Pixels = [width / 2, height / 2]): void {
    const zoom = Math.min(Math.max(this.#zoom * factor, ZOOMS[0]), ZOOMS[1]);
    const real = zoom / this.#zoom;
    const [cx, cy] = [x - width / 2, y - height / 2];
    this.#pan = [cx - (cx - this.#pan[0]) * real, cy - (cy - this.#pan[1]) * real];
    this.#zoom = zoom;
  }

  /** Where a slice of a grid lies on a canvas of a size: in millimetres, not in voxels, so that it is not distorted. */
  placed(grid: Grid, size: Pixels): Placement {
    const { across, down } = this.#plane;
    const [width, height] = [grid.shape[across] * grid.spacing[across], grid.shape[down] * grid.spacing[down]];
    const fitted = Math.min(Math.max(size[0] - MARGINS, 1) / width, Math.max(size[1] - MARGINS, 1) / height);
    const scale = fitted * this.#zoom;
    return {
      sx: grid.spacing[across] * scale,
      sy: grid.spacing[down] * scale,
      x0: size[0] / 2 + this.#pan[0] - (width * scale) / 2,
      y0: size[1] / 2 + this.#pan[1] - (height * scale) / 2,
    };
  }

  /** The voxel of a slice under a point of the canvas; the nearest one, and whether the point is outside of the slice. */
  voxelAt(grid: Grid, index: number, size: Pixels, [x, y]: Pixels): { readonly at: Vec3; readonly outside: boolean } {
    const { sx, sy, x0, y0 } = this.placed(grid, size);
    const place = voxelOfPixel(grid, this.#plane, index, (x - x0) / sx, (y - y0) / sy);
    const at = clamped(grid, place);
    return { at, outside: place.some((value, axis) => Math.round(value) !== at[axis]) };
  }
}
