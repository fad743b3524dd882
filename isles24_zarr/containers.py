"""What a shard may hold: its index, the frames of its chunks and what is in them, checked before any library sees them.

Nothing is unpacked here but the frame of Zstandard around a chunk, and nothing of what a shard says of itself is
believed: offsets lie within the shard, a frame holds no more than its chunk can have, and a container of Blosc exactly
the chunk. Formats: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed, RFC 8878 and
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import TYPE_CHECKING, Any, Final, Self

import google_crc32c
import numpy as np
import xxhash
from numcodecs import Blosc, Zstd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

ABSENT: Final = 2**64 - 1
"""Offset and length of a chunk that is not there."""

INDEX_CHECKSUM_BYTES: Final = 4
_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ONE_SEGMENT_CHECKED: Final = 0x24
"""Descriptor of a frame: its length is told, and a checksum follows; no dictionary."""
_LAST_BLOCK_AS_IT_WAS: Final = 1

BLOSC_HEADER: Final = struct.Struct("<BBBBIII")
"""Of Blosc: versions of the container and of the codec, flags, typesize; bytes unpacked, of a block, packed."""
BLOSC_STORED: Final = 0x02
"""Flag: the bytes are as they were."""
_BLOSC_VERSION: Final = 2
_SHUFFLE_FLAGS: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 4}
_MOST_TEXT_BYTES: Final = 2**26
"""Of a column of texts."""
_SHUFFLED: Final = 0x05


def index_bytes(chunks: int) -> int:
    """Return the length of the index of a shard with so many chunks."""
    return 16 * chunks + INDEX_CHECKSUM_BYTES


def index_from_bytes(data: bytes, *, shard_bytes: int) -> NDArray[np.uint64] | None:
    """Return offset and length of each chunk of a shard, (chunks, 2) in C order; ``None`` where the index is damaged.

    Parameters
    ----------
    data
        The index with its checksum.
    shard_bytes
        Size of the shard: each chunk is there before the index, or is marked as absent.
    """
    entries, checksum = data[:-INDEX_CHECKSUM_BYTES], data[-INDEX_CHECKSUM_BYTES:]
    if len(entries) % 16 or google_crc32c.value(entries).to_bytes(INDEX_CHECKSUM_BYTES, "little") != checksum:
        return None
    table = np.frombuffer(entries, "<u8").reshape(-1, 2)
    end = np.uint64(max(0, shard_bytes - len(data)))
    offsets, lengths = table[:, 0], table[:, 1]
    absent = (offsets == ABSENT) & (lengths == ABSENT)
    # no sum, which may overflow: the difference is looked at only where it is none
    inside = (offsets <= end) & (lengths <= end - np.minimum(offsets, end))
    return table if bool((absent | inside).all()) else None


def frame_content(frame: bytes, *, most: int | None = None) -> bytes:
    """Return what a frame of Zstandard holds, once its checksum was verified.

    Nearly all frames of a store are one block of bytes as they were. There is nothing to unpack in those, and Zstandard
    takes four times as long to find that out as it takes to compute the checksum.

    Parameters
    ----------
    frame
        With a checksum or without.
    most
        Bytes that it can hold at most; by default as many as it says.

    Raises
    ------
    RuntimeError, ValueError
        It is damaged.
    """
    if frame[:4] == _FRAME_MAGIC and len(frame) > 4 and frame[4] & 0x3F == _ONE_SEGMENT_CHECKED:
        start = 5 + (1, 2, 4, 8)[frame[4] >> 6]
        count = int.from_bytes(frame[5:start], "little") + (256 if start == 7 else 0)
        block = int.from_bytes(frame[start : start + 3], "little")
        content, checksum = frame[start + 3 : -4], frame[-4:]
        if (
            block == count << 3 | _LAST_BLOCK_AS_IT_WAS
            and len(content) == count > 0
            and (xxhash.xxh64_intdigest(content) & 0xFFFFFFFF).to_bytes(4, "little") == checksum
        ):
            return content
    if most is not None:
        declared = _declared_content(frame)
        if declared is None or declared > most:
            raise ValueError("its frame does not say how much it holds, or says more than it can")
    unpacked: bytes = Zstd().decode(frame)
    return unpacked


def _declared_content(frame: bytes) -> int | None:
    """Return how much a frame says that it holds; ``None`` where it does not."""
    if frame[:4] != _FRAME_MAGIC or len(frame) < 6:
        return None
    descriptor = frame[4]
    one_segment = bool(descriptor & 0x20)
    length = (1 if one_segment else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not one_segment) + (0, 1, 2, 4)[descriptor & 3]
    field = frame[start : start + length]
    if not length or len(field) < length:
        return None
    return int.from_bytes(field, "little") + (256 if length == 2 else 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChunkFormat:
    """What is known of each chunk of an array before it is read.

    Parameters
    ----------
    nbytes
        Of its voxels.
    typesize
        Bytes of a voxel.
    shuffle
        Flags of Blosc for the order of bytes within a block.
    exact
        It has so many bytes; else at most.
    """

    nbytes: int
    typesize: int
    shuffle: int
    exact: bool = True

    @classmethod
    def of_image(cls, document: Mapping[str, Any]) -> Self:
        """Make it of the metadata of an image."""
        (sharding,) = document["codecs"]
        _, blosc, _ = sharding["configuration"]["codecs"]
        return cls._of(sharding["configuration"]["chunk_shape"], np.dtype(document["data_type"]).itemsize, blosc)

    @classmethod
    def of_column(cls, document: Mapping[str, Any]) -> Self:
        """Make it of the metadata of a coordinate or a column of the table, which is one chunk."""
        _, blosc, _ = document["codecs"]
        if document["data_type"] != "string":
            return cls._of(document["shape"], np.dtype(document["data_type"]).itemsize, blosc)
        shuffle = _SHUFFLE_FLAGS[blosc["configuration"]["shuffle"]]
        return cls(nbytes=_MOST_TEXT_BYTES, typesize=1, shuffle=shuffle, exact=False)

    @classmethod
    def _of(cls, shape: Sequence[int], itemsize: int, blosc: Mapping[str, Any]) -> Self:
        shuffle = _SHUFFLE_FLAGS[blosc["configuration"]["shuffle"]]
        return cls(nbytes=math.prod(shape) * itemsize, typesize=itemsize, shuffle=shuffle)

    def container(self, frame: bytes) -> bytes:
        """Return the container of Blosc in the frame of a chunk, whose header was checked.

        Raises
        ------
        RuntimeError, ValueError
            The frame is damaged, or what is in it is not such a chunk.
        """
        packed = frame_content(frame, most=self.nbytes + BLOSC_HEADER.size)
        if len(packed) < BLOSC_HEADER.size:
            raise ValueError("it holds no container of Blosc")
        version, _, flags, typesize, size, block, length = BLOSC_HEADER.unpack_from(packed)
        if size > self.nbytes or (self.exact and size != self.nbytes):
            raise ValueError(f"it holds {size:,} of {self.nbytes:,} bytes")
        stored = bool(flags & BLOSC_STORED)
        if length != len(packed) or not 0 < block <= size or (stored and length != size + BLOSC_HEADER.size):
            raise ValueError("sizes in its header contradict each other")
        if version != _BLOSC_VERSION or typesize != self.typesize or flags & _SHUFFLED != self.shuffle:
            raise ValueError("it was packed otherwise than its array says")
        return packed


def unpack_into(packed: bytes, memory: NDArray[np.uint8]) -> None:
    """Unpack a container of Blosc into memory that it fills to the last byte.

    Raises
    ------
    RuntimeError, ValueError
        It is damaged, or holds fewer bytes or more.
    """
    size = BLOSC_HEADER.unpack_from(packed)[4]
    if size != memory.nbytes:  # memory is used again and again: what is left of others must not be read
        raise ValueError(f"it holds {size:,} of {memory.nbytes:,} bytes")
    Blosc().decode(packed, memory)


def column_bytes(frame: bytes, document: Mapping[str, Any]) -> bytes:
    """Return what the one chunk of a coordinate or a column of the table holds, unpacked.

    Parameters
    ----------
    frame
        As stored.
    document
        Its metadata.

    Raises
    ------
    RuntimeError, ValueError
        It is damaged, or holds another number of values.
    """
    packed = ChunkFormat.of_column(document).container(frame)
    memory = np.empty(BLOSC_HEADER.unpack_from(packed)[4], np.uint8)
    unpack_into(packed, memory)
    count = math.prod(document["shape"])
    # texts follow their number, for which memory is taken
    if document["data_type"] == "string" and int.from_bytes(memory[:4].tobytes(), "little") != count:
        raise ValueError(f"it does not hold {count:,} texts")
    return memory.tobytes()
