/** The page of one subject: planes, controls, curves, clinical values, all of one view. */

import { type SubjectAddress, written } from "./address.ts";
import { ClinicalPanel } from "./clinical-panel.ts";
import { Controls } from "./controls.ts";
import { CurveDesk } from "./curve-desk.ts";
import { h, once, say, show } from "./dom.ts";
import { type Vec3, worldOf } from "./geometry.ts";
import { displayOf, limitsOf, type Range, unitsOf, WINDOWS } from "./images.ts";
import { Masks, type ShownMask } from "./masks.ts";
import { labelColours, PlaneView, type Scene } from "./plane-view.ts";
import { PLANE_NAMES, type PlaneName } from "./planes.ts";
import { ProblemBox } from "./problem-box.ts";
import { Problems } from "./problems.ts";
import { readout } from "./readout.ts";
import type { HttpStore } from "./store.ts";
import type { Entry, Space, Subject } from "./subject.ts";
import { addressOf, usualLimits, usualThreshold, type View, viewOf } from "./view.ts";

/** What is read first: what is looked at. */
const FIRST = 0;
const BESIDE = 4;
const PLAY_MS = 120;
/** So many turns the other planes are waited for, once the one that is looked at is there. */
const PATIENCE = 4;

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
  readonly #curves: CurveDesk;
  readonly #clinical: ClinicalPanel;
  readonly #spaces = h("div", { class: "choices", role: "group", "aria-label": "Space" });
  readonly #readout = h("p", { class: "readout" });
  readonly #problems = new ProblemBox();
  readonly #stage = h("div", { class: "stage" });
  readonly #errors = new Problems();
  readonly #notes: string[] = [];
  readonly #limits = new Map<string, Range>();
  readonly #life = new AbortController();
  readonly #masks = new Masks(
    this.#life.signal,
    () => this.#refreshed(),
    (error) => this.#failed(error),
  );
  #view: View;
  #hovered: Vec3 | undefined;
  #alone: PlaneName | undefined;
  #playing: ReturnType<typeof setTimeout> | undefined;
  #turns = 0;
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
    this.#curves = new CurveDesk({
      visit: (at) => this.#change({ at }),
      frame: (frame) => this.#change({ frame }),
      failed: (error) => this.#failed(error),
      arrived: this.#refreshed,
      kept: () => this.#around.address(this.#hash(), false),
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
    const middle = h(
      "div",
      { class: "middle" },
      this.#problems.element,
      this.#stage,
      this.#readout,
      this.#curves.panel.element,
    );
    return h("main", { class: "subject", tabindex: -1 }, this.#clinical.element, middle, side);
  }

  #opened(address: SubjectAddress): void {
    const { space, masks, at } = this.#view;
    this.#showSpaces();
    this.#curves.enter(space);
    this.#show();
    // an address with a position is a click that somebody made
    if (address.at) this.#curves.draw(at, false);
    void this.#curves.restore(address.curves ?? []);
    this.#masks.measure(space, masks);
    this.#around.address(this.#hash(), false);
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
    if ((moved || other) && address.at) this.#curves.draw(view.at, false);
  }

  close(): void {
    this.#life.abort();
    this.#curves.close();
    if (this.#playing) clearTimeout(this.#playing);
    for (const name of PLANE_NAMES) this.#planes[name].hide();
  }

  describe(units: ReadonlyMap<string, readonly [string, string]>): void {
    this.#clinical.describe(units);
  }

  // --- what is shown ---

  #hash(): string {
    return written(addressOf(this.subject, this.#view, this.#curves.positions));
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
      captions: this.#captions(),
    };
  }

  /** What is shown and how, as a workstation has it in the corner. */
  #captions(): string[] {
    const { base, overlay, below } = this.#view;
    const [low, high] = this.#baseLimits();
    const told = ({ label, volume }: Entry) => (volume.attributes.session === 2 ? `${label} at follow-up` : label);
    const tenths = (value: number) => String(Number(value.toFixed(1))).replace("-", "−");
    const window =
      unitsOf(base.volume) === "HU"
        ? `W ${tenths(high - low)} L ${tenths((low + high) / 2)}`
        : `${tenths(low)} to ${tenths(high)} ${unitsOf(base.volume)}`;
    const lines = [`${told(base)}  ${window}`.trim()];
    if (overlay)
      lines.push(`${told(overlay)} ${below ? "<" : ">"} ${tenths(this.#threshold())} ${unitsOf(overlay.volume)}`);
    return lines;
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
    return this.#masks.of(this.#view.space, this.#view.masks);
  }

  /** Bring up to date what only tells. */
  #refresh(): void {
    if (this.#life.signal.aborted) return;
    const { overlay, space, frame } = this.#view;
    const known = this.#limits.size;
    const limits = this.#baseLimits();
    const overlayLimits = overlay ? this.#limitsOf(overlay) : ([0, 1] as const);
    this.#controls.show(this.#view, limits, overlayLimits, this.#threshold(), this.#shownMasks());
    const { series } = space;
    const playing = this.#playing !== undefined;
    if (series) this.#controls.showFrame(frame, series.volume.frames, this.#curves.seconds[frame], playing);
    this.#curves.mark(frame);
    say(this.#readout, this.#told(this.#hovered ?? this.#view.at));
    this.#problems.show(this.#notes, this.#errors);
    if (this.#limits.size !== known) this.#show();
  }

  /** One line on a voxel: where it is, what the images hold there, in which masks it lies. */
  #told(at: Vec3): string {
    const { space, base, overlay } = this.#view;
    const held = (overlay ? [base, overlay] : [base]).map((entry) => ({ entry, value: this.#value(entry, at) }));
    return readout(space.grid, at, held, this.#shownMasks());
  }

  #value(entry: Entry, at: Vec3): number | undefined {
    const frame = entry.volume.frames > 1 ? this.#view.frame : 0;
    return entry.volume.valueAt(at, frame);
  }

  #failed(error: unknown): void {
    this.#errors.add(error);
    this.#refreshed();
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
    const { space, masks } = this.#view;
    this.#hovered = undefined;
    this.#stop();
    this.#showSpaces();
    this.#curves.enter(space);
    this.#masks.measure(space, masks);
  }

  #mask(id: string, on: boolean): void {
    const masks = new Set(this.#view.masks);
    if (on) masks.add(id);
    else masks.delete(id);
    this.#outlinesOff = undefined;
    this.#change({ masks });
    this.#masks.measure(this.#view.space, masks);
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
    this.#curves.draw(at, true);
  }

  // --- the series, played ---

  #play(): void {
    const { space, base } = this.#view;
    const { series } = space;
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
    this.#turns += 1;
    const seen = this.#planes[this.#alone ?? "axial"].complete;
    if (seen && (!this.loading || this.#turns >= PATIENCE)) {
      this.#turns = 0;
      this.#change({ frame: (this.#view.frame + 1) % series.volume.frames });
    }
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
      k: () => this.#curves.keep(),
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
    return {
      ...this.#heldAt(at),
      subject: this.subject.name,
      space: space.name,
      base: base.id,
      overlay: overlay?.id ?? null,
      cursor: this.#hovered ? this.#heldAt(this.#hovered) : null,
      frame,
      seconds: this.#curves.seconds[frame] ?? null,
      ...this.#curves.state,
      window: [(low + high) / 2, high - low],
      threshold: overlay ? this.#threshold() : null,
      below,
      opacity,
      volumes: this.#masks.state,
      playing: this.#playing !== undefined,
    };
  }
}
