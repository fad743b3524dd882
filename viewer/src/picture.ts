/** One slice of one array, as it arrives. */

import { type Box, fill, type Plane, type Tile, tilesOf } from "./planes.ts";
import { isAbort } from "./store.ts";
import type { Volume } from "./volume.ts";

export enum TileState {
  Waiting = 0,
  There = 1,
  Damaged = 2,
}

export class Picture {
  readonly volume: Volume;
  readonly plane: Plane;
  readonly index: number;
  readonly frame: number;
  readonly width: number;
  readonly height: number;
  /** Physical values, (height, width); NaN where nothing is known yet, or nothing can be. */
  readonly values: Float32Array;
  readonly tiles: readonly Tile[];
  readonly states: Uint8Array;
  /** Counts what has arrived: who has drawn it knows whether to draw again. */
  version = 0;
  #controller = new AbortController();

  constructor(volume: Volume, plane: Plane, index: number, frame: number) {
    this.volume = volume;
    this.plane = plane;
    this.index = index;
    this.frame = volume.frameAt(frame);
    const sizes = volume.shape.slice(-3).reverse();
    this.width = sizes[plane.across]!;
    this.height = sizes[plane.down]!;
    this.values = new Float32Array(this.width * this.height).fill(Number.NaN);
    this.tiles = tilesOf(volume, plane, index, this.frame);
    this.states = new Uint8Array(this.tiles.length);
  }

  static key(volume: Volume, plane: Plane, index: number, frame: number): string {
    return `${volume.path} ${plane.name} ${index} ${volume.frameAt(frame)}`;
  }

  get complete(): boolean {
    return this.states.every((state) => state !== TileState.Waiting);
  }

  /** Fill in what has been read already, and ask for the rest. */
  load(priority: number, changed: () => void, failed: (error: unknown) => void): void {
    for (const [rank, tile] of this.tiles.entries()) {
      const held = this.volume.peek(tile.chunk);
      if (held) this.#fill(rank, tile.box, held);
      else
        this.volume.read(tile.chunk, { priority, signal: this.#controller.signal }).then(
          (values) => {
            this.#fill(rank, tile.box, values);
            changed();
          },
          (error) => {
            if (isAbort(error)) return;
            this.states[rank] = TileState.Damaged;
            this.version += 1;
            failed(error);
            changed();
          },
        );
    }
  }

  cancel(): void {
    if (!this.complete) this.#controller.abort(new DOMException("no longer looked at", "AbortError"));
  }

  #fill(rank: number, box: Box, stored: ArrayLike<number | bigint>): void {
    const { volume } = this;
    fill(this.values, this.width, volume, this.plane, this.index, this.frame, box, (at) =>
      volume.physical(stored[at]!),
    );
    this.states[rank] = TileState.There;
    this.version += 1;
  }
}

/** Have the chunks of a slice read, for the case that it is looked at next. */
export function prefetch(volume: Volume, plane: Plane, index: number, frame: number, priority: number): void {
  for (const tile of tilesOf(volume, plane, index, volume.frameAt(frame)))
    volume.read(tile.chunk, { priority }).catch(() => {});
}
