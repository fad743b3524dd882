"""Structures of Thrift in the compact protocol, as the footer and the page headers of Parquet files are.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any, Final

Struct = dict[int, Any]
"""Values by field number: numbers, bytes, lists, and structures."""

_MOST_DEPTH: Final = 16


class BadStructureError(ValueError):
    """Bytes are no structure of Thrift."""


class Compact:
    """Structures, and their numbers and bytes, read from the start of some bytes.

    Parameters
    ----------
    data
        The bytes; what follows the structure is not looked at.

    Attributes
    ----------
    at
        How many bytes have been read.

    Raises
    ------
    EOFError, BadStructureError
        In reading: it does not end within the bytes, or is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def struct(self, depth: int = 0) -> Struct:
        """Read a structure."""
        if depth > _MOST_DEPTH:
            raise BadStructureError("has structures that are too deep in each other")
        found: Struct = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            found[field] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (7, 8):  # a double, of which Parquet has none that is wanted here; bytes
            return self.bytes(8 if kind == 7 else self.varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise BadStructureError(f"has a value of the unknown kind {kind}")  # Parquet has no maps

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = self.varint() if head >> 4 == 15 else head >> 4
        if count > len(self._data) or depth > _MOST_DEPTH:
            raise BadStructureError("has a list that is too long or too deep")
        kind = head & 15
        return [self._byte() == 1 if kind in (1, 2) else self._value(kind, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        return self.bytes(1)[0]

    def bytes(self, count: int) -> bytes:
        """Read so many bytes."""
        if self.at + count > len(self._data):
            raise EOFError("breaks off")
        self.at += count
        return self._data[self.at - count : self.at]

    def varint(self) -> int:
        """Read a number that is not negative."""
        found = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
        raise BadStructureError("has a number that is too long")

    def _integer(self) -> int:
        found = self.varint()
        return found >> 1 ^ -(found & 1)
