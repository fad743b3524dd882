"""Stores damaged on purpose: what still can be read of them has not read the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from isles24_zarr.format.layout import seal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


def spoil_chunks(array: Path, *, but: Collection[tuple[int, ...]]) -> int:
    """Overwrite all inner chunks of the one shard of an array but some; return how many there were to overwrite.

    The index of a shard is at its end: offset and length of each chunk as uint64, and a CRC-32C.
    """
    document = json.loads((array / "zarr.json").read_text())
    shard = document["chunk_grid"]["configuration"]["chunk_shape"]
    (codec,) = document["codecs"]
    counts = [n // m for n, m in zip(shard, codec["configuration"]["chunk_shape"], strict=True)]
    (path,) = [file for file in (array / "c").rglob("*") if file.is_file()]
    data = bytearray(path.read_bytes())
    index = np.frombuffer(bytes(data[-4 - 16 * int(np.prod(counts)) : -4]), "<u8").reshape(*counts, 2)
    spoilt = 0
    for place in np.ndindex(*counts):
        if place not in but:
            offset, length = (int(value) for value in index[place])
            data[offset : offset + length] = bytes(length)
            spoilt += 1
    path.write_bytes(data)
    return spoilt


def rewrite_table(store: Path, columns: Mapping[str, Any]) -> None:
    """Give columns of the cohort table another value for all subjects, sealed as a conversion would."""
    path = store / "phenotype/zarr.json"
    document = json.loads(path.read_text())
    listed = document["attributes"]["isles24_zarr"]["columns"]
    for name, value in columns.items():
        listed[name] = [value] * len(listed[name])
    document["attributes"]["isles24_zarr"]["seal"] = seal(document)
    path.write_text(json.dumps(document, indent=2))
