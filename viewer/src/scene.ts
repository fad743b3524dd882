/** What all planes show at a moment: the layers, the crosshair, and how values become colours. */

import type { Grid, Vec3 } from "./geometry.ts";
import type { Mask, Range } from "./images.ts";
import type { Entry } from "./subject.ts";
import type { Looks } from "./viewport.ts";

export interface OutlinedMask {
  readonly entry: Entry;
  readonly mask: Mask;
  readonly colours: (label: number) => string;
}

export interface Scene {
  readonly grid: Grid;
  readonly base: Entry;
  readonly overlay: Entry | undefined;
  readonly masks: readonly OutlinedMask[];
  readonly at: Vec3;
  readonly frame: number;
  readonly limits: Range;
  readonly overlayLimits: Range;
  readonly threshold: number;
  readonly below: boolean;
  readonly opacity: number;
  readonly playing: boolean;
  readonly crosshair: boolean;
  readonly looks: Looks;
  /** What is shown, and how: a line for each layer. */
  readonly captions: readonly string[];
}
