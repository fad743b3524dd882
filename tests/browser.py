"""A real Chromium on the page of `view`: what it shows, asked by the contract of the page and by its pixels."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 120
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@contextmanager
def running_chromium() -> Iterator[Any]:
    """Start the browser of this machine; skip with a word where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def viewing(store: Path, *options: str) -> Iterator[str]:
    """Run `isles24-zarr view` on a free port; yield its URL."""
    command = [sys.executable, "-m", "isles24_zarr", "view", str(store), "--no-browser", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://"), process.communicate()
            yield line.split()[0]
        finally:
            process.kill()


class Viewer:
    """A page of the browser, and all that it asked for and complained of."""

    def __init__(self, browser: Any, width: int = 1280, height: int = 800) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.requests: list[Any] = []
        self.faults: list[str] = []
        # Playwright marks its listeners, and cannot mark those of built-in types
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))

    def open(self, url: str) -> dict[str, Any]:
        """Go to an address of the page as if it was typed, and wait until all is there."""
        self.page.goto("about:blank")
        self.page.goto(url)
        return self.settled()

    @property
    def state(self) -> dict[str, Any]:
        return self.page.evaluate("window.isles ? window.isles.state : {loading: true}")

    def until(self, true: Callable[[dict[str, Any]], Any], what: str = "") -> dict[str, Any]:
        """Wait until something is true of what the page tells."""
        deadline = time.monotonic() + SECONDS
        while not true(state := self.state):
            assert time.monotonic() < deadline, (what, state)
            self.page.wait_for_timeout(20)
        return state

    def settled(self) -> dict[str, Any]:
        return self.until(lambda state: not state["loading"] and (state["subject"] or state["rows"] or state["errors"]))

    def address(self, true: Callable[[str], bool]) -> str:
        """Wait until something is true of the address, which is written a moment after what is seen; return it."""
        self.until(lambda _: true(self.page.url), "the address")
        return str(self.page.url)

    def box(self, plane: str) -> dict[str, float]:
        box = self.page.locator(f"canvas[data-plane={plane}]").bounding_box()
        assert box
        return box

    def hover(self, plane: str, right: float, down: float) -> dict[str, Any] | None:
        """Move the mouse to a part of a plane's width and height; return what the page says is under it."""
        box = self.box(plane)
        self.page.mouse.move(box["x"] + right * box["width"], box["y"] + down * box["height"])
        return self.state["cursor"]

    def pixels(self, plane: str) -> np.ndarray[Any, Any]:
        """The canvas of a plane as it was drawn, (height, width, 3)."""
        # what is seen changes with the next picture of the screen, and the canvas with the one after it
        self.page.evaluate(
            "async () => { for (let n = 0; n < 3; n++) await new Promise((drawn) => requestAnimationFrame(drawn)) }"
        )
        url = self.page.evaluate(f"document.querySelector('canvas[data-plane={plane}]').toDataURL()")
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(url.split(",")[1])), format="png")
        return np.round(image[..., :3] * image[..., 3:] * 255).astype(int)

    def key(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)
