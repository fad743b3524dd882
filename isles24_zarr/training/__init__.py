"""Training: channels and windows, patches, and what the frameworks take."""

from isles24_zarr.training.channels import WINDOW_PRESETS, Channel, ChannelLike, channels_of
from isles24_zarr.training.intensities import cohort_intensities
from isles24_zarr.training.opening import opened_channels

__all__ = ["WINDOW_PRESETS", "Channel", "ChannelLike", "channels_of", "cohort_intensities", "opened_channels"]
