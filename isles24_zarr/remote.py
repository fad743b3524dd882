"""Stores behind URLs: zarr-python's store on fsspec, with errors of ours and sizes listed in one request."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from isles24_zarr.access import (
    access_errors,
    filesystem_of,
    is_there,
    make_folder,
    own_instance,
    put_by_renaming,
    refusal,
    url_options,
    writes_whole,
    writing_refusal,
)
from isles24_zarr.errors import DestinationError, StoreAccessError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from zarr.core.buffer import Buffer

_LEAST_SECONDS: Final = 180.0
_LEAST_BYTES_PER_SECOND: Final = 100_000
"""Time for one object, with all tries of it: aiohttp itself would wait for the leave to send one, ``100``, forever."""


class RemoteStore(FsspecStore):
    """A store on any fsspec file system.

    An object appears whole or not at all. Object stores see to that; elsewhere it gets its name when it is complete, as
    in a folder, so that of an interrupted write no more is left than a file that nobody reads.
    """

    url = ""
    options: Mapping[str, Any] = MappingProxyType({})
    folders: frozenset[str] = frozenset()
    """Those that this store has made, or found, below its root."""

    @classmethod
    def at(cls, url: str, options: Mapping[str, Any], *, read_only: bool) -> RemoteStore:
        """Make a store of a URL; nothing is asked of an object store yet.

        Parameters
        ----------
        url, options
            For fsspec.
        read_only
            Refuse to write.

        Raises
        ------
        DestinationError
            It is to be written, and its file system can do neither.
        """
        with access_errors(url):
            files, path = filesystem_of(url, options)
            if not read_only and (why := writing_refusal(url, files)):
                raise DestinationError(url, why)
            if files.async_impl and (read_only or writes_whole(files)):
                plain = FsspecStore.from_url(url, storage_options=url_options(url, options), read_only=read_only)
                files, path = plain.fs, plain.path
            else:  # as FTP: it blocks, and knows one call at a time on a connection
                own = own_instance(files)
                files = AsyncFileSystemWrapper(own, asynchronous=True, semaphore=asyncio.Semaphore(1))
        store = cls(fs=files, path=path, read_only=read_only)
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
                if writes_whole(self.fs):
                    await super().set(key, value, byte_range)
                else:
                    await self._blocking(self._put, key, value.to_bytes())

    async def _blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the file system, where that writes in place, and so is one that blocks."""
        async with self.fs.semaphore:
            return await asyncio.to_thread(function, self.fs.sync_fs, *arguments)

    def _put(self, files: Any, key: str, data: bytes) -> None:
        above = key.split("/")[:-1]
        for folder in ("/".join(above[:depth]) for depth in range(1, len(above) + 1)):
            if folder not in self.folders:
                make_folder(files, f"{self.path}/{folder}")
                self.folders |= {folder}
        put_by_renaming(files, f"{self.path}/{key}", data)

    async def delete(self, key: str) -> None:  # noqa: D102
        with access_errors(self.url, writing=True):
            if await self._may_be_there(key):
                await super().delete(key)

    async def _may_be_there(self, path: str) -> bool:
        """Look first where it is an error to delete what is not there, and no library tells it from others."""
        return writes_whole(self.fs) or await self._blocking(is_there, f"{self.path}/{path}")

    async def delete_dir(self, prefix: str) -> None:  # noqa: D102
        self.folders = frozenset()  # where there are folders, they go too
        with access_errors(self.url, writing=True):
            if await self._may_be_there(prefix):
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
