/** The page of one subject: planes, controls, curves, clinical values, all of one view. */

import { type SubjectAddress, written } from "./address.ts";
import { Cine } from "./cine.ts";
import { ClinicalPanel } from "./clinical-panel.ts";
import { type ControlEvents, Controls } from "./controls.ts";
import { CurveDesk } from "./curve-desk.ts";
import { h, once, say, show } from "./dom.ts";
import { type Vec3, worldOf } from "./geometry.ts";
import { labelColours } from "./images.ts";
import { Masks, type ShownMask } from "./masks.ts";
import { PlaneView } from "./plane-view.ts";
import { PLANE_NAMES, type PlaneName } from "./planes.ts";
import { ProblemBox } from "./problem-box.ts";
import { Problems } from "./problems.ts";
import { captionsOf, readout, valuesAt } from "./readout.ts";
import type { Scene } from "./scene.ts";
import { shortcutOf } from "./shortcuts.ts";
import { SpaceChoice } from "./space-choice.ts";
import type { HttpStore } from "./store.ts";
import type { Space, Subject } from "./subject.ts";
import { addressOf, askedMasks, changed, missingOf, outsideOf, type View, viewOf } from "./view.ts";
import { Windowing } from "./windowing.ts";

/** What is read first: what is looked at. */
const FIRST = 0;
const BESIDE = 4;

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
  readonly #spaces: SpaceChoice;
  readonly #readout = h("p", { class: "readout" });
  readonly #problems = new ProblemBox();
  readonly #stage = h("div", { class: "stage" });
  readonly #errors = new Problems();
  readonly #notes: string[] = [];
  readonly #windowing = new Windowing(() => this.#show());
  readonly #cine = new Cine({
    seen: () => this.#planes[this.#looked].complete,
    loading: () => this.loading,
    advance: () => this.#stepFrame(1),
  });
  readonly #life = new AbortController();
  readonly #masks = new Masks(
    this.#life.signal,
    () => this.#refreshed(),
    (error) => this.#failed(error),
  );
  #view: View;
  /** What the keys for overlay and outlines bring back. */
  #overlayBefore: Partial<SubjectAddress> = { overlay: "tmax" };
  #masksBefore: readonly string[] | undefined;
  readonly #refreshed = once(() => this.#refresh());

  /** A page, or a text that says why there is none. */
  static of(subject: Subject, address: SubjectAddress, around: Surroundings): SubjectPage | string {
    const view = viewOf(subject, address);
    return view ? new SubjectPage(subject, view, around) : `${subject.name} has no images.`;
  }

  private constructor(subject: Subject, view: View, around: Surroundings) {
    this.subject = subject;
    this.#around = around;
    this.#view = view;
    this.#notes.push(...missingOf(view), ...outsideOf(view));
    for (const problem of subject.problems) this.#errors.add(problem);
    this.#planes = { axial: this.#plane("axial"), coronal: this.#plane("coronal"), sagittal: this.#plane("sagittal") };
    this.#spaces = new SpaceChoice(subject.spaces.values(), (space) => this.#enter(space));
    this.#controls = new Controls(this.#controlled());
    this.#curves = new CurveDesk({
      visit: (at) => this.#move(at),
      frame: (frame) => this.#change({ frame }),
      failed: (error) => this.#failed(error),
      arrived: this.#refreshed,
      kept: () => this.#around.address(this.hash, false),
    });
    this.#clinical = new ClinicalPanel(subject);
    this.element = this.#built();
    this.#opened(view.address);
  }

  #plane(name: PlaneName): PlaneView {
    return new PlaneView(name, {
      moved: (at) => this.#move(at),
      chosen: (at) => this.#choose(at),
      hovered: this.#refreshed,
      windowed: (right, up) => this.#change({ window: this.#windowing.dragged(this.#view, right, up) }),
      failed: (error) => this.#failed(error),
      looked: (look) => this.#change({ looks: { ...this.#view.looks, [name]: look } }),
      arrived: this.#refreshed,
      maximized: (one) => this.#maximize(one),
    });
  }

  #controlled(): ControlEvents {
    return {
      base: (base) => this.#change({ base, window: undefined }, true),
      overlay: (id) => this.#change({ overlay: id || "none", threshold: undefined, below: undefined }, true),
      window: (window) => this.#change({ window }),
      threshold: (threshold) => this.#change({ threshold }),
      // the usual threshold is meant for one side: on the other one it stays where it is
      below: (below) => this.#change({ below, threshold: this.#windowing.threshold(this.#view) }),
      opacity: (opacity) => this.#change({ opacity }),
      mask: (id, on) => this.#mask(id, on),
      frame: (frame) => this.#change({ frame }),
      play: () => this.#play(),
    };
  }

  #built(): HTMLElement {
    const planes = PLANE_NAMES.map((name) => this.#planes[name].element);
    show(this.#stage, ...planes);
    const side = h(
      "div",
      { class: "side" },
      h("fieldset", {}, h("legend", {}, "Space"), this.#spaces.element),
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
    this.#spaces.show(space);
    this.#curves.enter(space);
    this.#show();
    // an address with a position is a click that somebody made
    if (address.at) this.#curves.draw(at, false);
    void this.#curves.restore(address.curves ?? []);
    this.#masks.measure(space, masks);
    this.#around.address(this.hash, false);
  }

  /** Show what another address asks of the same subject. */
  follow(address: SubjectAddress): void {
    const view = viewOf(this.subject, address);
    if (!view) return;
    this.#notes.splice(0, this.#notes.length, ...missingOf(view), ...outsideOf(view));
    const moved = address.at && view.at.some((index, axis) => index !== this.#view.at[axis]);
    const other = view.space !== this.#view.space;
    this.#view = view;
    if (other) this.#changedSpace();
    else this.#masks.measure(view.space, view.masks);
    this.#show();
    void this.#curves.restore(address.curves ?? []);
    if ((moved || other) && address.at) this.#curves.draw(view.at, false);
  }

  close(): void {
    this.#life.abort();
    this.#curves.close();
    this.#cine.stop();
    this.#windowing.close();
    for (const name of PLANE_NAMES) this.#planes[name].close();
  }

  describe(units: ReadonlyMap<string, readonly [string, string]>): void {
    this.#clinical.describe(units);
  }

  // --- what is shown ---

  /** The address of what is shown. */
  get hash(): string {
    return written(addressOf(this.#view, this.#curves.positions));
  }

  /** Ask for something else. */
  #change(patch: Partial<SubjectAddress>, step = false): void {
    this.#view = viewOf(this.subject, changed(this.#view, patch)) ?? this.#view;
    this.#show();
    this.#around.address(this.hash, step);
  }

  #move(at: Vec3): void {
    this.#change({ at: worldOf(this.#view.space.grid, at) });
  }

  /** The voxel under the mouse. */
  get #hovered(): Vec3 | undefined {
    const shown = PLANE_NAMES.map((name) => this.#planes[name].pointed);
    return shown.find((at) => at !== undefined);
  }

  /** The plane that is looked at: the one that is alone, or the largest. */
  get #looked(): PlaneName {
    return this.#view.alone ?? "axial";
  }

  #show(): void {
    const { alone, base, space } = this.#view;
    if (base !== space.series) this.#cine.stop();
    const scene = this.#scene();
    this.#stage.classList.toggle("alone", alone !== undefined);
    for (const name of PLANE_NAMES) {
      this.#planes[name].element.classList.toggle("only", name === alone);
      if (alone && name !== alone) this.#planes[name].hide();
      else this.#planes[name].show(scene, name === this.#looked ? FIRST : BESIDE);
    }
    this.#refreshed();
  }

  #scene(): Scene {
    const { space, base, overlay, at, frame, opacity, below, looks, crosshair } = this.#view;
    const limits = this.#windowing.base(this.#view);
    const threshold = this.#windowing.threshold(this.#view);
    return {
      grid: space.grid,
      base,
      overlay,
      masks: this.#shownMasks()
        .filter(({ on }) => on)
        .map(({ entry, mask, colour }) => ({ entry, mask, colours: labelColours(mask, colour) })),
      at,
      frame,
      limits,
      overlayLimits: this.#windowing.overlay(this.#view),
      threshold,
      below,
      opacity,
      playing: this.#cine.playing,
      crosshair,
      looks,
      captions: captionsOf(this.#view, limits, threshold),
    };
  }

  #shownMasks(): ShownMask[] {
    return this.#masks.of(this.#view.space, this.#view.masks);
  }

  /** Bring up to date what only tells. */
  #refresh(): void {
    if (this.#life.signal.aborted) return;
    const { space, frame } = this.#view;
    const limits = this.#windowing.base(this.#view);
    const overlayLimits = this.#windowing.overlay(this.#view);
    this.#controls.show(this.#view, limits, overlayLimits, this.#windowing.threshold(this.#view), this.#shownMasks());
    const { series } = space;
    if (series) this.#controls.showFrame(frame, series.volume.frames, this.#curves.seconds[frame], this.#cine.playing);
    this.#curves.mark(frame);
    say(this.#readout, readout(this.#view, this.#hovered ?? this.#view.at, this.#shownMasks()));
    this.#problems.show(this.#notes, this.#errors);
  }

  #failed(error: unknown): void {
    this.#errors.add(error);
    this.#refreshed();
  }

  // --- what is done ---

  #enter(space: Space): void {
    if (space === this.#view.space) return;
    // another grid has another extent, and is seen whole first
    const address = { ...this.#view.address, space: space.name, looks: undefined };
    this.#view = viewOf(this.subject, address) ?? this.#view;
    this.#notes.splice(0, this.#notes.length, ...outsideOf(this.#view));
    this.#changedSpace();
    this.#show();
    this.#around.address(this.hash, true);
  }

  #changedSpace(): void {
    const { space, masks } = this.#view;
    this.#cine.stop();
    this.#spaces.show(space);
    this.#curves.enter(space);
    this.#masks.measure(space, masks);
  }

  #mask(id: string, on: boolean): void {
    const masks = askedMasks(this.#view.address).filter((one) => one !== id);
    this.#masksBefore = undefined;
    this.#change({ masks: on ? [...masks, id] : masks });
    this.#masks.measure(this.#view.space, this.#view.masks);
  }

  #maximize(name: PlaneName): void {
    this.#change({ plane: this.#view.alone === name ? undefined : name });
    this.#planes[name].canvas.focus({ preventScroll: true });
  }

  #choose(at: Vec3): void {
    this.#move(at);
    this.#curves.draw(at, true);
  }

  #stepFrame(by: number): void {
    const frames = this.#view.space.series?.volume.frames ?? 1;
    this.#change({ frame: (this.#view.frame + by + frames) % frames });
  }

  #play(): void {
    const { space, base } = this.#view;
    const { series } = space;
    if (!series) return;
    if (this.#cine.playing) {
      this.#cine.stop();
      this.#refreshed();
      return;
    }
    if (base !== series) this.#change({ base: series.id, window: undefined }, true);
    this.#cine.start();
    this.#show();
  }

  /** Do what a key stands for; whether it stands for anything. */
  key(event: KeyboardEvent): boolean {
    const act = shortcutOf(event.key, this.#view.base.volume, {
      toggleOverlay: () => this.#toggleOverlay(),
      toggleOutlines: () => this.#toggleOutlines(),
      toggleCrosshair: () => this.#change({ crosshair: this.#view.crosshair ? false : undefined }),
      keepCurve: () => this.#curves.keep(),
      nudgeThreshold: (steps) => {
        if (this.#view.overlay) this.#change({ threshold: this.#windowing.nudged(this.#view, steps) });
      },
      stepFrame: (by) => this.#stepFrame(by),
      play: () => this.#play(),
      maximize: () => this.#maximize(this.#looked),
      window: (window) => this.#change({ window }),
    });
    act?.();
    return act !== undefined;
  }

  #toggleOverlay(): void {
    const { overlay, threshold, below } = this.#view;
    if (overlay) this.#overlayBefore = { overlay: overlay.id, threshold, below };
    this.#change(overlay ? { overlay: "none" } : { threshold: undefined, below: undefined, ...this.#overlayBefore });
  }

  #toggleOutlines(): void {
    const before = this.#masksBefore;
    this.#masksBefore = before ? undefined : askedMasks(this.#view.address);
    this.#change({ masks: before ?? [] });
  }

  // --- what it tells ---

  get errors(): string[] {
    return this.#errors.texts;
  }

  get loading(): boolean {
    return !PLANE_NAMES.every((name) => this.#planes[name].complete);
  }

  /** Plain values of what is shown: a contract. */
  get state(): Record<string, unknown> {
    const { space, base, overlay, at, frame, opacity, below, alone, looks, crosshair } = this.#view;
    const [low, high] = this.#windowing.base(this.#view);
    const masks = this.#shownMasks();
    return {
      ...valuesAt(this.#view, at, masks),
      subject: this.subject.name,
      space: space.name,
      base: base.id,
      overlay: overlay?.id ?? null,
      cursor: this.#hovered ? valuesAt(this.#view, this.#hovered, masks) : null,
      frame,
      seconds: this.#curves.seconds[frame] ?? null,
      ...this.#curves.state,
      window: [(low + high) / 2, high - low],
      threshold: overlay ? this.#windowing.threshold(this.#view) : null,
      below,
      opacity,
      plane: alone ?? null,
      zoom: looks,
      crosshair,
      volumes: this.#masks.state,
      playing: this.#cine.playing,
    };
  }
}
