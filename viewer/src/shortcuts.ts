/** The keys of a subject's page, as what they stand for. Those of a plane are in `plane-input.ts`. */

import { unitsOf, WINDOWS } from "./images.ts";
import type { Volume } from "./volume.ts";

export interface ShortcutCommands {
  toggleOverlay(): void;
  toggleOutlines(): void;
  toggleCrosshair(): void;
  keepCurve(): void;
  /** Move the threshold of the overlay, by steps. */
  nudgeThreshold(steps: number): void;
  stepFrame(by: number): void;
  play(): void;
  maximize(): void;
  window(window: readonly [number, number]): void;
}

/** What a key stands for while an image is looked at, or undefined where it stands for nothing. */
export function shortcutOf(key: string, base: Volume, commands: ShortcutCommands): (() => void) | undefined {
  const keys = new Map<string, () => void>([
    ["o", () => commands.toggleOverlay()],
    ["l", () => commands.toggleOutlines()],
    ["k", () => commands.keepCurve()],
    ["x", () => commands.toggleCrosshair()],
    ["[", () => commands.nudgeThreshold(-1)],
    ["]", () => commands.nudgeThreshold(1)],
    [",", () => commands.stepFrame(-1)],
    [".", () => commands.stepFrame(1)],
    [" ", () => commands.play()],
    ["m", () => commands.maximize()],
  ]);
  // windows are in Hounsfield units: of a map they would be nonsense
  if (unitsOf(base) === "HU")
    for (const [rank, [centre, width]] of Object.values(WINDOWS).entries())
      keys.set(String(rank + 1), () => commands.window([centre!, width!]));
  return keys.get(key.toLowerCase());
}
