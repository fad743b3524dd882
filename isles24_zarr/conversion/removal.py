"""Subjects taken out of a store, so that nothing of them is left, and nobody reads half of them.

The root says first who is to go; then go the rows of the table, what pipelines have, and the images, documents before
voxels; and the root says last that all is gone. Stopped anywhere in between, the store says so, and all others are
read as ever; the next removal or conversion finishes it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from isles24_zarr.conversion._commit import cohort_dataset
from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format import ATTRIBUTE_KEY, DERIVATIVES, PHENOTYPE, RootRecord, pipeline_path, pipelines_of
from isles24_zarr.store import child_names, column_table, committed_subjects, read_document
from isles24_zarr.vocabulary import CLINICAL, IMAGES, SUBJECT_NAME
from isles24_zarr.writing import (
    list_subjects,
    listed_subjects,
    remove,
    remove_partial_objects,
    write_dataset,
    write_group,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import xarray as xr
    from zarr.abc.store import Store


def take_out(
    store: Store, subjects: Collection[str], confirm: Callable[[], None], *, remember: bool | None = None
) -> list[str]:
    """Take subjects out of the table, of what pipelines have, and of the images.

    Parameters
    ----------
    store
        Held for writing.
    subjects
        Names; what is left of them after a removal that was stopped, too.
    confirm
        Raises where the lock was lost; called before each step.
    remember
        Whether the root is to say from now on that they are left out: yes, no more, or as it does.

    Returns
    -------
    list
        Paths of the groups that were there.
    """
    root = RootRecord.from_document(read_document(store, ""))
    names = {*subjects, *root.removing}
    removed = {*root.removed, *subjects} if remember else {*root.removed}
    confirm()
    # one that is not complete says so already, and its conversion has to say when it is
    _write_root(store, removed, names, state="removing" if root.state == "complete" else root.state)
    remove_partial_objects(store, "")
    confirm()
    dictionary_is_lost = _rewrite_table(store, names)
    paths = [path for pipeline in _pipelines(store) for path in _take_out_results(store, pipeline, names, confirm)]
    for name in sorted(names & set(child_names(store, ""))):
        confirm()
        remove(store, name)
        paths.append(name)
    confirm()
    if remember is False:
        removed -= set(subjects)
    state = "complete" if root.state in ("complete", "removing") else root.state
    _write_root(store, removed, set(), state=state, dictionary="" if dictionary_is_lost else root.dictionary)
    return paths


def finish_removals(store: Store, confirm: Callable[[], None]) -> None:
    """Finish a removal that was stopped."""
    root = RootRecord.from_document(read_document(store, ""))
    if root.removing:
        take_out(store, (), confirm)


def removed_subjects(store: Store) -> set[str]:
    """Return who was taken out of a store, which may not be there yet, for good."""
    return set(RootRecord.from_document(read_document(store, "")).removed)


def remember(store: Store, subjects: Collection[str]) -> None:
    """Have the root say that these subjects were taken out for good, and no others."""
    root = RootRecord.from_document(read_document(store, ""))
    if set(subjects) != set(root.removed):
        _write_root(store, subjects, root.removing, state=root.state)


def known_subjects(store: Store) -> list[str]:
    """Return everybody of whom a store has, lists, or remembers anything."""
    root = RootRecord.from_document(read_document(store, ""))
    found = {*root.removed, *root.removing, *child_names(store, "")}
    with contextlib.suppress(StoreDamageError):
        table = column_table(store, PHENOTYPE)
        found |= set() if table is None else set(map(str, table["subject"].values))
    for pipeline in _pipelines(store):
        found |= set(child_names(store, pipeline_path(pipeline)))
        with contextlib.suppress(StoreDamageError):
            found |= set(listed_subjects(store, pipeline))
    return sorted(name for name in found if SUBJECT_NAME.fullmatch(name))


def _write_root(
    store: Store, removed: Collection[str], removing: Collection[str], *, state: str | None, dictionary: Any = None
) -> None:
    attributes: dict[str, Any] = dict((read_document(store, "") or {})["attributes"])
    record = {key: value for key, value in attributes[ATTRIBUTE_KEY].items() if key not in ("removed", "removing")}
    record |= {key: sorted(names) for key, names in (("removed", removed), ("removing", removing)) if names}
    if dictionary is not None:
        record["dictionary"] = dictionary
    write_group(store, "", {**attributes, **({"state": state} if state else {}), ATTRIBUTE_KEY: record})


def _rewrite_table(store: Store, names: Collection[str]) -> bool:
    """Write the cohort table without some rows; tell whether descriptions were lost, as it could not be read."""
    try:
        table = column_table(store, PHENOTYPE)
    except StoreDamageError:
        others = {name: record for name, record in committed_subjects(store).items() if name not in names}
        write_dataset(store, PHENOTYPE, cohort_dataset(others, {}))
        return True
    if table is None:  # no conversion has come so far
        remove(store, PHENOTYPE)
        return False
    stays = np.array([str(name) not in names for name in table["subject"].values], dtype=bool)
    write_dataset(store, PHENOTYPE, _without_empty(table.isel(subject=stays)))
    return False


def _without_empty(table: xr.Dataset) -> xr.Dataset:
    """Leave out the columns that nobody has who stays, but those that every table has."""

    def is_empty(column: xr.DataArray) -> bool:
        return bool((column == "").all() if column.dtype.kind not in "biuf" else column.isnull().all())

    others = [name for name in table.data_vars if name not in CLINICAL and table[name].dims == ("subject",)]
    table = table.drop_vars([name for name in others if is_empty(table[name])])
    images = [str(name) for name in table["image"].values]
    has = table["available"].any("subject").values
    return table.isel(image=[number for number, name in enumerate(images) if name in IMAGES or has[number]])


def _pipelines(store: Store) -> list[str]:
    listed: list[str] = []
    with contextlib.suppress(StoreDamageError):
        listed = pipelines_of(read_document(store, DERIVATIVES))
    return sorted({*child_names(store, DERIVATIVES), *listed})


def _take_out_results(store: Store, pipeline: str, names: Collection[str], confirm: Callable[[], None]) -> list[str]:
    """Take subjects out of what a pipeline lists, and then their results."""
    path = pipeline_path(pipeline)
    remove_partial_objects(store, path)
    confirm()
    try:
        if read_document(store, path) is not None and not set(names).isdisjoint(listed_subjects(store, pipeline)):
            list_subjects(store, pipeline, set(), set(names))
    except StoreDamageError:  # what it says cannot be read, and no name may be left in it
        left = [name for name in child_names(store, path) if SUBJECT_NAME.fullmatch(name) and name not in names]
        write_group(store, path, {"pipeline": pipeline, "subjects": left})
    paths = [f"{path}/{name}" for name in child_names(store, path) if name in names]
    for each in paths:
        confirm()
        remove(store, each)
    return paths
