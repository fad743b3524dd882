/** Clinical values of a subject, beside its images. */

import { h, show } from "./dom.ts";
import type { Subject } from "./subject.ts";

/** What is looked for first. */
const FIRST = [
  "age",
  "sex",
  "nihss_admission",
  "mrs_premorbid",
  "onset_to_door",
  "wake_up",
  "mtici",
  "nihss_24h",
  "mrs_3month",
];
const FLAGS = new Set([
  "atrial_fibrillation",
  "hypertension",
  "diabetes",
  "hyperlipidemia",
  "anticoagulation",
  "lipid_lowering_drugs",
  "pais",
  "wake_up",
  "in_house",
  "referral",
]);
const SHORT: ReadonlyMap<string, string> = new Map(
  Object.entries({
    nihss: "NIHSS",
    mrs: "mRS",
    crp: "CRP",
    inr: "INR",
    pais: "PAIs",
    mtici: "mTICI",
    "3month": "3 months",
    "24h": "24 h",
  }),
);

/** A column's name as people write it. */
export function spoken(name: string): string {
  const words = name
    .split("_")
    .map((word) => SHORT.get(word) ?? word)
    .join(" ");
  return words.charAt(0) === words.charAt(0).toLowerCase() && !/^(mRS|mTICI)/.test(words)
    ? words.charAt(0).toUpperCase() + words.slice(1)
    : words;
}

/** Units as they stand behind a number; none of what is counted. */
export function unitOf(units: string): string {
  return units === "1" ? "" : units === "a" ? "y" : units;
}

export function shownValue(name: string, value: unknown): string {
  if (value === null || value === undefined || value === "" || (typeof value === "number" && Number.isNaN(value)))
    return "";
  if (name === "infarct_volume" && typeof value === "number") return value.toFixed(1);
  if (FLAGS.has(name) && (value === 0 || value === 1)) return value ? "yes" : "no";
  if (typeof value === "number") return String(Number(value.toPrecision(6))).replace("-", "−");
  return typeof value === "string" ? value : JSON.stringify(value);
}

export class ClinicalPanel {
  readonly element = h("aside", { class: "clinical", "aria-label": "Clinical values", tabindex: 0 });
  readonly #subject: Subject;

  constructor(subject: Subject) {
    this.#subject = subject;
    this.describe(new Map());
  }

  /** Show the values, with units and descriptions where they are known. */
  describe(known: ReadonlyMap<string, readonly [string, string]>): void {
    const values = this.#subject.clinical;
    const rank = (name: string) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
    const sorted = [...values].sort(([a], [b]) => rank(a) - rank(b));
    const rows = sorted.flatMap(([name, value]) => {
      const [units = "1", told = ""] = known.get(name) ?? [];
      const words = shownValue(name, value);
      const unit = typeof value === "number" && words && !FLAGS.has(name) ? unitOf(units) : "";
      return [
        h("dt", { title: told || undefined, class: FIRST.includes(name) ? "first" : "" }, spoken(name)),
        words
          ? h("dd", { class: FIRST.includes(name) ? "first" : "" }, words, unit && h("small", {}, ` ${unit}`))
          : h(
              "dd",
              { class: "missing" },
              h("span", { title: "missing", "aria-hidden": "true" }, "–"),
              h("span", { class: "hidden" }, "missing"),
            ),
      ];
    });
    show(
      this.element,
      h("h2", {}, "Clinical"),
      rows.length ? h("dl", {}, ...rows) : h("p", { class: "note" }, "The store has none."),
    );
  }
}
