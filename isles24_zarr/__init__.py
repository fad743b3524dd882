"""ISLES'24 stroke imaging as one chunked, sharded Zarr v3 store, opened lazily with xarray on Dask.

>>> import isles24_zarr  # doctest: +SKIP
>>> isles24_zarr.convert("train/", "isles24.zarr")  # doctest: +SKIP
>>> isles24_zarr.open_scan("isles24.zarr", "sub-stroke0001")  # doctest: +SKIP
"""

from importlib.metadata import version

from isles24_zarr.convert import convert, scan

__all__ = ["convert", "scan"]

__version__ = version("isles24-zarr")
