"""What was read from a store, typed: the records that `convert` left of images and subjects.

Plans say what is to be written, records what was. A record is made from a document in one place, and whatever is not as
`convert` writes it is damage, which is told there.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from isles24_zarr.errors import Problem, StoreDamageError
from isles24_zarr.format.documents import checked_group, checked_image, checked_record
from isles24_zarr.format.labels import MaskValues
from isles24_zarr.format.layout import ATTRIBUTE_KEY, recorded_of, recorded_orientation, seal
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isles24_zarr.geometry import Orientation


def check_seal(document: Mapping[str, Any], path: str) -> None:
    """Make sure that the document of a group is as it was written: with one digit changed, all else may look right.

    Raises
    ------
    StoreDamageError
        It was edited.
    """
    if recorded_of(document["attributes"]).get("seal") != seal(document):
        raise StoreDamageError(path, "was edited after it was written")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """The file that an image was converted from: its path in the release, its bytes, and their SHA-256."""

    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRecord:
    """An image of a store, as its document describes it.

    Parameters
    ----------
    document
        The Zarr metadata that all this was read from.
    path
        Of the array in the store.
    shape, dimension_names, dtype
        (z, y, x) or (time, z, y, x), and the type of what is stored.
    chunk_shape, shard_shape
        In voxels.
    shard_bytes
        Size of each shard by its key.
    file_shape, file_dtype
        (x, y, z, ...), and the type of the file's voxels.
    affine_source
        Which of the header's affines the grid is from; ``"none"`` where it has none.
    orientation
        How the file's axes became the array's.
    source
        The file; empty of a derivative that was computed.
    checksum
        XXH3-128 of the voxel bytes in the order of the file.
    mask
        What the values of a mask mean; None for other images.
    """

    document: Mapping[str, Any]
    path: str
    shape: tuple[int, ...]
    dimension_names: tuple[str, ...]
    dtype: np.dtype[Any]
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    shard_bytes: Mapping[str, int]
    file_shape: tuple[int, ...]
    file_dtype: np.dtype[Any]
    affine_source: str
    orientation: Orientation
    source: SourceRecord
    checksum: str
    mask: MaskValues | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any], path: str) -> Self:
        """Read the metadata of an array.

        Parameters
        ----------
        document
            As parsed, and not checked yet.
        path
            Of the array, for errors; its last part is the name of the image.

        Raises
        ------
        StoreDamageError
            It is not as `convert` writes it, or contradicts itself.
        """
        checked_image(document, path)
        return cls.from_checked(document, path)

    @classmethod
    def from_checked(cls, document: Mapping[str, Any], path: str) -> Self:
        """Do the same for a document that was checked before, as those of a group are by `checked_group`."""
        recorded = document["attributes"][ATTRIBUTE_KEY]
        source = recorded.get("source", {"path": "", "size": 0, "sha256": ""})
        (sharding,) = document["codecs"]
        try:
            mask = MaskValues.from_json(recorded["mask"]) if "mask" in recorded else None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreDamageError(path, f"has a {ATTRIBUTE_KEY}.mask that cannot be read ({error})") from error
        return cls(
            document=document,
            path=path,
            shape=tuple(document["shape"]),
            dimension_names=tuple(document["dimension_names"]),
            dtype=np.dtype(document["data_type"]),
            chunk_shape=tuple(sharding["configuration"]["chunk_shape"]),
            shard_shape=tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
            shard_bytes=recorded["shards"],
            file_shape=tuple(recorded["file_shape"]),
            file_dtype=np.dtype(recorded["file_dtype"]),
            affine_source=recorded["affine_source"],
            orientation=recorded_orientation(recorded),
            source=SourceRecord(**{name: source[name] for name in ("path", "size", "sha256")}),
            checksum=recorded["checksum"]["value"],
            mask=mask,
        )

    @property
    def separator(self) -> str:
        """Between the parts of the keys of its shards."""
        return str(self.document["chunk_key_encoding"]["configuration"]["separator"])

    @property
    def sources(self) -> Mapping[str, str]:
        """Of a derivative: the checksums of the images that it was made from, by their paths in the store."""
        found: Mapping[str, str] = self.document["attributes"][ATTRIBUTE_KEY].get("sources", {})
        return found

    @property
    def generated_by(self) -> list[dict[str, Any]]:
        """Of a derivative: what made it, as BIDS has it."""
        found: list[dict[str, Any]] = self.document["attributes"][ATTRIBUTE_KEY].get("generated_by", [])
        return found

    @property
    def header(self) -> bytes:
        """Every byte of the decompressed file before its voxels."""
        return base64.b64decode(self.document["attributes"][ATTRIBUTE_KEY]["header"])

    @property
    def file_voxel_bytes(self) -> int:
        """Bytes of the voxels in the file, decompressed."""
        return math.prod(self.shape) * self.file_dtype.itemsize


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridRecord:
    """A group of arrays that share a grid, as its document describes it.

    Parameters
    ----------
    subject, space, reference, orientation
        Whose it is, what it is called, whose grid it has, and where its axes point.
    affine
        4 x 4, from voxel indices (x, y, z) to RAS mm.
    members
        Documents of all that is in it, by name.
    """

    subject: str
    space: str
    reference: str
    orientation: str
    affine: list[list[float]]
    members: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_document(cls, document: Mapping[str, Any], path: str) -> Self:
        """Read the document of a grid.

        Raises
        ------
        StoreDamageError
            It, or that of a member, is not as `convert` writes it, or was edited since.
        """
        members = checked_group(document, path)
        if missing := [axis for axis in "zyx" if axis not in members]:
            raise StoreDamageError(path, f"lists no coordinate {missing[0]}")
        check_seal(document, path)
        names = ("subject", "space", "reference", "orientation", "affine")
        return cls(members=members, **{name: document["attributes"][name] for name in names})

    @property
    def attributes(self) -> dict[str, str]:
        """Those of a Dataset: matrices are none in netCDF, and would be wrong after any selection."""
        names = ("subject", "space", "reference", "orientation")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRecord:
    """What the commit of a subject recorded.

    Parameters
    ----------
    format_version, package_version
        Of what wrote it.
    converted
        When, as ISO 8601.
    images
        Groups that hold each image, by its name.
    arrays
        Path of the file of each array, by the path of the array below the subject.
    files, stamps
        Size of each file of the subject that was considered, and what tells that it has not changed, by its path.
    clinical
        Values by name, missing ones left out.
    clinical_unread
        Text of cells that were not understood, by name.
    problems
        What was found while it was converted.
    seal
        Of the document.
    """

    format_version: int
    package_version: str | None
    converted: str
    images: Mapping[str, list[str]]
    arrays: Mapping[str, str]
    files: Mapping[str, int]
    stamps: Mapping[str, str]
    clinical: Mapping[str, Any]
    clinical_unread: Mapping[str, str]
    problems: tuple[Problem, ...]
    seal: str | None

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], path: str) -> Self:
        """Read the attributes of a subject's group.

        Raises
        ------
        StoreDamageError
            They are not as `convert` writes them.
        """
        checked_record(attributes, path)
        recorded = attributes[ATTRIBUTE_KEY]
        return cls(
            format_version=recorded.get("format_version", 1),
            package_version=recorded.get("package_version"),
            converted=recorded["times"]["converted"],
            images=recorded["images"],
            arrays=recorded["arrays"],
            files=recorded["files"],
            stamps=recorded["times"].get("stamps", {}),
            clinical={name: value for name, value in attributes.items() if name != ATTRIBUTE_KEY},
            clinical_unread=recorded["clinical_unread"],
            problems=tuple(
                Problem(
                    path=each["path"],
                    message=each["message"],
                    severity=each["severity"],
                    subject=path.rsplit("/", 1)[-1],
                    image=each.get("image"),
                )
                for each in recorded["problems"]
            ),
            seal=recorded.get("seal"),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootRecord:
    """What the root of a store says.

    Parameters
    ----------
    attributes
        All that it says, for those who open the cohort.
    licence
        Of the data; None where it is lost.
    state
        ``"complete"``; or ``"converting"`` or ``"removing"`` while that is under way or after it was killed.
    dictionary
        SHA-256 of the data dictionary that descriptions were taken from, if there was one.
    removed
        Names of subjects that were taken out for good: a conversion leaves them out.
    removing
        Names of subjects whose removal has begun and not ended.
    extra_images
        Whether images beyond the twelve are kept.
    seal
        Of the document.
    """

    attributes: Mapping[str, Any]
    licence: str | None
    state: str | None
    dictionary: str | None
    removed: tuple[str, ...]
    removing: tuple[str, ...]
    extra_images: bool
    seal: str | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Self:
        """Read the document of the root; of none, or of another store, nothing is known."""
        attributes = (document or {}).get("attributes", {})
        recorded = recorded_of(attributes)

        def text(found: object) -> str | None:
            return found if isinstance(found, str) else None

        def names(found: object) -> tuple[str, ...]:
            listed = found if isinstance(found, list) else []
            return tuple(sorted({each for each in listed if isinstance(each, str) and SUBJECT_NAME.fullmatch(each)}))

        return cls(
            attributes=attributes,
            licence=text(attributes.get("licence")),
            state=text(attributes.get("state")),
            dictionary=text(recorded.get("dictionary")),
            removed=names(recorded.get("removed")),
            removing=names(recorded.get("removing")),
            extra_images=recorded.get("extra_images") is True,
            seal=text(recorded.get("seal")),
        )
