/** The plot of time curves: the one that was clicked last, and those that were kept. */

import uPlot from "uplot";
import { type Curve, REGIONS, type Region, summaryOf } from "./curves.ts";
import { h, say, show } from "./dom.ts";
import { baselineFrames, COLOURS } from "./images.ts";

export interface CurveEvents {
  region(region: Region): void;
  keep(): void;
  drop(curve: Curve): void;
  visit(curve: Curve): void;
  frame(frame: number): void;
}

const INK = "#aab4bf";
const LINES = "#27303a";

export class CurvePanel {
  readonly element: HTMLElement;
  readonly #events: CurveEvents;
  readonly #plot: HTMLElement;
  readonly #note: HTMLElement;
  readonly #legend: HTMLElement;
  readonly #keep: HTMLButtonElement;
  readonly #rise: HTMLInputElement;
  readonly region: HTMLSelectElement;
  readonly #resized = new ResizeObserver(() => this.#resize());
  #chart: uPlot | undefined;
  #curves: readonly Curve[] = [];
  #kept: readonly Curve[] = [];
  #seconds: readonly number[] = [];
  #units = "";
  #frame = 0;

  constructor(events: CurveEvents) {
    this.#events = events;
    this.#plot = h("div", { class: "curve-plot" });
    this.#note = h("p", { class: "curve-note", role: "status" });
    this.#legend = h("ul", { class: "curve-legend", "aria-label": "Curves" });
    this.#keep = h(
      "button",
      { type: "button", onclick: () => events.keep(), title: "keep this curve to compare (K)" },
      "Keep",
    );
    this.#rise = h("input", { type: "checkbox", id: "curve-rise", onchange: () => this.#draw() });
    this.region = h(
      "select",
      { id: "curve-region", onchange: () => events.region(this.region.value as Region) },
      ...Object.entries(REGIONS).map(([key, words]) => h("option", { value: key }, words)),
    );
    const head = h(
      "div",
      { class: "panel-head" },
      h("h2", {}, "Time curves"),
      h("label", { class: "inline", for: "curve-region" }, "mean of"),
      this.region,
      h("label", { class: "inline", for: "curve-rise" }, this.#rise, "above baseline"),
      this.#keep,
    );
    this.element = h(
      "section",
      { class: "curves", "aria-label": "Time curves" },
      head,
      this.#note,
      h("div", { class: "curve-body" }, this.#plot, this.#legend),
    );
    this.#resized.observe(this.#plot);
  }

  /** Let go of the plot, which listens to the window. */
  close(): void {
    this.#resized.disconnect();
    this.#chart?.destroy();
    this.#chart = undefined;
  }

  tell(words: string): void {
    say(this.#note, words);
    this.#note.hidden = !words;
  }

  /** Draw curves over time; their values are in the units of the series that they are of. */
  show(current: Curve | undefined, kept: readonly Curve[], seconds: readonly number[], units: string): void {
    this.#units = units;
    this.#curves = current && !kept.includes(current) ? [...kept, current] : [...kept];
    this.#kept = kept;
    this.#seconds = seconds;
    this.#keep.disabled = !current || kept.includes(current);
    this.#draw();
  }

  /** Mark the frame that is shown. */
  mark(frame: number): void {
    if (this.#frame === frame) return;
    this.#frame = frame;
    this.#chart?.redraw(false, false);
  }

  colourOf(curve: Curve): string {
    return COLOURS[this.#curves.indexOf(curve) % COLOURS.length] ?? "#fff";
  }

  #resize(): void {
    if (this.#chart && this.#plot.clientWidth) this.#chart.setSize(this.#size());
  }

  #size(): { width: number; height: number } {
    return { width: Math.max(this.#plot.clientWidth, 120), height: Math.max(this.#plot.clientHeight, 90) };
  }

  #draw(): void {
    this.#chart?.destroy();
    this.#chart = undefined;
    this.#tellLegend();
    this.#plot.hidden = !this.#curves.length;
    if (!this.#curves.length || !this.#seconds.length) return;
    const above = this.#rise.checked;
    const { lines, series } = this.#lines(above);
    this.#chart = new uPlot(
      {
        ...this.#size(),
        scales: { x: { time: false } },
        legend: { show: false },
        cursor: { points: { show: false }, drag: { x: false, y: false } },
        axes: axesOf(above ? `Δ${this.#units}` : this.#units),
        series,
        hooks: { drawAxes: [(chart) => this.#ground(chart, above)] },
      },
      [this.#seconds as number[], ...lines] as uPlot.AlignedData,
      this.#plot,
    );
    const { over } = this.#chart;
    over.addEventListener("click", () => {
      const at = this.#chart?.cursor.idx;
      if (typeof at === "number") this.#events.frame(at);
    });
  }

  /** What is drawn of the curves, and how. */
  #lines(above: boolean): { lines: (number | null)[][]; series: uPlot.Series[] } {
    const lines: (number | null)[][] = [];
    const series: uPlot.Series[] = [{ label: "s" }];
    for (const curve of this.#curves) {
      const stroke = this.colourOf(curve);
      const line = (values: readonly number[], style: Partial<uPlot.Series>) => {
        const base = above ? summaryOf(values, this.#seconds).baseline : 0;
        lines.push(values.map((value) => (Number.isFinite(value) ? value - base : null)));
        series.push({ stroke, points: { show: false }, ...style });
      };
      line(curve.region === "voxel" ? curve.voxel : curve.mean, { width: 2 });
      // a voxel is noisy: it stands beside the mean of its region where it is the one that is looked at
      if (curve.region !== "voxel" && !this.#kept.includes(curve)) line(curve.voxel, { width: 1, alpha: 0.5 });
    }
    return { lines, series };
  }

  /** Baseline: the frames that it is the mean of, shaded, and a dashed line for each curve. */
  #ground(chart: uPlot, above: boolean): void {
    const { ctx, bbox } = chart;
    const x = (seconds: number) => chart.valToPos(seconds, "x", true);
    const last = this.#seconds[Math.min(baselineFrames, this.#seconds.length) - 1]!;
    ctx.save();
    ctx.fillStyle = "#7fd4ff1c";
    ctx.fillRect(bbox.left, bbox.top, Math.max(x(last) - bbox.left, 2), bbox.height);
    ctx.lineWidth = 1;
    ctx.setLineDash([4, 4]);
    for (const curve of this.#curves) {
      const { baseline } = summaryOf(curve.region === "voxel" ? curve.voxel : curve.mean, this.#seconds);
      const y = chart.valToPos(above ? 0 : baseline, "y", true);
      ctx.strokeStyle = this.colourOf(curve);
      ctx.globalAlpha = 0.6;
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    ctx.globalAlpha = 0.9;
    ctx.strokeStyle = "#e8edf2";
    const now = x(this.#seconds[Math.min(this.#frame, this.#seconds.length - 1)]!);
    ctx.beginPath();
    ctx.moveTo(now, bbox.top);
    ctx.lineTo(now, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  #tellLegend(): void {
    const items = this.#curves.map((curve) => {
      const values = curve.region === "voxel" ? curve.voxel : curve.mean;
      const { baseline, peak, seconds } = summaryOf(values, this.#seconds);
      const swatch = h("span", { class: "swatch" });
      swatch.style.background = this.colourOf(curve);
      const tenths = (value: number) => value.toFixed(1).replace("-", "−");
      const where = curve.position.map(tenths).join(", ");
      const kept = this.#kept.includes(curve);
      return h(
        "li",
        { class: kept ? "kept" : "current" },
        h(
          "button",
          { type: "button", class: "curve-place", title: "go there", onclick: () => this.#events.visit(curve) },
          swatch,
          where,
        ),
        h(
          "span",
          { class: "curve-numbers" },
          `baseline ${tenths(baseline)}, peak +${tenths(peak)}${this.#units && ` ${this.#units}`} at ${tenths(seconds)} s`,
        ),
        kept &&
          h(
            "button",
            {
              type: "button",
              class: "drop",
              "aria-label": `drop the curve at ${where}`,
              onclick: () => this.#events.drop(curve),
            },
            "×",
          ),
      );
    });
    show(this.#legend, ...items);
  }
}

/** Axes of seconds and of what is measured. */
function axesOf(units: string): uPlot.Axis[] {
  const axis = {
    stroke: INK,
    grid: { stroke: LINES, width: 1 },
    ticks: { stroke: LINES, width: 1, size: 4 },
    font: "11px system-ui, sans-serif",
  };
  const signed = (tick: number) => String(tick).replace("-", "−");
  return [
    { ...axis, size: 30, values: (_, ticks) => ticks.map((tick) => `${tick} s`) },
    { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => `${signed(tick)} ${units}`) },
  ];
}
