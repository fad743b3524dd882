"""What was aimed at, and whether a run reached it."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks import cohort, conversion, converters, regions
from benchmarks.chunked import Hdf5, NiftiZarr, Ours, OursDask, TensorStore, ZarrNii, ZarrsDirect
from benchmarks.measurement import OURS
from benchmarks.readers import HuggingFace, MemoryMap, NibabelFloat, NibabelGzip, NibabelIndexed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measurement import Results
    from benchmarks.readers import Reader

BY_DASK: Final = " through Dask"
"""How measures end that are of a scan on Dask."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A number that was aimed at.

    Parameters
    ----------
    measure, against
        What is measured, and compared with what.
    value
        The number, of a run; ``None`` where it did not measure it.
    limit
        What it should be at most, or, if `at_least`, at least.
    unit
        ``"x"`` for ratios of medians.
    """

    measure: str
    against: str
    value: Callable[[Results], float | None]
    limit: float
    at_least: bool = False
    unit: str = "x"

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g} {self.unit}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target, and what a run has to say about it.

    Parameters
    ----------
    target
        What was aimed at.
    value
        What was measured; ``None`` for nothing.
    """

    target: Target
    value: float | None

    @property
    def met(self) -> bool | None:
        """Whether it was reached; ``None`` where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.target.limit if self.target.at_least else self.value <= self.target.limit

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON document."""
        names = {"measure": self.target.measure, "against": self.target.against, "target": self.target.wanted}
        return {**names, "value": self.value, "unit": self.target.unit, "met": self.met}


def ratio(results: Results, of: tuple[str, str], to: tuple[str, str]) -> float | None:
    """Return one median over another, each given by what was measured and who did it."""
    above, below = results.median(*of), results.median(*to)
    return above / below if above is not None and below else None


def excess(results: Results, of: tuple[str, str], over: tuple[str, str]) -> float | None:
    """Return by how many milliseconds one median exceeds another."""
    above, below = results.median(*of), results.median(*over)
    return (above - below) * 1000 if above is not None and below is not None else None


def verdicts(results: Results) -> list[Verdict]:
    """Compare a run with all targets."""
    return [Verdict(target=target, value=target.value(results)) for target in targets()]


def targets() -> Iterator[Target]:
    """Yield all targets, in the order of the page."""
    yield from _closed_slice_targets()
    yield from _read_targets()
    yield from _dask_targets()
    yield from _conversion_targets()
    yield from _cohort_targets()


def _faster(read: str, than: type[Reader], times: float) -> Target:
    value = partial(ratio, of=(read, than.name), to=(read, Ours.name))
    return Target(measure=read, against=f"times as fast as {than.name}", value=value, limit=times, at_least=True)


def _within(read: str, of: type[Reader], times: float, reader: type[Reader] = Ours) -> Target:
    value = partial(ratio, of=(read, reader.name), to=(read, of.name))
    through = BY_DASK if reader is OursDask else ""
    return Target(measure=f"{read}{through}", against=f"of the time of {of.name}", value=value, limit=times)


def _closed_slice_targets() -> Iterator[Target]:
    read = regions.AXIAL_CLOSED
    yield _faster(read, NibabelGzip, 200)
    yield _faster(read, HuggingFace, 200)
    yield _faster(read, NibabelFloat, 1000)
    yield _faster(read, NibabelIndexed, 15)
    yield _within(read, Hdf5, 0.6)
    yield _within(read, TensorStore, 1.2)
    yield _within(read, MemoryMap, 8)


def _read_targets() -> Iterator[Target]:
    for read in regions.READS[1:]:
        if read == regions.WHOLE:
            yield _within(read, NibabelGzip, 1)
        for reader in (Hdf5, NiftiZarr, ZarrNii):
            yield _within(read, reader, 0.7)
        yield _within(read, TensorStore, 1.3)


def _dask_targets() -> Iterator[Target]:
    for read in regions.BLOCKS:
        yield _within(read, ZarrsDirect, 1.5, OursDask)
    for read in (regions.AXIAL_CLOSED, regions.AXIAL):
        value = partial(excess, of=(read, OursDask.name), over=(read, ZarrsDirect.name))
        against = f"on top of {ZarrsDirect.name}"
        yield Target(measure=f"{read}{BY_DASK}", against=against, value=value, limit=10, unit="ms")


def _conversion_targets() -> Iterator[Target]:
    seconds = conversion.SECONDS
    bound = (conversion.BOUND, "gunzip + encode")
    yield Target(
        measure=f"{seconds}, all cores",
        against="of the computed bound",
        value=lambda results: ratio(results, (seconds, all_workers(results)), bound),
        limit=1.35,
    )
    quarter = converters.QUARTER_SECONDS
    for name in converters.CONVERTERS:
        for suffix, times in (("", 6), (converters.NO_PYRAMIDS, 3)):
            value = partial(ratio, of=(quarter, f"{name}{suffix}"), to=(quarter, OURS))
            against = f"times as fast as {name}{suffix or ' at its defaults'}"
            yield Target(measure=quarter, against=against, value=value, limit=times, at_least=True)
    for peak in (conversion.PEAK, conversion.LONG_PEAK):
        value = partial(_worker_peak, measure=peak)
        yield Target(measure=peak, against="resident", value=value, limit=800, unit="MB")
    yield Target(
        measure="worker memory, from 45 to 135 frames",
        against="of that at 45",
        value=lambda results: _quotient(
            _worker_peak(results, measure=conversion.LONG_PEAK), _worker_peak(results, measure=conversion.PEAK)
        ),
        limit=1.1,
    )
    stored = partial(_median, measure=conversion.STORED)
    yield Target(measure="bytes stored", against="of the .nii.gz files", value=stored, limit=0.75)
    files = partial(_median, measure=conversion.FILES)
    yield Target(measure="files of a subject", against="all told", value=files, limit=60, unit="files")


def _median(results: Results, *, measure: str) -> float | None:
    return results.median(measure, OURS)


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def _worker_peak(results: Results, *, measure: str) -> float | None:
    found = [max(each.values) for each in results.measurements if each.measure == measure and each.by.startswith(OURS)]
    return max(found, default=None)


def all_workers(results: Results) -> str:
    """Return our converter's name with as many workers as the run had cores; with one, where it had no more."""
    names = [each.by for each in results.measurements if each.measure == conversion.SECONDS]
    return max(names, default=conversion.workers_name(1), key=lambda name: int(name.split()[-2]))


def _cohort_targets() -> Iterator[Target]:
    small, middle, large = cohort.SIZES
    opened = cohort.open_name
    yield Target(
        measure=opened(middle),
        against=f"times as fast as {cohort.DATATREE}",
        value=partial(ratio, of=(opened(middle), cohort.DATATREE), to=(opened(middle), OURS)),
        limit=50,
        at_least=True,
    )
    for name in (opened, cohort.scan_name):
        value = partial(ratio, of=(name(large), OURS), to=(name(middle), OURS))
        yield Target(measure=name(large), against=f"of the time with {middle}", value=value, limit=1.5)
    for size in (small, middle):
        measure = cohort.map_name(size)
        one, two = ((measure, conversion.workers_name(count)) for count in (1, 2))
        value = partial(ratio, of=one, to=two)
        yield Target(measure=measure, against="faster with two workers", value=value, limit=1.8, at_least=True)
