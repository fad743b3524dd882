"""Moments and percentiles of values that come in parts: exact, in memory that the number of different values bounds.

A percentile lies between two values of certain ranks. They are found by radix selection: floating-point numbers become
whole numbers of the same order, whose first bits are counted, then the next bits of those that begin like a value which
is looked for, until nothing is left to tell them apart. So values of up to 32 bits are gone through twice, others up to
three times, and counts are all that is kept. Nothing is sampled, and nothing is approximate.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHIFTS: Final = (42, 20, 0)
"""Of a key of 64 bits, its digits begin here: 22, 22 and 20 bits."""
_SIGN: Final = np.uint64(1 << 63)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """What is known of voxels: of a block, a subject or a cohort.

    Parameters
    ----------
    voxels, nonfinite
        How many there are with a value, and without.
    uncomputed
        How many hold what stands for no value in a map of perfusion.
    mean, squares
        Mean, and sum of squared differences from it.
    low, high
        Least and largest value.
    digits, counts
        Keys cut off after a digit, and how many voxels have them; of those that begin like a value looked for.
    rest
        Bits that occur anywhere behind this digit; without any, keys that are cut off are whole.
    """

    voxels: int = 0
    nonfinite: int = 0
    uncomputed: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    digits: NDArray[np.uint64] = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))
    counts: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    rest: int = 0


def counts_of(values: NDArray[Any], shift: int = SHIFTS[0], begins: NDArray[np.uint64] | None = None) -> Counts:
    """Count values.

    Parameters
    ----------
    values
        Any shape and type.
    shift
        Where the digit begins that is counted, one of `SHIFTS`.
    begins
        With which keys, cut off after the digit before, they must begin; None for all.
    """
    chosen = values.ravel()
    finite = chosen[np.isfinite(chosen)].astype(np.float64) + 0.0  # -0.0 is 0.0
    nonfinite = chosen.size - finite.size
    if not finite.size:
        return Counts(nonfinite=nonfinite)
    mean = float(finite.mean())
    bits = finite.view(np.uint64)
    keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    if begins is not None:
        before = SHIFTS[SHIFTS.index(shift) - 1]
        keys = keys[np.isin(keys >> np.uint64(before), begins)]
    digits, counts = np.unique(keys >> np.uint64(shift), return_counts=True)
    return Counts(
        voxels=finite.size,
        nonfinite=nonfinite,
        mean=mean,
        squares=float(np.square(finite - mean).sum()),
        low=float(finite.min()),
        high=float(finite.max()),
        digits=digits,
        counts=counts.astype(np.int64),
        rest=int(np.bitwise_or.reduce(bits)) & ((1 << shift) - 1),
    )


def joined(one: Counts, other: Counts) -> Counts:
    """Return the counts of both together; moments after Chan, Golub and LeVeque (1983)."""
    voxels = one.voxels + other.voxels
    apart, share = other.mean - one.mean, other.voxels / max(1, voxels)
    digits, places = np.unique(np.concatenate([one.digits, other.digits]), return_inverse=True)
    counts = np.zeros(digits.size, np.int64)
    np.add.at(counts, places, np.concatenate([one.counts, other.counts]))
    return Counts(
        voxels=voxels,
        nonfinite=one.nonfinite + other.nonfinite,
        uncomputed=one.uncomputed + other.uncomputed,
        mean=one.mean + apart * share,
        squares=one.squares + other.squares + apart * apart * share * one.voxels,
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        digits=digits,
        counts=counts,
        rest=one.rest | other.rest,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """Values that are looked for, by their ranks.

    Parameters
    ----------
    keys
        With what the key of each begins.
    ranks
        Of each, among those that begin so.
    shift
        How many bits are not known yet.
    whole
        Whether those are none.
    """

    keys: NDArray[np.uint64]
    ranks: NDArray[np.int64]
    shift: int
    whole: bool

    @classmethod
    def of(cls, counts: Counts, shares: Sequence[float]) -> Selection:
        """Look for the two values around each percentile."""
        places = np.array([(counts.voxels - 1) * share / 100 for share in shares if counts.voxels])
        ranks = np.concatenate([np.floor(places), np.ceil(places)]).astype(np.int64)
        ends = np.cumsum(counts.counts)
        at = np.searchsorted(ends, ranks, side="right")
        return cls(
            keys=counts.digits[at],
            ranks=ranks - (ends - counts.counts)[at],
            shift=SHIFTS[0],
            whole=not counts.rest or not ranks.size,
        )

    @property
    def begins(self) -> NDArray[np.uint64]:
        """With what the keys begin that have to be counted; nothing where all is known."""
        return np.unique(self.keys)[: 0 if self.whole else None]

    def narrowed(self, counts: Counts, shift: int) -> Selection:
        """Look on among what was counted of the next digit."""
        if self.whole:
            return self
        keys, ranks = self.keys.copy(), self.ranks.copy()
        for number, (begin, rank) in enumerate(zip(self.keys, self.ranks, strict=True)):
            own = counts.digits >> np.uint64(self.shift - shift) == begin
            ends = np.cumsum(counts.counts[own])
            at = int(np.searchsorted(ends, rank, side="right"))
            keys[number], ranks[number] = counts.digits[own][at], rank - (ends[at] - counts.counts[own][at])
        return Selection(keys=keys, ranks=ranks, shift=shift, whole=not counts.rest)

    def values(self) -> NDArray[np.float64]:
        """Return the values that were found."""
        unknown = np.uint64((1 << self.shift) - 1)
        keys = self.keys << np.uint64(self.shift)
        # bits that nothing has are 0, in keys of negative numbers 1
        bits = np.where(keys & _SIGN, keys ^ _SIGN, ~(keys | unknown))
        return bits.view(np.float64)
