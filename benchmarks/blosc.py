"""Readers of Blosc2's b2nd arrays, which are partitioned twice: by Blosc2 itself, as nnU-Net does, and in small blocks.

A chunk is what is compressed and indexed together, a block of it what is decompressed for a voxel.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import zarr

from benchmarks.readers import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.readers import Fetch

    Partition = tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    """Shapes of chunks and of blocks; ``None`` leaves both to Blosc2."""

NNUNET_PATCH: Final = (96, 96, 96)
_BLOCK_BYTES: Final = 128 * 1024
_CHUNK_BYTES: Final = 6 * 1024**2
_CHUNK_OF_PATCH: Final = 1.5
_SMALL: Final = {
    4: ((1, 16, 256, 256), (1, 8, 64, 64)),
    3: ((32, 128, 128), (16, 32, 32)),
}
"""Chunks and blocks of series and volumes."""


class _B2nd(Reader):
    order = "canonical"
    needs = ("blosc2",)

    @abstractmethod
    def partition(self, shape: tuple[int, ...], itemsize: int) -> Partition:
        """Return the chunks and the blocks of an array (time, z, y, x) or (z, y, x)."""

    def compression(self, array: Any, partition: Partition) -> dict[str, Any]:  # noqa: ARG002 - some try it out
        """Return codec, level and filters: those of our store."""
        import blosc2

        return {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE]}

    def path_of(self, name: str) -> Path:
        return self.folder / f"{name}.b2nd"

    def paths_of(self, image: str) -> list[Path]:
        return [self.path_of(image)]

    def prepare(self) -> None:
        import blosc2

        for name in self.reference.files:
            array: Any = zarr.open_array(self.reference.array_path(name), mode="r")
            chunks, blocks = self.partition(array.shape, array.dtype.itemsize)
            target = blosc2.empty(
                array.shape,
                array.dtype,
                chunks=chunks,
                blocks=blocks,
                cparams=self.compression(array, (chunks, blocks)),
                urlpath=str(self.path_of(name)),
                mode="w",
            )
            # a chunk that is written twice leaves a hole in the file
            for start in range(0, array.shape[0], target.chunks[0]):
                target[start : start + target.chunks[0]] = array[start : start + target.chunks[0]]

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        arrays = {name: opened_b2nd(self.path_of(name), self.threads) for name in images}
        yield lambda name, index: arrays[name][index]
        arrays.clear()  # unmaps the files, whose pages could not be dropped from the cache else


def opened_b2nd(path: Path, threads: int) -> Any:
    """Open an array as nnU-Net does: mapped into memory."""
    import blosc2

    blosc2.set_nthreads(threads)
    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": threads})


class B2ndDefault(_B2nd):
    """Blosc2's own choice: blocks of whole rows, in chunks that suit the caches of this processor."""

    name = "b2nd, own partition"
    how = 'blosc2.open("ctp.b2nd", mmap_mode="r")[t, z], written by blosc2.asarray(..., cparams=zstd 1 + shuffle)'

    def partition(self, shape: tuple[int, ...], itemsize: int) -> Partition:  # noqa: ARG002 - left to Blosc2
        return None, None


class B2ndSmallBlocks(_B2nd):
    """One partition of small blocks for all reads: the quickest of nine by the weighted mean.

    Blocks of several frames are quicker for curves, and cost a single frame more than that saves.
    """

    name = "b2nd, small blocks"
    how = (
        "the same, with blocks of (1, 8, 64, 64) in chunks of (1, 16, 256, 256), volumes (16, 32, 32) in (32, 128, 128)"
    )

    def partition(self, shape: tuple[int, ...], itemsize: int) -> Partition:  # noqa: ARG002 - for all types
        chunks, blocks = _SMALL[len(shape)]
        return tuple(map(min, shape, chunks)), tuple(map(min, shape, blocks))


class B2ndNnUNet(_B2nd):
    """nnU-Net's preprocessed arrays: its partition for patches of 96^3 and its compression, in the file's own type.

    Its arrays have channels first, (c, z, y, x), each in chunks of its own: so the frames of a series here.
    """

    name = "b2nd, nnU-Net's partition"
    how = (
        "the same, with nnunetv2's comp_blosc2_params((t, z, y, x), (96, 96, 96)), LZ4HC 5, the smaller of two filters"
    )

    def partition(self, shape: tuple[int, ...], itemsize: int) -> Partition:
        chunks, blocks = nnunet_partition((1, *shape)[-4:], itemsize)
        return chunks[-len(shape) :], blocks[-len(shape) :]

    def compression(self, array: Any, partition: Partition) -> dict[str, Any]:
        chunks, blocks = partition
        return nnunet_compression(array, chunks or array.shape, blocks)


def nnunet_partition(
    shape: Sequence[int], itemsize: int, patch: Sequence[int] = NNUNET_PATCH
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return chunks and blocks by the rule of nnU-Net 2.8, `comp_blosc2_params`.

    Parameters
    ----------
    shape
        (c, z, y, x).
    itemsize
        Bytes of a voxel.
    patch
        (z, y, x), what the network is trained on.

    Returns
    -------
    tuple
        Shapes of chunks and of blocks, (c, z, y, x). Blocks are powers of two that cover a patch, halved along the
        axis with the largest share of it until they hold at most 128 KiB; chunks grow by blocks, along the axis with
        the smallest share, to at most 6 MiB and one and a half patches.
    """
    counts = list(shape[1:])
    most = [min(count, int(_CHUNK_OF_PATCH * size)) for count, size in zip(counts, patch, strict=True)]
    block = [min(1 << (size - 1).bit_length(), count) for count, size in zip(counts, patch, strict=True)]
    while math.prod(block) * itemsize > _BLOCK_BYTES:
        _, axis = max((size / most[axis], axis) for axis, size in enumerate(block) if size > 1)
        block[axis] = 1 << ((block[axis] - 1).bit_length() - 1)  # the next lower power of two
    chunk = list(block)
    while True:
        larger = []
        for axis, limit in enumerate(most):
            grown = [*chunk[:axis], min(chunk[axis] + block[axis], limit), *chunk[axis + 1 :]]
            if chunk[axis] < limit and math.prod(grown) * itemsize <= _CHUNK_BYTES:
                larger.append((chunk[axis] / limit, -counts[axis], axis, grown))
        if not larger:
            return (1, *chunk), (1, *block)
        *_, chunk = min(larger)


def nnunet_compression(array: Any, chunks: Sequence[int], blocks: Sequence[int] | None) -> dict[str, Any]:
    """Return nnU-Net's compression: with the shuffle or without, whichever makes the chunk in the middle smaller."""
    import blosc2

    starts = [(count - size) // 2 for count, size in zip(array.shape, chunks, strict=True)]
    middle = array[tuple(slice(start, start + size) for start, size in zip(starts, chunks, strict=True))]

    def parameters(chosen: Any) -> dict[str, Any]:
        return {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [chosen]}

    def stored(chosen: Any) -> int:
        array = blosc2.asarray(middle, chunks=middle.shape, blocks=blocks, cparams=parameters(chosen))
        return int(array.schunk.cbytes)

    return parameters(min((blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE), key=stored))


B2ND: Final = (B2ndSmallBlocks, B2ndDefault, B2ndNnUNet)
