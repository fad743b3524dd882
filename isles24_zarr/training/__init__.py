"""Training: channels and windows, patches, and what the frameworks take."""

from isles24_zarr.training.channels import WINDOW_PRESETS, Channel, ChannelLike, channels_of

__all__ = ["WINDOW_PRESETS", "Channel", "ChannelLike", "channels_of"]
