import { afterEach, describe, expect, it, vi } from "vitest";
import { crc32c } from "../src/crc32c.ts";
import { gridOf } from "../src/geometry.ts";
import { isMask, labelOf, maskOf, unitsOf } from "../src/images.ts";
import { Picture } from "../src/picture.ts";
import { PLANES } from "../src/planes.ts";
import { readout } from "../src/readout.ts";
import { HttpStore } from "../src/store.ts";
import { openSubject } from "../src/subject.ts";
import { Volume } from "../src/volume.ts";

const AFFINE = [
  [1, 0, 0, 0],
  [0, 1, 0, 0],
  [0, 0, 1, 0],
  [0, 0, 0, 1],
];

/** A shard of one chunk: its bytes, and the index with the checksum behind them, as the specification has it. */
function shardOf(values: ArrayBufferView<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const index = new Uint8Array(new BigUint64Array([0n, BigInt(data.length)]).buffer);
  return Uint8Array.of(...data, ...index, ...new Uint8Array(Uint32Array.of(crc32c(index)).buffer));
}

function documentOf(separator: "/" | ".", type: string, size: number, shape: number[], attributes = {}) {
  const key = ["c", ...shape.map(() => 0)].join(separator);
  const codecs = [{ name: "bytes", configuration: { endian: "little" } }];
  return {
    zarr_format: 3,
    node_type: "array",
    shape,
    data_type: type,
    chunk_grid: { name: "regular", configuration: { chunk_shape: shape } },
    chunk_key_encoding: { name: "default", configuration: { separator } },
    fill_value: 0,
    codecs: [
      {
        name: "sharding_indexed",
        configuration: {
          chunk_shape: shape,
          codecs,
          index_codecs: [...codecs, { name: "crc32c" }],
          index_location: "end",
        },
      },
    ],
    attributes: { ...attributes, isles24_zarr: { shards: { [key]: size } } },
  };
}

/** A server of files by their paths. */
function served(files: Record<string, Uint8Array<ArrayBuffer>>): string[] {
  const asked: string[] = [];
  vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
    const path = new URL(url).pathname;
    asked.push(path);
    const file = files[path];
    if (!file) return new Response("", { status: 404 });
    const range = (init.headers as Record<string, string>).Range;
    if (!range) return new Response(file, { status: 200 });
    const [first, last] = range.replace("bytes=", "").split("-").map(Number);
    const headers = { "Content-Range": `bytes ${first}-${last}/${file.length}` };
    return new Response(file.slice(first, last! + 1), { status: 206, headers });
  });
  return asked;
}

afterEach(() => vi.unstubAllGlobals());

describe("an array of the store", () => {
  it("is read by keys with dots, as a result has them that was overwritten", async () => {
    const shard = shardOf(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const asked = served({ "/dots/c.0.0.0": shard });
    const volume = new Volume(
      new HttpStore("http://x/"),
      "core",
      "dots",
      documentOf(".", "uint8", shard.length, [2, 2, 2]),
    );
    expect(Array.from(await volume.read([0, 0, 0]))).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(new Set(asked)).toEqual(new Set(["/dots/c.0.0.0"]));
    expect(volume.valueAt([1, 0, 1], 0)).toBe(6);
  });

  it("is read anew where it was overwritten since it was read", async () => {
    const [old, other] = [shardOf(Uint8Array.of(1, 1)), shardOf(Uint8Array.of(2, 2))];
    served({ "/again/c/0/0/0": old, "/again/c.0.0.0": other });
    const store = new HttpStore("http://x/");
    const before = new Volume(store, "core", "again", documentOf("/", "uint8", old.length, [1, 1, 2]));
    expect(Array.from(await before.read([0, 0, 0]))).toEqual([1, 1]);
    const document = documentOf(".", "uint8", other.length, [1, 1, 2], { scale_factor: 0.5 });
    const after = new Volume(store, "core", "again", document);
    expect(after.valueAt([0, 0, 0], 0)).toBeUndefined();
    await after.read([0, 0, 0]);
    expect(after.valueAt([0, 0, 0], 0)).toBe(1);
    // what is the same is not read twice
    const asked = served({});
    await new Volume(store, "core", "again", structuredClone(document)).read([0, 0, 0]);
    expect(asked).toEqual([]);
  });

  it("with fewer frames than another one shows its last one, and is not read again for it", async () => {
    const shard = shardOf(Uint8Array.of(7, 8, 9, 10));
    served({ "/short/c/0/0/0/0": shard });
    const document = documentOf("/", "uint8", shard.length, [2, 1, 1, 2]);
    const volume = new Volume(new HttpStore("http://x/"), "short", "short", document);
    await volume.read([0, 0, 0, 0]);
    expect(volume.valueAt([1, 0, 0], 40)).toBe(10);
    const picture = new Picture(volume, PLANES.axial, 0, 40);
    expect(Picture.key(volume, PLANES.axial, 0, 40)).toBe(Picture.key(volume, PLANES.axial, 0, picture.frame));
  });

  it("has no value where it is not a number", async () => {
    const shard = shardOf(Float32Array.of(Number.NaN, 4));
    served({ "/map/c/0/0/0": shard });
    const volume = new Volume(
      new HttpStore("http://x/"),
      "mtt",
      "map",
      documentOf("/", "float32", shard.length, [1, 1, 2]),
    );
    await volume.read([0, 0, 0]);
    const entry = { id: "mtt", label: "MTT", volume };
    const space = { grid: gridOf({ affine: AFFINE }, [1, 1, 2]) };
    const told = (x: number) => readout({ space, base: entry, frame: 0 } as never, [x, 0, 0], []);
    expect(told(0)).toMatch("MTT not computed");
    expect(told(1)).toMatch("MTT 4 s");
  });
});

describe("names that others gave", () => {
  const names = ["constructor", "toString", "__proto__", "hasOwnProperty"];
  it.each(names)("are no more than names: %s", (name) => {
    const volume = { name, attributes: {} } as never;
    expect(isMask(volume)).toBe(false);
    expect(unitsOf(volume)).toBe("");
    expect(maskOf({ name, attributes: { isles24_zarr: { mask: { kind: "soft" } } } } as never).nameOf(1)).toBe(
      "inside",
    );
    expect(labelOf(name)).toBe(name.replace(/_/g, " "));
  });

  it("do not keep a subject from being shown", async () => {
    const metadata = Object.fromEntries([
      ["space-ncct", { node_type: "group", attributes: { affine: AFFINE } }],
      ...["constructor", "tmax"].map((name) => [`space-ncct/${name}`, documentOf("/", "float32", 28, [1, 1, 2])]),
    ]);
    const document = { node_type: "group", attributes: {}, consolidated_metadata: { metadata } };
    served({ "/sub-1/zarr.json": new TextEncoder().encode(JSON.stringify(document)) });
    const subject = await openSubject(new HttpStore("http://x/"), "sub-1", Promise.resolve([]));
    expect(subject.problems).toEqual([]);
    expect(
      subject.spaces
        .get("ncct")!
        .images.map(({ id }) => id)
        .sort(),
    ).toEqual(["constructor", "tmax"]);
  });
});
