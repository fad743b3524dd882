"""A store over HTTP: read-only, with byte ranges, for other machines and for browsers.

What is served is what Zarr asks for, documents and chunks, and nothing else that may lie in the folder.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import AddressError, MissingExtraError, NotAStoreError
from isles24_zarr.objects import DOCUMENT, Target, read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from starlette.applications import Starlette

_KEY: Final = re.compile(rf"(.+/)?{re.escape(DOCUMENT)}|.+/c(/[0-9]+)*", re.ASCII)
_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_EXPOSED: Final = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag", "Last-Modified")
_GRACE_SECONDS: Final = 3
"""What a request that is under way may take once the server is to end."""


def store_app(folder: Path, origins: Sequence[str] = ("*",)) -> Starlette:
    """Return an ASGI application that serves a folder of Zarr, to run under any ASGI server.

    Parameters
    ----------
    folder
        Of the store. Links that lead out of it are not followed.
    origins
        Web sites whose pages may read it, as ``https://example.org``; ``*`` for all.

    Raises
    ------
    MissingExtraError
        The extra ``serve`` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.cors import CORSMiddleware
        from starlette.responses import Response
        from starlette.routing import Mount
        from starlette.staticfiles import StaticFiles
    except ImportError as error:
        raise MissingExtraError("serving", "run: pip install 'isles24-zarr[serve]'") from error

    class StoreFiles(StaticFiles):
        async def get_response(self, path: str, scope: Any) -> Response:
            if scope["method"] not in _METHODS:
                raise HTTPException(405, headers={"Allow": ", ".join(_METHODS)})
            if scope["method"] == "OPTIONS":  # not of a browser, which the middleware answers
                return Response(status_code=204, headers={"Allow": ", ".join(_METHODS)})
            if not _KEY.fullmatch(path):
                raise HTTPException(404)
            return await super().get_response(path, scope)

    readers = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=list(_METHODS),
        allow_headers=["*"],
        expose_headers=list(_EXPOSED),
    )
    files = StoreFiles(directory=folder, follow_symlink=False)
    return Starlette(routes=[Mount("/", app=files)], middleware=[readers])


def serve(
    store: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    origins: Sequence[str] = ("*",),
    tell: Callable[[str], None] = print,
) -> None:
    """Serve a store until the process is interrupted.

    Parameters
    ----------
    store
        A folder that `isles24_zarr.convert` wrote.
    host, port
        Where to listen: by default, for this machine only; port 0 takes a free one.
    origins
        As for `store_app`.
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
    target = Target.of(store)
    if "://" in target.url:
        raise NotAStoreError(target.url, "is no folder of this machine, and only such are served")
    read_root(target.opened(read_only=True))
    app = store_app(Path(target.url), origins)
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
        settings = uvicorn.Config(
            app, log_level="warning", lifespan="off", server_header=False, timeout_graceful_shutdown=_GRACE_SECONDS
        )
        uvicorn.Server(settings).run(sockets=[listening])
