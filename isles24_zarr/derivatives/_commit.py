"""What makes results visible: the document of their subject in the pipeline, written last."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

from isles24_zarr.conversion import committing, store_errors
from isles24_zarr.errors import Isles24Error, StoreDamageError
from isles24_zarr.format import (
    ATTRIBUTE_KEY,
    DERIVATIVES,
    FORMAT_VERSION,
    DerivativeRecord,
    pipeline_path,
    pipelines_of,
    recorded_of,
    subjects_of,
)
from isles24_zarr.store import child_names, is_versioned, read_document, read_root
from isles24_zarr.version import PACKAGE_VERSION
from isles24_zarr.writing import (
    list_pipelines,
    remove,
    remove_shards,
    tidy,
    write_derivative,
    write_result_grid,
    written_document,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

    from isles24_zarr.derivatives._preparing import Pipeline
    from isles24_zarr.format import ArrayPlan
    from isles24_zarr.scans import ScanPlace
    from isles24_zarr.store import StorePlace


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Writer:
    """A store that is held for writing.

    Parameters
    ----------
    store
        To write into.
    confirm
        Raises where the lock was lost; called before each commit.
    publish
        Makes visible what was written, told what it is: a commit to an Icechunk repository, nothing elsewhere.
    shared
        Whether workers can write into it: a session of Icechunk belongs to this process.
    """

    store: Store
    confirm: Callable[[], None]
    publish: Callable[[str], None]
    shared: bool = True


@contextlib.contextmanager
def writing(target: StorePlace) -> Iterator[Writer]:
    """Hold a store for writing.

    Raises
    ------
    StoreLockedError
        Another process writes into it.
    StoreWriteError
        It cannot be written.
    """
    if is_versioned(target.url):
        with committing(target.url, target.storage_options) as (store, commit):
            yield Writer(store=store, confirm=lambda: None, publish=commit, shared=False)
        return
    with store_errors(target), target.locked() as confirm:
        store = target.opened(read_only=False)
        read_root(store)
        yield Writer(store=store, confirm=confirm, publish=lambda _: None)


@contextlib.contextmanager
def taken_back(writer: Writer, pipeline: str, subject: str) -> Iterator[None]:
    """Take out again what is written meanwhile, where that fails; what a kill leaves is the next run's."""
    try:
        yield
    except Exception as error:
        try:
            take_back(writer, pipeline, [subject])
        except (Isles24Error, OSError) as second:  # what failed first is what is told
            error.add_note(f"what was written of {subject} could not be taken out again: {second}")
        raise


def take_back(writer: Writer, pipeline: str, subjects: Iterable[str]) -> None:
    """Bring what a pipeline has of subjects back to what is committed, so that what failed leaves nothing behind.

    Parameters
    ----------
    writer
        Of the store. Of an Icechunk repository, all that was not committed is dropped anyway.
    pipeline
        Its group goes, too, where nothing was ever committed to it.
    subjects
        Who; results whose document cannot be read stay as they are.

    Raises
    ------
    StoreLockedError
        The lock was lost: what lies there now may be another's.
    """
    if not writer.shared:
        return
    store = writer.store
    for subject in subjects:
        writer.confirm()
        path = pipeline_path(pipeline, subject)
        with contextlib.suppress(StoreDamageError):
            document = read_document(store, path)
            if document is None:
                remove(store, path)
            else:
                tidy(store, DerivativeRecord.from_document(document, path))
    path = pipeline_path(pipeline)
    with contextlib.suppress(StoreDamageError):
        # one that lists subjects has lost them, which is not to be forgotten
        if not child_names(store, path) and not subjects_of(read_document(store, path)):
            if pipeline in pipelines_of(read_document(store, DERIVATIVES)):
                list_pipelines(store, set(), {pipeline})
            remove(store, path)


def commit_results(
    store: Store,
    place: ScanPlace,
    pipeline: Pipeline,
    grid_attributes: Mapping[str, Any],
    plans: Sequence[ArrayPlan],
    earlier: DerivativeRecord | None,
) -> None:
    """Commit results whose arrays are there, beside those that the pipeline has of the subject.

    Parameters
    ----------
    store, place, pipeline
        Where, of which scan, and whose.
    grid_attributes
        Of the group of images.
    plans
        Of the results.
    earlier
        What was committed before.
    """
    path = pipeline_path(pipeline.name, place.subject)
    arrays = sorted({*(earlier.arrays if earlier else ()), *(f"{plan.group}/{plan.image}" for plan in plans)})
    grids = {}
    for group in sorted({array.partition("/")[0] for array in arrays}):
        names = [array.partition("/")[2] for array in arrays if array.startswith(f"{group}/")]
        if group == place.group:
            written = {plan.image for plan in plans}
            # of results that are not these, what was committed: what lies there may have been edited since, or lost
            results = {
                name: written_document(store, f"{path}/{group}/{name}")
                if earlier is None or name in written
                else earlier.members[f"{group}/{name}"]
                for name in names
            }
            grids[group] = write_result_grid(store, f"{path}/{group}", place.path, grid_attributes, results)
        elif earlier:
            grids[group] = earlier.grid_document(group)
    documents = [grids[group]["consolidated_metadata"]["metadata"][name] for group, _, name in _parts(arrays)]
    records = [recorded_of(document["attributes"]) for document in documents]
    generated_by = list(pipeline.generated_by)
    generated_by += _others(generated_by, (program for record in records for program in record.get("generated_by", [])))
    attributes = {
        "subject": place.subject,
        "pipeline": pipeline.name,
        "description": pipeline.description or (earlier.description if earlier else ""),
        "GeneratedBy": generated_by,
        "Sources": sorted({source for record in records for source in record.get("sources", {})}),
        ATTRIBUTE_KEY: {
            "format_version": FORMAT_VERSION,
            "package_version": PACKAGE_VERSION,
            "arrays": arrays,
            "times": {"saved": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")},
        },
    }
    about = {"pipeline": pipeline.name, "GeneratedBy": list(pipeline.generated_by)}
    if pipeline.description:
        about["description"] = pipeline.description
    write_derivative(store, path, attributes, grids, about)
    for plan in plans:
        document = written_document(store, plan.path)
        remove_shards(store, plan.path, but=recorded_of(document["attributes"])["shards"])


def _parts(arrays: Iterable[str]) -> list[tuple[str, str, str]]:
    return [array.partition("/") for array in arrays]


def _others(known: Sequence[Any], found: Iterable[Any]) -> list[Any]:
    """Return what is not known yet, each once, in order."""
    others: list[Any] = []
    for each in found:
        if each not in known and each not in others:
            others.append(each)
    return others
