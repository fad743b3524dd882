import { afterEach, describe, expect, it, vi } from "vitest";
import { Documents } from "../src/documents.ts";
import { formatVersion } from "../src/images.ts";
import { HttpStore } from "../src/store.ts";

const ROOT = { node_type: "group", attributes: { format_version: formatVersion, isles24_zarr: { kind: "store" } } };
const SUBJECT = { node_type: "group", attributes: { age: 70 } };

/** A server of documents, which may be changed; what it was asked for. */
function served(documents: Record<string, unknown>): string[] {
  const asked: string[] = [];
  vi.stubGlobal("fetch", async (url: string) => {
    const { pathname } = new URL(url);
    asked.push(pathname);
    const found = documents[pathname];
    return found ? new Response(JSON.stringify(found)) : new Response("", { status: 404 });
  });
  return asked;
}

afterEach(() => vi.unstubAllGlobals());

describe("the documents of a store", () => {
  it("are read once", async () => {
    const asked = served({ "/zarr.json": ROOT, "/sub-1/zarr.json": SUBJECT, "/sub-2/zarr.json": SUBJECT });
    const documents = new Documents(new HttpStore("http://x/"));
    expect((await documents.subject("sub-1")).clinical).toEqual([["age", 70]]);
    await documents.subject("sub-2");
    expect(asked).toEqual(["/zarr.json", "/derivatives/zarr.json", "/sub-1/zarr.json", "/sub-2/zarr.json"]);
  });

  it("are read again where that failed", async () => {
    const documents: Record<string, unknown> = { "/sub-1/zarr.json": SUBJECT };
    served(documents);
    const shared = new Documents(new HttpStore("http://x/"));
    await expect(shared.subject("sub-1")).rejects.toThrow("There is no store of isles24-zarr at http://x/");
    documents["/zarr.json"] = ROOT;
    expect((await shared.subject("sub-1")).name).toBe("sub-1");
  });

  it("fail together without a rejection that nobody handles, and with what explains it", async () => {
    // vitest fails a run with an unhandled rejection
    served({ "/zarr.json": { ...ROOT, attributes: { ...ROOT.attributes, format_version: 99 } } });
    const documents = new Documents(new HttpStore("http://x/"));
    await expect(documents.subject("sub-1")).rejects.toThrow("format version 99");
    await expect(documents.cohort()).rejects.toThrow("format version 99");
    await new Promise((resolve) => setTimeout(resolve, 20));
  });
});
