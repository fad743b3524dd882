/** The store over HTTP: documents, and byte ranges that are merged, ordered by what is looked at, counted and cancelled. */

import { type Merged, merged, type Span } from "./ranges.ts";

export class ReadError extends Error {
  override name = "ReadError";
  /** Whether to try again may help: nothing is known of the store itself. */
  readonly transient: boolean;
  /** The chunk that it is about, where it is about one: what is wrong with several of an array is told in one line. */
  readonly chunk: { readonly array: string; readonly key: string } | undefined;
  constructor(message: string, transient = false, chunk?: { array: string; key: string }) {
    super(message);
    this.transient = transient;
    this.chunk = chunk;
  }
}

export interface ReadOptions {
  signal?: AbortSignal | undefined;
  /** What is asked first: 0 is looked at. */
  priority?: number | undefined;
  /** Called when the bytes of a chunk are asked for, so that a chunk that its shard does not list is noticed. */
  listed?: (() => void) | undefined;
}

interface Wanted extends Span {
  readonly options: ReadOptions;
  readonly resolve: (bytes: Uint8Array<ArrayBuffer>) => void;
  readonly reject: (error: unknown) => void;
  settled: boolean;
}

interface Job {
  readonly key: string;
  readonly request: Merged<Wanted>;
  readonly priority: number;
}

const AT_ONCE = 6;
/** What is less urgent by so much waits until nothing else is under way: it would share the line. */
const LATER = 3;
const PAUSES_MS = [300, 1200];
const RANGE_IGNORED =
  "This server ignores byte ranges and sends whole files, so no voxels are read. " +
  "Serve the store by “isles24-zarr serve”, nginx, or a bucket.";

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

function aborted(): DOMException {
  return new DOMException("no longer looked at", "AbortError");
}

export class HttpStore {
  readonly url: string;
  requests = 0;
  bytes = 0;
  /** Called when a request begins or ends. */
  onTraffic: () => void = () => {};
  /** Bytes of shards as the store records them, by key: their index is found without asking. */
  readonly sizes = new Map<string, number>();
  #waiting = new Map<string, Wanted[]>();
  #queue: Job[] = [];
  #running = 0;
  #urgencies: number[] = [];
  #timer = false;

  constructor(url: string) {
    this.url = url.endsWith("/") ? url : `${url}/`;
  }

  get busy(): number {
    return this.#running + this.#queue.length;
  }

  /** A document, or undefined where there is none. */
  async json(key: string): Promise<unknown> {
    const bytes = await this.get(`/${key}`);
    if (!bytes) return undefined;
    try {
      return JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      throw new ReadError(`${key} is not a document of Zarr`);
    }
  }

  /** A whole object, or undefined where there is none. */
  async get(key: string, options: ReadOptions = {}): Promise<Uint8Array<ArrayBuffer> | undefined> {
    this.#running += 1;
    try {
      const response = await this.#asked(key, {}, options.signal ?? undefined);
      if (response.status === 404 || response.status === 403) return undefined;
      if (!response.ok) throw new ReadError(`${shown(key)}: the server answers ${response.status}`, true);
      const bytes = new Uint8Array(await response.arrayBuffer());
      this.bytes += bytes.length;
      options.listed?.();
      return bytes;
    } finally {
      this.#running -= 1;
      this.onTraffic();
      this.#next();
    }
  }

  /** Part of an object; the signature is the one that zarrita asks by. */
  async getRange(
    key: string,
    range: { offset: number; length: number } | { suffixLength: number },
    options: ReadOptions = {},
  ): Promise<Uint8Array<ArrayBuffer>> {
    if ("suffixLength" in range) {
      const size = this.sizes.get(key);
      // the index of a shard is shared by all who look for a chunk: that one of them looks away does not matter
      const mine = { priority: options.priority };
      if (size === undefined) return this.#suffix(key, range.suffixLength);
      return this.#ranged(key, { offset: size - range.suffixLength, length: range.suffixLength }, mine);
    }
    options.listed?.();
    return this.#ranged(key, range, options);
  }

  #ranged(key: string, range: Span, options: ReadOptions): Promise<Uint8Array<ArrayBuffer>> {
    if (options.signal?.aborted) return Promise.reject(aborted());
    return new Promise((resolve, reject) => {
      const waiting = this.#waiting.get(key) ?? [];
      this.#waiting.set(key, waiting);
      waiting.push({ ...range, options, resolve, reject, settled: false });
      if (this.#timer) return;
      this.#timer = true;
      // all that is asked for in one turn of the event loop is known by then
      setTimeout(() => this.#flush(), 0);
    });
  }

  #flush(): void {
    this.#timer = false;
    for (const [key, wanted] of this.#waiting) {
      for (const priority of new Set(wanted.map(({ options }) => options.priority ?? 0))) {
        const spans = wanted.filter(({ options }) => (options.priority ?? 0) === priority);
        for (const request of merged(spans)) this.#queue.push({ key, request, priority });
      }
    }
    this.#waiting.clear();
    this.#queue.sort((a, b) => a.priority - b.priority);
    this.#next();
  }

  #next(): void {
    while (this.#running < AT_ONCE && this.#queue.length) {
      if (this.#urgencies.some((urgency) => this.#queue[0]!.priority >= urgency + LATER)) break;
      const { key, request, priority } = this.#queue.shift()!;
      const members = request.members.filter((one) => {
        if (one.options.signal?.aborted) one.reject(aborted());
        return !one.options.signal?.aborted;
      });
      if (!members.length) continue;
      // what others have left need not be read any more
      const [now, ...rest] = merged(members);
      for (const request of rest) this.#queue.unshift({ key, request, priority });
      this.#running += 1;
      this.#urgencies.push(priority);
      this.#run(key, now!).finally(() => {
        this.#running -= 1;
        this.#urgencies.splice(this.#urgencies.indexOf(priority), 1);
        this.onTraffic();
        this.#next();
      });
    }
    this.onTraffic();
  }

  async #run(key: string, request: Merged<Wanted>): Promise<void> {
    const controller = new AbortController();
    const leave = () => {
      if (request.members.every((one) => one.settled || one.options.signal?.aborted)) controller.abort();
    };
    for (const one of request.members) one.options.signal?.addEventListener("abort", leave);
    try {
      await this.#stream(key, request, controller.signal);
    } catch (error) {
      for (const one of request.members) if (!one.settled) one.reject(error);
      // of an answer that was given up nothing more is to come down the line
      controller.abort();
    } finally {
      for (const one of request.members) one.options.signal?.removeEventListener("abort", leave);
    }
  }

  /** Read an answer piece by piece, and hand out each range as soon as it is there. */
  async #stream(key: string, request: Merged<Wanted>, signal: AbortSignal): Promise<void> {
    const end = request.offset + request.length - 1;
    const response = await this.#asked(key, { Range: `bytes=${request.offset}-${end}` }, signal);
    await refuseOther(key, response, this.sizes.get(key));
    const whole = new Uint8Array(request.length);
    const members = [...request.members].sort((a, b) => a.offset + a.length - (b.offset + b.length));
    let received = 0;
    const reader = response.body!.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      this.bytes += value.length;
      if (received + value.length > request.length)
        throw new ReadError(`${shown(key)}: the server sends more than it was asked for`);
      whole.set(value, received);
      received += value.length;
      while (members.length && members[0]!.offset + members[0]!.length <= request.offset + received) {
        const one = members.shift()!;
        one.settled = true;
        if (one.options.signal?.aborted) one.reject(aborted());
        else one.resolve(whole.subarray(one.offset - request.offset, one.offset - request.offset + one.length));
      }
    }
    if (members.length)
      throw new ReadError(`${shown(key)}: the answer ends ${request.length - received} bytes too early`, true);
  }

  async #suffix(key: string, length: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#running += 1;
    try {
      const response = await this.#asked(key, { Range: `bytes=-${length}` });
      await refuseOther(key, response);
      const bytes = new Uint8Array(await response.arrayBuffer());
      this.bytes += bytes.length;
      if (bytes.length !== length) throw new ReadError(`${shown(key)} is damaged: it is shorter than its index`);
      return bytes;
    } finally {
      this.#running -= 1;
      this.#next();
    }
  }

  async #asked(key: string, headers: Record<string, string>, signal?: AbortSignal): Promise<Response> {
    const url = this.url + key.slice(1).split("/").map(encodeURIComponent).join("/");
    for (let attempt = 0; ; attempt += 1) {
      this.requests += 1;
      let problem: string;
      try {
        // browsers read ranges of one file one after the other, lest two write into their cache: ours is enough
        const cache = headers.Range ? "no-store" : "no-cache";
        const response = await fetch(url, { headers, signal: signal ?? null, cache });
        if (response.status < 500 && response.status !== 429) return response;
        await response.body?.cancel();
        problem = `the server answers ${response.status}`;
      } catch (error) {
        if (isAbort(error)) throw error;
        problem = "the server cannot be reached, or does not let this page read";
      }
      const pause = PAUSES_MS[attempt];
      if (pause === undefined) throw new ReadError(`${shown(key)}: ${problem}`, true);
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (signal?.aborted) throw aborted();
    }
  }
}

function shown(key: string): string {
  return key.replace(/^\//, "");
}

async function refuseOther(key: string, response: Response, size?: number): Promise<void> {
  const problem = problemOf(key, response, size);
  if (!problem) return;
  await response.body?.cancel();
  throw problem;
}

function problemOf(key: string, response: Response, size?: number): ReadError | undefined {
  if (response.status === 404 || response.status === 403)
    return new ReadError(`${shown(key)} is lost: the store has recorded it, and the server answers ${response.status}`);
  if (response.status === 416) return new ReadError(`${shown(key)} is damaged: it is shorter than was recorded`);
  if (response.status === 200) return new ReadError(RANGE_IGNORED);
  if (response.status !== 206) return new ReadError(`${shown(key)}: the server answers ${response.status}`, true);
  // servers of other sites may not show this header
  const total = Number(response.headers.get("Content-Range")?.split("/")[1] ?? Number.NaN);
  if (size !== undefined && Number.isFinite(total) && total !== size)
    return new ReadError(`${shown(key)} is damaged: it has ${total} bytes, and ${size} were recorded`);
  return undefined;
}
