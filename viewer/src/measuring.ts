/** Volumes of masks, counted from all of their chunks. */

import { type Grid, voxelVolume } from "./geometry.ts";
import type { Mask } from "./images.ts";
import { PLANES, tilesOf } from "./planes.ts";
import type { Volume } from "./volume.ts";

const MM3_PER_ML = 1000;
const AT_A_TIME = 64;

/** Millilitres of each label that occurs. */
export async function measuredVolumes(
  volume: Volume,
  grid: Grid,
  mask: Mask,
  priority: number,
  signal?: AbortSignal,
): Promise<Map<number, number>> {
  const counts = new Map<number, number>();
  const [cx, cy] = [volume.chunk.at(-1)!, volume.chunk.at(-2)!];
  const slabs = Math.ceil(grid.shape[2] / volume.chunk.at(-3)!);
  const tiles = Array.from({ length: slabs }, (_, slab) =>
    tilesOf(volume, PLANES.axial, slab * volume.chunk.at(-3)!, 0),
  ).flat();
  const read = tiles.map((tile) => volume.read(tile.chunk, { priority, signal }));
  // what fails is told when it is waited for, a little later
  for (const one of read) one.catch(() => {});
  for (const [rank, { box }] of tiles.entries()) {
    const stored = await read[rank]!;
    for (let z = 0; z < box.size[2]; z += 1)
      for (let y = 0; y < box.size[1]; y += 1) {
        const row = (z * cy + y) * cx;
        for (let x = 0; x < box.size[0]; x += 1) {
          const label = mask.labelOf(volume.physical(stored[row + x]!));
          if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
        }
      }
    // the page stays alive meanwhile
    if (rank % AT_A_TIME === AT_A_TIME - 1) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  const millilitres = voxelVolume(grid) / MM3_PER_ML;
  return new Map([...counts].sort(([a], [b]) => a - b).map(([label, count]) => [label, count * millilitres]));
}
