"""Shards, encoded by threads while the file is read on.

The format is Zarr's codec ``sharding_indexed`` (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed):
encoded chunks, one after the other, then the index, offset and length of each as unsigned 64-bit numbers, both 2^64 - 1
for a chunk that is not there, and a CRC-32C. Chunks are in C order, so that those of an axial slice are neighbours and
come in one read; zarr-python would write them along a curve, with one thread and several copies of the shard.

A chunk is packed by Blosc, and around that by Zstandard, which stores Blosc's bytes as they are with a checksum that
any decoder verifies. A CRC-32C would do the same, if all readers looked at it: zarrs does not when it decodes part of a
shard.
"""

from __future__ import annotations

import itertools
import math
import threading
from typing import TYPE_CHECKING, Any, Final

import google_crc32c
import numpy as np
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, ZstdCodec

from isles24_zarr.containers import ABSENT
from isles24_zarr.layout import COMPRESSOR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor, Future

    from numpy.typing import NDArray

_CHECKSUM: Final[dict[str, Any]] = {"level": -10, "checksum": True}
"""Levels below 0 leave bytes that cannot be packed as they are; level 1 would pack a few of them, and unpack slowly."""
_SHUFFLES: Final = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}

_WORD: Final = 8


class _Scratch(threading.local):
    """Memory of each thread, by number."""

    def __init__(self) -> None:
        self.kept: dict[int, NDArray[np.uint8]] = {}


_SCRATCH: Final = _Scratch()

ENCODERS: Final = 2
"""Threads that encode, for each one that reads: a file is unpacked about as fast as two of them pack."""


def compressors(dtype: np.dtype[Any] | None = None, chunk: Sequence[int] = ()) -> list[BloscCodec | ZstdCodec]:
    """Return the codecs of a chunk for the metadata of an array.

    Parameters
    ----------
    dtype
        Of the array; ``None`` where elements have no fixed size, as texts.
    chunk
        Its shape.
    """
    sizes = {"typesize": dtype.itemsize, "blocksize": _block_bytes(dtype, chunk)} if dtype else {}
    options: dict[str, Any] = {**COMPRESSOR, **sizes}
    return [BloscCodec(**options), ZstdCodec(**_CHECKSUM)]


def _block_bytes(dtype: np.dtype[Any], chunk: Sequence[int]) -> int:
    """Return how much Blosc packs by itself: a frame of a chunk, which can be unpacked without the others."""
    return math.prod(chunk[-3:]) * dtype.itemsize


def encoded_chunk(voxels: NDArray[Any], cut: tuple[slice, ...], chunk: tuple[int, ...]) -> bytes:
    """Encode one chunk as `compressors` says.

    Parameters
    ----------
    voxels
        Little endian, in any order in memory; it is copied piece by piece.
    cut
        Which part of the voxels; where it ends early, the chunk is filled up with zeros.
    chunk
        Shape of the chunk.
    """
    whole = scratch(0, chunk, voxels.dtype)
    part = voxels[cut]
    if part.shape != chunk:
        whole[...] = 0
    _copy(part, whole[tuple(slice(0, count) for count in part.shape)])
    names: dict[str, Any] = dict(COMPRESSOR)
    shuffle, block = _SHUFFLES[names["shuffle"]], _block_bytes(whole.dtype, chunk)
    blosc = Blosc(names["cname"], names["clevel"], shuffle, blocksize=block)
    packed: bytes = Zstd(**_CHECKSUM).encode(blosc.encode(whole))
    return packed


def _copy(part: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy voxels, of which x may run backwards in memory.

    Those are copied as they lie there, whole lines at a time, and turned round in the cache, several voxels at a time:
    one by one, from memory and backwards, they would take four times as long.
    """
    size = part.dtype.itemsize
    if part.strides[-1] != -size:
        target[...] = part
        return
    lines = scratch(1, part.shape, part.dtype)
    lines[...] = part[..., ::-1]
    if _WORD % size or lines.shape[-1] * size % _WORD:
        target[...] = lines[..., ::-1]
        return
    # all bytes of a line turned round, and then back again those of each voxel
    words = scratch(2, (*part.shape[:-1], lines.shape[-1] * size // _WORD), np.dtype("<u8"))
    words[...] = lines.view(">u8")[..., ::-1]
    target.view(f"<u{size}")[...] = words.view(f">u{size}")


def scratch(number: int, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return memory of this thread, filled with anything; for new pages the kernel takes as long as packing does.

    Parameters
    ----------
    number
        Which one: those of one number share their memory.
    shape, dtype
        Of the array.
    """
    size = math.prod(shape) * dtype.itemsize
    kept = _SCRATCH.kept
    if number not in kept or kept[number].size < size:
        kept[number] = np.empty(size, np.uint8)
    return kept[number][:size].view(dtype).reshape(shape)


class ShardEncoder:
    """The chunks of one shard on their way.

    Parameters
    ----------
    threads
        To encode them.
    shard, chunk
        Shapes.
    """

    def __init__(self, threads: Executor, *, shard: tuple[int, ...], chunk: tuple[int, ...]) -> None:
        self._threads, self._chunk = threads, chunk
        self._grid = tuple(count // size for count, size in zip(shard, chunk, strict=True))
        self._pending: dict[tuple[int, ...], Future[bytes]] = {}

    def add(self, voxels: NDArray[Any], *, first: int = 0) -> list[Future[bytes]]:
        """Begin to encode a piece of the shard.

        Parameters
        ----------
        voxels
            (z, y, x) or (time, z, y, x), whole chunks of it but for the edges of the array. They must stay as they are
            until all that is returned is done.
        first
            Where the piece begins along the first axis, a multiple of the chunk.
        """
        begun = []
        counts = [range(math.ceil(count / size)) for count, size in zip(voxels.shape, self._chunk, strict=True)]
        for place in itertools.product(*counts):
            cut = tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, self._chunk, strict=True))
            future = self._threads.submit(encoded_chunk, voxels, cut, self._chunk)
            self._pending[first // self._chunk[0] + place[0], *place[1:]] = future
            begun.append(future)
        return begun

    def finish(self) -> bytes:
        """Wait for all chunks, and return the shard."""
        chunks = {place: self._pending.pop(place).result() for place in sorted(self._pending)}
        index = np.full((*self._grid, 2), ABSENT, "<u8")
        offset = 0
        for place, data in chunks.items():
            index[place] = offset, len(data)
            offset += len(data)
        end = index.tobytes()
        return b"".join([*chunks.values(), end, google_crc32c.value(end).to_bytes(4, "little")])
