"""ISLES'24 stroke imaging as one chunked, sharded Zarr v3 store, opened lazily with xarray on Dask.

>>> import isles24_zarr  # doctest: +SKIP
>>> isles24_zarr.convert("train/", "isles24.zarr")  # doctest: +SKIP
>>> isles24_zarr.open_scan("isles24.zarr", "sub-stroke0001")  # doctest: +SKIP
"""

from isles24_zarr import accessor as _accessor  # noqa: F401 - registers .isles
from isles24_zarr.cohort import open_cohort
from isles24_zarr.convert import convert, scan
from isles24_zarr.dataset import open_scan
from isles24_zarr.export import export
from isles24_zarr.synthetic import synthesize
from isles24_zarr.verify import verify
from isles24_zarr.version import PACKAGE_VERSION

__all__ = ["convert", "export", "open_cohort", "open_scan", "scan", "synthesize", "verify"]

__version__ = PACKAGE_VERSION
