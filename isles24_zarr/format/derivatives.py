"""Derivatives: results of a pipeline, on the grids of the images that they were made from.

They lie at ``derivatives/<pipeline>/<subject>/space-<grid>/<name>``, with documents as those of images. An array has
the header of a file of its own, in the axes of the file that gave its grid, so that it comes back as a NIfTI file by
the same steps as an image does. The document of the subject in the pipeline is written last, and lists what there is.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format._derivative_checks import checked_derivative
from isles24_zarr.format.chunking import chunks_and_shards, slow_axis
from isles24_zarr.format.documents import committed_members
from isles24_zarr.format.layout import ATTRIBUTE_KEY, DERIVATIVES, PIPELINE_NAME, ArrayPlan, file_record
from isles24_zarr.nifti import result_header
from isles24_zarr.release import SourceFile, image_kind
from isles24_zarr.vocabulary import IMAGES, SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isles24_zarr.format.records import ArrayRecord
    from isles24_zarr.geometry import Orientation
    from isles24_zarr.nifti import Header

SPACE: Final = "space-"


def pipeline_path(pipeline: str, subject: str = "", group: str = "") -> str:
    """Return the path of a pipeline, of a subject in it, or of a grid of that."""
    return "/".join(filter(None, (DERIVATIVES, pipeline, subject, group)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DerivativeRecord:
    """What a pipeline has of a subject, as the document says that was written last.

    Parameters
    ----------
    pipeline, subject
        Whose results, of whom.
    description
        What the pipeline is.
    generated_by
        Programs that made them, as BIDS has it.
    format_version, package_version, saved
        Of the format and of this package, and when, as ISO 8601.
    arrays
        Paths of the results below the subject, as ``"space-ncct/core"``, sorted.
    members
        Documents of all that is below, by path, not checked.
    seal
        Of the document.
    """

    pipeline: str
    subject: str
    description: str
    generated_by: list[dict[str, Any]]
    format_version: int
    package_version: str
    saved: str
    arrays: tuple[str, ...]
    members: Mapping[str, Mapping[str, Any]]
    seal: str | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any], path: str) -> Self:
        """Read the document of a subject in a pipeline.

        Raises
        ------
        StoreDamageError
            It is not as it is written, or does not list the arrays that it has.
        """
        attributes = document.get("attributes", {})
        checked_derivative(attributes, path)
        recorded = attributes[ATTRIBUTE_KEY]
        return cls(
            pipeline=attributes["pipeline"],
            subject=attributes["subject"],
            description=str(attributes.get("description", "")),
            generated_by=attributes["GeneratedBy"],
            format_version=recorded["format_version"],
            package_version=recorded["package_version"],
            saved=recorded["times"]["saved"],
            arrays=tuple(sorted(recorded["arrays"])),
            members=committed_members(document, path),
            seal=recorded.get("seal"),
        )

    @property
    def path(self) -> str:
        """Of the document's group in the store."""
        return pipeline_path(self.pipeline, self.subject)

    @property
    def groups(self) -> list[str]:
        """Names of its grids."""
        return sorted({path.partition("/")[0] for path in self.arrays})

    def grid_document(self, group: str) -> dict[str, Any]:
        """Return the document of a grid with those of all that is in it."""
        inside = {
            path.partition("/")[2]: document for path, document in self.members.items() if path.startswith(f"{group}/")
        }
        listed = {"kind": "inline", "must_understand": False, "metadata": inside}
        return {**self.members.get(group, {}), "consolidated_metadata": listed}


def result_plan(
    name: str,
    *,
    pipeline: str,
    reference: ArrayRecord,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    beside: int,
    unit: int,
    frame_seconds: float | None,
    attributes: Mapping[str, Any],
) -> ArrayPlan:
    """Decide how a result is stored.

    Parameters
    ----------
    name, pipeline
        Of the array, and whose it is.
    reference
        The image that gave the grid: the result has the axes and the place of its file.
    shape
        (z, y, x) or (time, z, y, x), canonical.
    dtype
        Of the values.
    beside
        Bytes of an element of all results that are computed together: a shard of each is, and all of them are in
        memory at the same time.
    unit
        Length of the blocks that they are computed in, along the axis that shards are cut across.
    frame_seconds
        Between frames, for a series.
    attributes
        Of the array, ``generated_by`` and ``sources`` among them under `ATTRIBUTE_KEY`.
    """
    _, subject, group, _ = f"/{reference.path}".rsplit("/", 3)
    file_shape = reference.file_shape[:3] + shape[:-3]
    chunks, shards = chunks_and_shards(shape, beside, slow_axis=slow_axis(reference.orientation), unit=unit)
    header = result_header(reference.header, dtype=dtype, shape=file_shape, frame_seconds=frame_seconds)
    recorded = {
        "pipeline": pipeline,
        **attributes[ATTRIBUTE_KEY],
        "header": base64.b64encode(header).decode("ascii"),
        "file_shape": list(file_shape),
        "file_dtype": dtype.newbyteorder("<").str,
        "affine_source": reference.affine_source,
        "orientation": {"axes": list(reference.orientation.axes), "flips": list(reference.orientation.flips)},
    }
    return ArrayPlan(
        subject=subject,
        group=group,
        image=name,
        source=SourceFile(path="", size=0, stamp=""),
        shape=shape,
        dtype=dtype.newbyteorder("<").str,
        chunks=chunks,
        shards=shards,
        orientation=reference.orientation,
        attributes={**attributes, ATTRIBUTE_KEY: recorded},
        pipeline=pipeline,
    )


def added_plan(
    name: str,
    *,
    pipeline: str,
    subject: str,
    group: str,
    file: SourceFile,
    header: Header,
    orientation: Orientation,
    recorded: Mapping[str, Any],
    session: int,
) -> ArrayPlan:
    """Decide how a file of others is stored as a result: as an image of the release is.

    Parameters
    ----------
    name, pipeline, subject, group
        Of the array, and where it goes.
    file, header, orientation
        Of the file, and how its axes become those of the grid.
    recorded
        ``generated_by`` and ``sources``.
    session
        As the name of the file says, or that of the image that gave the grid.
    """
    kind = IMAGES.get(name)
    x, y, z = (header.volume_shape[axis] for axis in orientation.axes)
    shape = (*((header.frames,) if header.frames else ()), z, y, x)
    chunks, shards = chunks_and_shards(shape, header.dtype.itemsize, slow_axis=slow_axis(orientation))
    attributes: dict[str, Any] = {
        "long_name": kind.long_name if kind else name.replace("_", " "),
        "units": kind.units if kind else None,
        "session": session,
    }
    if header.slope is not None:
        attributes |= {"scale_factor": header.slope, "add_offset": header.intercept}
    attributes[ATTRIBUTE_KEY] = {"pipeline": pipeline, **recorded, **file_record(header, orientation, file)}
    return ArrayPlan(
        subject=subject,
        group=group,
        image=name,
        source=file,
        shape=shape,
        dtype=header.dtype.newbyteorder("<").str,
        chunks=chunks,
        shards=shards,
        orientation=orientation,
        attributes=attributes,
        pipeline=pipeline,
    )


def result_attributes(plan: ArrayPlan, checksum: str, shard_sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return all attributes of a result that has been written.

    Parameters
    ----------
    plan
        Of the array.
    checksum
        XXH3-128 of its voxels in the order of a file, hexadecimal.
    shard_sizes
        Bytes of each shard by its key below the array.
    """
    recorded = {
        **plan.attributes[ATTRIBUTE_KEY],
        "checksum": {"algorithm": "xxh3-128", "of": "voxel bytes in file order", "value": checksum},
        "shards": dict(sorted(shard_sizes.items())),
    }
    return {**plan.attributes, ATTRIBUTE_KEY: recorded}


def derivative_file(record: ArrayRecord) -> str:
    """Return the path of the file that an array of a pipeline is exported to, as BIDS names derivatives.

    ``derivatives/<pipeline>/<subject>/ses-01/anat/<subject>_ses-01_space-ncct_desc-core_mask.nii.gz``: the suffix is
    ``mask`` where the only labels are 0 and 1, ``dseg`` of other labels, ``map`` of anything else.
    """
    _, pipeline, subject, group, name = f"/{record.path}".rsplit("/", 4)
    attributes = record.document["attributes"]
    if not PIPELINE_NAME.fullmatch(pipeline) or not SUBJECT_NAME.fullmatch(subject):
        raise StoreDamageError(record.path, "is no path of a derivative")
    session = f"ses-{attributes['session']:02d}"
    labels = attributes.get("flag_values")
    suffix = "map" if labels is None else "mask" if set(labels) <= {0, 1} else "dseg"
    space = file_label(group.removeprefix(SPACE).replace("_desc-", "_"))
    stem = f"{subject}_{session}_space-{space}_desc-{file_label(name)}_{suffix}"
    return f"{pipeline_path(pipeline, subject)}/{session}/anat/{stem}.nii.gz"


def file_label(name: str) -> str:
    """Return a name as a label of BIDS, which has letters and digits alone: ``brain_mask`` is ``brainMask``."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def reference_session(reference: str) -> int:
    """Return the session of the image that a grid is named after."""
    return image_kind(reference).session


def subjects_of(document: Mapping[str, Any] | None) -> list[str] | None:
    """Return the subjects that the document of a pipeline lists; None where it has no list, as older ones."""
    listed = (document or {}).get("attributes", {}).get("subjects")
    if not isinstance(listed, list):
        return None
    return sorted({name for name in listed if isinstance(name, str) and SUBJECT_NAME.fullmatch(name)})


def pipelines_of(document: Mapping[str, Any] | None) -> list[str]:
    """Return the pipelines that the document of the group of derivatives lists."""
    listed = (document or {}).get("attributes", {}).get("pipelines")
    names = listed if isinstance(listed, list) else []
    return sorted({name for name in names if isinstance(name, str) and PIPELINE_NAME.fullmatch(name)})
