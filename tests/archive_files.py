"""Archives for tests, good ones and others, by the standard library and py7zr."""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import py7zr
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILTERS: dict[str, list[dict[str, int]] | None] = {
    "default": None,
    "copy": [{"id": py7zr.FILTER_COPY}],
    "lzma": [{"id": lzma.FILTER_LZMA1, "preset": 1}],
    "lzma2": [{"id": lzma.FILTER_LZMA2, "preset": 1}],
    "bzip2": [{"id": py7zr.FILTER_BZIP2}],
}

Members = list[tuple[str, bytes]]


def members_of(release: Path, order: str = "sorted") -> Members:
    """Name and content of every file of a release, in some order."""
    files = sorted(path for path in release.rglob("*") if path.is_file())
    found = [(path.relative_to(release).as_posix(), path.read_bytes()) for path in files]
    if order == "reversed":
        return found[::-1]
    is_table = [name.endswith("xlsx") for name, _ in found]
    pairs = zip(found, is_table, strict=True)
    if order == "tables first":
        return [pair[0] for pair in sorted(pairs, key=lambda pair: not pair[1])]
    if order == "tables last":
        return [pair[0] for pair in sorted(pairs, key=lambda pair: pair[1])]
    return found


def pack(path: Path, members: Iterable[tuple[str, bytes]], *, kind: str = "lzma2", encoded: bool = True) -> Path:
    """Write an archive by the suffix of its name; names are written as they are."""
    if path.suffix == ".zip":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # of names that are there twice
            for name, content in members:
                archive.writestr(name, content)
    elif path.suffix == ".7z":
        # py7zr would refuse hostile names, too
        with pytest.MonkeyPatch.context() as patch, py7zr.SevenZipFile(path, "w", filters=FILTERS[kind]) as packed:
            patch.setattr(packed, "_sanitize_archive_arcname", str)
            patch.setattr("py7zr.py7zr.check_archive_path", bool)
            packed.set_encoded_header_mode(encoded)
            for name, content in members:
                packed.writestr(content, name)
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in members:
                tar.addfile(tar_member(name, size=len(content)), io.BytesIO(content))
    return path


def tar_member(name: str, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def directory_span(data: bytes) -> tuple[int, int]:
    """Where the directory of a 7z archive lies."""
    offset, size = struct.unpack_from("<QQ", data, 12)
    return 32 + offset, 32 + offset + size


def with_directory(data: bytes, directory: bytes) -> bytes:
    """Return a 7z archive with another directory, and with the checksums that belong to it."""
    start, _ = directory_span(data)
    head = struct.pack("<QQL", start - 32, len(directory), zlib.crc32(directory))
    return data[:8] + struct.pack("<L", zlib.crc32(head)) + head + data[32:start] + directory
