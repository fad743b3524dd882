"""What documents of derivatives must hold, beside those of images: tests as data, as in `documents`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.format._kinds import fields, is_count, is_hexadecimal, is_text, list_of, mapping_of, require
from isles24_zarr.format.layout import ATTRIBUTE_KEY, PIPELINE_NAME, RESULT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isles24_zarr.format._kinds import Test

GROUP: Final = re.compile(r"space-[0-9A-Za-z]+(_desc-[0-9A-Za-z_]+)?", re.ASCII)
"""A grid."""

_IS_ARRAY: Final = re.compile(rf"{GROUP.pattern}/{RESULT_NAME.pattern}", re.ASCII)
_IS_PROGRAM: Final = fields(Name=is_text)
_ARRAY_RECORD: Final[Mapping[str, Test]] = {
    "pipeline": lambda value: is_text(value) and bool(PIPELINE_NAME.fullmatch(value)),
    "generated_by": list_of(_IS_PROGRAM),
    "sources": mapping_of(is_text, is_hexadecimal(32)),
}
_ATTRIBUTES: Final[Mapping[str, Test]] = {
    "subject": is_text,
    "pipeline": is_text,
    "GeneratedBy": list_of(_IS_PROGRAM),
    "Sources": list_of(is_text),
}
_RECORD: Final[Mapping[str, Test]] = {
    "format_version": is_count,
    "package_version": is_text,
    "arrays": list_of(lambda path: is_text(path) and bool(_IS_ARRAY.fullmatch(path))),
    "times": fields(saved=is_text),
}


def image_tests(record: Mapping[str, Any], tests: Mapping[str, Test]) -> Mapping[str, Test]:
    """Return the tests of what was recorded of an array.

    Parameters
    ----------
    record
        Of an image, or of an array of a pipeline, which need not come from a file.
    tests
        Those of images.
    """
    if "pipeline" not in record:
        return tests
    left_out = () if "source" in record else ("source",)
    return {**{name: test for name, test in tests.items() if name not in left_out}, **_ARRAY_RECORD}


def checked_derivative(attributes: Mapping[str, Any], path: str) -> None:
    """Make sure that the attributes of a subject in a pipeline are as they are written.

    Raises
    ------
    StoreDamageError
        They are not.
    """
    require(_ATTRIBUTES, attributes, path)
    record = attributes.get(ATTRIBUTE_KEY)
    if not isinstance(record, dict):
        raise StoreDamageError(path, f"lacks {ATTRIBUTE_KEY}")
    require(_RECORD, record, path, f"{ATTRIBUTE_KEY}.")
