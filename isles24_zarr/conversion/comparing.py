"""What a release has that a store has not, or not like that, and the other way round. Nothing is written."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, cast

from isles24_zarr.clinical import MAX_TABLE_BYTES
from isles24_zarr.conversion._commit import clinical_record, says_the_same
from isles24_zarr.conversion._planning import chosen_subjects, listed_release
from isles24_zarr.conversion.removal import removed_subjects
from isles24_zarr.conversion.resume import is_recorded, table_paths
from isles24_zarr.errors import Problem, SourceError
from isles24_zarr.format import listed_members, recorded_of
from isles24_zarr.nifti import HashedFile
from isles24_zarr.release import Source
from isles24_zarr.store import StorePlace, committed_subjects, read_document, read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

    from isles24_zarr.errors import StoreDamageError
    from isles24_zarr.format import SubjectRecord
    from isles24_zarr.release import SourceFile, Subject

_THREADS: Final = 4

State = Literal["new", "changed", "missing", "touched", "removed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A file by which a release and a store differ.

    Parameters
    ----------
    subject, space, image
        Whose it is and what it is; no image of a table.
    path
        In the release; of a subject that was removed for good, the name.
    state
        ``"new"``: the store lacks it. ``"changed"``: the store has another one. ``"missing"``: the store has it and the
        release has not. ``"touched"``: its stamp has changed and its content has not. ``"removed"``: of a subject that
        was removed for good.
    """

    subject: str
    space: str | None
    image: str | None
    path: str
    state: State


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiffReport:
    """How a store differs from a release.

    Parameters
    ----------
    store, source
        Of both.
    same
        Subjects with no difference.
    new, missing
        Subjects that the store, or the release, lacks altogether.
    differences
        By subject, in the order of the release.
    problems
        What could not be read.
    """

    store: str
    source: str
    same: tuple[str, ...]
    new: tuple[str, ...]
    missing: tuple[str, ...]
    differences: tuple[Difference, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the store has what the release has, and no more."""
        differ = any(each.state in ("new", "changed", "missing") for each in self.differences)
        return not differ and all(problem.severity != "error" for problem in self.problems)


def diff(
    store: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> DiffReport:
    """Tell what is new, changed or missing in a release, by subject and image.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    source
        A release, as for `convert`.
    subjects
        Names to look at; all of both by default.
    storage_options
        Options for those of both that are URLs.

    Returns
    -------
    DiffReport
        Files are compared by path, size and stamp; where the stamp alone is another one, an image is read and its
        SHA-256 decides, and of tables what they say.

    Raises
    ------
    SourceNotFoundError, NotAStoreError, StoreVersionError, UnknownNameError
        There is no release, no store, or no such subject in the release.

    Examples
    --------
    >>> isles24_zarr.diff("isles24.zarr", "train").ok
    True
    """
    target, origin = StorePlace.of(store, storage_options), Source.of(source, storage_options)
    opened = target.opened(read_only=True)
    read_root(opened)
    release = listed_release(origin, target, subjects=subjects, extra_images=False, strict=False)
    chosen = chosen_subjects(origin, release, subjects)
    damaged: list[tuple[str, StoreDamageError]] = []
    records = committed_subjects(opened, damaged)
    problems = [problem for problem in release.problems if problem.severity == "error"]
    problems += [Problem.from_error(error, subject=name) for name, error in damaged]
    removed = removed_subjects(opened) - records.keys()
    found: list[Difference] = []
    for name, subject in chosen.items():
        if name in removed:
            found.append(Difference(subject=name, space=None, image=None, path=name, state="removed"))
        elif name not in dict(damaged):
            found += _differences(subject, records.get(name))
    gone = sorted(records.keys() - release.subjects.keys()) if subjects is None else []
    for name in gone:
        found += _missing(name, records[name], set())
    touched = _read(opened, origin, chosen, records, [each for each in found if each.state == "touched"], problems)
    found = [touched.get(each.path, each) for each in found]
    differing = {each.subject for each in found}
    return DiffReport(
        store=target.url,
        source=release.source,
        same=tuple(name for name in chosen if name not in differing and name in records),
        new=tuple(name for name in chosen if name in differing and name not in {*records, *removed}),
        missing=tuple(gone),
        differences=tuple(found),
        problems=tuple(problems),
    )


def _differences(subject: Subject, record: SubjectRecord | None) -> Iterator[Difference]:
    """Compare what is known without reading a file; of those with another stamp, the state is not certain yet."""
    files: list[tuple[str | None, str | None, SourceFile]] = [(*key, file) for key, file in subject.images.items()]
    files += [(None, None, file) for file in subject.tables.values()]
    arrays = set(record.arrays.values()) if record else set()
    for space, image, file in files:
        if is_recorded(file, record):
            continue
        size = record.files.get(file.path) if record else None
        state: State = "touched" if size == file.size else "new" if size is None else "changed"
        if size is None and file.path in arrays:  # it could not be used when it was last looked at
            state = "changed"
        yield Difference(subject=subject.name, space=space, image=image, path=file.path, state=state)
    if record:
        yield from _missing(subject.name, record, {file.path for _, _, file in files})


def _missing(name: str, record: SubjectRecord, paths: set[str]) -> Iterator[Difference]:
    for array, path in record.arrays.items():
        if path not in paths:
            group, _, image = array.partition("/")
            space = group.removeprefix("space-")
            yield Difference(subject=name, space=space, image=image, path=path, state="missing")
    for path in sorted(table_paths(record) - paths):
        yield Difference(subject=name, space=None, image=None, path=path, state="missing")


def _read(
    store: Store,
    source: Source,
    subjects: Mapping[str, Subject],
    records: Mapping[str, SubjectRecord],
    touched: Sequence[Difference],
    problems: list[Problem],
) -> dict[str, Difference]:
    """Return by path what content says of files with another stamp."""
    files = {file.path: file for subject in subjects.values() for file in subject.images.values()}
    files |= {file.path: file for subject in subjects.values() for file in subject.tables.values()}
    images = [files[each.path] for each in touched if each.image]
    source, digests = _digests(source, images, {each.path for each in touched if not each.image})
    recorded = {}
    for name in {each.subject for each in touched}:
        for member in listed_members(read_document(store, name) or {}, name).values():
            of_file = recorded_of(member["attributes"]).get("source", {})
            recorded[of_file.get("path")] = of_file.get("sha256")
    found = {}
    for each in touched:
        digest = digests.get(each.path)
        same = digest == recorded.get(each.path)
        if isinstance(digest, SourceError):
            problems.append(Problem.from_error(digest, subject=each.subject, image=each.image))
        elif each.image is None:
            clinical, _ = clinical_record(subjects[each.subject], source)
            same = says_the_same(subjects[each.subject], clinical, records[each.subject])
        if not same:
            found[each.path] = dataclasses.replace(each, state="changed")
    return found


def _digests(
    source: Source, images: Sequence[SourceFile], tables: Collection[str]
) -> tuple[Source, dict[str, str | SourceError]]:
    """Read images to their ends; of an archive that is read from front to back, keep tables on the way."""
    if not source.streamed:

        def digest(file: SourceFile) -> str | SourceError:
            try:
                with source.opened(file) as opened:
                    return _sha256(opened, file.path)
            except SourceError as error:
                return error

        with ThreadPoolExecutor(_THREADS) as threads:
            return source, dict(zip((file.path for file in images), threads.map(digest, images), strict=True))
    found: dict[str, str | SourceError] = {}
    held: dict[str, bytes | SourceError] = {}
    for path, stream in source.members({*(file.path for file in images), *tables}):
        try:
            if isinstance(stream, SourceError):
                raise stream
            if path in tables:
                held[path] = stream.read(MAX_TABLE_BYTES + 1)
            else:
                found[path] = _sha256(cast("BinaryIO", stream), path)
        except SourceError as error:
            (held if path in tables else found)[path] = error
    return dataclasses.replace(source, held=held), found


def _sha256(opened: BinaryIO, path: str) -> str:
    file = HashedFile(opened, path=path)
    while file.read():
        pass
    return file.sha256()
