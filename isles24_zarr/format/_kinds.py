"""Tests of values as JSON has them, and tests made of others: what documents must hold is written with these as data.

They go by the type itself: a bool is no number, and a whole number in the place of a text no text.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import StoreDamageError
from isles24_zarr.nifti import MAX_AXIS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Test = Callable[[Any], bool]

_MOST_BYTES: Final = 2**50


def is_text(value: Any) -> bool:
    """Tell whether it is a text."""
    return type(value) is str


def is_count(value: Any) -> bool:
    """Tell whether it is a number of bytes, voxels or rows."""
    return type(value) is int and 0 <= value <= _MOST_BYTES


def is_number(value: Any) -> bool:
    """Tell whether it is a finite number."""
    return (type(value) is int and abs(value) <= _MOST_BYTES) or (type(value) is float and math.isfinite(value))


def is_label(value: Any) -> bool:
    """Tell whether it is a label of a mask."""
    return type(value) is int and 0 <= value < 2**64


def is_stored(value: Any) -> bool:
    """Tell whether it is what a file can have stored for a label."""
    return (type(value) is int and abs(value) < 2**64) or (type(value) is float and math.isfinite(value))


def is_zero(value: Any) -> bool:
    """Tell whether it is 0."""
    return type(value) in (int, float) and value == 0


def is_cell(value: Any) -> bool:
    """Tell whether it is a clinical value."""
    return value is None or type(value) in (str, bool) or is_number(value)


def list_of(test: Test, *counts: int) -> Test:
    """Make the test of a list, of one of the given lengths if there are any."""
    return lambda value: type(value) is list and (not counts or len(value) in counts) and all(map(test, value))


def is_shape(value: Any, *, most: int = MAX_AXIS) -> bool:
    """Tell whether it is a shape, with no axis longer than ``most``."""
    return type(value) is list and set(map(type, value)) == {int} and min(value) > 0 and max(value) <= most


def is_hexadecimal(count: int) -> Test:
    """Make the test of so many hexadecimal digits."""
    pattern = re.compile(rf"[0-9a-f]{{{count}}}", re.ASCII)
    return lambda value: type(value) is str and bool(pattern.fullmatch(value))


def mapping_of(key: Test, value: Test) -> Test:
    """Make the test of an object, whatever it has, by tests of its keys and values."""
    return lambda found: type(found) is dict and all(map(key, found)) and all(map(value, found.values()))


def fields(**tests: Test) -> Test:
    """Make the test of an object that has certain keys."""

    def test(value: Any) -> bool:
        if type(value) is not dict:
            return False
        return all(name in value and right(value[name]) for name, right in tests.items())

    return test


def optional(test: Test) -> Test:
    """Make the test of what may be null."""
    return lambda value: value is None or test(value)


def require(tests: Mapping[str, Test], values: Mapping[str, Any], path: str, prefix: str = "") -> None:
    """Make sure that all keys are there, with values of their kind."""
    for name, test in tests.items():
        if name not in values:
            raise StoreDamageError(path, f"lacks {prefix}{name}")
        if not test(values[name]):
            raise StoreDamageError(path, f"has a {prefix}{name} that convert does not write")
