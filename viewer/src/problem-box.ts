/** What cannot be read or shown, above the pictures. */

import { h, show } from "./dom.ts";
import type { Problems } from "./problems.ts";

const SHOWN = 3;

export class ProblemBox {
  readonly element = h("div", { class: "problems", role: "alert", hidden: true });
  #told = "";

  show(notes: readonly string[], problems: Problems): void {
    const all = problems.texts;
    const told = [...notes, ...all].join("\n");
    if (told === this.#told) return;
    this.#told = told;
    const lines = [...notes, ...all.slice(0, SHOWN), ...(all.length > SHOWN ? [`and ${all.length - SHOWN} more`] : [])];
    this.element.hidden = !lines.length;
    show(
      this.element,
      all.length > 0 && h("strong", {}, "Damaged or unreadable; hatched in the pictures"),
      h("ul", {}, ...lines.map((line) => h("li", {}, line))),
    );
  }
}
