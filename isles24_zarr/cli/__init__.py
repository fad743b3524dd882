"""The command line."""

from isles24_zarr.cli.commands import main

__all__ = ["main"]
