/** The page of one subject: planes, controls, curves, clinical values, all of one view. */

import { type SubjectAddress, written } from "./address.ts";
import { ClinicalPanel } from "./clinical-panel.ts";
import { Controls, type ShownMask } from "./controls.ts";
import { CurvePanel } from "./curve-panel.ts";
import { type Curve, type Region, readCurve } from "./curves.ts";
import { h, once, say, show } from "./dom.ts";
import { tiltOf, type Vec3, worldOf } from "./geometry.ts";
import { COLOURS, displayOf, isComputed, limitsOf, type Mask, maskOf, type Range, unitsOf, WINDOWS } from "./images.ts";
import { measuredVolumes } from "./measuring.ts";
import { labelColours, PlaneView, type Scene } from "./plane-view.ts";
import { PLANE_NAMES, type PlaneName } from "./planes.ts";
import { Problems } from "./problems.ts";
import { type HttpStore, isAbort } from "./store.ts";
import type { Entry, Space, Subject } from "./subject.ts";
import { fields, shownNumber } from "./values.ts";
import { addressOf, nearest, usualLimits, usualThreshold, type View, viewOf } from "./view.ts";

/** What is read first: what is looked at. */
const FIRST = 0;
const BESIDE = 4;
/** A curve that was clicked, and one that an address asks for. */
const CLICKED = 2;
const CURVE = 6;
const MEASURED = 8;
/** A larger mask is not read whole for its volume. */
const MEASURED_BYTES = 4 * 1024 * 1024;
const PLAY_MS = 120;

export interface Surroundings {
  readonly store: HttpStore;
  /** Write the address; a step is one that “back” returns to. */
  address(hash: string, step: boolean): void;
}

export class SubjectPage {
  readonly element: HTMLElement;
  readonly subject: Subject;
  readonly #around: Surroundings;
  readonly #planes: Readonly<Record<PlaneName, PlaneView>>;
  readonly #controls: Controls;
  readonly #curves: CurvePanel;
  readonly #clinical: ClinicalPanel;
  readonly #spaces = h("div", { class: "choices", role: "group", "aria-label": "Space" });
  readonly #readout = h("p", { class: "readout" });
  readonly #problems = h("div", { class: "problems", role: "alert" });
  readonly #stage = h("div", { class: "stage" });
  readonly #errors = new Problems();
  readonly #notes: string[] = [];
  readonly #masks = new Map<string, Mask>();
  readonly #limits = new Map<string, Range>();
  readonly #volumes = new Map<string, ReadonlyMap<number, number>>();
  readonly #life = new AbortController();
  #view: View;
  #hovered: Vec3 | undefined;
  #alone: PlaneName | undefined;
  #seconds: readonly number[] = [];
  #curve: Curve | undefined;
  #kept: Curve[] = [];
  #region: Region = "voxel";
  #reading: AbortController | undefined;
  #playing: ReturnType<typeof setTimeout> | undefined;
  #crosshair = true;
  #outlinesOff: ReadonlySet<string> | undefined;
  readonly #refreshed = once(() => this.#refresh());

  /** A page, or a text that says why there is none. */
  static of(subject: Subject, address: SubjectAddress, around: Surroundings): SubjectPage | string {
    const notes: string[] = [];
    const view = viewOf(subject, address, notes);
    return view ? new SubjectPage(subject, view, address, around, notes) : `${subject.name} has no images.`;
  }

  private constructor(subject: Subject, view: View, address: SubjectAddress, around: Surroundings, notes: string[]) {
    this.subject = subject;
    this.#around = around;
    this.#view = view;
    this.#notes.push(...notes);
    for (const problem of subject.problems) this.#errors.add(problem);
    const plane = (name: PlaneName) =>
      new PlaneView(name, {
        moved: (at) => this.#change({ at }),
        chosen: (at) => this.#choose(at),
        hovered: (at) => {
          this.#hovered = at;
          this.#refreshed();
        },
        windowed: (right, up) => this.#windowed(right, up),
        failed: (error) => this.#failed(error),
        arrived: this.#refreshed,
        maximized: (one) => this.#maximize(one),
      });
    this.#planes = { axial: plane("axial"), coronal: plane("coronal"), sagittal: plane("sagittal") };
    this.#controls = new Controls({
      base: (id) => this.#change({ base: this.#view.space.entries.get(id)!, window: undefined }, true),
      overlay: (id) =>
        this.#change(
          { overlay: id ? this.#view.space.entries.get(id) : undefined, threshold: undefined, below: false },
          true,
        ),
      window: (window) => this.#change({ window }),
      threshold: (threshold) => this.#change({ threshold }),
      below: (below) => this.#change({ below, threshold: this.#threshold() }),
      opacity: (opacity) => this.#change({ opacity }),
      mask: (id, on) => this.#mask(id, on),
      frame: (frame) => this.#change({ frame }),
      play: () => this.#play(),
    });
    this.#curves = new CurvePanel({
      region: (region) => {
        this.#region = region;
        this.#draw(this.#curve?.at ?? this.#view.at, CLICKED);
      },
      keep: () => this.#keep(),
      drop: (curve) => {
        this.#kept = this.#kept.filter((one) => one !== curve);
        this.#showCurves();
      },
      visit: (curve) => this.#change({ at: curve.at }),
      frame: (frame) => this.#change({ frame }),
    });
    this.#clinical = new ClinicalPanel(subject);
    this.element = this.#built();
    this.#opened(address);
  }

  #built(): HTMLElement {
    const planes = PLANE_NAMES.map((name) => this.#planes[name].element);
    show(this.#stage, ...planes);
    const side = h(
      "div",
      { class: "side" },
      h("fieldset", {}, h("legend", {}, "Space"), this.#spaces),
      this.#controls.element,
    );
    const middle = h("div", { class: "middle" }, this.#problems, this.#stage, this.#readout, this.#curves.element);
    return h("main", { class: "subject", tabindex: -1 }, this.#clinical.element, middle, side);
  }

  #opened(address: SubjectAddress): void {
    this.#showSpaces();
    this.#show();
    this.#around.address(this.#hash(), false);
    this.#timed();
    // an address with a position is a click that somebody made
    for (const position of address.curves ?? []) void this.#keepAt(nearest(this.#view.space.grid, position));
    if (address.at) this.#draw(this.#view.at);
    this.#measure();
  }

  /** Show what another address asks of the same subject. */
  follow(address: SubjectAddress): void {
    this.#notes.length = 0;
    const view = viewOf(this.subject, address, this.#notes);
    if (!view) return;
    const moved = address.at && view.at.some((index, axis) => index !== this.#view.at[axis]);
    const other = view.space !== this.#view.space;
    this.#view = view;
    if (other) this.#changedSpace();
    this.#show();
    if ((moved || other) && address.at) this.#draw(view.at);
  }

  close(): void {
    this.#life.abort();
    this.#reading?.abort();
    if (this.#playing) clearTimeout(this.#playing);
    for (const name of PLANE_NAMES) this.#planes[name].hide();
  }

  describe(units: ReadonlyMap<string, readonly [string, string]>): void {
    this.#clinical.describe(units);
  }

  // --- what is shown ---

  #hash(): string {
    return written(
      addressOf(
        this.subject,
        this.#view,
        this.#kept.map((curve) => curve.position),
      ),
    );
  }

  #change(patch: Partial<View>, step = false): void {
    this.#view = { ...this.#view, ...patch };
    this.#show();
    this.#around.address(this.#hash(), step);
  }

  #show(): void {
    const scene = this.#scene();
    for (const name of PLANE_NAMES) {
      const looked = this.#alone ?? "axial";
      if (this.#alone && name !== this.#alone) this.#planes[name].hide();
      else this.#planes[name].show(scene, name === looked ? FIRST : BESIDE);
    }
    this.#refreshed();
  }

  #scene(): Scene {
    const { space, base, overlay, at, frame, opacity, below } = this.#view;
    const overlayLimits = overlay ? this.#limitsOf(overlay) : ([0, 1] as const);
    return {
      grid: space.grid,
      base,
      overlay,
      masks: this.#shownMasks()
        .filter(({ on }) => on)
        .map(({ entry, mask, colour }) => ({ entry, mask, colours: labelColours(mask, colour) })),
      at,
      frame,
      limits: this.#baseLimits(),
      overlayLimits,
      threshold: this.#threshold(),
      below,
      opacity,
      playing: this.#playing !== undefined,
      crosshair: this.#crosshair,
    };
  }

  #baseLimits(): Range {
    const { window, base } = this.#view;
    if (window) return [window[0] - window[1] / 2, window[0] + window[1] / 2];
    return this.#limitsOf(base);
  }

  /** Limits of an image: the usual ones, or by the first slice of it that is seen whole. */
  #limitsOf(entry: Entry): Range {
    const usual = usualLimits(entry.volume.name) ?? this.#limits.get(entry.id);
    if (usual) return usual;
    const picture = this.#planes[this.#alone ?? "axial"].picture;
    if (picture?.volume !== entry.volume || !picture.complete) return [0, 1];
    const found = limitsOf(picture.values);
    this.#limits.set(entry.id, found);
    return found;
  }

  #threshold(): number {
    const { overlay, threshold } = this.#view;
    return overlay ? (threshold ?? usualThreshold(overlay.volume.name, this.#limitsOf(overlay))) : 0;
  }

  #shownMasks(): ShownMask[] {
    return this.#view.space.masks.map((entry, rank) => {
      const mask = this.#masks.get(entry.volume.path) ?? maskOf(entry.volume);
      this.#masks.set(entry.volume.path, mask);
      const on = this.#view.masks.has(entry.id);
      return {
        entry,
        mask,
        colour: COLOURS[(rank + 2) % COLOURS.length]!,
        on,
        volumes: this.#volumes.get(entry.volume.path),
      };
    });
  }

  /** Bring up to date what only tells. */
  #refresh(): void {
    if (this.#life.signal.aborted) return;
    const { overlay, base, space, frame } = this.#view;
    const known = this.#limits.size;
    const limits = this.#baseLimits();
    const overlayLimits = overlay ? this.#limitsOf(overlay) : ([0, 1] as const);
    this.#controls.show(this.#view, limits, overlayLimits, this.#threshold(), this.#shownMasks());
    const { series } = space;
    const playing = this.#playing !== undefined;
    if (series) this.#controls.showFrame(frame, series.volume.frames, this.#seconds[frame], playing);
    this.#curves.mark(frame);
    say(this.#readout, this.#told(this.#hovered ?? this.#view.at));
    this.#showProblems();
    if (base.volume && this.#limits.size !== known) this.#show();
  }

  #told(at: Vec3): string {
    const { space, base, overlay } = this.#view;
    const position = worldOf(space.grid, at).map((value) => value.toFixed(1).replace("-", "−"));
    const parts = [`RAS ${position.join(", ")} mm`, `voxel ${at.join(", ")}`];
    for (const entry of overlay ? [base, overlay] : [base]) {
      const value = this.#value(entry, at);
      const known = value === undefined ? "…" : `${shownNumber(value)} ${unitsOf(entry.volume)}`.trim();
      const none = value !== undefined && !isComputed(entry.volume.name, value);
      parts.push(`${entry.label} ${none ? "not computed" : known}`);
    }
    for (const { entry, mask, on } of this.#shownMasks()) {
      const value = on ? entry.volume.valueAt(at, 0) : undefined;
      const label = value === undefined ? 0 : mask.labelOf(value);
      if (label) parts.push(mask.nameOf(label));
    }
    const tilt = tiltOf(space.grid);
    if (!space.grid.oriented) parts.push("sides are not known");
    else if (tilt > 1) parts.push(`planes follow the grid, tilted by ${tilt.toFixed(0)}°`);
    return parts.join("  ·  ");
  }

  #value(entry: Entry, at: Vec3): number | undefined {
    const frame = entry.volume.frames > 1 ? this.#view.frame : 0;
    return entry.volume.valueAt(at, frame);
  }

  #failed(error: unknown): void {
    this.#errors.add(error);
    this.#refreshed();
  }

  #showProblems(): void {
    const all = this.#errors.texts;
    const told = all.slice(0, 3).map((message) => h("li", {}, message));
    const lines = [...this.#notes.map((note) => h("li", { class: "note" }, note)), ...told];
    if (all.length > 3) lines.push(h("li", {}, `and ${all.length - 3} more`));
    const key = [...this.#notes, ...all].join("\n");
    if (this.#problems.dataset.told === key) return;
    this.#problems.dataset.told = key;
    this.#problems.hidden = !lines.length;
    show(
      this.#problems,
      all.length > 0 && h("strong", {}, "Damaged or unreadable; hatched in the pictures"),
      h("ul", {}, ...lines),
    );
  }

  // --- what is done ---

  #showSpaces(): void {
    const words = ({ name }: Space) =>
      name === "ncct" ? "registered to NCCT" : `${name.replace("_desc-", ": ").toUpperCase()} as acquired`;
    const buttons = [...this.subject.spaces.values()]
      .filter((space) => space.images.length)
      .map((space) => {
        const title = `space-${space.name}`;
        const pressed = String(space === this.#view.space);
        return h(
          "button",
          { type: "button", class: "choice", title, "aria-pressed": pressed, onclick: () => this.#enter(space) },
          words(space),
        );
      });
    show(this.#spaces, ...buttons);
  }

  #enter(space: Space): void {
    if (space === this.#view.space) return;
    const at = worldOf(this.#view.space.grid, this.#view.at);
    this.#notes.length = 0;
    const { base, overlay, window } = this.#view;
    const same = space.entries.has(base.id);
    const view = viewOf(
      this.subject,
      {
        ...addressOf(this.subject, this.#view, []),
        space: space.name,
        base: same ? base.id : undefined,
        overlay: overlay && space.entries.has(overlay.id) ? overlay.id : overlay ? undefined : "none",
        window: same ? window : undefined,
        at,
      },
      this.#notes,
    );
    if (!view) return;
    this.#view = view;
    this.#changedSpace();
    this.#show();
    this.#around.address(this.#hash(), true);
  }

  #changedSpace(): void {
    this.#reading?.abort();
    this.#curve = undefined;
    this.#kept = [];
    this.#hovered = undefined;
    this.#stop();
    this.#showSpaces();
    this.#timed();
    this.#measure();
  }

  #timed(): void {
    this.#seconds = [];
    const { space } = this.#view;
    this.#showCurves();
    this.#curves.tell(space.series ? "Click on a plane: the time curve of that voxel." : "This space has no series.");
    if (!space.series) return;
    space.seconds().then(
      (seconds) => {
        if (space !== this.#view.space) return;
        this.#seconds = seconds;
        this.#showCurves();
        this.#refreshed();
      },
      (error) => this.#failed(error),
    );
  }

  #mask(id: string, on: boolean): void {
    const masks = new Set(this.#view.masks);
    if (on) masks.add(id);
    else masks.delete(id);
    this.#outlinesOff = undefined;
    this.#change({ masks });
    this.#measure();
  }

  /** Volumes of the masks that are shown; they are small, and read last. */
  #measure(): void {
    const { grid } = this.#view.space;
    for (const { entry, mask, on } of this.#shownMasks()) {
      const sizes = Object.values(fields(fields(entry.volume.attributes.isles24_zarr).shards));
      const bytes = sizes.reduce((sum: number, size) => sum + Number(size), 0);
      if (!on || bytes > MEASURED_BYTES || this.#volumes.has(entry.volume.path)) continue;
      measuredVolumes(entry.volume, grid, mask, MEASURED, this.#life.signal).then(
        (volumes) => {
          this.#volumes.set(entry.volume.path, volumes);
          this.#refreshed();
        },
        (error) => {
          if (!isAbort(error)) this.#failed(error);
        },
      );
    }
  }

  #windowed(right: number, up: number): void {
    const [low, high] = this.#baseLimits();
    const width = Math.max((high - low) * Math.exp(right), (high - low) * 1e-3);
    this.#change({ window: [(low + high) / 2 + up * (high - low), width] });
  }

  #maximize(name: PlaneName): void {
    this.#alone = this.#alone === name ? undefined : name;
    this.#stage.classList.toggle("alone", this.#alone !== undefined);
    for (const one of PLANE_NAMES) this.#planes[one].element.classList.toggle("only", one === this.#alone);
    this.#show();
    this.#planes[name].canvas.focus({ preventScroll: true });
  }

  #choose(at: Vec3): void {
    this.#change({ at });
    this.#draw(at, CLICKED);
  }

  #draw(at: Vec3, priority = CURVE): void {
    const { series, grid } = this.#view.space;
    if (!series) return;
    this.#reading?.abort();
    const controller = new AbortController();
    this.#reading = controller;
    this.#read(series, at, controller.signal, priority).then(
      (curve) => {
        if (controller.signal.aborted || grid !== this.#view.space.grid) return;
        // one that was kept is not drawn twice
        const same = (kept: Curve) => kept.region === curve.region && kept.at.join() === curve.at.join();
        this.#curve = this.#kept.find(same) ?? curve;
        this.#showCurves();
        this.#refreshed();
      },
      (error) => {
        if (!isAbort(error)) this.#failed(error);
      },
    );
  }

  #read({ volume }: Entry, at: Vec3, signal: AbortSignal, priority: number): Promise<Curve> {
    return readCurve(volume, this.#view.space.grid, at, this.#region, {
      priority,
      signal,
      progress: (part) => this.#curves.tell(part < 1 ? `Reading the curve, ${Math.round(part * 100)} %` : ""),
      failed: (error) => this.#failed(error),
    });
  }

  async #keepAt(at: Vec3): Promise<void> {
    const { series } = this.#view.space;
    if (!series) return;
    try {
      this.#kept.push(await this.#read(series, at, this.#life.signal, CURVE));
      this.#showCurves();
    } catch (error) {
      if (!isAbort(error)) this.#failed(error);
    }
  }

  #keep(): void {
    if (!this.#curve || this.#kept.includes(this.#curve)) return;
    this.#kept = [...this.#kept, this.#curve];
    this.#showCurves();
    this.#around.address(this.#hash(), false);
  }

  #showCurves(): void {
    this.#curves.show(this.#curve, this.#kept, this.#seconds);
  }

  // --- the series, played ---

  #play(): void {
    const { series, base } = this.#view.space.series ? { series: this.#view.space.series, base: this.#view.base } : {};
    if (!series) return;
    if (this.#playing !== undefined) {
      this.#stop();
      return;
    }
    if (base !== series) this.#change({ base: series, window: undefined }, true);
    this.#playing = setTimeout(() => this.#next(), PLAY_MS);
    this.#show();
  }

  /** The next frame, once this one is there: a slow line makes it slow, and no frame is left out. */
  #next(): void {
    const { series } = this.#view.space;
    if (!series || this.#playing === undefined) return;
    if (this.#planes[this.#alone ?? "axial"].complete)
      this.#change({ frame: (this.#view.frame + 1) % series.volume.frames });
    this.#playing = setTimeout(() => this.#next(), PLAY_MS);
  }

  #stop(): void {
    clearTimeout(this.#playing);
    this.#playing = undefined;
    this.#refreshed();
  }

  /** Do what a key stands for; whether it stands for anything. */
  key(event: KeyboardEvent): boolean {
    const { series } = this.#view.space;
    const frames = series?.volume.frames ?? 1;
    const step = (by: number) => this.#change({ frame: (this.#view.frame + by + frames) % frames });
    const keys: Record<string, () => void> = {
      o: () => this.#toggleOverlay(),
      l: () => this.#toggleOutlines(),
      k: () => this.#keep(),
      x: () => {
        this.#crosshair = !this.#crosshair;
        this.#show();
      },
      "[": () => this.#nudge(-1),
      "]": () => this.#nudge(1),
      ",": () => step(-1),
      ".": () => step(1),
      " ": () => this.#play(),
      m: () => this.#maximize(this.#alone ?? "axial"),
    };
    if (unitsOf(this.#view.base.volume) === "HU")
      for (const [rank, [centre, width]] of (Object.values(WINDOWS) as [number, number][]).entries())
        keys[String(rank + 1)] = () => this.#change({ window: [centre, width] });
    const act = keys[event.key.toLowerCase()];
    act?.();
    return act !== undefined;
  }

  #last: Entry | undefined;
  #toggleOverlay(): void {
    const { overlay, space } = this.#view;
    if (overlay) this.#last = overlay;
    const other =
      this.#last && space.entries.has(this.#last.id) ? space.entries.get(this.#last.id) : space.entries.get("tmax");
    this.#change({ overlay: overlay ? undefined : other });
  }

  #toggleOutlines(): void {
    const before = this.#outlinesOff;
    this.#outlinesOff = before ? undefined : this.#view.masks;
    this.#change({ masks: before ?? new Set() });
  }

  #nudge(by: number): void {
    const { overlay } = this.#view;
    if (!overlay) return;
    const [low, high] = this.#limitsOf(overlay);
    const coarse = displayOf(overlay.volume.name).limits ? (high - low) / 24 : (high - low) / 50;
    this.#change({ threshold: Math.min(Math.max(this.#threshold() + by * coarse, low), high) });
  }

  // --- what it tells ---

  get errors(): string[] {
    return this.#errors.texts;
  }

  get loading(): boolean {
    return !PLANE_NAMES.every((name) => this.#planes[name].complete);
  }

  /** What the images hold in a voxel; null where it has not been read. */
  #heldAt(at: Vec3): Record<string, unknown> {
    const { space, base, overlay } = this.#view;
    const masks = this.#shownMasks().filter(({ on }) => on);
    return {
      position: worldOf(space.grid, at),
      voxel: [...at],
      value: this.#value(base, at) ?? null,
      overlayValue: overlay ? (this.#value(overlay, at) ?? null) : null,
      masks: Object.fromEntries(masks.map(({ entry }) => [entry.id, entry.volume.valueAt(at, 0) ?? null])),
    };
  }

  /** Plain values of what is shown: a contract. */
  get state(): Record<string, unknown> {
    const { space, base, overlay, at, frame, opacity, below } = this.#view;
    const [low, high] = this.#baseLimits();
    const curve = this.#curve;
    return {
      ...this.#heldAt(at),
      subject: this.subject.name,
      space: space.name,
      base: base.id,
      overlay: overlay?.id ?? null,
      cursor: this.#hovered ? this.#heldAt(this.#hovered) : null,
      frame,
      seconds: this.#seconds[frame] ?? null,
      times: [...this.#seconds],
      window: [(low + high) / 2, high - low],
      threshold: overlay ? this.#threshold() : null,
      below,
      opacity,
      curve: curve ? [...curve.voxel] : null,
      curveMean: curve ? [...curve.mean] : null,
      curvePosition: curve ? [...curve.position] : null,
      curves: this.#kept.map((kept) => ({ position: [...kept.position], curve: [...kept.voxel] })),
      volumes: Object.fromEntries([...this.#volumes].map(([path, volumes]) => [path, Object.fromEntries(volumes)])),
      playing: this.#playing !== undefined,
    };
  }
}
