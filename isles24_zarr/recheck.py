"""One array, decoded and turned back by a path that shares no voxel code with the writer."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import math
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash
import zarr
from zarr.storage import LocalStore, StorePath
from zarrs import ZarrsCodecPipeline

from isles24_zarr.access import library_errors
from isles24_zarr.errors import Problem, SourceError, StoreDamageError
from isles24_zarr.layout import KEY
from isles24_zarr.objects import Target
from isles24_zarr.ranges import RangeReads
from isles24_zarr.release import SourceFile
from isles24_zarr.remote import RemoteStore
from isles24_zarr.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from zarr.abc.store import Store

_READ_BYTES: Final = 2**20
DECODING_ERRORS: Final = (ValueError, RuntimeError, OSError, KeyError, StoreDamageError)
"""What zarr-python, zarrs and their codecs raise of damaged data."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrayTask:
    """What a worker needs to verify one image.

    Parameters
    ----------
    target
        Where the store is.
    path
        Of the array.
    document
        Its metadata, as its subject's commit has them.
    source
        The release to compare with, if any.
    """

    target: Target
    path: str
    document: Mapping[str, Any]
    source: Source | None

    @property
    def ours(self) -> dict[str, Any]:
        """What the conversion recorded of the array."""
        recorded: dict[str, Any] = self.document["attributes"][KEY]
        return recorded

    @property
    def nbytes(self) -> int:
        """Bytes of voxels."""
        return int(math.prod(self.document["shape"]) * np.dtype(self.ours["file_dtype"]).itemsize)


def damage(path: str, what: str) -> Problem:
    """Return the problem that something in a store is not what was written."""
    return Problem.from_error(
        StoreDamageError(path, what), subject=path.split("/", maxsplit=1)[0] if "/" in path else None
    )


def verify_array(task: ArrayTask, topic: str) -> list[Problem]:
    """Read an image again and compare its checksum, on a worker.

    Parameters
    ----------
    task
        What to do.
    topic
        Where to tell of progress.
    """
    from isles24_zarr.cluster import advance

    problems = []
    digest = xxhash.xxh3_128()
    try:
        for voxels in file_order_voxels(task):
            digest.update(voxels.data)
            advance(topic, voxels.nbytes)
        if digest.hexdigest() != task.ours["checksum"]["value"]:
            problems.append(damage(task.path, "its voxels are not those that were written: the checksum differs"))
    except DECODING_ERRORS as error:
        problems.append(damage(task.path, f"cannot be read ({first_line(error)})"))
    if task.source:
        problems += _source_problems(task, task.source)
    return problems


def file_order_voxels(task: ArrayTask) -> Iterator[NDArray[Any]]:
    """Yield the voxels of an image as its file has them, frame by frame or slab by slab.

    Yields
    ------
    numpy.ndarray
        C-contiguous, in the order and the byte order of the file.
    """
    array = _opened_array(task.target.opened(read_only=True), task)
    axes, flips = task.ours["orientation"]["axes"], task.ours["orientation"]["flips"]
    dtype = np.dtype(task.ours["file_dtype"])
    shards = task.document["chunk_grid"]["configuration"]["chunk_shape"]
    # x, y, z of the file come from these canonical axes
    origin = [axes.index(axis) for axis in range(3)]
    slow = array.ndim - 1 - origin[2]
    starts = list(range(0, array.shape[slow], shards[slow]))
    if flips[origin[2]]:
        starts.reverse()
    frames = range(0, array.shape[0], shards[0]) if array.ndim == 4 else [None]
    for frame in frames:
        for start in starts:
            cut = [slice(None)] * array.ndim
            cut[slow] = slice(start, start + shards[slow])
            if frame is not None:
                cut[0] = slice(frame, frame + shards[0])
            block = np.asarray(array[tuple(cut)])
            turned = np.flip(block, tuple(array.ndim - 1 - axis for axis in range(3) if flips[axis]))
            ordered = np.moveaxis(turned, [array.ndim - 1 - origin[axis] for axis in (2, 1, 0)], [-3, -2, -1])
            for piece in ordered if array.ndim == 4 else [ordered]:
                yield np.ascontiguousarray(piece, dtype=dtype)


def _opened_array(store: Store, task: ArrayTask) -> zarr.Array[Any]:
    array = zarr.open_array(StorePath(store, task.path), mode="r", zarr_format=3)
    metadata: Any = array.metadata
    pipeline: Any = None
    if isinstance(store, LocalStore):
        pipeline = ZarrsCodecPipeline.from_array_metadata_and_store(metadata, store)
    else:
        pipeline = RangeReads.of_array(metadata.codecs, task.path, task.document)
    if pipeline is not None:
        object.__setattr__(array.async_array, "codec_pipeline", pipeline)
    return array


def _source_problems(task: ArrayTask, source: Source) -> list[Problem]:
    """Compare a file of the release with what was recorded of it."""
    recorded = task.ours["source"]
    path = recorded["path"]
    file = SourceFile(path=path, size=recorded["size"], stamp="")
    sha256, voxels = hashlib.sha256(), xxhash.xxh3_128()
    try:
        with source.opened(file) as opened:
            while piece := opened.read(_READ_BYTES):
                sha256.update(piece)
        with source.opened(file) as opened, _unpacked(opened, path) as plain:
            header = plain.read(len(base64.b64decode(task.ours["header"])))
            while piece := plain.read(_READ_BYTES):
                voxels.update(piece)
    except library_errors(SourceError, zlib.error) as error:
        return [Problem(path=path, message=f"cannot be compared ({first_line(error)})")]
    problems = []
    if header != base64.b64decode(task.ours["header"]):
        problems.append(Problem(path=path, message="its header is not the one that was converted"))
    if voxels.hexdigest() != task.ours["checksum"]["value"]:
        problems.append(Problem(path=path, message="its voxels are not those that were converted"))
    if sha256.hexdigest() != recorded["sha256"] and not problems:
        problems.append(Problem(path=path, message="was packed anew; header and voxels are those that were converted"))
    return problems


@contextlib.contextmanager
def _unpacked(file: Any, path: str) -> Iterator[Any]:
    if path.lower().endswith(".gz"):
        with gzip.GzipFile(fileobj=file) as plain:
            yield plain
    else:
        yield file


def first_line(error: BaseException) -> str:
    """Return what an error says, without what a library adds."""
    return (str(error) or type(error).__name__).splitlines()[0]
