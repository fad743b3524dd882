"""Training: channels and windows, patches, and what the frameworks take."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.training.channels import WINDOW_PRESETS, Channel, ChannelLike, channels_of
from isles24_zarr.training.opening import opened_channels

if TYPE_CHECKING:
    from isles24_zarr.training.intensities import cohort_intensities
    from isles24_zarr.training.nnunet import NORMALIZATIONS, NnunetReport, nnunet_dataset

__all__ = [
    "NORMALIZATIONS",
    "WINDOW_PRESETS",
    "Channel",
    "ChannelLike",
    "NnunetReport",
    "channels_of",
    "cohort_intensities",
    "nnunet_dataset",
    "opened_channels",
]

_HOMES: Final = {
    "cohort_intensities": "intensities",
    "NORMALIZATIONS": "nnunet",
    "NnunetReport": "nnunet",
    "nnunet_dataset": "nnunet",
}
"""Modules of what works on a cluster, or writes: workers of a DataLoader import this package, and not those."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
