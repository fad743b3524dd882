"""From a store to xarray: a scan as a Dataset on Dask."""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from zarr.storage import LocalStore

from isles24_zarr.access import OBSTORE
from isles24_zarr.arrays import (
    ONLY_CHUNK,
    StoredArray,
    chunk_shapes,
    coordinate_variable,
    image_variable,
)
from isles24_zarr.chunking import MAX_SHARD_BYTES
from isles24_zarr.documents import checked_group, checked_record
from isles24_zarr.errors import (
    GeometryError,
    IncompleteStoreError,
    StaleReadError,
    StoreDamageError,
    UnknownNameError,
)
from isles24_zarr.grid import Grid, file_from_canonical, grid_from_coordinates, voxel_from_world
from isles24_zarr.layout import KEY, recorded_orientation
from isles24_zarr.objects import (
    DOCUMENT,
    Target,
    child_names,
    document_from_bytes,
    document_stamp,
    encoded_document,
    read_document,
    read_objects,
    read_root,
)
from isles24_zarr.release import SUBJECT_NAME
from isles24_zarr.remote import RemoteStore
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import nibabel as nib
    from numpy.typing import ArrayLike, NDArray
    from zarr.abc.store import Store

DASK_CHUNK_BYTES: Final = 64 * 10**6
"""How large a Dask chunk may be: far above the cost of a task, far below the memory of a worker."""

REMOTE_DASK_CHUNK_BYTES: Final = MAX_SHARD_BYTES
"""The same behind a URL, where every chunk costs a request: no shard is cut."""

COORDINATES: Final = ("time", "z", "y", "x")


def open_scan(
    store: str | os.PathLike[str],
    subject: str,
    space: str = "ncct",
    *,
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
        ``"ncct"`` for registered images, ``"ctp"``, ``"cta"`` ... for images as acquired.
    chunks
        ``"auto"``: Dask chunks of tens of MB that never cross a shard. ``None``: no Dask, lazy NumPy. Anything else is
        for `xarray.Dataset.chunk`.
    storage_options
        For fsspec, where the store is a URL.

    Returns
    -------
    xarray.Dataset
        Images (z, y, x), series (time, z, y, x); x to the patient's Right, y Anterior, z Superior. Position in RAS mm
        is ``direction @ (x, y, z)``. See ``.isles`` for geometry and volumes.

    Raises
    ------
    NotAStoreError, StoreVersionError, IncompleteStoreError, UnknownNameError
        There is no store, or it does not hold this subject or space.
    StoreDamageError
        Part of an array is lost.
    """
    target = Target.of(store, storage_options)
    opened = target.opened(read_only=True)
    group = f"{subject}/space-{space.removeprefix('space-')}"
    # all at once, as far as it is known what there is to read
    coordinates = {name: f"{group}/{name}/{ONLY_CHUNK}" for name in COORDINATES}
    documents = {path: f"{path}/{DOCUMENT}" for path in (subject, group)}
    plain = SUBJECT_NAME.fullmatch(subject) and "/" not in space
    seen = document_stamp(opened, group) if plain and isinstance(opened, LocalStore) else None
    objects = read_objects(opened, [*documents.values(), *coordinates.values()]) if plain else {}
    own, document = (
        document_from_bytes(objects.get(key), path=f"{target.url}/{key}", members=path == group)
        for path, key in documents.items()
    )
    record = _subject_record(target, opened, subject, own)
    groups = sorted({group for groups in record["images"].values() for group in groups})
    if group.removeprefix(f"{subject}/") not in groups:
        spaces = ", ".join(name.removeprefix("space-") for name in groups) or "none"
        raise UnknownNameError(f"{subject}, space {space!r}", f"is not in the store, which has the spaces: {spaces}")
    if document is None:
        raise StoreDamageError(f"{target.url}/{documents[group]}", "is lost")
    members = checked_group(document, f"{target.url}/{group}")
    coords = {
        name: coordinate_variable(f"{target.url}/{group}/{name}", members[name], objects[key])
        for name, key in coordinates.items()
        if name in members
    }
    images = {}
    for name in IMAGES:
        if name in members:
            images[name] = image_variable(opened, f"{group}/{name}", members[name])
    attributes = {name: value for name, value in document["attributes"].items() if name != KEY}
    scan = xr.Dataset(images, coords, {**attributes, "subject": subject})
    scan.encoding["source"] = f"{target.url}/{group}"
    if isinstance(opened, LocalStore) and document_stamp(opened, group) != seen:
        raise StaleReadError(f"{target.url}/{group}", "was converted again while it was opened")
    if chunks is None:
        return scan
    token = f"{target.url}-{group}-{record['times']['converted']}"
    most = REMOTE_DASK_CHUNK_BYTES if isinstance(opened, RemoteStore) else DASK_CHUNK_BYTES
    sizes = dask_chunks(scan, most=most) if isinstance(chunks, str) and chunks == "auto" else chunks
    return scan.chunk(sizes, name_prefix="isles24-", token=token)


def _subject_record(target: Target, store: Store, subject: str, document: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the commit of a subject recorded, from its document."""
    record: dict[str, Any] = (document or {}).get("attributes", {}).get(KEY, {})
    if document is not None and subject:
        checked_record(document.get("attributes", {}), f"{target.url}/{subject}")
        return record
    attributes = read_root(store)
    if attributes.get("state") != "complete" and subject in child_names(store, ""):
        raise IncompleteStoreError(f"{target.url}, {subject}", "its conversion has not finished")
    raise UnknownNameError(subject or "(no name)", f"is no subject of {target.url}")


def _subject_document(target: Target, store: Store, subject: str) -> dict[str, Any]:
    document = read_document(store, subject) if SUBJECT_NAME.fullmatch(subject) else None
    _subject_record(target, store, subject, document)
    return document or {}


def image_groups(target: Target, subject: str) -> dict[str, list[str]]:
    """Return the groups that hold each image of a subject, by the image's name.

    Raises
    ------
    NotAStoreError, StoreVersionError, IncompleteStoreError, UnknownNameError
        There is no store, or it does not hold this subject.
    """
    return dict(_subject_document(target, target.opened(read_only=True), subject)["attributes"][KEY]["images"])


def stored_array(target: Target, path: str) -> StoredArray:
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
        Part of the array is lost.
    """
    store = target.opened(read_only=True)
    document = read_document(store, path)
    if document is None:
        raise StoreDamageError(f"{target.url}/{path}", "is lost")
    return StoredArray(store, path, document)


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
    target = Target.of(store, storage_options)
    opened = target.opened(read_only=True)
    document = _subject_document(target, opened, subject)
    members = document["consolidated_metadata"]["metadata"]
    return [_array_info(path, members[path]) for path in document["attributes"][KEY]["arrays"]]


def _array_info(path: str, document: Mapping[str, Any]) -> ArrayInfo:
    group, image = path.split("/")
    chunks, shards = chunk_shapes(document)
    dtype, shape = np.dtype(document["data_type"]), tuple(document["shape"])
    return ArrayInfo(
        group=group,
        image=image,
        shape=shape,
        dtype=str(dtype),
        chunks=chunks,
        shards=shards,
        nbytes=math.prod(shape) * dtype.itemsize,
        stored_bytes=sum(document["attributes"][KEY]["shards"].values()) + len(encoded_document(document)),
    )


def read_path(store: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> str:
    """Say what reads the images of a store.

    Parameters
    ----------
    store, storage_options
        As for `open_scan`.
    """
    opened = Target.of(store, storage_options).opened(read_only=True)
    if isinstance(opened, RemoteStore):
        files = getattr(opened.fs, "sync_fs", opened.fs)
        library = "obstore" if opened.url.startswith(OBSTORE) else f"{type(files).__name__} of fsspec"
        return f"zarr-python, in merged ranges through {library}"
    if isinstance(opened, LocalStore):
        return "threads that unpack shards of this machine"
    return f"zarr-python, through {opened}"


def dask_chunks(scan: xr.Dataset, *, most: int = DASK_CHUNK_BYTES) -> dict[str, int]:
    """Choose Dask chunks for the arrays of a scan, the same for all so that they combine without rechunking.

    Parameters
    ----------
    scan
        As it comes from Zarr, with the chunks and shards of its arrays in their encoding.
    most
        Bytes of a chunk of the largest array.

    Returns
    -------
    dict
        By dimension: multiples of the stored chunks that never cross a shard, of up to ``most`` bytes for the largest
        array. Planes stay whole as long as possible: it is along z and then along time that arrays are cut.
    """
    arrays = [array for array in scan.data_vars.values() if array.encoding.get("chunks")]
    unit: dict[str, int] = {}
    cuts: dict[str, int] = {}
    for array in arrays:
        stored = zip(array.dims, array.encoding["chunks"], array.encoding["shards"], array.shape, strict=True)
        for dim, chunk, shard, count in stored:
            name = str(dim)
            unit[name] = math.lcm(unit.get(name, 1), chunk)
            if shard < count:
                cuts[name] = math.gcd(cuts.get(name, 0), shard)
    sizes = {name: cuts.get(name, math.ceil(scan.sizes[name] / unit[name]) * unit[name]) for name in unit}

    def largest() -> int:
        return max(math.prod(sizes[str(dim)] for dim in each.dims) * each.dtype.itemsize for each in arrays)

    for name in ("z", "time", "y", "x"):
        units = sizes.get(name, 0) // unit.get(name, 1)
        if units:
            wanted = min(units, max(1, units * most // largest()))
            # between two cuts, only a divisor keeps later chunks from crossing one
            fitting = wanted if name not in cuts else max(n for n in range(1, wanted + 1) if units % n == 0)
            sizes[name] = fitting * unit[name]
    return sizes


def scan_grid(scan: xr.Dataset | xr.DataArray) -> Grid:
    """Return the grid of a scan or image, whatever part of it is left.

    Parameters
    ----------
    scan
        With the coordinates x, y and z of a store.

    Raises
    ------
    GeometryError
        A coordinate is gone, or what is left of it is not evenly spaced.
    """
    missing = [name for name in "xyz" if name not in scan.coords]
    if missing:
        raise GeometryError(_name_of(scan), f"has no coordinate {', '.join(missing)}")
    axes = [scan.coords[name] for name in "xyz"]
    try:
        direction = np.column_stack([axis.attrs["direction"] for axis in axes])
        spacing = [axis.attrs["spacing"] for axis in axes]
        return grid_from_coordinates(
            {name: axis.values for name, axis in zip("xyz", axes, strict=True)}, direction=direction, spacing=spacing
        )
    except KeyError as error:
        raise GeometryError(_name_of(scan), f"its coordinates have lost the attribute {error}") from None
    except ValueError as error:
        raise GeometryError(_name_of(scan), str(error)) from None


def nearest_voxels(scan: Any, positions: ArrayLike) -> Any:
    """Select the voxels nearest to positions in physical space.

    Parameters
    ----------
    scan
        A Dataset or DataArray with the coordinates and dimensions x, y and z.
    positions
        (3,) or (n, 3), RAS in mm.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        At one voxel, or over ``point``.

    Raises
    ------
    GeometryError
        A position lies outside of the volume.
    """
    grid = scan_grid(scan)
    wanted = np.asarray(positions, dtype=np.float64)
    if wanted.ndim not in (1, 2) or wanted.shape[-1] != 3:
        raise GeometryError(_name_of(scan), f"positions must be (3,) or (n, 3), not {wanted.shape}")
    voxels = np.rint(voxel_from_world(grid.affine, wanted)).astype(np.int64)
    outside = ((voxels < 0) | (voxels >= grid.shape)).any(axis=-1)
    if outside.any():
        first = wanted.reshape(-1, 3)[np.flatnonzero(outside)[0]].tolist()
        raise GeometryError(_name_of(scan), f"does not reach the position {first} mm")
    dims = () if wanted.ndim == 1 else ("point",)
    # an axis that was reduced to one voxel has a coordinate, but is no dimension any more
    indexers = {name: xr.Variable(dims, voxels[..., axis]) for axis, name in enumerate("xyz") if name in scan.dims}
    return scan.isel(indexers)


def nifti_image(image: xr.DataArray) -> nib.Nifti1Image | nib.Nifti2Image:
    """Return an image of a scan, or any part of it, for nibabel.

    Parameters
    ----------
    image
        (z, y, x) or (time, z, y, x), with the coordinates x, y and z of a store. It is loaded.

    Returns
    -------
    nibabel image
        Of a whole image that is not scaled: the header, axes and voxels of its file. Of anything else: the values as
        they are, in canonical orientation, with the affine of what is left.

    Raises
    ------
    GeometryError
        A spatial axis or its coordinate is gone.
    """
    import nibabel as nib

    grid = scan_grid(image)
    missing = [name for name in "zyx" if name not in image.dims]
    if missing:
        raise GeometryError(_name_of(image), f"has no axis {', '.join(missing)}; select a slice of one, as z=[5]")
    values = np.asarray(image.transpose(..., "z", "y", "x").values)
    ours = image.attrs.get(KEY)
    if ours is None or "scale_factor" in image.encoding or not _is_whole(grid, values, ours):
        return nib.Nifti1Image(values.T, grid.affine)
    orientation = recorded_orientation(ours)
    voxels = np.ascontiguousarray(file_from_canonical(values, orientation), ours["file_dtype"])
    header = base64.b64decode(ours["header"])
    kind = nib.Nifti1Image if len(header) < 544 or header[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c") else nib.Nifti2Image
    return kind.from_bytes(header + voxels.tobytes())


def _is_whole(grid: Grid, values: NDArray[Any], ours: Mapping[str, Any]) -> bool:
    x, y, z, *frames = ours["file_shape"]
    file_volume = np.array([x, y, z])[ours["orientation"]["axes"]]
    whole = math.prod(frames) * math.prod(file_volume) == values.size and grid.shape == tuple(file_volume.tolist())
    return whole and bool((np.diag(grid.affine[:3, :3]) > 0).all())


def _name_of(scan: xr.Dataset | xr.DataArray) -> str:
    name = getattr(scan, "name", None) or scan.attrs.get("subject")
    return str(name or type(scan).__name__)
