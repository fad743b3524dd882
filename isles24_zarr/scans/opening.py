"""From a store to xarray: a scan as a Dataset on Dask."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from zarr.storage import LocalStore

from isles24_zarr.errors import (
    IncompleteStoreError,
    StaleReadError,
    StoreDamageError,
    UnknownNameError,
)
from isles24_zarr.format import (
    COORDINATES,
    DASK_CHUNK_BYTES,
    DERIVATIVES,
    MAX_SHARD_BYTES,
    PIPELINE_NAME,
    ArrayRecord,
    DerivativeRecord,
    GridRecord,
    SubjectRecord,
    committed_members,
    dask_chunks,
    pipeline_path,
    pipelines_of,
)
from isles24_zarr.geometry import voxel_numbers
from isles24_zarr.places import service_of
from isles24_zarr.store import (
    ONLY_CHUNK,
    ZARR_JSON,
    RemoteStore,
    StoredArray,
    StorePlace,
    check_version,
    child_names,
    coordinate_variable,
    document_from_bytes,
    document_stamp,
    encoded_document,
    image_variable,
    read_document,
    read_objects,
    read_root,
)
from isles24_zarr.vocabulary import IMAGES, SUBJECT_NAME

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from zarr.abc.store import Store

REMOTE_DASK_CHUNK_BYTES: Final = MAX_SHARD_BYTES
"""The same behind a URL, where every chunk costs a request: no shard is cut."""

_PLACE: Final = "isles24_zarr_place"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScanPlace:
    """Where a scan is: in the encoding of what was opened, so that results can be saved beside it.

    Parameters
    ----------
    target
        The store.
    subject, group
        Whose scan, and the name of its grid, as ``"space-ncct"``.
    """

    target: StorePlace
    subject: str
    group: str

    @classmethod
    def of(cls, target: StorePlace, subject: str, space: str) -> ScanPlace:
        """Make the place of a space, with or without ``space-`` before its name."""
        return cls(target=target, subject=subject, group=f"space-{space.removeprefix('space-')}")

    @property
    def path(self) -> str:
        """Of the group of images in the store."""
        return f"{self.subject}/{self.group}"


def scan_place(scan: xr.Dataset) -> ScanPlace:
    """Return where a scan was opened from.

    Raises
    ------
    UnknownNameError
        It was not opened by `open_scan`, or an operation has dropped where it came from.
    """
    place = scan.encoding.get(_PLACE)
    if not isinstance(place, ScanPlace):
        raise UnknownNameError("scan", "does not know its store any more; call this on a scan as open_scan gives it")
    return place


def open_scan(
    store: str | os.PathLike[str],
    subject: str,
    space: str = "ncct",
    *,
    pipeline: str | None = None,
    chunks: Any = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open all images of a subject that share a grid. No voxel is read.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    subject
        As ``"sub-stroke0001"``.
    space
        ``"ncct"`` for registered images, ``"ctp"``, ``"cta"`` ... for images as acquired. Where these lie is what their
        headers say, which does not align them with the NCCT: often they are off by some mm, now and then by more.
    pipeline
        The results that were saved under this name, on the same grid, in place of the images.
    chunks
        ``"auto"``: Dask chunks of tens of MB that never cross a shard. ``None``: no Dask, lazy NumPy. Anything else is
        for `xarray.Dataset.chunk`.
    storage_options
        For fsspec, where the store is a URL.

    Returns
    -------
    xarray.Dataset
        Images (z, y, x), series (time, z, y, x), in physical units; x to the patient's Right, y Anterior, z Superior,
        in mm along the axes of the grid: ``.isles.to_world`` gives positions in RAS mm. Masks are labels, unless they
        hold fractions. The coordinates ``i``, ``j``, ``k`` number the voxels of the whole grid along x, y, z. What was
        recorded of an image is in its ``encoding["isles24_zarr"]``, which arithmetic drops and no file takes along.

    Raises
    ------
    NotAStoreError, StoreVersionError, IncompleteStoreError, UnknownNameError
        There is no store, or it does not hold this subject, space or pipeline.
    StoreDamageError
        Part of an array is lost.

    Examples
    --------
    >>> scan = isles24_zarr.open_scan("isles24.zarr", "sub-stroke0001")
    >>> scan["ctp"].dims, scan["ctp"].dtype
    (('time', 'z', 'y', 'x'), dtype('int16'))
    """
    target = StorePlace.of(store, storage_options)
    opened = target.opened(read_only=True)
    if pipeline is not None:
        return _opened_results(target, opened, pipeline, ScanPlace.of(target, subject, space), chunks)
    place = ScanPlace.of(target, subject, space)
    group = place.path
    plain = SUBJECT_NAME.fullmatch(subject) and "/" not in space
    seen = document_stamp(opened, group) if plain and isinstance(opened, LocalStore) else None
    own, document, chunk_of = _read_at_once(target, opened, subject, group) if plain else (None, None, {})
    record = _subject_record(target, opened, subject, own)
    groups = sorted({group for groups in record.images.values() for group in groups})
    if group.removeprefix(f"{subject}/") not in groups:
        spaces = ", ".join(name.removeprefix("space-") for name in groups) or "none"
        hint = f"; {space} is an image: take it out of a scan, as scan[{space!r}]" if space in IMAGES else ""
        what = f"is not in the store, which has the spaces: {spaces}{hint}"
        raise UnknownNameError(f"{subject}, space {space!r}", what)
    if document is None:
        raise StoreDamageError(f"{target.url}/{group}/{ZARR_JSON}", "is lost")
    grid = GridRecord.from_document(document, f"{target.url}/{group}")
    scan = _dataset(place, opened, group, grid, chunk_of)
    if isinstance(opened, LocalStore) and document_stamp(opened, group) != seen:
        raise StaleReadError(f"{target.url}/{group}", "was converted again while it was opened")
    return _chunked(scan, opened, chunks, token=f"{target.url}-{group}-{record.converted}")


def _opened_results(target: StorePlace, store: Store, pipeline: str, place: ScanPlace, chunks: Any) -> xr.Dataset:
    """Open what a pipeline has of a subject on a grid: all that it is, the document of the subject says."""
    known = PIPELINE_NAME.fullmatch(pipeline) and SUBJECT_NAME.fullmatch(place.subject) and "/" not in place.group
    path = pipeline_path(pipeline, place.subject)
    group = f"{path}/{place.group}"
    seen = document_stamp(store, path) if known and isinstance(store, LocalStore) else None
    document, _, chunk_of = _read_at_once(target, store, path, group) if known else (None, None, {})
    if document is None:
        raise _no_results(target, store, pipeline, place.subject)
    record = DerivativeRecord.from_document(document, f"{target.url}/{path}")
    check_version(f"{target.url}, {path}", record.format_version)
    if place.group not in record.groups:
        spaces = ", ".join(name.removeprefix("space-") for name in record.groups) or "none"
        what = f"has no results of {pipeline!r}, which has them in the spaces: {spaces}"
        raise UnknownNameError(f"{place.subject}, space {place.group.removeprefix('space-')!r}", what)
    grid = GridRecord.from_document(record.grid_document(place.group), f"{target.url}/{group}")
    results = _dataset(place, store, group, grid, chunk_of).assign_attrs(pipeline=pipeline)
    if isinstance(store, LocalStore) and document_stamp(store, path) != seen:
        raise StaleReadError(f"{target.url}/{path}", "was saved again while it was opened")
    return _chunked(results, store, chunks, token=f"{target.url}-{group}-{record.seal}-{record.saved}")


def _no_results(target: StorePlace, store: Store, pipeline: str, subject: str) -> UnknownNameError:
    read_root(store)
    pipelines = pipelines_of(read_document(store, DERIVATIVES))
    if pipeline in pipelines:
        return UnknownNameError(f"{subject}, pipeline {pipeline!r}", f"has no results in {target.url}")
    what = f"is not in {target.url}, which has the pipelines: {', '.join(pipelines) or 'none'}"
    return UnknownNameError(f"pipeline {pipeline!r}", what)


def _dataset(
    place: ScanPlace, store: Store, group: str, grid: GridRecord, chunk_of: Mapping[str, bytes | None]
) -> xr.Dataset:
    """Return a group of arrays, lazy, without Dask."""
    coords, images = _lazy_variables(place, store, group, grid, chunk_of)
    numbers = voxel_numbers({name: coords[name].size for name in "xyz"})
    scan = xr.Dataset(images, coords | numbers, grid.attributes)
    scan.encoding |= {"source": f"{place.target.url}/{group}", _PLACE: place}
    return scan


def _chunked(scan: xr.Dataset, opened: Store, chunks: Any, *, token: str) -> xr.Dataset:
    if chunks is None:
        return scan
    numbers = [name for name in scan.coords if name in ("i", "j", "k")]
    small, scan = scan.coords.to_dataset()[numbers], scan.drop_vars(numbers)
    most = REMOTE_DASK_CHUNK_BYTES if isinstance(opened, RemoteStore) else DASK_CHUNK_BYTES
    sizes = dask_chunks(scan, most=most) if isinstance(chunks, str) and chunks == "auto" else chunks
    # what is small stays in memory
    return scan.chunk(sizes, name_prefix="isles24-", token=token).assign_coords(small.coords)


def _read_at_once(
    target: StorePlace, store: Store, subject: str, group: str
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None, Mapping[str, bytes | None]]:
    """Read, in one go, the documents of a subject and of a grid, and the one chunk of each coordinate it may have."""
    coordinates = {name: f"{group}/{name}/{ONLY_CHUNK}" for name in COORDINATES}
    own, document = f"{subject}/{ZARR_JSON}", f"{group}/{ZARR_JSON}"
    objects = read_objects(store, [own, document, *coordinates.values()])
    return (
        document_from_bytes(objects[own], path=f"{target.url}/{own}"),
        document_from_bytes(objects[document], path=f"{target.url}/{document}"),
        {name: objects[key] for name, key in coordinates.items()},
    )


def _lazy_variables(
    place: ScanPlace, store: Store, group: str, grid: GridRecord, chunk_of: Mapping[str, bytes | None]
) -> tuple[dict[str, xr.Variable], dict[str, xr.Variable]]:
    """Return coordinates, in memory, and images, lazy, of a grid and the chunks of its coordinates."""
    members, target = grid.members, place.target
    names = sorted(members.keys() - set(COORDINATES))
    if group == place.path:
        names = [*(name for name in IMAGES if name in names), *(name for name in names if name not in IMAGES)]
    coords: dict[str, xr.Variable] = {
        name: coordinate_variable(f"{target.url}/{group}/{name}", members[name], chunk_of[name])
        for name in COORDINATES
        if name in members
    }
    images = {
        name: image_variable(store, ArrayRecord.from_checked(members[name], f"{group}/{name}"), grid) for name in names
    }
    # the one string type that Zarr, netCDF and tables take alike
    coords["subject"] = xr.Variable((), np.array(place.subject, dtype=np.dtypes.StringDType()))
    return coords, images


def _subject_record(
    target: StorePlace, store: Store, subject: str, document: Mapping[str, Any] | None
) -> SubjectRecord:
    """Return what the commit of a subject recorded, from its document."""
    if document is not None and subject:
        record = SubjectRecord.from_attributes(document.get("attributes", {}), f"{target.url}/{subject}")
        check_version(f"{target.url}, {subject}", record.format_version)
        return record
    if read_root(store).state not in ("complete", "removing") and subject in child_names(store, ""):
        raise IncompleteStoreError(f"{target.url}, {subject}", "its conversion has not finished")
    hint = (
        "" if SUBJECT_NAME.fullmatch(subject) else "; names are as 'sub-stroke0001', cohort.isles.subjects lists them"
    )
    raise UnknownNameError(subject or "(no name)", f"is no subject of {target.url}{hint}")


def image_groups(target: StorePlace, subject: str) -> Mapping[str, list[str]]:
    """Return the groups that hold each image of a subject, by the image's name.

    Raises
    ------
    NotAStoreError, StoreVersionError, IncompleteStoreError, UnknownNameError
        There is no store, or it does not hold this subject.
    """
    store = target.opened(read_only=True)
    document = read_document(store, subject) if SUBJECT_NAME.fullmatch(subject) else None
    return _subject_record(target, store, subject, document).images


def stored_array(target: StorePlace, path: str) -> StoredArray:
    """Open one image as it is stored: unscaled, (z, y, x) or (time, z, y, x).

    Parameters
    ----------
    target
        The store.
    path
        Of the array in it.

    Raises
    ------
    StoreDamageError
        Part of the array is lost, or what is known of it was edited.
    """
    store = target.opened(read_only=True)
    group, _, name = path.rpartition("/")
    document = read_document(store, group)  # of which there is a seal, and none of an array alone
    members = GridRecord.from_document(document, f"{target.url}/{group}").members if document else {}
    if name not in members:
        raise StoreDamageError(f"{target.url}/{path}", "is lost")
    return StoredArray(store, ArrayRecord.from_checked(members[name], path))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrayInfo:
    """One array of a subject, with its size in memory and in the store."""

    group: str
    image: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    nbytes: int
    stored_bytes: int


def described_arrays(
    store: str | os.PathLike[str], subject: str, *, storage_options: Mapping[str, Any] | None = None
) -> list[ArrayInfo]:
    """Return what a subject's group holds.

    Parameters
    ----------
    store, subject, storage_options
        As for `open_scan`, whose errors it raises.
    """
    target = StorePlace.of(store, storage_options)
    opened = target.opened(read_only=True)
    document = read_document(opened, subject) if SUBJECT_NAME.fullmatch(subject) else None
    record = _subject_record(target, opened, subject, document)
    members = committed_members(document or {}, subject)
    return [_array_info(ArrayRecord.from_document(members[path], f"{subject}/{path}")) for path in record.arrays]


def _array_info(record: ArrayRecord) -> ArrayInfo:
    _, group, image = record.path.split("/")
    return ArrayInfo(
        group=group,
        image=image,
        shape=record.shape,
        dtype=str(record.dtype),
        chunks=record.chunk_shape,
        shards=record.shard_shape,
        nbytes=math.prod(record.shape) * record.dtype.itemsize,
        stored_bytes=sum(record.shard_bytes.values()) + len(encoded_document(record.document)),
    )


def read_path(store: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> str:
    """Say what reads the images of a store.

    Parameters
    ----------
    store, storage_options
        As for `open_scan`.
    """
    opened = StorePlace.of(store, storage_options).opened(read_only=True)
    if isinstance(opened, RemoteStore):
        files = getattr(opened.fs, "sync_fs", opened.fs)
        library = "obstore" if service_of(opened.url) else f"{type(files).__name__} of fsspec"
        return f"TensorStore, in merged ranges through {library}"
    if isinstance(opened, LocalStore):
        return "TensorStore, from shards of this machine"
    return f"TensorStore, in merged ranges through {opened}"
