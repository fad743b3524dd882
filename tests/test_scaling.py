"""The model of a conversion on a cluster: what holds of any schedule, and of the sizes that it is given."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scaling
from benchmarks.measurement import OURS, Results
from benchmarks.report import markdown
from benchmarks.simulation import LARGEST, SIZES_MB, Order, Run, Task, ordered, release_megabytes, simulated
from isles24_zarr.conversion import planned
from isles24_zarr.tasks import cluster

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = st.sampled_from(["subjects", "files", "given"])
SECONDS = st.floats(0.001, 1000)


@st.composite
def tasks(draw: st.DrawFn) -> list[Task]:
    found = draw(st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 2000), SECONDS), min_size=1, max_size=40))
    return [Task(subject=subject, image=LARGEST, megabytes=size, seconds=seconds) for subject, size, seconds in found]


def busy_at_most(run: Run, moment: float) -> int:
    return sum(start <= moment < end for start, end in zip(run.starts, run.ends, strict=True))


@given(tasks(), st.integers(1, 50), ORDERS)
def test_the_bounds_of_list_scheduling(work: list[Task], workers: int, order: Order) -> None:
    run = simulated(work, workers, order=order)
    seconds = [task.seconds for task in work]
    total, longest = math.fsum(seconds), max(seconds)
    assert run.seconds == max(run.ends)
    assert run.seconds >= max(longest, total / workers) * (1 - 1e-9)
    assert run.seconds <= (total / workers + longest * (1 - 1 / workers)) * (1 + 1e-9)
    if workers == 1:
        assert run.seconds == pytest.approx(total)


@given(tasks(), st.integers(1, 50), ORDERS)
def test_nobody_does_two_things_and_nobody_waits_for_work(work: list[Task], workers: int, order: Order) -> None:
    run = simulated(work, workers, order=order)
    for task, start, end in zip(work, run.starts, run.ends, strict=True):
        assert end - start == pytest.approx(task.seconds)
        assert busy_at_most(run, start) <= workers
        before = math.nextafter(start, -math.inf)
        assert start == 0 or busy_at_most(run, before) == workers
    assert [run.starts[index] for index in ordered(work, order)] == sorted(run.starts)


@given(tasks())
def test_the_order_is_that_of_the_converter(work: list[Task]) -> None:
    sizes = [round(task.megabytes * 1e6) for task in work]
    groups = [f"{task.subject:04d}" for task in work]
    work = [dataclasses.replace(task, megabytes=float(size)) for task, size in zip(work, sizes, strict=True)]
    assert ordered(work, "subjects") == cluster._order(sizes, groups)
    assert ordered(work, "files") == cluster._order(sizes, None)
    assert ordered(work, "given") == list(range(len(work)))


@given(tasks(), st.integers(1, 50))
def test_more_workers_are_never_slower(work: list[Task], workers: int) -> None:
    assert simulated(work, workers + 1).seconds <= simulated(work, workers).seconds * (1 + 1e-9)


@given(tasks(), st.integers(1, 50), st.floats(0, 10), st.floats(0, 10))
def test_what_one_process_does_comes_on_top(work: list[Task], workers: int, dispatch: float, commit: float) -> None:
    free, run = simulated(work, workers), simulated(work, workers, dispatch=dispatch, commit=commit)
    subjects = len({task.subject for task in work})
    assert run.seconds >= max(free.seconds, len(work) * dispatch, subjects * commit) * (1 - 1e-9)
    assert run.seconds <= (free.seconds + len(work) * dispatch + subjects * commit) * (1 + 1e-9)


def test_sizes_are_those_of_the_release() -> None:
    sizes = release_megabytes()
    assert len(sizes) == 149
    for image, (smallest, median, largest) in SIZES_MB.items():
        found = [subject[image] for subject in sizes]
        assert (min(found), np.median(found), max(found)) == pytest.approx((smallest, median, largest))
    series = sorted(subject[LARGEST] for subject in sizes)
    total = sum(sum(subject.values()) for subject in sizes)
    assert 95_000 < total < 110_000  # an archive of 99 GB
    assert sum(series) / total == pytest.approx(0.75, abs=0.05)
    assert series[-1] > 1.9 * series[-2]


def test_files_of_the_synthetic_release_are_those_of_the_model(release: Path) -> None:
    plans, _ = planned(release)
    for plan in plans:
        assert {f"{each.group}/{each.image}" for each in plan.arrays} == SIZES_MB.keys()


def test_the_table_of_the_model_by_hand() -> None:
    results = Results()
    for workers in scaling.WORKERS:
        others = dict.fromkeys(scaling.IN_OTHER_ORDERS.values(), 7200.0)
        for measure, seconds in ((scaling.FULL, 7200 / workers), *others.items()):
            results.add(scaling.SECTION, measure, scaling.full_name(workers, 1), [seconds])
    for image in SIZES_MB:
        results.add(scaling.SECTION, f"{scaling.RATE}, {image}", scaling.cores_name(1), [0.1])
    results.add(scaling.SECTION, scaling.FIXED, scaling.cores_name(1), [0.01])
    for measure in (scaling.DISPATCH, scaling.COMMIT, scaling.LISTING, scaling.TABLE):
        results.add(scaling.SECTION, measure, OURS, [0.01])
    head, rows = scaling.model_rows(results)
    total = sum(sum(subject.values()) for subject in release_megabytes())
    assert rows[3] == ["8", "1", "0.250", "8.0", "100%", f"{total / 900:,.0f}", "2.000", "2.000"]
    assert all(len(row) == len(head) for row in rows)
    machine = {
        "cores": 1, "processor": "x", "memory_gb": 1, "system": "x", "python": "3", "load_before": 0, "packages": {},
    }  # fmt: skip
    about = {"scaling": {"command": "x", "date": "2026-01-01", "machine": machine, "notes": []}}
    page = markdown(results, about, figures=".")
    assert "the largest series (1,700 MB of gzip) 170 s: more than about" in page
    assert "| 8 | 1 | 0.250 | 8.0 | 100% |" in page
