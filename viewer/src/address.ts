/** The part of the address behind “#”: what is shown, so that a view can be sent to somebody. */

import type { Vec3 } from "./geometry.ts";
import { PLANE_NAMES, type PlaneName } from "./planes.ts";
import type { Look, Looks } from "./viewport.ts";

export interface SubjectAddress {
  readonly kind: "subject";
  readonly subject: string;
  readonly space?: string | undefined;
  readonly base?: string | undefined;
  readonly overlay?: string | undefined;
  /** RAS position in mm. */
  readonly at?: Vec3 | undefined;
  readonly frame?: number | undefined;
  /** Masks whose outlines are drawn. */
  readonly masks?: readonly string[] | undefined;
  /** Centre and width. */
  readonly window?: readonly [number, number] | undefined;
  readonly threshold?: number | undefined;
  /** Whether the overlay is shown below its threshold, and not above. */
  readonly below?: boolean | undefined;
  readonly opacity?: number | undefined;
  /** The plane that is shown alone. */
  readonly plane?: PlaneName | undefined;
  /** How planes are zoomed and panned. */
  readonly looks?: Looks | undefined;
  readonly crosshair?: boolean | undefined;
  /** Positions of curves that were kept. */
  readonly curves?: readonly Vec3[] | undefined;
}

export interface CohortAddress {
  readonly kind: "cohort";
  readonly text: string;
  readonly sort?: { readonly column: string; readonly down: boolean } | undefined;
  /** Ranges and texts by column. */
  readonly filters: ReadonlyMap<string, string>;
}

export type Address = SubjectAddress | CohortAddress;

const SUBJECT = /^sub-[0-9A-Za-z]+$/;

function point(value: string | null | undefined): Vec3 | undefined {
  const parts = value?.split(",").map(Number) ?? [];
  return parts.length === 3 && parts.every(Number.isFinite) ? (parts as unknown as Vec3) : undefined;
}

function optional(value: string | null): number | undefined {
  return value !== null && value.trim() !== "" && Number.isFinite(Number(value)) ? Number(value) : undefined;
}

/** `axial:2,10,-20,30;sagittal:...`: how often magnified, and the RAS position in the middle. */
function looks(value: string | null): Looks {
  const found = new Map<PlaneName, Look>();
  for (const one of value?.split(";") ?? []) {
    const [plane, numbers = ""] = one.split(":", 2);
    const name = PLANE_NAMES.find((known) => known === plane);
    const [zoom = Number.NaN, ...centre] = numbers.split(",").map(Number);
    const at = point(centre.join(","));
    if (name && at && zoom > 0) found.set(name, { zoom, centre: at });
  }
  return Object.fromEntries(found);
}

export function parsed(hash: string): Address {
  const [path = "", query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  const asked = new URLSearchParams(query);
  if (SUBJECT.test(path)) {
    const window = asked.get("window")?.split(",").map(Number) ?? [];
    return {
      kind: "subject",
      subject: path,
      space: asked.get("space") ?? undefined,
      base: asked.get("base") ?? undefined,
      overlay: asked.get("overlay") ?? undefined,
      at: point(asked.get("at")),
      frame: optional(asked.get("frame")),
      masks: asked.get("masks")?.split(",").filter(Boolean),
      window: window.length === 2 && window.every(Number.isFinite) ? [window[0]!, window[1]!] : undefined,
      threshold: optional(asked.get("below") ?? asked.get("threshold")),
      below: asked.has("below"),
      opacity: optional(asked.get("opacity")),
      plane: PLANE_NAMES.find((name) => name === asked.get("plane")),
      looks: looks(asked.get("zoom")),
      crosshair: asked.get("crosshair") === "none" ? false : undefined,
      curves: asked
        .get("curves")
        ?.split(";")
        .map(point)
        .filter((one) => one !== undefined),
    };
  }
  const sort = asked.get("sort");
  const filters = new Map(
    [...asked].filter(([key]) => key.startsWith("f.")).map(([key, value]) => [key.slice(2), value]),
  );
  return {
    kind: "cohort",
    text: asked.get("text") ?? "",
    sort: sort ? { column: sort.replace(/^-/, ""), down: sort.startsWith("-") } : undefined,
    filters,
  };
}

/** Commas and slashes stay as they are: an address is to be read. */
function query(pairs: readonly (readonly [string, string | undefined])[]): string {
  const told = pairs.filter((pair): pair is [string, string] => pair[1] !== undefined);
  const plain = (value: string) => encodeURIComponent(value).replace(/%(2C|2F|3A|3B)/g, decodeURIComponent);
  return told.length ? `?${told.map(([key, value]) => `${plain(key)}=${plain(value)}`).join("&")}` : "";
}

function millimetres(at: Vec3): string {
  return at.map((value) => Number(value.toFixed(3))).join(",");
}

function lookedAt(looks: Looks): string | undefined {
  const told = PLANE_NAMES.flatMap((name) => {
    const look = looks[name];
    return look ? [`${name}:${Number(look.zoom.toFixed(3))},${millimetres(look.centre)}`] : [];
  });
  return told.length ? told.join(";") : undefined;
}

export function written(address: Address): string {
  if (address.kind === "subject")
    return `#/${address.subject}${query([
      ["space", address.space],
      ["base", address.base],
      ["overlay", address.overlay],
      ["at", address.at && millimetres(address.at)],
      ["frame", address.frame?.toString()],
      ["masks", address.masks?.join(",")],
      ["window", address.window?.map((value) => Number(value.toFixed(2))).join(",")],
      [address.below ? "below" : "threshold", address.threshold?.toString()],
      ["opacity", address.opacity?.toString()],
      ["plane", address.plane],
      ["zoom", address.looks && lookedAt(address.looks)],
      ["crosshair", address.crosshair === false ? "none" : undefined],
      ["curves", address.curves?.length ? address.curves.map(millimetres).join(";") : undefined],
    ])}`;
  return `#/${query([
    ["text", address.text || undefined],
    ["sort", address.sort && (address.sort.down ? "-" : "") + address.sort.column],
    ...[...address.filters].filter(([, value]) => value).map(([key, value]) => [`f.${key}`, value] as const),
  ])}`;
}
