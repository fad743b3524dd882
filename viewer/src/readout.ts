/** What is told in words: of a voxel, and of what is shown. */

import { tiltOf, type Vec3, worldOf } from "./geometry.ts";
import { isComputed, type Range, unitsOf } from "./images.ts";
import type { ShownMask } from "./masks.ts";
import type { Entry } from "./subject.ts";
import { shownNumber } from "./values.ts";
import type { View } from "./view.ts";

/** From so many degrees on, a reader must know that a plane is not that of the scanner. */
const TILTED_DEGREES = 1;

/** What an image holds in a voxel, in the frame that is shown; undefined where it has not been read. */
function heldBy({ volume }: Entry, { frame }: View, at: Vec3): number | undefined {
  return volume.valueAt(at, frame);
}

/** One line on a voxel: where it is, what the images hold there, in which masks it lies, and how the grid does. */
export function readout(view: View, at: Vec3, masks: readonly ShownMask[]): string {
  const { grid } = view.space;
  const position = worldOf(grid, at).map((value) => value.toFixed(1).replace("-", "−"));
  const parts = [`RAS ${position.join(", ")} mm`, `voxel ${at.join(", ")}`];
  for (const entry of view.overlay ? [view.base, view.overlay] : [view.base]) {
    const value = heldBy(entry, view, at);
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

/** The same as plain values; null where nothing has been read. */
export function valuesAt(view: View, at: Vec3, masks: readonly ShownMask[]): Record<string, unknown> {
  const drawn = masks.filter(({ on }) => on);
  return {
    position: worldOf(view.space.grid, at),
    voxel: [...at],
    value: heldBy(view.base, view, at) ?? null,
    overlayValue: view.overlay ? (heldBy(view.overlay, view, at) ?? null) : null,
    masks: Object.fromEntries(drawn.map(({ entry }) => [entry.id, entry.volume.valueAt(at, 0) ?? null])),
  };
}

/** What is shown and how, as a workstation has it in the corner: a line for each layer. */
export function captionsOf({ base, overlay, below }: View, [low, high]: Range, threshold: number): string[] {
  const named = ({ label, volume }: Entry) => (volume.attributes.session === 2 ? `${label} at follow-up` : label);
  const tenths = (value: number) => String(Number(value.toFixed(1))).replace("-", "−");
  const units = unitsOf(base.volume);
  const window =
    units === "HU"
      ? `W ${tenths(high - low)} L ${tenths((low + high) / 2)}`
      : `${tenths(low)} to ${tenths(high)} ${units}`;
  const lines = [`${named(base)}  ${window}`.trim()];
  if (overlay) lines.push(`${named(overlay)} ${below ? "<" : ">"} ${tenths(threshold)} ${unitsOf(overlay.volume)}`);
  return lines;
}
