"""The store contract: which groups and arrays there are, and what their attributes say.

Everything here is a pure function from headers to plans; nothing touches a store. docs/format.md describes the
result for readers of the store.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from isles24_zarr.errors import Problem
from isles24_zarr.format.chunking import FileBlock, blocks_of_array, chunks_and_shards, slow_axis
from isles24_zarr.format.labels import MaskValues
from isles24_zarr.geometry import (
    Grid,
    Orientation,
    canonical_grid,
    canonical_orientation,
    corner_displacement,
    same_grid,
)
from isles24_zarr.release import image_kind, image_rank
from isles24_zarr.vocabulary import IMAGES, MASK_NAME, REFERENCE_SPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isles24_zarr.nifti import Digest, Header
    from isles24_zarr.release import SourceFile, Subject

FORMAT_VERSION: Final = 2
"""Of stores that are written and read. In version 1, masks were stored as their files have them."""

ATTRIBUTE_KEY: Final = "isles24_zarr"
"""The attribute that holds everything of ours, on the root, on subjects and on arrays."""

PHENOTYPE: Final = "phenotype"

DERIVATIVES: Final = "derivatives"
"""The group of results, one group below it for each pipeline."""

PIPELINE_NAME: Final = re.compile(r"(?!sub-)[A-Za-z0-9][A-Za-z0-9-]*", re.ASCII)
"""As BIDS has it; a folder of a subject is none."""

RESULT_NAME: Final = re.compile(r"(?!(?:[xyzijk]|time|subject)$)[a-z][a-z0-9_]*", re.ASCII)
"""Of an array of a pipeline: no coordinate."""

COMPRESSOR: Final = MappingProxyType({"cname": "zstd", "clevel": 1, "shuffle": "shuffle"})
"""Settings of Blosc. A chunk is one block."""

ASSUMED_FRAME_SECONDS: Final = 1.0
"""Between frames, where the header does not say: the release is documented to have it so."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlan:
    """How one image is stored.

    Parameters
    ----------
    subject, group, image
        Names that make up its path.
    source
        The file it comes from.
    shape
        Of the array, (z, y, x) or (time, z, y, x), canonical.
    dtype
        Element type, in the byte order of this machine's Zarr codec (little endian).
    chunks, shards
        Their shapes; shards are multiples of chunks.
    orientation
        How the file's axes became the array's.
    attributes
        All that is known before the voxels are read.
    mask
        What the values of a mask mean, once they were looked at, see `mask_plan`.
    pipeline
        Of a derivative; empty for an image of the release.
    separator
        In the keys of its shards: ``"/"``, or ``"."`` for a derivative that replaces one with slashes, whose shards
        stay until the new ones are committed.
    """

    subject: str
    group: str
    image: str
    source: SourceFile
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    orientation: Orientation
    attributes: Mapping[str, Any]
    mask: MaskValues | None = None
    pipeline: str = ""
    separator: str = "/"

    @property
    def is_mask(self) -> bool:
        """Whether the image is a mask, of which nothing is known before its values were looked at."""
        if self.pipeline or self.image not in IMAGES:
            return MASK_NAME.search(self.image) is not None
        return IMAGES[self.image].is_mask

    @property
    def path(self) -> str:
        """Of the array in the store."""
        above = f"{DERIVATIVES}/{self.pipeline}/" if self.pipeline else ""
        return f"{above}{self.subject}/{self.group}/{self.image}"

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return ("time", "z", "y", "x")[-len(self.shape) :]

    @property
    def nbytes(self) -> int:
        """Bytes of voxels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return math.prod(-(-count // shard) for count, shard in zip(self.shape, self.shards, strict=True))

    def blocks(self) -> Iterator[FileBlock]:
        """Yield the blocks of the file, in its order."""
        return blocks_of_array(self.shape, self.shards, self.orientation)


def recorded_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what `convert` recorded in the attributes of a node; nothing where that is not as it writes it."""
    found = attributes.get(ATTRIBUTE_KEY)
    return found if isinstance(found, dict) else {}


def recorded_orientation(recorded: Mapping[str, Any]) -> Orientation:
    """Return the orientation of an array from what its attribute `ATTRIBUTE_KEY` holds."""
    x, y, z = recorded["orientation"]["axes"]
    flip_x, flip_y, flip_z = map(bool, recorded["orientation"]["flips"])
    return Orientation(axes=(x, y, z), flips=(flip_x, flip_y, flip_z))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridPlan:
    """A group of arrays that share a grid.

    Parameters
    ----------
    name
        Of the group, as ``space-ncct``.
    grid
        Canonical.
    frame_seconds
        Times of the frames, in seconds from the first; ``None`` without a time axis.
    arrays
        The images in it.
    attributes
        Of the group.
    time_attributes
        Of the time coordinate.
    """

    name: str
    grid: Grid
    frame_seconds: tuple[float, ...] | None
    arrays: tuple[ArrayPlan, ...]
    attributes: Mapping[str, Any]
    time_attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubjectPlan:
    """Everything that a subject's group will hold, and what was odd about it."""

    subject: str
    grids: tuple[GridPlan, ...]
    problems: tuple[Problem, ...]

    @property
    def arrays(self) -> tuple[ArrayPlan, ...]:
        """All images."""
        return tuple(array for grid in self.grids for array in grid.arrays)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Volume:
    """A file on its way into a group."""

    space: str
    image: str
    file: SourceFile
    header: Header
    grid: Grid
    orientation: Orientation


def subject_plan(subject: Subject, headers: Mapping[str, Header]) -> SubjectPlan:
    """Decide how the images of a subject are stored.

    Parameters
    ----------
    subject
        Its files.
    headers
        By path; a file without one could not be read and is left out.

    Returns
    -------
    SubjectPlan
        One group for each grid. The reference of a group is the image that its space is named after (the NCCT for
        ``space-ncct``) or, without it, the first one in the order of the vocabulary. An image that does not share
        the grid or the frame times of its group gets a group of its own, and a notice.
    """
    problems: list[Problem] = []
    groups: dict[str, list[_Volume]] = defaultdict(list)
    for volume in sorted(_volumes(subject, headers), key=_reference_first):
        name = f"space-{volume.space}"
        oddity = _misfit(groups[name], volume)
        if oddity:
            own = f"{name}_desc-{volume.image}"
            message = f"{oddity}; it is kept in the group {own}, its voxels as they are"
            problems.append(_notice(subject.name, volume, message))
            name = own
        groups[name].append(volume)
        problems += [_notice(subject.name, volume, notice) for notice in volume.header.notices]
    grids = tuple(_grid_plan(subject.name, name, groups[name]) for name in sorted(groups, key=_group_order))
    return SubjectPlan(subject=subject.name, grids=grids, problems=tuple(problems))


def _volumes(subject: Subject, headers: Mapping[str, Header]) -> Iterator[_Volume]:
    for (space, image), file in subject.images.items():
        header = headers.get(file.path)
        if header is None:
            continue
        file_grid = Grid(shape=header.volume_shape, affine=header.affine, oriented=header.affine_source != "none")
        orientation = canonical_orientation(header.affine)
        yield _Volume(
            space=space,
            image=image,
            file=file,
            header=header,
            grid=canonical_grid(file_grid, orientation),
            orientation=orientation,
        )


def _reference_first(volume: _Volume) -> tuple[str, bool, tuple[int, str]]:
    return volume.space, volume.image.replace("_", "") != volume.space, image_rank(volume.image)


def _group_order(name: str) -> tuple[bool, str]:
    return not name.startswith(f"space-{REFERENCE_SPACE}"), name


def _misfit(group: list[_Volume], volume: _Volume) -> str | None:
    """Say why a volume cannot join a group."""
    if not group:
        return None
    reference = group[0]
    if not same_grid(reference.grid, volume.grid):
        reason = f"is not on the grid of '{reference.image}' ({reference.file.path})"
        if reference.grid.shape != volume.grid.shape:
            shapes = [" x ".join(map(str, each.grid.shape)) for each in (volume, reference)]
            return f"{reason}: {shapes[0]} voxels, not {shapes[1]}"
        if reference.grid.oriented != volume.grid.oriented:
            return f"{reason}: only one of them states its orientation"
        return f"{reason}: corners lie up to {corner_displacement(reference.grid, volume.grid):.3g} mm apart"
    series = next((other for other in group if other.header.frames), None)
    if series and volume.header.frames and _frame_seconds(series.header) != _frame_seconds(volume.header):
        return f"has other frame times than '{series.image}' ({series.file.path})"
    return None


def _notice(subject: str, volume: _Volume, message: str) -> Problem:
    return Problem(path=volume.file.path, message=message, severity="notice", subject=subject, image=volume.image)


def _frame_seconds(header: Header) -> tuple[float, ...] | None:
    if header.frames is None:
        return None
    step = header.frame_seconds or ASSUMED_FRAME_SECONDS
    return tuple(step * frame for frame in range(header.frames))


def _grid_plan(subject: str, name: str, volumes: list[_Volume]) -> GridPlan:
    reference = volumes[0]
    series = next((volume for volume in volumes if volume.header.frames), None)
    arrays = sorted((_array_plan(subject, name, volume) for volume in volumes), key=lambda a: image_rank(a.image))
    time_attributes = {"long_name": "time from the first frame", "units": "s", "axis": "T"}
    if series and series.header.frame_seconds is None:
        time_attributes["comment"] = "the header gives no time step: 1 s per frame, as the release documents"
    return GridPlan(
        name=name,
        grid=reference.grid,
        frame_seconds=_frame_seconds(series.header) if series else None,
        arrays=tuple(arrays),
        attributes={
            "subject": subject,
            "space": reference.space,
            "reference": reference.image,
            "orientation": reference.grid.axis_codes if reference.grid.oriented else "unknown",
            "direction": reference.grid.direction.tolist(),
            "affine": reference.grid.affine.tolist(),
        },
        time_attributes=time_attributes,
    )


def _array_plan(subject: str, group: str, volume: _Volume) -> ArrayPlan:
    header = volume.header
    shape = tuple(reversed(volume.grid.shape))
    if header.frames:
        shape = (header.frames, *shape)
    chunks, shards = chunks_and_shards(shape, header.dtype.itemsize, slow_axis=slow_axis(volume.orientation))
    return ArrayPlan(
        subject=subject,
        group=group,
        image=volume.image,
        source=volume.file,
        shape=shape,
        dtype=header.dtype.newbyteorder("<").str,
        chunks=chunks,
        shards=shards,
        orientation=volume.orientation,
        attributes=_array_attributes(volume),
    )


def _array_attributes(volume: _Volume) -> dict[str, Any]:
    kind, header = image_kind(volume.image), volume.header
    attributes: dict[str, Any] = {"long_name": kind.long_name, "units": kind.units, "session": kind.session}
    if header.slope is not None:
        attributes["scale_factor"], attributes["add_offset"] = header.slope, header.intercept
    attributes[ATTRIBUTE_KEY] = file_record(header, volume.orientation, volume.file)
    return attributes


def file_record(header: Header, orientation: Orientation, file: SourceFile) -> dict[str, Any]:
    """Return what is recorded of a file before its voxels are read."""
    return {
        "header": base64.b64encode(header.raw).decode("ascii"),
        "file_shape": list(header.shape),
        "file_dtype": header.dtype.str,
        "affine_source": header.affine_source,
        "orientation": {"axes": list(orientation.axes), "flips": list(orientation.flips)},
        "source": {"path": file.path, "size": file.size},
    }


def final_attributes(plan: ArrayPlan, digest: Digest, shard_sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return all attributes of an array whose voxels have been written.

    Parameters
    ----------
    plan
        Of the array.
    digest
        Of the file, read to its end.
    shard_sizes
        Bytes of each shard by its key below the array: what is not there any more, or shorter, is damaged.
    """
    recorded = dict(plan.attributes[ATTRIBUTE_KEY])
    recorded["source"] = {**recorded["source"], "size": digest.file_bytes, "sha256": digest.file_sha256}
    recorded["checksum"] = {"algorithm": "xxh3-128", "of": "voxel bytes in file order", "value": digest.voxel_xxh3}
    recorded["shards"] = dict(shard_sizes)
    return {**plan.attributes, ATTRIBUTE_KEY: recorded}


def seal(document: Mapping[str, Any]) -> str:
    """Return the XXH3-128 of a group's document without seal and times, by which an edited one is recognized.

    Parameters
    ----------
    document
        As read from JSON. Of the text of its JSON, with sorted keys and no spaces, the digest is taken.
    """
    attributes = dict(document["attributes"])
    recorded = recorded_of(attributes)
    attributes[ATTRIBUTE_KEY] = {name: value for name, value in recorded.items() if name not in ("seal", "times")}
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return xxhash.xxh3_128_hexdigest(text.encode())
