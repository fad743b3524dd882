"""Documents of a store with any value changed: what is read is right, or one error of ours says why it is not."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr.derivatives import described_pipelines
from isles24_zarr.errors import Isles24Error
from isles24_zarr.format.layout import seal
from isles24_zarr.scans.opening import described_arrays, stored_array
from isles24_zarr.store.objects import StorePlace, committed_subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUBJECT: Final = "sub-stroke0001"
SECONDS: Final = 20
"""Far more than any of this takes, far less than what a document could ask for."""
DOCUMENTS: Final = (
    "zarr.json",
    "phenotype/zarr.json",
    f"{SUBJECT}/zarr.json",
    f"{SUBJECT}/space-ncct/zarr.json",
    f"{SUBJECT}/space-ncct/ctp/zarr.json",
    f"{SUBJECT}/space-ncct/x/zarr.json",
    "derivatives/zarr.json",
    "derivatives/late/zarr.json",
    f"derivatives/late/{SUBJECT}/zarr.json",
    f"derivatives/late/{SUBJECT}/space-ncct/zarr.json",
    f"derivatives/late/{SUBJECT}/space-ncct/delay/zarr.json",
)
_GONE: Final = "(gone)"
_VALUES: Final[list[Any]] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "../../x", "\x1b[2J", "NaN", "A" * 5000),
    *([], [0], [-1], [2**40] * 3, {}, {"a": 1}, [[]], _GONE),
]
documents: Final = st.tuples(st.sampled_from(DOCUMENTS), st.integers(0, 2**20), st.sampled_from(_VALUES))


def _places(value: Any, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    """Yield each container in a document, how deep it lies, and each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield depth, value, key
        yield from _places(value[key], depth + 1)


def _by_depth(document: Any) -> list[list[tuple[Any, Any]]]:
    found: dict[int, list[tuple[Any, Any]]] = {}
    for depth, container, key in _places(document):
        found.setdefault(depth, []).append((container, key))
    return [found[depth] for depth in sorted(found)]


def at_the_top(data: bytes) -> list[int]:
    """Return the numbers of the places in a document, and of those in the values that it holds."""
    levels = _by_depth(json.loads(data))
    return [place * len(levels) + depth for depth in (0, 1) for place in range(len(levels[depth]))]


def changed(data: bytes, number: int, value: Any) -> bytes:
    """Put a value, or nothing, in a place of a document: the few at its top are as likely as the many below."""
    document = json.loads(data)
    levels = _by_depth(document)
    number, depth = divmod(number, len(levels))
    container, key = levels[depth][number % len(levels[depth])]
    if value == _GONE:
        del container[key]
    else:
        container[key] = value
    return json.dumps(_sealed(document)).encode()


def _sealed(document: dict[str, Any]) -> dict[str, Any]:
    """Seal a document anew, as whoever means harm would: what is changed has to be found for what it is."""
    attributes = document.get("attributes")
    recorded = attributes.get("isles24_zarr") if isinstance(attributes, dict) else None
    if isinstance(recorded, dict) and "seal" in recorded:
        with contextlib.suppress(ValueError):  # NaN, which has no place in JSON
            recorded["seal"] = seal(document)
    return document


def with_results(store: Path) -> Path:
    """Save what a pipeline makes of a subject: an image and a mask."""
    scan = isles24_zarr.open_scan(store, SUBJECT)
    scan.isles.save({"delay": scan["tmax"] / 2, "late": scan["tmax"] > 6}, "late")
    return store


def _reads(store: Path) -> dict[str, Callable[[], object]]:
    saved = {"pipeline": "late", "chunks": None}
    return {
        "open_cohort": lambda: isles24_zarr.open_cohort(store).isles.table,
        "open_scan": lambda: isles24_zarr.open_scan(store, SUBJECT, chunks=None).load().isles.affine,
        "stored_array": lambda: stored_array(StorePlace.of(store), f"{SUBJECT}/space-ncct/ctp").shape,
        "described_arrays": lambda: described_arrays(store, SUBJECT),
        "open_scan of results": lambda: isles24_zarr.open_scan(store, SUBJECT, **saved).load().isles.affine,
        "described_pipelines": lambda: described_pipelines(store),
        "committed_subjects": lambda: committed_subjects(StorePlace.of(store).opened(read_only=True)),
        "verify": lambda: isles24_zarr.verify(store, fast=True, progress=False),
    }


def check_document(example: tuple[str, int, Any], store: Path | None = None) -> None:
    """Change a document of a store, use the store in all ways, and put it back."""
    store = store or _store()
    name, number, value = example
    path = store / name
    data = path.read_bytes()
    path.write_bytes(changed(data, number, value))
    try:
        for what, read in _reads(store).items():
            began = time.monotonic()
            error = _error_of(read)
            # verify tells of damage, and goes on
            assert error is None or what != "verify" or name == "zarr.json", error
            assert str(error).isprintable()
            assert time.monotonic() - began < SECONDS, what
    finally:
        path.write_bytes(data)


def _error_of(read: Callable[[], object]) -> Isles24Error | None:
    try:
        read()
    except Isles24Error as error:
        return error
    return None


@functools.lru_cache(1)
def _store() -> Path:
    folder = Path(tempfile.mkdtemp())
    isles24_zarr.synthesize(folder / "train", subjects=2, scale="tiny")
    isles24_zarr.convert(folder / "train", folder / "x.zarr", workers=1, progress=False)
    return with_results(folder / "x.zarr")
