"""A case of a raw dataset of nnU-Net: written by a task, file by file, and known again by the next run.

A case is complete when its record is there. The record goes before a file of the case changes, and so does
``dataset.json``: nobody ever finds a dataset of which a case is half done.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from isles24_zarr.analysis import label_rule
from isles24_zarr.errors import DestinationError, GeometryError, Isles24Error, Problem, UnknownNameError, failure_line
from isles24_zarr.format import record_of
from isles24_zarr.geometry import same_positions, scan_grid
from isles24_zarr.nifti import whole_file, write_nifti
from isles24_zarr.scans import grid_header, open_scan
from isles24_zarr.training._nnunet_voxels import channel_dtype, channel_voxels, label_voxels, volume_slabs
from isles24_zarr.training.opening import opened_channels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import CodeType

    import xarray as xr
    from numpy.typing import NDArray

    from isles24_zarr.analysis import LabelRule
    from isles24_zarr.geometry import Grid
    from isles24_zarr.store import StorePlace
    from isles24_zarr.training.channels import Channel

RECORDS: Final = ".isles24-zarr"
"""The folder of records, by which a folder is known to be ours."""
DATASET_JSON: Final = "dataset.json"
FILE_ENDING: Final = ".nii.gz"
IMAGES_FOLDER: Final = "imagesTr"
LABELS_FOLDER: Final = "labelsTr"
_MADE_BY: Final = 1
"""Raised when the same options give other files."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseOptions:
    """How all cases of a dataset are made.

    Parameters
    ----------
    channels, label
        What is written.
    values
        What each label of the mask becomes.
    threshold
        From which fraction on voxels of a soft mask are in the label.
    fill
        What voxels that are not finite become; None for the lowest value of the window.
    space
        The grid.
    """

    channels: tuple[Channel, ...]
    label: Channel
    values: Mapping[int, int]
    threshold: float
    fill: float | None
    space: str

    def described(self) -> dict[str, Any]:
        """Return them as JSON has them."""
        return {
            "channels": [described_channel(channel) for channel in self.channels],
            "label": described_channel(self.label),
            "values": {str(value): become for value, become in self.values.items()},
            "threshold": self.threshold,
            "fill": self.fill,
            "space": self.space,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseTask:
    """What a worker needs to write a case."""

    target: StorePlace
    subject: str
    options: CaseOptions
    folder: Path
    overwrite: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What became of a case.

    Parameters
    ----------
    subject
        Whose.
    state
        ``"written"``, ``"unchanged"``, ``"skipped"`` or ``"failed"``.
    problems
        Why it was skipped or failed, and notices of a case that is there.
    """

    subject: str
    state: str
    problems: tuple[Problem, ...] = ()


def image_file(subject: str, channel: int) -> str:
    """Return the path of the file of a channel, below the dataset."""
    return f"{IMAGES_FOLDER}/{subject}_{channel:04d}{FILE_ENDING}"


def label_file(subject: str) -> str:
    """Return the path of the file of the label, below the dataset."""
    return f"{LABELS_FOLDER}/{subject}{FILE_ENDING}"


def described_channel(channel: Channel) -> dict[str, Any]:
    """Return a channel as JSON has it: what it is, and how its values are scaled."""
    described = {name: getattr(channel, name) for name in ("name", "image", "frame", "pipeline", "window", "mean_sd")}
    described |= {"unit": channel.unit or None}
    if channel.function is not None:
        from isles24_zarr.derivatives import function_identity  # and with it what converts, which patches do not need

        described |= function_identity(channel.function)
    return {name: value for name, value in described.items() if value is not None}


def case_result(task: CaseTask, topic: str = "") -> CaseResult:  # noqa: ARG001 - a case is one step of the bar
    """Write the files of a case, unless they are there; on a worker, or in a thread.

    Parameters
    ----------
    task
        What to do.
    topic
        Where tasks tell of bytes.
    """
    from isles24_zarr.tasks import COMPUTED_HERE

    subject, options = task.subject, task.options
    try:
        with COMPUTED_HERE:
            try:
                wanted = (*options.channels, options.label)
                *images, mask = opened_channels(task.target, subject, wanted, space=options.space, chunks=None)
            except UnknownNameError as error:
                where = error.subject.removeprefix(subject).lstrip(", ")
                why = f"{where}: {error.what}" if where else error.what
                return _removed(task, "skipped", Problem(path=subject, message=why, subject=subject))
            return _made(task, images, mask)
    except OSError as error:
        problem = Problem.from_error(DestinationError(task.folder, f"cannot be written ({error})"), subject=subject)
    except Isles24Error as error:
        problem = Problem.from_error(error, subject=subject)
        if not problem.path.startswith(subject):
            problem = dataclasses.replace(problem, path=f"{subject}, {problem.path}")
    except Exception as error:  # noqa: BLE001 - functions raise whatever they like, the other cases are written
        problem = Problem(path=subject, message=failure_line(error), subject=subject)
    return _removed(task, "failed", problem)


def lost_case(task: CaseTask, why: str) -> CaseResult:
    """Return the result of a case whose worker died; what that has left is taken out."""
    return _removed(task, "failed", Problem(path=task.subject, message=why, subject=task.subject))


def _removed(task: CaseTask, state: str, problem: Problem) -> CaseResult:
    """Take out what an earlier run has left of a case that is not there any more."""
    severity: Any = "notice" if state == "skipped" else "error"
    try:
        remove_case(task.folder, task.subject)
    except OSError as error:
        problem = Problem.from_error(DestinationError(task.folder, f"cannot be written ({error})"))
        state, severity = "failed", "error"
    return CaseResult(subject=task.subject, state=state, problems=(dataclasses.replace(problem, severity=severity),))


def remove_case(folder: Path, subject: str) -> None:
    """Delete the files of a case; where there are any, the document of the dataset before them."""
    pattern = re.compile(re.escape(subject) + r"(_\d{4})?" + re.escape(FILE_ENDING))
    files = [
        file
        for name in (IMAGES_FOLDER, LABELS_FOLDER)
        for file in sorted((folder / name).glob(f"{subject}*"))
        if pattern.fullmatch(file.name)
    ]
    record = folder / RECORDS / f"{subject}.json"
    if files or record.exists():
        for file in (folder / DATASET_JSON, record, *files):
            file.unlink(missing_ok=True)


def _made(task: CaseTask, images: list[xr.DataArray], mask: xr.DataArray) -> CaseResult:
    """Write a case, or find that it is there."""
    place, space = task.target, task.options.space
    scan = open_scan(place.url, task.subject, space, chunks=None, storage_options=place.storage_options)
    grid = scan_grid(scan)
    for image in (*images, mask):
        if not same_positions(scan_grid(image), grid):
            raise GeometryError(str(image.name), f"is not on the grid of {space!r} any more: its voxels lie elsewhere")
    key = _case_key(task.options, scan, images, mask, grid)
    record = task.folder / RECORDS / f"{task.subject}.json"
    known = None if task.overwrite else _kept(record, task.folder, key)
    if known is None:
        remove_case(task.folder, task.subject)
        notices: dict[str, str] = {}
        paths = [image_file(task.subject, number) for number in range(len(images))]
        for path, image, channel in zip(paths, images, task.options.channels, strict=True):
            filled = _write_channel(task.folder / path, image, channel, grid, task.options.fill)
            if filled:
                notices[path] = f"{filled:,} voxels of {channel.name} that are not finite were replaced"
        paths.append(label_file(task.subject))
        threshold = _write_label(task.folder / paths[-1], mask, task.options, grid)
        if threshold is not None:
            what = f"holds fractions: voxels of {threshold:g} and more are in the label"
            notices[paths[-1]] = f"{task.options.label.name} {what}"
        files = {path: _digest(task.folder / path) for path in paths}
        with whole_file(record) as partial:
            partial.write_text(json.dumps({"key": key, "files": files, "notices": notices}, indent=2) + "\n")
    else:
        notices = known
    problems = tuple(
        Problem(path=path, message=message, severity="notice", subject=task.subject)
        for path, message in notices.items()
    )
    return CaseResult(subject=task.subject, state="unchanged" if known is not None else "written", problems=problems)


def _case_key(
    options: CaseOptions, scan: xr.Dataset, images: list[xr.DataArray], mask: xr.DataArray, grid: Grid
) -> str:
    """Return what changes with the files of a case: options, functions, grid, and the images that they are made of."""
    channels = (*options.channels, options.label)
    functions = [channel.function for channel in channels if channel.function is not None]
    # functions may look at any image
    looked_at = (*images, mask, *(scan.data_vars.values() if functions else ()))
    made_of = {
        "made_by": _MADE_BY,
        "options": options.described(),
        "code": [_code_digest(function) for function in functions],
        "grid": [list(grid.shape), grid.affine.tolist(), grid.oriented],
        "sources": [_fingerprint(image) for image in looked_at],
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(made_of, sort_keys=True).encode())


def _fingerprint(image: xr.DataArray) -> list[str] | None:
    """Return the checksum of the voxels of an image, and that of its header, which scales them."""
    record = record_of(image)
    return (
        None if record is None else [record["checksum"]["value"], xxhash.xxh3_128_hexdigest(record["header"].encode())]
    )


def _code_digest(function: Any) -> str:
    """Return what changes with the body of a function, but not with what it calls."""
    while hasattr(function, "func"):
        function = function.func
    digest = xxhash.xxh3_128()

    def add(code: CodeType) -> None:
        digest.update(code.co_code)
        digest.update(" ".join(code.co_names).encode())
        for constant in code.co_consts:
            if hasattr(constant, "co_code"):
                add(constant)
            else:
                digest.update(repr(constant).encode())

    code = getattr(function, "__code__", None)
    if code is not None:
        add(code)
    return digest.hexdigest()


def _kept(record: Path, folder: Path, key: str) -> dict[str, str] | None:
    """Return the notices of a case whose files are there, made in the same way of the same; None of any other."""
    try:
        known = json.loads(record.read_text())
        if known["key"] == key and all(_digest(folder / path) == digest for path, digest in known["files"].items()):
            notices: dict[str, str] = known["notices"]
            return notices
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # lost, or not as we wrote it
        return None
    return None


def _digest(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while piece := opened.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _write_channel(file: Path, image: xr.DataArray, channel: Channel, grid: Grid, fill: float | None) -> int:
    """Write a channel; return how many voxels were replaced."""
    dtype = channel_dtype(channel, image.dtype)
    replaced = 0

    def blocks() -> Iterator[NDArray[Any]]:
        nonlocal replaced
        for slab in volume_slabs(image):
            voxels, count = channel_voxels(slab, channel, dtype, fill)
            replaced += count
            yield _in_file(voxels, dtype)

    write_nifti(file, grid_header(grid, dtype), blocks())
    return replaced


def _write_label(file: Path, mask: xr.DataArray, options: CaseOptions, grid: Grid) -> float | None:
    """Write the label; return the threshold, if the mask holds fractions."""
    rule: LabelRule = label_rule(mask.rename(options.label.name), options.threshold)
    dtype = np.dtype(np.uint8)
    blocks = (
        _in_file(label_voxels(rule.labels(slab), options.values, options.label.name), dtype)
        for slab in volume_slabs(mask)
    )
    write_nifti(file, grid_header(grid, dtype), blocks)
    return rule.threshold


def _in_file(voxels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(voxels, dtype.newbyteorder("<"))
