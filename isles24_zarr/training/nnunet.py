"""A raw dataset of nnU-Net out of a cohort: images and labels as NIfTI, ``dataset.json``, splits by patient.

What nnU-Net takes is in its documentation (https://github.com/MIC-DKFZ/nnUNet, dataset_format.md, version 2): the name
of a channel decides how it is normalized, labels are 0, 1, 2 ... without a gap, all files of a case have one geometry.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.cohorts import cohort_folds, cohort_target, selected_cohort, subject_names
from isles24_zarr.conventions import SOFT_MASK_THRESHOLD
from isles24_zarr.errors import DestinationError, Problem, UnknownNameError
from isles24_zarr.training._nnunet_cases import (
    FILE_ENDING,
    CaseOptions,
    CaseTask,
    case_result,
    described_channel,
    image_file,
    label_file,
    lost_case,
)
from isles24_zarr.training._nnunet_folder import SPLITS_JSON, opened_folder, prepare, publish, write_errors
from isles24_zarr.training.opening import cohort_channels, label_channels, lacking_images, stored_names
from isles24_zarr.version import PACKAGE_VERSION
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import xarray as xr
    from distributed import Client

    from isles24_zarr.training._nnunet_cases import CaseResult
    from isles24_zarr.training.channels import Channel, ChannelLike

READER: Final = "NibabelIOWithReorient"
"""Of nnU-Net: takes any affine, also a sheared one, and brings what is to be predicted to the axes of these files."""
NORMALIZATIONS: Final = ("CT", "zscore", "noNorm", "rescale_to_0_1")
"""What the name of a channel can ask nnU-Net for; any other name asks for ``zscore``."""
_IGNORED: Final = "ignore"
_DATASET_NAME: Final = re.compile(r"Dataset\d{3}_.+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NnunetReport:
    """What was written for nnU-Net.

    Parameters
    ----------
    destination
        The folder of the dataset.
    written, unchanged
        Subjects whose files were written, and those whose files were there already, made of the same in the same way.
    skipped
        Subjects that lack an image, and which.
    folds
        Number of splits.
    seconds
        Time taken.
    problems
        Subjects that could not be written, those that were skipped, and what is to be known of others.
    """

    destination: str
    written: tuple[str, ...]
    unchanged: tuple[str, ...]
    skipped: Mapping[str, str]
    folds: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether every subject that has the images was written."""
        return all(problem.severity != "error" for problem in self.problems)


def nnunet_dataset(
    cohort: xr.DataTree,
    destination: str | os.PathLike[str],
    images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
    label: ChannelLike = "lesion_mask",
    *,
    windows: str | Mapping[str, tuple[float, float] | str] | None = None,
    labels: Mapping[str, int] | None = None,
    label_threshold: float = SOFT_MASK_THRESHOLD,
    normalization: str | Mapping[str, str] | None = None,
    fill: float | None = None,
    folds: int = 5,
    seed: int = 0,
    space: str = "ncct",
    subjects: Sequence[str] | str | None = None,
    overwrite: bool = False,
    client: Client | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> NnunetReport:
    """Write a raw dataset that nnU-Net takes as it is, resuming what an earlier run wrote.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    destination
        The folder of the dataset, as ``"nnUNet_raw/Dataset024_ISLES"``, made if need be: on this machine, or one that
        all workers share. It becomes what this call says, and files of ours that are none of it are deleted.
    images, windows
        The channels and their windows, see `channels_of`. A window is applied to the voxels that are written.
    label
        The mask, as a channel.
    labels
        Names of the labels and their values in the mask, as ``{"core": 1, "penumbra": 2, "ignore": 255}``; by default
        those of the image, or 1 alone. They are written as 0, 1, 2 ... in the order of their values, ``ignore`` last.
    label_threshold
        From which fraction on voxels of a soft mask are in the label.
    normalization
        One of ``"CT"``, ``"zscore"``, ``"noNorm"`` and ``"rescale_to_0_1"``, for all channels or by their names. By
        default images in HU are ``CT``, channels that are scaled by ``unit`` or ``mean_sd`` are ``noNorm``, and all
        others ``zscore``.
    fill
        What voxels that are not finite become in the file. By default the lowest value of the window; where there is
        no window, the case fails.
    folds, seed
        As for `cohort_folds`: splits of the whole cohort, from which subjects without a case are left out.
    space
        The grid, as for `open_scan`.
    subjects
        Names; all of the cohort by default.
    overwrite
        Write all files anew.
    client, workers
        Where to run: on this Dask client, on that many processes of this machine; by default on the current client, and
        without one in the threads of this process.
    progress
        Show a bar on stderr.

    Returns
    -------
    NnunetReport
        A subject that lacks an image is listed and left out; one that fails is a problem, and the others are written.

    Raises
    ------
    UnknownNameError
        There is no such image, window, label, normalization or subject, or nobody has all images.
    DestinationError
        The folder cannot be written, or holds files that are not of such a dataset.
    StoreLockedError
        Another process writes into the folder.
    ClusterLostError, NoWorkersError, WorkerMismatchError
        The cluster cannot do it.

    Notes
    -----
    All files of a case have one header, made from the grid: x to the Right, y Anterior, z Superior. Whole numbers stay
    such where the window lets them, int16 if they fit; anything else is float32, in which nnU-Net holds what it reads.
    nnU-Net's plan copies ``splits_final.json`` to ``nnUNet_preprocessed``. A case is kept where its files are as they
    were written, of the same images and options; ``dataset.json`` is written last.
    """
    started = time.monotonic()
    if subjects is not None:
        cohort = selected_cohort(cohort, [subjects] if isinstance(subjects, str) else list(subjects))
    channels, (mask,) = cohort_channels(cohort, images, windows), label_channels(cohort, label)
    names = _label_names(mask, labels)
    schemes = _schemes(channels, normalization)
    if not 0 < label_threshold <= 1:
        raise UnknownNameError(f"label_threshold={label_threshold}", "is none for fractions, give one above 0, up to 1")
    if fill is not None and not math.isfinite(fill):
        raise UnknownNameError(f"fill={fill}", "is not finite, which is what it stands for")
    if not _is_whole(folds, 2):
        raise UnknownNameError(f"folds={folds}", "is no number of folds, give one from 2 on")
    values = {value: place for place, value in enumerate(names.values())}
    options = CaseOptions(
        channels=channels, label=mask, values=values, threshold=label_threshold, fill=fill, space=space
    )
    target, folder = cohort_target(cohort), _folder(destination)
    skipped = lacking_images(cohort, stored_names((*channels, mask)), space)
    whole = [name for name in subject_names(cohort) if name not in skipped]
    _check_some(whole, skipped)
    with opened_folder(folder, target):
        with write_errors(folder):
            prepare(folder, whole, len(channels))
        tasks = [
            CaseTask(target=target, subject=name, options=options, folder=folder, overwrite=overwrite) for name in whole
        ]
        results = _results(tasks, target.url, client, workers, progress=progress)
        skipped |= {each.subject: each.problems[0].message for each in results if each.state == "skipped"}
        _check_some([name for name in whole if name not in skipped], skipped)
        cases = [each.subject for each in results if each.state in ("written", "unchanged")]
        splits = _splits(cohort, cases, folds, seed)
        document = _document(cohort, folder, cases, names, schemes, options)
        document["isles24_zarr"] |= {"folds": len(splits), "seed": seed, "skipped": skipped}
        with write_errors(folder):
            publish(folder, document, splits)
    return NnunetReport(
        destination=str(folder),
        written=tuple(each.subject for each in results if each.state == "written"),
        unchanged=tuple(each.subject for each in results if each.state == "unchanged"),
        skipped=skipped,
        folds=len(splits),
        seconds=time.monotonic() - started,
        problems=tuple(_problems(folder, results, skipped, len(splits), folds)),
    )


def _check_some(subjects: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Make sure that there are subjects with all images."""
    if not subjects:
        why = next((f"; of {subject}: {what}" for subject, what in skipped.items()), "")
        raise UnknownNameError("the cohort", f"has no subject with all of these images{why}")


def _label_names(mask: Channel, labels: Mapping[str, int] | None) -> dict[str, int]:
    """Return names of labels and their values in the mask, in the order in which they are written."""
    if labels is None:
        kind = IMAGES.get(mask.image or "")
        labels = {text: value for value, text in kind.labels} if kind and kind.is_mask else {mask.name: 1}
    named = {str(name): value for name, value in labels.items()}
    if not any(value == 0 for value in named.values()):
        named = {"background": 0, **named}
    wrong = [f"{name}: {value}" for name, value in named.items() if not _is_whole(value, 0)]
    if wrong or len(set(named.values())) < len(named) or len(named) < 2 or len(named) > 255:
        what = "gives each label a whole number of its own, from 0 for the background on"
        raise UnknownNameError("labels", f"{what}{': not ' + ', '.join(wrong) if wrong else ''}")
    named = {name: int(value) for name, value in named.items()}
    return dict(sorted(named.items(), key=lambda label: (label[0] == _IGNORED, label[1])))


def _is_whole(value: object, least: int) -> bool:
    """Tell whether a value is a whole number of Python's or NumPy's, and not too small."""
    return isinstance(value, Integral) and int(value) >= least


def _schemes(channels: Sequence[Channel], normalization: str | Mapping[str, str] | None) -> list[str]:
    """Return how nnU-Net is to normalize each channel."""
    known = {scheme.casefold(): scheme for scheme in NORMALIZATIONS}
    names = [channel.name for channel in channels]
    chosen = dict.fromkeys(names, normalization) if isinstance(normalization, str) else dict(normalization or {})
    for name, scheme in chosen.items():
        if name not in names:
            raise UnknownNameError(repr(name), f"is to be normalized, but is no channel; there are {', '.join(names)}")
        if str(scheme).casefold() not in known:
            raise UnknownNameError(repr(scheme), f"is no normalization, there are {', '.join(NORMALIZATIONS)}")
    return [known[chosen.get(channel.name, _usual_scheme(channel)).casefold()] for channel in channels]


def _usual_scheme(channel: Channel) -> str:
    if channel.unit or channel.mean_sd is not None:
        return "noNorm"
    kind = IMAGES.get(channel.image or "")
    return "CT" if kind is not None and channel.pipeline is None and kind.units == "HU" else "zscore"


def _folder(destination: str | os.PathLike[str]) -> Path:
    text = str(destination)
    if "://" in text:
        raise DestinationError(text, "is a URL: nnU-Net reads folders of this machine")
    return Path(text).expanduser().absolute()


def _results(
    tasks: Sequence[CaseTask], url: str, client: Client | None, workers: int | None, *, progress: bool
) -> list[CaseResult]:
    """Run the tasks, and return their results in order."""
    from isles24_zarr.tasks import TaskLost, dask_client, ordered_results

    own = dask_client(client, workers, url) if workers is not None else contextlib.nullcontext(client)
    with own as running:
        found = ordered_results(case_result, tasks, client=running, store=url, title="writing cases", progress=progress)
    return [
        lost_case(task, result.why) if isinstance(result, TaskLost) else result
        for task, result in zip(tasks, found, strict=True)
    ]


def _splits(cohort: xr.DataTree, cases: Sequence[str], folds: int, seed: int) -> list[dict[str, list[str]]]:
    """Return the subjects to train on and to validate with, for each fold in which there are both."""
    most = min(folds, len(subject_names(cohort)))
    if most < 2:
        return []
    parts = [
        {
            "train": [name for name in subject_names(train) if name in cases],
            "val": [name for name in subject_names(validate) if name in cases],
        }
        for train, validate in cohort_folds(cohort, most, seed=seed)
    ]
    return [part for part in parts if part["train"] and part["val"]]


def _document(
    cohort: xr.DataTree,
    folder: Path,
    cases: Sequence[str],
    names: Mapping[str, int],
    schemes: Sequence[str],
    options: CaseOptions,
) -> dict[str, Any]:
    """Return what ``dataset.json`` holds."""
    reserved = {scheme.casefold() for scheme in (*NORMALIZATIONS, "rgb_to_0_1")}
    numbers = range(len(options.channels))
    asked = [
        # nnU-Net knows z-scores by any name but those of the other normalizations
        channel.name if scheme == "zscore" and channel.name.casefold() not in reserved else scheme
        for channel, scheme in zip(options.channels, schemes, strict=True)
    ]
    described = [
        {**described_channel(channel), "normalization": scheme}
        for channel, scheme in zip(options.channels, schemes, strict=True)
    ]
    attributes = cohort.attrs
    return {
        "name": folder.name,
        "description": str(attributes.get("title", "")),
        "reference": " ".join(map(str, attributes.get("references", ()))),
        "licence": str(attributes.get("licence", "")),
        "channel_names": {str(number): asked[number] for number in numbers},
        "labels": {name: options.values[value] for name, value in names.items()},
        "numTraining": len(cases),
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": READER,
        "dataset": {
            name: {"images": [image_file(name, number) for number in numbers], "label": label_file(name)}
            for name in cases
        },
        "isles24_zarr": {
            "package_version": PACKAGE_VERSION,
            **options.described(),
            "channels": described,
            "values": dict(names),
        },
    }


def _problems(
    folder: Path, results: Iterable[CaseResult], skipped: Mapping[str, str], splits: int, folds: int
) -> Iterable[Problem]:
    """Yield what is to be said of cases, and of the dataset."""
    for subject, why in skipped.items():
        yield Problem(path=subject, message=f"{why}; it was left out", severity="notice", subject=subject)
    for result in results:
        if result.state != "skipped":
            yield from result.problems
    if splits < folds:
        what = f"has {splits} folds, there are too few cases for {folds}"
        yield Problem(path=SPLITS_JSON, message=what, severity="notice")
    if not _DATASET_NAME.fullmatch(folder.name):
        what = "is found by nnU-Net only under a name as Dataset024_ISLES, in the folder nnUNet_raw"
        yield Problem(path=str(folder), message=what, severity="notice")
