/** Builds the page into the package: `npm run build`. The same source gives the same bytes; `--check` compares and writes nothing. */

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "isles24_zarr", "serving", "page");
/** What is in the bundle, each with its licence. */
const VENDORED = ["zarrita", "@zarrita/storage", "numcodecs", "uplot"];

/** How numcodecs makes a function of a signature: as text, which a page that allows no evaluation of texts refuses. */
const MADE_OF_TEXT = "g = La(Ka).apply(null, r);";
/** The same as a closure: types of the result, of `this`, and of the arguments are in `g`; invoker and function in `r`. */
const MADE_OF_A_CLOSURE = `g = ((types, invoke, made, destroy) => (...given) => {
  const left = [];
  const wired = types.slice(2).map((type, at) => type.toWireType(left, given[at]));
  const result = invoke(made, ...wired);
  destroy(left);
  return types[0].name === "void" ? undefined : types[0].fromWireType(result);
})(g, r[1], r[2], Ga);`;

const decoders = {
  name: "decoders",
  setup(builder) {
    builder.onLoad({ filter: /numcodecs\/dist\/blosc\.js$/ }, ({ path }) => {
      const parts = readFileSync(path, "utf8").split(MADE_OF_TEXT);
      if (parts.length !== 2) throw new Error("numcodecs has changed: see MADE_OF_TEXT in build.mjs");
      return { contents: parts.join(MADE_OF_A_CLOSURE) };
    });
    // stores of this format have them inside of Blosc alone
    builder.onLoad({ filter: /numcodecs\/dist\/(lz4|zstd)\.js$/ }, () => ({ contents: "export default undefined;" }));
  },
};

const { outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: { viewer: "src/main.ts" },
  outdir: target,
  entryNames: "[name]",
  chunkNames: "[name]",
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  charset: "utf8",
  plugins: [decoders],
  write: false,
  logLevel: "warning",
});

const files = new Map(outputFiles.map(({ path, contents }) => [path.slice(target.length + 1), Buffer.from(contents)]));
files.set("index.html", readFileSync(join(here, "src", "index.html")));
files.set("LICENCES.txt", Buffer.from(licences()));

function licences() {
  const parts = VENDORED.map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
  // the decoder is C, compiled by numcodecs, which does not ship these
  for (const file of readdirSync(join(here, "licences")).sort()) {
    const text = readFileSync(join(here, "licences", file), "utf8").trim();
    parts.push(`${file.replace(".txt", "")}, in numcodecs\n\n${text}\n`);
  }
  return `The page contains parts of these packages, under their licences.\n\n${parts.join(`\n${"-".repeat(78)}\n\n`)}`;
}

if (process.argv.includes("--check")) {
  const there = readdirSync(target).sort();
  const wrong = [...new Set([...there, ...files.keys()])].filter(
    (name) => !there.includes(name) || !files.has(name) || !readFileSync(join(target, name)).equals(files.get(name)),
  );
  if (wrong.length) {
    console.error(`not what the source builds: ${wrong.join(", ")}; run: npm run build`);
    process.exit(1);
  }
  console.log(`${files.size} files are what the source builds`);
} else {
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  for (const [name, content] of files) writeFileSync(join(target, name), content);
  for (const [name, content] of files) console.log(`${name} ${content.length}`);
}
