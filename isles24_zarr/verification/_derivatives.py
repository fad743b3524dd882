"""What pipelines have, checked as images are; and whether the images that it was made from are still those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isles24_zarr.errors import Problem, StoreDamageError
from isles24_zarr.format import (
    DERIVATIVES,
    PIPELINE_NAME,
    DerivativeRecord,
    pipeline_path,
    pipelines_of,
    subjects_of,
)
from isles24_zarr.store import ZARR_JSON, child_names, listed_keys, read_document, read_objects
from isles24_zarr.verification._findings import array_findings, findings, group_problems
from isles24_zarr.verification._recheck import damage
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayRecord
    from isles24_zarr.verification._findings import FoundImage


def derivative_problems(
    store: Store, subjects: Collection[str], images: Mapping[str, FoundImage], *, strays: bool
) -> tuple[list[Problem], dict[str, FoundImage]]:
    """Compare all documents of pipelines with their commits, and look for all of their objects.

    Parameters
    ----------
    store
        Where they are.
    subjects
        Whose results are looked at.
    images
        What the store has of these subjects, by path.
    strays
        Look at those of subjects, too, that are not in the store.

    Returns
    -------
    tuple
        What was found, and the results that can be read, by path.
    """
    problems: list[Problem] = []
    results: dict[str, FoundImage] = {}
    folders: list[str] = []
    about = f"{DERIVATIVES}/{ZARR_JSON}"
    with findings(DERIVATIVES, problems):
        folders = child_names(store, DERIVATIVES)
    of_all: list[Problem] = []
    listed = pipelines_of(group_problems(store, DERIVATIVES, of_all)[0])
    unlisted = [name for name in folders if name not in listed and PIPELINE_NAME.fullmatch(name)]
    begun = {name for name in unlisted if not _has_commits(store, name)}
    if not begun.issuperset(folders) or _may_be_there(store, about):  # before the first commit there is no document
        problems += of_all
    present = set(child_names(store, ""))
    for pipeline in sorted({*folders, *listed}):
        path = pipeline_path(pipeline)
        if not PIPELINE_NAME.fullmatch(pipeline):
            problems.append(damage(f"{path}/", "is no pipeline"))
            continue
        if pipeline not in folders:
            problems.append(damage(f"{path}/{ZARR_JSON}", f"is lost, with all below it: {about} lists the pipeline"))
            continue
        if pipeline in begun:
            _left_over(store, path, problems)
            continue
        if pipeline not in listed:
            problems.append(damage(about, f"does not list the pipeline {pipeline}"))
        with findings(path, problems):
            committed = subjects_of(group_problems(store, path, problems)[0])
            for subject in sorted({*child_names(store, path), *(committed or ())}):
                if subject in subjects or (strays and subject not in present):
                    with findings(f"{path}/{subject}", problems):
                        results |= _subject_results(store, pipeline, subject, committed, problems)
    for record, _ in results.values():
        problems += _outdated(record, images, present)
    return problems, results


def _has_commits(store: Store, pipeline: str) -> bool:
    """Tell whether anything may have been committed to a pipeline.

    A first run writes shards before the documents that name the pipeline: killed in between, it has lost nothing.
    """
    path = pipeline_path(pipeline)
    try:
        subjects = child_names(store, path)
        listed = subjects_of(read_document(store, path))
    except StoreDamageError:  # which is told where it is read again
        return True
    return bool(listed) or any(_may_be_there(store, f"{path}/{name}/{ZARR_JSON}") for name in subjects)


def _may_be_there(store: Store, key: str) -> bool:
    """Tell whether there is an object, or one that cannot be read."""
    try:
        return read_objects(store, [key])[key] is not None
    except StoreDamageError:
        return True


def _left_over(store: Store, path: str, problems: list[Problem]) -> None:
    """Tell of what a run that was killed left where nothing was committed; of an empty folder, nothing."""
    with findings(path, problems):
        if listed_keys(store, path):
            what = "was left over by a run that did not end: no document commits what is there"
            problems.append(damage(f"{path}/", what))
        elif _may_be_there(store, path):
            problems.append(damage(path, "is an object where a group should be"))


def _subject_results(
    store: Store, pipeline: str, subject: str, committed: Collection[str] | None, problems: list[Problem]
) -> dict[str, FoundImage]:
    """Look at the results of a subject; where the pipeline lists those that were committed, at whether they are there.

    One is listed after its commit, and no more before its removal: what is not listed was never there as a whole, or
    what wrote it, or took it out, was killed in between.
    """
    path = pipeline_path(pipeline, subject)
    key = f"{path}/{ZARR_JSON}"
    if not SUBJECT_NAME.fullmatch(subject):
        problems.append(damage(f"{path}/", "is no subject of a pipeline"))
        return {}
    if read_objects(store, [key])[key] is None:
        if subject in (committed or ()):
            problems.append(damage(key, f"is lost: the pipeline {pipeline} lists results of {subject}"))
        else:
            _left_over(store, path, problems)
        return {}
    if committed is not None and subject not in committed:
        what = f"is not listed by the pipeline {pipeline}, as a run was ended: derive or save again, or remove"
        problems.append(Problem(path=key, message=f"{what} what is there", severity="notice", subject=subject))
    document, members = group_problems(store, path, problems)
    if document is None:
        return {}
    with findings(key, problems):
        DerivativeRecord.from_document(document, path)
    return array_findings(store, path, members, problems)


def _outdated(record: ArrayRecord, images: Mapping[str, FoundImage], present: Collection[str]) -> Iterator[Problem]:
    """Tell that a result was made from images that are not those of the store any more."""
    subject = record.path.split("/")[2]
    changed = [path for path, checksum in record.sources.items() if _checksum(images, path) != checksum]
    if subject not in present:
        what = f"is of {subject}, of whom the store has no images: remove {subject}, and it goes, too"
        yield Problem(path=record.path, message=what, subject=subject)
    elif changed:
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        what = f"was made before {changed[0]}{others} became what it is: derive it again"
        yield Problem(path=record.path, message=what, severity="notice", subject=subject)


def _checksum(images: Mapping[str, FoundImage], path: str) -> str | None:
    return images[path][0].checksum if path in images else None
