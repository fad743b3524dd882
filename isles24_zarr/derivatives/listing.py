"""Which pipelines there are, and what they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isles24_zarr.format import DERIVATIVES, pipelines_of
from isles24_zarr.store import read_document

if TYPE_CHECKING:
    from isles24_zarr.store import StorePlace


def pipeline_names(target: StorePlace) -> list[str]:
    """Return the names of the pipelines of a store, sorted."""
    return pipelines_of(read_document(target.opened(read_only=True), DERIVATIVES))
