"""From a release to a store, and back."""

from isles24_zarr.conversion._commit import store_errors
from isles24_zarr.conversion._forecast import Forecast, forecast
from isles24_zarr.conversion._planning import planned, scan
from isles24_zarr.conversion._room import estimated_bytes
from isles24_zarr.conversion._versions import committing
from isles24_zarr.conversion.converting import ConvertReport, convert
from isles24_zarr.conversion.exporting import ExportReport, export
from isles24_zarr.conversion.resume import FIRST_TIME

__all__ = [
    "FIRST_TIME",
    "ConvertReport",
    "ExportReport",
    "Forecast",
    "committing",
    "convert",
    "estimated_bytes",
    "export",
    "forecast",
    "planned",
    "scan",
    "store_errors",
]
