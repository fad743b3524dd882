/** Draws the layers of a slice on its canvas: base, overlay, what is missing, outlines, crosshair. */

import { displayOf, type Mask, type Range } from "./images.ts";
import { type Cut, hatching, outlines, Painted, tilesIn } from "./painting.ts";
import { type Picture, TileState } from "./picture.ts";
import { type Plane, pixelOfVoxel } from "./planes.ts";
import type { OutlinedMask, Scene } from "./scene.ts";
import type { SliceLayers } from "./slice-layers.ts";
import type { Pixels, Placement } from "./viewport.ts";

/** From this zoom on single voxels are to be seen as such. */
const SHARP_ZOOM = 4;
const CROSSHAIR_GAP = 9;

interface Outline {
  readonly version: number;
  readonly mask: Mask;
  readonly lines: Map<number, number[]>;
}

export class SliceRenderer {
  readonly #plane: Plane;
  readonly #painted = new Map<string, Painted>();
  /** Edges are looked for once a picture, not once a frame of the screen. */
  readonly #outlines = new WeakMap<Picture, Outline>();

  constructor(plane: Plane) {
    this.#plane = plane;
  }

  /** Draw a scene, in CSS pixels of a canvas of a size. */
  draw(
    context: CanvasRenderingContext2D,
    size: Pixels,
    scene: Scene,
    layers: SliceLayers,
    placement: Placement,
    zoom: number,
  ): void {
    const { base, overlay } = scene;
    // grey values may be smoothed as on a workstation; colours stand for numbers, none is made up between two voxels
    const smooth = (colours: string) => colours === "gray" && zoom < SHARP_ZOOM;
    if (layers.base) {
      const { colours } = displayOf(base.volume.name);
      context.imageSmoothingEnabled = smooth(colours);
      this.#layer(context, placement, "base", layers.base, colours, scene.limits);
    }
    if (overlay && layers.overlay) {
      const { colours } = displayOf(overlay.volume.name);
      context.imageSmoothingEnabled = smooth(colours);
      context.globalAlpha = scene.opacity;
      this.#layer(context, placement, "overlay", layers.overlay, colours, scene.overlayLimits, scene);
      context.globalAlpha = 1;
    }
    for (const [layer, picture] of layers) drawGaps(context, placement, layer, picture);
    for (const mask of scene.masks) {
      const picture = layers.mask(mask.entry.id);
      if (picture) this.#outline(context, placement, mask, picture);
    }
    if (scene.crosshair) drawCrosshair(context, size, placement, pixelOfVoxel(scene.grid, this.#plane, scene.at));
  }

  #layer(
    context: CanvasRenderingContext2D,
    { sx, sy, x0, y0 }: Placement,
    layer: string,
    picture: Picture,
    colours: string,
    limits: Range,
    overlay?: Cut,
  ): void {
    const painted = this.#painted.get(layer) ?? new Painted();
    this.#painted.set(layer, painted);
    context.imageSmoothingQuality = "high";
    const image = painted.paint(picture, colours, limits, overlay);
    context.drawImage(image, x0, y0, picture.width * sx, picture.height * sy);
  }

  #outline(
    context: CanvasRenderingContext2D,
    { sx, sy, x0, y0 }: Placement,
    { mask, colours }: OutlinedMask,
    picture: Picture,
  ): void {
    for (const [label, lines] of this.#linesOf(picture, mask)) {
      context.beginPath();
      for (let at = 0; at < lines.length; at += 4) {
        context.moveTo(x0 + lines[at]! * sx, y0 + lines[at + 1]! * sy);
        context.lineTo(x0 + lines[at + 2]! * sx, y0 + lines[at + 3]! * sy);
      }
      context.lineCap = "square";
      // a dark rim, so that a line is seen on bright bone as well
      context.strokeStyle = "#000000b0";
      context.lineWidth = 3;
      context.stroke();
      context.strokeStyle = colours(label);
      context.lineWidth = 1.4;
      context.stroke();
    }
  }

  #linesOf(picture: Picture, mask: Mask): Map<number, number[]> {
    const held = this.#outlines.get(picture);
    if (held?.version === picture.version && held.mask === mask) return held.lines;
    const lines = outlines(picture.values, picture.width, picture.height, mask);
    this.#outlines.set(picture, { version: picture.version, mask, lines });
    return lines;
  }
}

/** What is not there yet is a faint ground, what is damaged is hatched. */
function drawGaps(
  context: CanvasRenderingContext2D,
  { sx, sy, x0, y0 }: Placement,
  layer: string,
  picture: Picture,
): void {
  const damaged = tilesIn(picture, TileState.Damaged);
  if (damaged.length) {
    context.fillStyle = hatching(context);
    context.globalAlpha = layer === "base" ? 1 : 0.55;
    for (const [x, y, w, d] of damaged) context.fillRect(x0 + x * sx, y0 + y * sy, w * sx, d * sy);
    context.globalAlpha = 1;
  }
  if (layer !== "base") return;
  context.fillStyle = "#1a2027";
  for (const [x, y, w, d] of tilesIn(picture, TileState.Waiting))
    context.fillRect(x0 + x * sx + 0.5, y0 + y * sy + 0.5, w * sx - 1, d * sy - 1);
}

/** Lines through a voxel that leave it free: what is looked at is not drawn over. */
function drawCrosshair(
  context: CanvasRenderingContext2D,
  [width, height]: Pixels,
  { sx, sy, x0, y0 }: Placement,
  [column, row]: Pixels,
): void {
  const [x, y] = [x0 + column * sx, y0 + row * sy];
  context.strokeStyle = "#7fd4ffb0";
  context.lineWidth = 1;
  context.beginPath();
  for (const [ax, ay, bx, by] of [
    [0, y, x - CROSSHAIR_GAP, y],
    [x + CROSSHAIR_GAP, y, width, y],
    [x, 0, x, y - CROSSHAIR_GAP],
    [x, y + CROSSHAIR_GAP, x, height],
  ] as const) {
    context.moveTo(ax, ay);
    context.lineTo(bx, by);
  }
  context.stroke();
}
