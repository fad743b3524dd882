"""What one run finds: numbers with what they are of and who made them, and the order in which runs take turns."""

from __future__ import annotations

import dataclasses
import random
import statistics
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

Key = TypeVar("Key")

OURS: Final = "isles24_zarr"
"""The name of this package's own readers and writers begins with it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One quantity, measured several times.

    Parameters
    ----------
    section
        The part of the suite, as ``"reads"``.
    measure
        What was measured, as ``"axial slice"``.
    by
        Who did it, as ``"HDF5 + Blosc"``.
    values
        One per run.
    unit
        ``"s"``, ``"MB"`` (10^6 bytes), ``"patches/s"`` or what is counted.
    """

    section: str
    measure: str
    by: str
    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; the only value twice, where there is one."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON document, with its median and quartiles for those who read it by eye."""
        row = dataclasses.asdict(self)
        return row | {"values": list(self.values), "median": self.median, "quartiles": list(self.quartiles)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read it back."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: row[name] for name in names if name != "values"}, values=tuple(row["values"]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What was not measured in a section, and why."""

    section: str
    what: str
    why: str


@dataclasses.dataclass(slots=True, kw_only=True)
class Results:
    """All that a run found.

    Parameters
    ----------
    measurements
        In the order in which they are shown.
    left_out
        What there are no measurements of.
    """

    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)

    def add(self, section: str, measure: str, by: str, values: Iterable[float], unit: str = "s") -> None:
        """Add a measurement."""
        found = Measurement(section=section, measure=measure, by=by, values=tuple(values), unit=unit)
        self.measurements.append(found)

    def leave_out(self, section: str, what: str, why: str) -> None:
        """Note what is not measured."""
        self.left_out.append(LeftOut(section=section, what=what, why=why))

    def extend(self, other: Results) -> None:
        """Add what another part of the run found."""
        self.measurements += other.measurements
        self.left_out += other.left_out

    def without(self, sections: Collection[str]) -> Results:
        """Return what was found in other sections."""
        return Results(
            measurements=[each for each in self.measurements if each.section not in sections],
            left_out=[each for each in self.left_out if each.section not in sections],
        )

    def of(self, section: str) -> Iterator[Measurement]:
        """Yield the measurements of a section."""
        return (each for each in self.measurements if each.section == section)

    def median(self, measure: str, by: str) -> float | None:
        """Return a median, ``None`` where it was not measured."""
        found = [each.median for each in self.measurements if (each.measure, each.by) == (measure, by)]
        return found[0] if found else None


def alternated(
    runs: Mapping[Key, Callable[[int], Sequence[float]]], *, rounds: int, seed: int
) -> dict[Key, list[float]]:
    """Run everything once in every round, in a new order each time, so that none has the quiet machine to itself.

    Parameters
    ----------
    runs
        Functions of the number of the round, which return what they measured.
    rounds
        How often.
    seed
        Of the orders.

    Returns
    -------
    dict
        All values of each.
    """
    rng = random.Random(seed)  # noqa: S311 - an order of runs, no secret
    found: dict[Key, list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        order = list(runs)
        rng.shuffle(order)
        for key in order:
            found[key] += runs[key](number)
    return found
