"""Proof that a store is what was written: every array is read again, and every document compared.

Nothing here is shared with the writer: voxels are decoded by zarrs on a local store, their orientation is undone by
index arithmetic of `recheck`, and source files are unpacked by the standard library. Each subject, document and array is
a unit of its own: whatever is damaged in one is a finding, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any, Final

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from isles24_zarr.access import PARTIAL
from isles24_zarr.containers import column_bytes
from isles24_zarr.documents import COORDINATES, checked_image, checked_record, checked_small_array, listed_members
from isles24_zarr.errors import NotAStoreError, Problem, StoreDamageError, StoreVersionError
from isles24_zarr.layout import KEY, PHENOTYPE, seal
from isles24_zarr.objects import (
    DOCUMENT,
    NO_FILE,
    Target,
    child_names,
    document_from_bytes,
    encoded_document,
    listed_keys,
    read_objects,
    read_root,
)
from isles24_zarr.recheck import DECODING_ERRORS, ArrayTask, damage, first_line, verify_array
from isles24_zarr.release import SUBJECT_NAME, selected_names
from isles24_zarr.source import Source

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from distributed import Client
    from zarr.abc.store import Store

    from isles24_zarr.release import Subject

NOT_IN_STORE: Final = "is in the release and not in the store"
NOT_IN_RELEASE: Final = "is in the store and not in the release"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Parameters
    ----------
    store
        What was verified.
    subjects
        Names of the subjects that were looked at.
    arrays
        Number of images that were looked at.
    voxel_bytes
        Bytes of voxels that were read and compared; 0 where only presence and sizes were.
    seconds
        Time taken.
    problems
        Everything that is not as it was written.
    """

    store: str
    subjects: tuple[str, ...]
    arrays: int
    voxel_bytes: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as it was written."""
        return not self.problems


def verify(
    store: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    subjects: Sequence[str] | None = None,
    fast: bool = False,
    client: Client | None = None,
    workers: int | None = None,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    spool: str | os.PathLike[str] | None = None,
) -> VerifyReport:
    """Check that a store holds what was written into it.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    source
        A release to compare with: its files, too, are read to their ends.
    subjects
        Names to look at, all by default.
    fast
        Check presence, sizes and metadata, and read no voxel; of a release, compare the SHA-256 of its images, for
        which they are read and not decompressed.
    client, workers, progress, storage_options, spool
        As for `convert`.

    Returns
    -------
    VerifyReport
        With every failure, not the first one.

    Raises
    ------
    NotAStoreError, StoreVersionError, SourceNotFoundError, UnknownNameError
        There is nothing to verify, or nothing to compare with.
    """
    from isles24_zarr.cluster import TaskLost, dask_client

    started = time.monotonic()
    target = Target.of(store, storage_options)
    opened = target.opened(read_only=True)
    problems: list[Problem] = []
    with _findings(DOCUMENT, problems):
        read_root(opened)
    origin = Source.of(source, storage_options) if source is not None else None
    release = origin.listed() if origin else None
    present = [name for name in child_names(opened, "") if name.startswith("sub-")]
    chosen = selected_names(present, subjects, of=target.url)
    if not subjects:
        problems += [*_root_problems(opened), *_table_problems(opened, present)]
    files = {file.path: file for file in release.images} if release else {}
    tasks: list[ArrayTask] = []
    for name in chosen:
        found, record, images = _subject_problems(opened, name)
        problems += found
        for path, (document, lost) in images.items():
            # what is not listed cannot be looked for
            there = document["attributes"][KEY]["source"]["path"] in files
            tasks.append(
                ArrayTask(
                    target=target,
                    path=path,
                    document=document,
                    source=origin if there else None,
                    lost=lost,
                    fast=fast,
                )
            )
        if release:
            problems += _release_problems(release.subjects.get(name), name, record, tasks)
    if release:
        absent = [name for name in release.subjects if name not in present and (not subjects or name in subjects)]
        problems += [Problem(path=name, message=NOT_IN_STORE, subject=name) for name in absent]
    read = 0
    running = [task for task in tasks if task.source or not fast]
    if running:
        with contextlib.ExitStack() as stack:
            with_client = stack.enter_context(dask_client(client, workers, target.url))
            for task, result in _completed(running, target, spool, stack, with_client, progress=progress):
                if isinstance(result, TaskLost):
                    problems.append(damage(task.path, result.why))
                    continue
                read += 0 if fast else task.nbytes
                problems += result
    return VerifyReport(
        store=target.url,
        subjects=tuple(chosen),
        arrays=len(tasks),
        voxel_bytes=read,
        seconds=time.monotonic() - started,
        problems=tuple(sorted(problems, key=lambda each: (each.path, each.message))),
    )


@contextlib.contextmanager
def _findings(path: str, problems: list[Problem]) -> Iterator[None]:
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
    found = re.search(r"(?:^|/)((?:sub-[0-9A-Za-z]+|phenotype)/.*)$", path)
    return found[1] if found else path


def _completed(
    tasks: Sequence[ArrayTask],
    target: Target,
    spool: str | os.PathLike[str] | None,
    stack: contextlib.ExitStack,
    client: Client,
    *,
    progress: bool,
) -> Iterator[tuple[ArrayTask, Any]]:
    """Run the tasks, in the order of the archive if they compare with one."""
    from isles24_zarr.cluster import completed_tasks

    streamed = [task for task in tasks if task.source and task.source.streamed]
    others = [task for task in tasks if not (task.source and task.source.streamed)]
    if others:
        sizes = [task.nbytes for task in others]
        done = completed_tasks(client, verify_array, others, sizes=sizes, title="verifying", progress=progress)
        yield from stack.enter_context(contextlib.closing(done))
    if not streamed or streamed[0].source is None:
        return
    from isles24_zarr.spool import arrivals, completed_arrivals, opened_spool

    origin = streamed[0].source
    folder = stack.enter_context(opened_spool(spool, target))
    by_path = {task.ours["source"]["path"]: task for task in streamed}
    nbytes = {path: task.nbytes for path, task in by_path.items()}
    arriving, total = arrivals(origin, by_path, nbytes, folder), sum(nbytes.values())
    arrived = completed_arrivals(client, verify_array, arriving, total=total, title="verifying", progress=progress)
    yield from stack.enter_context(contextlib.closing(arrived))


def _root_problems(store: Store) -> list[Problem]:
    problems: list[Problem] = []
    with _findings(DOCUMENT, problems):
        document = _parsed(store, "") or {}
        if _recorded_seal(document) != seal(document):
            problems.append(damage(DOCUMENT, "was edited after it was written"))
        if document.get("attributes", {}).get("state") != "complete":
            problems.append(damage(DOCUMENT, "says that a conversion has not finished"))
    return problems


def _parsed(store: Store, path: str) -> dict[str, Any] | None:
    """Return a document as it is, whatever it says."""
    key = f"{path}/{DOCUMENT}" if path else DOCUMENT
    return document_from_bytes(read_objects(store, [key])[key], path=key)


def _recorded_seal(document: Mapping[str, Any]) -> Any:
    record = document.get("attributes", {}).get(KEY)
    if not isinstance(record, dict):
        raise StoreDamageError(DOCUMENT, f"lacks {KEY}")
    return record.get("seal")


def _table_problems(store: Store, present: Collection[str]) -> list[Problem]:
    """Compare the cohort table with the attributes of its subjects."""
    problems: list[Problem] = []
    members = _group_problems(store, PHENOTYPE, problems)[1]
    with _findings(PHENOTYPE, problems):
        problems += _stray_keys(store, PHENOTYPE, {f"{PHENOTYPE}/{name}" for name in members})
    columns = {}
    for name, document in members.items():
        path = f"{PHENOTYPE}/{name}"
        with _findings(path, problems):
            checked_small_array(document, path)
            columns[name] = _small_values(store, path, document)
    rows = len(columns.get("subject", ()))
    for name in [name for name, values in columns.items() if name != "image" and len(values) != rows]:
        problems.append(damage(f"{PHENOTYPE}/{name}", "has another length than the table"))
        del columns[name]
    for row, subject in enumerate(map(str, columns.get("subject", ()))):
        if not SUBJECT_NAME.fullmatch(subject):
            problems.append(damage(f"{PHENOTYPE}/subject", f"names {subject!r}, which can be no subject"))
            continue
        if subject not in present:
            problems.append(damage(f"{subject}/{DOCUMENT}", "is missing: the cohort table lists the subject"))
            continue
        with contextlib.suppress(StoreDamageError):  # of its document, which is told of with the subject
            attributes = (_parsed(store, subject) or {}).get("attributes", {})
            problems += _row_problems(
                {name: values[row] for name, values in columns.items() if name != "image"}, subject, attributes
            )
    return problems


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
        objects = {f"{DOCUMENT}": encoded_document(document), key: chunk}
        memory = MemoryStore(
            {name: default_buffer_prototype().buffer.from_bytes(data) for name, data in objects.items()}
        )
        return zarr.open_array(memory, mode="r", zarr_format=3)[...]
    except (ValueError, RuntimeError, TypeError) as error:
        raise StoreDamageError(path, f"cannot be read ({first_line(error)})") from error


def _subject_problems(
    store: Store, name: str
) -> tuple[list[Problem], dict[str, Any], dict[str, tuple[dict[str, Any], frozenset[str]]]]:
    """Compare all documents of a subject with its commit, and look for all of its objects.

    Returns
    -------
    tuple
        What was found, the record of the commit as far as it is usable, and the images that can be read: their
        documents by path, with the keys of shards that are lost.
    """
    problems: list[Problem] = []
    document, members = _group_problems(store, name, problems)
    if document is None:
        return problems, {}, {}
    record: dict[str, Any] = {}
    with _findings(name, problems):
        checked_record(document["attributes"], name)
        record = document["attributes"][KEY]
    arrays = {path for path, each in members.items() if each.get("node_type") == "array"}
    with _findings(name, problems):
        problems += _stray_keys(store, name, {f"{name}/{path}" for path in arrays})
    images: dict[str, tuple[dict[str, Any], frozenset[str]]] = {}
    for path in sorted(arrays):
        full = f"{name}/{path}"
        with _findings(full, problems):
            if path.rsplit("/", 1)[-1] in COORDINATES:
                checked_small_array(members[path], full)
                _small_values(store, full, members[path])
                continue
            checked_image(members[path], full)
            images[full] = members[path], frozenset()  # also where its folder cannot be listed
            images[full] = (
                members[path],
                _lost_shards(store, full, members[path]["attributes"][KEY]["shards"], problems),
            )
    for path in sorted(record.get("arrays", {}).keys() - arrays):
        problems.append(damage(f"{name}/{path}", "is listed by its subject, which lacks it"))
    return problems, record, images


def _group_problems(
    store: Store, path: str, problems: list[Problem]
) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Return the document of a group, and those of all that it lists, as far as they can be used."""
    with _findings(f"{path}/{DOCUMENT}", problems):
        document = _parsed(store, path)
        if document is None:
            problems.append(damage(f"{path}/{DOCUMENT}", "is missing: the group was not committed, or was deleted"))
            return None, {}
        if _recorded_seal(document) != seal({"attributes": {}, **document}):
            problems.append(damage(f"{path}/{DOCUMENT}", "was edited after it was written"))
        members = listed_members(document, path)
        for name, wanted in members.items():
            with _findings(f"{path}/{name}/{DOCUMENT}", problems):
                problems += _document_problems(store, path, name, members, wanted)
        return document, members
    return None, {}


def _document_problems(
    store: Store, parent: str, name: str, members: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[Problem]:
    """Compare a document with the copy that the commit has of it."""
    path = f"{parent}/{name}/{DOCUMENT}"
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
        is_document = key.rsplit("/", 1)[-1] == DOCUMENT
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
    for key in sorted(found.keys() - shards.keys() - {DOCUMENT}):
        if not key.endswith(PARTIAL):
            problems.append(damage(f"{path}/{key}", "is no shard of the array"))
    return frozenset(lost)


def _release_problems(
    subject: Subject | None, name: str, record: Mapping[str, Any], tasks: Sequence[ArrayTask]
) -> Iterator[Problem]:
    """Compare which files of a subject the release has, and the sizes of its tables, with what was converted."""
    if subject is None:
        yield Problem(path=name, message=NOT_IN_RELEASE, subject=name)
        return
    images = {file.path for file in subject.images.values()}
    tables = {file.path: file.size for file in subject.tables.values()}
    converted = {task.ours["source"]["path"] for task in tasks if task.path.startswith(f"{name}/")}
    considered = record.get("files", {})
    known = {path for path in considered if path.startswith("phenotype/") or "/phenotype/" in path}
    for path in sorted((images - converted) | (tables.keys() - known)):
        yield Problem(path=path, message=NOT_IN_STORE, subject=name)
    for path in sorted((converted - images) | (known - tables.keys())):
        yield Problem(path=path, message=NOT_IN_RELEASE, subject=name)
    for path in sorted(known & tables.keys()):
        if tables[path] != considered[path]:
            what = f"is not the table that was converted: it has {tables[path]:,} bytes, not {considered[path]:,}"
            yield Problem(path=path, message=what, subject=name)
