"""The commands that answer HTTP: `serve` and `view`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from isles24_zarr.cli._rendering import out
from isles24_zarr.errors import NotAStoreError

Host = Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]


def serve(
    store: Annotated[str, typer.Argument(help="The Zarr store: a folder.")],
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    origin: Annotated[
        list[str] | None,
        typer.Option("--origin", help="Pages of this web site may read, '*' for all; may be repeated."),
    ] = None,
) -> bool:
    """Serve a store over HTTP, read-only, until Ctrl-C: for browsers and for Zarr on other machines."""
    from isles24_zarr.serving import serve as run

    def tell(url: str) -> None:
        _say(f"{url} serves {store}; Ctrl-C ends it")

    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        run(store, host=host, port=port, origins=origin, tell=tell)
    return True


def view(
    store: Annotated[str | None, typer.Argument(help="The Zarr store: a folder; with --export also a URL.")] = None,
    *,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the page into this folder instead, to lie on any web server."),
    ] = None,
) -> bool:
    """Show the cohort of a store in the browser, until Ctrl-C; or write the page, for a bucket or a web server."""
    from isles24_zarr.serving import view as run
    from isles24_zarr.serving import write_page

    if export is not None:
        page = write_page(export, store)
        shows = f"shows {store}" if store else "shows the store in whose folder it lies"
        _say(f"{page} {shows}, or another one by ?store=URL")
        return True
    if store is None:
        raise NotAStoreError("view", "no store was named, and no folder to --export the page to")

    def tell(url: str) -> None:
        _say(f"{url} shows {store}; Ctrl-C ends it")

    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        run(store, host=host, port=port, browser=browser, tell=tell)
    return True


def _say(line: str) -> None:
    out().print(line, soft_wrap=True)
    sys.stdout.flush()
