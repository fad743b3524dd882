/** Buttons of the spaces that a subject has images in. */

import { h, show } from "./dom.ts";
import type { Space } from "./subject.ts";

export class SpaceChoice {
  readonly element = h("div", { class: "choices", role: "group", "aria-label": "Space" });
  readonly #spaces: readonly Space[];
  readonly #entered: (space: Space) => void;

  constructor(spaces: Iterable<Space>, entered: (space: Space) => void) {
    this.#spaces = [...spaces].filter((space) => space.images.length);
    this.#entered = entered;
  }

  show(current: Space): void {
    const buttons = this.#spaces.map((space) => {
      const title = `space-${space.name}`;
      const pressed = String(space === current);
      return h(
        "button",
        { type: "button", class: "choice", title, "aria-pressed": pressed, onclick: () => this.#entered(space) },
        wordsOf(space),
      );
    });
    show(this.element, ...buttons);
  }
}

function wordsOf({ name }: Space): string {
  return name === "ncct" ? "registered to NCCT" : `${name.replace("_desc-", ": ").toUpperCase()} as acquired`;
}
