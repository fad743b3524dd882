/** Values as colours, masks as outlines, damage as hatching. */

import { coloursOf, isComputed, type Mask, type Range } from "./images.ts";
import type { Picture, TileState } from "./picture.ts";

/** The part of an overlay that is shown: above a threshold, or below it. */
export interface Cut {
  readonly threshold: number;
  readonly below: boolean;
}

/** What a picture looks like: drawn again only where something changed. */
export class Painted {
  readonly canvas = document.createElement("canvas");
  #told = "";

  /** Paint a picture; of an overlay, what is cut off and what was not computed is transparent. */
  paint(picture: Picture, colours: string, limits: Range, overlay?: Cut): HTMLCanvasElement {
    const told = [
      picture.volume.path,
      picture.plane.name,
      picture.index,
      picture.frame,
      picture.version,
      colours,
      limits,
      overlay?.threshold,
      overlay?.below,
    ].join();
    if (told === this.#told) return this.canvas;
    this.#told = told;
    this.canvas.width = picture.width;
    this.canvas.height = picture.height;
    const context = this.canvas.getContext("2d")!;
    const image = context.createImageData(picture.width, picture.height);
    colourize(image.data, picture.values, coloursOf(colours), limits, (value) =>
      overlay
        ? (overlay.below ? value < overlay.threshold : value > overlay.threshold) &&
          isComputed(picture.volume.name, value)
        : !Number.isNaN(value),
    );
    context.putImageData(image, 0, 0);
    return this.canvas;
  }
}

/** Write values as red, green, blue and opacity; what is not shown stays transparent. */
export function colourize(
  into: Uint8ClampedArray,
  values: Float32Array,
  table: Uint8Array,
  [low, high]: Range,
  shown: (value: number) => boolean,
): void {
  const scale = high > low ? 255.999 / (high - low) : 0;
  for (let at = 0; at < values.length; at += 1) {
    const value = values[at]!;
    if (!shown(value)) continue;
    const step = scale ? Math.min(255, Math.max(0, Math.floor((value - low) * scale))) : value > low ? 255 : 0;
    into[4 * at] = table[3 * step]!;
    into[4 * at + 1] = table[3 * step + 1]!;
    into[4 * at + 2] = table[3 * step + 2]!;
    into[4 * at + 3] = 255;
  }
}

/** Edges between voxels of different labels, by label: [x0, y0, x1, y1, ...] in pixels of the picture. */
export function outlines(values: Float32Array, width: number, height: number, mask: Mask): Map<number, number[]> {
  const found = new Map<number, number[]>();
  const labels = new Int32Array(values.length);
  for (let at = 0; at < values.length; at += 1) labels[at] = mask.labelOf(values[at]!);
  const label = (x: number, y: number) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : labels[y * width + x]!);
  const edge = (own: number, ...line: number[]) => {
    if (!own) return;
    const lines = found.get(own) ?? [];
    found.set(own, lines);
    lines.push(...line);
  };
  for (let y = 0; y <= height; y += 1)
    for (let x = 0; x <= width; x += 1) {
      const here = label(x, y);
      const left = label(x - 1, y);
      const above = label(x, y - 1);
      if (here !== left) for (const own of [here, left]) edge(own, x, y, x, y + 1);
      if (here !== above) for (const own of [here, above]) edge(own, x, y, x + 1, y);
    }
  return found;
}

/** Places of a picture's tiles in a state: x, y, width, height in pixels of the picture. */
export function tilesIn(picture: Picture, state: TileState): (readonly [number, number, number, number])[] {
  const { across, down } = picture.plane;
  return picture.tiles
    .filter((_, rank) => picture.states[rank] === state)
    .map(({ box }) => [
      picture.width - box.start[across] - box.size[across],
      picture.height - box.start[down] - box.size[down],
      box.size[across],
      box.size[down],
    ]);
}

/** Stripes for what is damaged: never to be taken for a picture. */
export function hatching(context: CanvasRenderingContext2D): CanvasPattern {
  const tile = document.createElement("canvas");
  tile.width = 12;
  tile.height = 12;
  const pen = tile.getContext("2d")!;
  pen.fillStyle = "#3a1210";
  pen.fillRect(0, 0, 12, 12);
  pen.strokeStyle = "#ff6b5e";
  pen.lineWidth = 2;
  pen.beginPath();
  for (const at of [-12, 0, 12]) {
    pen.moveTo(at, 12);
    pen.lineTo(at + 12, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat")!;
}
