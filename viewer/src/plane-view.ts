/** One plane on a canvas: base, overlay, outlines, crosshair; wheel, drag and keys on it. */

import { h, once, say } from "./dom.ts";
import { type Grid, lettersOf, type Vec3 } from "./geometry.ts";
import { COLOURS, displayOf, type Mask, type Range } from "./images.ts";
import { type Cut, hatching, outlines, Painted, tilesIn } from "./painting.ts";
import { Picture, prefetch, TileState } from "./picture.ts";
import { PLANES, type Plane, type PlaneName, pixelOfVoxel, voxelOfPixel } from "./planes.ts";
import type { Entry } from "./subject.ts";

export interface Scene {
  readonly grid: Grid;
  readonly base: Entry;
  readonly overlay: Entry | undefined;
  readonly masks: readonly {
    readonly entry: Entry;
    readonly mask: Mask;
    readonly colours: (label: number) => string;
  }[];
  readonly at: Vec3;
  readonly frame: number;
  readonly limits: Range;
  readonly overlayLimits: Range;
  readonly threshold: number;
  readonly below: boolean;
  readonly opacity: number;
  readonly playing: boolean;
  readonly crosshair: boolean;
  /** What is shown, and how: a line for each layer. */
  readonly captions: readonly string[];
}

export interface PlaneEvents {
  /** The crosshair is led to a voxel. */
  moved(at: Vec3): void;
  /** A voxel was clicked, or chosen by Enter. */
  chosen(at: Vec3): void;
  /** The cursor is over a voxel, or has left. */
  hovered(at: Vec3 | undefined): void;
  /** The window is dragged, by a part of its width, in both directions. */
  windowed(right: number, up: number): void;
  failed(error: unknown): void;
  /** Something has arrived. */
  arrived(): void;
  maximized(plane: PlaneName): void;
}

const CLICK_PIXELS = 4;
/** Lengths of a scale, the longest first that fits. */
const SCALES_MM = [50, 20, 10, 5, 2];
const PREFETCHED = 9;

export class PlaneView {
  readonly element: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  readonly plane: Plane;
  readonly #events: PlaneEvents;
  readonly #status: HTMLElement;
  readonly #captions = h("p", { class: "captions" });
  readonly #scale = h("p", { class: "scale", "aria-hidden": "true" });
  readonly #marks: Record<"left" | "right" | "top" | "bottom", HTMLElement>;
  readonly #pictures = new Map<string, Picture>();
  readonly #painted = new Map<string, Painted>();
  readonly #paths = new WeakMap<Picture, { version: number; mask: Mask; lines: Map<number, number[]> }>();
  #scene: Scene | undefined;
  #zoom = 1;
  /** Of the picture's centre, in CSS pixels. */
  #pan: [number, number] = [0, 0];
  #last = -1;
  readonly draw = once(() => this.#draw());

  constructor(name: PlaneName, events: PlaneEvents) {
    this.plane = PLANES[name];
    this.#events = events;
    this.canvas = h("canvas", { "data-plane": name, tabindex: 0, role: "application", "aria-label": `${name} plane` });
    this.#status = h("span", { class: "plane-status" });
    const mark = (side: string) => h("span", { class: `mark mark-${side}`, "aria-hidden": "true" });
    this.#marks = { left: mark("left"), right: mark("right"), top: mark("top"), bottom: mark("bottom") };
    const title = name[0]!.toUpperCase() + name.slice(1);
    const enlarge = h(
      "button",
      {
        class: "enlarge",
        type: "button",
        title: "this plane alone, or all three (M)",
        "aria-label": `${title}: this plane alone, or all three`,
        onclick: () => events.maximized(name),
      },
      "⤢",
    );
    const head = h("div", { class: "plane-head" }, h("h2", {}, title), this.#status, enlarge);
    this.element = h(
      "section",
      { class: `plane plane-${name}`, "aria-label": title },
      this.canvas,
      head,
      this.#captions,
      this.#scale,
      ...Object.values(this.#marks),
    );
    new ResizeObserver(this.draw).observe(this.canvas);
    this.#listen();
  }

  /** Whether all that is shown has arrived. */
  get complete(): boolean {
    return [...this.#pictures.values()].every((picture) => picture.complete);
  }

  get picture(): Picture | undefined {
    return this.#pictures.get("base");
  }

  show(scene: Scene, priority: number): void {
    const { normal } = this.plane;
    const index = scene.at[normal];
    const moved = this.#scene?.grid === scene.grid ? index - this.#last : 0;
    if (this.#scene?.grid !== scene.grid) this.reset();
    this.#scene = scene;
    this.#last = index;
    const wanted = new Map([["base", scene.base.volume]]);
    if (scene.overlay) wanted.set("overlay", scene.overlay.volume);
    for (const { entry } of scene.masks) wanted.set(`mask ${entry.id}`, entry.volume);
    for (const [layer, picture] of this.#pictures) {
      const volume = wanted.get(layer);
      const key = volume && Picture.key(volume, this.plane, index, scene.frame);
      if (key === Picture.key(picture.volume, this.plane, picture.index, picture.frame)) wanted.delete(layer);
      else {
        picture.cancel();
        this.#pictures.delete(layer);
      }
    }
    for (const [layer, volume] of wanted) {
      const picture = new Picture(volume, this.plane, index, scene.frame);
      this.#pictures.set(layer, picture);
      const changed = () => {
        if (this.#pictures.get(layer) === picture) this.draw();
        this.#events.arrived();
      };
      picture.load(layer === "base" ? priority : priority + 1, changed, this.#events.failed);
    }
    const next = index + Math.sign(moved);
    if (moved && !scene.playing && this.plane.name === "axial" && next >= 0 && next < scene.grid.shape[normal])
      prefetch(scene.base.volume, this.plane, next, scene.frame, PREFETCHED);
    this.#tell(scene, index);
    this.draw();
  }

  /** Show nothing, and ask for nothing more. */
  hide(): void {
    for (const picture of this.#pictures.values()) picture.cancel();
    this.#pictures.clear();
  }

  reset(): void {
    this.#zoom = 1;
    this.#pan = [0, 0];
    this.draw();
  }

  #tell(scene: Scene, index: number): void {
    const across = lettersOf(scene.grid, this.plane.across);
    const down = lettersOf(scene.grid, this.plane.down);
    say(this.#marks.left, across[1]);
    say(this.#marks.right, across[0]);
    say(this.#marks.top, down[1]);
    say(this.#marks.bottom, down[0]);
    say(this.#status, `${index + 1} / ${scene.grid.shape[this.plane.normal]}`);
    say(this.#captions, scene.captions.join("\n"));
    const sides = scene.grid.oriented
      ? `, left of the picture is ${across[1]}, top is ${down[1]}`
      : ", sides are not known";
    this.canvas.setAttribute(
      "aria-label",
      `${this.plane.name} plane, slice ${index + 1} of ${scene.grid.shape[this.plane.normal]}${sides}. Arrows move the crosshair, Page Up and Page Down the slice, Enter draws the curve.`,
    );
  }

  /** CSS pixels for one pixel of the picture in both directions, and where the picture begins. */
  #frame(scene: Scene): { sx: number; sy: number; x0: number; y0: number } {
    const { across, down } = this.plane;
    const { shape, spacing } = scene.grid;
    const [width, height] = [shape[across] * spacing[across], shape[down] * spacing[down]];
    const room = [Math.max(this.canvas.clientWidth - 28, 1), Math.max(this.canvas.clientHeight - 28, 1)] as const;
    const scale = Math.min(room[0] / width, room[1] / height) * this.#zoom;
    return {
      sx: spacing[across] * scale,
      sy: spacing[down] * scale,
      x0: this.canvas.clientWidth / 2 + this.#pan[0] - (width * scale) / 2,
      y0: this.canvas.clientHeight / 2 + this.#pan[1] - (height * scale) / 2,
    };
  }

  #draw(): void {
    const { canvas } = this;
    const scene = this.#scene;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!scene) return;
    const frame = this.#frame(scene);
    const perMillimetre = frame.sx / scene.grid.spacing[this.plane.across];
    const length = SCALES_MM.find((one) => one * perMillimetre < canvas.clientWidth / 4) ?? 1;
    this.#scale.style.width = `${length * perMillimetre}px`;
    say(this.#scale, length < 10 ? `${length} mm` : `${length / 10} cm`);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#layer(context, frame, "base", displayOf(scene.base.volume.name).colours, scene.limits);
    if (scene.overlay) {
      context.globalAlpha = scene.opacity;
      const colours = displayOf(scene.overlay.volume.name).colours;
      this.#layer(context, frame, "overlay", colours, scene.overlayLimits, scene);
      context.globalAlpha = 1;
    }
    for (const [layer, picture] of this.#pictures) this.#gaps(context, frame, layer, picture);
    for (const mask of scene.masks) this.#outline(context, frame, mask);
    if (scene.crosshair) this.#crosshair(context, frame, scene);
  }

  #layer(
    context: CanvasRenderingContext2D,
    { sx, sy, x0, y0 }: { sx: number; sy: number; x0: number; y0: number },
    layer: string,
    colours: string,
    limits: Range,
    overlay?: Cut,
  ): void {
    const picture = this.#pictures.get(layer);
    if (!picture) return;
    const painted = this.#painted.get(layer) ?? new Painted();
    this.#painted.set(layer, painted);
    // grey values may be smoothed as on a workstation; colours stand for numbers, none is made up between two voxels
    context.imageSmoothingEnabled = colours === "gray" && this.#zoom < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(
      painted.paint(picture, colours, limits, overlay),
      x0,
      y0,
      picture.width * sx,
      picture.height * sy,
    );
  }

  /** What is not there yet is a faint ground, what is damaged is hatched. */
  #gaps(
    context: CanvasRenderingContext2D,
    { sx, sy, x0, y0 }: { sx: number; sy: number; x0: number; y0: number },
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

  #outline(
    context: CanvasRenderingContext2D,
    { sx, sy, x0, y0 }: { sx: number; sy: number; x0: number; y0: number },
    { entry, mask, colours }: Scene["masks"][number],
  ): void {
    const picture = this.#pictures.get(`mask ${entry.id}`);
    if (!picture) return;
    let held = this.#paths.get(picture);
    if (held?.version !== picture.version || held.mask !== mask) {
      const lines = outlines(picture.values, picture.width, picture.height, mask);
      held = { version: picture.version, mask, lines };
      this.#paths.set(picture, held);
    }
    for (const [label, lines] of held.lines) {
      context.beginPath();
      for (let at = 0; at < lines.length; at += 4) {
        context.moveTo(x0 + lines[at]! * sx, y0 + lines[at + 1]! * sy);
        context.lineTo(x0 + lines[at + 2]! * sx, y0 + lines[at + 3]! * sy);
      }
      context.lineCap = "square";
      context.strokeStyle = "#000000b0";
      context.lineWidth = 3;
      context.stroke();
      context.strokeStyle = colours(label);
      context.lineWidth = 1.4;
      context.stroke();
    }
  }

  #crosshair(
    context: CanvasRenderingContext2D,
    { sx, sy, x0, y0 }: { sx: number; sy: number; x0: number; y0: number },
    scene: Scene,
  ): void {
    const [column, row] = pixelOfVoxel(scene.grid, this.plane, scene.at);
    const [x, y] = [x0 + column * sx, y0 + row * sy];
    const gap = 9;
    context.strokeStyle = "#7fd4ffb0";
    context.lineWidth = 1;
    context.beginPath();
    for (const [ax, ay, bx, by] of [
      [0, y, x - gap, y],
      [x + gap, y, this.canvas.clientWidth, y],
      [x, 0, x, y - gap],
      [x, y + gap, x, this.canvas.clientHeight],
    ] as const) {
      context.moveTo(ax, ay);
      context.lineTo(bx, by);
    }
    context.stroke();
  }

  // --- what the user does ---

  #voxel(event: MouseEvent, inside: boolean): Vec3 | undefined {
    const scene = this.#scene;
    if (!scene) return undefined;
    const { sx, sy, x0, y0 } = this.#frame(scene);
    const bounds = this.canvas.getBoundingClientRect();
    const [column, row] = [(event.clientX - bounds.left - x0) / sx, (event.clientY - bounds.top - y0) / sy];
    const at = voxelOfPixel(scene.grid, this.plane, scene.at[this.plane.normal], column, row).map(
      Math.round,
    ) as unknown as Vec3;
    const out = at.some((index, axis) => index < 0 || index >= scene.grid.shape[axis]!);
    if (out && inside) return undefined;
    return at.map((index, axis) => Math.min(Math.max(index, 0), scene.grid.shape[axis]! - 1)) as unknown as Vec3;
  }

  #step(axis: number, by: number): void {
    const scene = this.#scene;
    if (!scene) return;
    const at = [...scene.at] as [number, number, number];
    at[axis] = Math.min(Math.max(at[axis]! + by, 0), scene.grid.shape[axis]! - 1);
    if (at[axis] !== scene.at[axis]) this.#events.moved(at);
  }

  /** Zoom so that a place stays where it is. */
  #zoomed(factor: number, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2): void {
    const zoom = Math.min(Math.max(this.#zoom * factor, 0.5), 32);
    const real = zoom / this.#zoom;
    const [cx, cy] = [x - this.canvas.clientWidth / 2, y - this.canvas.clientHeight / 2];
    this.#pan = [cx - (cx - this.#pan[0]) * real, cy - (cy - this.#pan[1]) * real];
    this.#zoom = zoom;
    this.draw();
  }

  #panned(right: number, down: number): void {
    this.#pan = [this.#pan[0] + right, this.#pan[1] + down];
    this.draw();
  }

  #listen(): void {
    const { canvas } = this;
    let rolled = 0;
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        if (event.ctrlKey || event.metaKey) {
          const bounds = canvas.getBoundingClientRect();
          this.#zoomed(Math.exp(-event.deltaY / 300), event.clientX - bounds.left, event.clientY - bounds.top);
          return;
        }
        // a notch of a wheel is a slice; a touchpad sends many small steps
        rolled += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / 50 : event.deltaY;
        const steps = Math.abs(event.deltaY) >= 50 ? Math.sign(event.deltaY) : Math.trunc(rolled);
        if (!steps) return;
        rolled = 0;
        this.#step(this.plane.normal, -steps);
      },
      { passive: false },
    );
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerleave", () => this.#events.hovered(undefined));
    canvas.addEventListener("pointerdown", (event) => this.#dragged(event));
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) this.#events.hovered(this.#voxel(event, true));
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #dragged(start: PointerEvent): void {
    const { canvas } = this;
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
      if (mode === "pan") this.#panned(right, down);
      else if (mode === "window") this.#events.windowed(right / 300, -down / 300);
      else {
        const at = this.#voxel(event, false);
        if (at) this.#events.moved(at);
        this.#events.hovered(at);
      }
    };
    const end = (event: PointerEvent) => {
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", end);
      canvas.removeEventListener("pointercancel", end);
      const at = this.#voxel(event, true);
      if (!far && mode === "point" && at && event.type === "pointerup") this.#events.chosen(at);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { across, down, normal } = this.plane;
    const far = 24;
    const keys: Record<string, () => void> = {
      ArrowLeft: () => (event.shiftKey ? this.#panned(far, 0) : this.#step(across, 1)),
      ArrowRight: () => (event.shiftKey ? this.#panned(-far, 0) : this.#step(across, -1)),
      ArrowUp: () => (event.shiftKey ? this.#panned(0, far) : this.#step(down, 1)),
      ArrowDown: () => (event.shiftKey ? this.#panned(0, -far) : this.#step(down, -1)),
      PageUp: () => this.#step(normal, 1),
      PageDown: () => this.#step(normal, -1),
      "+": () => this.#zoomed(1.25),
      "=": () => this.#zoomed(1.25),
      "-": () => this.#zoomed(0.8),
      "0": () => this.reset(),
      m: () => this.#events.maximized(this.plane.name),
      Enter: () => this.#scene && this.#events.chosen(this.#scene.at),
    };
    const act = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }
}

const GOLDEN_DEGREES = 137.508;

/** The colour of a label: of a mask with one label its own; of many, hues that lie far apart. */
export function labelColours(mask: Mask, own: string): (label: number) => string {
  if (mask.labels.length <= 1) return () => own;
  const order = new Map(mask.labels.map(([label], rank) => [label, rank]));
  if (mask.labels.length <= COLOURS.length) return (label) => COLOURS[(order.get(label) ?? label) % COLOURS.length]!;
  return (label) => `hsl(${((order.get(label) ?? label) * GOLDEN_DEGREES) % 360} 85% 66%)`;
}
