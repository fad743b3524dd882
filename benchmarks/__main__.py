"""``python -m benchmarks``: run the measurements, and write them down with figures and the targets.

Each part runs in a process of its own. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import isles24_zarr
from benchmarks.chunks import chunks
from benchmarks.cohort import SIZES, cohort, startup
from benchmarks.conversion import conversion
from benchmarks.converters import other_converters
from benchmarks.figures import write_figures
from benchmarks.machine import described, in_fresh_process, small_pages
from benchmarks.measurement import Results
from benchmarks.perfusion import perfusion
from benchmarks.reads import reads
from benchmarks.reference import Reference
from benchmarks.report import markdown, read_json, write_json
from benchmarks.scaling import scaling
from benchmarks.stages import stages
from benchmarks.training import GROWTH_EPOCHS, METHODS, training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PARTS = ("startup", "reads", "training", "perfusion", "chunks", "conversion", "scaling", "cohort", "stages")
DOCS = Path("docs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    results, about = read_json(options.out / "results.json")
    results = results.without(options.only)
    machine = described()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results.extend(run(Path(folder), options))
    for part in options.only:
        about[part] = {
            "command": shlex.join(["python", "-m", "benchmarks", *given]),
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "settings": {name: str(value) for name, value in vars(options).items()},
            "machine": machine,
            "notes": _notes(part, options),
        }
    write(options.out, options.out / "README.md", results, about, figures=".")
    if options.docs:
        write(DOCS / "performance", DOCS / "performance.md", results, about, figures="performance")
    print((options.out / "README.md").read_text(encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--scale", choices=("tiny", "small", "full"), default="full", help="size of the reference subject")
    add("--repeats", type=int, default=5, help="runs of each measurement")
    add("--converter-repeats", type=int, help="runs of other converters, which take minutes; as --repeats by default")
    add("--only", choices=PARTS, nargs="+", default=PARTS, help="parts to run; --out keeps what it has of the others")
    add("--threads", type=int, default=1, help="threads, and cores, of every reader")
    add("--cold", action="store_true", help="drop the files from the page cache before every read")
    add("--methods", choices=METHODS, nargs="+", default=METHODS, help="how training starts its worker processes")
    add("--cohorts", type=int, nargs="+", default=SIZES, help="sizes of the toy cohorts")
    add("--out", type=Path, default=Path("benchmark-results"), help="folder for JSON, table and figures")
    add("--docs", action="store_true", help=f"also write {DOCS}/performance.md")
    add("--folder", type=Path, help="where to work; a full run needs 20 GB")
    return parser


def run(folder: Path, options: argparse.Namespace) -> Results:
    """Run the parts that were asked for, in a folder."""
    release = isles24_zarr.synthesize(folder / "release", subjects=1, scale=options.scale)
    store = folder / "store.zarr"
    subject = isles24_zarr.convert(release, store, progress=False).converted[0]
    reference = Reference(release, store, subject)
    places = {part: folder / part for part in options.only}
    for place in places.values():
        place.mkdir()
    results = Results()
    if "startup" in places:
        results.extend(_part(startup, reference, repeats=options.repeats))
    if "reads" in places:
        how = {"repeats": options.repeats, "threads": options.threads, "cold": options.cold}
        with small_pages():
            results.extend(_part(reads, reference, places["reads"], **how))
    if "training" in places:
        how = {"repeats": options.repeats, "methods": options.methods}
        with small_pages():
            results.extend(_part(training, reference, places["training"], **how))
    if "perfusion" in places:
        results.extend(_part(perfusion, reference, repeats=options.repeats))
    if "chunks" in places:
        results.extend(_part(chunks, reference, places["chunks"], repeats=options.repeats))
    if "conversion" in places:
        results.extend(_part(conversion, release, places["conversion"], repeats=options.repeats))
        rounds = options.converter_repeats or options.repeats
        results.extend(_part(other_converters, release, places["conversion"], repeats=rounds))
    if "scaling" in places:
        results.extend(_part(scaling, release, places["scaling"], repeats=options.repeats))
    if "cohort" in places:
        results.extend(_part(cohort, places["cohort"], repeats=options.repeats, sizes=options.cohorts))
    if "stages" in places:
        with small_pages():  # as for the reads that it explains
            results.extend(_part(stages, reference, places["stages"], repeats=options.repeats))
    for place in places.values():
        shutil.rmtree(place)
    return results


def _part(function: Callable[..., Results], *args: Any, **kwargs: Any) -> Results:
    print(f"measuring: {function.__name__}", file=sys.stderr, flush=True)
    return in_fresh_process(function, *args, **kwargs)


def _notes(part: str, options: argparse.Namespace) -> list[str]:
    """Say what a reader has to know about how a part was measured."""
    alternated = f"{options.repeats} rounds; in each of them all take turns in a new random order."
    if part == "cohort":
        return [
            alternated,
            "Subjects are copies of one of `isles24_zarr.synthesize(scale='tiny')`; warm caches.",
        ]
    subject = f"Reference subject: `isles24_zarr.synthesize(subjects=1, scale={options.scale!r})`."
    if part == "reads":
        return [subject, alternated, *_notes_on_reads(options)]
    if part == "training":
        return [subject, alternated, *_notes_on_training()]
    if part == "perfusion":
        return [
            subject,
            alternated,
            "All cores, warm caches. Maps in memory are of all voxels, by one voxel for an artery, without any search.",
        ]
    if part == "chunks":
        return [
            subject,
            alternated,
            "The first frames of the registered series, in every way that is listed; warm caches, one thread.",
        ]
    if part == "conversion":
        others = (
            "niizarr and zarrnii hold several copies of what they convert: they have a quarter of the frames, a "
            f"process for each core, the largest file first, and {options.converter_repeats or options.repeats} rounds."
        )
        return [subject, alternated, "Processes start and import before the clock does.", others]
    if part == "stages":
        return [
            subject,
            "Medians of the own time of functions, without that of timed ones that they call. Timing adds a little.",
            "Reads: one thread, warm page cache, `open_scan(chunks=None)`; NumPy asks for no huge pages, as above.",
            "Conversion: all files in turn, by one process without Dask; CPU seconds of all its threads.",
        ]
    if part == "scaling":
        return [
            subject,
            "Rates: seconds of a file on a worker, less those of one of next to nothing, by MB (10^6 bytes) of gzip.",
            "Four subjects are copies of the reference subject; the cores of this machine are shared by its workers.",
        ]
    return [subject, alternated]


def _notes_on_reads(options: argparse.Namespace) -> Iterator[str]:
    yield "Every reader's voxels were compared with nibabel's before it was timed."
    yield (
        f"{options.threads} thread(s) for everyone, by the settings of the libraries (zarr, zarrs, numcodecs, Blosc2, "
        f"tensorstore, Dask, Arrow, torch) and by keeping the process on {options.threads} core(s)."
    )
    yield (
        "NumPy asks for no huge pages (`NUMPY_MADVISE_HUGEPAGE=0`): in a virtual machine that reports free ones to its "
        "host, each may take milliseconds, and whole images take 0.5 or 3 s by chance."
    )
    yield "All read at the same random places, none of them twice. A turn ends after 0.2 s or 8 reads."
    yield (
        "Every read is from a closed store, whose files were dropped from the page cache before it."
        if options.cold
        else "Warm page cache: before a read that takes less than a second it was done once by a second, newly opened "
        "reader, before a longer one its files were read through."
    )
    yield (
        "The stores of niizarr and zarrnii were written by their own converters for two frames and lengthened frame by "
        "frame in the same chunks and codecs, as the converters need more memory than there is for all of them."
    )


def _notes_on_training() -> Iterator[str]:
    yield (
        "Patches of 96^3 of five images and the mask, float32, in batches of two. A batch of every loader was compared "
        "with nibabel's voxels."
    )
    yield (
        "Ours and nnU-Net's lie at the same places, none of them twice; MONAI and TorchIO draw their own, all over the "
        "volume."
    )
    yield (
        "An epoch has 48 patches, of those who load whole images 8 to 32. Worker processes stay from epoch to epoch, "
        "but TorchIO's, which it starts for each. One core for each process that reads."
    )
    yield (
        "Cold: files are dropped from the page cache before an epoch, so that its first patches come from the disk. "
        "Warm: they are read through before it."
    )

    yield (
        f"Memory: what a worker process has to itself, after {GROWTH_EPOCHS} epochs less after the first, one value a "
        "worker."
    )


def write(folder: Path, page: Path, results: Results, about: dict[str, Any], *, figures: str) -> None:
    """Write JSON, figures and page.

    Parameters
    ----------
    folder
        For JSON and figures.
    page
        The Markdown file.
    results, about
        The run, and by section how it was measured.
    figures
        Path from the page to the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results, about)
    write_figures(folder, results)
    page.write_text(markdown(results, about, figures=figures), encoding="utf-8")


if __name__ == "__main__":
    main()
