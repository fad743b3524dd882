"""Stores behind URLs: zarr-python's store on fsspec, with errors of ours and sizes listed in one request."""

from __future__ import annotations

import asyncio
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from isles24_zarr.access import (
    PARTIAL,
    access_errors,
    filesystem_of,
    library_errors,
    own_instance,
    refusal,
    url_options,
    writes_whole,
    writing_refusal,
)
from isles24_zarr.errors import DestinationError, StoreAccessError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

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
            if files.async_impl:
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
                    await self._set_by_renaming(key, value)

    async def _set_by_renaming(self, key: str, value: Buffer) -> None:
        partial = f"{key}.{uuid.uuid4().hex}{PARTIAL}"
        await self._make_folders(key)
        await super().set(partial, value)
        await self.fs._mv(f"{self.path}/{partial}", f"{self.path}/{key}")  # noqa: SLF001 - the name that fsspec documents

    async def _make_folders(self, key: str) -> None:
        """Make the folders of an object below the root, one by one: other workers do so at the same time."""
        above = key.split("/")[:-1]
        for folder in ("/".join(above[:depth]) for depth in range(1, len(above) + 1)):
            if folder in self.folders:
                continue
            place = f"{self.path}/{folder}"
            try:
                await self.fs._mkdir(place, create_parents=False)  # noqa: SLF001
            except library_errors():
                if not await self.fs._isdir(place):  # noqa: SLF001
                    raise
            self.folders |= {folder}

    async def delete(self, key: str) -> None:  # noqa: D102
        with access_errors(self.url, writing=True):
            if await self._may_be_there(key):
                await super().delete(key)

    async def _may_be_there(self, path: str) -> bool:
        """Look first where it is an error to delete what is not there, and no library tells it from others."""
        if not writes_whole(self.fs):
            try:
                await self.fs._info(f"{self.path}/{path}")  # noqa: SLF001 - `_exists` would take all errors for a no
            except FileNotFoundError:
                return False
        return True

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
