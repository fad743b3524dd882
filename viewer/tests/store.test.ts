import { afterEach, describe, expect, it, vi } from "vitest";
import { HttpStore } from "../src/store.ts";

const SHARD = Uint8Array.from({ length: 200_000 }, (_, at) => at % 251);

interface Asked {
  readonly range: string | undefined;
  readonly signal: AbortSignal | null | undefined;
}

/** A server of one shard; `answer` may make it a bad one. */
function served(answer?: (range: string | undefined) => Response | undefined): Asked[] {
  const asked: Asked[] = [];
  vi.stubGlobal("fetch", async (_: string, init: RequestInit) => {
    const range = (init.headers as Record<string, string>).Range;
    asked.push({ range, signal: init.signal });
    const other = answer?.(range);
    if (other) return other;
    const [first, last] = range!.replace("bytes=", "").split("-").map(Number);
    const headers = { "Content-Range": `bytes ${range!.slice(6)}/${SHARD.length}` };
    return new Response(SHARD.slice(first, last! + 1), { status: 206, headers });
  });
  return asked;
}

afterEach(() => vi.unstubAllGlobals());

describe("the store over HTTP", () => {
  it("asks once for neighbours, and gives each its own bytes", async () => {
    const asked = served();
    const store = new HttpStore("http://x/y");
    const parts = [
      [0, 100],
      [100, 50],
      [5000, 10],
      [150_000, 20],
    ] as const;
    const read = await Promise.all(parts.map(([offset, length]) => store.getRange("/a/c/0", { offset, length })));
    expect(read.map((one) => [...one])).toEqual(
      parts.map(([offset, length]) => [...SHARD.slice(offset, offset + length)]),
    );
    expect(asked.map(({ range }) => range)).toEqual(["bytes=0-5009", "bytes=150000-150019"]);
    expect([store.requests, store.bytes]).toEqual([2, 5030]);
  });

  it("finds the index of a shard by its recorded size", async () => {
    const asked = served();
    const store = new HttpStore("http://x/");
    store.sizes.set("/a/c/0", SHARD.length);
    const index = await store.getRange("/a/c/0", { suffixLength: 16 });
    expect([...index]).toEqual([...SHARD.slice(-16)]);
    expect(asked[0]!.range).toBe(`bytes=${SHARD.length - 16}-${SHARD.length - 1}`);
  });

  it("cancels a request when nobody wants any of it, and not before", async () => {
    const asked = served((range) => {
      const never = new ReadableStream({ start() {} });
      return new Response(never, { status: 206, headers: { "Content-Range": `bytes ${range!.slice(6)}/200000` } });
    });
    const store = new HttpStore("http://x/");
    const [one, other] = [new AbortController(), new AbortController()];
    store.getRange("/a/c/0", { offset: 0, length: 10 }, { signal: one.signal }).catch(() => {});
    store.getRange("/a/c/0", { offset: 10, length: 10 }, { signal: other.signal }).catch(() => {});
    await vi.waitFor(() => expect(asked).toHaveLength(1));
    one.abort();
    expect(asked[0]!.signal!.aborted).toBe(false);
    other.abort();
    expect(asked[0]!.signal!.aborted).toBe(true);
  });

  it("never asks for what was given up while it waited", async () => {
    const asked = served();
    const store = new HttpStore("http://x/");
    const controller = new AbortController();
    const read = store.getRange("/a/c/0", { offset: 0, length: 10 }, { signal: controller.signal });
    controller.abort();
    await expect(read).rejects.toThrow("no longer looked at");
    expect(asked).toHaveLength(0);
  });

  it("reads what is looked at before it begins with what is not", async () => {
    const asked = served();
    const store = new HttpStore("http://x/");
    const later = store.getRange("/a/c/1", { offset: 7, length: 1 }, { priority: 6 });
    await store.getRange("/a/c/0", { offset: 0, length: 1 }, { priority: 0 });
    expect(asked.map(({ range }) => range)).toEqual(["bytes=0-0"]);
    await later;
  });

  it.each([
    [() => new Response(SHARD, { status: 200 }), "ignores byte ranges"],
    [() => new Response("", { status: 404 }), "a/c/0 is lost"],
    [() => new Response("", { status: 416 }), "shorter than was recorded"],
    [() => new Response("ab", { status: 206, headers: { "Content-Range": "bytes 0-1/77" } }), "77 bytes, and 200000"],
    [() => new Response("abc", { status: 206 }), "more than it was asked for"],
    [() => new Response("a", { status: 206 }), "1 bytes too early"],
  ])("says what is wrong with an answer: %#", async (answer, told) => {
    served(answer);
    const store = new HttpStore("http://x/");
    store.sizes.set("/a/c/0", SHARD.length);
    await expect(store.getRange("/a/c/0", { offset: 0, length: 2 })).rejects.toThrow(told);
  });

  it("lets go of an answer that is too long", async () => {
    let cancelled = false;
    const endless = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(1000)),
      cancel: () => {
        cancelled = true;
      },
    });
    const asked = served(() => new Response(endless, { status: 206 }));
    const store = new HttpStore("http://x/");
    await expect(store.getRange("/a/c/0", { offset: 0, length: 2 })).rejects.toThrow("more than it was asked for");
    await vi.waitFor(() => expect(cancelled || asked[0]!.signal!.aborted).toBe(true));
  });

  it("tries again where the server is only busy", async () => {
    vi.useFakeTimers();
    let times = 0;
    served(() => (++times < 3 ? new Response("", { status: 503 }) : undefined));
    const store = new HttpStore("http://x/");
    const read = store.getRange("/a/c/0", { offset: 0, length: 2 });
    await vi.runAllTimersAsync();
    expect([...(await read)]).toEqual([0, 1]);
    expect(store.requests).toBe(3);
    vi.useRealTimers();
  });
});
