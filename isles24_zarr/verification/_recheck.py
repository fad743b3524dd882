"""One array, read again and brought back into the order of its file, and the file of the release beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from isles24_zarr.errors import DerivativeDamageError, Isles24Error, Problem, SourceError, StoreDamageError
from isles24_zarr.format import DERIVATIVES
from isles24_zarr.places import library_errors
from isles24_zarr.release import Source, SourceFile
from isles24_zarr.store import StoredVoxels
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from isles24_zarr.format import ArrayRecord, MaskValues
    from isles24_zarr.store import StorePlace

_READ_BYTES: Final = 2**20
DECODING_ERRORS: Final = (ValueError, RuntimeError, OSError, KeyError, MemoryError, Isles24Error)
"""What is damaged raises one of these."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrayTask:
    """What a worker needs to verify one image.

    Parameters
    ----------
    target
        Where the store is.
    record
        Metadata of the array, as its subject's commit has them.
    source, file
        The release to compare with, if any, and the file in it.
    lost
        Keys of shards that are known to be lost, which are not looked for again.
    fast
        Read no voxel: compare the file of the release by its SHA-256 alone.
    """

    target: StorePlace
    record: ArrayRecord
    source: Source | None
    file: SourceFile | None = None
    lost: frozenset[str] = frozenset()
    fast: bool = False


def damage(path: str, what: str) -> Problem:
    """Return the problem that something in a store is not what was written."""
    above = path.split("/")[:-1]
    kind = DerivativeDamageError if above[:1] == [DERIVATIVES] else StoreDamageError
    subjects = [part for part in above if SUBJECT_NAME.fullmatch(part)]
    return Problem.from_error(kind(path, what), subject=next(iter(subjects or above), None))


def verify_array(task: ArrayTask, topic: str) -> list[Problem]:
    """Read an image again and compare its checksum, on a worker.

    Parameters
    ----------
    task
        What to do.
    topic
        Where to tell of progress.
    """
    problems = [] if task.fast else list(_voxel_problems(task, topic))
    if task.source and task.file:
        problems += _source_problems(task, task.source, task.file)
    return problems


def _voxel_problems(task: ArrayTask, topic: str) -> Iterator[Problem]:
    """Read all shards, each by itself: one that is damaged does not hide another."""
    from isles24_zarr.tasks import advance

    digest, whole = xxhash.xxh3_128(), not task.lost
    try:
        array = StoredVoxels(task.target.opened(read_only=True), task.record)
    except DECODING_ERRORS as error:
        yield damage(task.record.path, f"cannot be read ({first_line(error)})")
        return
    for key, cut in file_order_cuts(task):
        if key in task.lost:
            continue
        try:
            for voxels in _file_order_voxels(task, array, cut):
                digest.update(voxels.data)
                advance(topic, voxels.nbytes)
        except DECODING_ERRORS as error:
            whole = False
            yield damage(f"{task.record.path}/{key}", f"cannot be read ({first_line(error)})")
    if whole and digest.hexdigest() != task.record.checksum:
        yield damage(task.record.path, "its voxels are not those that were written: the checksum differs")


def file_order_cuts(task: ArrayTask) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Yield the shards of an image, key and region, in the order in which its file has their voxels."""
    shape, shards = task.record.shape, task.record.shard_shape
    # the slowest axis of the file is the third; which canonical one that became
    axis = task.record.orientation.axes.index(2)
    slow = len(shape) - 1 - axis
    places: list[Sequence[int]] = [range(-(-count // shard)) for count, shard in zip(shape, shards, strict=True)]
    if task.record.orientation.flips[axis]:
        places[slow] = places[slow][::-1]
    for place in itertools.product(*places):
        cut = tuple(slice(at * shard, (at + 1) * shard) for at, shard in zip(place, shards, strict=True))
        yield task.record.separator.join(map(str, ("c", *place))), cut


def _file_order_voxels(task: ArrayTask, array: StoredVoxels, cut: tuple[slice, ...]) -> Iterator[NDArray[Any]]:
    """Yield the voxels of a shard as the file of the image has them, frame by frame or slab by slab.

    Yields
    ------
    numpy.ndarray
        C-contiguous, in the order and the byte order of the file.
    """
    block = array.read(cut)
    axes, flips = task.record.orientation.axes, task.record.orientation.flips
    # x, y, z of the file come from these canonical axes
    origin = [axes.index(axis) for axis in range(3)]
    turned = np.flip(block, tuple(block.ndim - 1 - axis for axis in range(3) if flips[axis]))
    ordered = np.moveaxis(turned, [block.ndim - 1 - origin[axis] for axis in (2, 1, 0)], [-3, -2, -1])
    for piece in ordered if block.ndim == 4 else [ordered]:
        yield np.ascontiguousarray(_as_stored(piece, task.record.mask, task.record.file_dtype))


def _as_stored(voxels: NDArray[Any], mask: MaskValues | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return voxels as the file stores them; those of a mask of labels through a table from label to stored value."""
    if mask is None or not mask.stored:
        return voxels.astype(dtype, casting="unsafe" if mask and mask.kind == "labels" else "equiv", copy=False)
    table = dict(zip(mask.labels, mask.stored, strict=True))
    present = np.unique(voxels).tolist()
    if unknown := [label for label in present if label not in table]:
        raise StoreDamageError("voxels", f"hold the label {unknown[0]}, which the file did not have")
    found = np.empty(voxels.shape, dtype)
    for label in present:
        found[voxels == label] = np.asarray(table[label], dtype)
    return found


def _source_problems(task: ArrayTask, source: Source, file: SourceFile) -> list[Problem]:
    """Compare a file of the release with what was recorded of it."""
    recorded = task.record.source
    path = recorded.path
    try:
        same = _sha256(source, file) == recorded.sha256
        if same and task.fast:
            return []
        if task.fast:
            what = "is not the file that was converted: its SHA-256 differs; verify without --fast tells what of it"
            return [Problem(path=path, message=what)]
        header, voxels = _decompressed_file(source, file, len(task.record.header))
    except library_errors(SourceError, zlib.error) as error:
        return [Problem(path=path, message=f"cannot be compared ({first_line(error)})")]
    problems = []
    if header != task.record.header:
        problems.append(Problem(path=path, message="its header is not the one that was converted"))
    if voxels != task.record.checksum:
        problems.append(Problem(path=path, message="its voxels are not those that were converted"))
    if not same and not problems:
        problems.append(
            Problem(path=path, message="was compressed anew; header and voxels are those that were converted")
        )
    return problems


def _sha256(source: Source, file: SourceFile) -> str:
    sha256 = hashlib.sha256()
    with source.opened(file) as opened:
        while piece := opened.read(_READ_BYTES):
            sha256.update(piece)
    return sha256.hexdigest()


def _decompressed_file(source: Source, file: SourceFile, header_bytes: int) -> tuple[bytes, str]:
    """Return the header of a file and the checksum of all that follows it."""
    voxels = xxhash.xxh3_128()
    with source.opened(file) as opened, _decompressed(opened, file.path) as plain:
        header: bytes = plain.read(header_bytes)
        while piece := plain.read(_READ_BYTES):
            voxels.update(piece)
    return header, voxels.hexdigest()


@contextlib.contextmanager
def _decompressed(file: Any, path: str) -> Iterator[Any]:
    if path.lower().endswith(".gz"):
        with gzip.GzipFile(fileobj=file) as plain:
            yield plain
    else:
        yield file


def first_line(error: BaseException) -> str:
    """Return what an error says, without what a library adds."""
    if isinstance(error, StoreDamageError):
        return error.what
    return (str(error) or type(error).__name__).splitlines()[0]
