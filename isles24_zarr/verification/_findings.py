"""What of a store can be checked without a voxel: documents, the table, coordinates, and which objects there are.

Each document, column, coordinate and array is a unit of its own: whatever is damaged in one is a finding, by
`findings`, and the others are processed.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from isles24_zarr.errors import NotAStoreError, Problem, StoreDamageError, StoreVersionError
from isles24_zarr.format import (
    COORDINATES,
    PHENOTYPE,
    ArrayRecord,
    SubjectRecord,
    check_seal,
    checked_small_array,
    column_bytes,
    listed_members,
)
from isles24_zarr.places import PARTIAL
from isles24_zarr.store import (
    NO_FILE,
    ZARR_JSON,
    column_table,
    document_from_bytes,
    encoded_document,
    listed_keys,
    read_objects,
)
from isles24_zarr.verification._recheck import DECODING_ERRORS, damage, first_line
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from zarr.abc.store import Store


FoundImage = tuple[ArrayRecord, frozenset[str]]
"""The document of an image, and the keys of its shards that are lost."""


@contextlib.contextmanager
def findings(path: str, problems: list[Problem]) -> Iterator[None]:
    """Go through one unit of checking: what cannot be read there is a finding, and does not end the others.

    Raises
    ------
    NotAStoreError, StoreVersionError
        There is nothing to verify at all.
    """
    try:
        yield
    except (NotAStoreError, StoreVersionError):
        raise
    except DECODING_ERRORS as error:
        what = error.what if isinstance(error, StoreDamageError) else f"cannot be read ({first_line(error)})"
        named = _relative(error.subject) if isinstance(error, StoreDamageError) else ""
        problems.append(damage(named if named.startswith(f"{path}/") else path, what))


def _relative(path: str) -> str:
    """Return the path of an object in its store, from the subject on."""
    found = re.search(r"(?:^|/)((?:derivatives/[0-9A-Za-z-]+/)?(?:sub-[0-9A-Za-z]+|phenotype)/.*)$", path)
    return found[1] if found else path


def root_problems(store: Store) -> list[Problem]:
    """Check the document of the root."""
    problems: list[Problem] = []
    with findings(ZARR_JSON, problems):
        document = _parsed(store, "") or {"attributes": {}}
        with findings(ZARR_JSON, problems):
            check_seal(document, ZARR_JSON)
        if document["attributes"].get("state") not in ("complete", "removing"):
            problems.append(damage(ZARR_JSON, "says that a conversion has not finished"))
    return problems


def _parsed(store: Store, path: str) -> dict[str, Any] | None:
    """Return a document as it is, whatever it says."""
    key = f"{path}/{ZARR_JSON}" if path else ZARR_JSON
    return document_from_bytes(read_objects(store, [key])[key], path=key)


def table_problems(store: Store, present: Collection[str]) -> list[Problem]:
    """Compare the cohort table with the attributes of its subjects."""
    problems: list[Problem] = []
    members = group_problems(store, PHENOTYPE, problems)[1]
    with findings(PHENOTYPE, problems):
        problems += _stray_keys(store, PHENOTYPE, {f"{PHENOTYPE}/{name}" for name in members})
    columns = {}
    for name, document in members.items():
        path = f"{PHENOTYPE}/{name}"
        with findings(path, problems):
            checked_small_array(document, path)
            columns[name] = _small_values(store, path, document)
    with findings(PHENOTYPE, problems):
        listed = column_table(store, PHENOTYPE)
        for name, values in columns.items():
            if listed is not None and not np.array_equal(
                values, listed[name].values, equal_nan=listed[name].dtype.kind == "f"
            ):
                problems.append(damage(f"{PHENOTYPE}/{name}", "has other values than the document of the table"))
    rows = len(columns.get("subject", ()))
    for name in [name for name, values in columns.items() if name != "image" and len(values) != rows]:
        problems.append(damage(f"{PHENOTYPE}/{name}", "has another length than the table"))
        del columns[name]
    for row, subject in enumerate(map(str, columns.get("subject", ()))):
        if not SUBJECT_NAME.fullmatch(subject):
            problems.append(damage(f"{PHENOTYPE}/subject", f"names {subject!r}, which can be no subject"))
            continue
        if subject not in present:
            problems.append(damage(f"{subject}/{ZARR_JSON}", "is missing: the cohort table lists the subject"))
            continue
        with contextlib.suppress(StoreDamageError):  # of its document, which is reported with the subject
            recorded = SubjectRecord.from_attributes((_parsed(store, subject) or {}).get("attributes", {}), subject)
            problems += _row_problems(
                {name: values[row] for name, values in columns.items() if name != "image"}, subject, recorded.clinical
            )
    if "subject" in columns:
        problems += _unlisted(store, {*present} - {*map(str, columns["subject"])})
    return problems


def _unlisted(store: Store, names: Collection[str]) -> Iterator[Problem]:
    """Tell of committed subjects that the table lacks; of one that is not committed, it is told elsewhere."""
    for name in sorted(names):
        with contextlib.suppress(StoreDamageError):
            if _parsed(store, name) is not None:
                yield damage(f"{name}/{ZARR_JSON}", "is there, and the cohort table does not list the subject")


def _row_problems(row: Mapping[str, Any], subject: str, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare a row of the table with the attributes of its subject."""
    for name in row.keys() & attributes.keys():
        stored, value = row[name], attributes[name]
        missing = stored == "" if isinstance(stored, str) else bool(stored != stored)
        same = missing if value is None else (stored == value or str(stored) == str(value))
        if not same:
            yield damage(f"{PHENOTYPE}/{name}", f"has {stored} for {subject}, its group has {value}")


def _small_values(store: Store, path: str, document: Mapping[str, Any]) -> Any:
    """Return a coordinate or a column of the table, as zarr-python reads it; its chunk has a checksum."""
    key = "/".join(("c", *("0" for _ in document["shape"])))
    chunk = read_objects(store, [f"{path}/{key}"])[f"{path}/{key}"]
    if chunk is None:
        raise StoreDamageError(f"{path}/{key}", "is lost")
    try:
        column_bytes(chunk, document)  # whatever it says of its sizes must not reach a library
        objects = {f"{ZARR_JSON}": encoded_document(document), key: chunk}
        memory = MemoryStore(
            {name: default_buffer_prototype().buffer.from_bytes(data) for name, data in objects.items()}
        )
        return zarr.open_array(memory, mode="r", zarr_format=3)[...]
    except (ValueError, RuntimeError, TypeError) as error:
        raise StoreDamageError(path, f"cannot be read ({first_line(error)})") from error


def subject_problems(store: Store, name: str) -> tuple[list[Problem], SubjectRecord | None, dict[str, FoundImage]]:
    """Compare all documents of a subject with its commit, and look for all of its objects.

    Returns
    -------
    tuple
        What was found, the record of the commit if it is usable, and the images that can be read, by path: their
        records, with the keys of shards that are lost.
    """
    problems: list[Problem] = []
    document, members = group_problems(store, name, problems)
    if document is None:
        return problems, None, {}
    subject: SubjectRecord | None = None
    with findings(name, problems):
        subject = SubjectRecord.from_attributes(document["attributes"], name)
    images = array_findings(store, name, members, problems)
    lacking = sorted(subject.arrays.keys() - members.keys()) if subject else []
    problems += [damage(f"{name}/{path}", "is listed by its subject, which lacks it") for path in lacking]
    return problems, subject, images


def array_findings(
    store: Store, name: str, members: Mapping[str, Mapping[str, Any]], problems: list[Problem]
) -> dict[str, FoundImage]:
    """Look for all objects of the arrays that a commit lists, and for what it does not list.

    Returns
    -------
    dict
        The images that can be read, by path: their records, with the keys of shards that are lost.
    """
    arrays = {path for path, each in members.items() if each.get("node_type") == "array"}
    with findings(name, problems):
        problems += _stray_keys(store, name, {f"{name}/{path}" for path in arrays})
    images: dict[str, FoundImage] = {}
    for path in sorted(arrays):
        full = f"{name}/{path}"
        with findings(full, problems):
            if path.rsplit("/", 1)[-1] in COORDINATES:
                checked_small_array(members[path], full)
                _small_values(store, full, members[path])
                continue
            record = ArrayRecord.from_document(members[path], full)
            images[full] = record, frozenset()  # also where its folder cannot be listed
            images[full] = record, _lost_shards(store, full, record.shard_bytes, problems)
    return images


def group_problems(
    store: Store, path: str, problems: list[Problem]
) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Return the document of a group, and those of all that it lists, as far as they can be used."""
    document: dict[str, Any] | None = None
    members: dict[str, dict[str, Any]] = {}
    with findings(f"{path}/{ZARR_JSON}", problems):
        document = _parsed(store, path)
        if document is None:
            raise StoreDamageError(f"{path}/{ZARR_JSON}", "is missing: the group was not committed, or was deleted")
        with findings(f"{path}/{ZARR_JSON}", problems):
            check_seal(document, path)
        members = listed_members(document, path)
        for name, wanted in members.items():
            with findings(f"{path}/{name}/{ZARR_JSON}", problems):
                problems += _document_problems(store, path, name, members, wanted)
    return document, members


def _document_problems(
    store: Store, parent: str, name: str, members: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[Problem]:
    """Compare a document with the copy that the commit has of it."""
    path = f"{parent}/{name}/{ZARR_JSON}"
    found = _parsed(store, f"{parent}/{name}")
    if found is None:
        yield damage(path, "is missing")
        return
    if wanted.get("node_type") == "group":
        inside = {key.removeprefix(f"{name}/"): doc for key, doc in members.items() if key.startswith(f"{name}/")}
        below = found.pop("consolidated_metadata", None)
        if not isinstance(below, dict) or below.get("metadata") != inside:
            found = {}
    if found != wanted:
        yield damage(path, "was edited after it was written")


def _stray_keys(store: Store, parent: str, arrays: set[str]) -> Iterator[Problem]:
    """Name what lies below a group and is no part of it."""
    for key, size in listed_keys(store, parent).items():
        owner = key.rsplit("/c/", 1)[0] if "/c/" in key else key.rsplit("/", 1)[0]
        is_document = key.rsplit("/", 1)[-1] == ZARR_JSON
        is_group = any(array.startswith(f"{owner}/") for array in arrays)
        if size == NO_FILE and owner not in arrays:
            yield damage(key, "is no file, but a pipe, a device or a link to something else")
        elif key.endswith(PARTIAL):
            yield damage(key, "is what an interrupted write left over")
        elif not (owner in arrays or (is_document and (is_group or owner == parent))):
            yield damage(key, "is not listed by the commit of its group")


def _lost_shards(store: Store, path: str, shards: Mapping[str, int], problems: list[Problem]) -> frozenset[str]:
    """Look for all shards of an image; return the keys of those that are lost, and tell of what is too much, too."""
    found = {key.removeprefix(f"{path}/"): size for key, size in listed_keys(store, path).items()}
    lost = {}
    for key, size in shards.items():
        if key not in found:
            lost[key] = "is lost"
        elif found[key] == NO_FILE:
            lost[key] = "is no file, but a pipe, a device or a link to something else"
        elif found[key] != size:
            lost[key] = f"has {found[key]:,} of {size:,} bytes"
    problems += [damage(f"{path}/{key}", what) for key, what in lost.items()]
    for key in sorted(found.keys() - shards.keys() - {ZARR_JSON}):
        if not key.endswith(PARTIAL):
            problems.append(damage(f"{path}/{key}", "is no shard of the array"))
    return frozenset(lost)
