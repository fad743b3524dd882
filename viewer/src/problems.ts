/** What could not be read, each told once: chunks of an array that have the same fault share a line. */

import { ReadError } from "./store.ts";

const NAMED = 4;

export class Problems {
  readonly #texts = new Set<string>();
  readonly #chunks = new Map<string, Set<string>>();

  add(error: unknown): void {
    if (error instanceof ReadError && error.chunk) {
      const line = `${error.chunk.array}\n${error.message}`;
      const chunks = this.#chunks.get(line) ?? new Set();
      this.#chunks.set(line, chunks.add(error.chunk.key));
    } else this.#texts.add(error instanceof Error ? error.message : String(error));
  }

  get texts(): string[] {
    const lines = [...this.#chunks].map(([line, chunks]) => {
      const [array, message] = line.split("\n", 2);
      const named = [...chunks].slice(0, NAMED).join(", ");
      const more = chunks.size > NAMED ? ` and ${chunks.size - NAMED} more` : "";
      return `${array}, chunk${chunks.size > 1 ? "s" : ""} ${named}${more}: ${message}`;
    });
    return [...lines, ...this.#texts];
  }
}
