/** The controls of a subject's images: base and window, overlay and threshold, outlines, frames. */

import { h, say, show } from "./dom.ts";
import { coloursOf, displayOf, labelColours, type Range, unitsOf, WINDOWS } from "./images.ts";
import type { ShownMask } from "./masks.ts";
import type { Entry, Space } from "./subject.ts";
import { shownNumber } from "./values.ts";
import type { View } from "./view.ts";

export interface ControlEvents {
  base(id: string): void;
  overlay(id: string | undefined): void;
  window(window: readonly [number, number] | undefined): void;
  threshold(value: number): void;
  below(on: boolean): void;
  opacity(value: number): void;
  mask(id: string, on: boolean): void;
  frame(frame: number): void;
  play(): void;
}

let ids = 0;

export class Controls {
  readonly element = h("aside", { class: "controls", "aria-label": "Images" });
  readonly #events: ControlEvents;
  #built = "";
  #presets = new Map<string, HTMLButtonElement>();
  #low = h("input", { type: "number", step: "any" });
  #high = h("input", { type: "number", step: "any" });
  #threshold = h("input", { type: "range", "aria-label": "threshold of the overlay" });
  #ends = [h("span"), h("span")] as const;
  #thresholdText = h("output", {});
  #opacity = h("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "opacity of the overlay" });
  #opacityText = h("output", {});
  #bar = h("canvas", { width: 256, height: 1, class: "colour-bar", "aria-hidden": "true" });
  #frame = h("input", { type: "range", min: 0, step: 1, "aria-label": "frame of the series" });
  #frameText = h("output", {});
  #play = h("button", { type: "button", class: "play" });

  constructor(events: ControlEvents) {
    this.#events = events;
    const limits = () => {
      const [low, high] = [Number(this.#low.value), Number(this.#high.value)];
      if (Number.isFinite(low) && high > low) events.window([(low + high) / 2, high - low]);
    };
    this.#low.addEventListener("change", limits);
    this.#high.addEventListener("change", limits);
    this.#threshold.addEventListener("input", () => events.threshold(Number(this.#threshold.value)));
    this.#opacity.addEventListener("input", () => events.opacity(Number(this.#opacity.value)));
    this.#frame.addEventListener("input", () => events.frame(Number(this.#frame.value)));
    this.#play.addEventListener("click", () => events.play());
  }

  show(view: View, limits: Range, overlayLimits: Range, threshold: number, masks: readonly ShownMask[]): void {
    const built = [
      view.space.name,
      view.base.id,
      view.overlay?.id,
      view.below,
      ...masks.map((one) => [one.entry.id, one.on, one.volumes?.size]),
    ].join();
    if (built !== this.#built) this.#build(view, masks);
    this.#built = built;
    const [low, high] = limits;
    if (document.activeElement !== this.#low) this.#low.value = String(Number(low.toFixed(2)));
    if (document.activeElement !== this.#high) this.#high.value = String(Number(high.toFixed(2)));
    for (const [name, button] of this.#presets) {
      const [centre, width] = WINDOWS[name] as [number, number];
      const on = Math.abs(centre - (low + high) / 2) < 0.01 && Math.abs(width - (high - low)) < 0.01;
      button.setAttribute("aria-pressed", String(on));
    }
    if (view.overlay) this.#showOverlay(view, overlayLimits, threshold);
  }

  #showOverlay(view: View, [low, high]: Range, threshold: number): void {
    const units = unitsOf(view.overlay!.volume);
    Object.assign(this.#threshold, { min: String(low), max: String(high), step: String((high - low) / 120) });
    this.#threshold.value = String(threshold);
    const words = `${shownNumber(Number(threshold.toFixed(2)))} ${units}`;
    say(this.#thresholdText, words);
    this.#threshold.setAttribute("aria-valuetext", `${view.below ? "below" : "above"} ${words}`);
    for (const end of [0, 1] as const) say(this.#ends[end], shownNumber([low, high][end]!));
    this.#opacity.value = String(view.opacity);
    say(this.#opacityText, `${Math.round(view.opacity * 100)} %`);
    const context = this.#bar.getContext("2d")!;
    const image = context.createImageData(256, 1);
    const table = coloursOf(displayOf(view.overlay!.volume.name).colours);
    for (let at = 0; at < 256; at += 1) {
      const value = low + ((high - low) * at) / 255;
      const dim = (view.below ? value < threshold : value > threshold) ? 1 : 0.25;
      image.data.set([table[3 * at]! * dim, table[3 * at + 1]! * dim, table[3 * at + 2]! * dim, 255], 4 * at);
    }
    context.putImageData(image, 0, 0);
  }

  showFrame(frame: number, frames: number, seconds: number | undefined, playing: boolean): void {
    this.#frame.max = String(frames - 1);
    this.#frame.value = String(frame);
    const time = seconds === undefined ? "" : ` · ${shownNumber(Number(seconds.toFixed(2)))} s`;
    say(this.#frameText, `${frame + 1} / ${frames}${time}`);
    this.#frame.setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}${time}`);
    say(this.#play, playing ? "Pause" : "Play");
    this.#play.setAttribute("aria-pressed", String(playing));
  }

  #build(view: View, masks: readonly ShownMask[]): void {
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.control : undefined;
    show(
      this.element,
      this.#baseGroup(view),
      this.#overlayGroup(view),
      masks.length > 0 && this.#maskGroup(masks),
      view.space.series && this.#frameGroup(view.space),
    );
    if (focused) this.element.querySelector<HTMLElement>(`[data-control="${CSS.escape(focused)}"]`)?.focus();
  }

  #choice(name: string, id: string, label: string, title: string, on: boolean, choose: () => void): HTMLElement {
    const properties = {
      type: "button",
      class: "choice",
      title,
      "aria-pressed": String(on),
      "data-control": `${name} ${id}`,
      onclick: choose,
    };
    return h("button", properties, label);
  }

  #titleOf({ volume }: Entry): string {
    const told = volume.attributes.long_name;
    return typeof told === "string" ? told : volume.name;
  }

  #baseGroup(view: View): HTMLElement {
    const bases = view.space.images.map((entry) =>
      this.#choice("base", entry.id, entry.label, this.#titleOf(entry), entry === view.base, () =>
        this.#events.base(entry.id),
      ),
    );
    const units = unitsOf(view.base.volume);
    this.#presets = new Map();
    if (units === "HU")
      for (const name of Object.keys(WINDOWS)) {
        const [centre, width] = WINDOWS[name] as [number, number];
        const title = `W ${width} L ${centre} HU (${this.#presets.size + 1})`;
        const button = h(
          "button",
          {
            type: "button",
            class: "choice",
            title,
            "data-control": `window ${name}`,
            onclick: () => this.#events.window([centre, width]),
          },
          name,
        );
        this.#presets.set(name, button);
      }
    const number = (input: HTMLInputElement, words: string) => {
      input.id = `limit-${++ids}`;
      return [h("label", { for: input.id }, words), input] as const;
    };
    return h(
      "fieldset",
      {},
      h("legend", {}, "Image"),
      h("div", { class: "choices" }, ...bases),
      this.#presets.size > 0 &&
        h("div", { class: "choices", role: "group", "aria-label": "Window" }, ...this.#presets.values()),
      h("div", { class: "limits" }, ...number(this.#low, "from"), ...number(this.#high, "to"), h("span", {}, units)),
    );
  }

  #overlayGroup(view: View): HTMLElement {
    const none = this.#choice("overlay", "none", "none", "no overlay (O)", !view.overlay, () =>
      this.#events.overlay(undefined),
    );
    const overlays = view.space.images
      .filter(({ volume, id }) => volume.frames === 1 && id !== view.base.id)
      .filter(({ volume, id }) => displayOf(volume.name).colours !== "gray" || id.includes(":"))
      .map((entry) =>
        this.#choice("overlay", entry.id, entry.label, this.#titleOf(entry), entry === view.overlay, () =>
          this.#events.overlay(entry.id),
        ),
      );
    const group = h("fieldset", {}, h("legend", {}, "Overlay"), h("div", { class: "choices" }, none, ...overlays));
    if (view.overlay) {
      const side = (below: boolean, words: string) =>
        this.#choice("side", words, words, `show what is ${words} the threshold`, view.below === below, () =>
          this.#events.below(below),
        );
      group.append(
        h("div", { class: "threshold" }, this.#bar, this.#threshold),
        h("div", { class: "ends" }, this.#ends[0], h("span", {}, unitsOf(view.overlay.volume)), this.#ends[1]),
        h("div", { class: "sides" }, side(false, "above"), side(true, "below"), this.#thresholdText),
        h("div", { class: "slider" }, h("span", {}, "opacity"), this.#opacity, this.#opacityText),
      );
    }
    return group;
  }

  #maskGroup(masks: readonly ShownMask[]): HTMLElement {
    const rows = masks.map(({ entry, mask, colour, on, volumes }) => {
      const id = `mask-${entry.id}`;
      const colours = labelColours(mask, colour);
      const box = h("input", {
        type: "checkbox",
        id,
        "data-control": id,
        onchange: () => this.#events.mask(entry.id, box.checked),
      });
      box.checked = on;
      const labels = mask.labels
        .filter(([label]) => !volumes || volumes.has(label))
        .map(([label, name]) => {
          const swatch = h("span", { class: "swatch" });
          swatch.style.background = colours(label);
          const volume = volumes?.get(label);
          return h(
            "li",
            {},
            swatch,
            h("span", {}, name),
            volume !== undefined && h("b", {}, `${volume.toFixed(volume < 10 ? 2 : 1)} mL`),
          );
        });
      return h(
        "div",
        { class: "mask" },
        h("label", { for: id, title: this.#titleOf(entry) }, box, entry.label),
        on && volumes?.size === 0 && h("p", { class: "note" }, "empty"),
        on && h("ul", { class: "labels" }, ...labels),
        on && mask.note && h("p", { class: "note" }, mask.note),
      );
    });
    return h("fieldset", {}, h("legend", {}, "Outlines"), ...rows);
  }

  #frameGroup(space: Space): HTMLElement {
    return h(
      "fieldset",
      {},
      h("legend", {}, `Frames of ${space.series!.label}`),
      h("div", { class: "slider" }, this.#play, this.#frame),
      this.#frameText,
    );
  }
}
