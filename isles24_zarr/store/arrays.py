"""Arrays of a store as xarray variables, made of the documents alone: an array is opened when it is first read."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.storage import LocalStore

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format import ATTRIBUTE_KEY, check_seal, column_bytes, listed_members, recorded_of
from isles24_zarr.store.files import FileStamp, shard_status
from isles24_zarr.store.objects import read_document
from isles24_zarr.store.voxels import StoredVoxels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayRecord, GridRecord
    from isles24_zarr.store.voxels import Index

ONLY_CHUNK: Final = "c/0"
"""Key of the chunk of a coordinate, which is stored in one piece."""


class StoredArray(BackendArray):
    """One array of a store, for xarray.

    Parameters
    ----------
    store
        Where it is.
    record
        Its metadata.
    """

    def __init__(self, store: Store, record: ArrayRecord) -> None:
        self._store, self.record = store, record
        self.shape, self.dtype = record.shape, record.dtype
        self._seen = check_shards(store, record) if isinstance(store, LocalStore) else None
        self._voxels: dict[int, StoredVoxels] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was opened in the process that opened it."""
        return {**self.__dict__, "_voxels": {}}

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read."""
        if isinstance(key, indexing.VectorizedIndexer):
            return self._opened().pick(np.broadcast_arrays(*_positions(key.tuple, self.shape)))
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self.read)

    def read(self, selection: Sequence[Index]) -> NDArray[Any]:
        """Read what is selected along each axis, as it is stored; see `StoredVoxels.read`."""
        return self._opened().read(selection)

    def _opened(self) -> StoredVoxels:
        # what a parent has opened is kept in a forked child, and not used
        if os.getpid() not in self._voxels:
            self._voxels[os.getpid()] = StoredVoxels(self._store, self.record, self._seen)
        return self._voxels[os.getpid()]


def _positions(key: tuple[Any, ...], shape: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """Return positions along each axis for arrays that point at voxels: axes cut by slices come behind theirs."""
    arrays = [each for each in key if not isinstance(each, slice)]
    (ndim,) = {np.ndim(each) for each in arrays} or {0}
    cut = [axis for axis, each in enumerate(key) if isinstance(each, slice)]
    found = []
    for axis, each in enumerate(key):
        if axis in cut:
            lengths = [1] * ndim + [-1 if axis == other else 1 for other in cut]
            found.append(np.arange(*each.indices(shape[axis])).reshape(lengths))
        else:
            found.append(np.asarray(each)[(..., *[None] * len(cut))])
    return found


def image_variable(store: Store, record: ArrayRecord, grid: GridRecord) -> xr.Variable:
    """Return an image as a lazy variable, in its physical units where its header scales it.

    Parameters
    ----------
    store, record
        Where the array is, and its metadata.
    grid
        That it is on.

    Returns
    -------
    xarray.Variable
        Its encoding holds what was recorded of it, under `ATTRIBUTE_KEY`, with its ``chunk_shape`` and ``shard_shape``
        and the ``affine`` of its grid. How the values were scaled is not in there: xarray would scale back whatever
        takes their place.
    """
    attributes = dict(record.document["attributes"])
    shapes = {"chunk_shape": record.chunk_shape, "shard_shape": record.shard_shape, "affine": grid.affine}
    recorded = {**attributes.pop(ATTRIBUTE_KEY), **shapes}
    if record.affine_source != "none":
        attributes["file_orientation"] = record.orientation.file_codes
    names = record.dimension_names
    encoding = {"preferred_chunks": dict(zip(names, record.chunk_shape, strict=True)), ATTRIBUTE_KEY: recorded}
    data = indexing.LazilyIndexedArray(StoredArray(store, record))
    variable = xr.Variable(names, data, attributes, encoding, fastpath=True)
    if "scale_factor" in attributes:
        variable = xr.conventions.decode_cf_variable(record.path, variable)
        variable.encoding = encoding
    return variable


def coordinate_variable(path: str, document: Mapping[str, Any], chunk: bytes | None) -> xr.Variable:
    """Return a coordinate, in memory.

    Parameters
    ----------
    path, document
        Its name for errors, and its metadata.
    chunk
        Its only chunk, as stored.

    Raises
    ------
    StoreDamageError
        The chunk is lost or damaged.
    """
    if chunk is None:
        raise StoreDamageError(f"{path}/{ONLY_CHUNK}", "is lost")
    try:
        data = column_bytes(chunk, document)
    except (RuntimeError, ValueError) as error:
        raise StoreDamageError(f"{path}/{ONLY_CHUNK}", f"cannot be read ({error})") from error
    values = np.frombuffer(data, document["data_type"]).reshape(document["shape"])
    return xr.Variable(document["dimension_names"], values, document["attributes"])


def column_table(store: Store, path: str) -> xr.Dataset | None:
    """Read the cohort table, in memory, all of it from one document; ``None`` where there is none.

    Parameters
    ----------
    store, path
        Where its group is.

    Raises
    ------
    StoreDamageError
        It is not as it was written, or a column is missing, of another kind than its array, or of another length.
    """
    document = read_document(store, path)
    if document is None:
        return None
    members = listed_members(document, f"{store}/{path}")
    cells = recorded_of(document["attributes"]).get("columns")
    check_seal(document, f"{store}/{path}")
    if not isinstance(cells, dict) or cells.keys() != members.keys():
        raise StoreDamageError(f"{store}/{path}", "does not hold the columns that it lists")
    columns = {}
    for name, each in members.items():
        attributes = {key: value for key, value in each["attributes"].items() if key != "_FillValue"}
        columns[name] = xr.Variable(each["dimension_names"], _column(cells[name], each, f"{store}/{path}"), attributes)
    try:
        table = xr.Dataset(columns)
    except ValueError as error:
        raise StoreDamageError(f"{store}/{path}", f"has columns of different lengths ({error})") from error
    if not {"subject", "image"} <= set(table.indexes) or table.get("available", xr.DataArray()).ndim != 2:
        raise StoreDamageError(f"{store}/{path}", "is no table of subjects and their images")
    return table


def _column(cells: Any, document: Mapping[str, Any], path: str) -> NDArray[Any]:
    """Return a column of the type and shape of its array from what the document of the table lists."""
    text, kind = document["data_type"] == "string", str(document["data_type"])
    wanted: tuple[type, ...] = (str,) if text else (bool,) if kind == "bool" else (int, float, type(None))
    listed = np.array(cells, dtype=object) if isinstance(cells, list) else np.array(None)
    if not listed.size and not math.prod(document["shape"]):
        listed = listed.reshape(document["shape"])
    if list(listed.shape) != document["shape"] or any(type(cell) not in wanted for cell in listed.flat):
        raise StoreDamageError(path, "holds other columns than its arrays are")
    if text:
        return np.array(listed.tolist(), np.dtypes.StringDType()).reshape(listed.shape)
    if kind == "bool":
        return listed.astype(bool)
    return np.where(listed == None, np.nan, listed).astype(np.float64)  # noqa: E711 - element by element


def check_shards(store: LocalStore, record: ArrayRecord) -> dict[str, FileStamp]:
    """Make sure that all shards are there, whole.

    Returns
    -------
    dict
        By what each is recognized when it is read, by its key.

    Raises
    ------
    StoreDamageError
        One is lost or cut short, or cannot be looked at.
    """
    folder = f"{store.root}/{record.path}"
    return {key: FileStamp.of(shard_status(f"{folder}/{key}", size)) for key, size in record.shard_bytes.items()}
