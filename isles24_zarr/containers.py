"""How chunks are packed into a shard, and what is in the one chunk of a small array.

A chunk is packed by Blosc, and followed by its CRC-32C. TensorStore would do the same in 1.4 times the CPU time.
Coordinates and columns of the cohort table are one chunk each, and unpacked here; nothing of what a chunk says of
itself is believed. The container is described in
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst.
"""

from __future__ import annotations

import itertools
import math
import operator
import struct
from typing import TYPE_CHECKING, Any, Final

import google_crc32c
import numpy as np
from numcodecs.blosc import SHUFFLE, Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from isles24_zarr.layout import COMPRESSOR
from isles24_zarr.shards import ABSENT, with_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_HEADER: Final = struct.Struct("<BBBBIII")
"""Of Blosc: versions of the container and of the codec, flags, typesize; bytes unpacked, of a block, packed."""
_CHECKSUM_BYTES: Final = 4
_MOST_TEXT_BYTES: Final = 2**26
"""Of a column of texts."""


def compressors(dtype: np.dtype[Any] | None = None, chunk: Sequence[int] = ()) -> list[BloscCodec | Crc32cCodec]:
    """Return the codecs of a chunk for the metadata of an array.

    Parameters
    ----------
    dtype
        Of the array; ``None`` where elements have no fixed size, as texts.
    chunk
        Its shape: it is packed as one block, as Zstandard packs larger ones better.
    """
    sizes = {"typesize": dtype.itemsize, "blocksize": math.prod(chunk) * dtype.itemsize} if dtype else {}
    options: dict[str, Any] = {**COMPRESSOR, **sizes}
    return [BloscCodec(**options), Crc32cCodec()]


def encoded_shard(document: Mapping[str, Any], voxels: NDArray[Any]) -> tuple[bytes, int]:
    """Encode voxels as a shard.

    Parameters
    ----------
    document
        Metadata of its array.
    voxels
        (z, y, x) or (time, z, y, x), in any order in memory: a whole shard, or a part of one, cut between chunks of the
        first axis.

    Returns
    -------
    tuple
        The shard, as long along the first axis as the voxels are, filled up to whole chunks; and how many it has.
    """
    (sharding,) = document["codecs"]
    shape = tuple(sharding["configuration"]["chunk_shape"])
    (options,) = (codec["configuration"] for codec in sharding["configuration"]["codecs"] if codec["name"] == "blosc")
    blosc = Blosc(options["cname"], options["clevel"], SHUFFLE, options["blocksize"])
    shard = document["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-len(voxels) // shape[0]), *map(operator.floordiv, shard[1:], shape[1:])]
    table = np.full((math.prod(counts), 2), ABSENT, np.uint64)
    pieces, offset = [], 0
    for number, place in enumerate(itertools.product(*map(range, counts))):
        chunk = _chunk(voxels, place, shape)
        if chunk.size:  # one beyond the array is not there
            packed = blosc.encode(chunk)
            pieces += [packed, google_crc32c.value(packed).to_bytes(_CHECKSUM_BYTES, "little")]
            table[number] = offset, len(packed) + _CHECKSUM_BYTES
            offset += len(packed) + _CHECKSUM_BYTES
    return with_index(pieces, table), len(table)


def _chunk(voxels: NDArray[Any], place: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    """Return a chunk in C order, filled up with zeros at the end of the array; nothing of one that is beyond it."""
    inside = voxels[tuple(slice(at * count, (at + 1) * count) for at, count in zip(place, shape, strict=True))]
    # copied as it lies in memory and turned round in the cache, it takes half as long
    turned = tuple(slice(None, None, -1 if stride < 0 else 1) for stride in inside.strides)
    if inside.shape == shape or not inside.size:
        return np.ascontiguousarray(np.ascontiguousarray(inside[turned])[turned])
    chunk = np.zeros(shape, voxels.dtype)
    chunk[tuple(map(slice, inside.shape))] = inside
    return chunk


def column_bytes(chunk: bytes, document: Mapping[str, Any]) -> bytes:
    """Return what the one chunk of a coordinate or a column of the table holds, unpacked.

    Parameters
    ----------
    chunk
        As stored.
    document
        Its metadata.

    Raises
    ------
    RuntimeError, ValueError
        It is damaged, or holds another number of values.
    """
    packed, checksum = chunk[:-_CHECKSUM_BYTES], chunk[-_CHECKSUM_BYTES:]
    if len(packed) < _HEADER.size or google_crc32c.value(packed).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        raise ValueError("its checksum differs")
    *_, size, _, length = _HEADER.unpack_from(packed)
    count, is_text = math.prod(document["shape"]), document["data_type"] == "string"
    wanted = _MOST_TEXT_BYTES if is_text else count * np.dtype(document["data_type"]).itemsize
    if length != len(packed) or size > wanted or (size != wanted and not is_text):
        raise ValueError(f"it holds {size:,} of {wanted:,} bytes")
    memory: NDArray[np.uint8] = np.empty(size, np.uint8)
    Blosc().decode(packed, memory)
    # texts follow their number, for which memory is taken
    if is_text and int.from_bytes(memory[:4].tobytes(), "little") != count:
        raise ValueError(f"it does not hold {count:,} texts")
    return memory.tobytes()
