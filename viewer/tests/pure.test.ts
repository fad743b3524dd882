import { describe, expect, it } from "vitest";
import { parsed, written } from "../src/address.ts";
import { Cache } from "../src/cache.ts";
import { type Cohort, cohortOf, pipelinesOf, rangeOf, rowsOf } from "../src/cohort.ts";
import { CheckedCrc32c, crc32c } from "../src/crc32c.ts";
import { regionAround, summaryOf } from "../src/curves.ts";
import {
  type Grid,
  gridOf,
  lettersOf,
  sameGrid,
  tiltOf,
  type Vec3,
  voxelAt,
  voxelVolume,
  worldOf,
} from "../src/geometry.ts";
import { isComputed, limitsOf, maskOf } from "../src/images.ts";
import { colourize, outlines } from "../src/painting.ts";
import { chunkOf, fill, offsetIn, PLANES, pixelOfVoxel, tilesOf, voxelOfPixel } from "../src/planes.ts";
import { Problems } from "../src/problems.ts";
import { merged } from "../src/ranges.ts";
import { ReadError } from "../src/store.ts";
import { shownNumber } from "../src/values.ts";

function tilted(degrees: number, orientation = "RAS"): Grid {
  const [c, s] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  const affine = [
    [0.5, 0, 0, -20],
    [0, 0.4 * c, -2 * s, -30],
    [0, 0.4 * s, 2 * c, 7],
    [0, 0, 0, 1],
  ];
  return gridOf({ affine, orientation }, [12, 50, 40]) as Grid;
}

describe("geometry", () => {
  it("finds the voxel of each position again", () => {
    const grid = tilted(12);
    for (const at of [
      [0, 0, 0],
      [39, 49, 11],
      [7, 20, 3],
    ] as Vec3[])
      expect(voxelAt(grid, worldOf(grid, at))).toEqual(at);
    expect(voxelAt(grid, worldOf(grid, [-1, 0, 0]))).toBeUndefined();
  });
  it("tells spacing, volume and tilt", () => {
    const grid = tilted(12);
    expect(grid.spacing.map((one) => Number(one.toFixed(9)))).toEqual([0.5, 0.4, 2]);
    expect(voxelVolume(grid)).toBeCloseTo(0.4, 9);
    expect(tiltOf(grid)).toBeCloseTo(12, 6);
  });
  it("names sides by the affine, a second one where it is oblique", () => {
    expect(lettersOf(tilted(12), 2)).toEqual(["I", "S"]);
    expect(lettersOf(tilted(20), 2)).toEqual(["IA", "SP"]);
    expect(lettersOf(tilted(0), 0)).toEqual(["L", "R"]);
    expect(lettersOf(tilted(0, "unknown"), 0)).toEqual(["", ""]);
  });
  it("lays arrays on each other only where they lie on each other", () => {
    expect(sameGrid(tilted(0), tilted(0.05))).toBe(true);
    expect(sameGrid(tilted(0), tilted(1))).toBe(false);
  });
  it("says what is wrong with a grid", () => {
    expect(gridOf({}, [1, 1, 1])).toMatch("no affine");
    expect(
      gridOf(
        {
          affine: [
            [0, 0, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 0],
          ],
        },
        [1, 1, 1],
      ),
    ).toMatch("cannot be inverted");
  });
});

describe("planes", () => {
  const layout = { shape: [3, 5, 7], chunk: [2, 2, 4] };
  const series = { shape: [4, 3, 5, 7], chunk: [2, 2, 2, 4] };
  /** Every voxel has a value of its own. */
  const value = (x: number, y: number, z: number) => x + 10 * y + 100 * z;
  function chunkValues(chunk: readonly number[]): number[] {
    const [cz, cy, cx] = chunk as [number, number, number];
    const found: number[] = [];
    for (let z = 0; z < 2; z += 1)
      for (let y = 0; y < 2; y += 1)
        for (let x = 0; x < 4; x += 1) found.push(value(cx * 4 + x, cy * 2 + y, cz * 2 + z));
    return found;
  }
  it.each(["axial", "coronal", "sagittal"] as const)("puts a %s slice together, last voxels first", (name) => {
    const plane = PLANES[name];
    const shape = [7, 5, 3];
    const [width, height] = [shape[plane.across]!, shape[plane.down]!];
    const picture = new Float32Array(width * height).fill(Number.NaN);
    for (const { chunk, box } of tilesOf(layout, plane, 2, 0)) {
      const held = chunkValues(chunk);
      fill(picture, width, layout, plane, 2, 0, box, (at) => held[at]!);
    }
    for (let row = 0; row < height; row += 1)
      for (let column = 0; column < width; column += 1) {
        const at: [number, number, number] = [2, 2, 2];
        at[plane.across] = width - 1 - column;
        at[plane.down] = height - 1 - row;
        expect(picture[row * width + column]).toBe(value(...at));
      }
  });
  it("finds voxels of a series in their chunks", () => {
    expect(chunkOf(series, [5, 3, 2], 3)).toEqual([1, 1, 1, 1]);
    expect(offsetIn(series, [5, 3, 2], 3)).toBe(16 + 0 + 4 + 1);
    expect(tilesOf(series, PLANES.axial, 2, 3).map(({ chunk }) => chunk.join())).toEqual([
      "1,1,0,0",
      "1,1,0,1",
      "1,1,1,0",
      "1,1,1,1",
      "1,1,2,0",
      "1,1,2,1",
    ]);
  });
  it("goes from pixels to voxels and back", () => {
    const grid = tilted(5);
    const [column, row] = pixelOfVoxel(grid, PLANES.coronal, [3, 9, 4]);
    expect(voxelOfPixel(grid, PLANES.coronal, 9, column, row)).toEqual([3, 9, 4]);
  });
});

describe("ranges", () => {
  const spans = [
    [0, 10],
    [30, 10],
    [10, 10],
    [1000, 5],
  ].map(([offset, length]) => ({ offset: offset!, length: length! }));
  it("merges neighbours, and what is nearly so", () => {
    expect(merged(spans, 0).map(({ offset, length }) => [offset, length])).toEqual([
      [0, 20],
      [30, 10],
      [1000, 5],
    ]);
    expect(merged(spans, 10).map(({ offset, length, members }) => [offset, length, members.length])).toEqual([
      [0, 40, 3],
      [1000, 5, 1],
    ]);
  });
  it("asks for no more at once than it may", () => {
    expect(merged(spans, 1000, 20)).toHaveLength(3);
  });
});

describe("addresses", () => {
  it("come back as they were written", () => {
    const hash =
      "#/sub-stroke0001?space=ncct&base=ctp&overlay=tmax&at=1.5,-2,30&frame=4&masks=lesion_mask,cow_mask&window=40,80&threshold=5&plane=axial&zoom=axial:2.5,1,-2,30;sagittal:1,4,5,6&crosshair=none&curves=1,2,3;4,5,6";
    expect(written(parsed(hash))).toBe(hash);
    const cohort = "#/?text=M&sort=-age&f.age=60..80";
    expect(written(parsed(cohort))).toBe(cohort);
    expect(parsed("#/sub-1?below=20&overlay=cbf")).toMatchObject({ threshold: 20, below: true });
    expect(written(parsed("#/sub-1?below=20"))).toBe("#/sub-1?below=20");
  });
  it("leave out what cannot be", () => {
    expect(parsed("#/sub-1?at=1,2&frame=x&window=a,b")).toMatchObject({
      at: undefined,
      frame: undefined,
      window: undefined,
    });
    const looks = "axial:0,1,2,3;coronal:2;sagittal:3,4,5;oblique:2,1,2,3;axial";
    expect(parsed(`#/sub-1?plane=oblique&zoom=${looks}`)).toMatchObject({ plane: undefined, looks: {} });
    for (const hash of ["", "#", "#/", "#/../x", "#/sub-a/b", "#/<script>"]) expect(parsed(hash).kind).toBe("cohort");
  });
});

describe("the cohort", () => {
  const columns = {
    subject: ["sub-1", "sub-2", "sub-10"],
    age: [70, null, 60.5],
    centre: ["A", "", "B"],
    image: ["ncct"],
    available: [[true], [false], [true]],
  };
  const phenotype = { node_type: "group", attributes: { isles24_zarr: { columns } } };
  const cohort: Cohort = cohortOf({}, phenotype, {});
  const rows = (text: string, filters: [string, string][] = [], column = "", down = false) =>
    rowsOf(cohort, cohort.columns, { text, filters: new Map(filters), sort: column ? { column, down } : undefined });
  it("keeps what is missing missing, and last in both orders", () => {
    expect(rows("", [], "age")).toEqual([2, 0, 1]);
    expect(rows("", [], "age", true)).toEqual([0, 2, 1]);
    expect(rows("", [["age", "0.."]])).toEqual([0, 2]);
    expect(rows("", [["centre", "missing"]])).toEqual([1]);
  });
  it("finds words, ranges and images", () => {
    expect(rows("sub-1")).toEqual([0, 2]);
    expect(rows("", [["age", "..65"]])).toEqual([2]);
    expect(rows("", [["ncct", "no"]])).toEqual([1]);
    expect(rows("", [], "subject", true)).toEqual([2, 1, 0]);
    expect(rangeOf("a..b")).toBeUndefined();
  });
  it("is refused without a table, and takes pipelines by safe names alone", () => {
    expect(() => cohortOf({}, { node_type: "group" }, {})).toThrow("does not hold the cohort table");
    expect(pipelinesOf({ attributes: { pipelines: ["a-1", "../x", "..", 3, "b/c"] } })).toEqual(["a-1"]);
    expect(pipelinesOf({})).toEqual([]);
  });
});

describe("checksums", () => {
  it("are CRC-32C", () => {
    expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
    const bytes = Uint8Array.of(...new TextEncoder().encode("123456789"), 0x83, 0x92, 0x06, 0xe3);
    expect(new CheckedCrc32c().decode(bytes)).toHaveLength(9);
    bytes[2]! ^= 1;
    expect(() => new CheckedCrc32c().decode(bytes)).toThrow("damaged");
    expect(() => new CheckedCrc32c().decode(new Uint8Array(2))).toThrow("damaged");
  });
});

describe("pictures", () => {
  it("draw each edge between a mask and what is around it", () => {
    const mask = maskOf({
      attributes: { flag_values: [0, 1], flag_meanings: "background infarct" },
      name: "lesion_mask",
    } as never);
    const lines = outlines(Float32Array.of(0, 0, 0, 0, 1, 1, 0, 0, 0), 3, 3, mask).get(1)!;
    const edges = new Set(Array.from({ length: lines.length / 4 }, (_, at) => lines.slice(4 * at, 4 * at + 4).join()));
    expect(edges).toEqual(new Set(["1,1,1,2", "3,1,3,2", "1,1,2,1", "2,1,3,1", "1,2,2,2", "2,2,3,2"]));
  });
  it("cut soft masks at a half, and name labels", () => {
    const soft = maskOf({ attributes: { isles24_zarr: { mask: { kind: "soft" } } }, name: "lesion_mask" } as never);
    expect([0.4999, 0.5, 1].map(soft.labelOf)).toEqual([0, 1, 1]);
    expect(soft.note).toMatch("0.5");
  });
  it("leave out what was not computed", () => {
    expect([0, -30, Number.NaN, 3].map((value) => isComputed("tmax", value))).toEqual([false, false, false, true]);
    expect([0, -1, Number.POSITIVE_INFINITY].map((value) => isComputed("cbf", value))).toEqual([false, true, false]);
    expect(isComputed("ncct", 0)).toBe(true);
    const into = new Uint8ClampedArray(8);
    colourize(into, Float32Array.of(5, 1), new Uint8Array(768).fill(9), [0, 10], (value) => value > 2);
    expect([...into]).toEqual([9, 9, 9, 255, 0, 0, 0, 0]);
  });
  it("take limits of their own by the tissue", () => {
    expect(limitsOf(Float32Array.from({ length: 1000 }, (_, at) => (at < 500 ? 1 : 400)))).toEqual([0, 1000]);
    expect(limitsOf(new Float32Array(4))).toEqual([0, 1]);
  });
});

describe("curves", () => {
  it("are summed up by baseline, rise and time", () => {
    expect(summaryOf([10, 12, 14, 40, 20], [0, 1, 2, 3, 4])).toEqual({ baseline: 12, peak: 28, seconds: 3 });
    expect(summaryOf([Number.NaN, 1, 5], [0, 1, 2]).seconds).toBe(2);
  });
  it("have a baseline where a frame of it cannot be read", () => {
    expect(summaryOf([10, Number.NaN, 14, 40], [0, 1, 2, 3])).toEqual({ baseline: 12, peak: 28, seconds: 3 });
    expect(summaryOf([Number.NaN, Number.NaN, Number.NaN, 40], [0, 1, 2, 3]).baseline).toBeNaN();
  });
  it("are of voxels within the grid", () => {
    expect(regionAround(tilted(0), [0, 0, 1], "square")).toHaveLength(4);
    const disc = regionAround(tilted(0), [20, 25, 1], "disc");
    expect(disc.every(([x, y]) => Math.hypot((x - 20) * 0.5, (y - 25) * 0.4) <= 5)).toBe(true);
    expect(disc.length).toBeGreaterThan(300);
  });
});

describe("small things", () => {
  it("forgets what was used longest ago", () => {
    const cache = new Cache<number>(10);
    cache.set("a", 1, 4);
    cache.set("b", 2, 4);
    cache.get("a");
    cache.set("c", 3, 4);
    expect([cache.get("a"), cache.get("b"), cache.get("c"), cache.bytes]).toEqual([1, undefined, 3, 8]);
  });
  it("tells what is wrong with many chunks in one line", () => {
    const problems = new Problems();
    for (let at = 0; at < 6; at += 1)
      problems.add(new ReadError("is damaged", false, { array: "a/b", key: `0/${at}` }));
    problems.add(new ReadError("c is lost"));
    expect(problems.texts).toEqual(["a/b, chunks 0/0, 0/1, 0/2, 0/3 and 2 more: is damaged", "c is lost"]);
  });
  it("shows numbers as people read them", () => {
    expect([3, -2.5, 1234.56, 0.1234, Number.NaN].map(shownNumber)).toEqual(["3", "−2.50", "1234.6", "0.123", "NaN"]);
  });
});
