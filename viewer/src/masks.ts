/** The masks of a space: their labels, whether they are drawn, and how large they are. */

import { COLOURS, type Mask, maskOf } from "./images.ts";
import { measuredVolumes } from "./measuring.ts";
import { isAbort } from "./store.ts";
import type { Entry, Space } from "./subject.ts";
import { fields } from "./values.ts";

/** Masks are measured when nothing else is to be read. */
const PRIORITY = 8;
/** A larger mask is not read whole for its volume. */
const MOST_BYTES = 4 * 1024 * 1024;

export interface ShownMask {
  readonly entry: Entry;
  readonly mask: Mask;
  readonly colour: string;
  readonly on: boolean;
  /** mL by label, where it has been measured. */
  readonly volumes: ReadonlyMap<number, number> | undefined;
}

export class Masks {
  readonly #known = new Map<string, Mask>();
  readonly #volumes = new Map<string, ReadonlyMap<number, number>>();
  readonly #signal: AbortSignal;
  readonly #measured: () => void;
  readonly #failed: (error: unknown) => void;

  constructor(signal: AbortSignal, measured: () => void, failed: (error: unknown) => void) {
    this.#signal = signal;
    this.#measured = measured;
    this.#failed = failed;
  }

  of(space: Space, drawn: ReadonlySet<string>): ShownMask[] {
    return space.masks.map((entry, rank) => {
      const { path } = entry.volume;
      const mask = this.#known.get(path) ?? maskOf(entry.volume);
      this.#known.set(path, mask);
      const colour = COLOURS[(rank + 2) % COLOURS.length]!;
      return { entry, mask, colour, on: drawn.has(entry.id), volumes: this.#volumes.get(path) };
    });
  }

  /** Measure those that are drawn. */
  measure(space: Space, drawn: ReadonlySet<string>): void {
    for (const { entry, mask, on, volumes } of this.of(space, drawn)) {
      const sizes = Object.values(fields(fields(entry.volume.attributes.isles24_zarr).shards));
      const bytes = sizes.reduce((sum: number, size) => sum + Number(size), 0);
      if (!on || volumes || bytes > MOST_BYTES) continue;
      measuredVolumes(entry.volume, space.grid, mask, PRIORITY, this.#signal).then(
        (found) => {
          this.#volumes.set(entry.volume.path, found);
          this.#measured();
        },
        (error) => {
          if (!isAbort(error)) this.#failed(error);
        },
      );
    }
  }

  get state(): Record<string, Record<string, number>> {
    return Object.fromEntries([...this.#volumes].map(([path, volumes]) => [path, Object.fromEntries(volumes)]));
  }
}
