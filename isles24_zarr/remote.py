"""Stores behind URLs: zarr-python's store on fsspec, with errors of ours and sizes listed in one request."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from isles24_zarr.access import access_errors, filesystem_of, refusal, url_options, writing_refusal
from isles24_zarr.errors import DestinationError, StoreAccessError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from zarr.core.buffer import Buffer

_LEAST_SECONDS: Final = 180.0
_LEAST_BYTES_PER_SECOND: Final = 100_000
"""Time for one object, with all tries of it: aiohttp itself would wait for the leave to send one, ``100``, forever."""


def _one_call_at_a_time(files: Any) -> Any:
    """Return a file system for many readers: one that blocks, as FTP does, knows one at a time on a connection."""
    if not isinstance(files, AsyncFileSystemWrapper):
        return files
    shared = files.sync_fs
    own = type(shared)(*shared.storage_args, **shared.storage_options, skip_instance_cache=True)
    return AsyncFileSystemWrapper(own, asynchronous=True, semaphore=asyncio.Semaphore(1))


class RemoteStore(FsspecStore):
    """A store on any fsspec file system; written on object stores alone.

    Their objects appear whole or not at all, so that nothing is left of an interrupted write.
    """

    url = ""
    options: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def at(cls, url: str, options: Mapping[str, Any], *, read_only: bool) -> RemoteStore:
        """Make a store of a URL; nothing is asked of a server yet.

        Parameters
        ----------
        url, options
            For fsspec.
        read_only
            Refuse to write.

        Raises
        ------
        DestinationError
            It is to be written, and its file system is no object store.
        """
        with access_errors(url):
            plain = FsspecStore.from_url(url, storage_options=url_options(url, options), read_only=read_only)
        if not read_only and (why := writing_refusal(url, plain.fs)):
            raise DestinationError(url, why)
        store = cls(fs=_one_call_at_a_time(plain.fs), path=plain.path, read_only=read_only)
        store.url, store.options = url.rstrip("/"), dict(options)
        return store

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> RemoteStore:  # noqa: FBT001, FBT002 - as zarr-python has it
        """Return the same store, for reading alone or for writing too."""
        return type(self).at(self.url, self.options, read_only=read_only)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size of every object below a path, by key: one request for a thousand of them."""
        with access_errors(self.url):
            files, root = filesystem_of(self.url, self.options)
            found = files.find(f"{root}/{prefix}", detail=True)
        return {path.removeprefix(f"{root}/"): int(info["size"]) for path, info in found.items()}

    def check_place(self) -> None:
        """Make sure that there is a place to put a store: a bucket that does not exist looks like an empty one.

        Raises
        ------
        StoreAccessError
            There is none.
        """
        with access_errors(self.url):
            files, root = filesystem_of(self.url, self.options)
            try:
                files.ls(root, detail=False)
            except FileNotFoundError as error:
                if why := refusal(error):
                    raise StoreAccessError(self.url, why) from error

    # --- the interface of zarr-python, with errors of ours ---

    async def get(self, *args: Any, **options: Any) -> Buffer | None:  # noqa: D102
        with access_errors(self.url):
            return await super().get(*args, **options)

    async def get_partial_values(self, *args: Any, **options: Any) -> list[Buffer | None]:  # noqa: D102
        with access_errors(self.url):
            return await super().get_partial_values(*args, **options)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:  # noqa: D102
        seconds = _LEAST_SECONDS + len(value) / _LEAST_BYTES_PER_SECOND
        with access_errors(self.url, writing=True):
            async with asyncio.timeout(seconds):
                await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:  # noqa: D102
        with access_errors(self.url, writing=True):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:  # noqa: D102
        with access_errors(self.url, writing=True):
            await super().delete_dir(prefix)

    async def exists(self, key: str) -> bool:  # noqa: D102
        with access_errors(self.url):
            return await super().exists(key)

    async def getsize(self, key: str) -> int:  # noqa: D102
        with access_errors(self.url):
            return await super().getsize(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # noqa: D102
        with access_errors(self.url):
            async for name in super().list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # noqa: D102
        with access_errors(self.url):
            async for key in super().list_prefix(prefix):
                yield key
