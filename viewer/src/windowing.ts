/** Windowing: between which values colours run, and from which on an overlay is shown. */

import { displayOf, limitsOf, type Range } from "./images.ts";
import { Picture } from "./picture.ts";
import { PLANES } from "./planes.ts";
import type { Entry } from "./subject.ts";
import { usualLimits, usualThreshold, type View } from "./view.ts";
import type { Volume } from "./volume.ts";

/** Limits of what has arrived of nothing. */
const UNKNOWN: Range = [0, 1];
/** A window that is dragged narrower than this part of itself at once would not open again. */
const NARROWEST = 1e-3;

/** What is looked at is read first. */
const MEASURED = 5;

export class Windowing {
  readonly #measured = new Map<string, Range>();
  readonly #pictures = new Map<string, Picture>();
  readonly #arrived: () => void;

  /** `arrived` is called when an image was measured, and is to be drawn again. */
  constructor(arrived: () => void) {
    this.#arrived = arrived;
  }

  /** Leave the subject. */
  close(): void {
    for (const picture of this.#pictures.values()) picture.cancel();
  }

  base({ window, base }: View): Range {
    return window ? [window[0] - window[1] / 2, window[0] + window[1] / 2] : this.limitsOf(base);
  }

  overlay({ overlay }: View): Range {
    return overlay ? this.limitsOf(overlay) : UNKNOWN;
  }

  threshold({ overlay, threshold }: View): number {
    return overlay ? (threshold ?? usualThreshold(overlay.volume.name, this.limitsOf(overlay))) : 0;
  }

  /** Limits of an image: the usual ones, or by its middle slice, so that they are the same wherever one begins. */
  limitsOf({ volume }: Entry): Range {
    const known = usualLimits(volume.name) ?? this.#measured.get(volume.path);
    if (!known && !this.#pictures.has(volume.path)) this.#measure(volume);
    return known ?? this.#measured.get(volume.path) ?? UNKNOWN;
  }

  #measure(volume: Volume): void {
    const slices = volume.shape.at(-3) ?? 1;
    const picture = new Picture(volume, PLANES.axial, Math.floor(slices / 2), 0);
    this.#pictures.set(volume.path, picture);
    const measured = () => {
      if (picture.complete) this.#measured.set(volume.path, limitsOf(picture.values));
    };
    const changed = () => {
      measured();
      if (picture.complete) this.#arrived();
    };
    // a chunk that cannot be read is told where it is shown
    picture.load(MEASURED, changed, () => {});
    measured();
  }

  /** The window, dragged by parts of its width: across it grows, upwards it rises. */
  dragged(view: View, right: number, up: number): readonly [number, number] {
    const [low, high] = this.base(view);
    const width = Math.max((high - low) * Math.exp(right), (high - low) * NARROWEST);
    return [(low + high) / 2 + up * (high - low), width];
  }

  /** The threshold, some steps further within the limits of the overlay. */
  nudged(view: View, steps: number): number {
    const [low, high] = this.overlay(view);
    const usual = view.overlay && displayOf(view.overlay.volume.name).limits;
    const step = (high - low) / (usual ? 24 : 50);
    return Math.min(Math.max(this.threshold(view) + steps * step, low), high);
  }
}
