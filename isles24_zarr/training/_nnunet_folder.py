"""The folder of a raw dataset of nnU-Net: made, known to be ours, tidied, and completed by its documents."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import DestinationError
from isles24_zarr.nifti import whole_file
from isles24_zarr.store import StorePlace
from isles24_zarr.training._nnunet_cases import (
    DATASET_JSON,
    FILE_ENDING,
    IMAGES_FOLDER,
    LABELS_FOLDER,
    RECORDS,
    image_file,
    label_file,
    remove_case,
)
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SPLITS_JSON: Final = "splits_final.json"
_CASE_FILE: Final = re.compile(
    rf"({SUBJECT_NAME.pattern})(_\d{{4}})?{re.escape(FILE_ENDING)}|\..*{re.escape(FILE_ENDING)}\..*\.partial", re.ASCII
)


@contextlib.contextmanager
def opened_folder(folder: Path, target: StorePlace) -> Iterator[None]:
    """Hold the folder for writing; it is made if need be."""
    target.check_outside(folder)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with StorePlace.of(folder).locked():
        yield


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Say which folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise DestinationError(folder, f"cannot be written ({error})") from error


def prepare(folder: Path, subjects: Sequence[str], channels: int) -> None:
    """Make the folder, or make sure that it is ours, and take out what is none of the dataset that is to be.

    Raises
    ------
    DestinationError
        It holds files that are not ours.
    """
    records = folder / RECORDS
    if not records.is_dir() and (others := sorted(file.name for file in folder.iterdir())):
        what = f"holds {others[0]!r}, which is of no dataset that was written here; give a new folder or an empty one"
        raise DestinationError(folder, what)
    wanted = {image_file(name, channel) for name in subjects for channel in range(channels)}
    wanted |= {label_file(name) for name in subjects}
    for each in (RECORDS, IMAGES_FOLDER, LABELS_FOLDER):
        (folder / each).mkdir(exist_ok=True)
    outdated = set()
    for file in sorted([*(folder / IMAGES_FOLDER).iterdir(), *(folder / LABELS_FOLDER).iterdir()]):
        found = _CASE_FILE.fullmatch(file.name)
        if found is None:
            what = "is no file of a case that was written here; move it to another folder"
            raise DestinationError(file, what)
        if found[1] is None:
            file.unlink()  # of a run that was killed
        elif str(file.relative_to(folder)) not in wanted:
            outdated.add(found[1])
    for file in folder.glob(".*.json.*.partial"):
        file.unlink()
    for file in records.iterdir():
        if file.suffix != ".json":
            file.unlink()
        elif file.stem not in subjects:
            outdated.add(file.stem)
    for subject in sorted(outdated):
        remove_case(folder, subject)


def publish(folder: Path, document: Mapping[str, Any], splits: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """Write the documents, that of the dataset last; without a case, there is none.

    Parameters
    ----------
    folder
        Of the dataset.
    document, splits
        What ``dataset.json`` and ``splits_final.json`` hold.

    Raises
    ------
    DestinationError
        A file that a worker has written is not there.
    """
    unseen = [case["label"] for case in document["dataset"].values() if not (folder / case["label"]).is_file()]
    if unseen:
        raise DestinationError(folder, f"lacks {unseen[0]}, which a worker wrote: give a folder that all workers share")
    if not document["dataset"]:
        (folder / DATASET_JSON).unlink(missing_ok=True)
        return
    _write_json(folder / SPLITS_JSON, splits)
    _write_json(folder / DATASET_JSON, document)


def _write_json(path: Path, document: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n")
