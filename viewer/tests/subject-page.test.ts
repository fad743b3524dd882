import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Cine } from "../src/cine.ts";
import { type Grid, gridOf } from "../src/geometry.ts";
import { PLANES } from "../src/planes.ts";
import { captionsOf } from "../src/readout.ts";
import { shortcutOf } from "../src/shortcuts.ts";
import { Space, type Subject } from "../src/subject.ts";
import { addressOf, changed, missingOf, outsideOf, type View, viewOf } from "../src/view.ts";
import { type Look, Viewport, within } from "../src/viewport.ts";
import { Windowing } from "../src/windowing.ts";

const AFFINE = [
  [0.5, 0, 0, -20],
  [0, 0.5, 0, -30],
  [0, 0, 5, 7],
];

function grid(shape: readonly [number, number, number]): Grid {
  return gridOf({ affine: AFFINE }, shape) as Grid;
}

function entry(id: string, name = id, frames = 1) {
  return { id, label: name.toUpperCase(), volume: { name, path: id, attributes: {}, frames } as never };
}

function spaceOf(name: string, ...ids: string[]): Space {
  const space = new Space({} as never, name, grid([12, 50, 40]));
  for (const id of ids) space.entries.set(id, entry(id, id, id === "ctp" ? 4 : 1));
  return space;
}

function subjectOf(...spaces: Space[]): Subject {
  return { name: "sub-1", clinical: [], spaces: new Map(spaces.map((one) => [one.name, one])), problems: [] };
}

describe("the viewport", () => {
  const size = [428, 328] as const;
  const slices = grid([12, 50, 40]); // 20 mm across, 25 mm down
  it("fits a slice in millimetres, and finds the voxel under a point", () => {
    const viewport = new Viewport(PLANES.axial, slices, 3, size, undefined);
    const { sx, sy, x0, y0 } = viewport.placement;
    expect([sx, sy, x0, y0]).toEqual([6, 6, 94, 14]);
    // radiological: the left of the picture is the last voxel along x
    expect(viewport.voxelAt([95, 15])).toEqual({ at: [39, 49, 3], outside: false });
    expect(viewport.voxelAt([215, 165]).at).toEqual([19, 24, 3]);
    expect(viewport.voxelAt([0, 15])).toEqual({ at: [39, 49, 3], outside: true });
    const sagittal = new Viewport(PLANES.sagittal, slices, 3, size, undefined).placement;
    expect(sagittal.sy / sagittal.sx).toBeCloseTo(10, 9);
  });
  it("zooms about a point, which stays where it is", () => {
    const seen = (look?: Look, canvas: readonly [number, number] = size) =>
      new Viewport(PLANES.axial, slices, 0, canvas, look);
    const point = [200, 100] as const;
    const before = seen().voxelAt(point).at;
    let look: Look | undefined;
    for (let times = 0; times < 3; times += 1) look = seen(look).zoomed(1.7, point);
    expect(seen(look).voxelAt(point).at).toEqual(before);
    look = seen(look).panned(seen(look).placement.sx * 2, 0);
    expect(seen(look).voxelAt(point).at[0]).toBe(before[0] + 2);
    look = seen(look).zoomed(1e9);
    expect(look.zoom).toBe(32);
    expect(seen().placement.sx).toBe(6);
  });
  it("shows the same position in the middle of another screen, and never nothing", () => {
    const seen = (look?: Look, canvas: readonly [number, number] = size) =>
      new Viewport(PLANES.axial, slices, 0, canvas, look);
    const look = seen().zoomed(4, [300, 80]);
    const middle = seen(look).voxelAt([size[0] / 2, size[1] / 2]).at;
    expect(seen(look, [900, 500]).voxelAt([450, 250]).at).toEqual(middle);
    // as far as one likes, a corner of the slice stays in the middle
    const gone = seen(look).panned(1e6, -1e6);
    expect(seen(gone).voxelAt([size[0] / 2 + 1, size[1] / 2 - 1])).toEqual({ at: [39, 0, 0], outside: false });
    expect(within(slices, { zoom: 1e-9, centre: [1e9, 0, 0] }).zoom).toBe(0.5);
  });
});

describe("windowing", () => {
  const view = (patch: object): View => ({ base: entry("ncct"), window: [40, 80], ...patch }) as never;
  it("takes usual limits, or those of the middle slice, whatever is looked at", async () => {
    const read: number[][] = [];
    const volume = {
      name: "glow",
      path: "derivatives/mine/glow",
      attributes: {},
      frames: 1,
      shape: [5, 2, 2],
      chunk: [1, 2, 2],
      frameAt: () => 0,
      peek: () => undefined,
      read: async (chunk: number[]) => {
        read.push(chunk);
        return Float32Array.of(10, 10, 10, 10);
      },
      physical: (value: number) => value,
    };
    const own = { id: "pipeline:glow", label: "glow", volume } as never;
    const arrived = vi.fn();
    const windowing = new Windowing(arrived);
    expect(windowing.base(view({}))).toEqual([0, 80]);
    expect(windowing.overlay(view({ overlay: own }))).toEqual([0, 1]);
    await vi.waitFor(() => expect(arrived).toHaveBeenCalledOnce());
    expect(windowing.overlay(view({ overlay: own }))).toEqual([0, 25]);
    expect(windowing.base(view({ base: own, window: undefined }))).toEqual([0, 25]);
    expect(read).toEqual([[2, 0, 0]]);
  });
  it("is dragged by parts of its width", () => {
    const windowing = new Windowing(() => {});
    expect(windowing.dragged(view({}), 0, 0.5)).toEqual([80, 80]);
    expect(windowing.dragged(view({}), Math.log(2), 0)).toEqual([40, 160]);
  });
  it("keeps the threshold within the limits of the overlay", () => {
    const windowing = new Windowing(() => {});
    const overlay = entry("tmax");
    const [low, high] = windowing.limitsOf(overlay);
    expect(windowing.threshold(view({ overlay }))).toBe(6);
    expect(windowing.nudged(view({ overlay }), 1)).toBeCloseTo(6 + (high - low) / 24, 9);
    expect(windowing.nudged(view({ overlay }), 1000)).toBe(high);
    expect(captionsOf(view({ overlay, below: false }), [0, 80], 6)).toEqual(["NCCT  W 80 L 40", "TMAX > 6 s"]);
  });
});

describe("spaces", () => {
  const [ncct, ctp] = [spaceOf("ncct", "ncct", "ctp", "tmax"), spaceOf("ctp", "ctp", "cbf")];
  const subject = subjectOf(ncct, ctp);
  const asked = { kind: "subject", subject: "sub-1", base: "ctp", at: [-15, -20, 22], frame: 2 } as const;
  it("are entered at the same position, with what they have of the same images", () => {
    const view = viewOf(subject, { ...asked, window: [50, 100] })!;
    const there = viewOf(subject, { ...view.address, space: "ctp" })!;
    expect([there.space.name, there.base.id, there.window, there.frame]).toEqual(["ctp", "ctp", [50, 100], 2]);
    expect(there.at).toEqual(view.at);
    expect(there.overlay).toBeUndefined();
    expect(outsideOf(there)).toEqual([]);
    expect(outsideOf(viewOf(subject, { ...asked, at: [999, 0, 0] })!)).toHaveLength(1);
  });
  it("and subjects that lack something do not lose it for the others", () => {
    const address = { ...asked, base: "ncct", overlay: "tmax", threshold: 4, below: true, window: [1, 2] } as const;
    const there = viewOf(subject, { ...address, space: "ctp" })!;
    // what was meant for another image is not put on this one
    expect([there.base.id, there.window, there.overlay, there.threshold, there.below]).toEqual([
      "ctp",
      undefined,
      undefined,
      undefined,
      false,
    ]);
    expect(missingOf(there)).toEqual(["There is no image “ncct” here.", "There is no overlay “tmax” here."]);
    const back = viewOf(subject, { ...addressOf(there, []), space: "ncct" })!;
    expect([back.base.id, back.window, back.overlay?.id, back.threshold, back.below]).toEqual([
      "ncct",
      [1, 2],
      "tmax",
      4,
      true,
    ]);
    expect(missingOf(back)).toEqual([]);
    // what is set by hand is set for what is shown
    expect(viewOf(subject, changed(there, { window: [7, 8] }))).toMatchObject({ base: there.base, window: [7, 8] });
    const usual = viewOf(subject, { kind: "subject", subject: "sub-1" })!;
    expect(usual.overlay?.id).toBe("tmax");
    expect(addressOf(viewOf(subject, { ...usual.address, space: "ctp" })!, []).overlay).toBeUndefined();
  });
});

describe("shortcuts", () => {
  it("have windows for Hounsfield units alone", () => {
    const window = vi.fn();
    const volume = (units: string) => ({ name: "x", attributes: { units } }) as never;
    shortcutOf("1", volume("HU"), { window } as never)!();
    expect(window).toHaveBeenCalledOnce();
    expect(shortcutOf("1", volume("s"), { window } as never)).toBeUndefined();
    expect(shortcutOf("constructor", volume("s"), {} as never)).toBeUndefined();
  });
});

describe("the cine loop", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());
  it("waits for the plane that is looked at, and for the others a while", () => {
    const state = { seen: false, loading: true };
    const advance = vi.fn();
    const cine = new Cine({ seen: () => state.seen, loading: () => state.loading, advance });
    cine.start();
    vi.advanceTimersByTime(1200);
    expect([cine.playing, advance.mock.calls.length]).toEqual([true, 0]);
    state.seen = true;
    vi.advanceTimersByTime(120);
    expect(advance).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(3 * 120);
    expect(advance).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(120);
    expect(advance).toHaveBeenCalledTimes(2);
    state.loading = false;
    vi.advanceTimersByTime(5 * 120);
    expect(advance).toHaveBeenCalledTimes(7);
  });
  it("does not go on where what it showed has stopped it", () => {
    const cine: Cine = new Cine({ seen: () => true, loading: () => false, advance: () => cine.stop() });
    cine.start();
    vi.advanceTimersByTime(120);
    expect([cine.playing, vi.getTimerCount()]).toEqual([false, 0]);
  });
});
