"""What a network sees: channels, each an image, a frame of a series, a result, or a function of a scan, in a window.

Nothing here reads voxels: channels are names and numbers, and the arithmetic of a window on an array.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.errors import UnknownNameError
from isles24_zarr.vocabulary import CT_WINDOWS, IMAGES, SERIES_IMAGES

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

WINDOW_PRESETS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = MappingProxyType(
    {
        "winner": MappingProxyType(
            {"cta": (0.0, 90.0), "tmax": (0.0, 7.0), "mtt": (0.0, 20.0), "cbf": (0.0, 35.0), "cbv": (0.0, 10.0)}
        ),
        "one_unet": MappingProxyType(
            {
                "ncct": (0.0, 100.0),
                "cta": (0.0, 200.0),
                "tmax": (0.0, 20.0),
                "mtt": (0.0, 20.0),
                "cbf": (0.0, 400.0),
                "cbv": (0.0, 400.0),
            }
        ),
    }
)
"""Lowest and highest value of each image, in its unit; images that a preset does not name are left as they are.

``winner``: of the winner of the challenge in 2024 (https://arxiv.org/abs/2505.18424, and preprocessing.py in
https://github.com/KurtLabUW/ISLES2024), who stripped the skull before, and equalized the histogram of what is above 0
afterwards: a window does neither.
``one_unet``: of an nnU-Net that was submitted in 2024 (https://github.com/Mahsa0M/isles2024_docker), which got images
whose background had been set to 0: a window does not do that.
"""

_SPELLING: Final = re.compile(r"(?:(?P<pipeline>[^/\[\]]+)/)?(?P<image>[^/\[\]]+)(?:\[(?P<frame>-?\d+)\])?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel.

    Parameters
    ----------
    name
        Of the channel.
    image
        Name of a volume, or, with ``frame``, of a series.
    frame
        Number of a frame of a series, from its end where it is negative.
    pipeline
        Whose result the image is; None for one of the release.
    function
        Of a scan, instead of an image: gets the scan as `open_scan` opens it on Dask, and returns a DataArray
        (z, y, x) on its grid.
    window
        Lowest and highest value, in the unit of the image: what lies outside takes the nearest of the two.
    unit
        Map the window to 0 .. 1.
    mean_sd
        Mean and standard deviation, in the unit of the image: after the window, values become (value - mean) / sd.

    Raises
    ------
    UnknownNameError
        The parts do not make a channel.

    Examples
    --------
    >>> Channel(name="stroke", image="ncct", window=(15, 55), unit=True).scaled(np.array([0.0, 35.0, 90.0]))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    name: str
    image: str | None = None
    frame: int | None = None
    pipeline: str | None = None
    function: Callable[[xr.Dataset], xr.DataArray] | None = None
    window: tuple[float, float] | None = None
    unit: bool = False
    mean_sd: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if (self.image is None) == (self.function is None):
            raise UnknownNameError(f"channel {self.name!r}", "is either an image or a function of a scan")
        if self.function is not None and (self.frame is not None or self.pipeline is not None):
            raise UnknownNameError(f"channel {self.name!r}", "is a function, frames and pipelines are of images")
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            raise UnknownNameError(f"channel {self.name!r}", "has a window that is not (lowest, highest)")
        if self.mean_sd is not None and not (math.isfinite(self.mean_sd[0]) and 0 < self.mean_sd[1] < math.inf):
            raise UnknownNameError(f"channel {self.name!r}", "needs a finite mean and a standard deviation above 0")
        if self.unit and (self.window is None or self.mean_sd is not None):
            raise UnknownNameError(f"channel {self.name!r}", "maps a window to 0 .. 1, or uses mean_sd, not both")
        if self.pipeline is None and (self.image in SERIES_IMAGES or (self.image in IMAGES and self.frame is not None)):
            self._check_frame(str(self.image))

    def _check_frame(self, image: str) -> None:
        if (image in SERIES_IMAGES) != (self.frame is not None):
            advice = f"is a series over time, name a frame of it as {image + '[0]'!r}"
            raise UnknownNameError(repr(image), advice if image in SERIES_IMAGES else "has no frames")

    def scaled(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return values as the network sees them, float32, of the same shape.

        Parameters
        ----------
        values
            In the unit of the image. Infinite ones take the end of a window, NaN stays NaN.
        """
        scaled = np.asarray(values, dtype=np.float32)
        if self.window is not None:
            scaled = np.clip(scaled, np.float32(self.window[0]), np.float32(self.window[1]))
        if self.unit and self.window is not None:
            low, high = self.window
            scaled = (scaled - np.float32(low)) / np.float32(high - low)
        if self.mean_sd is not None:
            scaled = (scaled - np.float32(self.mean_sd[0])) / np.float32(self.mean_sd[1])
        return scaled


ChannelLike = str | Channel | Callable[["xr.Dataset"], "xr.DataArray"]


def channels_of(
    images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
    windows: str | Mapping[str, tuple[float, float] | str] | None = None,
) -> tuple[Channel, ...]:
    """Return channels of what was asked for.

    Parameters
    ----------
    images
        Texts, `Channel`, or functions of a scan; a mapping gives them names. Texts are ``"ncct"``, ``"ctp[12]"`` for a
        frame, ``"pipeline/tmax"`` for a result.
    windows
        Name of one of `WINDOW_PRESETS`, or a mapping of the names of channels or images to (lowest, highest) or the
        name of a CT window of `vocabulary.CT_WINDOWS`. Channels that have a window of their own keep it.

    Returns
    -------
    tuple of Channel
        In order.

    Raises
    ------
    UnknownNameError
        There is no such image or window, a name stands twice, or there is no channel.

    Examples
    --------
    >>> [channel.name for channel in channels_of(["ncct", "ctp[12]", "mine/tmax"])]
    ['ncct', 'ctp[12]', 'mine/tmax']
    >>> channels_of("tmax", windows="winner")[0].window
    (0.0, 7.0)
    """
    if isinstance(images, Mapping):
        channels = [_channel(spec, name) for name, spec in images.items()]
    else:
        several = [images] if isinstance(images, str | Channel) or callable(images) else images
        channels = [_channel(spec) for spec in several]
    names = [channel.name for channel in channels]
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise UnknownNameError("images", f"has the channel {twice!r} twice" if twice else "has no channel")
    limits = _windows(windows, {name for channel in channels for name in (channel.name, channel.image) if name})
    # a preset is of images, whatever a channel is called
    named = {} if isinstance(windows, str) else limits
    return tuple(
        dataclasses.replace(channel, window=named.get(channel.name, limits.get(channel.image or channel.name)))
        if channel.window is None
        else channel
        for channel in channels
    )


def _channel(spec: ChannelLike, name: str | None = None) -> Channel:
    if isinstance(spec, Channel):
        return spec if name is None else dataclasses.replace(spec, name=name)
    if not isinstance(spec, str):
        return Channel(name=name or str(getattr(spec, "__name__", "function")), function=spec)
    found = _SPELLING.fullmatch(spec)
    if found is None:
        raise UnknownNameError(
            repr(spec), "is no channel; write 'ncct', 'ctp[12]' for a frame, 'pipeline/tmax' for a result"
        )
    frame: str | None = found["frame"]
    return Channel(
        name=name or spec,
        image=found["image"],
        frame=None if frame is None else int(frame),
        pipeline=found["pipeline"],
    )


def _windows(
    windows: str | Mapping[str, tuple[float, float] | str] | None, names: set[str]
) -> Mapping[str, tuple[float, float]]:
    if windows is None:
        return {}
    if isinstance(windows, str):
        if windows not in WINDOW_PRESETS:
            raise UnknownNameError(repr(windows), f"is no preset of windows, there are {', '.join(WINDOW_PRESETS)}")
        return WINDOW_PRESETS[windows]
    unknown = [name for name in windows if name not in names]
    if unknown:
        raise UnknownNameError(
            repr(unknown[0]), f"has a window, but is no channel; there are {', '.join(sorted(names))}"
        )
    limits = {}
    for name, window in windows.items():
        if isinstance(window, str):
            if window not in CT_WINDOWS:
                raise UnknownNameError(repr(window), f"is no CT window, there are {', '.join(CT_WINDOWS)}")
            centre, width = CT_WINDOWS[window]
            limits[name] = (centre - width / 2, centre + width / 2)
        else:
            low, high = window
            limits[name] = (float(low), float(high))
    return limits
