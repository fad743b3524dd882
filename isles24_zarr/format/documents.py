"""The documents of a store, checked once where they are read: whoever has one may rely on its keys, types and sizes.

A store is input like any other. What a document says must be there, of its type and within bounds, and agree with
itself: the shards that it lists are those of its shape, the file that it came from has its voxels. What it must be is
written here as data, a test for each key.
"""

from __future__ import annotations

import binascii
import functools
import itertools
import math
import operator
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format._derivative_checks import GROUP, checked_derivative, image_tests
from isles24_zarr.format._kinds import (
    fields,
    is_cell,
    is_count,
    is_hexadecimal,
    is_label,
    is_number,
    is_shape,
    is_stored,
    is_text,
    is_zero,
    list_of,
    mapping_of,
    optional,
    require,
)
from isles24_zarr.format.layout import ATTRIBUTE_KEY
from isles24_zarr.format.shards import index_bytes
from isles24_zarr.nifti import MAX_AXIS, MAX_DEFLATE_RATIO
from isles24_zarr.release import is_image_name
from isles24_zarr.vocabulary import IMAGES, SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isles24_zarr.format._kinds import Test

COORDINATES: Final = ("time", "z", "y", "x")

MOST_CHUNK_BYTES: Final = 64 * 2**20
MOST_SHARD_BYTES: Final = 2**30
"""Far above what `convert` writes, and what any reader has memory for."""
_MOST_ROWS: Final = 10**6
_TYPES: Final = {
    np.dtype(code).name: np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")
}
_FILE_TYPE: Final = re.compile(r"[<>|]([iu][1248]|f[48])", re.ASCII)
_NO_IMAGE_HAS: Final = ("_FillValue", "missing_value", "_Unsigned", "dtype", "calendar")
"""Attributes by which xarray would make other values of voxels."""
_ARRAY_KEYS: Final = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "attributes",
        "dimension_names",
        "storage_transformers",
    }
)
_KEYS: Final = {"name": "default", "configuration": {"separator": "/"}}
_DOTTED_KEYS: Final = {"name": "default", "configuration": {"separator": "."}}
"""Of a derivative that has replaced another one."""


def _is_header(value: Any) -> bool:
    try:
        return type(value) is str and len(binascii.a2b_base64(value, strict_mode=True)) >= 348
    except ValueError:
        return False


def _is_orientation(value: Any) -> bool:
    if type(value) is not dict:
        return False
    axes: Any = value.get("axes")
    flips = value.get("flips")
    if not list_of(is_count, 3)(axes) or sorted(axes) != [0, 1, 2]:  # 1.0 equals 1, and is no index
        return False
    return type(flips) is list and list(map(type, flips)) == [bool] * 3


_IMAGE_RECORD: Final[Mapping[str, Test]] = {
    "header": _is_header,
    "file_shape": lambda value: is_shape(value) and 3 <= len(value) <= 7,
    "file_dtype": lambda value: type(value) is str and bool(_FILE_TYPE.fullmatch(value)),
    "affine_source": is_text,
    "orientation": _is_orientation,
    "source": fields(path=is_text, size=is_count, sha256=is_hexadecimal(64)),
    "checksum": fields(algorithm=is_text, value=is_hexadecimal(32)),
    "shards": mapping_of(is_text, lambda size: is_count(size) and size <= 2 * MOST_SHARD_BYTES),
}
_IMAGE_ATTRIBUTES: Final[Mapping[str, Test]] = {
    "long_name": is_text,
    "units": optional(is_text),
    "session": is_count,
    ATTRIBUTE_KEY: lambda value: type(value) is dict,
}
_MASK_ATTRIBUTES: Final[Mapping[str, Test]] = {"flag_values": list_of(is_number), "flag_meanings": is_text}
_LABELS: Final[Mapping[str, Test]] = {
    "labels": lambda value: type(value) is list and all(map(is_label, value)) and value == sorted(set(value)),
    "highest": is_label,
}
_SCALING: Final[Mapping[str, Test]] = {"scale_factor": is_number, "add_offset": is_number}


def _is_array(path: str) -> bool:
    group, _, image = path.partition("/")
    return bool(GROUP.fullmatch(group)) and is_image_name(image)


_SUBJECT_RECORD: Final[Mapping[str, Test]] = {
    "images": mapping_of(is_image_name, list_of(lambda name: is_text(name) and bool(GROUP.fullmatch(name)))),
    "arrays": mapping_of(_is_array, is_text),
    "files": mapping_of(is_text, is_count),
    "clinical_unread": mapping_of(is_text, is_text),
    "problems": list_of(fields(path=is_text, message=is_text, severity=is_text)),
    "times": fields(converted=is_text),
}
_GRID_ATTRIBUTES: Final[Mapping[str, Test]] = {
    "subject": is_text,
    "space": is_text,
    "reference": is_text,
    "orientation": is_text,
    "direction": list_of(list_of(is_number, 3), 3),
    "affine": list_of(list_of(is_number, 4), 4),
}
_AXIS_ATTRIBUTES: Final[Mapping[str, Test]] = {
    "direction": list_of(is_number, 3),
    "spacing": lambda value: is_number(value) and value > 0,
}


# --- documents ---


def checked_document(document: Mapping[str, Any], path: str) -> None:
    """Make sure that a document is one that `convert` writes: of a group with all that it lists, or of an array.

    Parameters
    ----------
    document
        As parsed.
    path
        Of the node, for errors: its last part is its name.

    Raises
    ------
    StoreDamageError
        A key is missing, or has a value of another kind, or values contradict each other.
    """
    kind = document.get("node_type")
    if document.get("zarr_format") != 3 or kind not in ("group", "array"):
        raise StoreDamageError(path, "is not a Zarr document")
    if kind == "group":
        checked_group(document, path)
    elif ATTRIBUTE_KEY in document.get("attributes", {}):
        checked_image(document, path)
    else:
        checked_small_array(document, path)


def checked_group(document: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Make sure that the document of a group is as `convert` writes it; return those of all that it lists."""
    attributes = document.get("attributes", {})
    name = path.rsplit("/", 1)[-1]
    if SUBJECT_NAME.fullmatch(name):
        (checked_derivative if attributes.get("pipeline") else checked_record)(attributes, path)
    elif name.startswith("space-"):
        require(_GRID_ATTRIBUTES, attributes, path)
    members = listed_members(document, path)
    for below, each in members.items():
        checked_document(each, f"{path}/{below}")
    if name.startswith("space-") and members:
        _check_sizes(members, path)
    return members


def listed_members(document: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Return the documents of all that a group lists, which need not be those of anything that `convert` writes."""
    listed = document.get("consolidated_metadata", {"metadata": {}})
    members: Any = listed.get("metadata") if isinstance(listed, dict) else None
    if not isinstance(members, dict) or not all(isinstance(each, dict) for each in members.values()):
        raise StoreDamageError(path, "lists its members otherwise than convert does")
    for below, each in members.items():
        nested = each.get("consolidated_metadata") is not None  # null of zarr-python, for none
        odd = nested or not isinstance(each.get("attributes"), dict)
        if odd or any(part in ("", ".", "..") for part in below.split("/")):
            raise StoreDamageError(f"{path}/{below}", "is not a Zarr document")
    return members


def committed_members(document: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Return the documents of all that a subject lists, the arrays that its checked attributes name among them."""
    members = listed_members(document, path)
    if missing := sorted(set(document["attributes"][ATTRIBUTE_KEY]["arrays"]) - members.keys()):
        raise StoreDamageError(f"{path}/{missing[0]}", "is listed by its subject, which lacks it")
    return members


def checked_record(attributes: Mapping[str, Any], path: str) -> None:
    """Make sure that the attributes of a subject are clinical values and the record of its conversion."""
    record = attributes.get(ATTRIBUTE_KEY)
    if not isinstance(record, dict):
        raise StoreDamageError(path, f"lacks {ATTRIBUTE_KEY}")
    require(_SUBJECT_RECORD, record, path, f"{ATTRIBUTE_KEY}.")
    wrong = [name for name, value in attributes.items() if name != ATTRIBUTE_KEY and not is_cell(value)]
    if wrong:
        raise StoreDamageError(path, f"has a {wrong[0]} that convert does not write")


def _check_sizes(members: Mapping[str, Any], path: str) -> None:
    """Make sure that the images of a grid have the sizes of its coordinates."""
    sizes = {name: members[name]["shape"][0] for name in COORDINATES if name in members}
    for name, member in members.items():
        if name not in COORDINATES and member["node_type"] == "array":
            axes = COORDINATES[-len(member["shape"]) :]
            if [sizes.get(axis) for axis in axes] != member["shape"]:
                raise StoreDamageError(f"{path}/{name}", "has another shape than its coordinates")


def checked_image(document: Mapping[str, Any], path: str) -> None:
    """Make sure that the document of an image is as `convert` writes it, and agrees with itself."""
    attributes: Mapping[str, Any] = document.get("attributes", {})
    require(_IMAGE_ATTRIBUTES, attributes, path)
    for tests in (_MASK_ATTRIBUTES, _SCALING):
        if any(name in attributes for name in tests):
            require(tests, attributes, path)
    if odd := [name for name in _NO_IMAGE_HAS if name in attributes]:
        raise StoreDamageError(path, f"has a {odd[0]}, which no image has")
    record = attributes[ATTRIBUTE_KEY]
    require(image_tests(record, _IMAGE_RECORD), record, path, f"{ATTRIBUTE_KEY}.")
    shape: Any = document.get("shape")
    dtype = _TYPES.get(str(document.get("data_type")))
    if not is_shape(shape) or len(shape) not in (3, 4) or dtype is None:
        raise StoreDamageError(path, "has a shape or type that no image has")
    if not is_as_converted(document) or not document.keys() <= _ARRAY_KEYS or not is_zero(document.get("fill_value")):
        raise StoreDamageError(path, "is stored otherwise than convert stores images")
    if document.get("dimension_names") != list(COORDINATES[-len(shape) :]):
        raise StoreDamageError(path, "has axes that no image has")
    _check_file(shape, attributes[ATTRIBUTE_KEY], path)
    _check_type(dtype, attributes, path)
    _check_shards(document, dtype.itemsize, path)


def _check_file(shape: list[int], record: Mapping[str, Any], path: str) -> None:
    """Make sure that an array has the voxels of the file that it came from, which was large enough to hold them."""
    x, y, z, *frames = record["file_shape"]
    volume = [(x, y, z)[axis] for axis in reversed(record["orientation"]["axes"])]
    if shape[-3:] != volume or math.prod(frames) != math.prod(shape[:-3]):
        raise StoreDamageError(path, "has another shape than its file")
    most = MAX_DEFLATE_RATIO * record["source"]["size"] if "source" in record else math.inf
    if math.prod(shape) * np.dtype(record["file_dtype"]).itemsize > most:
        raise StoreDamageError(path, "has more voxels than its file can hold")


def _check_type(dtype: np.dtype[Any], attributes: Mapping[str, Any], path: str) -> None:
    """Make sure that an array has the type of its file or, of a mask, of the labels that are listed."""
    record, mask = attributes[ATTRIBUTE_KEY], attributes[ATTRIBUTE_KEY].get("mask")
    kind = None if "pipeline" in record else IMAGES.get(path.rsplit("/", 1)[-1])
    is_mask = kind.is_mask if kind else mask is not None
    if (mask is not None) != is_mask:
        raise StoreDamageError(path, f"{'lacks' if is_mask else 'has'} {ATTRIBUTE_KEY}.mask")
    wanted = np.dtype(record["file_dtype"]).newbyteorder("=")
    if mask is not None:
        require({"kind": ("labels", "soft", "other").__contains__}, mask if type(mask) is dict else {}, path, "mask.")
        if mask["kind"] == "labels":
            require(_LABELS, mask, path, f"{ATTRIBUTE_KEY}.mask.")
            require(_MASK_ATTRIBUTES, attributes, path)
            stored, highest = mask.get("stored", mask["labels"]), max([*mask["labels"], mask["highest"]])
            if not list_of(is_stored, len(mask["labels"]))(stored) or highest != mask["highest"]:
                raise StoreDamageError(path, f"has a {ATTRIBUTE_KEY}.mask that contradicts itself")
            wanted = np.min_scalar_type(highest)
    if dtype != wanted:
        raise StoreDamageError(path, f"has the type {dtype}, and its record says {wanted}")


def _check_shards(document: Mapping[str, Any], itemsize: int, path: str) -> None:
    """Make sure that shards are made of whole chunks, of bounded size, and that those of the shape are listed."""
    shape, shard = document["shape"], document["chunk_grid"]["configuration"].get("chunk_shape")
    options = document["codecs"][0]["configuration"]
    chunk, blosc, record = (
        options.get("chunk_shape"),
        options["codecs"][1]["configuration"],
        document["attributes"][ATTRIBUTE_KEY],
    )
    # shards are filled up to whole chunks
    if not all(is_shape(each, most=2 * MAX_AXIS) and len(each) == len(shape) for each in (chunk, shard)):
        raise StoreDamageError(path, "has chunks that no image has")
    size, whole = math.prod(chunk) * itemsize, math.prod(shard) * itemsize
    counts = tuple([-(-count // each) for count, each in zip(shape, shard, strict=True)])
    if (
        any(map(operator.mod, shard, chunk))
        or size > MOST_CHUNK_BYTES
        or whole > MOST_SHARD_BYTES
        # but for frames, shards are cut along the axis that was the slowest of the file
        or math.prod(counts[-3:]) != counts[-1 - record["orientation"]["axes"].index(2)]
        or blosc.get("typesize") != itemsize
        or blosc.get("shuffle") not in ("noshuffle", "shuffle", "bitshuffle")
        or not (is_count(blosc["blocksize"]) and blosc["blocksize"] <= size and blosc["blocksize"] % itemsize == 0)
    ):
        raise StoreDamageError(path, "has chunks that no image has")
    listed = record["shards"]
    separator = document["chunk_key_encoding"]["configuration"]["separator"]
    if math.prod(counts) != len(listed) or listed.keys() != _shard_keys(counts, separator):
        raise StoreDamageError(path, "lists other shards than its shape has")
    if min(listed.values()) < index_bytes(whole // size):
        raise StoreDamageError(path, "lists shards that are too small for an index")


@functools.lru_cache(256)
def _shard_keys(counts: tuple[int, ...], separator: str) -> frozenset[str]:
    return frozenset(separator.join(map(str, ("c", *place))) for place in itertools.product(*map(range, counts)))


def is_as_converted(document: Mapping[str, Any]) -> bool:
    """Tell whether an array is stored as `convert` stores images: shards of Blosc with a CRC-32C."""
    try:
        (sharding,) = document["codecs"]
        options = sharding["configuration"]
        inner, outer = options["codecs"], options["index_codecs"]
        return (
            sharding["name"] == "sharding_indexed"
            and options.get("index_location", "end") == "end"
            and [codec["name"] for codec in inner] == ["bytes", "blosc", "crc32c"]
            and [codec["name"] for codec in outer] == ["bytes", "crc32c"]
            and "big" not in {codec.get("configuration", {}).get("endian") for codec in (inner[0], outer[0])}
            and inner[1]["configuration"]["blocksize"] > 0
            and document["chunk_key_encoding"]
            in ([_KEYS, _DOTTED_KEYS] if "pipeline" in document["attributes"][ATTRIBUTE_KEY] else [_KEYS])
            and document["chunk_grid"]["name"] == "regular"
            and isinstance(document["chunk_grid"]["configuration"], dict)
            and ATTRIBUTE_KEY in document["attributes"]
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def checked_small_array(document: Mapping[str, Any], path: str) -> None:
    """Make sure that the document of a coordinate or a column of the table is as `convert` writes it: of one chunk."""
    parent, _, name = f"/{path}".rpartition("/")
    shape: Any = document.get("shape")
    attributes = document.get("attributes", {})
    if not (list_of(is_count, 1, 2)(shape) and math.prod(shape) <= _MOST_ROWS):
        raise StoreDamageError(path, "has a shape that no coordinate and no column has")
    names: Any = document.get("dimension_names")
    if not (list_of(is_text, len(shape))(names) and len(set(names)) == len(names)):
        raise StoreDamageError(path, "has axes that no coordinate and no column has")
    if not _is_small_as_converted(document):
        raise StoreDamageError(path, "is stored otherwise than convert stores coordinates and columns")
    if name in COORDINATES and parent.rpartition("/")[2].startswith("space-"):
        if names != [name] or document.get("data_type") != "float64":
            raise StoreDamageError(path, "is no coordinate")
        if name != "time":
            require(_AXIS_ATTRIBUTES, attributes, path)
    for key in ("long_name", "units", "description"):
        if not isinstance(attributes.get(key, ""), str):
            raise StoreDamageError(path, f"has a {key} that convert does not write")


def _is_small_as_converted(document: Mapping[str, Any]) -> bool:
    text = document.get("data_type") == "string"
    try:
        first, blosc, crc32c = document["codecs"]
        return (
            (text or document["data_type"] == "bool" or document["data_type"] in _TYPES)
            and [codec["name"] for codec in (first, blosc, crc32c)]
            == ["vlen-utf8" if text else "bytes", "blosc", "crc32c"]
            and first.get("configuration", {}).get("endian") != "big"
            and blosc["configuration"]["shuffle"] in ("noshuffle", "shuffle", "bitshuffle")
            and document["chunk_key_encoding"] == _KEYS
            and document["chunk_grid"]["name"] == "regular"
            and document["chunk_grid"]["configuration"]["chunk_shape"] == [max(1, count) for count in document["shape"]]
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
