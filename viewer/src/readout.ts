/** One line on a voxel. */

import { type Grid, tiltOf, type Vec3, worldOf } from "./geometry.ts";
import { isComputed, unitsOf } from "./images.ts";
import type { ShownMask } from "./masks.ts";
import type { Entry } from "./subject.ts";
import { shownNumber } from "./values.ts";

/** From so many degrees on, a reader must know that a plane is not that of the scanner. */
const TILTED_DEGREES = 1;

export interface Held {
  readonly entry: Entry;
  /** Undefined where it has not been read. */
  readonly value: number | undefined;
}

/** Where a voxel is, what the images hold there, in which masks it lies, and how the grid does. */
export function readout(grid: Grid, at: Vec3, held: readonly Held[], masks: readonly ShownMask[]): string {
  const position = worldOf(grid, at).map((value) => value.toFixed(1).replace("-", "−"));
  const parts = [`RAS ${position.join(", ")} mm`, `voxel ${at.join(", ")}`];
  for (const { entry, value } of held) {
    if (value === undefined) parts.push(`${entry.label} …`);
    else if (!isComputed(entry.volume.name, value)) parts.push(`${entry.label} not computed`);
    else parts.push(`${entry.label} ${shownNumber(value)} ${unitsOf(entry.volume)}`.trim());
  }
  for (const { entry, mask, on } of masks) {
    const value = on ? entry.volume.valueAt(at, 0) : undefined;
    const label = value === undefined ? 0 : mask.labelOf(value);
    if (label) parts.push(mask.nameOf(label));
  }
  const tilt = tiltOf(grid);
  if (!grid.oriented) parts.push("sides are not known");
  else if (tilt > TILTED_DEGREES) parts.push(`planes follow the grid, tilted by ${tilt.toFixed(0)}°`);
  return parts.join("  ·  ");
}
