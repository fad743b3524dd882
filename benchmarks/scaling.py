"""The full release on many workers: what a file costs here, and a model of what a cluster makes of it.

Rates and costs are measured on one worker with one core and with all cores of this machine. The model is checked
against real conversions, which are as large as this machine can do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import isles24_zarr
from benchmarks.conversion import workers_name
from benchmarks.measurement import OURS, Results, alternated
from benchmarks.simulation import LARGEST, Order, Task, release_megabytes, simulated
from isles24_zarr.conversion import planned
from isles24_zarr.conversion._commit import clinical_record, publish_subject, write_cohort
from isles24_zarr.conversion._ingest import FileTask, convert_file
from isles24_zarr.release.source import Source
from isles24_zarr.store.objects import StorePlace
from isles24_zarr.tasks.cluster import completed_tasks, dask_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from distributed import Client

SECTION: Final = "scaling"
WORKERS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

RATE: Final = "seconds per MB of gzip"
FIXED: Final = "a file of next to nothing"
DISPATCH: Final = "handing out a task"
COMMIT: Final = "commit of a subject"
LISTING: Final = "listing and planning a subject"
TABLE: Final = "cohort table"
REAL: Final = "conversion of four subjects"
MODELLED: Final = "conversion of four subjects, modelled"
FULL: Final = "full release, modelled"
IN_OTHER_ORDERS: Final[dict[Order, str]] = {
    "files": "full release, the largest file first, modelled",
    "given": "full release in the order of its files, modelled",
}

_EMPTY_TASKS: Final = 500
_REAL_SUBJECTS: Final = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What work costs, in seconds.

    Parameters
    ----------
    rates
        Per MB of gzip, by grid and image.
    fixed, dispatch, commit, listing
        Per file on its worker, per file and per subject on the process that leads.
    table
        Once.
    """

    rates: dict[str, float]
    fixed: float
    dispatch: float
    commit: float
    listing: float
    table: float

    def tasks(self, sizes: Sequence[dict[str, float]]) -> list[Task]:
        """Return the tasks of subjects, given by the MB of their files."""
        return [
            Task(subject=number, image=image, megabytes=size, seconds=self.fixed + self.rates[image] * size)
            for number, subject in enumerate(sizes)
            for image, size in subject.items()
        ]

    def seconds(self, sizes: Sequence[dict[str, float]], workers: int, *, order: Order = "subjects") -> float:
        """Return how long a conversion takes, by the model."""
        tasks = self.tasks(sizes)
        run = simulated(tasks, workers, dispatch=self.dispatch, commit=self.commit, order=order)
        return self.listing * len(sizes) + run.seconds + self.table


def cores_name(cores: int) -> str:
    """Return what a worker with so many cores is called."""
    return f"a worker with {cores} core{'s' if cores > 1 else ''}"


def full_name(workers: int, cores: int) -> str:
    """Return what a cluster in the model is called."""
    return f"{workers} x {cores_name(cores)}"


def scaling(release: Path, folder: Path, *, repeats: int) -> Results:
    """Measure what work costs, model the full release, and convert a few subjects for real.

    Parameters
    ----------
    release
        Of one subject.
    folder
        To work in; a full run needs 10 GB.
    repeats
        Runs of each.
    """
    results = Results()
    every = len(os.sched_getaffinity(0))
    _measure_lead(results, release, folder, repeats=repeats)
    for cores in sorted({1, every}):
        _measure_files(results, release, folder, cores=cores, repeats=min(repeats, 3))
    for cores in sorted({1, every}):
        costs, sizes = measured_costs(results, cores), release_megabytes()
        for workers in WORKERS:
            results.add(SECTION, FULL, full_name(workers, cores), [costs.seconds(sizes, workers)])
        for order, measure in IN_OTHER_ORDERS.items():
            for workers in WORKERS:
                seconds = costs.seconds(sizes, workers, order=order)
                results.add(SECTION, measure, full_name(workers, cores), [seconds])
    _check_model(results, release, folder, repeats=min(repeats, 3))
    return results


def measured_costs(results: Results, cores: int) -> Costs:
    """Return medians of what was measured on workers with so many cores."""
    start, by = f"{RATE}, ", cores_name(cores)
    found = [each for each in results.of(SECTION) if each.by == by]
    medians = {each.measure: each.median for each in results.of(SECTION) if each.by == OURS}
    return Costs(
        rates={each.measure.removeprefix(start): each.median for each in found if each.measure.startswith(start)},
        fixed=next(each.median for each in found if each.measure == FIXED),
        dispatch=medians[DISPATCH],
        commit=medians[COMMIT],
        listing=medians[LISTING],
        table=medians[TABLE],
    )


@contextlib.contextmanager
def _workers(count: int, cores: int) -> Iterator[Client]:
    """Fresh workers that have imported what they need, kept on some of the cores."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    with dask_client(None, count) as client:
        # threads that a worker starts from now on, those of its tasks among them, are as it is
        client.run(os.sched_setaffinity, 0, chosen)
        client.run(_imported)
        yield client


def _imported() -> None:
    import isles24_zarr.conversion.converting  # noqa: F401 - so that no task pays for it


def nothing(task: int, topic: str) -> int:  # noqa: ARG001 - as all tasks
    """Do nothing, as a task."""
    return task


def _measure_lead(results: Results, release: Path, folder: Path, *, repeats: int) -> None:
    """Measure what the process that leads has to do by itself."""
    store = folder / "lead.zarr"
    isles24_zarr.convert(release, store, progress=False)
    source, opened = Source.of(release), StorePlace.of(store).opened(read_only=False)
    (subject,) = source.listed().subjects.values()
    (plan,), _ = planned(release)
    present = {array.path for array in plan.arrays}
    files = [*subject.images.values(), *subject.tables.values()]

    def commit() -> None:
        clinical, _ = clinical_record(subject, source)
        publish_subject(opened, plan, present=present, files=files, clinical=clinical, problems=())

    with _workers(len(os.sched_getaffinity(0)), len(os.sched_getaffinity(0))) as client:
        tasks, sizes = list(range(_EMPTY_TASKS)), [1] * _EMPTY_TASKS

        def dispatch() -> None:
            for _ in completed_tasks(client, nothing, tasks, sizes=sizes, title="", progress=False):
                pass

        runs = {
            DISPATCH: _timed(dispatch, times=_EMPTY_TASKS),
            COMMIT: _timed(commit),
            LISTING: _timed(functools.partial(planned, release)),
            TABLE: _timed(functools.partial(write_cohort, opened, {})),
        }
        for measure, seconds in alternated(runs, rounds=repeats, seed=5).items():
            results.add(SECTION, measure, OURS, seconds)
    shutil.rmtree(store)


def _timed(function: Any, times: int = 1) -> Any:
    def run(_: int) -> list[float]:
        started = time.perf_counter()
        function()
        return [(time.perf_counter() - started) / times]

    return run


def timed_file(task: FileTask, topic: str) -> float:
    """Convert a file on a worker, and return the seconds that it takes."""
    started = time.perf_counter()
    if not convert_file(task, topic).present:
        raise RuntimeError(f"{task.plan.path} was not converted")
    return time.perf_counter() - started


def _measure_files(results: Results, release: Path, folder: Path, *, cores: int, repeats: int) -> None:
    """Measure what files cost a worker: next to empty ones, then those of the reference subject, by image."""
    by = cores_name(cores)
    with _workers(1, cores) as client:
        tiny = isles24_zarr.synthesize(folder / "tiny", subjects=1, scale="tiny")
        _file_seconds(client, tiny, folder)  # with all that is done once
        fixed = [statistics.median(_file_seconds(client, tiny, folder).values()) for _ in range(repeats)]
        results.add(SECTION, FIXED, by, fixed)
        rates: dict[str, list[float]] = {}
        plans, _ = planned(release)
        sizes = {f"{array.group}/{array.image}": array.source.size / 1e6 for array in plans[0].arrays}
        for _ in range(repeats):
            for image, seconds in _file_seconds(client, release, folder).items():
                # a toy file may take no longer than one of next to nothing
                rates.setdefault(image, []).append(max(seconds - statistics.median(fixed), 1e-6) / sizes[image])
        for image, seconds_per_mb in rates.items():
            results.add(SECTION, f"{RATE}, {image}", by, seconds_per_mb)
    shutil.rmtree(tiny)


def _file_seconds(client: Client, release: Path, folder: Path) -> dict[str, float]:
    source, store = Source.of(release), folder / "files.zarr"
    plans, _ = planned(release)
    tasks = [
        FileTask(source=source, target=StorePlace.of(store), plan=array, unchanged=False)
        for plan in plans
        for array in plan.arrays
    ]
    sizes = [task.plan.nbytes for task in tasks]
    found: dict[str, float] = {}
    for task, seconds in completed_tasks(client, timed_file, tasks, sizes=sizes, title="", progress=False):
        if not isinstance(seconds, float):
            raise RuntimeError(f"{task.plan.path}: {seconds.why}")  # noqa: TRY004 - what was lost, and why
        found[f"{task.plan.group}/{task.plan.image}"] = seconds
    shutil.rmtree(store)
    return found


def _check_model(results: Results, release: Path, folder: Path, *, repeats: int) -> None:
    """Convert several subjects on one worker with all cores, and on one for each core, and by the model."""
    several = repeated(release, folder / "several", subjects=_REAL_SUBJECTS)
    plans, _ = planned(several)
    sizes = [{f"{each.group}/{each.image}": each.source.size / 1e6 for each in plan.arrays} for plan in plans]
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        runs: dict[str, Any] = {}
        for count in sorted({1, cores}):
            client = stack.enter_context(_workers(count, cores))
            store = folder / f"real-{count}.zarr"
            run = functools.partial(isles24_zarr.convert, several, store, client=client, overwrite=True, progress=False)
            runs[workers_name(count)] = _timed(run)
        for by, seconds in alternated(runs, rounds=repeats, seed=6).items():
            results.add(SECTION, REAL, by, seconds)
    for count in sorted({1, cores}):
        modelled = measured_costs(results, cores // count).seconds(sizes, count)
        results.add(SECTION, MODELLED, workers_name(count), [modelled])
        shutil.rmtree(folder / f"real-{count}.zarr")
    shutil.rmtree(several)


def repeated(release: Path, folder: Path, *, subjects: int) -> Path:
    """Make a release of several subjects of a release of one: the same files, by hard links, under other names."""
    (name,) = isles24_zarr.scan(release).subjects
    for path in release.rglob("*"):
        for number in range(subjects) if path.is_file() else ():
            copy = folder / str(path.relative_to(release)).replace(name, f"sub-stroke{number + 1:04d}")
            if not copy.exists():  # the data dictionary belongs to all
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.hardlink_to(path)
    return folder


def model_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of the model."""
    head = ["workers", "cores of each", "hours", "speed-up", "efficiency", "gzip read, MB/s"]
    head += ["largest files first, hours", "files as listed, hours"]
    megabytes = sum(sum(subject.values()) for subject in release_megabytes())
    rows = []
    for cores in _modelled_cores(results):
        alone = results.median(FULL, full_name(1, cores)) or 0.0
        for workers in WORKERS:
            name = full_name(workers, cores)
            seconds = results.median(FULL, name) or 0.0
            others = [results.median(measure, name) or 0.0 for measure in IN_OTHER_ORDERS.values()]
            times = alone / seconds
            row = [str(workers), str(cores), f"{seconds / 3600:.3f}", f"{times:.1f}", f"{times / workers:.0%}"]
            rows.append([*row, f"{megabytes / seconds:,.0f}", *(f"{each / 3600:.3f}" for each in others)])
    return head, rows


def _modelled_cores(results: Results) -> list[int]:
    return [
        cores for cores in range(1, (os.cpu_count() or 1) + 1) if results.median(FULL, full_name(1, cores)) is not None
    ]


def remarks(results: Results) -> Iterator[str]:
    """Say where it stops scaling, and why."""
    sizes = release_megabytes()
    total = sum(sum(subject.values()) for subject in sizes) / 1e3
    largest = max(subject[LARGEST] for subject in sizes)
    yield (
        f"The model: {len(sizes)} subjects, {sum(map(len, sizes)):,} files, {total:,.0f} GB of gzip, with the "
        "smallest, median and largest size of each image of the real release; the rates are those of the synthetic "
        "subject. Storage is taken to keep up: compare the MB/s with what yours gives."
    )
    for cores in _modelled_cores(results):
        costs = measured_costs(results, cores)
        alone = costs.fixed + costs.rates[LARGEST] * largest
        work = sum(task.seconds for task in costs.tasks(sizes))
        yield (
            f"With {cores} core{'s' if cores > 1 else ''} for each worker, all files take one of them "
            f"{work / 3600:.2f} hours, and the largest series ({largest:,.0f} MB of gzip) {alone:,.0f} s: more than "
            f"about {work / alone:,.0f} workers wait for it, since one stream of gzip is unpacked by one thread. "
            f"Listing before the first task takes {costs.listing * len(sizes):,.0f} s, all commits "
            f"{costs.commit * len(sizes):,.0f} s, by the one process that leads."
        )
    yield (
        "What is done about it: the subject with the largest series is first, so that this one starts at once (the "
        "last column is without); the files of a subject follow each other, so that commits are made while others are "
        "worked on and not all at the end, which is worth more than what the largest files first would save; and a "
        "task encodes by threads of its own what it reads, so that only unpacking is serial where a worker finds a "
        "second core."
    )
