"""A server for a store: read-only, with byte ranges, for other machines and for browsers."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from isles24_zarr.errors import AddressError, MissingExtraError, NotAStoreError
from isles24_zarr.serving._app import store_app
from isles24_zarr.store import StorePlace, read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

_GRACE_SECONDS: Final = 3
"""What a request that is under way may take once the server is to end."""
_REQUEST_SECONDS: Final = 15
"""What the headers of a request may take: a connection that does not send them is closed."""
_QUEUE: Final = 64
"""Connections that wait to be accepted; asyncio accepts so many before it does anything else."""
_MOST_CONNECTIONS: Final = 512
_RESERVED_FILES: Final = 32
"""Descriptors for all else than connections."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def _most_connections() -> int:
    """Take as many descriptors as this process may, and return for how many connections they are enough.

    One that has no descriptor left cannot even refuse a connection: asyncio would try it over and over.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_CONNECTIONS + _QUEUE + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # each may have a file open
    return _MOST_CONNECTIONS if soft >= wanted else max(1, (soft - _queue(soft) - _RESERVED_FILES) // 2)


def _queue(files: int) -> int:
    return min(_QUEUE, max(1, files // 8))


def _impatient_protocol(most: int) -> Any:
    """Return uvicorn's protocol with a limit of connections, and of the time that the headers of a request may take."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.waiting:
                self.waiting.cancel()

        def _watch(self) -> None:
            asked = self.cycle is not None and not self.cycle.response_complete
            if asked and self.waiting:
                self.waiting.cancel()
                self.waiting = None
            elif not asked and self.waiting is None:
                # pieces of a request do not prolong it
                self.waiting = self.loop.call_later(_REQUEST_SECONDS, self.transport.abort)

    return Impatient


def serve(
    store: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    origins: Sequence[str] | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve a store, and at ``/`` the page that shows it, until the process is interrupted.

    Parameters
    ----------
    store
        A folder that `isles24_zarr.convert` wrote.
    host, port
        Where to listen: by default, for this machine only; port 0 takes a free one.
    origins
        As for `store_app`. By default, pages of this machine where it listens for this machine only, and of any site
        else. Where it listens for this machine only, it answers by its names and those of the origins.
    tell
        Called with the URL, once it can be asked.

    Raises
    ------
    NotAStoreError, StoreVersionError
        There is no store in that folder.
    AddressError
        The address is taken, or is not one of this machine.
    MissingExtraError
        The extra ``serve`` is not installed.
    """
    target = StorePlace.of(store)
    if "://" in target.url:
        raise NotAStoreError(target.url, "is no folder of this machine, and only such are served")
    read_root(target.opened(read_only=True))
    local = host in _LOOPBACK
    allowed = list(origins) if origins is not None else [] if local else ["*"]
    names = {*_LOOPBACK, *(urlsplit(origin).hostname or "" for origin in allowed)} - {""}
    app = store_app(Path(target.url), allowed, names if local and "*" not in allowed else None)
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("serving", "run: pip install 'isles24-zarr[serve]'") from error

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise AddressError(f"{host}:{port}", f"cannot be listened at ({error})") from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listening.getsockname()[1]}/")
        most = _most_connections()
        settings = uvicorn.Config(
            app,
            http=_impatient_protocol(most),
            loop="asyncio",
            ws="none",
            backlog=_queue(most),
            log_level="warning",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        uvicorn.Server(settings).run(sockets=[listening])


def view(
    store: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    browser: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Show the cohort of a store in a browser, until the process is interrupted.

    The page has a table of the subjects, and for each its images in three planes with maps, outlines and time curves.
    It reads what it shows straight from the store, by byte ranges.

    Parameters
    ----------
    store
        A folder that `isles24_zarr.convert` wrote. To show a store in a bucket, see `serving.write_page`.
    host, port
        Where to listen, as for `serving.serve`.
    browser
        Whether to open the page in the browser of this machine.
    tell
        Called with the URL of the page, once it can be asked.

    Raises
    ------
    NotAStoreError, StoreVersionError
        There is no store in that folder.
    AddressError
        The address is taken, or is not one of this machine.
    MissingExtraError
        The extra ``serve`` is not installed.

    Examples
    --------
    >>> import isles24_zarr
    >>> isles24_zarr.view("isles24.zarr")  # doctest: +SKIP
    """

    def told(url: str) -> None:
        tell(url)
        if browser:
            import webbrowser

            # some browsers hold their caller up until they are closed
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    serve(store, host=host, port=port, tell=told)
