"""Which chunks, which level, which checksum, which order: images written in each way, and what reading them costs."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorstore
import zarr

from benchmarks.machine import limited_threads
from benchmarks.measurement import Results, alternated
from benchmarks.reference import CTP
from benchmarks.regions import CURVE, CURVES, FRAME, PATCH, WEIGHTS, reads_of, weighted_mean
from isles24_zarr.format.chunking import CHUNK_FRAMES, CHUNK_ZYX, MAX_SHARD_BYTES, even_chunk, rounded_up
from isles24_zarr.format.layout import COMPRESSOR
from isles24_zarr.format.shards import index_bytes, index_from_bytes, with_index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.reference import Reference
    from benchmarks.regions import Read

SECTION: Final = "chunks"
STORED: Final = "stored bytes of the voxels"
ENCODE: Final = "encode"
MEAN: Final = "weighted mean"
_PLACES: Final = 8
_TURN_SECONDS: Final = 0.2
_THREADS: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """One way to store an image.

    Parameters
    ----------
    chunk
        The most voxels of a chunk along ((time,) z, y, x).
    level
        Of Zstandard in Blosc.
    checksum
        ``"crc32c"``; ``"frame"``, Zstandard's around what Blosc has packed; or ``"none"``.
    order
        Of the chunks in a shard: ``"C"`` or ``"Morton"``.
    shard_bytes
        Voxels of a shard at most.
    """

    chunk: tuple[int, ...]
    level: int = 1
    checksum: str = "crc32c"
    order: str = "C"
    shard_bytes: int = MAX_SHARD_BYTES

    @property
    def name(self) -> str:
        """As a row of the table."""
        kinds = {3: "volume", 4: "series"}
        return ", ".join(
            [
                f"{kinds[len(self.chunk)]} {' x '.join(map(str, self.chunk))}",
                f"zstd {self.level}",
                self.checksum,
                *([f"{self.order} order"] if self.order != "C" else []),
                *([f"shards of {self.shard_bytes // 10**6} MB"] if self.shard_bytes != MAX_SHARD_BYTES else []),
            ]
        )

    def codecs(self, chunk: Sequence[int], dtype: np.dtype[Any]) -> list[dict[str, Any]]:
        """Return the codecs of a chunk."""
        size = math.prod(chunk) * dtype.itemsize
        blosc = {**COMPRESSOR, "clevel": self.level, "typesize": dtype.itemsize, "blocksize": size}
        checksums: dict[str, list[dict[str, Any]]] = {
            "crc32c": [{"name": "crc32c"}],
            "frame": [{"name": "zstd", "configuration": {"level": -10, "checksum": True}}],
            "none": [],
        }
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        return [little, {"name": "blosc", "configuration": blosc}, *checksums[self.checksum]]


def chosen() -> Cut:
    """Return how the store has a series."""
    level: Any = COMPRESSOR["clevel"]
    return Cut((CHUNK_FRAMES, *CHUNK_ZYX), level)


_SERIES: Final = (
    (1, 4, 64, 64), (1, 8, 64, 64), (1, 8, 32, 32), (1, 8, 48, 48), (1, 16, 32, 32), (2, 4, 64, 64), (2, 8, 32, 32),
    (2, 8, 64, 64), (4, 4, 32, 32), (4, 8, 32, 32), (2, 8, 128, 128),
)  # fmt: skip
_VOLUMES: Final = ((4, 64, 64), (8, 32, 32), (8, 64, 64), (16, 32, 32), (8, 128, 128))


def cuts() -> list[Cut]:
    """Return all ways that are compared: chunks, then what else may differ with the chunks that the store has."""
    own = chosen()
    change = functools.partial(dataclasses.replace, own)
    return [
        own,
        *(Cut(chunk, own.level) for chunk in _SERIES if chunk != own.chunk),
        change(level=3),
        change(level=5),
        change(checksum="frame"),
        change(checksum="none"),
        change(order="Morton"),
        change(shard_bytes=MAX_SHARD_BYTES // 2),
        *(Cut(chunk, own.level) for chunk in _VOLUMES),
    ]


def same_but_for_level() -> list[Cut]:
    """Return those ways that differ from how the store is written by their level alone."""
    own = chosen()
    return [cut for cut in cuts() if cut != own and dataclasses.replace(cut, level=own.level) == own]


def chunks(reference: Reference, folder: Path, *, repeats: int) -> Results:
    """Store a series and a map in many ways, and read them by TensorStore, which reads our store.

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
    images = {rank: np.asarray(zarr.open_array(reference.array_path(name), mode="r")[...]) for rank, name in _IMAGES}
    runs: dict[tuple[Cut, str], Callable[[int], Sequence[float]]] = {}
    with limited_threads(_THREADS):
        for number, cut in enumerate(cuts()):
            voxels, place = images[len(cut.chunk)], folder / str(number)
            seconds = _written(voxels, place, cut)
            stored = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            results.add(SECTION, STORED, cut.name, [stored / voxels.nbytes], "x")
            results.add(SECTION, ENCODE, cut.name, [seconds])
            for read in reads_of(images[4].shape, places=_PLACES * repeats):
                if read.name in WEIGHTS and (voxels.ndim == 4 or read.name not in _OF_SERIES):
                    runs[cut, read.name] = functools.partial(_turn, _opened(place), read)
        found = alternated(runs, rounds=repeats, seed=5)
    for cut in cuts():
        medians = {}
        for name in WEIGHTS:
            if (cut, name) in found:
                results.add(SECTION, name, cut.name, found[cut, name])
                medians[name] = statistics.median(found[cut, name])
        results.add(SECTION, MEAN, cut.name, [weighted_mean(medians)])
    shutil.rmtree(folder)
    folder.mkdir()
    return results


_IMAGES: Final = ((3, "tmax"), (4, CTP))
_OF_SERIES: Final = (CURVE, CURVES, FRAME)


def _written(voxels: NDArray[Any], place: Path, cut: Cut) -> float:
    """Write the voxels; return the CPU seconds that it took."""
    chunk = [even_chunk(count, most) for count, most in zip(voxels.shape, cut.chunk, strict=True)]
    shard = [rounded_up(count, size) for count, size in zip(voxels.shape, chunk, strict=True)]
    if voxels.ndim == 4:
        frames = max(1, cut.shard_bytes // voxels[0].nbytes)
        shard[0] = max(chunk[0], frames - frames % chunk[0])
    ends = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": chunk, "codecs": cut.codecs(chunk, voxels.dtype), "index_codecs": ends}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{place}/"},
        "metadata": {
            "shape": voxels.shape,
            "data_type": voxels.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
        "store_data_equal_to_fill_value": True,
    }
    array = tensorstore.open(spec, create=True, context=_context()).result()
    began = time.process_time()
    for start in range(0, len(voxels), shard[0]):
        part = slice(start, min(start + shard[0], len(voxels)))
        array[part].write(voxels[part]).result()
    spent = time.process_time() - began
    if cut.order == "Morton":
        grid = [count // size for count, size in zip(shard, chunk, strict=True)]
        for path in (place / "c").rglob("*"):
            if path.is_file():
                path.write_bytes(_in_morton_order(path.read_bytes(), grid))
    return spent


def _in_morton_order(shard: bytes, grid: Sequence[int]) -> bytes:
    """Return a shard with its chunks along a curve, as zarr-python writes them."""
    length = index_bytes(math.prod(grid))
    table = index_from_bytes(shard[-length:], shard_bytes=len(shard))
    if table is None:
        raise ValueError("the shard has a damaged index")
    places = np.stack(np.unravel_index(np.arange(len(table)), grid))
    codes = np.zeros(len(table), np.uint64)
    for bit in range(max(grid).bit_length()):
        for axis, place in enumerate(places[::-1]):
            codes |= ((place.astype(np.uint64) >> np.uint64(bit)) & np.uint64(1)) << np.uint64(bit * len(grid) + axis)
    moved, pieces, offset = table.copy(), [], 0
    for number in np.argsort(codes, kind="stable").tolist():
        start, size = table[number].tolist()
        if size < 2**63:
            pieces.append(shard[start : start + size])
            moved[number, 0], offset = offset, offset + size
    return with_index(pieces, moved)


def _context() -> Any:
    limits = {name: {"limit": _THREADS} for name in ("data_copy_concurrency", "file_io_concurrency")}
    return tensorstore.Context(limits)


def _opened(place: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{place}/"}}
    return tensorstore.open(spec, open=True, read=True, context=_context()).result()


def _turn(array: Any, read: Read, number: int) -> list[float]:
    """Read some places, each once before for the page cache."""
    found = []
    for region in read.regions[number * _PLACES : (number + 1) * _PLACES]:
        index = (*((region.time or slice(0, array.shape[0]),) if array.ndim == 4 else ()), *region.zyx)
        times = 5 if read.name == PATCH and array.ndim == 3 else 1  # of five images
        if array.ndim == 4 and read.name == PATCH:
            index = (slice(0, 1), *region.zyx)
        array[index].read().result()
        began = time.perf_counter()
        for _ in range(times):
            array[index].read().result()
        found.append(time.perf_counter() - began)
        if sum(found) > _TURN_SECONDS:
            break
    return found
