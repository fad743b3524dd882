"""A cohort as a Dataset of Hugging Face, with the columns of the dataset card."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.cohorts.opening import cohort_target, subject_names
from isles24_zarr.cohorts.records import CLINICAL_KEYS, KEYS, cohort_records, registered_path
from isles24_zarr.errors import MissingExtraError, StoreDamageError, UnknownNameError, UnsafePathError
from isles24_zarr.format import ArrayRecord, SubjectRecord
from isles24_zarr.nifti import write_nifti
from isles24_zarr.release import Stray, classified
from isles24_zarr.store import file_blocks, read_document
from isles24_zarr.vocabulary import IMAGES, REFERENCE_SPACE

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import datasets
    import xarray as xr

    from isles24_zarr.cohorts.records import Records
    from isles24_zarr.store import StorePlace

SEXES: Final = ("F", "M")
"""Labels 0 and 1 of the column ``sex``."""


def hf_dataset(
    cohort: xr.DataTree,
    images: Sequence[str] | str | None = None,
    *,
    streaming: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    files: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> datasets.Dataset | datasets.IterableDataset:
    """Return a cohort as a Hugging Face Dataset with the schema of the dataset card.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    images
        Names; all by default. Columns of the others are left out.
    streaming
        Return an IterableDataset, which writes nothing: a row is made of the store when it is asked for. It has a shard
        for each subject, to be shared among the workers of a DataLoader.
    cache_dir
        Folder for the Arrow file that backs the Dataset, by default that of the ``datasets`` library. The same cohort
        with the same content is taken from there, not written again.
    files
        A folder to write the images to, in the tree of the release; the Dataset then names them. Without it, it holds
        them. Files that are gone are written again.
    progress
        Say on stderr how much is going to be written, and where.

    Returns
    -------
    datasets.Dataset or datasets.IterableDataset
        Columns `KEYS`: images as ``datasets.Nifti``, ``subject_id`` as string, ``sex`` as ``ClassLabel`` (`SEXES`),
        clinical values as float32, missing ones None. Images are .nii.gz whose content is that of the released file,
        byte for byte; those of space-ncct.

    Raises
    ------
    MissingExtraError
        The ``datasets`` library is not installed.
    UnknownNameError
        There is no such image.
    StoreDamageError
        An image cannot be read, or is not what was converted.

    Notes
    -----
    Subjects are written one after the other. With ``files``, memory holds one shard. Without, it holds the compressed
    images of one subject a few times over, up to some GB: Arrow takes a row as a whole.
    """
    try:
        from datasets import ClassLabel, Dataset, Features, IterableDataset, Nifti, Value
        from datasets.config import HF_DATASETS_CACHE
    except ImportError as error:
        advice = "needs the library datasets, install it by: pip install 'isles24-zarr[hf]'"
        raise MissingExtraError("a Hugging Face dataset", advice) from error

    names = tuple(IMAGES) if images is None else (images,) if isinstance(images, str) else tuple(images)
    unknown = [name for name in names if name not in IMAGES]
    if unknown or not names:
        raise UnknownNameError(repr(unknown[0] if names else names), f"is no image, there are {', '.join(IMAGES)}")
    special = {"subject_id": Value("string"), "sex": ClassLabel(names=list(SEXES)), **{name: Nifti() for name in names}}
    schema = Features(
        {key: special.get(key) or Value("float32") for key in KEYS if key in special or key in CLINICAL_KEYS}
    )
    target, subjects = cohort_target(cohort), subject_names(cohort)
    records, folder = cohort_records(cohort), None if files is None else Path(files).expanduser().absolute()
    if streaming:
        parts = [records[place : place + 1] for place in range(len(records))]
        options = {"parts": parts, "images": names, "folder": folder}
        return IterableDataset.from_generator(_streamed_rows, features=schema, gen_kwargs=options)
    documents = [_subject_record(target, subject) for subject in subjects]
    place = folder or Path(cache_dir or HF_DATASETS_CACHE).expanduser().absolute()
    if progress:
        _tell_size(place, sum(_file_bytes(document, names) for document in documents), len(subjects))
    dataset = Dataset.from_generator(
        _rows,
        features=schema,
        cache_dir=None if cache_dir is None else str(cache_dir),
        # rows by content: a store that was converted anew at the same place is not taken for the old one
        gen_kwargs={
            "records": records,
            "images": names,
            "seals": tuple(document.seal for document in documents),
            "folder": folder,
        },
        writer_batch_size=1,
    )
    if folder is not None:
        _restore_files(dataset, records, names, folder)
    return dataset


def _restore_files(dataset: datasets.Dataset, records: Records, images: Sequence[str], folder: Path) -> None:
    """Write what a Dataset names and is gone: the library takes rows from its cache, whatever became of their files."""
    for image in images:
        cells = dataset.data.column(image).to_pylist()
        for record, cell in zip(records, cells, strict=True):
            if cell is not None and not Path(cell["path"]).is_file():
                _image(records.target, record["subject_id"], image, folder)


def _tell_size(place: Path, size: int, subjects: int) -> None:
    """Say what is going to be written where: what is there already, the library alone knows."""
    there = next(parent for parent in (place, *place.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    short = ", WHICH IS MORE THAN THERE IS ROOM FOR" if size > free else ""
    print(  # noqa: T201 - before it is written
        f"unless they are there, about {size / 1e9:.1f} GB of {subjects} subjects go to {place}, where "
        f"{free / 1e9:.1f} GB are free{short}; streaming=True writes nothing",
        file=sys.stderr,
    )


def _file_bytes(subject: SubjectRecord, images: Sequence[str]) -> int:
    """Return the size of the files that the registered images of a subject were converted from."""
    space = f"space-{REFERENCE_SPACE}"
    paths = [f"{group}/{name}" for name in images for group in (space, f"{space}_desc-{name}")]
    return sum(subject.files.get(subject.arrays[path], 0) for path in paths if path in subject.arrays)


def _streamed_rows(parts: list[Records], images: tuple[str, ...], folder: Path | None) -> Iterator[dict[str, Any]]:
    for records in parts:
        yield from _rows(records, images, (), folder)


def _rows(
    records: Records,
    images: tuple[str, ...],
    seals: tuple[str | None, ...],  # noqa: ARG001 - the library takes rows of the same arguments from its cache
    folder: Path | None,
) -> Iterator[dict[str, Any]]:
    for record in records:
        subject = record["subject_id"]
        row = {key: record[key] for key in ("subject_id", *CLINICAL_KEYS)}
        yield row | {image: _image(records.target, subject, image, folder) for image in images}


def _image(target: StorePlace, subject: str, image: str, folder: Path | None) -> dict[str, Any] | None:
    """Write an image to a file; return it by its path, or by its bytes where there is no folder to keep it in."""
    path = registered_path(target, subject, image)
    if path is None:
        return None
    store = target.opened(read_only=True)
    record = ArrayRecord.from_document(_document(target, path), path)
    source = record.source.path
    if isinstance(classified(source), Stray):
        raise UnsafePathError(path, f"names {source!r} as its file, which is no image of a release")
    with tempfile.TemporaryDirectory() as temporary:
        file = (folder or Path(temporary)) / source
        file.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(file, record.header, file_blocks(store, record))
        return {"path": file.name, "bytes": file.read_bytes()} if folder is None else {"path": str(file), "bytes": None}


def _subject_record(target: StorePlace, subject: str) -> SubjectRecord:
    return SubjectRecord.from_attributes(_document(target, subject)["attributes"], subject)


def _document(target: StorePlace, path: str) -> dict[str, Any]:
    document = read_document(target.opened(read_only=True), path)
    if document is None:
        raise StoreDamageError(f"{target.url}/{path}", "is lost")
    return document
