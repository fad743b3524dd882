/** The cine loop: the frames of a series one after the other. */

/** A frame is shown for so long, or until it is there. */
const FRAME_MS = 120;
/** So many turns the other planes are waited for, once the one that is looked at is there. */
const PATIENCE = 4;

export interface CineEvents {
  /** Whether the plane that is looked at shows its frame whole. */
  seen(): boolean;
  /** Whether any plane waits for something. */
  loading(): boolean;
  /** Show the next frame. */
  advance(): void;
}

export class Cine {
  readonly #events: CineEvents;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #turns = 0;

  constructor(events: CineEvents) {
    this.#events = events;
  }

  get playing(): boolean {
    return this.#timer !== undefined;
  }

  start(): void {
    this.#timer ??= setTimeout(() => this.#turn(), FRAME_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** The next frame, once this one is there: a slow line makes it slow, and no frame is left out. */
  #turn(): void {
    this.#turns += 1;
    if (this.#events.seen() && (!this.#events.loading() || this.#turns >= PATIENCE)) {
      this.#turns = 0;
      this.#events.advance();
    }
    // what is shown by then may have stopped it
    if (this.playing) this.#timer = setTimeout(() => this.#turn(), FRAME_MS);
  }
}
