"""Stored voxels in the order of the file that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format import blocks_of_array, stored_from_labels
from isles24_zarr.geometry import file_from_canonical
from isles24_zarr.store.arrays import StoredArray
from isles24_zarr.store.objects import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.format import ArrayRecord
    from isles24_zarr.geometry import Orientation


def file_blocks(store: Store, record: ArrayRecord) -> Iterator[NDArray[Any]]:
    """Yield the voxels of an array as its file has them.

    Parameters
    ----------
    store, record
        Where the array is, and its metadata.

    Yields
    ------
    numpy.ndarray
        C-contiguous, (z, y, x) or (t, z, y, x) in the order and the byte order of the file; one shard each.

    Raises
    ------
    StoreDamageError
        A block cannot be read, or, after the last one, the checksum is not the one that was recorded.
    """
    checksum = xxhash.xxh3_128()
    for voxels in _blocks(store, record):
        checksum.update(voxels.data)
        yield voxels
    if checksum.hexdigest() != record.checksum:
        raise StoreDamageError(record.path, "its voxels are not those that were written: the checksum differs")


def voxel_checksum(store: Store, record: ArrayRecord) -> str:
    """Return the XXH3-128 of the voxels of an array as a file has them, whatever was recorded of them.

    Raises
    ------
    StoreDamageError
        A block cannot be read.
    """
    checksum = xxhash.xxh3_128()
    for voxels in _blocks(store, record):
        checksum.update(voxels.data)
    return checksum.hexdigest()


def _blocks(store: Store, record: ArrayRecord) -> Iterator[NDArray[Any]]:
    array = StoredArray(store, record)
    for block in blocks_of_array(record.shape, record.shard_shape, record.orientation):
        with reading(record.path):
            voxels = array.read(block.region)
        voxels = np.ascontiguousarray(file_from_canonical(voxels, record.orientation))
        yield np.ascontiguousarray(_as_in_file(voxels, record))


def _as_in_file(voxels: NDArray[Any], record: ArrayRecord) -> NDArray[Any]:
    """Return voxels as the file has them, of a mask that is stored as labels, too."""
    try:
        if record.mask is None or record.mask.kind != "labels":
            return voxels.astype(record.file_dtype, casting="equiv", copy=False)
        return stored_from_labels(voxels, record.mask, record.file_dtype)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise StoreDamageError(record.path, f"its voxels are not what its record says ({error})") from error


def file_voxels(
    array: StoredArray, index: Sequence[int | slice | None], shape: tuple[int, ...], orientation: Orientation
) -> NDArray[Any]:
    """Read a part of an image as its file has it, and no more than that from the store.

    Parameters
    ----------
    array
        Canonical, (z, y, x) or (time, z, y, x).
    index
        For each axis of the file a whole number from 0 on or a slice; None makes a new axis.
    shape
        Of the file, (x, y, z, ...), of whose further axes one at most is longer than 1.
    orientation
        How the file's axes became the array's.

    Returns
    -------
    numpy.ndarray
        What ``index`` makes of an array in the shape of the file.
    """
    picks = [cut for cut in index if cut is not None]
    spans = [
        range(count)[cut] if isinstance(cut, slice) else range(cut, cut + 1)
        for cut, count in zip(picks, shape, strict=True)
    ]
    lengths = [len(span) for span in spans]
    volume = []
    for axis, flip in zip(orientation.axes, orientation.flips, strict=True):
        last = shape[axis] - 1
        span = spans[axis]
        volume.append(range(last - span.start, last - span.stop, -span.step) if flip else span)
    series = [next((span for span, count in zip(spans[3:], shape[3:], strict=True) if count > 1), range(1))]
    wanted = [*series[: array.ndim - 3], *reversed(volume)]
    if 0 in lengths:
        turned = np.empty(lengths, array.dtype)
    else:
        # regions go upwards: what runs down is read upwards and turned
        block = array.read(tuple(_upwards(span) for span in wanted))
        block = block[tuple(slice(None, None, -1 if span.step < 0 else None) for span in wanted)]
        places = [block.ndim - 1 - orientation.axes.index(axis) for axis in range(3)]
        turned = block.transpose(*places, *range(block.ndim - 3)).reshape(lengths, order="F")
    return np.asarray(turned[tuple(0 if isinstance(c, int) else c if c is None else slice(None) for c in index)])


def _upwards(span: range) -> slice:
    first, last = sorted((span[0], span[-1]))
    return slice(first, last + 1, abs(span.step))
