"""A store as versions: each of its subjects committed to an Icechunk repository, by one process.

Objects are copied as they are, nothing is decoded. With each subject come the root and a cohort table of the subjects
that are there by then, so that every version is a whole store. A subject whose seal is that of the repository is the
same one, and is left alone: an interrupted run is resumed by the next.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from isles24_zarr.conversion._commit import cohort_dataset
from isles24_zarr.conversion._updating import left_out
from isles24_zarr.conversion.removal import remember, removed_subjects, take_out
from isles24_zarr.errors import DestinationError, NotAStoreError, Problem, StoreDamageError
from isles24_zarr.format import DERIVATIVES, PHENOTYPE, RootRecord, pipeline_path, pipelines_of, recorded_of
from isles24_zarr.store import (
    LOCAL,
    ZARR_JSON,
    Place,
    StorePlace,
    VersionStore,
    child_names,
    committed_subjects,
    is_versioned,
    listed_keys,
    opened_version,
    read_document,
    read_root,
    writable_repository,
    write_errors,
)
from isles24_zarr.version import PACKAGE_VERSION
from isles24_zarr.vocabulary import SUBJECT_NAME
from isles24_zarr.writing import list_subjects, listed_subjects, write_dataset, write_group

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from zarr.abc.store import Store

    from isles24_zarr.clinical import DictionaryEntry
    from isles24_zarr.format import SubjectRecord


def repository_place(repository: str, options: Mapping[str, Any]) -> Place:
    """Return the place of a repository that a caller names, a path or a URL, if a store can be committed to it.

    Raises
    ------
    DestinationError
        It holds something else.
    UnknownNameError, StoreWriteError, MissingExtraError
        It is no branch, cannot be opened or made, or Icechunk is not installed.
    """
    url = repository
    if not is_versioned(url):
        url = f"icechunk+{url}" if url.startswith("s3://") else f"{LOCAL}{url}"
    place = Place.of(url)
    writable_repository(place, options)
    store = opened_version(place.url, options)
    try:
        read_root(store)
    except NotAStoreError:
        if child_names(store, "") or read_document(store, "") is not None:
            raise DestinationError(place.url, "holds something else; give a new repository or branch") from None
    return place


def commit_versions(
    store: Store,
    place: Place,
    options: Mapping[str, Any],
    dictionary: Mapping[str, DictionaryEntry],
    *,
    progress: bool,
    only: Collection[str] | None = None,
    readmitted: Collection[str] = (),
) -> tuple[dict[str, str], list[Problem]]:
    """Commit each subject of a store that a repository has not, or not in the same state.

    Parameters
    ----------
    store
        Complete.
    place, options
        As from `repository_place`.
    dictionary
        Entries of the data dictionary.
    progress
        Whether to show a bar on stderr.
    only
        Names of all subjects that the repository is to keep, where it is pruned.
    readmitted
        Names of those who are committed although they were removed from the repository for good.

    Returns
    -------
    dict
        The snapshot of each commit, by subject; and of what pipelines have, by pipeline.
    list
        What is to be told of subjects that were left out.

    Raises
    ------
    StoreWriteError
        The repository cannot be written, or somebody else has committed. What was committed stays.
    StoreDamageError
        The store has lost something.

    Notes
    -----
    Memory holds one object, which is a shard at most. Subjects that only the repository has stay, but for those who
    were removed from the store for good. Of both, the repository remembers who was removed.
    """
    from rich.console import Console
    from rich.progress import track

    snapshots = {}
    with _locked(place), write_errors(place):
        repository = writable_repository(place, options)
        removed = removed_subjects(store)
        removed |= removed_subjects(opened_version(place.url, options)) - set(readmitted)
        _remove_versioned(place, options, removed, only)
        there = committed_subjects(opened_version(place.url, options))
        found = committed_subjects(store)
        wanted = {name: record for name, record in found.items() if name not in removed}
        root = _root(store, removed)
        new = [name for name, record in wanted.items() if name not in there or there[name].seal != record.seal]
        console = Console(stderr=True)
        for name in track(new, "committing subjects", console=console, disable=not progress):
            there[name] = wanted[name]
            session = repository.writable_session(place.name)
            _copy(store, session.store, name)
            _write_whole(root, session.store, there, dictionary)
            count = len(wanted[name].arrays)
            about = {"subject": name, "seal": wanted[name].seal, "package_version": PACKAGE_VERSION}
            snapshots[name] = session.commit(f"{name}: {count} images", metadata=about)
        session = repository.writable_session(place.name)
        if _root_seal(session.store) != _root_seal(root):
            _write_whole(root, session.store, there, dictionary)
            session.commit("root and cohort table", metadata={"package_version": PACKAGE_VERSION})
        _commit_derivatives(store, place, options, there, snapshots)
    return snapshots, left_out(found.keys() & removed, place.url)


def _root(store: Store, removed: Collection[str]) -> Store:
    """Return a store of the root alone, as it is, but for who was removed for good."""
    draft = MemoryStore()
    _copy_objects(store, draft, [ZARR_JSON])
    remember(draft, removed)
    return draft


def _remove_versioned(
    place: Place, options: Mapping[str, Any], removed: Collection[str], only: Collection[str] | None
) -> None:
    """Commit that subjects of a repository are there no more."""
    session = writable_repository(place, options).writable_session(place.name)
    store = VersionStore(session.store, place.url)
    present = {name for name in child_names(store, "") if SUBJECT_NAME.fullmatch(name)}
    gone = sorted(present & set(removed) | (present - set(only) if only is not None else set()))
    if gone:
        take_out(store, gone, lambda: None)
        session.commit(f"removed: {', '.join(gone)}", metadata={"package_version": PACKAGE_VERSION})


@contextlib.contextmanager
def committing(url: str, options: Mapping[str, Any]) -> Iterator[tuple[Store, Callable[[str], None]]]:
    """Give the store of a branch of a repository to write into, and what commits it, once, with a message.

    What was not committed is dropped.

    Raises
    ------
    UnknownNameError
        The URL names no branch.
    StoreWriteError
        The repository cannot be written, or somebody else has committed.
    """
    place = Place.of(url)
    with _locked(place), write_errors(place):
        session = writable_repository(place, options).writable_session(place.name)
        store = VersionStore(session.store, place.url)
        read_root(store)
        yield store, lambda message: session.commit(message, metadata={"package_version": PACKAGE_VERSION})


def _commit_derivatives(
    store: Store, place: Place, options: Mapping[str, Any], subjects: Collection[str], snapshots: dict[str, str]
) -> None:
    """Commit what pipelines have of subjects, where a repository has not, or not in the same state."""
    pipelines = pipelines_of(read_document(store, DERIVATIVES))
    for pipeline in pipelines:
        session = writable_repository(place, options).writable_session(place.name)
        there = VersionStore(session.store, place.url)
        new = [
            subject
            for subject in subjects
            if (seal := _seal(store, pipeline_path(pipeline, subject)))
            and seal != _seal(there, pipeline_path(pipeline, subject))
        ]
        if not new:
            continue
        known = set(pipelines_of(read_document(there, DERIVATIVES)))
        write_group(there, DERIVATIVES, {"pipelines": sorted({*known, pipeline})})
        listed = listed_subjects(there, pipeline)  # which may be of others than the pipeline of the store has
        _copy_objects(store, there, [f"{pipeline_path(pipeline)}/{ZARR_JSON}"])
        for subject in new:
            _copy(store, there, pipeline_path(pipeline, subject))
        list_subjects(there, pipeline, {*listed, *new}, set(listed_subjects(there, pipeline)) - {*listed, *new})
        snapshot = session.commit(f"{pipeline}: {len(new)} subjects", metadata={"package_version": PACKAGE_VERSION})
        snapshots[pipeline] = snapshot


def _seal(store: Store, path: str) -> Any:
    return recorded_of((read_document(store, path) or {}).get("attributes", {})).get("seal")


@contextlib.contextmanager
def _locked(place: Place) -> Iterator[None]:
    """Keep others from committing to a folder; of two who commit to a bucket, Icechunk refuses the second."""
    with contextlib.nullcontext() if place.in_bucket else StorePlace.of(place.root).locked():
        yield


def _root_seal(store: Store) -> str | None:
    return RootRecord.from_document(read_document(store, "")).seal


def _write_whole(
    root: Store, target: Store, subjects: Mapping[str, SubjectRecord], dictionary: Mapping[str, DictionaryEntry]
) -> None:
    """Write a root, and the table of these subjects."""
    _copy_objects(root, target, [ZARR_JSON])
    draft = MemoryStore()
    write_dataset(draft, PHENOTYPE, cohort_dataset(dict(sorted(subjects.items())), dictionary))
    _copy(draft, target, PHENOTYPE)


def _copy(source: Store, target: Store, path: str) -> None:
    """Replace a group by that of another store: documents from the top down, as Icechunk wants them, then chunks."""
    sync(target.delete_dir(path))
    sizes = listed_keys(source, path)
    document = read_document(source, path) or {}
    for name, member in document.get("consolidated_metadata", {}).get("metadata", {}).items():
        for key, size in recorded_of(member.get("attributes", {})).get("shards", {}).items():
            if sizes.get(f"{path}/{name}/{key}") != size:
                raise StoreDamageError(f"{source}/{path}/{name}/{key}", "is lost or cut short")
    documents = sorted((key for key in sizes if key.endswith(ZARR_JSON)), key=lambda key: (key.count("/"), key))
    _copy_objects(source, target, [*documents, *(key for key in sizes if not key.endswith(ZARR_JSON))])


def _copy_objects(source: Store, target: Store, keys: Iterable[str]) -> None:
    for key in keys:
        found = sync(source.get(key, default_buffer_prototype()))
        if found is None:
            raise StoreDamageError(f"{source}/{key}", "is lost")
        sync(target.set(key, found))
