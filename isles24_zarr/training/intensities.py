"""Mean, standard deviation and percentiles of images over a cohort: exact, by blocks, whatever its size.

Tasks count the voxels of a subject, and send counts. Images of up to 32 bits are read twice, others up to three times.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from isles24_zarr.analysis import LabelRule, block_results, computed_voxels, label_rule
from isles24_zarr.cohorts import cohort_target, subject_names
from isles24_zarr.errors import ClusterLostError, Isles24Error, UnknownNameError
from isles24_zarr.perfusion import scan_brain
from isles24_zarr.training._selection import SHIFTS, Counts, Selection, counts_of, joined
from isles24_zarr.training.channels import Channel
from isles24_zarr.training.opening import cohort_channels, opened_channels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    import xarray as xr
    from distributed import Client
    from numpy.typing import NDArray

    from isles24_zarr.store import StorePlace
    from isles24_zarr.training.channels import ChannelLike


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Reading:
    """What a task counts of one subject.

    Parameters
    ----------
    target, subject, space
        Of the scan.
    channels
        Whose voxels.
    computed
        Voxels of maps in which nothing was computed are left out.
    mask, threshold
        Where: None, ``"brain"``, or a channel that is a mask; and from which fraction on a soft one counts.
    shift
        Where the digit begins that is counted.
    begins
        For each channel, with which keys, cut off after the digit before, voxels must begin; None for all.
    """

    target: StorePlace
    subject: str
    space: str
    channels: tuple[Channel, ...]
    computed: bool
    mask: str | Channel | None
    threshold: float | None
    shift: int
    begins: tuple[NDArray[np.uint64] | None, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Absent:
    """A subject that lacks an image, and why."""

    error: UnknownNameError


def cohort_intensities(
    cohort: xr.DataTree,
    images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
    *,
    mask: ChannelLike | None = None,
    percentiles: Sequence[float] = (0.5, 50, 99.5),
    computed: bool = False,
    label_threshold: float | None = None,
    missing: str = "error",
    space: str = "ncct",
    client: Client | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Return mean, standard deviation and percentiles of all voxels of a cohort, as for the training part.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    images
        As for `channels_of`. Windows are not applied.
    mask
        Which voxels: all by default; ``"brain"`` for `perfusion.scan_brain`; the name of a mask such as
        ``"lesion_mask"``, as nnU-Net's fingerprint has it, or a result ``"pipeline/name"``, or a function of a scan.
    percentiles
        Between 0 and 100.
    computed
        Leave out voxels of perfusion maps in which nothing was computed: 0, and in Tmax what is below 0, too, as -30.
    label_threshold
        From which fraction on voxels of a soft mask belong to it.
    missing
        With ``"skip"``, subjects that lack an image or the mask are left out and listed in ``attrs["skipped"]``.
    space
        As for `open_scan`.
    client
        Where to run: by default the current Dask client, and without one the threads of this process.
    progress
        Show a bar on stderr.

    Returns
    -------
    pandas.DataFrame
        A row a channel: ``subjects``; ``voxels``, those with a finite value, which count alone, each as much as any
        other; ``nonfinite``, those without; ``uncomputed``, those in which perfusion software has computed nothing,
        which count unless `computed` leaves them out; ``mean``, ``sd`` (of the population), ``min``, ``max``, in the
        unit of the image; and the percentiles, linear between ranks as NumPy's, named as nnU-Net names them:
        ``percentile_00_5``, ``median``, ``percentile_99_5``. NaN where there is no voxel.

    Raises
    ------
    UnknownNameError
        There is no such image, a subject lacks it, or a number makes no sense.
    StoreDamageError, MaskError, GeometryError
        A subject cannot be read, or its mask is none.
    ClusterLostError, NoWorkersError, WorkerMismatchError
        The cluster cannot do it.

    Notes
    -----
    nnU-Net draws the same number of voxels from each case, with replacement, so that small lesions count as much as
    large ones (``DatasetFingerprintExtractor``, https://github.com/MIC-DKFZ/nnUNet); here all voxels count.
    """
    channels, shares = cohort_channels(cohort, images), [float(share) for share in percentiles]
    if missing not in ("error", "skip") or not all(0 <= share <= 100 for share in shares):
        raise UnknownNameError("missing or percentiles", "make no sense: 'error' or 'skip', and 0 to 100")
    first = _Reading(
        target=cohort_target(cohort),
        subject="",
        space=space,
        channels=channels,
        mask=mask if mask is None or mask == "brain" else cohort_channels(cohort, mask)[0],
        computed=computed,
        threshold=label_threshold,
        shift=SHIFTS[0],
        begins=(None,) * len(channels),
    )
    names, skipped = subject_names(cohort), {}
    run = functools.partial(_counted_cohort, client=client, progress=progress)
    found = run(first, names)
    for name, counts in zip(names, found, strict=True):
        if isinstance(counts, _Absent):
            if missing == "error":
                raise counts.error
            skipped[name] = str(counts.error)
    names = [name for name in names if name not in skipped]
    known = [counts for counts in found if not isinstance(counts, _Absent)]
    totals = [functools.reduce(joined, of_channel, Counts()) for of_channel in zip(*known, strict=True)]
    totals = totals or [Counts() for _ in channels]
    selections = [Selection.of(counts, shares) for counts in totals]
    for shift in SHIFTS[1:]:
        if all(selection.whole for selection in selections):
            break
        begins = tuple(selection.begins for selection in selections)
        again = run(dataclasses.replace(first, shift=shift, begins=begins), names)
        narrowed = [functools.reduce(joined, of_channel, Counts()) for of_channel in zip(*again, strict=True)]
        selections = [of.narrowed(counts, shift) for of, counts in zip(selections, narrowed, strict=True)]
    return _frame(channels, totals, selections, shares, len(names), skipped)


def _counted_cohort(reading: _Reading, names: Sequence[str], *, client: Client | None, progress: bool) -> list[Any]:
    """Return what each subject's task has counted, in order: for each channel, or that the subject lacks one."""
    from isles24_zarr.tasks import TaskLost, ordered_results

    results = ordered_results(
        _counted,
        [dataclasses.replace(reading, subject=name) for name in names],
        client=client,
        store=reading.target.url,
        title="counting intensities" if reading.shift == SHIFTS[0] else "selecting percentiles",
        progress=progress,
    )
    for name, result in zip(names, results, strict=True):
        if isinstance(result, TaskLost):
            raise ClusterLostError(name, result.why)
        if isinstance(result, Isles24Error):
            raise result
    return results


def _counted(reading: _Reading, topic: str = "") -> list[Counts] | _Absent | Isles24Error:  # noqa: ARG001
    from isles24_zarr.tasks import COMPUTED_HERE

    with COMPUTED_HERE:
        try:
            images = opened_channels(reading.target, reading.subject, reading.channels, space=reading.space)
            mask, rule = _mask(reading)
        except UnknownNameError as error:
            return _Absent(error=error)
        except Isles24Error as error:  # a task that raises would end the others with a traceback
            return error
        try:
            return [
                _counted_image(image, mask, functools.partial(_counted_block, reading, channel, rule, begins))
                for image, channel, begins in zip(images, reading.channels, reading.begins, strict=True)
            ]
        except Isles24Error as error:
            return error


def _mask(reading: _Reading) -> tuple[xr.DataArray | None, LabelRule | None]:
    if reading.mask is None:
        return None, None
    if isinstance(reading.mask, Channel):
        (mask,) = opened_channels(reading.target, reading.subject, [reading.mask], space=reading.space)
        return mask, label_rule(mask, reading.threshold)
    whole = Channel(name="brain", function=_brain)
    (brain,) = opened_channels(reading.target, reading.subject, [whole], space=reading.space)
    return brain, label_rule(brain)


def _brain(scan: xr.Dataset) -> xr.DataArray:
    brain = scan_brain(scan)
    if brain is None:
        raise UnknownNameError("the brain", "cannot be found where there is neither NCCT nor CTP on the grid")
    return brain


def _counted_image(image: xr.DataArray, mask: xr.DataArray | None, function: Callable[..., Counts]) -> Counts:
    parts = block_results(function, image, *([] if mask is None else [mask]))
    return functools.reduce(joined, parts, Counts())


def _counted_block(
    reading: _Reading,
    channel: Channel,
    rule: LabelRule | None,
    begins: NDArray[np.uint64] | None,
    values: NDArray[Any],
    mask: NDArray[Any] | None = None,
) -> Counts:
    chosen = values if mask is None or rule is None else values[rule.inside(mask)]
    finite = np.isfinite(chosen)
    holding = finite if channel.image is None else computed_voxels(chosen, channel.image)
    uncomputed = int(np.count_nonzero(finite & ~holding))
    counted = chosen[holding | ~finite] if reading.computed and uncomputed else chosen
    return dataclasses.replace(counts_of(counted, reading.shift, begins), uncomputed=uncomputed)


def _frame(
    channels: Iterable[Channel],
    totals: Sequence[Counts],
    selections: Sequence[Selection],
    shares: Sequence[float],
    subjects: int,
    skipped: dict[str, str],
) -> pd.DataFrame:
    import pandas as pd

    rows = {}
    for channel, counts, selection in zip(channels, totals, selections, strict=True):
        none = not counts.voxels
        lower, upper = np.split(selection.values(), 2) if not none else ([math.nan] * len(shares),) * 2
        between = [math.fmod((counts.voxels - 1) * share / 100, 1) if not none else 0.0 for share in shares]
        rows[channel.name] = {
            "subjects": subjects,
            "voxels": counts.voxels,
            "nonfinite": counts.nonfinite,
            "uncomputed": counts.uncomputed,
            "mean": math.nan if none else counts.mean,
            "sd": math.nan if none else math.sqrt(counts.squares / counts.voxels),
            "min": math.nan if none else counts.low,
            **{
                _percentile_name(share): low + (high - low) * part
                for share, low, high, part in zip(shares, lower, upper, between, strict=True)
            },
            "max": math.nan if none else counts.high,
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("channel")
    frame.attrs["skipped"] = skipped
    return frame


def _percentile_name(share: float) -> str:
    if share == 50:
        return "median"
    whole, _, fraction = f"{share:.10f}".rstrip("0").partition(".")
    return f"percentile_{whole.zfill(2)}_{fraction or '0'}"
