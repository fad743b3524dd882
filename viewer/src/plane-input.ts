/** Wheel, pointer and keys on a plane, as what they stand for: scrolling, pointing, windowing, zooming, panning. */

import type { Axis, Vec3 } from "./geometry.ts";
import type { Plane, PlaneName } from "./planes.ts";
import type { Pixels } from "./viewport.ts";

/** What the user asks of the page by a plane. */
export interface PointingEvents {
  /** The crosshair is led to a voxel. */
  moved(at: Vec3): void;
  /** A voxel was clicked, or chosen by Enter. */
  chosen(at: Vec3): void;
  /** The cursor has moved over the plane, or has left it. */
  hovered(): void;
  /** The window is dragged, by a part of its width, in both directions. */
  windowed(right: number, up: number): void;
  maximized(plane: PlaneName): void;
}

/** What the user asks of the plane itself. */
export interface PlaneCommands {
  /** The voxel under a point of the canvas; outside of the slice none, or the nearest. */
  voxelAt(point: Pixels, outside: "none" | "nearest"): Vec3 | undefined;
  /** Where the crosshair is. */
  crosshair(): Vec3 | undefined;
  /** Lead the crosshair along an axis of the grid, by voxels. */
  step(axis: Axis, by: number): void;
  zoom(factor: number, point?: Pixels): void;
  pan(right: number, down: number): void;
  reset(): void;
}

/** So far a pointer may go between down and up for a click. */
const CLICK_PIXELS = 4;
/** A notch of a wheel in a browser that counts in pixels. */
const NOTCH_PIXELS = 50;
/** A window is dragged over its whole width by so many pixels; a wheel with Ctrl zooms by e. */
const DRAG_PIXELS = 300;
const PAN_PIXELS = 24;

export class PlaneInput {
  readonly #canvas: HTMLCanvasElement;
  readonly #plane: Plane;
  readonly #commands: PlaneCommands;
  readonly #events: PointingEvents;
  /** What a touchpad has scrolled, in notches, and not yet been a slice. */
  #rolled = 0;
  /** Where the pointer is on the screen; the picture may move beneath it. */
  #pointer: { readonly clientX: number; readonly clientY: number } | undefined;

  constructor(canvas: HTMLCanvasElement, plane: Plane, commands: PlaneCommands, events: PointingEvents) {
    this.#canvas = canvas;
    this.#plane = plane;
    this.#commands = commands;
    this.#events = events;
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    const follow = (event: PointerEvent | undefined) => {
      this.#pointer = event && { clientX: event.clientX, clientY: event.clientY };
      events.hovered();
    };
    canvas.addEventListener("pointerleave", () => follow(undefined));
    canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** The voxel that is under the pointer now. */
  get pointed(): Vec3 | undefined {
    return this.#pointer && this.#commands.voxelAt(this.#pointOf(this.#pointer), "none");
  }

  #pointOf(event: { readonly clientX: number; readonly clientY: number }): Pixels {
    const bounds = this.#canvas.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  #wheel(event: WheelEvent): void {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      this.#commands.zoom(Math.exp(-event.deltaY / DRAG_PIXELS), this.#pointOf(event));
      return;
    }
    // a notch of a wheel is a slice; a touchpad sends many small steps
    this.#rolled += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / NOTCH_PIXELS : event.deltaY;
    const steps = Math.abs(event.deltaY) >= NOTCH_PIXELS ? Math.sign(event.deltaY) : Math.trunc(this.#rolled);
    if (!steps) return;
    this.#rolled = 0;
    this.#commands.step(this.#plane.normal, -steps);
  }

  #drag(start: PointerEvent): void {
    const canvas = this.#canvas;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(start.pointerId);
    const mode = start.button === 2 ? "window" : start.button === 1 || start.shiftKey ? "pan" : "point";
    let [x, y] = [start.clientX, start.clientY];
    let far = false;
    if (start.button === 1) start.preventDefault();
    const move = (event: PointerEvent) => {
      far ||= Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > CLICK_PIXELS;
      if (!far) return;
      const [right, down] = [event.clientX - x, event.clientY - y];
      [x, y] = [event.clientX, event.clientY];
      if (mode === "pan") this.#commands.pan(right, down);
      else if (mode === "window") this.#events.windowed(right / DRAG_PIXELS, -down / DRAG_PIXELS);
      else this.#lead(event);
    };
    const end = (event: PointerEvent) => {
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", end);
      canvas.removeEventListener("pointercancel", end);
      const at = this.#commands.voxelAt(this.#pointOf(event), "none");
      if (!far && mode === "point" && at && event.type === "pointerup") this.#events.chosen(at);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  }

  /** Lead the crosshair after the pointer. */
  #lead(event: PointerEvent): void {
    const at = this.#commands.voxelAt(this.#pointOf(event), "nearest");
    if (at) this.#events.moved(at);
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { across, down, normal, name } = this.#plane;
    const { step, pan, zoom, reset, crosshair } = this.#commands;
    // slices run against their axes: an arrow to the right leads to a smaller index
    const keys: Record<string, () => void> = {
      ArrowLeft: () => (event.shiftKey ? pan(PAN_PIXELS, 0) : step(across, 1)),
      ArrowRight: () => (event.shiftKey ? pan(-PAN_PIXELS, 0) : step(across, -1)),
      ArrowUp: () => (event.shiftKey ? pan(0, PAN_PIXELS) : step(down, 1)),
      ArrowDown: () => (event.shiftKey ? pan(0, -PAN_PIXELS) : step(down, -1)),
      PageUp: () => step(normal, 1),
      PageDown: () => step(normal, -1),
      "+": () => zoom(1.25),
      "=": () => zoom(1.25),
      "-": () => zoom(0.8),
      "0": reset,
      m: () => this.#events.maximized(name),
      Enter: () => {
        const at = crosshair();
        if (at) this.#events.chosen(at);
      },
    };
    const act = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }
}
