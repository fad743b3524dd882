/** Time curves of a voxel and of a region around it, in the plane of the slice. */

import { type Grid, type Vec3, worldOf } from "./geometry.ts";
import { baselineFrames } from "./images.ts";
import { chunkOf, offsetIn } from "./planes.ts";
import { isAbort } from "./store.ts";
import type { Volume } from "./volume.ts";

export const REGIONS = { voxel: "voxel alone", square: "3 × 3 voxels", disc: "5 mm around it" } as const;
export type Region = keyof typeof REGIONS;
const RADIUS_MM = 5;

export interface Curve {
  readonly at: Vec3;
  /** RAS, mm */
  readonly position: Vec3;
  /** Physical values over time; NaN where they cannot be read. */
  readonly voxel: readonly number[];
  readonly mean: readonly number[];
  readonly region: Region;
  /** Voxels that the mean is of. */
  readonly voxels: number;
}

export interface Summary {
  readonly baseline: number;
  /** Above the baseline. */
  readonly peak: number;
  readonly seconds: number;
}

/** The voxels of a region that are in the grid. */
export function regionAround(grid: Grid, at: Vec3, region: Region): Vec3[] {
  if (region === "voxel") return [at];
  const reach = region === "square" ? [1, 1] : [0, 1].map((axis) => Math.floor(RADIUS_MM / grid.spacing[axis]!));
  const found: Vec3[] = [];
  for (let y = at[1] - reach[1]!; y <= at[1] + reach[1]!; y += 1)
    for (let x = at[0] - reach[0]!; x <= at[0] + reach[0]!; x += 1) {
      if (x < 0 || y < 0 || x >= grid.shape[0] || y >= grid.shape[1]) continue;
      const [dx, dy] = [(x - at[0]) * grid.spacing[0], (y - at[1]) * grid.spacing[1]];
      if (region === "square" || Math.hypot(dx, dy) <= RADIUS_MM) found.push([x, y, at[2]]);
    }
  return found;
}

export interface Reading {
  readonly priority: number;
  readonly signal: AbortSignal;
  /** Told the part that has arrived. */
  readonly progress: (part: number) => void;
  readonly failed: (error: unknown) => void;
}

/** Read the curve of a voxel and of the region around it. */
export async function readCurve(
  volume: Volume,
  grid: Grid,
  at: Vec3,
  region: Region,
  reading: Reading,
): Promise<Curve> {
  const voxels = regionAround(grid, at, region);
  const { signal, priority } = reading;
  let arrived = 0;
  const frames = Array.from({ length: volume.frames }, async (_, frame) => {
    try {
      const chunks = new Map(voxels.map((one) => [chunkOf(volume, one, frame).join("/"), chunkOf(volume, one, frame)]));
      const read = [...chunks].map(
        async ([key, chunk]) => [key, await volume.read(chunk, { signal, priority })] as const,
      );
      const held = new Map(await Promise.all(read));
      const value = (one: Vec3) =>
        volume.physical(held.get(chunkOf(volume, one, frame).join("/"))![offsetIn(volume, one, frame)]!);
      return [value(at), voxels.reduce((sum, one) => sum + value(one), 0) / voxels.length] as const;
    } catch (error) {
      if (isAbort(error)) throw error;
      reading.failed(error);
      return [Number.NaN, Number.NaN] as const;
    } finally {
      arrived += 1;
      reading.progress(arrived / volume.frames);
    }
  });
  const values = await Promise.all(frames);
  return {
    at,
    position: worldOf(grid, at),
    voxel: values.map(([voxel]) => voxel),
    mean: values.map(([, mean]) => mean),
    region,
    voxels: voxels.length,
  };
}

/** Baseline (mean of the first frames), highest rise above it, and when that is. */
export function summaryOf(values: readonly number[], seconds: readonly number[]): Summary {
  // a frame that cannot be read takes nothing from the others
  const first = values.slice(0, baselineFrames).filter((value) => !Number.isNaN(value));
  const baseline = first.reduce((sum, value) => sum + value, 0) / first.length;
  let best = 0;
  for (const [at, value] of values.entries()) if (!(value <= values[best]!) && !Number.isNaN(value)) best = at;
  return { baseline, peak: values[best]! - baseline, seconds: seconds[best] ?? Number.NaN };
}
