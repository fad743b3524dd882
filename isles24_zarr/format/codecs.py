"""How a chunk is compressed, and what is in the one chunk of a small array.

A chunk is compressed by Blosc, and followed by its CRC-32C. Coordinates and columns of the cohort table are one chunk
each, and decompressed here; nothing of what a chunk says of itself is believed. The container is described in
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from isles24_zarr.format.layout import COMPRESSOR
from isles24_zarr.format.shards import CHECKSUM_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_HEADER: Final = struct.Struct("<BBBBIII")
"""Of Blosc: versions of the container and of the codec, flags, typesize; bytes decompressed, of a block, compressed."""
_MOST_TEXT_BYTES: Final = 2**26
"""Of a column of texts."""


def compressors(dtype: np.dtype[Any] | None = None, chunk: Sequence[int] = ()) -> list[BloscCodec | Crc32cCodec]:
    """Return the codecs of a chunk for the metadata of an array.

    Parameters
    ----------
    dtype
        Of the array; ``None`` where elements have no fixed size, as texts.
    chunk
        Its shape: it is compressed as one block, as Zstandard packs larger ones better.
    """
    sizes = {"typesize": dtype.itemsize, "blocksize": math.prod(chunk) * dtype.itemsize} if dtype else {}
    options: dict[str, Any] = {**COMPRESSOR, **sizes}
    return [BloscCodec(**options), Crc32cCodec()]


def column_bytes(chunk: bytes, document: Mapping[str, Any]) -> bytes:
    """Return what the one chunk of a coordinate or a column of the table holds, decompressed.

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
    compressed, checksum = chunk[:-CHECKSUM_BYTES], chunk[-CHECKSUM_BYTES:]
    if len(compressed) < _HEADER.size or google_crc32c.value(compressed).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        raise ValueError("its checksum differs")
    *_, size, _, length = _HEADER.unpack_from(compressed)
    count, is_text = math.prod(document["shape"]), document["data_type"] == "string"
    wanted = _MOST_TEXT_BYTES if is_text else count * np.dtype(document["data_type"]).itemsize
    if length != len(compressed) or size > wanted or (size != wanted and not is_text):
        raise ValueError(f"it holds {size:,} of {wanted:,} bytes")
    memory: NDArray[np.uint8] = np.empty(size, np.uint8)
    Blosc().decode(compressed, memory)
    # texts follow their number, for which memory is taken
    if is_text and int.from_bytes(memory[:4].tobytes(), "little") != count:
        raise ValueError(f"it does not hold {count:,} texts")
    return memory.tobytes()
