/** Windowing: between which values colours run, and from which on an overlay is shown. */

import { displayOf, limitsOf, type Range } from "./images.ts";
import type { Picture } from "./picture.ts";
import type { Entry } from "./subject.ts";
import { usualLimits, usualThreshold, type View } from "./view.ts";

/** Limits of what has arrived of nothing. */
const UNKNOWN: Range = [0, 1];
/** A window that is dragged narrower than this part of itself at once would not open again. */
const NARROWEST = 1e-3;

export class Windowing {
  readonly #measured = new Map<string, Range>();
  readonly #picture: () => Picture | undefined;

  /** `picture` is the slice that is looked at: images without usual limits take theirs from the first that is whole. */
  constructor(picture: () => Picture | undefined) {
    this.#picture = picture;
  }

  /** Counts the images that were measured: who has drawn them knows whether to draw again. */
  get measured(): number {
    return this.#measured.size;
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

  /** Limits of an image: the usual ones, or by the first slice of it that is seen whole. */
  limitsOf(entry: Entry): Range {
    const known = usualLimits(entry.volume.name) ?? this.#measured.get(entry.id);
    if (known) return known;
    const picture = this.#picture();
    if (picture?.volume !== entry.volume || !picture.complete) return UNKNOWN;
    const found = limitsOf(picture.values);
    this.#measured.set(entry.id, found);
    return found;
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
