"""Which pipelines there are, and what they have."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format import (
    DERIVATIVES,
    DerivativeRecord,
    checked_document,
    listed_members,
    pipeline_path,
    pipelines_of,
    recorded_of,
)
from isles24_zarr.store import StorePlace, child_names, encoded_document, read_document

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from zarr.abc.store import Store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PipelineInfo:
    """What a pipeline has.

    Parameters
    ----------
    name, description
        Of the pipeline.
    subjects
        Names of those whose results were committed.
    arrays
        Names of its arrays.
    stored_bytes
        Of all of them.
    outdated
        Subjects with images that were converted anew since the results were made from them.
    """

    name: str
    description: str
    subjects: tuple[str, ...]
    arrays: tuple[str, ...]
    stored_bytes: int
    outdated: tuple[str, ...]


def pipeline_names(target: StorePlace) -> list[str]:
    """Return the names of the pipelines of a store, sorted."""
    return pipelines_of(read_document(target.opened(read_only=True), DERIVATIVES))


def described_pipelines(
    store: str | os.PathLike[str], subject: str | None = None, *, storage_options: Mapping[str, Any] | None = None
) -> list[PipelineInfo]:
    """Return what each pipeline of a store has.

    Parameters
    ----------
    store, storage_options
        As for `open_scan`.
    subject
        Of this subject alone.
    """
    target = StorePlace.of(store, storage_options)
    opened = target.opened(read_only=True)
    found = []
    for name in pipeline_names(target):
        subjects = [subject] if subject else child_names(opened, pipeline_path(name))
        records = [record for each in subjects if (record := _record(opened, name, each)) is not None]
        if subject and not records:
            continue
        found.append(
            PipelineInfo(
                name=name,
                description=next((record.description for record in records if record.description), ""),
                subjects=tuple(record.subject for record in records),
                arrays=tuple(sorted({path.partition("/")[2] for record in records for path in record.arrays})),
                stored_bytes=sum(map(_stored_bytes, records)),
                outdated=tuple(record.subject for record in records if _is_outdated(opened, record)),
            )
        )
    return found


def _record(store: Store, pipeline: str, subject: str) -> DerivativeRecord | None:
    path = pipeline_path(pipeline, subject)
    try:
        document = read_document(store, path)
        if document is None:
            return None
        checked_document(document, path)
        return DerivativeRecord.from_document(document, path)
    except StoreDamageError:  # `verify` says what is wrong with it
        return None


def _stored_bytes(record: DerivativeRecord) -> int:
    documents = [record.members[path] for path in record.arrays]
    return sum(
        sum(recorded_of(document["attributes"])["shards"].values()) + len(encoded_document(document))
        for document in documents
    )


def _is_outdated(store: Store, record: DerivativeRecord) -> bool:
    try:
        members = listed_members(read_document(store, record.subject) or {}, record.subject)
    except StoreDamageError:
        return True
    checksums = {
        f"{record.subject}/{path}": recorded_of(document["attributes"]).get("checksum", {}).get("value")
        for path, document in members.items()
    }
    sources = [recorded_of(record.members[path]["attributes"]).get("sources", {}) for path in record.arrays]
    return any(checksums.get(path) != checksum for each in sources for path, checksum in each.items())
