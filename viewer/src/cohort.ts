/** The cohort table as values: columns, filters, order. Missing values stay missing, and come last in every order. */

import { labelOf } from "./images.ts";
import { ReadError } from "./store.ts";
import { type Fields, fields, list, text } from "./values.ts";

export type Cell = number | string | null;

export interface Column {
  readonly name: string;
  readonly kind: "number" | "text";
  readonly units: string;
  readonly description: string;
  readonly values: readonly Cell[];
}

export interface Cohort {
  readonly title: string;
  readonly licence: string;
  readonly state: string;
  readonly subjects: readonly string[];
  readonly columns: readonly Column[];
  readonly images: readonly string[];
  /** By subject and image. */
  readonly available: readonly (readonly boolean[])[];
  readonly pipelines: readonly string[];
}

/** The table out of the documents of the root, the phenotype and the derivatives. */
export function cohortOf(root: Fields, phenotype: Fields, derivatives: Fields): Cohort {
  const attributes = fields(root.attributes);
  const table = fields(fields(fields(phenotype.attributes).isles24_zarr).columns);
  const told = fields(fields(phenotype.consolidated_metadata).metadata);
  const subjects = list(table.subject).map((name) => text(name));
  if (phenotype.node_type === "group" && !Array.isArray(table.subject))
    throw new ReadError("phenotype/zarr.json does not hold the cohort table");
  const columns = Object.entries(table)
    .filter(([name]) => !["subject", "image", "available"].includes(name))
    .map(([name, values]) => columnOf(name, list(values), subjects.length, fields(fields(told[name]).attributes)));
  return {
    title: text(attributes.title, "ISLES’24"),
    licence: text(attributes.licence),
    state: text(attributes.state),
    subjects,
    columns,
    images: list(table.image).map((name) => text(name)),
    available: subjects.map((_, row) => list(list(table.available)[row]).map(Boolean)),
    pipelines: pipelinesOf(derivatives),
  };
}

export function pipelinesOf(derivatives: Fields): string[] {
  return list(fields(derivatives.attributes).pipelines).filter(
    (name): name is string => typeof name === "string" && /^[\w.+-]+$/.test(name) && !/^\.+$/.test(name),
  );
}

function columnOf(name: string, values: readonly unknown[], length: number, attributes: Fields): Column {
  const cells = Array.from({ length }, (_, row): Cell => {
    const value = values[row];
    if (typeof value === "number") return Number.isFinite(value) ? value : null;
    if (typeof value === "boolean") return Number(value);
    return typeof value === "string" && value !== "" ? value : null;
  });
  const kind = cells.some((cell) => typeof cell === "string") ? "text" : "number";
  const description = text(attributes.long_name, name);
  return { name, kind, units: text(attributes.units), description, values: cells };
}

/** A column that is no clinical one: what was measured on the page. */
export function measuredColumn(subjects: readonly string[], volumes: ReadonlyMap<string, number>): Column {
  return {
    name: "infarct_volume",
    kind: "number",
    units: "mL",
    description: "volume of the final infarct, counted from its mask by this page",
    values: subjects.map((subject) => volumes.get(subject) ?? null),
  };
}

/** A range such as "60..80", "60..", "..80"; undefined where the text is none. */
export function rangeOf(filter: string): readonly [number, number] | undefined {
  const found = /^\s*(-?[\d.]*)\s*\.\.\s*(-?[\d.]*)\s*$/.exec(filter);
  if (!found) return undefined;
  const [low, high] = [
    found[1] ? Number(found[1]) : Number.NEGATIVE_INFINITY,
    found[2] ? Number(found[2]) : Number.POSITIVE_INFINITY,
  ];
  return Number.isNaN(low) || Number.isNaN(high) ? undefined : [low, high];
}

export interface Query {
  readonly text: string;
  readonly filters: ReadonlyMap<string, string>;
  readonly sort: { readonly column: string; readonly down: boolean } | undefined;
}

/** Rows that a query keeps, in its order. */
export function rowsOf(cohort: Cohort, columns: readonly Column[], query: Query): number[] {
  const words = query.text.toLowerCase().split(/\s+/).filter(Boolean);
  const tests: ((row: number) => boolean)[] = [];
  if (words.length) {
    const texts = columns.filter(({ kind }) => kind === "text");
    tests.push((row) => {
      const held = [cohort.subjects[row]!, ...texts.map(({ values }) => values[row] ?? "")].join(" ").toLowerCase();
      return words.every((word) => held.includes(word));
    });
  }
  for (const [name, filter] of query.filters) {
    const test = filter ? testOf(cohort, columns, name, filter) : undefined;
    if (test) tests.push(test);
  }
  const rows = cohort.subjects.map((_, row) => row).filter((row) => tests.every((test) => test(row)));
  return sorted(cohort, columns, rows, query.sort);
}

function testOf(
  cohort: Cohort,
  columns: readonly Column[],
  name: string,
  filter: string,
): ((row: number) => boolean) | undefined {
  const image = cohort.images.indexOf(name);
  if (image >= 0) return (row) => cohort.available[row]![image] === (filter !== "no");
  const column = columns.find((one) => one.name === name);
  if (!column) return undefined;
  if (filter === "missing") return (row) => column.values[row] === null;
  if (column.kind === "text") return (row) => column.values[row] === filter;
  const range = rangeOf(filter);
  if (!range) return undefined;
  return (row) => {
    const value = column.values[row];
    return typeof value === "number" && value >= range[0] && value <= range[1];
  };
}

function sorted(cohort: Cohort, columns: readonly Column[], rows: number[], sort: Query["sort"]): number[] {
  if (!sort) return rows;
  const image = cohort.images.indexOf(sort.column);
  const values: readonly Cell[] | undefined =
    image >= 0
      ? cohort.available.map((row) => Number(row[image]))
      : sort.column === "subject"
        ? cohort.subjects
        : columns.find(({ name }) => name === sort.column)?.values;
  if (!values) return rows;
  const way = sort.down ? -1 : 1;
  return rows.sort((a, b) => {
    const [x, y] = [values[a] ?? null, values[b] ?? null];
    if (x === null || y === null) return (x === null ? 1 : 0) - (y === null ? 1 : 0) || a - b;
    const order =
      typeof x === "number" && typeof y === "number"
        ? x - y
        : String(x).localeCompare(String(y), "en", { numeric: true });
    return order * way || a - b;
  });
}

export function imageLabel(name: string): string {
  return labelOf(name);
}
