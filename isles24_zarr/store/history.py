"""The history of an Icechunk repository: which of its versions still hold a subject, and how these are let go of."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import shlex
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import StoreWriteError
from isles24_zarr.format import DERIVATIVES
from isles24_zarr.store.objects import StorePlace, child_names
from isles24_zarr.store.repository import Place, VersionStore, existing_repository, write_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

_MOMENT: Final = dt.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldVersion:
    """A version that holds a subject: its snapshot, when that was committed, its message, and who is in it.

    Parameters
    ----------
    snapshot, written, message
        As the repository has them.
    subjects
        Names.
    branches, tags
        Those that end here: for others than these, it is history.
    """

    snapshot: str
    written: dt.datetime
    message: str
    subjects: tuple[str, ...]
    branches: tuple[str, ...]
    tags: tuple[str, ...]


def versions_with(url: str, options: Mapping[str, Any], subjects: Collection[str]) -> list[HeldVersion]:
    """Return the versions of a repository that hold any of some subjects, or results of them; the latest ones first.

    Parameters
    ----------
    url, options
        Of any version of it.
    subjects
        Names.

    Raises
    ------
    NotAStoreError
        There is no repository.
    """
    place = Place.of(url)
    repository = existing_repository(place, options)
    branches = {name: repository.lookup_branch(name) for name in sorted(repository.list_branches())}
    tags = {name: repository.lookup_tag(name) for name in sorted(repository.list_tags())}
    found: dict[str, HeldVersion] = {}
    for tip in dict.fromkeys([*branches.values(), *tags.values()]):
        for each in repository.ancestry(snapshot_id=tip):
            if each.id in found:
                break  # of what came before, all is known
            store = VersionStore(repository.readonly_session(snapshot_id=each.id).store, place.url)
            found[each.id] = HeldVersion(
                snapshot=each.id,
                written=each.written_at,
                message=each.message,
                subjects=tuple(sorted(set(subjects) & set(_named(store)))),
                branches=tuple(name for name, id_ in branches.items() if id_ == each.id),
                tags=tuple(name for name, id_ in tags.items() if id_ == each.id),
            )
    held = [version for version in found.values() if version.subjects]
    return sorted(held, key=lambda version: version.written, reverse=True)


def _named(store: VersionStore) -> Iterator[str]:
    yield from child_names(store, "")
    for pipeline in child_names(store, DERIVATIVES):
        yield from child_names(store, f"{DERIVATIVES}/{pipeline}")


def told_versions(url: str, held: Sequence[HeldVersion]) -> list[str]:
    """Say which versions hold subjects, and the commands that take these out."""
    place, texts = Place.of(url), []
    for version in held:
        for name in version.branches:
            branch = dataclasses.replace(place, kind="branch", name=name).url
            command = _command(branch, version.subjects)
            texts.append(f"the branch {name} holds {_listed(version.subjects)}; to remove them, run: {command}")
    past = [version for version in held if not version.branches]
    if past:
        names = sorted({name for version in past for name in version.subjects})
        tags = [f"the tag {tag}" for version in past for tag in version.tags]
        what = _listed([*tags, *(f"the snapshot {version.snapshot}" for version in past)])
        command = _command(place.url, names, "--expire-history")
        verb = "hold" if len(past) > 1 else "holds"
        texts.append(f"{what} of its history {verb} {_listed(names)}; to delete these versions, run: {command}")
    return texts


def _command(url: str, names: Iterable[str], *options: str) -> str:
    return " ".join(map(shlex.quote, ("isles24-zarr", "remove", url, *names, *options)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def expire_versions(url: str, options: Mapping[str, Any], subjects: Collection[str]) -> list[HeldVersion]:
    """Delete all versions that hold some subjects, with what these alone need; nothing else may write meanwhile.

    Tags of such versions go. Branches do not: each must have them taken out before. What is older than the last
    version with one of them is no version any more, whoever is in it.

    Returns
    -------
    list
        Those that were deleted.

    Raises
    ------
    StoreWriteError
        A branch still holds one of the subjects, or the repository cannot be written.
    """
    place = Place.of(url)
    held = versions_with(url, options, subjects)
    if any(version.branches for version in held):
        raise StoreWriteError(place.url, told_versions(url, held)[0])
    if not held:
        return held
    repository = existing_repository(place, options)
    alone = contextlib.nullcontext() if place.in_bucket else StorePlace.of(place.root).locked()
    with alone, write_errors(place):
        for version in held:
            for tag in version.tags:
                repository.delete_tag(tag)
        # "older than" leaves out the moment itself
        repository.expire_snapshots(held[0].written + _MOMENT)
        # the clock of a bucket may be ahead of ours
        repository.garbage_collect(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    return held
