"""Results that are not wanted any more, taken out so that nobody reads half of them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from isles24_zarr.derivatives._commit import writing
from isles24_zarr.errors import StoreDamageError, UnknownNameError
from isles24_zarr.format import DERIVATIVES, PIPELINE_NAME, pipeline_path, pipelines_of, subjects_of
from isles24_zarr.release import selected_names
from isles24_zarr.store import StorePlace, child_names, read_document, read_root
from isles24_zarr.writing import list_pipelines, list_subjects
from isles24_zarr.writing import remove as remove_node

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from zarr.abc.store import Store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReport:
    """What was taken out: of which store, and the paths of the groups."""

    store: str
    removed: tuple[str, ...]


def remove(
    store: str | os.PathLike[str],
    subjects: Sequence[str] | str | None = None,
    *,
    derivative: str,
    storage_options: Mapping[str, Any] | None = None,
) -> RemoveReport:
    """Take results of a pipeline out of a store.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    subjects
        Whose results; those of all by default, and the pipeline with them.
    derivative
        Name of the pipeline.
    storage_options
        Options for the store, where it is a URL.

    Returns
    -------
    RemoveReport
        What was taken out. Leftovers of runs that did not end are taken out as well.

    Raises
    ------
    UnknownNameError
        There is no such pipeline, or it has nothing of such a subject.
    NotAStoreError, StoreLockedError, StoreWriteError
        There is no store, another process writes into it, or it cannot be written.

    Notes
    -----
    The pipeline's list of its subjects is written first; then the document of a subject goes, then its voxels: who
    reads meanwhile finds the results, or none. A removal that was interrupted is completed by the same call. Images
    are not touched.

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
