"""What was aimed at, and whether a run reached it."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks import cohort, conversion, converters, regions, training
from benchmarks.blosc import B2ND
from benchmarks.chunked import Hdf5, Ours, OursDask, TensorStore, ZarrsDirect
from benchmarks.loaders import MonaiDecoding, NnUNet, OurPatches
from benchmarks.measurement import OURS
from benchmarks.readers import HuggingFace, MemoryMap, NibabelFloat, NibabelGzip, NibabelIndexed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from benchmarks.measurement import Results
    from benchmarks.readers import Reader

BY_DASK: Final = " through Dask"
"""How measures end that are of a scan on Dask."""

WEIGHTED: Final = "weighted mean of all reads"
QUICKEST: Final = "of the time of the quickest peer"

PEERS: Final = (*B2ND, Hdf5, ZarrsDirect, TensorStore)
"""Who else would be taken to read series and volumes, in its best form."""


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
    yield from _training_targets()
    yield from _conversion_targets()
    yield from _cohort_targets()


def _faster(read: str, than: type[Reader], times: float) -> Target:
    value = partial(ratio, of=(read, than.name), to=(read, Ours.name))
    return Target(measure=read, against=f"times as fast as {than.name}", value=value, limit=times, at_least=True)


def _within(read: str, of: type[Reader], times: float) -> Target:
    value = partial(ratio, of=(read, Ours.name), to=(read, of.name))
    return Target(measure=read, against=f"of the time of {of.name}", value=value, limit=times)


def weighted(results: Results, by: str) -> float | None:
    """Return the weighted mean of a reader's medians, in seconds; ``None`` where it was not asked for all reads."""
    medians = {read: median for read in regions.WEIGHTS if (median := results.median(read, by)) is not None}
    return regions.weighted_mean(medians) if medians.keys() == regions.WEIGHTS.keys() else None


def best_peer(results: Results, among: Iterable[type[Reader]] = PEERS) -> str | None:
    """Return the name of the reader with the least weighted mean; ``None`` where none was asked for all reads."""
    means = {reader.name: mean for reader in among if (mean := weighted(results, reader.name)) is not None}
    return min(means, key=lambda name: means[name], default=None)


def quickest_peer(results: Results, read: str) -> str | None:
    """Return who is quickest at one read, of the peers that would be taken for all reads.

    Of b2nd this is one partition, as nobody keeps several: the one with the least weighted mean.
    """
    names = (*(reader.name for reader in PEERS if reader not in B2ND), best_peer(results, B2ND))
    medians = {name: median for name in names if name and (median := results.median(read, name)) is not None}
    return min(medians, key=lambda name: medians[name], default=None)


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
    yield Target(measure=WEIGHTED, against="of that of the best single peer", value=_to_best_peer, limit=1)
    for read in regions.READS[1:]:
        yield Target(measure=read, against=QUICKEST, value=partial(_to_quickest_peer, read=read), limit=1)


def _to_best_peer(results: Results) -> float | None:
    peer = best_peer(results)
    return _quotient(weighted(results, Ours.name), weighted(results, peer)) if peer else None


def _to_quickest_peer(results: Results, *, read: str) -> float | None:
    peer = quickest_peer(results, read)
    return ratio(results, of=(read, Ours.name), to=(read, peer)) if peer else None


def _dask_targets() -> Iterator[Target]:
    for read in (regions.FRAME, regions.WHOLE):
        value = partial(ratio, of=(read, OursDask.name), to=(read, Ours.name))
        yield Target(measure=f"{read}{BY_DASK}", against="of the time without Dask", value=value, limit=1.5)
    for read in (regions.AXIAL_CLOSED, regions.AXIAL):
        value = partial(excess, of=(read, OursDask.name), over=(read, ZarrsDirect.name))
        against = f"on top of {ZarrsDirect.name}"
        yield Target(measure=f"{read}{BY_DASK}", against=against, value=value, limit=10, unit="ms")


def _training_targets() -> Iterator[Target]:
    for cold in (False, True):
        measure = training.rate_name(training.WORKERS, training.METHODS[-1], cold=cold)
        for peer, times in ((NnUNet, 1.2), (MonaiDecoding, 10)):
            value = partial(ratio, of=(measure, OurPatches.name), to=(measure, peer.name))
            against = f"times those of {peer.name}"
            yield Target(measure=measure, against=against, value=value, limit=times, at_least=True)
    grown = training.growth_name(training.WORKERS, training.METHODS[-1])
    value = partial(_largest, measure=grown, by=OurPatches.name)
    yield Target(measure=grown, against="the larger of both", value=value, limit=10, unit="MB")


def _largest(results: Results, *, measure: str, by: str) -> float | None:
    found = [each.values for each in results.measurements if (each.measure, each.by) == (measure, by)]
    return max(found[0]) if found else None


def _conversion_targets() -> Iterator[Target]:
    seconds = conversion.SECONDS
    bound = (conversion.BOUND, "gunzip + encode")
    yield Target(
        measure=f"{seconds}, all cores",
        against="of the computed bound",
        value=lambda results: ratio(results, (seconds, all_workers(results)), bound),
        limit=1.4,
    )
    quarter = converters.QUARTER_SECONDS
    for name in converters.CONVERTERS:
        for suffix, times in (("", 6), (converters.NO_PYRAMIDS, 3)):
            value = partial(ratio, of=(quarter, f"{name}{suffix}"), to=(quarter, OURS))
            against = f"times as fast as {name}{suffix or ' at its defaults'}"
            yield Target(measure=quarter, against=against, value=value, limit=times, at_least=True)
    for peak in (conversion.PEAK, conversion.LONG_PEAK):
        value = partial(_worker_peak, measure=peak)
        yield Target(measure=peak, against="resident", value=value, limit=600, unit="MB")
    yield Target(
        measure="worker memory, from 45 to 135 frames",
        against="of that at 45",
        value=lambda results: _quotient(
            _worker_peak(results, measure=conversion.LONG_PEAK), _worker_peak(results, measure=conversion.PEAK)
        ),
        limit=1.1,
    )
    stored = partial(_median, measure=conversion.STORED)
    yield Target(measure="bytes stored", against="of the .nii.gz files", value=stored, limit=0.77)
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
