"""Which chunks, which level and which blocks of Blosc: a series written in each way, and what reading it costs."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from benchmarks.machine import limited_threads
from benchmarks.measurement import Results, alternated
from benchmarks.reference import CTP
from benchmarks.regions import AXIAL_CLOSED, PATCH, reads_of
from isles24_zarr.chunking import CHUNK_FRAMES, CHUNK_ZYX, even_chunk, rounded_up
from isles24_zarr.layout import COMPRESSOR, KEY
from isles24_zarr.objects import DOCUMENT
from isles24_zarr.unpacking import ShardedVoxels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.reference import Reference
    from benchmarks.regions import Read

SECTION: Final = "chunks"
STORED: Final = "stored bytes of the voxels"
ENCODE: Final = "encode"
_FRAMES: Final = 16
_SHARD_FRAMES: Final = 4
_PLACES: Final = 8
_TURN_SECONDS: Final = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """One way to store a series: the most voxels of a chunk along (time, z, y, x), level and blocks of Blosc."""

    chunk: tuple[int, int, int, int]
    level: int
    block: str

    @property
    def name(self) -> str:
        """As a row of the table."""
        return f"{' x '.join(map(str, self.chunk))}, zstd {self.level}, blocks: {self.block}"

    def fitted(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a chunk, evened out."""
        return tuple(even_chunk(count, most) for count, most in zip(shape, self.chunk, strict=True))

    def codec(self, chunk: Sequence[int], dtype: np.dtype[Any]) -> BloscCodec:
        """Return the compressor."""
        voxels = {"plane": math.prod(chunk[-2:]), "frame": math.prod(chunk[-3:]), "chunk": math.prod(chunk)}
        size = voxels[self.block] * dtype.itemsize
        return BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=self.level, shuffle="shuffle", blocksize=size)


CUTS: Final = (
    Cut((2, 8, 128, 128), 1, "frame"),
    Cut((2, 8, 128, 128), 3, "frame"),
    Cut((2, 8, 128, 128), 5, "frame"),
    Cut((2, 8, 128, 128), 1, "chunk"),
    Cut((2, 8, 128, 128), 1, "plane"),
    Cut((1, 8, 128, 128), 1, "frame"),
    Cut((4, 8, 128, 128), 1, "frame"),
    Cut((4, 8, 128, 128), 1, "chunk"),
    Cut((2, 8, 88, 88), 1, "frame"),
    Cut((2, 4, 128, 128), 1, "frame"),
    Cut((4, 4, 128, 128), 1, "frame"),
    Cut((2, 8, 256, 256), 1, "frame"),
    Cut((8, 8, 64, 64), 1, "frame"),
    Cut((16, 4, 64, 64), 1, "frame"),
)


def chosen() -> Cut:
    """Return how the store is written."""
    level: Any = COMPRESSOR["clevel"]
    return Cut((CHUNK_FRAMES, *CHUNK_ZYX), level, "frame")


def same_but_for_level() -> list[Cut]:
    """Return those ways that differ from how the store is written by their level alone."""
    own = chosen()
    return [cut for cut in CUTS if cut != own and dataclasses.replace(cut, level=own.level) == own]


def chunks(reference: Reference, folder: Path, *, repeats: int) -> Results:
    """Store the first frames of the series in many ways, and read them as the package does, with one thread.

    Parameters
    ----------
    reference
        The subject, converted.
    folder
        To work in.
    repeats
        Runs of each read.
    """
    results = Results()
    voxels = np.asarray(zarr.open_array(reference.array_path(CTP), mode="r")[:_FRAMES])
    possible = reads_of(voxels.shape, places=_PLACES * repeats)
    wanted = [read for read in possible if read.name not in (AXIAL_CLOSED, PATCH)]
    runs: dict[tuple[str, str], Callable[[int], Sequence[float]]] = {}
    with limited_threads(1):
        for number, cut in enumerate(CUTS):
            place = folder / str(number)
            stored, seconds = _written(voxels, place, cut)
            results.add(SECTION, STORED, cut.name, [stored / voxels.nbytes], "x")
            results.add(SECTION, ENCODE, cut.name, [seconds])
            runs |= {(cut.name, read.name): functools.partial(_turn, _opened(place), read) for read in wanted}
        found = alternated(runs, rounds=repeats, seed=5)
    for cut in CUTS:
        for read in wanted:
            results.add(SECTION, read.name, cut.name, found[cut.name, read.name])
    shutil.rmtree(folder)
    folder.mkdir()
    return results


def _written(voxels: NDArray[Any], place: Path, cut: Cut) -> tuple[int, float]:
    """Write the voxels; return the bytes stored and the CPU seconds that Blosc took."""
    chunk = cut.fitted(voxels.shape)
    frames = max(_SHARD_FRAMES, chunk[0])
    shard = (frames, *(rounded_up(count, size) for count, size in zip(voxels.shape[1:], chunk[1:], strict=True)))
    blosc = cut.codec(chunk, voxels.dtype)
    array = zarr.create_array(
        place,
        shape=voxels.shape,
        chunks=chunk,
        shards=shard,
        dtype=voxels.dtype,
        compressors=[blosc, ZstdCodec(level=-10, checksum=True)],
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    began = time.process_time()
    array[:] = voxels
    spent = time.process_time() - began
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file()), spent


def _opened(place: Path) -> ShardedVoxels:
    document = json.loads((place / DOCUMENT).read_bytes())
    shards = {path.relative_to(place).as_posix(): path.stat().st_size for path in (place / "c").rglob("*")}
    return ShardedVoxels(place, {**document, "attributes": {KEY: {"shards": shards}}})


def _turn(array: ShardedVoxels, read: Read, number: int) -> list[float]:
    """Read some places, each once before for the page cache."""
    found = []
    for region in read.regions[number * _PLACES : (number + 1) * _PLACES]:
        index = (region.time or slice(None), *region.zyx)
        array.read(index)
        began = time.perf_counter()
        array.read(index)
        found.append(time.perf_counter() - began)
        if sum(found) > _TURN_SECONDS:
            break
    return found
