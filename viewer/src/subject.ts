/** One subject of the store: its grids, their arrays, and what others have computed on the same grids. */

import { type Grid, gridOf, sameGrid } from "./geometry.ts";
import { IMAGE_NAMES, isMask, labelOf } from "./images.ts";
import { type HttpStore, ReadError } from "./store.ts";
import { type Fields, fields, list, text } from "./values.ts";
import { readCoordinate, Volume } from "./volume.ts";

export interface Entry {
  /** What the address calls it: "tmax", or "pipeline:tmax". */
  readonly id: string;
  readonly label: string;
  readonly volume: Volume;
}

export class Space {
  readonly name: string;
  readonly grid: Grid;
  readonly entries = new Map<string, Entry>();
  readonly #store: HttpStore;
  readonly #time: { path: string; document: Fields } | undefined;
  #seconds: Promise<number[]> | undefined;

  constructor(store: HttpStore, name: string, grid: Grid, time?: { path: string; document: Fields }) {
    this.#store = store;
    this.name = name;
    this.grid = grid;
    this.#time = time;
  }

  get images(): Entry[] {
    return [...this.entries.values()].filter(({ volume }) => !isMask(volume));
  }

  get masks(): Entry[] {
    return [...this.entries.values()].filter(({ volume }) => isMask(volume));
  }

  get series(): Entry | undefined {
    return this.images.find(({ volume }) => volume.frames > 1);
  }

  /** Seconds of the frames of its series. */
  seconds(): Promise<number[]> {
    if (!this.#time) return Promise.reject(new ReadError(`space-${this.name} has no times`));
    this.#seconds ??= readCoordinate(this.#store, this.#time.path, this.#time.document).catch((error) => {
      this.#seconds = undefined;
      throw error;
    });
    return this.#seconds;
  }
}

export interface Subject {
  readonly name: string;
  readonly clinical: readonly (readonly [string, unknown])[];
  readonly spaces: ReadonlyMap<string, Space>;
  /** What of it cannot be shown. */
  readonly problems: readonly string[];
}

/** Read a subject: one document, and one for each pipeline. */
export async function openSubject(
  store: HttpStore,
  name: string,
  listed: Promise<readonly string[]>,
): Promise<Subject> {
  const [found, pipelines] = await Promise.all([store.json(`${name}/zarr.json`), listed]);
  const document = fields(found);
  if (document.node_type !== "group") throw new ReadError(`${name} is not in this store`);
  const attributes = fields(document.attributes);
  const problems: string[] = [];
  const spaces = new Map<string, Space>();
  addArrays(store, name, membersOf(document), spaces, problems);
  const others = await Promise.allSettled(pipelines.map((one) => store.json(`derivatives/${one}/${name}/zarr.json`)));
  for (const [rank, answer] of others.entries()) {
    const pipeline = pipelines[rank]!;
    if (answer.status === "rejected") problems.push(String(answer.reason.message));
    else
      addArrays(store, `derivatives/${pipeline}/${name}`, membersOf(fields(answer.value)), spaces, problems, pipeline);
  }
  const clinical = Object.entries(attributes).filter(([key]) => key !== "isles24_zarr");
  return { name, clinical, spaces: sorted(spaces), problems };
}

function membersOf(document: Fields): Fields {
  return fields(fields(document.consolidated_metadata).metadata);
}

function sorted(spaces: ReadonlyMap<string, Space>): Map<string, Space> {
  const rank = (name: string) => (name === "ncct" ? 0 : 1);
  return new Map([...spaces].sort(([a], [b]) => rank(a) - rank(b) || a.localeCompare(b)));
}

function addArrays(
  store: HttpStore,
  base: string,
  members: Fields,
  spaces: Map<string, Space>,
  problems: string[],
  pipeline?: string,
): void {
  const arrays = Object.entries(members)
    .map(([key, value]) => ({ key, parts: key.split("/"), document: fields(value) }))
    .filter(({ parts, document }) => document.node_type === "array" && parts.length === 2)
    .filter(({ document }) => [3, 4].includes(list(document.shape).length));
  const rank = (name: string) => (IMAGE_NAMES.includes(name) ? IMAGE_NAMES.indexOf(name) : IMAGE_NAMES.length);
  arrays.sort((a, b) => rank(a.parts[1]!) - rank(b.parts[1]!));
  for (const { key, parts, document } of arrays) {
    const [group, name] = parts as [string, string];
    try {
      const volume = new Volume(store, name, `${base}/${key}`, document);
      const grid = gridOf(fields(fields(members[group]).attributes), volume.shape);
      if (typeof grid === "string") throw new Error(grid);
      const spaceName = group.replace(/^space-/, "");
      let space = spaces.get(spaceName);
      if (!space) {
        const time = fields(members[`${group}/time`]);
        const where = time.node_type === "array" ? { path: `${base}/${group}/time`, document: time } : undefined;
        space = new Space(store, spaceName, grid, where);
        spaces.set(spaceName, space);
      }
      if (!sameGrid(space.grid, grid)) throw new Error("it does not lie on the grid that it is named after");
      const id = pipeline ? `${pipeline}:${name}` : name;
      const label = pipeline ? `${labelOf(name)} (${pipeline})` : labelOf(name);
      space.entries.set(id, { id, label, volume });
    } catch (error) {
      problems.push(
        `${base}/${key} cannot be shown: ${text(fields(error).message) || String((error as Error).message)}`,
      );
    }
  }
}
