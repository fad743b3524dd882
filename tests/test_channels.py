"""What a channel may be, and the arithmetic of its window."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

from isles24_zarr.errors import UnknownNameError
from isles24_zarr.training import Channel, channels_of


@pytest.mark.parametrize(
    ("images", "windows", "message"),
    [
        ("ctp", None, "name a frame of it as 'ctp\\[0\\]'"),
        ("ncct[0]", None, "has no frames"),
        ("a/b/c", None, "is no channel"),
        ("ctp[x]", None, "is no channel"),
        ([], None, "has no channel"),
        (["ncct", "ncct"], None, "'ncct' twice"),
        ("ncct", "loser", "no preset of windows, there are winner"),
        ("ncct", {"tmax": (0, 7)}, "'tmax': has a window, but is no channel"),
        ("ncct", {"ncct": "soft"}, "no CT window, there are brain"),
        ("ncct", {"ncct": (80, 0)}, "not \\(lowest, highest\\)"),
    ],
)
def test_channels_that_are_none_are_refused(images: Any, windows: Any, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        channels_of(images, windows)


def test_channels_and_their_windows() -> None:
    values = np.array([-np.inf, -5, 0, 3.5, 7, 9, np.inf, np.nan])
    channels = channels_of(
        {"late": "tmax", "first": "ctp[0]", "own": "mine/core", "ct": Channel(name="x", image="ncct", mean_sd=(2, 4))},
        windows={"late": (0, 7), "first": "stroke"},
    )
    assert [(c.name, c.image, c.frame, c.pipeline, c.window) for c in channels] == [
        ("late", "tmax", None, None, (0, 7)),
        ("first", "ctp", 0, None, (15, 55)),
        ("own", "core", None, "mine", None),
        ("ct", "ncct", None, None, None),
    ]
    np.testing.assert_array_equal(channels[0].scaled(values), [0, 0, 0, 3.5, 7, 7, 7, np.nan])
    np.testing.assert_array_equal(channels[3].scaled(values[1:4]), np.float32([-1.75, -0.5, 0.375]))
    unit = Channel(name="u", image="tmax", window=(0, 7), unit=True)
    np.testing.assert_array_equal(unit.scaled(values), np.float32([0, 0, 0, 0.5, 1, 1, 1, np.nan]))
    assert {channel.window for channel in channels_of(["ncct", "cbv"], "winner")} == {None, (0, 10)}


@pytest.mark.parametrize("documented", [Channel, channels_of])
def test_examples(documented: Any) -> None:
    names = {"Channel": Channel, "channels_of": channels_of, "np": np}
    found = doctest.DocTestParser().get_doctest(documented.__doc__, names, documented.__name__, None, 0)
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0
