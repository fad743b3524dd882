/** The page: where the store is, what the address asks for, what is told to scripts as `window.isles`. */

import "uplot/dist/uPlot.min.css";
import "./styles/base.css";
import "./styles/bar.css";
import "./styles/cohort.css";
import "./styles/subject.css";
import "./styles/curves.css";
import "./styles/keys.css";
import "./styles/narrow.css";
import { type Address, type CohortAddress, parsed, type SubjectAddress, written } from "./address.ts";
import type { Cohort } from "./cohort.ts";
import { CohortPage } from "./cohort-page.ts";
import { Documents } from "./documents.ts";
import { h, once, say, show } from "./dom.ts";
import { helpSheet } from "./help.ts";
import { maskOf } from "./images.ts";
import { measuredVolumes } from "./measuring.ts";
import { HttpStore, ReadError } from "./store.ts";
import { openSubject } from "./subject.ts";
import { SubjectPage } from "./subject-page.ts";

const MEASURED_AT_ONCE = 3;
const ADDRESS_MS = 120;

/** Where the store is: `?store=`, or what the page was written for, or beside the page. */
function storeUrl(): URL {
  const asked = new URLSearchParams(location.search).get("store");
  const written = document.querySelector<HTMLMetaElement>('meta[name="isles24-store"]')?.content;
  const base = new URL(".", location.href);
  const url = new URL(asked || written || ".", base);
  if (!/^https?:$/.test(url.protocol))
    throw new ReadError(`The store must be at an address that begins with http or https, not ${url.protocol}`);
  url.search = "";
  url.hash = "";
  return url;
}

/** The address of another subject, seen in the same way. */
function stepped(hash: string, subject: string): string {
  const now = parsed(hash);
  if (now.kind !== "subject") return `#/${subject}`;
  return written({ ...now, subject, at: undefined, frame: undefined, curves: undefined, looks: undefined });
}

class Page {
  readonly #store: HttpStore;
  readonly #documents: Documents;
  readonly #main = h("div", { class: "content" });
  readonly #traffic = h("p", { class: "traffic", "aria-label": "what was read from the store" });
  readonly #where = h("h1", { class: "where" });
  readonly #steps = h("nav", { class: "steps", "aria-label": "Subjects" });
  readonly #help = helpSheet();
  readonly #volumes = new Map<string, number>();
  readonly #told = once(() => this.#tellTraffic());
  #known: Cohort | undefined;
  #order: readonly string[] = [];
  #shown: CohortPage | SubjectPage | undefined;
  #errors: string[] = [];
  #asked = "";
  #turn = 0;
  #loading = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Writes the address that waits for its time. */
  #pending: (() => void) | undefined;

  constructor(store: HttpStore) {
    this.#store = store;
    this.#documents = new Documents(store);
    store.onTraffic = this.#told;
    const home = h("a", { href: "#/", class: "home" }, "ISLES’24 ", h("span", {}, "cohort"));
    const help = h(
      "button",
      { type: "button", class: "help-button", title: "keys (?)", onclick: () => this.#help.showModal() },
      "Keys",
    );
    const bar = h("header", { class: "bar" }, home, this.#steps, this.#where, this.#traffic, help);
    document.body.append(bar, this.#main, this.#help);
    window.addEventListener("popstate", () => void this.#go());
    window.addEventListener("hashchange", () => void this.#go());
    window.addEventListener("keydown", (event) => this.#key(event));
  }

  async #readCohort(): Promise<Cohort> {
    const cohort = await this.#documents.cohort();
    this.#known = cohort;
    if (!this.#order.length) this.#order = cohort.subjects;
    return cohort;
  }

  // --- where to go ---

  async #go(): Promise<void> {
    // going back tells of itself twice
    if (location.hash === this.#asked && (this.#shown || this.#loading)) return;
    this.#asked = location.hash;
    const address = parsed(location.hash);
    if (
      address.kind === "subject" &&
      this.#shown instanceof SubjectPage &&
      this.#shown.subject.name === address.subject
    ) {
      this.#shown.follow(address);
      return;
    }
    this.#turn += 1;
    const turn = this.#turn;
    this.#leave();
    this.#loading = true;
    show(this.#main, h("main", { class: "waiting", tabindex: -1 }, h("p", { role: "status" }, "Reading …")));
    try {
      const shown = await this.#made(address);
      if (turn !== this.#turn) return;
      this.#enter(shown, address);
    } catch (error) {
      if (turn === this.#turn) this.#fail(error instanceof Error ? error.message : String(error));
    } finally {
      if (turn === this.#turn) this.#loading = false;
    }
  }

  async #made(address: Address): Promise<CohortPage | SubjectPage> {
    if (address.kind === "cohort") return this.#cohortPage(await this.#readCohort(), address);
    const subject = await this.#documents.subject(address.subject);
    const page = SubjectPage.of(subject, address, {
      store: this.#store,
      address: (hash, step) => this.#write(hash, step),
    });
    if (typeof page === "string") throw new ReadError(page);
    return page;
  }

  #cohortPage(cohort: Cohort, address: CohortAddress): CohortPage {
    return new CohortPage(cohort, address, {
      open: (subject) => {
        location.hash = `#/${subject}`;
      },
      address: (hash) => this.#write(hash, false),
      measure: (subjects, told) => this.#measure(subjects, told),
      volumes: this.#volumes,
    });
  }

  #enter(shown: CohortPage | SubjectPage, address: Address): void {
    this.#shown = shown;
    show(this.#main, shown.element);
    show(this.#steps);
    if (address.kind === "subject") {
      document.title = `${address.subject} – ISLES’24`;
      say(this.#where, address.subject);
      void this.#beside(shown as SubjectPage, address);
    } else {
      document.title = "Cohort – ISLES’24";
      const { title = "", licence = "", state = "" } = this.#known ?? {};
      say(
        this.#where,
        [title, licence, state === "complete" || !state ? "" : `state: ${state}`].filter(Boolean).join("  ·  "),
      );
    }
    shown.element.focus({ preventScroll: true });
  }

  /** What stands beside the images is read after them. */
  async #beside(page: SubjectPage, address: SubjectAddress): Promise<void> {
    while (page.loading) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (this.#shown !== page) return;
    }
    try {
      const cohort = await this.#readCohort();
      if (this.#shown !== page) return;
      page.describe(
        new Map(cohort.columns.map(({ name, units, description }) => [name, [units, description] as const])),
      );
      const place = this.#order.indexOf(address.subject);
      const link = (by: number, words: string) => {
        const name = this.#order[place + by];
        if (place < 0 || !name) return h("span", { class: "off" }, words);
        return h("a", { href: stepped(page.hash, name), title: name, "data-step": by }, words);
      };
      show(
        this.#steps,
        link(-1, "‹ previous"),
        h("span", { class: "place" }, place < 0 ? "" : `${place + 1} / ${this.#order.length}`),
        link(1, "next ›"),
      );
    } catch (error) {
      if (this.#shown === page) this.#errors = [error instanceof Error ? error.message : String(error)];
    }
  }

  #leave(): void {
    if (this.#shown instanceof SubjectPage) this.#shown.close();
    if (this.#shown instanceof CohortPage) this.#order = this.#shown.shown;
    this.#shown = undefined;
    this.#errors = [];
  }

  #fail(message: string): void {
    this.#errors = [message];
    show(this.#steps);
    say(this.#where, "");
    const again = h("button", { type: "button", onclick: () => location.reload() }, "Try again");
    show(
      this.#main,
      h(
        "main",
        { class: "failed", tabindex: -1 },
        h("h2", {}, "This cannot be shown"),
        h("p", { role: "alert" }, message),
        again,
      ),
    );
  }

  /** Write the address: a step at once, what changes all the time after a while. */
  #write(hash: string, step: boolean): void {
    for (const link of this.#steps.querySelectorAll("a")) link.href = stepped(hash, link.title);
    const before = location.hash;
    const write = () => {
      clearTimeout(this.#timer);
      this.#pending = undefined;
      if (location.hash !== before) return; // somebody has gone elsewhere meanwhile
      this.#asked = hash;
      history.replaceState(null, "", hash);
    };
    if (step) {
      this.#pending?.(); // "back" leads to what was seen last
      this.#asked = hash;
      history.pushState(null, "", hash);
    } else {
      clearTimeout(this.#timer);
      this.#pending = write;
      this.#timer = setTimeout(write, ADDRESS_MS);
    }
  }

  #key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    const typing = target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || this.#help.open) return;
    const pressed = event.key === " " && target.matches("button, a, input, summary");
    if (pressed) return;
    const keys: Record<string, () => void> = {
      "?": () => this.#help.showModal(),
      c: () => {
        location.hash = "#/";
      },
      n: () => this.#steps.querySelector<HTMLElement>('a[data-step="1"]')?.click(),
      p: () => this.#steps.querySelector<HTMLElement>('a[data-step="-1"]')?.click(),
    };
    const act = keys[event.key.toLowerCase()];
    if (act) act();
    else if (!(this.#shown instanceof SubjectPage && this.#shown.key(event))) return;
    event.preventDefault();
  }

  async #measure(subjects: readonly string[], told: (done: number) => void): Promise<void> {
    const waiting = [...subjects];
    let done = 0;
    const work = async () => {
      for (let name = waiting.shift(); name; name = waiting.shift()) {
        try {
          const { spaces } = await openSubject(this.#store, name, Promise.resolve([]));
          const [space, entry] =
            [...spaces.values()].flatMap((one) =>
              one.masks.filter(({ id }) => id === "lesion_mask").map((mask) => [one, mask] as const),
            )[0] ?? [];
          if (space && entry) {
            const volumes = await measuredVolumes(entry.volume, space.grid, maskOf(entry.volume), 8);
            this.#volumes.set(
              name,
              [...volumes.values()].reduce((sum, one) => sum + one, 0),
            );
          }
        } catch (error) {
          this.#errors.push(error instanceof Error ? error.message : String(error));
        }
        done += 1;
        told(done);
      }
    };
    await Promise.all(Array.from({ length: MEASURED_AT_ONCE }, work));
  }

  #tellTraffic(): void {
    const { requests, bytes, busy } = this.#store;
    say(this.#traffic, `${requests} requests · ${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`);
    document.body.classList.toggle("busy", busy > 0);
  }

  /** Plain values of what is shown: a contract, see docs/how-to/view.md. */
  get state(): Record<string, unknown> {
    const { requests, bytes, busy } = this.#store;
    const none = {
      subject: null,
      space: null,
      base: null,
      overlay: null,
      position: null,
      value: null,
      overlayValue: null,
      frame: null,
      curve: null,
    };
    const subject = this.#shown instanceof SubjectPage ? this.#shown : undefined;
    const rows = this.#shown instanceof CohortPage ? this.#shown.shown : null;
    const loading = this.#loading || (subject?.loading ?? false);
    return {
      ...none,
      ...subject?.state,
      rows,
      errors: [...this.#errors, ...(subject?.errors ?? [])],
      requests,
      bytes,
      loading,
      waiting: busy,
    };
  }

  async start(): Promise<void> {
    await this.#go();
  }

  /** A page that cannot begin. */
  static refuse(message: string): void {
    document.body.append(
      h("main", { class: "failed" }, h("h1", {}, "This cannot be shown"), h("p", { role: "alert" }, message)),
    );
  }
}

declare global {
  interface Window {
    isles: { readonly state: Record<string, unknown> };
  }
}

function begin(): void {
  let page: Page | undefined;
  let refused = "";
  try {
    page = new Page(new HttpStore(storeUrl().href));
  } catch (error) {
    refused = error instanceof Error ? error.message : String(error);
  }
  const isles = {
    get state() {
      return page ? page.state : { errors: [refused], requests: 0, bytes: 0, loading: false };
    },
  };
  Object.defineProperty(window, "isles", { value: isles });
  if (page) void page.start();
  else Page.refuse(refused);
}

begin();
