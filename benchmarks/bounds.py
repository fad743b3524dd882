"""What bounds the targets that a run misses, in words, from what the same run has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import chunks, cohort, conversion, regions, scaling, stages, training
from benchmarks.chunked import Hdf5, Ours, OursDask
from benchmarks.loaders import OurPatches
from benchmarks.measurement import OURS
from benchmarks.readers import MemoryMap, NibabelIndexed
from benchmarks.targets import BY_DASK, QUICKEST, WEIGHTED, all_workers, best_peer, quickest_peer, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measurement import Results
    from benchmarks.targets import Target


def bounds(results: Results) -> Iterator[str]:
    """Say of each missed target what is in its way, as far as the run tells.

    Parameters
    ----------
    results
        A run; of what it did not measure nothing is said.
    """
    missed = [verdict.target for verdict in verdicts(results) if verdict.met is False]
    explained: tuple[tuple[Callable[[Target], bool], Callable[[Results], str | None]], ...] = (
        (lambda target: target.measure == regions.AXIAL_CLOSED, _closed_slice),
        (lambda target: target.measure == WEIGHTED, _weighted_mean),
        (lambda target: target.against == QUICKEST, _open_reads),
        (lambda target: target.measure.endswith(BY_DASK), _by_dask),
        (lambda target: target.measure.startswith(training.RATE), _training),
        (lambda target: target.against == "of the computed bound", _conversion),
        (lambda target: target.measure == "bytes stored", _bytes),
        (lambda target: target.measure == "files of a subject", _files),
        (lambda target: target.against == "faster with two workers", _map),
    )
    for concerns, text_of in explained:
        found = [target for target in missed if concerns(target)]
        text = text_of(results) if found else None
        if text:
            yield f"{'; '.join(f'{target.measure}, {target.against}' for target in found)}: {text}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _closed_slice(results: Results) -> str | None:
    found = stages.by_stage(results, regions.AXIAL_CLOSED)
    limits = [
        factor * (results.median(regions.AXIAL_CLOSED, reader.name) or float("inf"))
        for factor, reader in ((0.6, Hdf5), (8, MemoryMap), (1 / 15, NibabelIndexed))
    ]
    if not found or min(limits) == float("inf"):
        return None
    opening = {
        name.removeprefix(stages.OPENING): spent for name, spent in found.items() if name.startswith(stages.OPENING)
    }
    parts = ", ".join(f"{name} {_ms(spent)}" for name, spent in sorted(opening.items(), key=lambda each: -each[1]))
    return (
        f"on one thread it takes {_ms(found[stages.IN_ALL])}, of which opening all images of the subject is "
        f"{_ms(sum(opening.values()))} ({parts}), and Blosc {_ms(found[stages.UNPACK])}. The "
        f"strictest of these targets leaves {_ms(min(limits))} for everything: HDF5 and the memory map open "
        "one array, and make no labelled axes."
    )


def _weighted_mean(results: Results) -> str | None:
    peer = best_peer(results)
    if peer is None:
        return None
    times = {
        read: ours / theirs
        for read in regions.WEIGHTS
        if (ours := results.median(read, Ours.name)) and (theirs := results.median(read, peer))
    }
    behind = ", ".join(f"{read} {ratio:.2g} x" for read, ratio in sorted(times.items(), key=lambda each: -each[1]))
    return f"of the time of {peer} we take: {behind}."


def _open_reads(results: Results) -> str | None:
    parts = []
    for read in regions.READS[1:]:
        ours, peer = results.median(read, Ours.name), quickest_peer(results, read)
        theirs = results.median(read, peer) if peer else None
        if ours and theirs and ours > theirs:
            parts.append(f"{read} {_ms(ours)} by us, {_ms(theirs)} by {peer}")
    shares = [
        f"{found[stages.UNPACK] / found[stages.IN_ALL]:.0%} of the {read} ({_ms(found[stages.UNPACK])})"
        for read in (regions.CURVE, regions.PATCH, regions.WHOLE)
        if (found := stages.by_stage(results, read))
    ]
    if not parts:
        return None
    decoding = f" On one thread, decompressing is {', '.join(shares)}: only the rest can be saved." if shares else ""
    return (
        f"{'; '.join(parts)}.{decoding} Each peer has chunks of its own, and so its own reads that it decompresses "
        "least for; the weighted mean tells who does best at all of them."
    )


def _training(results: Results) -> str | None:
    alone = results.median(training.rate_name(0, training.METHODS[-1], cold=False), OurPatches.name)
    seconds = results.median(regions.PATCH, Ours.name)
    if not (alone and seconds):
        return None
    return (
        f"reading the five images of a patch takes {_ms(seconds)}, a sample without workers {_ms(1 / alone)}: the rest "
        "is the mask, the conversion to float32 and the batch, which workers hand over through shared memory. nnU-Net "
        "has all images in one array of float32, in blocks that were cut for this patch."
    )


def _by_dask(results: Results) -> str | None:
    pages = stages.by_stage(results, stages.PAGES)
    parts = [
        f"the {read} takes {_ms(ours)} without Dask and {_ms(by_dask)} with it"
        for read in (regions.FRAME, regions.WHOLE)
        if (ours := results.median(read, Ours.name)) and (by_dask := results.median(read, OursDask.name))
    ]
    if not (pages and parts):
        return None
    return (
        f"{', '.join(parts)}. Dask keeps all blocks until it joins them by a copy, and so needs new memory twice. As "
        f"much as the whole series is filled for the first time in {_ms(pages[stages.FIRST_FILL])}, and again in "
        f"{_ms(pages[stages.SECOND_FILL])}: the difference is the kernel's, and in a virtual machine varies with "
        "what its host does. What is reduced block by block, as by all of `.isles`, does not pay for it, nor does "
        "`open_scan(chunks=None)`."
    )


def _conversion(results: Results) -> str | None:
    found = stages.by_stage(results, stages.CONVERSION)
    seconds = results.median(conversion.SECONDS, all_workers(results))
    bound = results.median(conversion.BOUND, "gunzip + encode")
    if not (found and seconds and bound):
        return None
    whole = found[stages.IN_ALL]
    others = sorted(
        ((name, spent) for name, spent in found.items() if name not in (*stages.IN_BOUND, stages.IN_ALL)),
        key=lambda each: -each[1],
    )
    inside = sum(found[name] for name in stages.IN_BOUND)
    parts = ", ".join(f"{name} {spent:.2g} s" for name, spent in others)
    return (
        f"its stages take {whole:.3g} s of CPU, of which {inside:.3g} s unpack and encode ({whole / inside:.2f} x), "
        f"before processes and their scheduler are paid for. The rest: {parts}. Digests, checksums and one orientation "
        "are what a store promises; shards are copied to the page cache by the kernel."
    )


def _bytes(results: Results) -> str | None:
    ratio = results.median(conversion.STORED, OURS)
    base = results.median(chunks.STORED, chunks.chosen().name)
    levels = {cut: results.median(chunks.STORED, cut.name) for cut in chunks.same_but_for_level()}
    costs = {cut: results.median(chunks.ENCODE, cut.name) for cut in levels}
    first = results.median(chunks.ENCODE, chunks.chosen().name)
    parts = [
        f"level {cut.level} would give {ratio * stored / base:.3f} x, and take {cost / first:.1f} x as long to write"
        for cut, stored in levels.items()
        if ratio and base and stored and first and (cost := costs[cut])
    ]
    if not parts:
        return None
    return f"{'; '.join(parts)}. Reading does not depend on the level."


def _files(results: Results) -> str | None:
    found = results.median(conversion.FILES, OURS)
    if not found:
        return None
    return (
        "in format 1 an array is a document and at least one shard: 18 images, 11 coordinates and the documents of 4 "
        f"groups are 62 files. The other {found - 62:.0f} are further shards of the series: a shard is what a worker "
        "holds in memory."
    )


def _map(results: Results) -> str | None:
    small = cohort.SIZES[0]
    one = results.median(cohort.map_name(small), conversion.workers_name(1))
    dispatch = results.median(scaling.DISPATCH, OURS)
    if not (one and dispatch):
        return None
    return (
        f"a subject of these toy cohorts takes {_ms(one / small)} on one worker; the process that leads takes "
        f"{_ms(dispatch)} to hand out a task and gather its result, on the same two cores."
    )
