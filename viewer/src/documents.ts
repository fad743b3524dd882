/** The documents of a store that its pages share: each is read once, and again only where that failed. */

import { type Cohort, cohortOf, pipelinesOf } from "./cohort.ts";
import { formatVersion } from "./images.ts";
import { type HttpStore, ReadError } from "./store.ts";
import { openSubject, type Subject } from "./subject.ts";
import { type Fields, fields } from "./values.ts";

export class Documents {
  readonly #store: HttpStore;
  readonly #root = kept(() => this.#readRoot());
  readonly #derivatives = kept(() => this.#readDerivatives());
  /** The cohort table. */
  readonly cohort: () => Promise<Cohort> = kept(() => this.#readCohort());

  constructor(store: HttpStore) {
    this.#store = store;
  }

  async subject(name: string): Promise<Subject> {
    // none waits for the others: on a slow line each costs as much as a slice
    const [root, subject] = await Promise.allSettled([
      this.#root(),
      openSubject(this.#store, name, this.#derivatives().then(pipelinesOf)),
    ]);
    // what is wrong with a store explains what is wrong with its subjects
    if (root.status === "rejected") throw root.reason;
    if (subject.status === "rejected") throw subject.reason;
    return subject.value;
  }

  async #readRoot(): Promise<Fields> {
    const root = fields(await this.#store.json("zarr.json"));
    const version = fields(root.attributes).format_version;
    if (fields(fields(root.attributes).isles24_zarr).kind !== "store")
      throw new ReadError(`There is no store of isles24-zarr at ${this.#store.url}`);
    if (version !== formatVersion)
      throw new ReadError(
        `This store has format version ${String(version)}, and this page reads version ${formatVersion}.`,
      );
    return root;
  }

  #readDerivatives(): Promise<Fields> {
    // who has none answers 404, or in words of his own: neither is a fault
    return this.#store.json("derivatives/zarr.json").then(fields, () => fields(undefined));
  }

  async #readCohort(): Promise<Cohort> {
    const [root, phenotype, derivatives] = await Promise.all([
      this.#root(),
      this.#store.json("phenotype/zarr.json"),
      this.#derivatives(),
    ]);
    return cohortOf(root, fields(phenotype), derivatives);
  }
}

function kept<Value>(read: () => Promise<Value>): () => Promise<Value> {
  let held: Promise<Value> | undefined;
  return () => {
    held ??= read().catch((error) => {
      held = undefined;
      throw error;
    });
    return held;
  };
}
