"""What pipelines have as files of BIDS derivatives: which there are, and what describes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr import vocabulary
from isles24_zarr.errors import Problem, StoreDamageError
from isles24_zarr.format import (
    DERIVATIVES,
    ArrayRecord,
    DerivativeRecord,
    check_seal,
    derivative_file,
    pipeline_path,
    pipelines_of,
)
from isles24_zarr.release import selected_names
from isles24_zarr.store import read_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

_BIDS: Final = "1.10.0"


def derivative_records(
    store: Store, subjects: Iterable[str], pipelines: Sequence[str] | None, problems: list[Problem]
) -> Iterator[DerivativeRecord]:
    """Yield what each pipeline has of some subjects.

    Parameters
    ----------
    store, subjects
        Where, and of whom.
    pipelines
        Names; all by default.
    problems
        What takes those that cannot be read.

    Raises
    ------
    UnknownNameError
        There is no such pipeline.
    """
    known = pipelines_of(read_document(store, DERIVATIVES))
    for pipeline in selected_names(known, pipelines, of="the pipelines of the store"):
        for subject in subjects:
            path = pipeline_path(pipeline, subject)
            try:
                document = read_document(store, path)
                if document is not None:
                    check_seal(document, path)
                    yield DerivativeRecord.from_document(document, path)
            except StoreDamageError as error:
                problems.append(Problem.from_error(error, subject=subject))


def derivative_arrays(
    records: Iterable[DerivativeRecord], problems: list[Problem]
) -> Iterator[tuple[ArrayRecord, str]]:
    """Yield each array with the path of its file below the folder of an export."""
    for record in records:
        for path in record.arrays:
            try:
                array = ArrayRecord.from_document(record.members[path], f"{record.path}/{path}")
                yield array, derivative_file(array)
            except StoreDamageError as error:
                problems.append(Problem.from_error(error, subject=record.subject))


def descriptions(records: Iterable[DerivativeRecord]) -> dict[str, str]:
    """Return the ``dataset_description.json`` of each pipeline, by its path."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        path = f"{pipeline_path(record.pipeline)}/dataset_description.json"
        text = found.setdefault(path, _description(record))
        text["GeneratedBy"] += [each for each in record.generated_by if each not in text["GeneratedBy"]]
    return {path: json.dumps(text, indent=2) + "\n" for path, text in found.items()}


def _description(record: DerivativeRecord) -> dict[str, Any]:
    doi = next(each for each in vocabulary.REFERENCES if "zenodo" in each).removeprefix("https://doi.org/")
    return {
        "Name": record.description or record.pipeline,
        "BIDSVersion": _BIDS,
        "DatasetType": "derivative",
        "License": vocabulary.LICENCE,
        "GeneratedBy": [],
        "SourceDatasets": [{"DOI": f"doi:{doi}"}],
    }


def sidecar(record: ArrayRecord) -> str:
    """Return what describes the file of an array, as JSON."""
    attributes: Mapping[str, Any] = record.document["attributes"]
    text: dict[str, Any] = {"Description": attributes["long_name"], "Units": attributes["units"] or "n/a"}
    if "flag_values" in attributes:
        names = str(attributes["flag_meanings"]).split()
        text["Labels"] = dict(zip(map(str, attributes["flag_values"]), names, strict=False))
    text |= {"Sources": sorted(record.sources), "GeneratedBy": record.generated_by}
    return json.dumps(text, indent=2) + "\n"
