/** What is shown of a subject, as values: made of an address, and written into one. */

import type { SubjectAddress } from "./address.ts";
import { clamped, type Grid, placeOf, type Vec3, worldOf } from "./geometry.ts";
import { displayOf, isMap, type Range, tmaxThreshold, WINDOWS } from "./images.ts";
import { PLANE_NAMES, type PlaneName } from "./planes.ts";
import type { Entry, Space, Subject } from "./subject.ts";
import { type Looks, within } from "./viewport.ts";

/** What is asked for, and what a subject has of it. */
export interface View {
  /** As it was asked for. What is missing here stays in it: another space, or the next subject, may have it. */
  readonly address: SubjectAddress;
  readonly space: Space;
  readonly base: Entry;
  readonly overlay: Entry | undefined;
  readonly masks: ReadonlySet<string>;
  readonly at: Vec3;
  readonly frame: number;
  /** Centre and width; undefined for the usual one of the base. */
  readonly window: readonly [number, number] | undefined;
  /** Of the overlay; undefined for the usual one. */
  readonly threshold: number | undefined;
  readonly below: boolean;
  readonly opacity: number;
  /** The plane that is shown alone; undefined for all three. */
  readonly alone: PlaneName | undefined;
  readonly looks: Looks;
  readonly crosshair: boolean;
}

const OPACITY = 0.65;
const FIRST_MASKS = ["lesion_mask", "lvo_mask"];

/** The view that an address asks for, as far as the subject has it; undefined where it has no images. */
export function viewOf(subject: Subject, address: SubjectAddress): View | undefined {
  const space =
    subject.spaces.get(address.space ?? "") ?? [...subject.spaces.values()].find((one) => one.images.length);
  if (!space) return undefined;
  const named = new Map(space.images.map((one) => [one.id, one]));
  const base =
    named.get(address.base ?? "") ?? space.images.find(({ volume }) => !isMap(volume.name)) ?? space.images[0];
  if (!base) return undefined;
  const usual = isMap(base.volume.name) ? undefined : space.entries.get("tmax");
  const overlay = address.overlay === undefined ? usual : named.get(address.overlay);
  // a window is meant for one image, a threshold for one map
  const isAsked = (asked: string | undefined, shown: Entry | undefined) => asked === undefined || asked === shown?.id;
  const thresholded = overlay && isAsked(address.overlay, overlay);
  return {
    address,
    space,
    base,
    overlay,
    masks: new Set(askedMasks(address).filter((id) => space.masks.some((one) => one.id === id))),
    at: address.at ? clamped(space.grid, placeOf(space.grid, address.at)) : middle(space.grid),
    frame: Math.min(Math.max(Math.round(address.frame ?? 0), 0), (space.series?.volume.frames ?? 1) - 1),
    window: isAsked(address.base, base) ? address.window : undefined,
    threshold: thresholded ? address.threshold : undefined,
    below: (thresholded && address.below) ?? false,
    opacity: address.opacity === undefined ? OPACITY : Math.min(Math.max(address.opacity, 0), 1),
    alone: address.plane,
    looks: looksIn(space.grid, address.looks ?? {}),
    crosshair: address.crosshair ?? true,
  };
}

/** What is asked for after a change by hand: a window is meant for the image that is shown, a threshold for its map. */
export function changed({ address, base, overlay }: View, patch: Partial<SubjectAddress>): SubjectAddress {
  const thresholded = patch.threshold !== undefined || patch.below !== undefined;
  return {
    ...address,
    ...(patch.window && { base: base.id }),
    ...(thresholded && overlay && { overlay: overlay.id }),
    ...patch,
  };
}

/** Masks whose outlines are asked for, also where a subject has none of them. */
export function askedMasks({ masks }: SubjectAddress): readonly string[] {
  return masks ?? FIRST_MASKS;
}

/** What an address asks for by name and its subject has not. */
export function missingOf({ address, space, base, overlay }: View): string[] {
  const asked = [
    ["space", address.space, space.name],
    ["image", address.base, base.id],
    ["overlay", address.overlay === "none" ? undefined : address.overlay, overlay?.id],
  ] as const;
  return asked
    .filter(([, name, shown]) => name && name !== shown)
    .map(([what, name]) => `There is no ${what} “${name}” here.`);
}

/** That a position is outside of what is shown. */
export function outsideOf({ address, space, at }: View): string[] {
  const place = address.at && placeOf(space.grid, address.at);
  return place?.some((value, axis) => Math.abs(value - at[axis]!) > 1)
    ? ["The position is outside of this grid: its nearest voxel is shown."]
    : [];
}

function looksIn(grid: Grid, looks: Looks): Looks {
  const told = PLANE_NAMES.flatMap((name) => (looks[name] ? [[name, within(grid, looks[name])] as const] : []));
  return Object.fromEntries(told);
}

function middle(grid: Grid): Vec3 {
  return grid.shape.map((size) => Math.floor(size / 2)) as unknown as Vec3;
}

/** What was asked for, with what was chosen by the page, and where it is now. */
export function addressOf({ address, space, base, overlay, at, frame }: View, curves: readonly Vec3[]): SubjectAddress {
  return {
    ...address,
    space: address.space ?? space.name,
    base: address.base ?? base.id,
    overlay: address.overlay ?? overlay?.id,
    at: worldOf(space.grid, at),
    frame,
    curves,
  };
}

/** The usual limits of an image, or undefined where they follow from its values. */
export function usualLimits(name: string): Range | undefined {
  const display = displayOf(name);
  if (display.window) {
    const [centre, width] = WINDOWS[display.window] as [number, number];
    return [centre - width / 2, centre + width / 2];
  }
  return display.limits ? [display.limits[0]!, display.limits[1]!] : undefined;
}

/** The threshold from which on an overlay is shown. */
export function usualThreshold(name: string, limits: Range): number {
  return name === "tmax" ? tmaxThreshold : limits[0];
}
