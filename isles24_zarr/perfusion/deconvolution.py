"""Deconvolution of time curves by an arterial input: from enhancement to flow, volume and delay of blood.

By the indicator-dilution model [1]_, the enhancement of tissue is that of its artery, a, convolved with k R(t): k is
the flow in 1/s, and R, the residue function, tells which part of an instantaneous bolus is still in the tissue after t.
Delay only shifts R where the artery is taken for a circle in time, long enough to never meet its own end:
block-circulant deconvolution [2]_. A circulant matrix is diagonal in the frequency domain, where its singular values
are the amplitudes of the artery's spectrum; truncating small ones is dropping frequencies. As all of it is linear in
the curves, one matrix holds baseline, smoothing and resampling in time, and deconvolution: a block of voxels costs a
matrix product.

References
----------
.. [1] Ostergaard L, Weisskoff RM, Chesler DA, Gyldensted C, Rosen BR. High resolution measurement of cerebral blood
flow
   using intravascular tracer bolus passages. Part I. Magn Reson Med 1996;36:715-725. doi:10.1002/mrm.1910360510.
.. [2] Wu O, Ostergaard L, Weisskoff RM, et al. Tracer arrival timing-insensitive technique for estimating flow in MR
   perfusion-weighted imaging using singular value decomposition with a block-circulant deconvolution matrix. Magn Reson
   Med 2003;50:164-174. doi:10.1002/mrm.10522.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from isles24_zarr.analysis import bolus_arrivals
from isles24_zarr.errors import PerfusionError, UnknownNameError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.floating[Any]]

DeconvolutionMethod = Literal["bcsvd", "osvd"]
METHODS: Final = ("bcsvd", "osvd")

OSCILLATION_LIMIT: Final = 0.035
"""Oscillation index up to which a residue function is taken, by Wu 2003 for the block-circulant variant."""

_TRUNCATIONS: Final = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Tried one after the other by the oscillation-index variant, the last one without a condition."""

_LEAD_SECONDS: Final = 5.0
"""How much earlier than at the arterial input blood is looked for in tissue: the input may lie beyond an occlusion."""

_LONGEST_STEP: Final = 1.5
"""In s; curves of slower series are interpolated, as residue functions between frames are not straight."""

_VOXELS_AT_ONCE: Final = 16384
"""As many curves and residues, in single precision, stay near the processor."""


class Flows(NamedTuple):
    """What deconvolution says of curves, arrays of one shape.

    Attributes
    ----------
    flow
        Maximum of the residue function, in 1/s: blood in mL per mL and second.
    volume
        Its area, without unit: blood in mL per mL.
    delay
        When it is largest, in s: Tmax. Negative where blood comes earlier than at the arterial input.
    """

    flow: Floats
    volume: Floats
    delay: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deconvolution:
    """Deconvolution by one arterial input, made by `deconvolution_of`.

    Parameters
    ----------
    residues
        One matrix for each truncation that is tried, (lags, frames), in 1/s: from a curve to its residue function.
    area
        (frames,): from a curve to the area of its residue function.
    first_lag, step
        Of the lags, in s.
    searched
        In so many lags the residue function is looked for; the others, where there are any, are those of the circle.
    """

    residues: tuple[NDArray[np.float64], ...]
    area: NDArray[np.float64]
    first_lag: float
    step: float
    searched: int

    def residue(self, curves: ArrayLike) -> Floats:
        """Return residue functions times flow, (lags, ...) in 1/s, of curves (frames, ...), by the first truncation."""
        return np.asarray(np.tensordot(self.residues[0], np.asarray(curves, dtype=np.float64), axes=1))

    def flows(self, curves: ArrayLike) -> Flows:
        """Return flow, volume and delay of curves.

        Parameters
        ----------
        curves
            (frames, ...), with their baseline, in the units of the arterial input.

        Returns
        -------
        Flows
            float32 arrays (...); NaN where a curve has a value that is not finite.
        """
        curves = np.asarray(curves)
        columns = curves.reshape(len(curves), -1)
        found = np.empty((3, columns.shape[1]), np.float32)
        matrices = [
            np.ascontiguousarray(np.vstack([matrix, self.area]).T, dtype=np.float32) for matrix in self.residues
        ]
        for start in range(0, columns.shape[1], _VOXELS_AT_ONCE):
            part = slice(start, start + _VOXELS_AT_ONCE)
            found[:, part] = self._flows_of(np.ascontiguousarray(columns[:, part].T, dtype=np.float32), matrices)
        flow, volume, delay = found.reshape(3, *curves.shape[1:])
        return Flows(flow, volume, delay)

    def _flows_of(self, curves: NDArray[np.float32], matrices: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return flow, volume and delay, (3, voxels), of curves (voxels, frames)."""
        found = np.empty((3, len(curves)), np.float32)
        left = np.arange(len(curves))
        with np.errstate(invalid="ignore"):
            for matrix in matrices:
                residue = curves[left] @ matrix if left.size < len(curves) else curves @ matrix
                found[:, left] = self._peaks(residue)
                if len(matrices) > 1:
                    left = left[_oscillation(residue[:, :-1]) > OSCILLATION_LIMIT]
        return found

    def _peaks(self, residue: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return flow, volume and delay of residue functions (voxels, lags + 1), the last of which is their area."""
        lags = self.searched
        rows = np.arange(len(residue))
        peak = residue[:, :lags].argmax(axis=1)
        highest = residue[rows, peak]
        # the vertex of the parabola through the peak and its neighbours lies between frames, and above them
        inner = np.clip(peak, 1, lags - 2)
        before, at, after = (residue[rows, inner + offset] for offset in (-1, 0, 1))
        bend = before - 2 * at + after
        curved = (inner == peak) & (bend < 0)
        shift = np.divide((before - after) / 2, bend, out=np.zeros_like(at), where=curved)
        flow = np.where(curved, at - (before - after) * shift / 4, highest)
        delay = (self.first_lag + (peak + shift) * self.step).astype(np.float32)
        volume = residue[:, -1]
        finite = np.isfinite(volume)
        return np.stack([np.where(finite, each, np.float32(np.nan)) for each in (flow, volume, delay)])


def _oscillation(residue: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the oscillation index of residue functions (voxels, lags): mean second difference over maximum."""
    second = np.abs(np.diff(residue, n=2, axis=1)).sum(axis=1)
    return np.asarray(second / residue.shape[1] / residue.max(axis=1))


def deconvolution_of(
    arterial_input: ArrayLike,
    times: ArrayLike,
    *,
    method: DeconvolutionMethod = "bcsvd",
    truncation: float = 0.1,
    baseline_frames: int | None = None,
    smoothing: float = 0.0,
) -> Deconvolution:
    """Prepare deconvolution by an arterial input.

    Parameters
    ----------
    arterial_input
        (frames,), in any units, such as HU: those of the curves to come.
    times
        (frames,), of all curves, in s, ascending; their steps may differ.
    method
        ``"bcsvd"``: block-circulant, one truncation for all; ``"osvd"``: of each curve the smallest truncation by which
        its residue function oscillates no more than `OSCILLATION_LIMIT`.
    truncation
        Of ``"bcsvd"``: singular values below this part of the largest are left out.
    baseline_frames
        The mean of so many frames is subtracted from every curve; by default, those before the bolus arrives in the
        arterial input, see
        `analysis.bolus_arrivals`. 0 for curves without a baseline.
    smoothing
        Standard deviation in s of a Gaussian by which all curves are smoothed in time.

    Returns
    -------
    Deconvolution

    Raises
    ------
    PerfusionError
        Times do not ascend, there are fewer than four, or the input holds no bolus.
    UnknownNameError
        There is no such method, or the truncation is not between 0 and 1.

    Notes
    -----
    With the inputs a sampled at even steps dt and padded by as many zeros, of the spectrum A = dt FFT(a) and that of a
    curve C, the residue function is the inverse transform of C / A where abs(A) reaches the truncation, and 0
    elsewhere. Uneven times are interpolated linearly at the smallest step; steps of more than 1.5 s are divided.

    Examples
    --------
    >>> import numpy as np
    >>> times = np.arange(40.0)
    >>> artery = 300 * np.exp(-((times - 12) ** 2) / 18)
    >>> tissue = 0.01 * np.convolve(artery, np.exp(-times / 4))[:40]  # 60 mL/100 mL/min, for 4 s
    >>> flows = deconvolution_of(artery, times, baseline_frames=0).flows(tissue)
    >>> [round(float(each), 3) for each in flows]
    [0.006, 0.045, 1.765]
    """
    arterial, seconds = np.asarray(arterial_input, np.float64), np.asarray(times, np.float64)
    if method not in METHODS:
        raise UnknownNameError(repr(method), f"is no method of deconvolution, there are {', '.join(METHODS)}")
    if not 0 < truncation < 1:
        raise UnknownNameError(truncation, "is not between 0 and 1, which a truncation is")
    if arterial.shape != seconds.shape or arterial.ndim != 1 or arterial.size < 4:
        raise PerfusionError("the arterial input", f"has the shape {arterial.shape}, there are {seconds.size} times")
    if not (np.diff(seconds) > 0).all() or not np.isfinite(arterial).all():
        raise PerfusionError("the arterial input", "is not finite, or its times do not ascend")
    frames = int(bolus_arrivals(arterial)) if baseline_frames is None else baseline_frames
    prepare = _even_times(seconds) @ _smoothing(seconds, smoothing) @ _without_baseline(seconds.size, frames)
    step = _step(seconds)
    artery = prepare @ arterial
    if artery.sum() <= 0:
        raise PerfusionError(
            "the arterial input", "does not rise above its baseline; look at its curve and choose another"
        )
    count, length = artery.size, 2 * artery.size
    spectrum = np.fft.rfft(artery, length) * step
    lead = min(count - 1, round(_LEAD_SECONDS / step))
    kept = 2 * count if method == "osvd" else lead + count
    lags = (np.arange(kept) - lead)[:, None] - np.arange(count)
    residues = []
    for part in _TRUNCATIONS if method == "osvd" else (truncation,):
        passed = np.abs(spectrum) >= part * np.abs(spectrum).max()
        inverse = np.fft.irfft(np.divide(1, spectrum, out=np.zeros_like(spectrum), where=passed), length)
        residues.append(inverse[lags % length] @ prepare)
    return Deconvolution(
        residues=tuple(residues),
        area=prepare.sum(axis=0) / artery.sum(),
        first_lag=-lead * step,
        step=step,
        searched=lead + count,
    )


def _without_baseline(count: int, frames: int) -> NDArray[np.float64]:
    """Return the matrix (frames, frames) that subtracts the mean of the first frames."""
    return np.eye(count) - ((np.arange(count) < frames) / max(1, frames))


def _step(seconds: NDArray[np.float64]) -> float:
    """Return the step of even times in s: the smallest that there is, or the part of it that is short enough."""
    steps = np.diff(seconds)
    smallest = max(float(steps.min()), float(np.median(steps)) / 4)  # one odd time must not make thousands of samples
    return smallest / max(1, math.ceil(smallest / _LONGEST_STEP))


def _even_times(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (samples, frames) that interpolates linearly at even steps of `_step`."""
    step = _step(seconds)
    even = seconds[0] + step * np.arange(round((seconds[-1] - seconds[0]) / step) + 1)
    columns = [np.interp(even, seconds, unit) for unit in np.eye(seconds.size)]
    return np.stack(columns, axis=1)


def _smoothing(seconds: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return the matrix (frames, frames) that smooths by a Gaussian, whose rows add up to 1."""
    if deviation <= 0:
        return np.eye(seconds.size)
    weights = np.exp(-((seconds[:, None] - seconds) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
