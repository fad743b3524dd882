/** The keys, on a sheet of their own. */

import { h } from "./dom.ts";

const KEYS: readonly (readonly [string, readonly (readonly [string, string])[]])[] = [
  [
    "On a plane",
    [
      ["wheel · Page Up, Page Down", "slice"],
      ["arrows · click, drag", "crosshair"],
      ["click · Enter", "time curve of the voxel"],
      ["K", "keep the curve, to compare"],
      ["Ctrl + wheel · + −", "zoom"],
      ["Shift + drag, Shift + arrows", "move the picture"],
      ["right button, drag", "window: across width, up and down centre"],
      ["0", "whole picture"],
      ["M", "this plane alone, or all three"],
    ],
  ],
  [
    "Anywhere",
    [
      ["1 2 3 4", "windows: brain, stroke, bone, angio"],
      ["O", "overlay on, off"],
      ["[ ]", "threshold down, up"],
      ["L", "outlines on, off"],
      ["X", "crosshair on, off"],
      [", .", "frame back, on"],
      ["Space", "play the series"],
      ["N P", "next, previous subject"],
      ["C", "the cohort"],
      ["?", "this sheet"],
    ],
  ],
];

export function helpSheet(): HTMLDialogElement {
  const groups = KEYS.map(([title, keys]) =>
    h(
      "section",
      {},
      h("h3", {}, title),
      h("dl", {}, ...keys.flatMap(([key, does]) => [h("dt", {}, key), h("dd", {}, does)])),
    ),
  );
  const sheet = h(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    h(
      "div",
      { class: "help-head" },
      h("h2", { id: "help-title" }, "Keys"),
      h("button", { type: "button", onclick: () => sheet.close() }, "Close"),
    ),
    h("div", { class: "help-body" }, ...groups),
    h(
      "p",
      { class: "note" },
      "Not a medical device. Pictures are in radiological convention: the patient’s right is on the left.",
    ),
  );
  return sheet;
}
