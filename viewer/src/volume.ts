/** One array of the store: its chunks, decoded once, and its values in physical units. */

import * as zarr from "zarrita";
import { Cache } from "./cache.ts";
import { CheckedCrc32c, crc32c } from "./crc32c.ts";
import type { Vec3 } from "./geometry.ts";
import { chunkOf, type Layout, offsetIn } from "./planes.ts";
import { type HttpStore, isAbort, ReadError, type ReadOptions } from "./store.ts";
import { type Fields, fields, number, numbers } from "./values.ts";

zarr.registry.set("crc32c", async () => CheckedCrc32c as never);

type Values = ArrayLike<number | bigint> & { readonly byteLength: number };

interface Pending {
  readonly promise: Promise<Values>;
  readonly controller: AbortController;
  waiting: number;
}

const CACHED_BYTES = 256 * 1024 * 1024;
const decoded = new Cache<Values>(CACHED_BYTES);

export class Volume implements Layout {
  readonly name: string;
  readonly path: string;
  readonly attributes: Fields;
  readonly shape: readonly number[];
  readonly chunk: readonly number[];
  readonly slope: number;
  readonly intercept: number;
  /** What cannot be read, by chunk: it is not asked for again. */
  readonly damage = new Map<string, ReadError>();
  /** Names what was read: an array that was overwritten since then has another document. */
  readonly #version: string;
  readonly #array: zarr.Array<zarr.DataType, HttpStore>;
  readonly #pending = new Map<string, Pending>();

  constructor(store: HttpStore, name: string, path: string, document: Fields) {
    this.name = name;
    this.path = path;
    this.attributes = fields(document.attributes);
    this.#version = `${path} ${crc32c(new TextEncoder().encode(JSON.stringify(document)))}`;
    this.#array = new zarr.Array(store, `/${path}`, document as never);
    this.shape = this.#array.shape;
    this.chunk = this.#array.chunks;
    this.slope = number(this.attributes.scale_factor, 1);
    this.intercept = number(this.attributes.add_offset, 0);
    const record = fields(this.attributes.isles24_zarr);
    for (const [key, size] of Object.entries(fields(record.shards)))
      if (typeof size === "number") store.sizes.set(`/${path}/${key}`, size);
  }

  get frames(): number {
    return this.shape.length > 3 ? this.shape[0]! : 1;
  }

  /** The frame of this array at a frame of the series: one that has fewer stays at its last. */
  frameAt(frame: number): number {
    return Math.min(frame, this.frames - 1);
  }

  physical(stored: number | bigint): number {
    const value = Number(stored);
    return this.slope === 1 && this.intercept === 0 ? value : value * this.slope + this.intercept;
  }

  /** The stored values of a chunk, where they have been read already. */
  peek(chunk: readonly number[]): Values | undefined {
    return decoded.get(`${this.#version} ${chunk.join("/")}`);
  }

  /** The physical value of a voxel, where its chunk has been read. */
  valueAt(at: Vec3, frame: number): number | undefined {
    const own = this.frameAt(frame);
    const values = this.peek(chunkOf(this, at, own));
    return values && this.physical(values[offsetIn(this, at, own)]!);
  }

  /** The stored values of a chunk. What several ask for is read once, and cancelled when all of them have left. */
  async read(chunk: readonly number[], options: ReadOptions = {}): Promise<Values> {
    const key = chunk.join("/");
    const held = this.peek(chunk);
    if (held) return held;
    const damage = this.damage.get(key);
    if (damage) throw damage;
    let pending = this.#pending.get(key);
    if (!pending || pending.controller.signal.aborted) {
      const controller = new AbortController();
      pending = { promise: this.#decoded(chunk, key, controller, options.priority), controller, waiting: 0 };
      pending.promise.catch(() => {});
      this.#pending.set(key, pending);
    }
    return this.#shared(pending, options.signal ?? undefined);
  }

  #shared(pending: Pending, signal?: AbortSignal): Promise<Values> {
    pending.waiting += 1;
    if (!signal) return pending.promise;
    return new Promise((resolve, reject) => {
      const leave = () => {
        pending.waiting -= 1;
        if (!pending.waiting) pending.controller.abort();
        reject(signal.reason);
      };
      if (signal.aborted) {
        leave();
        return;
      }
      signal.addEventListener("abort", leave, { once: true });
      pending.promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
    });
  }

  async #decoded(chunk: readonly number[], key: string, controller: AbortController, priority = 0): Promise<Values> {
    let listed = false;
    const options: ReadOptions = { signal: controller.signal, priority, listed: () => (listed = true) };
    try {
      const { data } = await this.#array.getChunk([...chunk], options as never);
      // every chunk is written, also of zeros: what is not there is lost, whatever clients take for it
      if (!listed) throw new ReadError("is lost: its shard does not list it");
      const values = data as unknown as Values;
      decoded.set(`${this.#version} ${key}`, values, values.byteLength);
      return values;
    } catch (error) {
      if (isAbort(error)) throw error;
      const told = this.#told(error, key);
      if (!told.transient) this.damage.set(key, told);
      throw told;
    } finally {
      if (this.#pending.get(key)?.controller === controller) this.#pending.delete(key);
    }
  }

  #told(error: unknown, key: string): ReadError {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    const message = cause instanceof Error ? cause.message : String(cause);
    if (cause instanceof ReadError && !message.startsWith("is ")) return cause; // it names its file already
    const what = cause instanceof ReadError ? message : `cannot be decoded (${message})`;
    return new ReadError(what, false, { array: this.path, key });
  }
}

/** Values of a small array that is read whole: a coordinate. */
export async function readCoordinate(store: HttpStore, path: string, document: Fields): Promise<number[]> {
  const array = new zarr.Array(store, `/${path}`, document as never);
  let listed = false;
  const found: number[] = [];
  const length = numbers(document.shape)[0] ?? 0;
  for (let chunk = 0; found.length < length; chunk += 1) {
    listed = false;
    let data: ArrayLike<number>;
    try {
      ({ data } = (await array.getChunk([chunk], { listed: () => (listed = true) } as never)) as never);
    } catch (error) {
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
      throw new ReadError(`${path} cannot be read: ${cause instanceof Error ? cause.message : cause}`);
    }
    if (!listed) throw new ReadError(`${path} is lost`);
    found.push(...Array.from(data).slice(0, length - found.length));
  }
  return found;
}
