"""The version of this package, as it is installed."""

from importlib.metadata import version
from typing import Final

PACKAGE_VERSION: Final = version("isles24-zarr")
