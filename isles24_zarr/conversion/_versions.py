"""A store as versions: each of its subjects committed to an Icechunk repository, by one process.

Objects are copied as they are, nothing is decoded; but keys of shards become those that Icechunk takes, where a result
was replaced and has others (``c.0.0.0``, see `writing`). With each subject come the root and a cohort table of the
subjects that are there by then, so that every version is a whole store. A subject whose seal is that of the repository
is the same one, and is left alone: an interrupted run is resumed by the next.
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
from isles24_zarr.format import (
    ATTRIBUTE_KEY,
    DERIVATIVES,
    PHENOTYPE,
    RootRecord,
    check_seal,
    listed_members,
    pipeline_path,
    pipelines_of,
    recorded_of,
    seal,
)
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
from isles24_zarr.writing import list_subjects, listed_subjects, write_dataset, write_document, write_group

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from zarr.abc.store import Store

    from isles24_zarr.clinical import DictionaryEntry
    from isles24_zarr.format import SubjectRecord


def repository_place(repository: str, options: Mapping[str, Any], store: StorePlace | None = None) -> Place:
    """Return the place of a repository that a caller names, a path or a URL, if a store can be committed to it.

    Parameters
    ----------
    repository, options
        Where it is or is to be, and options for it where that is a bucket.
    store
        Which is to be committed, and stays a place of its own.

    Raises
    ------
    DestinationError
        It holds something else, or one of store and repository lies in the other.
    UnknownNameError, StoreWriteError, MissingExtraError
        It is no branch, cannot be opened or made, or Icechunk is not installed.
    """
    url = repository
    if not is_versioned(url):
        url = f"icechunk+{url}" if url.startswith("s3://") else f"{LOCAL}{url}"
    place = Place.of(url)
    if store is not None:
        store.check_outside(place.url)
        StorePlace.of(place.url).check_outside(store.url)
    writable_repository(place, options)
    version = opened_version(place.url, options)
    try:
        read_root(version)
    except NotAStoreError:
        if child_names(version, "") or read_document(version, "") is not None:
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
    _copy_objects(store, draft, {ZARR_JSON: ZARR_JSON})
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
            if (found := _seal(_slashed(read_document(store, path := pipeline_path(pipeline, subject)) or {}, path)))
            and found != _seal(read_document(there, path) or {})
        ]
        if not new:
            continue
        known = set(pipelines_of(read_document(there, DERIVATIVES)))
        write_group(there, DERIVATIVES, {"pipelines": sorted({*known, pipeline})})
        listed = listed_subjects(there, pipeline)  # which may be of others than the pipeline of the store has
        about = f"{pipeline_path(pipeline)}/{ZARR_JSON}"
        _copy_objects(store, there, {about: about})
        for subject in new:
            _copy(store, there, pipeline_path(pipeline, subject))
        list_subjects(there, pipeline, {*listed, *new}, set(listed_subjects(there, pipeline)) - {*listed, *new})
        snapshot = session.commit(f"{pipeline}: {len(new)} subjects", metadata={"package_version": PACKAGE_VERSION})
        snapshots[pipeline] = snapshot


def _seal(document: Mapping[str, Any]) -> Any:
    return recorded_of(document.get("attributes", {})).get("seal")


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
    _copy_objects(root, target, {ZARR_JSON: ZARR_JSON})
    draft = MemoryStore()
    write_dataset(draft, PHENOTYPE, cohort_dataset(dict(sorted(subjects.items())), dictionary))
    _copy(draft, target, PHENOTYPE)


def _copy(source: Store, target: Store, path: str) -> None:
    """Replace a group by that of another store, as its document lists it, and by nothing that lies there beside that.

    Documents come from the top down, as Icechunk wants them, then chunks.

    Raises
    ------
    StoreDamageError
        The document is lost, or a shard that it lists is lost or cut short.
    """
    listed = read_document(source, path)
    if listed is None:
        raise StoreDamageError(f"{source}/{path}/{ZARR_JSON}", "is lost")
    sizes, keys = listed_keys(source, path), {}
    for name, member in listed_members(listed, path).items():
        below = f"{path}/{name}/"
        shards = recorded_of(member["attributes"]).get("shards")
        if shards is None and member.get("node_type") == "array":  # of a coordinate or column, all that is there
            shards = {key.removeprefix(below): size for key, size in sizes.items() if key.startswith(below)}
        for key, size in (shards or {}).items():
            if sizes.get(f"{below}{key}") != size:
                raise StoreDamageError(f"{source}/{below}{key}", "is lost or cut short")
            if key != ZARR_JSON:
                keys[f"{below}{key}"] = f"{below}{_slashed_key(key)}"
    sync(target.delete_dir(path))
    document = _slashed(listed, path)
    write_document(target, path, document)
    members = listed_members(document, path)
    for name in sorted(members, key=lambda name: (name.count("/"), name)):
        write_document(target, f"{path}/{name}", _whole_member(members, name))
    _copy_objects(source, target, keys)


def _slashed(document: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the document of a group with the keys of shards that Icechunk takes; sealed anew where these are others.

    Raises
    ------
    StoreDamageError
        It was edited after it was written, which a new seal would hide.
    """
    members = listed_members(document, path)
    slashed = {name: _slashed_member(member) for name, member in members.items()}
    if slashed == members:
        return document
    check_seal(document, f"{path}/{ZARR_JSON}")
    for name, member in slashed.items():
        if member.get("node_type") == "group":
            slashed[name] = {**member, "attributes": _sealed(_whole_member(slashed, name))["attributes"]}
    listed = {**document["consolidated_metadata"], "metadata": slashed}
    return _sealed({**document, "consolidated_metadata": listed})


def _slashed_member(member: Mapping[str, Any]) -> dict[str, Any]:
    encoding = member.get("chunk_key_encoding", {})
    if encoding.get("configuration", {}).get("separator") != ".":
        return dict(member)
    recorded = recorded_of(member["attributes"])
    shards = {_slashed_key(key): size for key, size in recorded["shards"].items()}
    return {
        **member,
        "chunk_key_encoding": {**encoding, "configuration": {**encoding["configuration"], "separator": "/"}},
        "attributes": {**member["attributes"], ATTRIBUTE_KEY: {**recorded, "shards": dict(sorted(shards.items()))}},
    }


def _slashed_key(key: str) -> str:
    return key.replace(".", "/")


def _whole_member(members: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the document of a member as it is written: that of a group lists what is in it."""
    member = dict(members[name])
    if member.get("node_type") == "group":
        inside = {path.removeprefix(f"{name}/"): each for path, each in members.items() if path.startswith(f"{name}/")}
        member["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": inside}
    return member


def _sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    recorded = {**recorded_of(document["attributes"]), "seal": seal(document)}
    return {**document, "attributes": {**document["attributes"], ATTRIBUTE_KEY: recorded}}


def _copy_objects(source: Store, target: Store, keys: Mapping[str, str]) -> None:
    """Copy objects, by their keys there and here."""
    for key, new in keys.items():
        found = sync(source.get(key, default_buffer_prototype()))
        if found is None:
            raise StoreDamageError(f"{source}/{key}", "is lost")
        sync(target.set(new, found))
