"""The release tree back out of a store: every decompressed file is the one that was converted, byte for byte.

A file is published when its voxels have given the checksum that the conversion recorded, and not before. The
orientation is undone by `geometry.file_from_canonical`; header and extensions come verbatim from the attributes.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr import vocabulary
from isles24_zarr.clinical import UnreadCellError, guarded_text, value_from_cell
from isles24_zarr.conversion._derivative_files import derivative_arrays, derivative_records, descriptions, sidecar
from isles24_zarr.errors import DestinationError, Isles24Error, Problem, SourceError, StoreDamageError, UnsafePathError
from isles24_zarr.format import PHENOTYPE, ArrayRecord, SubjectRecord
from isles24_zarr.nifti import VoxelStream, whole_file, write_nifti
from isles24_zarr.release import Stray, classified, selected_names
from isles24_zarr.store import StorePlace, committed_subjects, file_blocks, read_members, read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pandas as pd
    from distributed import Client
    from numpy.typing import NDArray

    from isles24_zarr.format import DerivativeRecord

_PARTICIPANTS: Final = "participants.tsv"
_DURATIONS: Final = [name for name, variable in vocabulary.CLINICAL.items() if variable.kind == "duration"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did.

    Parameters
    ----------
    destination
        Where it wrote.
    written, unchanged
        Number of image files written, and of those that were there already, byte for byte.
    seconds
        Time taken.
    problems
        What could not be written.
    """

    destination: str
    written: int
    unchanged: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether every image was written."""
        return not self.problems


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportTask:
    """What a worker needs to write one file: the array, and where it goes."""

    target: StorePlace
    record: ArrayRecord
    file: Path


def export(
    store: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    pipelines: Sequence[str] | None = None,
    client: Client | None = None,
    workers: int | None = None,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write the NIfTI tree of a store, resuming what an earlier run wrote.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    destination
        A folder of this machine, or one that all workers share; made if need be.
    subjects, images
        Names to write; all by default.
    pipelines
        Names of those whose results are written: by default all beside all images, and none where images are named.
        Where they are named, and images are not, they are all that is written.
    client, workers, progress, storage_options
        As for `convert`.

    Returns
    -------
    ExportReport
        An image that is damaged in the store is a problem; the others are written.

    Raises
    ------
    NotAStoreError, StoreVersionError, UnknownNameError, DestinationError
        There is nothing to export, or no place to write to: the destination may not be in the store.

    Notes
    -----
    Results of pipelines are written as derivatives of BIDS, in the axes of the file that gave their grid; what was
    added from a file, as that file, byte for byte once decompressed.

    Phenotype tables come back as one CSV per subject and session below ``phenotype/``, and as ``participants.tsv`` with
    ``participants.json`` (BIDS 1.10, Modality agnostic files) for the cohort. Rows of subjects that an earlier
    export has written there stay. A text that spreadsheet programs would compute has an apostrophe before it, which
    `convert` takes away again; ``participants.tsv`` has spaces for line breaks.

    Examples
    --------
    >>> report = isles24_zarr.export("isles24.zarr", "back", images=["ncct"], workers=1, progress=False)
    >>> report.ok, report.written
    (True, 3)
    """
    from isles24_zarr.tasks import TaskLost, completed_tasks, dask_client

    started = time.monotonic()
    target, folder = StorePlace.of(store, storage_options), Path(destination).expanduser().absolute()
    target.check_outside(folder)
    opened = target.opened(read_only=True)
    read_root(opened)
    damaged: list[tuple[str, StoreDamageError]] = []
    records = committed_subjects(opened, damaged)
    chosen = selected_names([*records, *(name for name, _ in damaged)], subjects, of=target.url)
    stored = {*vocabulary.IMAGES, *(image for record in records.values() for image in record.images)}
    wanted = selected_names(stored, images, of="the images of a release and of this store")
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        others = _other_participants(folder, records.keys() & set(chosen)) if images is pipelines is None else None
    problems = [Problem.from_error(error, subject=name) for name, error in damaged if name in chosen]
    records = {name: records[name] for name in chosen if name in records}
    tasks = list(_tasks(target, records, wanted, folder, problems)) if images or pipelines is None else []
    derived = []
    if images is None or pipelines is not None:
        derived = list(derivative_records(opened, records, pipelines, problems))
        arrays = list(derivative_arrays(derived, problems))
        tasks += [ExportTask(target=target, record=record, file=folder / file) for record, file in arrays]
        with _write_errors(folder):
            _write_descriptions(folder, derived, arrays)
    done = {True: 0, False: 0}
    if tasks:
        sizes = [task.record.file_voxel_bytes for task in tasks]
        with (
            dask_client(client, workers, target.url) as running,
            contextlib.closing(
                completed_tasks(running, export_array, tasks, sizes=sizes, title="exporting", progress=progress)
            ) as results,
        ):
            for task, result in results:
                if isinstance(result, bool):
                    done[result] += 1
                else:
                    message = result.why if isinstance(result, TaskLost) else result.message
                    path = task.record.path
                    problems.append(Problem(path=path, message=message, subject=path.split("/")[-3]))
    if others is not None:
        with _write_errors(folder):
            _write_tables(folder, records, others)
    return ExportReport(
        destination=str(folder),
        written=done[True],
        unchanged=done[False],
        seconds=time.monotonic() - started,
        problems=tuple(sorted(problems, key=lambda each: each.path)),
    )


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DestinationError(folder, f"cannot be written ({error})") from error


def _tasks(
    target: StorePlace,
    subjects: Mapping[str, SubjectRecord],
    images: Sequence[str],
    folder: Path,
    problems: list[Problem],
) -> Iterator[ExportTask]:
    """Yield a task for each image; what cannot be exported becomes a problem."""
    store = target.opened(read_only=True)
    for name, subject in subjects.items():
        try:
            members = read_members(store, name)
        except StoreDamageError as error:
            problems.append(Problem.from_error(error, subject=name))
            continue
        for path in subject.arrays:
            if path.split("/")[1] in images:
                try:
                    yield _task(target, ArrayRecord.from_document(members.get(path, {}), f"{name}/{path}"), folder)
                except (UnsafePathError, StoreDamageError) as error:
                    problems.append(Problem.from_error(error, subject=name))


def _task(target: StorePlace, record: ArrayRecord, folder: Path) -> ExportTask:
    """Make a task of an array; a store is input like any other, its paths must stay below the destination."""
    if isinstance(classified(record.source.path), Stray):
        what = f"names {record.source.path!r} as its file, which is no image of a release"
        raise UnsafePathError(record.path, what)
    return ExportTask(target=target, record=record, file=folder / record.source.path)


def export_array(task: ExportTask, topic: str) -> bool | Problem:
    """Write one file, on a worker.

    Parameters
    ----------
    task
        What to do.
    topic
        Where to tell of progress.

    Returns
    -------
    bool or Problem
        Whether it had to be written, or why it could not be.
    """
    from isles24_zarr.tasks import advance

    if _is_exported(task):
        return False

    def blocks() -> Iterator[NDArray[Any]]:
        for block in file_blocks(task.target.opened(read_only=True), task.record):
            advance(topic, block.nbytes)
            yield block

    try:
        with _write_errors(task.file):
            task.file.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(task.file, task.record.header, blocks())
    except Isles24Error as error:
        return Problem.from_error(error)
    return True


def _is_exported(task: ExportTask) -> bool:
    """Tell whether the file is there already, whole and right."""
    if not task.file.is_file():
        return False
    try:
        with task.file.open("rb") as file:
            stream = VoxelStream(file, path=task.file.name, size=task.file.stat().st_size)
            if stream.header.raw != task.record.header:
                return False
            return bool(stream.read_to_end().voxel_xxh3 == task.record.checksum)
    except SourceError:
        return False


def _write_descriptions(
    folder: Path, records: Sequence[DerivativeRecord], arrays: Sequence[tuple[ArrayRecord, str]]
) -> None:
    """Write what describes the files of pipelines."""
    texts = descriptions(records)
    texts |= {f"{file.removesuffix('.nii.gz')}.json": sidecar(record) for record, file in arrays}
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        _write_whole(folder / path, text)


def _other_participants(folder: Path, subjects: Collection[str]) -> pd.DataFrame:
    """Return the rows, as texts, of others whose files an earlier export has written: these stay.

    Raises
    ------
    DestinationError
        There is a table that no export has written.
    """
    import pandas as pd

    path = folder / _PARTICIPANTS
    if not path.exists():
        return pd.DataFrame()
    try:
        rows = pd.read_csv(path, sep="\t", dtype=str, na_filter=False, encoding="utf-8").set_index("participant_id")
    except (ValueError, KeyError) as error:
        raise DestinationError(path, f"is no table of participants ({error}); move it away") from error
    return rows[[name not in subjects and (folder / PHENOTYPE / str(name)).is_dir() for name in rows.index]]


def _write_tables(folder: Path, subjects: Mapping[str, SubjectRecord], others: pd.DataFrame) -> None:
    """Write clinical values as CSV per subject and session, and as the participants of BIDS, beside rows of others."""
    import pandas as pd

    frame = pd.DataFrame([_cells(each) for each in subjects.values()])
    frame = frame.reindex(columns=[*vocabulary.CLINICAL, *sorted(set(frame.columns) - vocabulary.CLINICAL.keys())])
    frame.index = pd.Index(list(subjects), name="participant_id")
    outcome = {name for name, variable in vocabulary.CLINICAL.items() if variable.table == vocabulary.OUTCOME}
    for session, table in vocabulary.TABLE_OF_SESSION.items():
        columns = [name for name in frame.columns if (name in outcome) == (table == vocabulary.OUTCOME)]
        headers = {name: vocabulary.CLINICAL[name].column for name in columns if name in vocabulary.CLINICAL}
        for name in subjects:
            path = folder / PHENOTYPE / name / f"ses-{session:02d}" / f"{name}_ses-{session:02d}_{table}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            row = frame.loc[[name], columns].copy()
            for column in row.columns.intersection(_DURATIONS):
                row[column] = row[column].map(_clock)
            # by default pandas puts no quotes around a lone carriage return, and rows are cut there
            text = row.rename(columns=headers).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
            _write_whole(path, text)
    # tools for TSV read line by line; the whole text is in the CSV
    lines = frame.map(lambda cell: " ".join(cell.splitlines()) if isinstance(cell, str) else cell)
    if len(others):
        lines = pd.concat([lines, others]).sort_index()
    _write_whole(folder / _PARTICIPANTS, lines.to_csv(sep="\t", na_rep="n/a"))
    described = {
        name: {"LongName": variable.long_name, **({"Units": variable.units} if variable.units else {})}
        for name, variable in vocabulary.CLINICAL.items()
    }
    _write_whole(folder / "participants.json", json.dumps(described, indent=2) + "\n")


def _cells(subject: SubjectRecord) -> dict[str, Any]:
    """Return what goes into a table: the values, and as it was what was not understood."""
    unread = {name: text for name, text in subject.clinical_unread.items() if _stays_unread(name, text)}
    cells = {**subject.clinical, **unread}
    return {name: guarded_text(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}


def _stays_unread(name: str, text: str) -> bool:
    """Tell whether a text that was not understood is not a value either: of a date as the centre, it would be one."""
    variable = vocabulary.CLINICAL.get(name)
    try:
        value_from_cell(text, variable)
    except UnreadCellError:
        return True
    return variable is None


def _clock(minutes: object) -> object:
    """Write minutes as the release does, as hours and minutes, so that the table reads as what it was."""
    if not isinstance(minutes, int | float) or math.isnan(minutes):
        return minutes
    hours, rest = divmod(round(abs(minutes) * 60_000), 3_600_000)
    whole, milliseconds = divmod(rest, 60_000)
    seconds = f":{milliseconds / 1000:06.3f}" if milliseconds else ""
    return f"{'-' if minutes < 0 else ''}{hours}:{whole:02d}{seconds}"


def _write_whole(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
