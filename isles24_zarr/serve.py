"""Moved to `isles24_zarr.serving`: this path warns, and goes with the next minor version."""

import warnings

from isles24_zarr.serving import LOOPBACK_ORIGINS, serve, store_app

__all__ = ["LOOPBACK_ORIGINS", "serve", "store_app"]

warnings.warn("isles24_zarr.serve has moved to isles24_zarr.serving", DeprecationWarning, stacklevel=2)
