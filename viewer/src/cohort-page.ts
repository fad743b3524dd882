/** The cohort as a table: a row for each subject, filters above the columns. */

import { type CohortAddress, written } from "./address.ts";
import { shownValue, spoken, unitOf } from "./clinical-panel.ts";
import { type Cohort, type Column, imageLabel, measuredColumn, rangeOf, rowsOf } from "./cohort.ts";
import { h, once, say, show } from "./dom.ts";

export interface CohortEvents {
  open(subject: string): void;
  address(hash: string): void;
  /** Measure the infarcts of subjects; told for each. */
  measure(subjects: readonly string[], told: (done: number) => void): Promise<void>;
  /** Volumes that are known, in mL. */
  readonly volumes: ReadonlyMap<string, number>;
}

/** Up to so many rows are all there; of more, only those that are seen. */
const ALL_ROWS = 400;
const ROW_PIXELS = 28;
const MARGIN_ROWS = 20;
const FIRST = [
  "infarct_volume",
  "age",
  "sex",
  "nihss_admission",
  "mrs_premorbid",
  "onset_to_door",
  "mtici",
  "nihss_24h",
  "mrs_3month",
];

export class CohortPage {
  readonly element: HTMLElement;
  readonly #cohort: Cohort;
  readonly #events: CohortEvents;
  readonly #filters: Map<string, string>;
  readonly #count = h("p", { class: "count", role: "status" });
  readonly #search: HTMLInputElement;
  readonly #scroller = h("div", {
    class: "table-scroll",
    tabindex: 0,
    role: "region",
    "aria-label": "Table of subjects",
  });
  readonly #head = h("thead");
  readonly #body = h("tbody");
  readonly #measure = h("button", { type: "button", onclick: () => this.#measured() }, "Measure infarcts");
  #columns: Column[] = [];
  #sort: CohortAddress["sort"];
  #rows: number[] = [];
  #shown: readonly [number, number] = [-1, -1];
  #focus = 0;
  readonly #scrolled = once(() => this.#window());

  constructor(cohort: Cohort, address: CohortAddress, events: CohortEvents) {
    this.#cohort = cohort;
    this.#events = events;
    this.#filters = new Map(address.filters);
    this.#sort = address.sort;
    this.#search = h("input", {
      type: "search",
      id: "search",
      placeholder: "subject, centre, sex …",
      oninput: () => this.#apply(),
    });
    this.#search.value = address.text;
    const clear = h("button", { type: "button", onclick: () => this.#clear() }, "Clear filters");
    const tools = h(
      "div",
      { class: "tools" },
      h("label", { for: "search" }, "Find"),
      this.#search,
      this.#count,
      clear,
      this.#hasMasks() && this.#measure,
    );
    const table = h(
      "table",
      { "aria-rowcount": cohort.subjects.length + 2 },
      h("caption", { class: "hidden" }, "Subjects with clinical values and images"),
      this.#head,
      this.#body,
    );
    this.#scroller.append(table);
    this.#scroller.addEventListener("scroll", this.#scrolled);
    this.#body.addEventListener("click", (event) => this.#clicked(event));
    this.#body.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(this.#scrolled).observe(this.#scroller);
    this.element = h("main", { class: "cohort", tabindex: -1 }, tools, this.#scroller);
    this.#build();
  }

  get shown(): string[] {
    return this.#rows.map((row) => this.#cohort.subjects[row]!);
  }

  #hasMasks(): boolean {
    return this.#cohort.images.includes("lesion_mask");
  }

  #build(): void {
    const { columns, subjects } = this.#cohort;
    const all = this.#events.volumes.size ? [measuredColumn(subjects, this.#events.volumes), ...columns] : [...columns];
    const rank = (name: string) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
    this.#columns = all.sort((a, b) => rank(a.name) - rank(b.name));
    const first = this.#columns.filter(({ name }) => FIRST.includes(name));
    const rest = this.#columns.filter(({ name }) => !FIRST.includes(name));
    this.#columns = [...first, ...rest];
    const images = this.#cohort.images;
    const sorts = h(
      "tr",
      {},
      this.#heading("subject", "Subject", "", "name of the subject"),
      ...first.map((column) => this.#columnHeading(column)),
      ...images.map((name) => this.#heading(name, imageLabel(name), "", `has ${name}`, "image")),
      ...rest.map((column) => this.#columnHeading(column)),
    );
    const filters = h(
      "tr",
      { class: "filters" },
      h("th", { scope: "col", class: "pinned" }, h("span", { class: "hidden" }, "filters")),
      ...first.map((column) => h("td", { class: column.kind === "number" ? "number" : "" }, this.#filter(column))),
      ...images.map((name) => h("td", { class: "image" }, this.#imageFilter(name))),
      ...rest.map((column) => h("td", { class: column.kind === "number" ? "number" : "" }, this.#filter(column))),
    );
    show(this.#head, sorts, filters);
    this.#apply(false);
  }

  #columnHeading({ name, kind, units, description }: Column): HTMLElement {
    return this.#heading(name, spoken(name), unitOf(units), description, kind === "number" ? "number" : "");
  }

  #heading(name: string, words: string, units: string, title: string, kind = ""): HTMLElement {
    const button = h(
      "button",
      { type: "button", title, onclick: () => this.#sorted(name) },
      words,
      units && h("small", {}, ` ${units}`),
    );
    const heading = h("th", { scope: "col", class: name === "subject" ? "pinned" : kind, "data-column": name }, button);
    this.#mark(heading);
    return heading;
  }

  #mark(heading: HTMLElement): void {
    const own = this.#sort?.column === heading.dataset.column;
    heading.setAttribute("aria-sort", !own ? "none" : this.#sort?.down ? "descending" : "ascending");
  }

  #filter(column: Column): HTMLElement {
    const { name, kind, values } = column;
    const words = spoken(name);
    const set = this.#filters.get(name) ?? "";
    if (kind === "text") {
      const texts = [...new Set(values.filter((value): value is string => typeof value === "string"))].sort();
      const some = texts.slice(0, 200).map((value) => h("option", { value }, value));
      const chosen = h(
        "select",
        { "aria-label": `${words}: which`, onchange: () => this.#set(name, chosen.value) },
        h("option", { value: "" }, "all"),
        ...some,
        values.includes(null) && h("option", { value: "missing" }, "missing"),
      );
      chosen.value = set;
      return chosen;
    }
    const range = rangeOf(set);
    const ends = ([0, 1] as const).map((end) => {
      const value = range && Number.isFinite(range[end]) ? String(range[end]) : "";
      return h("input", {
        type: "text",
        inputmode: "decimal",
        size: 3,
        placeholder: end ? "to" : "from",
        value,
        "aria-label": `${words} ${end ? "to" : "from"}`,
      });
    });
    for (const input of ends)
      input.addEventListener("input", () => {
        const [low, high] = ends.map((one) => one.value.trim().replace(",", "."));
        const filter = low || high ? `${low}..${high}` : "";
        for (const one of ends) one.setAttribute("aria-invalid", String(filter !== "" && !rangeOf(filter)));
        this.#set(name, filter);
      });
    return h("div", { class: "range" }, ...ends);
  }

  #imageFilter(name: string): HTMLElement {
    const chosen = h(
      "select",
      { "aria-label": `${imageLabel(name)}: has it`, onchange: () => this.#set(name, chosen.value) },
      h("option", { value: "" }, "all"),
      h("option", { value: "yes" }, "yes"),
      h("option", { value: "no" }, "no"),
    );
    chosen.value = this.#filters.get(name) ?? "";
    return chosen;
  }

  #set(name: string, filter: string): void {
    if (filter) this.#filters.set(name, filter);
    else this.#filters.delete(name);
    this.#apply();
  }

  #sorted(column: string): void {
    const down = this.#sort?.column === column ? !this.#sort.down : false;
    this.#sort = { column, down };
    for (const heading of this.#head.querySelectorAll<HTMLElement>("th[data-column]")) this.#mark(heading);
    this.#apply();
  }

  #clear(): void {
    this.#filters.clear();
    this.#search.value = "";
    this.#sort = undefined;
    this.#build();
    this.#apply();
  }

  #apply(told = true): void {
    const query = { text: this.#search.value, filters: this.#filters, sort: this.#sort };
    this.#rows = rowsOf(this.#cohort, this.#columns, query);
    say(this.#count, `${this.#rows.length} of ${this.#cohort.subjects.length} subjects`);
    this.#focus = 0;
    this.#shown = [-1, -1];
    this.#window();
    if (told) this.#events.address(written({ kind: "cohort", ...query }));
  }

  /** Have those rows in the table that are seen; all of them where there are not too many. */
  #window(): void {
    const total = this.#rows.length;
    let [start, end] = [0, total];
    if (total > ALL_ROWS) {
      const first = Math.floor(this.#scroller.scrollTop / ROW_PIXELS);
      const seen = Math.ceil(this.#scroller.clientHeight / ROW_PIXELS);
      start = Math.max(0, Math.min(first, total - seen) - MARGIN_ROWS);
      end = Math.min(total, start + seen + 2 * MARGIN_ROWS);
    }
    if (this.#shown[0] === start && this.#shown[1] === end) return;
    this.#shown = [start, end];
    const space = (rows: number) => {
      const filler = h("tr", { "aria-hidden": "true", class: "filler" });
      filler.style.height = `${rows * ROW_PIXELS}px`;
      return filler;
    };
    const rows = this.#rows.slice(start, end).map((row, at) => this.#row(row, start + at));
    const focused = this.#body.contains(document.activeElement);
    show(this.#body, start > 0 && space(start), ...rows, end < total && space(total - end));
    if (!total)
      show(
        this.#body,
        h(
          "tr",
          {},
          h(
            "td",
            { colspan: this.#columns.length + this.#cohort.images.length + 1, class: "empty" },
            "No subject fits the filters.",
          ),
        ),
      );
    if (focused) this.#focusRow(this.#focus);
  }

  #row(row: number, rank: number): HTMLElement {
    const { subjects, available, images } = this.#cohort;
    const name = subjects[row]!;
    const link = h("a", { href: `#/${encodeURIComponent(name)}`, tabindex: rank === this.#focus ? 0 : -1 }, name);
    const cell = (column: Column) => {
      const words = shownValue(column.name, column.values[row]);
      const kind = column.kind === "number" ? "number" : "";
      return words ? h("td", { class: kind }, words) : h("td", { class: `missing ${kind}`, title: "missing" }, "–");
    };
    const split = this.#columns.findIndex(({ name: one }) => !FIRST.includes(one));
    const first = split < 0 ? this.#columns : this.#columns.slice(0, split);
    const has = images.map((image, at) =>
      available[row]![at]
        ? h(
            "td",
            { class: "image", title: `${imageLabel(image)}: yes` },
            h("span", { class: "dot", role: "img", "aria-label": "yes" }),
          )
        : h(
            "td",
            { class: "image missing", title: `${imageLabel(image)}: no` },
            h("span", { role: "img", "aria-label": "no" }, "–"),
          ),
    );
    return h(
      "tr",
      { "data-subject": name, "data-rank": rank, "aria-rowindex": rank + 3 },
      h("th", { scope: "row", class: "pinned" }, link),
      ...first.map(cell),
      ...has,
      ...(split < 0 ? [] : this.#columns.slice(split)).map(cell),
    );
  }

  #clicked(event: MouseEvent): void {
    const row = (event.target as Element).closest<HTMLElement>("tr[data-subject]");
    // a link opens as links do, also in a new tab
    if (!row?.dataset.subject || (event.target as Element).closest("a")) return;
    this.#events.open(row.dataset.subject);
  }

  #key(event: KeyboardEvent): void {
    const steps: Record<string, number> = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: 15,
      PageUp: -15,
      Home: -Infinity,
      End: Infinity,
    };
    const by = steps[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.#focusRow(Math.min(Math.max(this.#focus + by, 0), this.#rows.length - 1));
  }

  #focusRow(rank: number): void {
    this.#body.querySelector<HTMLElement>(`tr[data-rank="${this.#focus}"] a`)?.setAttribute("tabindex", "-1");
    this.#focus = rank;
    let row = this.#body.querySelector<HTMLElement>(`tr[data-rank="${rank}"]`);
    if (!row) {
      this.#scroller.scrollTop = rank * ROW_PIXELS;
      this.#shown = [-1, -1];
      this.#window();
      row = this.#body.querySelector<HTMLElement>(`tr[data-rank="${rank}"]`);
    }
    const link = row?.querySelector<HTMLElement>("a");
    link?.setAttribute("tabindex", "0");
    link?.focus();
  }

  async #measured(): Promise<void> {
    const subjects = this.shown.filter((name) => !this.#events.volumes.has(name));
    this.#measure.disabled = true;
    await this.#events.measure(subjects, (done) => say(this.#measure, `Measuring, ${done} of ${subjects.length}`));
    this.#measure.disabled = false;
    say(this.#measure, "Measure infarcts");
    this.#build();
  }
}
