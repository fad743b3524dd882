/** The pictures of one slice, by layer: read anew where a layer shows something else, kept where it does not. */

import { Picture } from "./picture.ts";
import type { Plane } from "./planes.ts";
import type { Scene } from "./scene.ts";
import type { Volume } from "./volume.ts";

export interface LayerEvents {
  /** Something of a layer that is still shown has arrived. */
  changed(): void;
  /** Something has arrived, of whatever layer. */
  arrived(): void;
  failed(error: unknown): void;
}

export class SliceLayers {
  readonly #plane: Plane;
  readonly #events: LayerEvents;
  readonly #pictures = new Map<string, Picture>();

  constructor(plane: Plane, events: LayerEvents) {
    this.#plane = plane;
    this.#events = events;
  }

  get complete(): boolean {
    return [...this.#pictures.values()].every((picture) => picture.complete);
  }

  get base(): Picture | undefined {
    return this.#pictures.get("base");
  }

  get overlay(): Picture | undefined {
    return this.#pictures.get("overlay");
  }

  mask(id: string): Picture | undefined {
    return this.#pictures.get(`mask ${id}`);
  }

  [Symbol.iterator](): IterableIterator<[string, Picture]> {
    return this.#pictures.entries();
  }

  /** Ask for what a scene shows of a slice, for its base first. */
  show(scene: Scene, index: number, priority: number): void {
    const wanted = this.#without(volumesOf(scene), index, scene.frame);
    for (const [layer, volume] of wanted) {
      const picture = new Picture(volume, this.#plane, index, scene.frame);
      this.#pictures.set(layer, picture);
      const changed = () => {
        if (this.#pictures.get(layer) === picture) this.#events.changed();
        this.#events.arrived();
      };
      picture.load(layer === "base" ? priority : priority + 1, changed, this.#events.failed);
    }
  }

  /** Show nothing, and ask for nothing more. */
  clear(): void {
    for (const picture of this.#pictures.values()) picture.cancel();
    this.#pictures.clear();
  }

  /** Give up what is no longer wanted; what is left is not there yet. */
  #without(wanted: Map<string, Volume>, index: number, frame: number): Map<string, Volume> {
    for (const [layer, picture] of this.#pictures) {
      const volume = wanted.get(layer);
      const key = volume && Picture.key(volume, this.#plane, index, frame);
      if (key === Picture.key(picture.volume, this.#plane, picture.index, picture.frame)) wanted.delete(layer);
      else {
        picture.cancel();
        this.#pictures.delete(layer);
      }
    }
    return wanted;
  }
}

function volumesOf(scene: Scene): Map<string, Volume> {
  const volumes = new Map([["base", scene.base.volume]]);
  if (scene.overlay) volumes.set("overlay", scene.overlay.volume);
  for (const { entry } of scene.masks) volumes.set(`mask ${entry.id}`, entry.volume);
  return volumes;
}
