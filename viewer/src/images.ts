/** What the package knows of images, as `viewer/conventions.py` wrote it: names, units, windows, ranges, colours. */

import conventions from "./conventions.json";
import { fields, list, number, text } from "./values.ts";
import type { Volume } from "./volume.ts";

export type Range = readonly [number, number];

interface Display {
  readonly label: string;
  readonly window: string | null;
  readonly limits: readonly number[] | null;
  readonly colours: string;
}

type Convention = (typeof conventions.images)["ncct"];

export const WINDOWS: Readonly<Record<string, readonly number[]>> = conventions.windows;
export const { softMaskThreshold, tmaxThreshold, baselineFrames, categoryColours, formatVersion } = conventions;
// names are those of a store: in an object "constructor" would be found as well
const DISPLAYS: ReadonlyMap<string, Display> = new Map(Object.entries(conventions.displays));
const IMAGES: ReadonlyMap<string, Convention> = new Map(Object.entries(conventions.images) as never);
export const IMAGE_NAMES: readonly string[] = [...IMAGES.keys()];

/** Colours of outlines and curves: the first that are told apart on grey. */
export const COLOURS: readonly string[] = categoryColours;

/** How a name is shown: "NCCT", "Tmax", "lesion". */
export function labelOf(name: string): string {
  return (
    DISPLAYS.get(name)?.label ??
    name
      .replace(/_mask$/, "")
      .replace(/_/g, " ")
      .replace(/^(lvo|cow)$/, (word) => (word === "cow" ? "CoW" : "LVO"))
  );
}

export function displayOf(name: string): Display {
  return DISPLAYS.get(name) ?? { label: name, window: null, limits: null, colours: "viridis" };
}

export function isMask(volume: Volume): boolean {
  const record = fields(fields(volume.attributes.isles24_zarr).mask);
  return (
    (IMAGES.get(volume.name)?.labels.length ?? 0) > 0 ||
    "kind" in record ||
    Array.isArray(volume.attributes.flag_values)
  );
}

export function isMap(name: string): boolean {
  return IMAGES.get(name)?.map ?? false;
}

export function unitsOf(volume: Volume): string {
  const units = text(volume.attributes.units, IMAGES.get(volume.name)?.units ?? "");
  return units === "1" || units === "as released" ? "" : units;
}

/** Whether a map holds a value in a voxel, and not what stands for none. */
export function isComputed(name: string, value: number): boolean {
  if (!Number.isFinite(value)) return false;
  if (name === "tmax") return value > 0;
  return !isMap(name) || value !== 0;
}

export interface Mask {
  /** The label of a physical value, 0 outside of the mask. */
  labelOf(value: number): number;
  nameOf(label: number): string;
  /** Labels with their names, background left out. */
  readonly labels: readonly (readonly [number, string])[];
  /** What must be known of it: that it is cut at a threshold, or cannot be read. */
  readonly note: string;
}

/** How the values of a mask are meant. */
export function maskOf(volume: Volume): Mask {
  const kind = text(fields(fields(volume.attributes.isles24_zarr).mask).kind, "labels");
  if (kind === "soft") {
    const name = text(IMAGES.get(volume.name)?.labels[1]?.[1], "inside");
    return {
      labelOf: (value) => (value >= softMaskThreshold ? 1 : 0),
      nameOf: (label) => (label ? name : "background"),
      labels: [[1, name]],
      note: `a soft mask, cut at ${softMaskThreshold}`,
    };
  }
  const values = list(volume.attributes.flag_values);
  const meanings = text(volume.attributes.flag_meanings).split(" ");
  const names = new Map<number, string>();
  for (const [rank, value] of values.entries()) names.set(number(value, Number.NaN), meanings[rank] ?? "");
  return {
    labelOf: (value) => (Number.isFinite(value) ? Math.round(value) : 0),
    nameOf: (label) => names.get(label) || (label ? `label ${label}` : "background"),
    labels: [...names].filter(([label]) => label),
    note: kind === "labels" ? "" : "its values are no labels",
  };
}

/** Limits of an image that has none of its own, as the figures of the package take them. */
export function limitsOf(values: Float32Array): Range {
  const seen = values.filter((value) => Number.isFinite(value) && value > 0).sort();
  if (!seen.length) return [0, 1];
  const loud = seen[Math.min(seen.length - 1, Math.floor(seen.length * 0.99))]!;
  const tissue = seen.filter((value) => value > loud / 10);
  const median = tissue[Math.floor(tissue.length / 2)]!;
  return [0, Number((2.5 * median).toPrecision(2))];
}

/** 256 colours as bytes, red, green, blue. */
const tables = new Map<string, Uint8Array>();
export function coloursOf(name: string): Uint8Array {
  const held = tables.get(name);
  if (held) return held;
  const digits = (conventions.colours as Record<string, string>)[name];
  const table = digits
    ? Uint8Array.from({ length: 768 }, (_, at) => Number.parseInt(digits.slice(2 * at, 2 * at + 2), 16))
    : Uint8Array.from({ length: 768 }, (_, at) => Math.floor(at / 3));
  tables.set(name, table);
  return table;
}

const GOLDEN_DEGREES = 137.508;

/** The colour of a label: of a mask with one label its own; of many, hues that lie far apart. */
export function labelColours(mask: Mask, own: string): (label: number) => string {
  if (mask.labels.length <= 1) return () => own;
  const order = new Map(mask.labels.map(([label], rank) => [label, rank]));
  if (mask.labels.length <= COLOURS.length) return (label) => COLOURS[(order.get(label) ?? label) % COLOURS.length]!;
  return (label) => `hsl(${((order.get(label) ?? label) * GOLDEN_DEGREES) % 360} 85% 66%)`;
}
