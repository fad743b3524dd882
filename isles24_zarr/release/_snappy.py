"""Snappy blocks, decompressed from front to back in bounded memory.

pyarrow decompresses them whole. A block is its length, then literals and copies of what came before
(https://github.com/google/snappy/blob/main/format_description.txt). Compressors work on 64 kB at a time and never copy
from further behind; one that did is refused. What gzip has compressed is literals of 64 kB, which cost nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_BYTES: Final = 2**16
_READ_BYTES: Final = 2**18
_MOST_TAG_BYTES: Final = 5


class SnappyStream:
    """The bytes of a block.

    Parameters
    ----------
    read
        Gives the next compressed bytes: at most as many as it is asked for, none at the end.

    Raises
    ------
    ValueError
        Here or in reading: it is damaged.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._input, self._at = b"", 0
        self._out, self._given = bytearray(), 0
        self._literal = 0
        self._left = self._length()

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most as many as asked for, none at the end."""
        if self._given == len(self._out):
            self._produce(count)
        piece = bytes(memoryview(self._out)[self._given : self._given + count])
        self._given += len(piece)
        return piece

    def _length(self) -> int:
        self._refill(_MOST_TAG_BYTES)
        length = 0
        for shift in range(0, 7 * _MOST_TAG_BYTES, 7):
            byte = self._byte()
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                return length
        raise ValueError("the length of a Snappy block is damaged")

    def _byte(self) -> int:
        if self._at == len(self._input):
            raise ValueError("a Snappy block breaks off")
        self._at += 1
        return self._input[self._at - 1]

    def _refill(self, count: int) -> None:
        """Have at least so many bytes of input, if there are."""
        while len(self._input) - self._at < count and (piece := self._read(_READ_BYTES)):
            self._input, self._at = self._input[self._at :] + piece, 0

    def _produce(self, count: int) -> None:
        """Decompress until there are some bytes to give; keep those that may be copied."""
        if len(self._out) > _WINDOW_BYTES:
            del self._out[: len(self._out) - _WINDOW_BYTES]
        self._given = len(self._out)
        wanted = self._given + min(count, _READ_BYTES, self._left)
        while len(self._out) < wanted:
            if self._literal:
                self._copy_literal()
            else:
                self._element()
        self._left -= len(self._out) - self._given
        if self._left < 0:
            raise ValueError("a Snappy block is longer than it says")

    def _copy_literal(self) -> None:
        self._refill(1)
        piece = self._input[self._at : self._at + self._literal]
        if not piece:
            raise ValueError("a Snappy block breaks off")
        self._at += len(piece)
        self._literal -= len(piece)
        self._out += piece

    def _element(self) -> None:
        if len(self._input) - self._at < _MOST_TAG_BYTES:
            self._refill(_MOST_TAG_BYTES)
        tag = self._byte()
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:
            self._literal = self._number(length - 60) + 1 if length > 60 else length
            return
        if kind == 1:
            length, offset = 4 + (tag >> 2 & 7), (tag & 0xE0) << 3 | self._byte()
        else:
            offset = self._number(2 if kind == 2 else 4)
        if not 0 < offset <= len(self._out):
            raise ValueError("a Snappy block copies from further behind than is kept")
        start = len(self._out) - offset
        if offset >= length:
            self._out += self._out[start : start + length]
        else:  # what is copied goes on with the copy
            self._out += (self._out[start:] * (length // offset + 1))[:length]

    def _number(self, count: int) -> int:
        found = self._input[self._at : self._at + count]
        if len(found) < count:
            raise ValueError("a Snappy block breaks off")
        self._at += count
        return int.from_bytes(found, "little")
