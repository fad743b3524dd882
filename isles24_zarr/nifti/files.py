"""The voxels of NIfTI files: bounded streams of them, and files from blocks.

The rules that this module rests on (https://nifti.nimh.nih.gov/nifti-1, /nifti-2):

- A file is a header of 348 (NIfTI-1) or 540 (NIfTI-2) bytes, extensions up to ``vox_offset``, then the voxels
  with x running fastest. So the bytes of a C-ordered array of shape (t, z, y, x) are the bytes of the file.
- What the header says is told by `header`.

The voxels never pass through nibabel: they are read once, forward, and are trusted only when the CRC and length of the
file and the dimensions of its header agree at its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
import xxhash
from isal import igzip

from isles24_zarr.errors import TruncatedFileError, UnsupportedImageError
from isles24_zarr.nifti.header import (
    MAX_AXIS,
    MAX_DEFLATE_RATIO,
    MAX_PLANE_BYTES,
    SMALLEST_HEADER,
    Header,
    header_from_bytes,
    header_length,
)
from isles24_zarr.nifti.streams import ByteStream, GzipStream, HashedFile, PlainStream, whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_BYTES: Final = 4 * 2**20

GZIP_LEVEL: Final = 3
"""Of ISA-L. Levels 1 and 2 hash the address of the compressor in place of its first bytes, so that equal voxels give
other bytes in about one file of 20,000; levels 0 and 3 do not. Level 3 takes 1.5 times as long as level 2 for a CTP and
compresses it as well; level 0 is as fast as level 2 and leaves a fifth more. zlib, whose bytes are the same on every
CPU, takes 4.8 times as long for a CTP and 24 times for a mask."""

_NIFTI2_SIZES: Final = {(540).to_bytes(4, "little"), (540).to_bytes(4, "big")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What a stream was, known once it was read to its end.

    Parameters
    ----------
    file_bytes, file_sha256
        Size and SHA-256 of the file as it lies there, compressed or not.
    voxel_xxh3
        XXH3-128 of the decompressed voxel bytes in file order, hexadecimal.
    """

    file_bytes: int
    file_sha256: str
    voxel_xxh3: str


class VoxelStream:
    """The voxels of one NIfTI file, read once and forward.

    Parameters
    ----------
    file
        Opened for reading bytes.
    path
        Its name: errors quote it, and ``.gz`` at its end tells that it is compressed.
    size
        Length of the file in bytes, where it is known: rules out headers that promise more than it can hold.

    Raises
    ------
    SourceError
        The header cannot be used (see `header_from_bytes`), or the file is too short for it.
    """

    def __init__(self, file: BinaryIO, *, path: str, size: int | None = None) -> None:
        self._path = path
        self._file = HashedFile(file, path=path)
        self._compressed = path.lower().endswith(".gz")
        self._bytes: ByteStream = (GzipStream if self._compressed else PlainStream)(self._file, path=path)
        self._xxh3 = xxhash.xxh3_128()
        self._voxels_read = 0
        if size == 0:
            raise TruncatedFileError(path, "is empty (0 bytes)")
        self.header = self._read_header()
        self._check_capacity(size)
        self._check_extent()

    def _read_header(self) -> Header:
        start = self._read_up_to(SMALLEST_HEADER)
        if start[:4] in _NIFTI2_SIZES:
            start += self._read_up_to(544 - SMALLEST_HEADER)
        missing = header_length(start, path=self._path) - len(start)
        more = self._read_up_to(missing)
        if len(more) < missing:
            raise TruncatedFileError(
                self._path, f"ends after {len(start) + len(more):,} of {len(start) + missing:,} header bytes"
            )
        return header_from_bytes(start + more, path=self._path)

    def _read_up_to(self, count: int) -> bytes:
        buffer = bytearray(count)
        return bytes(buffer[: self._bytes.readinto(memoryview(buffer))])

    def _check_capacity(self, size: int | None) -> None:
        if size is None:
            return
        needed = len(self.header.raw) + self.header.voxel_bytes
        if needed > size * (MAX_DEFLATE_RATIO if self._compressed else 1):
            raise TruncatedFileError(
                self._path, f"has {size:,} bytes, which cannot hold the {needed:,} that its header promises"
            )

    def _check_extent(self) -> None:
        x, y, *_ = shape = self.header.shape
        if max(shape) > MAX_AXIS or x * y * self.header.dtype.itemsize > MAX_PLANE_BYTES:
            raise UnsupportedImageError(
                self._path,
                f"has {' x '.join(map(str, shape))} voxels, more than {MAX_AXIS:,} along an axis or "
                f"{MAX_PLANE_BYTES:,} bytes in a plane",
            )

    def readinto(self, block: NDArray[Any]) -> None:
        """Read the next voxels.

        Parameters
        ----------
        block
            C-contiguous, (z, y, x) or (t, z, y, x) in the file's order, of the header's dtype. It is filled.

        Raises
        ------
        TruncatedFileError, CorruptFileError
            The file does not hold them.
        """
        view = _bytes_of(block)
        got = self._bytes.readinto(view)
        self._voxels_read += got
        if got < len(view):
            raise TruncatedFileError(
                self._path,
                f"holds {self._voxels_read:,} of the {self.header.voxel_bytes:,} voxel bytes it promises",
            )
        self._xxh3.update(view)

    def finish(self) -> Digest:
        """Check that the file ends after its voxels, with the right CRC and length.

        Raises
        ------
        TrailingDataError, TruncatedFileError, CorruptFileError
            It does not.
        """
        self._bytes.finish()
        return Digest(
            file_bytes=self._file.consumed,
            file_sha256=self._file.sha256(),
            voxel_xxh3=self._xxh3.hexdigest(),
        )

    def read_to_end(self, look: Callable[[NDArray[Any]], None] | None = None) -> Digest:
        """Read all voxels and keep none; check the file as `finish` does.

        Parameters
        ----------
        look
            Called with each piece of voxels, (n,) in the order of the file.

        Raises
        ------
        SourceError
            The file is damaged.
        """
        dtype = self.header.dtype
        left, piece = self.header.voxel_bytes // dtype.itemsize, np.empty(_PIECE_BYTES // dtype.itemsize, dtype)
        while left:
            voxels = piece[:left]
            self.readinto(voxels)
            if look:
                look(voxels)
            left -= voxels.size
        return self.finish()


def read_header(file: BinaryIO, *, path: str, size: int | None = None) -> Header:
    """Read a header and nothing more of a .nii or .nii.gz file.

    Parameters
    ----------
    file, path, size
        As for `VoxelStream`, whose errors it raises.
    """
    return VoxelStream(file, path=path, size=size).header


def write_nifti(path: Path, header: bytes, blocks: Iterable[NDArray[Any]]) -> None:
    """Write a .nii or .nii.gz file, whole or not at all.

    Parameters
    ----------
    path
        Where to write; the name decides about compression.
    header
        Every byte before the voxels, extensions included (`Header.raw`).
    blocks
        C-contiguous arrays, (z, y, x) or (t, z, y, x), in the file's order and byte order.
    """
    with whole_file(path) as partial, _writer(partial, compressed=path.name.lower().endswith(".gz")) as file:
        file.write(header)
        for block in blocks:
            file.write(_bytes_of(block))


def _bytes_of(block: NDArray[Any]) -> memoryview:
    return block.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _writer(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if not compressed:
            yield file
            return
        # no name and no time in the gzip header: same voxels, same bytes
        with igzip.IGzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as stream:
            yield cast("BinaryIO", stream)
