"""Training: channels and windows, patches, and what the frameworks take."""

from isles24_zarr.training.channels import WINDOW_PRESETS, Channel, ChannelLike, channels_of
from isles24_zarr.training.nnunet import NORMALIZATIONS, NnunetReport, nnunet_dataset

__all__ = [
    "NORMALIZATIONS",
    "WINDOW_PRESETS",
    "Channel",
    "ChannelLike",
    "NnunetReport",
    "channels_of",
    "nnunet_dataset",
]
