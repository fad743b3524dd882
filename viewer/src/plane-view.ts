/** One plane: its canvas, what is written around it, and the slice that it shows. */

import { h, once, say } from "./dom.ts";
import { type Axis, lettersOf, type Vec3 } from "./geometry.ts";
import { prefetch } from "./picture.ts";
import { PlaneInput, type PointingEvents } from "./plane-input.ts";
import { PLANES, type Plane, type PlaneName } from "./planes.ts";
import type { Scene } from "./scene.ts";
import { SliceLayers } from "./slice-layers.ts";
import { SliceRenderer } from "./slice-renderer.ts";
import { type Look, type Pixels, Viewport } from "./viewport.ts";

export interface PlaneEvents extends PointingEvents {
  failed(error: unknown): void;
  /** It is zoomed or panned; undefined for the whole slice. */
  looked(look: Look | undefined): void;
  /** Something has arrived. */
  arrived(): void;
}

/** Lengths of a scale, the longest first that fits. */
const SCALES_MM = [50, 20, 10, 5, 2];
/** The slice that is looked at next is read when nothing else is. */
const PREFETCHED = 9;

export class PlaneView {
  readonly element: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  readonly plane: Plane;
  readonly #status = h("span", { class: "plane-status" });
  readonly #captions = h("p", { class: "captions" });
  readonly #scale = h("p", { class: "scale", "aria-hidden": "true" });
  readonly #marks: Record<"left" | "right" | "top" | "bottom", HTMLElement>;
  readonly #layers: SliceLayers;
  readonly #renderer: SliceRenderer;
  readonly #events: PlaneEvents;
  readonly #input: PlaneInput;
  #scene: Scene | undefined;
  #last = -1;
  readonly draw = once(() => this.#draw());
  readonly #resized = new ResizeObserver(this.draw);

  constructor(name: PlaneName, events: PlaneEvents) {
    this.plane = PLANES[name];
    this.#events = events;
    this.#renderer = new SliceRenderer(this.plane);
    this.#layers = new SliceLayers(this.plane, {
      changed: this.draw,
      arrived: () => events.arrived(),
      failed: (error) => events.failed(error),
    });
    this.canvas = h("canvas", { "data-plane": name, tabindex: 0, role: "application", "aria-label": `${name} plane` });
    const mark = (side: string) => h("span", { class: `mark mark-${side}`, "aria-hidden": "true" });
    this.#marks = { left: mark("left"), right: mark("right"), top: mark("top"), bottom: mark("bottom") };
    this.element = this.#built(name);
    this.#resized.observe(this.canvas);
    this.#input = this.#listening();
  }

  #built(name: PlaneName): HTMLElement {
    const title = name[0]!.toUpperCase() + name.slice(1);
    const enlarge = h(
      "button",
      {
        class: "enlarge",
        type: "button",
        title: "this plane alone, or all three (M)",
        "aria-label": `${title}: this plane alone, or all three`,
        onclick: () => this.#events.maximized(name),
      },
      "⤢",
    );
    return h(
      "section",
      { class: `plane plane-${name}`, "aria-label": title },
      this.canvas,
      h("div", { class: "plane-head" }, h("h2", {}, title), this.#status, enlarge),
      this.#captions,
      this.#scale,
      ...Object.values(this.#marks),
    );
  }

  #listening(): PlaneInput {
    const commands = {
      voxelAt: (point: Pixels, outside: "none" | "nearest") => this.#voxelAt(point, outside),
      crosshair: () => this.#scene?.at,
      step: (axis: Axis, by: number) => this.#step(axis, by),
      zoom: (factor: number, point?: Pixels) => this.#events.looked(this.#viewport?.zoomed(factor, point)),
      pan: (right: number, down: number) => this.#events.looked(this.#viewport?.panned(right, down)),
      reset: () => this.#events.looked(undefined),
    };
    return new PlaneInput(this.canvas, this.plane, commands, this.#events);
  }

  /** Whether all that is shown has arrived. */
  get complete(): boolean {
    return this.#layers.complete;
  }

  /** The voxel that is under the mouse. */
  get pointed(): Vec3 | undefined {
    return this.canvas.clientWidth ? this.#input.pointed : undefined;
  }

  show(scene: Scene, priority: number): void {
    const { normal, name } = this.plane;
    const index = scene.at[normal];
    const moved = this.#scene?.grid === scene.grid ? index - this.#last : 0;
    this.#scene = scene;
    this.#last = index;
    this.#layers.show(scene, index, priority);
    // who scrolls goes on in the same direction; slices of the other planes cost too many chunks to be guessed
    const next = index + Math.sign(moved);
    if (moved && !scene.playing && name === "axial" && next >= 0 && next < scene.grid.shape[normal])
      prefetch(scene.base.volume, this.plane, next, scene.frame, PREFETCHED);
    this.#tell(scene, index);
    this.draw();
  }

  /** Show nothing, and ask for nothing more. */
  hide(): void {
    this.#layers.clear();
  }

  /** Leave the subject. */
  close(): void {
    this.#resized.disconnect();
    this.hide();
  }

  /** Say which slice it is, and which sides of the patient are where. */
  #tell(scene: Scene, index: number): void {
    const across = lettersOf(scene.grid, this.plane.across);
    const down = lettersOf(scene.grid, this.plane.down);
    say(this.#marks.left, across[1]);
    say(this.#marks.right, across[0]);
    say(this.#marks.top, down[1]);
    say(this.#marks.bottom, down[0]);
    const slices = scene.grid.shape[this.plane.normal];
    say(this.#status, `${index + 1} / ${slices}`);
    say(this.#captions, scene.captions.join("\n"));
    const sides = scene.grid.oriented
      ? `, left of the picture is ${across[1]}, top is ${down[1]}`
      : ", sides are not known";
    this.canvas.setAttribute(
      "aria-label",
      `${this.plane.name} plane, slice ${index + 1} of ${slices}${sides}. Arrows move the crosshair, Page Up and Page Down the slice, Enter draws the curve.`,
    );
  }

  /** Of the canvas, in CSS pixels. */
  get #size(): Pixels {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  #draw(): void {
    const { canvas } = this;
    const size = this.#size;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = size.map((pixels) => Math.round(pixels * ratio)) as [number, number];
    if (!width || !height) return;
    // to set a size empties the canvas, also where it is the same
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const viewport = this.#viewport;
    if (!this.#scene || !viewport) return;
    this.#tellScale(this.#scene, viewport);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#renderer.draw(context, size, this.#scene, this.#layers, viewport.placement, viewport.zoom);
  }

  /** How the scene's slice lies on the canvas now. */
  get #viewport(): Viewport | undefined {
    const scene = this.#scene;
    const { name, normal } = this.plane;
    return scene && new Viewport(this.plane, scene.grid, scene.at[normal], this.#size, scene.looks[name]);
  }

  #tellScale({ grid }: Scene, { placement }: Viewport): void {
    const perMillimetre = placement.sx / grid.spacing[this.plane.across];
    const length = SCALES_MM.find((one) => one * perMillimetre < this.canvas.clientWidth / 4) ?? 1;
    this.#scale.style.width = `${length * perMillimetre}px`;
    say(this.#scale, length < 10 ? `${length} mm` : `${length / 10} cm`);
  }

  #voxelAt(point: Pixels, outside: "none" | "nearest"): Vec3 | undefined {
    const found = this.#viewport?.voxelAt(point);
    return found?.outside && outside === "none" ? undefined : found?.at;
  }

  #step(axis: Axis, by: number): void {
    const scene = this.#scene;
    if (!scene) return;
    const at = [...scene.at] as [number, number, number];
    at[axis] = Math.min(Math.max(at[axis] + by, 0), scene.grid.shape[axis] - 1);
    if (at[axis] !== scene.at[axis]) this.#events.moved(at);
  }
}
