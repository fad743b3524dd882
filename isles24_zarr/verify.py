"""Proof that a store is what was written: every array is read again, and every document compared.

Nothing here is shared with the writer: voxels are decoded by zarrs on a local store, their orientation is undone by
index arithmetic of this module's own, and source files are unpacked by the standard library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

import zarr
from zarr.storage import StorePath

from isles24_zarr.access import PARTIAL
from isles24_zarr.errors import Problem, StoreDamageError
from isles24_zarr.layout import KEY, PHENOTYPE, seal
from isles24_zarr.objects import DOCUMENT, Target, WholeStore, child_names, listed_keys, read_document, read_root
from isles24_zarr.recheck import DECODING_ERRORS, ArrayTask, damage, first_line, verify_array
from isles24_zarr.release import SourceFile, selected_names
from isles24_zarr.source import Source

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from distributed import Client
    from zarr.abc.store import Store

_COORDINATES: Final = frozenset({"x", "y", "z", "time"})


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
        Check presence, sizes and metadata, and read no voxel.
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
    read_root(opened)
    origin = Source.of(source, storage_options) if source is not None else None
    files = {file.path: file for file in origin.listed().images} if origin else {}
    present = [name for name in child_names(opened, "") if name.startswith("sub-")]
    chosen = selected_names(present, subjects, of=target.url)
    problems = [] if subjects else [*_root_problems(opened), *_table_problems(opened)]
    tasks: list[ArrayTask] = []
    for name in chosen:
        found, documents = _subject_problems(opened, name)
        problems += found
        for path, each in documents.items():
            # what an archive does not list cannot be looked for in it
            lacking = origin and origin.streamed and each["attributes"][KEY]["source"]["path"] not in files
            tasks.append(ArrayTask(target=target, path=path, document=each, source=None if lacking else origin))
    if origin:
        problems += _unmatched_files(tasks, files, chosen)
    read = 0
    if not fast and tasks:
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(dask_client(client, workers, target.url))
            for task, result in _completed(tasks, target, spool, stack, running, progress=progress):
                if isinstance(result, TaskLost):
                    problems.append(damage(task.path, result.why))
                    continue
                read += task.nbytes
                problems += result
    return VerifyReport(
        store=target.url,
        subjects=tuple(chosen),
        arrays=len(tasks),
        voxel_bytes=read,
        seconds=time.monotonic() - started,
        problems=tuple(sorted(problems, key=lambda each: (each.path, each.message))),
    )


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


def _root_problems(store: Store) -> Iterator[Problem]:
    document = read_document(store, "") or {}
    if document.get("attributes", {}).get(KEY, {}).get("seal") != seal(document):
        yield damage(DOCUMENT, "was edited after it was written")
    if document.get("attributes", {}).get("state") != "complete":
        yield damage(DOCUMENT, "says that a conversion has not finished")


def _table_problems(store: Store) -> Iterator[Problem]:
    """Compare the cohort table with the attributes of its subjects."""
    document, found = _sealed_document(store, PHENOTYPE)
    yield from found
    if document is None:
        return
    members = document["consolidated_metadata"]["metadata"]
    yield from _document_problems(store, PHENOTYPE, members)
    yield from _stray_keys(store, PHENOTYPE, {f"{PHENOTYPE}/{name}" for name in members})
    columns = {}
    for name in members:
        values, unreadable = _small_array(store, f"{PHENOTYPE}/{name}")
        yield from unreadable
        if values is not None:
            columns[name] = values
    for row, subject in enumerate(columns.get("subject", ())):
        document = read_document(store, str(subject))
        if document is None:
            yield damage(f"{subject}/{DOCUMENT}", "is missing: the cohort table lists the subject")
            continue
        attributes = document.get("attributes", {})
        for name in columns.keys() & attributes.keys():
            stored, value = columns[name][row], attributes[name]
            missing = stored == "" if isinstance(stored, str) else bool(stored != stored)
            same = missing if value is None else (stored == value or str(stored) == str(value))
            if not same:
                yield damage(f"{PHENOTYPE}/{name}", f"has {stored} for {subject}, its group has {value}")


def _subject_problems(store: Store, name: str) -> tuple[list[Problem], dict[str, dict[str, Any]]]:
    """Compare all documents of a subject with its commit; return those of its images."""
    document, problems = _sealed_document(store, name)
    if document is None:
        return problems, {}
    members: dict[str, dict[str, Any]] = document["consolidated_metadata"]["metadata"]
    problems += _document_problems(store, name, members)
    arrays = {f"{name}/{path}" for path, each in members.items() if each["node_type"] == "array"}
    problems += _stray_keys(store, name, arrays)
    recorded = document["attributes"][KEY]["arrays"]
    images = {path: each for path, each in members.items() if path.split("/")[-1] not in _COORDINATES}
    images = {path: each for path, each in images.items() if each["node_type"] == "array"}
    for path in sorted(recorded.keys() - images.keys()):
        problems.append(damage(f"{name}/{path}", "is listed by its subject, which lacks it"))
    for path, each in images.items():
        problems += _shard_problems(store, f"{name}/{path}", each["attributes"][KEY]["shards"])
    for path in sorted(arrays - {f"{name}/{path}" for path in images}):
        problems += _small_array(store, path)[1]
    return problems, {f"{name}/{path}": each for path, each in images.items()}


def _small_array(store: Store, path: str) -> tuple[Any, list[Problem]]:
    """Read a coordinate or a column of the table; its chunk has a CRC."""
    try:
        return zarr.open_array(StorePath(WholeStore(store), path), mode="r", zarr_format=3)[...], []
    except DECODING_ERRORS as error:
        return None, [damage(path, f"cannot be read ({first_line(error)})")]


def _sealed_document(store: Store, path: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Return the document of a group, if it is there, whole and unchanged."""
    try:
        document = read_document(store, path)
    except StoreDamageError as error:
        return None, [damage(f"{path}/{DOCUMENT}", error.what)]
    if document is None:
        return None, [damage(f"{path}/{DOCUMENT}", "is missing: the group was not committed, or was deleted")]
    if document.get("attributes", {}).get(KEY, {}).get("seal") != seal({"attributes": {}, **document}):
        return None, [damage(f"{path}/{DOCUMENT}", "was edited after it was written")]
    return document, []


def _document_problems(store: Store, parent: str, members: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare documents with the copies that the commit has of them."""
    for name, wanted in members.items():
        path = f"{parent}/{name}"
        try:
            found = read_document(store, path)
        except StoreDamageError as error:
            yield damage(f"{path}/{DOCUMENT}", error.what)
            continue
        if found is None:
            yield damage(f"{path}/{DOCUMENT}", "is missing")
            continue
        if wanted["node_type"] == "group":
            below = found.pop("consolidated_metadata", {}).get("metadata", {})
            inside = {key.removeprefix(f"{name}/"): doc for key, doc in members.items() if key.startswith(f"{name}/")}
            if below != inside:
                yield damage(f"{path}/{DOCUMENT}", "was edited after it was written")
                continue
        if found != wanted:
            yield damage(f"{path}/{DOCUMENT}", "was edited after it was written")


def _stray_keys(store: Store, parent: str, arrays: set[str]) -> Iterator[Problem]:
    """Name what lies below a group and is no part of it."""
    for key in listed_keys(store, parent):
        owner = key.rsplit("/c/", 1)[0] if "/c/" in key else key.rsplit("/", 1)[0]
        is_document = key.rsplit("/", 1)[-1] == DOCUMENT
        is_group = any(array.startswith(f"{owner}/") for array in arrays)
        if key.endswith(PARTIAL):
            yield damage(key, "is what an interrupted write left over")
        elif not (owner in arrays or (is_document and (is_group or owner == parent))):
            yield damage(key, "is not listed by the commit of its group")


def _shard_problems(store: Store, path: str, shards: Mapping[str, int]) -> Iterator[Problem]:
    found = {key.removeprefix(f"{path}/"): size for key, size in listed_keys(store, path).items()}
    for key, size in shards.items():
        if key not in found:
            yield damage(f"{path}/{key}", "is lost")
        elif found[key] != size:
            yield damage(f"{path}/{key}", f"has {found[key]:,} of {size:,} bytes")
    for key in sorted(found.keys() - shards.keys() - {DOCUMENT}):
        if not key.endswith(PARTIAL):
            yield damage(f"{path}/{key}", "is no shard of the array")


def _unmatched_files(tasks: list[ArrayTask], files: Mapping[str, SourceFile], subjects: Sequence[str]) -> list[Problem]:
    converted = {task.ours["source"]["path"] for task in tasks}
    of_subjects = {path for path in files if any(f"/{name}/" in f"/{path}" for name in subjects)}
    return [
        *(
            Problem(path=path, message="is in the release and not in the store")
            for path in sorted(of_subjects - converted)
        ),
        *(
            Problem(path=path, message="is in the store and not in the release")
            for path in sorted(converted - files.keys())
        ),
    ]
