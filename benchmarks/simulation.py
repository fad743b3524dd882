"""A conversion without a cluster: which worker does which file when, given how long each takes.

What is simulated is what `isles24_zarr.cluster.completed_tasks` and Dask do: the files of a subject after each other,
the subject with the largest file first, each file to the worker that is free first (list scheduling; R. L. Graham,
Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17, 1969); and one process that hands them out and
commits each subject after its last.
"""

from __future__ import annotations

import dataclasses
import heapq
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Order = Literal["subjects", "files", "given"]

LARGEST: Final = "space-ncct/ctp"
SUBJECTS: Final = 149

SIZES_MB: Final[Mapping[str, tuple[float, float, float]]] = {
    LARGEST: (192, 493, 1700),
    "space-ncct/cta": (8, 16, 30),
    "space-ncct/tmax": (3, 9, 19),
    "space-ncct/mtt": (3, 9, 19),
    "space-ncct/cbf": (3, 9, 19),
    "space-ncct/cbv": (3, 9, 19),
    "space-ncct/dwi": (4, 24, 44),
    "space-ncct/adc": (9, 25, 45),
    "space-ncct/lesion_mask": (0.03, 0.7, 1.7),
    "space-ncct/lvo_mask": (0.05, 0.09, 0.2),
    "space-ncct/cow_mask": (0.05, 0.09, 0.2),
    "space-ncct/ncct": (6, 14, 29),
    "space-cta/cta": (7, 44, 86),
    "space-ctp/ctp": (11, 44, 67),
    "space-ctp/tmax": (0.05, 0.9, 1.3),
    "space-ctp/mtt": (0.05, 0.9, 1.3),
    "space-ctp/cbf": (0.05, 0.9, 1.3),
    "space-ctp/cbv": (0.05, 0.9, 1.3),
}
"""Smallest, median and largest .nii.gz of the release, in MB of 10^6 bytes, by grid and image."""

_TAILS: Final = {LARGEST: 60.0}
"""How thin tails are, 1 for sizes whose logarithms are spread evenly. One series is several times its peers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One file.

    Parameters
    ----------
    subject
        Whose commit waits for it.
    image
        Grid and image.
    megabytes
        Of gzip.
    seconds
        That a worker takes for it.
    """

    subject: int
    image: str
    megabytes: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A simulated conversion.

    Parameters
    ----------
    starts, ends
        Of the tasks, in the order in which they were given.
    seconds
        When the last subject was committed.
    """

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    seconds: float


def simulated(
    tasks: Sequence[Task],
    workers: int,
    *,
    dispatch: float = 0.0,
    commit: float = 0.0,
    order: Order = "subjects",
) -> Run:
    """Simulate a conversion.

    Parameters
    ----------
    tasks
        In any order.
    workers
        How many there are, one task at a time each.
    dispatch
        Seconds that handing out a task takes, one after the other.
    commit
        Seconds that the commit of a subject takes, one after the other.
    order
        ``"subjects"``: as the converter does; ``"files"``: the largest file first, whose ever it is; ``"given"``.
    """
    free = [0.0] * workers
    starts, ends = [0.0] * len(tasks), [0.0] * len(tasks)
    for number, index in enumerate(ordered(tasks, order), start=1):
        starts[index] = max(heapq.heappop(free), number * dispatch)
        ends[index] = starts[index] + tasks[index].seconds
        heapq.heappush(free, ends[index])
    last: dict[int, float] = {}
    for task, end in zip(tasks, ends, strict=True):
        last[task.subject] = max(end, last.get(task.subject, 0.0))
    committed = 0.0
    for end in sorted(last.values()):
        committed = max(committed, end) + commit
    return Run(starts=tuple(starts), ends=tuple(ends), seconds=committed)


def ordered(tasks: Sequence[Task], order: Order) -> list[int]:
    """Return the places of tasks in the order in which they are handed out."""
    largest: dict[int, float] = {}
    for task in tasks:
        largest[task.subject] = max(task.megabytes, largest.get(task.subject, 0.0))

    def key(index: int) -> tuple[float, ...]:
        task = tasks[index]
        by_subject = (-largest[task.subject], task.subject) if order == "subjects" else ()
        return () if order == "given" else (*by_subject, -task.megabytes)

    return sorted(range(len(tasks)), key=key)


def release_megabytes(subjects: int = SUBJECTS) -> list[dict[str, float]]:
    """Return sizes of all files of a release like the real one: its extremes and medians, shuffled among subjects.

    Parameters
    ----------
    subjects
        How many, an odd number: one of them is the median.

    Returns
    -------
    list
        By subject: MB of gzip by grid and image. Between smallest, median and largest, sizes grow geometrically.
    """
    rng = np.random.default_rng(0)
    place = np.linspace(-1, 1, subjects)
    columns = {}
    for image, (smallest, median, largest) in SIZES_MB.items():
        tail = np.abs(place) ** _TAILS.get(image, 1.0)
        columns[image] = rng.permutation(median * np.where(place < 0, smallest / median, largest / median) ** tail)
    return [{image: float(sizes[number]) for image, sizes in columns.items()} for number in range(subjects)]
