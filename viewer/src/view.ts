/** What is shown of a subject, as values: made of an address, and written into one. */

import type { SubjectAddress } from "./address.ts";
import { clamped, type Grid, placeOf, type Vec3, worldOf } from "./geometry.ts";
import { displayOf, isMap, type Range, tmaxThreshold, WINDOWS } from "./images.ts";
import { PLANE_NAMES, type PlaneName } from "./planes.ts";
import type { Entry, Space, Subject } from "./subject.ts";
import { type Looks, within } from "./viewport.ts";

export interface View {
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

/** The view that an address asks for, as far as the subject has it; what it has not is told. */
export function viewOf(subject: Subject, address: SubjectAddress, told: string[] = []): View | undefined {
  const space =
    chosen("space", address.space, subject.spaces, told) ??
    [...subject.spaces.values()].find((one) => one.images.length);
  if (!space) return undefined;
  const named = new Map(space.images.map((one) => [one.id, one]));
  const base =
    chosen("image", address.base, named, told) ??
    space.images.find(({ volume }) => !isMap(volume.name)) ??
    space.images[0];
  if (!base) return undefined;
  const usual = isMap(base.volume.name) ? undefined : space.entries.get("tmax");
  const none = address.overlay === "none" || address.overlay === "";
  const overlay = none
    ? undefined
    : (chosen("overlay", address.overlay, named, told) ?? (address.overlay ? undefined : usual));
  const masks = address.masks ?? FIRST_MASKS;
  return {
    space,
    base,
    overlay,
    masks: new Set(masks.filter((id) => space.masks.some((one) => one.id === id))),
    at: address.at ? nearest(space.grid, address.at, told) : middle(space.grid),
    frame: Math.min(Math.max(Math.round(address.frame ?? 0), 0), (space.series?.volume.frames ?? 1) - 1),
    window: address.window,
    threshold: address.threshold,
    below: address.below ?? false,
    opacity: address.opacity === undefined ? OPACITY : Math.min(Math.max(address.opacity, 0), 1),
    alone: address.plane,
    looks: looksIn(space.grid, address.looks ?? {}),
    crosshair: address.crosshair ?? true,
  };
}

function looksIn(grid: Grid, looks: Looks): Looks {
  const told = PLANE_NAMES.flatMap((name) => (looks[name] ? [[name, within(grid, looks[name])] as const] : []));
  return Object.fromEntries(told);
}

function chosen<Value>(
  what: string,
  name: string | undefined,
  from: ReadonlyMap<string, Value>,
  told: string[],
): Value | undefined {
  if (name === undefined || name === "") return undefined;
  const found = from.get(name);
  if (!found) told.push(`There is no ${what} “${name}” here.`);
  return found;
}

function middle(grid: Grid): Vec3 {
  return grid.shape.map((size) => Math.floor(size / 2)) as unknown as Vec3;
}

export function nearest(grid: Grid, position: Vec3, told: string[] = []): Vec3 {
  const place = placeOf(grid, position);
  const at = clamped(grid, place);
  if (place.some((value, axis) => Math.abs(value - at[axis]!) > 1))
    told.push("The position is outside of this grid: its nearest voxel is shown.");
  return at;
}

export function addressOf(subject: Subject, view: View, curves: readonly Vec3[]): SubjectAddress {
  return {
    kind: "subject",
    subject: subject.name,
    space: view.space.name,
    base: view.base.id,
    overlay: view.overlay?.id ?? "none",
    at: worldOf(view.space.grid, view.at),
    frame: view.frame,
    masks: [...view.masks],
    window: view.window,
    threshold: view.threshold,
    below: view.below,
    opacity: view.opacity === OPACITY ? undefined : view.opacity,
    plane: view.alone,
    looks: view.looks,
    crosshair: view.crosshair ? undefined : false,
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

/** A view as it is in another space: at the same position, and of the same images where that space has them. */
export function viewIn(subject: Subject, view: View, space: Space, told: string[] = []): View | undefined {
  const same = space.entries.has(view.base.id);
  const overlaid = view.overlay && space.entries.has(view.overlay.id);
  const address = {
    ...addressOf(subject, view, []),
    space: space.name,
    base: same ? view.base.id : undefined,
    // no overlay is a choice, which is kept; one that is missing there gives way to the usual one
    overlay: overlaid ? view.overlay?.id : view.overlay ? undefined : "none",
    window: same ? view.window : undefined,
    // another grid has another extent, and is seen whole first
    looks: undefined,
  };
  return viewOf(subject, address, told);
}
