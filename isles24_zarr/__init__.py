"""ISLES'24 stroke imaging as one chunked, sharded Zarr v3 store, opened lazily with xarray on Dask.

>>> import isles24_zarr
>>> scan = isles24_zarr.open_scan("isles24.zarr", "sub-stroke0001")
>>> scan.isles.volume("lesion_mask", threshold=0.5) > 0
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr import errors, vocabulary
from isles24_zarr._registration import register_accessors as _register_accessors
from isles24_zarr.errors import Problem

if TYPE_CHECKING:
    from isles24_zarr.cohorts import open_cohort
    from isles24_zarr.conversion import ConvertReport, DiffReport, ExportReport, convert, diff, export, scan
    from isles24_zarr.derivatives import AddReport, RemoveReport, add, remove
    from isles24_zarr.release import FetchCost, FetchReport, Release, fetch, fetch_cost
    from isles24_zarr.scans import open_scan
    from isles24_zarr.serving import view
    from isles24_zarr.synthetic import synthesize
    from isles24_zarr.verification import VerifyReport, verify

__all__ = [
    "AddReport",
    "ConvertReport",
    "DiffReport",
    "ExportReport",
    "FetchCost",
    "FetchReport",
    "Problem",
    "Release",
    "RemoveReport",
    "VerifyReport",
    "add",
    "convert",
    "diff",
    "errors",
    "export",
    "fetch",
    "fetch_cost",
    "open_cohort",
    "open_scan",
    "remove",
    "scan",
    "synthesize",
    "verify",
    "view",
    "vocabulary",
]

_HOMES: Final = {
    "cohorts": ["open_cohort"],
    "conversion": ["ConvertReport", "DiffReport", "ExportReport", "convert", "diff", "export", "scan"],
    "derivatives": ["AddReport", "RemoveReport", "add", "remove"],
    "release": ["FetchCost", "FetchReport", "Release", "fetch", "fetch_cost"],
    "scans": ["open_scan"],
    "serving": ["view"],
    "synthetic": ["synthesize"],
    "verification": ["VerifyReport", "verify"],
    "analysis": [],
    "figures": [],
    "geometry": [],
    "perfusion": [],
}
"""Packages with what the face has of each: they are imported when they are first asked for, and xarray with them."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from isles24_zarr.version import PACKAGE_VERSION

        return PACKAGE_VERSION
    for package, names in _HOMES.items():
        if name == package or name in names:
            module = importlib.import_module(f"{__name__}.{package}")
            return module if name == package else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})


_register_accessors()
