"""What an earlier run left, and what is to be done about a subject because of it.

A subject is left alone when its record lists the same files, by path, size and stamp, and all that it lists is there.
Where stamps alone are others, content decides. Nothing is traded for less: a subject stays as it is, committed or not,
while the file of an array that the store holds is gone, unless that is to be pruned, or damaged.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.conversion._ingest import FileTask
from isles24_zarr.errors import Problem, StoreDamageError
from isles24_zarr.format import (
    FORMAT_VERSION,
    ArrayRecord,
    SubjectPlan,
    SubjectRecord,
    check_seal,
    listed_members,
    recorded_of,
    subject_plan,
)
from isles24_zarr.release import is_image_name
from isles24_zarr.store import ZARR_JSON, child_names, encoded_document, listed_keys, read_document
from isles24_zarr.version import PACKAGE_VERSION
from isles24_zarr.writing import remove, remove_partial_objects, withdraw

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from zarr.abc.store import Store

    from isles24_zarr.clinical import ClinicalRecord
    from isles24_zarr.conversion._ingest import FileResult
    from isles24_zarr.nifti import Header
    from isles24_zarr.release import Source, SourceFile, Subject
    from isles24_zarr.store import StorePlace


FIRST_TIME: Final = "not committed before"
"""Why most subjects are converted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreviousRun:
    """What the store holds of a subject.

    Parameters
    ----------
    record
        Of its commit; None where it is not committed.
    arrays
        By path below the subject, the files of all arrays that were written, committed or not; an empty string of one
        that does not say.
    damage
        The first object that the commit lists and that is lost or cut short.
    """

    record: SubjectRecord | None
    arrays: Mapping[str, str]
    damage: str | None = None

    @property
    def images(self) -> frozenset[str]:
        """Names of the images that were written."""
        return frozenset(map(_image_of, self.arrays))

    def without(self, images: Collection[str]) -> PreviousRun:
        """Return what there would be, had these images never been converted; without any, nothing at all."""
        arrays = {path: file for path, file in self.arrays.items() if _image_of(path) not in images}
        record = self.record
        if not arrays or record is None:
            return PreviousRun(record=None, arrays=arrays)
        dropped = set(self.arrays.values()) - set(arrays.values())
        record = dataclasses.replace(
            record,
            images={name: groups for name, groups in record.images.items() if name not in images},
            arrays=arrays,
            files={path: size for path, size in record.files.items() if path not in dropped},
        )
        return PreviousRun(record=record, arrays=arrays, damage=self.damage)


def _image_of(path: str) -> str:
    return path.rpartition("/")[2]


@dataclasses.dataclass(kw_only=True)
class Job:
    """A subject on its way to its commit.

    Parameters
    ----------
    subject, plan
        Its files, and how they are to be stored.
    cause
        Why it is converted, whatever its files are; empty where it is because of these alone.
    changed
        Paths of the files that the commit does not list as they are.
    record
        Of the commit that it replaces, if any.
    stored
        Paths of the files of all arrays that the store holds of it, committed or not.
    stamps_alone
        Nothing is known to be another but stamps of files.
    files
        All files that are considered.
    problems
        What was found so far.
    afresh
        Names of images of which nothing that the store holds is used.
    clinical
        What its tables say, once they were read.
    """

    subject: Subject
    plan: SubjectPlan
    cause: str
    changed: tuple[str, ...]
    record: SubjectRecord | None
    stored: frozenset[str]
    stamps_alone: bool
    files: tuple[SourceFile, ...]
    problems: list[Problem]
    afresh: frozenset[str]
    clinical: ClinicalRecord | None = None
    same: set[str] = dataclasses.field(default_factory=set)
    pending: set[str] = dataclasses.field(default_factory=set)
    present: set[str] = dataclasses.field(default_factory=set)
    unsettled: set[str] = dataclasses.field(default_factory=set)
    written: list[int] = dataclasses.field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why it is converted."""
        if self.cause:
            return self.cause
        others = [path for path in self.changed if path not in self.same]
        text = f"new or changed: {others[0]}" if others else "the content of its files is the same"
        text += f" and {len(others) - 1} more" if len(others) > 1 else ""
        count = f"{len(self.same)} file{'s' if len(self.same) > 1 else ''}"
        return f"{text}; {count} touched, same content" if self.same else text

    def tasks(self, source: Source, target: StorePlace) -> list[FileTask]:
        """Return a task for each array."""
        self.pending = {plan.path for plan in self.plan.arrays}
        return [
            FileTask(
                source=source.only(plan.source.path),
                target=target,
                plan=plan,
                unchanged=plan.source.path in self.same or is_recorded(plan.source, self.record),
            )
            for plan in self.plan.arrays
        ]

    def take(self, task: FileTask, result: FileResult) -> None:
        """Note down what became of a file."""
        self.pending.discard(task.plan.path)
        if result.present:
            self.present.add(task.plan.path)
            self.written.append(result.written)
            self.problems += result.notices
        if result.problem:
            if result.present:
                # it could not replace an older one, and is looked at again next time
                self.unsettled.add(task.plan.source.path)
            else:
                # where an image was to be kept does not matter once it could not be read
                self.problems = [each for each in self.problems if each.path != task.plan.source.path]
            self.problems.append(result.problem)


def previous_run(store: Store, name: str) -> PreviousRun:
    """Look at what the store holds of a subject. A commit that cannot be read, or was edited, is none."""
    try:
        document = read_document(store, name) or {}
        record = SubjectRecord.from_attributes(document.get("attributes", {}), name)
        members = listed_members(document, name)
        check_seal(document, name)
    except StoreDamageError:
        return PreviousRun(record=None, arrays=_written_arrays(store, name))
    return PreviousRun(record=record, arrays=record.arrays, damage=_damage(store, name, members))


def _written_arrays(store: Store, name: str) -> dict[str, str]:
    """Return the arrays that lie below a subject without a commit, each with its file."""
    return {
        f"{group}/{image}": _file_of(store, f"{name}/{group}/{image}")
        for group in child_names(store, name)
        for image in child_names(store, f"{name}/{group}")
        if is_image_name(image)
    }


def _file_of(store: Store, path: str) -> str:
    try:
        document = read_document(store, path)
        return ArrayRecord.from_document(document, path).source.path if document else ""
    except StoreDamageError:
        return ""


def _damage(store: Store, name: str, members: Mapping[str, Any]) -> str | None:
    found = listed_keys(store, name)
    for path, document in members.items():
        recorded = recorded_of(document["attributes"])
        size = found.get(f"{name}/{path}/{ZARR_JSON}")
        if size is None or ("shards" in recorded and size != len(encoded_document(document))):
            return f"{name}/{path}/{ZARR_JSON}"
        for key, size in recorded.get("shards", {}).items():
            if found.get(f"{name}/{path}/{key}") != size:
                return f"{name}/{path}/{key}"
    return None


def decided_job(
    subject: Subject,
    headers: Mapping[str, Header],
    unreadable: Mapping[str, Problem],
    *,
    wanted: frozenset[str],
    earlier: PreviousRun,
    afresh: frozenset[str] = frozenset(),
    prune: bool = False,
) -> tuple[Job | None, list[Problem]]:
    """Decide whether a subject is converted, and what is to be told if not.

    Parameters
    ----------
    subject
        Its files.
    headers, unreadable
        By path: headers, and why there is none.
    wanted
        Names of images that were asked for; what the store holds of others stays.
    earlier
        What the store holds, without what is converted afresh.
    afresh
        Names of images that are converted, whatever the store holds of them.
    prune
        Convert without the files that are not in the release any more.
    """
    record = earlier.record
    wanted |= earlier.images
    files = [file for (_, image), file in subject.images.items() if image in wanted]
    files += subject.tables.values()
    gone = _vanished(subject, files, earlier)
    for path in sorted({*earlier.arrays.values(), *gone}):
        if (path in gone and not prune) or path in unreadable:
            return None, [kept_as_it_was(subject.name, record, path, unreadable.get(path))]
    changed = [file.path for file in files if not is_recorded(file, record)]
    cause = _cause(record, earlier.damage, gone) or ("its images are converted afresh" if afresh else "")
    if record and not cause and not changed:
        return None, list(record.problems)
    plan = only_images(subject_plan(subject, headers), wanted)
    found = [unreadable[file.path] for file in files if file.path in unreadable]
    job = Job(
        subject=subject,
        plan=plan,
        cause=cause,
        changed=tuple(changed),
        record=record,
        stored=frozenset(earlier.arrays.values()),
        stamps_alone=not cause and record is not None and {file.path: file.size for file in files} == record.files,
        files=tuple(files),
        problems=[*found, *(problem for problem in plan.problems if problem.image in wanted)],
        afresh=afresh,
    )
    return job, []


def _vanished(subject: Subject, files: Iterable[SourceFile], earlier: PreviousRun) -> set[str]:
    """Return what was converted and is not in the release any more: images, and tables of a commit."""
    images = set(earlier.arrays.values()) - {"", *(file.path for file in files)}
    tables = table_paths(earlier.record) if earlier.record else set()
    return images | (tables - {file.path for file in subject.tables.values()})


def table_paths(record: SubjectRecord) -> set[str]:
    """Return the paths of the tables that a subject's values are from."""
    return {path for path in record.files if path.startswith("phenotype/") or "/phenotype/" in path}


def lost_table(job: Job, clinical: ClinicalRecord, failed: Iterable[Problem]) -> Problem | None:
    """Return why a table cannot be read whose values the commit has, and would lose; none where nothing is to lose."""
    record = job.record
    if record is None or all(clinical.values.get(name) is not None for name in record.clinical):
        return None
    tables, before = table_paths(record), {(each.path, each.message) for each in record.problems}
    new = (each for each in failed if each.path in tables and (each.path, each.message) not in before)
    return next(new, None)


def _cause(record: SubjectRecord | None, damage: str | None, gone: Collection[str]) -> str:
    if record is None:
        return FIRST_TIME
    if damage:
        return f"{damage} is lost or damaged"
    if gone:
        return f"not in the release any more: {min(gone)}" + (f" and {len(gone) - 1} more" if len(gone) > 1 else "")
    if record.format_version != FORMAT_VERSION:
        return f"written in format version {record.format_version}"
    if record.package_version != PACKAGE_VERSION:
        return f"written by version {record.package_version}"
    return ""


def kept_as_it_was(subject: str, record: SubjectRecord | None, path: str, problem: Problem | None) -> Problem:
    """Tell that a subject was left alone, because the file of an array of it is damaged or gone."""
    what = problem.message.split(";", maxsplit=1)[0] if problem else "is not in the release any more"
    option = "--overwrite" if problem else "--prune"
    advice = f"the subject stays as it was converted before, use {option} to convert what there is"
    severity = problem.severity if problem else "notice"
    if record is None:
        # a run was killed while it wrote the subject, or its document is damaged
        kept = "what the store holds of the subject stays, and nothing reads it, as it is not whole"
        advice, severity = f"{kept}; use {option} to convert what there is", "error"
    elif record.format_version != FORMAT_VERSION:
        advice, severity = f"{advice}; until then nothing reads it, as it is of an older format", "error"
    return Problem(path=path, message=f"{what}; {advice}", severity=severity, subject=subject)


def only_images(plan: SubjectPlan, images: frozenset[str]) -> SubjectPlan:
    """Return the part of a plan that concerns some images."""
    grids = (
        dataclasses.replace(grid, arrays=tuple(array for array in grid.arrays if array.image in images))
        for grid in plan.grids
    )
    return dataclasses.replace(plan, grids=tuple(grid for grid in grids if grid.arrays))


def is_recorded(file: SourceFile, record: SubjectRecord | None) -> bool:
    """Tell whether a file is the one that a commit lists."""
    if record is None:
        return False
    return record.files.get(file.path) == file.size and record.stamps.get(file.path) == file.stamp


def prepare(store: Store, job: Job) -> None:
    """Take back the commit of a subject and clear away what is no part of its plan, or converted afresh."""
    name = job.subject.name
    stays = {grid.name: {array.image for array in grid.arrays} - job.afresh for grid in job.plan.grids}
    if job.afresh and not any(stays.values()):
        remove(store, name)
        return
    remove_partial_objects(store, name)
    groups = child_names(store, name)
    withdraw(store, name, groups)
    for group in groups:
        if not stays.get(group):
            remove(store, f"{name}/{group}")
            continue
        remove_partial_objects(store, f"{name}/{group}")
        for member in child_names(store, f"{name}/{group}"):
            if member not in stays[group]:
                remove(store, f"{name}/{group}/{member}")
