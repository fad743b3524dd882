"""What makes a conversion visible: a subject's group, the cohort table, the root.

A subject's document is the last thing written of it, and holds the record by which a later run knows what was done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

from isles24_zarr import vocabulary
from isles24_zarr.clinical import (
    MAX_TABLE_BYTES,
    ClinicalRecord,
    DictionaryEntry,
    cohort_table,
    dictionary_from_table,
    merged_record,
    own_row,
    record_from_row,
    rows_from_table,
)
from isles24_zarr.errors import Problem, SourceError, StoreWriteError, without_passwords
from isles24_zarr.format import ATTRIBUTE_KEY, FORMAT_VERSION, PHENOTYPE, RootRecord
from isles24_zarr.store import committed_subjects, read_document
from isles24_zarr.version import PACKAGE_VERSION
from isles24_zarr.writing import remove, write_dataset, write_document, write_grid, write_group, write_subject

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import xarray as xr
    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayPlan, SubjectPlan, SubjectRecord
    from isles24_zarr.release import Release, Source, SourceFile, Subject
    from isles24_zarr.store import StorePlace


@contextlib.contextmanager
def store_errors(target: StorePlace) -> Iterator[None]:
    """Turn what the file system says of a store into a `StoreWriteError`."""
    try:
        yield
    except OSError as error:
        raise StoreWriteError(target.url, f"cannot be written ({error})") from error


def publish_subject(
    store: Store,
    plan: SubjectPlan,
    *,
    present: Collection[str],
    files: Iterable[SourceFile],
    clinical: ClinicalRecord,
    problems: Iterable[Problem],
) -> tuple[Problem, ...]:
    """Publish a subject: its grids, then its own document.

    Parameters
    ----------
    store
        Where its arrays are.
    plan
        Of the subject.
    present
        Paths of the arrays that were written.
    files
        All files that were considered: unless one of them changes, the subject need not be converted again.
    clinical
        Its values.
    problems
        Whatever was found about its files.

    Returns
    -------
    tuple
        All problems of the subject, in an order that does not depend on that of the tasks.
    """
    found = sorted([*problems, *clinical.problems], key=lambda each: (each.path, each.message))
    arrays = {array.path: array for array in plan.arrays if array.path in present}
    grids: dict[str, dict[str, Any]] = {}
    for grid in plan.grids:
        path = f"{plan.subject}/{grid.name}"
        images = [array.image for array in grid.arrays if array.path in arrays]
        if images:
            grids[grid.name] = write_grid(store, path, grid, images)
        else:
            remove(store, path)
    listed = list(files)
    record = {
        "format_version": FORMAT_VERSION,
        "package_version": PACKAGE_VERSION,
        "images": _groups_by_image(arrays.values()),
        "arrays": {f"{array.group}/{array.image}": array.source.path for array in arrays.values()},
        "files": {file.path: file.size for file in listed},
        "clinical_unread": dict(clinical.unread),
        "problems": [
            {"path": each.path, "message": each.message, "severity": each.severity, "image": each.image}
            for each in found
        ],
        "times": {
            "converted": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "stamps": {file.path: file.stamp for file in listed},
        },
    }
    write_subject(store, plan.subject, {**clinical.values, ATTRIBUTE_KEY: record}, grids)
    return tuple(found)


def restamp_subject(store: Store, subject: str, files: Iterable[SourceFile]) -> None:
    """Note down in the document of a subject the stamps that its files have now; all else of it stays."""
    document = read_document(store, subject)
    if document is not None:
        # a seal does not cover times
        document["attributes"][ATTRIBUTE_KEY]["times"]["stamps"] = {file.path: file.stamp for file in files}
        write_document(store, subject, document)


def _groups_by_image(arrays: Iterable[ArrayPlan]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for array in arrays:
        groups.setdefault(array.image, []).append(array.group)
    return groups


def clinical_record(subject: Subject, source: Source) -> tuple[ClinicalRecord, list[Problem]]:
    """Read the phenotype tables of a subject.

    Returns
    -------
    tuple
        What they say, with all problems; and those of them that say why a table could not be read.
    """
    records, problems = [], []
    for table, file in subject.tables.items():
        try:
            rows = rows_from_table(source.content(file, most=MAX_TABLE_BYTES), path=file.path)
            row = own_row(rows, path=file.path, subject=subject.name)
            records.append(record_from_row(row, table=table.table, path=file.path, subject=subject.name))
        except SourceError as error:
            problems.append(Problem.from_error(error, subject=subject.name))
    merged = merged_record(records)
    return dataclasses.replace(merged, problems=(*problems, *merged.problems)), problems


def says_the_same(subject: Subject, clinical: ClinicalRecord, record: SubjectRecord) -> bool:
    """Tell whether the tables of a subject say, and were found to say, what was recorded of them."""
    tables = {file.path for file in subject.tables.values()}
    before = {(each.path, each.message) for each in record.problems if each.path in tables}
    now = {(each.path, each.message) for each in clinical.problems}
    return (clinical.values, clinical.unread, now) == (record.clinical, record.clinical_unread, before)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dictionary:
    """The data dictionary of a release: its entries by name, its SHA-256, and what is wrong with it."""

    entries: Mapping[str, DictionaryEntry]
    sha256: str = ""
    problems: tuple[Problem, ...] = ()


def read_dictionary(source: Source, release: Release) -> Dictionary:
    """Read the data dictionary; an unreadable one is a problem, and none is an empty one."""
    if release.dictionary is None:
        return Dictionary(entries={})
    path = release.dictionary.path
    try:
        content = source.content(release.dictionary, most=MAX_TABLE_BYTES)
        entries = dictionary_from_table(content, path=path)
    except SourceError as error:
        return Dictionary(entries={}, problems=(Problem.from_error(error),))
    return Dictionary(entries=entries, sha256=hashlib.sha256(content).hexdigest())


def write_cohort(store: Store, dictionary: Mapping[str, DictionaryEntry]) -> None:
    """Write the cohort table of all subjects that are committed, by whatever run."""
    write_dataset(store, PHENOTYPE, cohort_dataset(committed_subjects(store), dictionary))


def cohort_dataset(subjects: Mapping[str, SubjectRecord], dictionary: Mapping[str, DictionaryEntry]) -> xr.Dataset:
    """Make the cohort table of the records of subjects, by name."""
    return cohort_table(
        list(subjects),
        {name: ClinicalRecord(values=each.clinical, unread={}, problems=()) for name, each in subjects.items()},
        {name: each.images for name, each in subjects.items()},
        dictionary,
    )


def write_root(store: Store, source: Source, dictionary: Dictionary, *, extra_images: bool, state: str) -> None:
    """Write the root: what the data are, which images are kept, who was taken out, and whether it is complete."""
    record: dict[str, Any] = {"kind": "store", "dictionary": dictionary.sha256}
    record |= {"extra_images": True} if extra_images else {}
    removed = RootRecord.from_document(read_document(store, "")).removed
    write_group(
        store,
        "",
        {
            "title": vocabulary.TITLE,
            "licence": vocabulary.LICENCE,
            "citation": vocabulary.CITATION,
            "references": list(vocabulary.REFERENCES),
            "format_version": FORMAT_VERSION,
            "package_version": PACKAGE_VERSION,
            "source": without_passwords(source.url),
            "state": state,
            ATTRIBUTE_KEY: {**record, "removed": list(removed)} if removed else record,
        },
    )


def is_complete(store: Store, dictionary: Dictionary, *, extra_images: bool) -> bool:
    """Tell whether the last conversion ended, with the same data dictionary and choice of images, and has its table."""
    if read_document(store, PHENOTYPE) is None:
        return False
    root = RootRecord.from_document(read_document(store, ""))
    return (root.state, root.dictionary, root.extra_images) == ("complete", dictionary.sha256, extra_images)
