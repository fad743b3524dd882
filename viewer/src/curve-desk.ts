/** The time curves of one space: read on a click, kept to compare, forgotten with the space. */

import { CurvePanel } from "./curve-panel.ts";
import { type Curve, type Region, readCurve } from "./curves.ts";
import { clamped, placeOf, type Vec3 } from "./geometry.ts";
import { unitsOf } from "./images.ts";
import { isAbort } from "./store.ts";
import type { Space } from "./subject.ts";

/** How soon it is read: a curve that was clicked, and one that an address asks for. */
const CLICKED = 2;
const ASKED = 6;

export interface DeskEvents {
  visit(at: Vec3): void;
  frame(frame: number): void;
  failed(error: unknown): void;
  /** Curves or times have arrived. */
  arrived(): void;
  /** Other curves are kept: the address tells of them. */
  kept(): void;
}

export class CurveDesk {
  readonly panel: CurvePanel;
  readonly #events: DeskEvents;
  #space: Space | undefined;
  #seconds: readonly number[] = [];
  #current: Curve | undefined;
  #kept: readonly Curve[] = [];
  /** Positions of curves that an address asks for, until they are there. */
  #asked: readonly Vec3[] = [];
  #region: Region = "voxel";
  /** Of the curve that was clicked last, and of all that is read for this space. */
  #reading = new AbortController();
  #visit = new AbortController();

  constructor(events: DeskEvents) {
    this.#events = events;
    this.panel = new CurvePanel({
      region: (region) => {
        this.#region = region;
        if (this.#current) this.draw(this.#current.at, true);
      },
      keep: () => this.keep(),
      drop: (curve) => this.#keepOnly(this.#kept.filter((one) => one !== curve)),
      visit: (curve) => events.visit(curve.at),
      frame: (frame) => events.frame(frame),
    });
  }

  get seconds(): readonly number[] {
    return this.#seconds;
  }

  /** Where the curves are from that are kept, or will be. */
  get positions(): Vec3[] {
    return [...this.#kept.map((curve) => curve.position), ...this.#asked];
  }

  /** Begin with a space: no curves, and its times. */
  enter(space: Space): void {
    this.#abort();
    this.#visit = new AbortController();
    this.#space = space;
    this.#current = undefined;
    this.#kept = [];
    this.#asked = [];
    this.#seconds = [];
    this.#show();
    this.panel.tell(space.series ? "Click on a plane: the time curve of that voxel." : "This space has no series.");
    if (!space.series) return;
    space.seconds().then(
      (seconds) => {
        if (space !== this.#space) return;
        this.#seconds = seconds;
        this.#show();
        this.#events.arrived();
      },
      (error) => {
        if (space === this.#space) this.#events.failed(error);
      },
    );
  }

  /** Read the curve at a voxel, in place of the one that was read last. */
  draw(at: Vec3, clicked: boolean): void {
    this.#reading.abort();
    this.#reading = new AbortController();
    const { signal } = this.#reading;
    this.#read(at, signal, clicked ? CLICKED : ASKED).then(
      (curve) => {
        if (!curve || signal.aborted) return;
        // one that was kept is not drawn twice
        const same = (kept: Curve) => kept.region === curve.region && kept.at.join() === curve.at.join();
        this.#current = this.#kept.find(same) ?? curve;
        this.#show();
        this.#events.arrived();
      },
      (error) => this.#failed(error),
    );
  }

  keep(): void {
    if (this.#current && !this.#kept.includes(this.#current)) this.#keepOnly([...this.#kept, this.#current]);
  }

  /** Keep the curves that an address asks for, and no others; read those that are not there. */
  async restore(positions: readonly Vec3[]): Promise<void> {
    const space = this.#space;
    if (!space?.series) return;
    const places = positions.map((position) => clamped(space.grid, placeOf(space.grid, position)));
    const kept = places.map((place) => this.#kept.find((one) => one.at.join() === place.join()));
    this.#visit.abort();
    this.#visit = new AbortController();
    const { signal } = this.#visit;
    this.#asked = positions.filter((_, rank) => !kept[rank]);
    this.#kept = kept.filter((curve) => curve !== undefined);
    this.#show();
    if (!this.#asked.length) return;
    const read = places.map(async (place, rank) => kept[rank] ?? this.#read(place, signal, ASKED));
    const found = await Promise.all(read.map((one) => one.catch((error) => this.#failed(error))));
    if (signal.aborted) return;
    this.#asked = [];
    // some may have been dropped or kept meanwhile
    const wanted = found.filter((curve) => curve && (!kept.includes(curve) || this.#kept.includes(curve)));
    const later = this.#kept.filter((curve) => !kept.includes(curve));
    this.#keepOnly([...wanted.filter((curve) => curve !== undefined), ...later]);
  }

  mark(frame: number): void {
    this.panel.mark(frame);
  }

  /** Leave the subject: what still arrives is not drawn. */
  close(): void {
    this.#abort();
    this.#space = undefined;
    this.panel.close();
  }

  #abort(): void {
    this.#reading.abort();
    this.#visit.abort();
  }

  /** Plain values of all curves. */
  get state(): Record<string, unknown> {
    const curve = this.#current;
    return {
      times: [...this.#seconds],
      curve: curve ? [...curve.voxel] : null,
      curveMean: curve ? [...curve.mean] : null,
      curvePosition: curve ? [...curve.position] : null,
      curves: this.#kept.map((kept) => ({ position: [...kept.position], curve: [...kept.voxel] })),
    };
  }

  #failed(error: unknown): undefined {
    if (!isAbort(error)) this.#events.failed(error);
    return undefined;
  }

  #keepOnly(curves: readonly Curve[]): void {
    this.#kept = curves;
    this.#show();
    this.#events.kept();
  }

  async #read(at: Vec3, signal: AbortSignal, priority: number): Promise<Curve | undefined> {
    const space = this.#space;
    if (!space?.series) return undefined;
    const curve = await readCurve(space.series.volume, space.grid, at, this.#region, {
      priority,
      signal,
      progress: (part) => this.panel.tell(part < 1 ? `Reading the curve, ${Math.round(part * 100)} %` : ""),
      failed: (error) => this.#events.failed(error),
    });
    return space === this.#space ? curve : undefined;
  }

  #show(): void {
    const series = this.#space?.series?.volume;
    this.panel.show(this.#current, this.#kept, this.#seconds, series ? unitsOf(series) : "");
  }
}
