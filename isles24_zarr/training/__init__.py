"""Training: channels and windows, patches, and what the frameworks take."""

from isles24_zarr.training.channels import WINDOW_PRESETS, Channel, ChannelLike, channels_of
from isles24_zarr.training.intensities import cohort_intensities
from isles24_zarr.training.nnunet import NORMALIZATIONS, NnunetReport, nnunet_dataset
from isles24_zarr.training.opening import opened_channels

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
