"""What is not wanted any more, or may not be kept: taken out so that nobody reads half of it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from isles24_zarr.conversion import known_subjects, take_out
from isles24_zarr.derivatives._commit import writing
from isles24_zarr.errors import Problem, StoreDamageError, UnknownNameError
from isles24_zarr.format import DERIVATIVES, PIPELINE_NAME, pipeline_path, pipelines_of, subjects_of
from isles24_zarr.release import selected_names
from isles24_zarr.store import (
    StorePlace,
    child_names,
    expire_versions,
    is_versioned,
    read_document,
    read_root,
    told_versions,
    versions_with,
)
from isles24_zarr.writing import list_pipelines, list_subjects
from isles24_zarr.writing import remove as remove_node

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from zarr.abc.store import Store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReport:
    """What was taken out.

    Parameters
    ----------
    store
        Of where.
    removed
        Paths of the groups that were there.
    history
        Of an Icechunk repository: snapshots that still hold a subject that was removed.
    expired
        Snapshots that were deleted.
    problems
        What is left to do, as notices.
    """

    store: str
    removed: tuple[str, ...]
    history: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def remove(
    store: str | os.PathLike[str],
    subjects: Sequence[str] | str | None = None,
    *,
    derivative: str | None = None,
    forget: bool = False,
    expire_history: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> RemoveReport:
    """Take subjects out of a store, with all that there is of them; or results of a pipeline alone.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote, or a branch of an Icechunk repository.
    subjects
        Who goes: out of the images, the cohort table and all pipelines. With `derivative`, whose results go; those of
        all by default, and the pipeline with them.
    derivative
        Name of a pipeline: its results go, images stay.
    forget
        Do not keep the names of the subjects. By default the root of the store lists them, and `convert` leaves them
        out from then on, unless it is told to readmit them.
    expire_history
        Of an Icechunk repository: delete all earlier versions that hold the subjects, their tags, and all that is older
        than these versions. Nothing else may write into the repository meanwhile.
    storage_options
        Options for the store, where it is a URL.

    Returns
    -------
    RemoveReport
        What was taken out. Leftovers of runs that did not end are taken out as well.

    Raises
    ------
    UnknownNameError
        There is no such subject or pipeline, the pipeline has nothing of such a subject, or nothing was asked for.
    NotAStoreError, StoreLockedError, StoreWriteError
        There is no store, another process writes into it, or it cannot be written.

    Notes
    -----
    Of subjects, the root lists first who is to go; then go the rows of the table, results, and images, documents before
    voxels; the root says last that all is done. Of results alone, the pipeline's list of its subjects is written first.
    Who reads meanwhile finds a subject or none. A removal that was interrupted is completed by the same call, or by the
    next conversion. Files are deleted, not overwritten: backups, and buckets that keep versions of objects, are cleared
    by those who run them.

    Examples
    --------
    >>> file = "train/raw_data/sub-stroke0001/ses-01/sub-stroke0001_ses-01_ncct.nii.gz"
    >>> added = isles24_zarr.add("isles24.zarr", "mine", [file]).added
    >>> isles24_zarr.remove("isles24.zarr", derivative="mine").removed
    ('derivatives/mine/sub-stroke0001', 'derivatives/mine')
    """
    target = StorePlace.of(store, storage_options)
    opened = target.opened(read_only=True)
    read_root(opened)
    if derivative is not None:
        if forget or expire_history:
            what = "belongs to the removal of subjects, not of the results of a pipeline"
            raise UnknownNameError("forget" if forget else "expire_history", what)
        return _remove_results(target, opened, subjects, derivative)
    if subjects is None:
        raise UnknownNameError(target.url, "name the subjects to remove, or a pipeline by 'derivative'")
    return _remove_subjects(target, opened, subjects, forget=forget, expire_history=expire_history)


def _remove_subjects(
    target: StorePlace, opened: Store, subjects: Sequence[str] | str, *, forget: bool, expire_history: bool
) -> RemoveReport:
    root, known = read_root(opened), known_subjects(opened)
    chosen = selected_names(known, subjects, of=target.url)
    versioned = is_versioned(target.url)
    removed: list[str] = []
    # a commit of no change is none
    if not versioned or forget or not set(chosen) <= set(root.removed):
        with writing(target) as writer:
            removed = take_out(writer.store, chosen, writer.confirm, remember=not forget)
            writer.publish("removed subjects" if forget else f"removed: {', '.join(chosen)}")
    expired = expire_versions(target.url, target.storage_options, chosen) if versioned and expire_history else []
    held = versions_with(target.url, target.storage_options, chosen) if versioned else []
    texts = told_versions(target.url, held) if held else []
    return RemoveReport(
        store=target.url,
        removed=tuple(removed),
        history=tuple(version.snapshot for version in held),
        expired=tuple(version.snapshot for version in expired),
        problems=tuple(Problem(path=target.url, message=text, severity="notice") for text in texts),
    )


def _remove_results(
    target: StorePlace, opened: Store, subjects: Sequence[str] | str | None, derivative: str
) -> RemoveReport:
    listed = pipelines_of(read_document(opened, DERIVATIVES))
    path = pipeline_path(derivative)
    # a document that cannot be read does not keep anybody from taking out the pipeline with it
    unread = (StoreDamageError,) if subjects is None else ()
    present = _names(opened, derivative, unread) if PIPELINE_NAME.fullmatch(derivative) else []
    if derivative not in listed and not present:
        what = f"is not in {target.url}, which has the pipelines: {', '.join(listed) or 'none'}"
        raise UnknownNameError(f"pipeline {derivative!r}", what)
    chosen = selected_names(present, subjects, of=f"the pipeline {derivative}")
    with writing(target) as writer:
        removed = [f"{path}/{name}" for name in chosen]
        writer.confirm()
        with contextlib.suppress(*unread):
            list_subjects(writer.store, derivative, set(), set(chosen))
        for each in removed:
            writer.confirm()
            remove_node(writer.store, each)
        if set(chosen) == set(present) and subjects is None:
            list_pipelines(writer.store, set(), {derivative})
            remove_node(writer.store, path)
            removed.append(path)
        writer.publish(f"{derivative}: removed")
    return RemoveReport(store=target.url, removed=tuple(removed))


def _names(store: Store, pipeline: str, unread: tuple[type[StoreDamageError], ...]) -> list[str]:
    """Return what lies below a pipeline, and the subjects that it lists although their results are lost."""
    path = pipeline_path(pipeline)
    listed: list[str] | None = []
    with contextlib.suppress(*unread):
        listed = subjects_of(read_document(store, path))
    return sorted({*child_names(store, path), *(listed or ())})
