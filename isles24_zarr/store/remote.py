"""Stores behind URLs: zarr-python's store on fsspec, with errors of ours and sizes listed in one request."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from isles24_zarr.errors import DestinationError, StoreAccessError
from isles24_zarr.places import access_errors, filesystem_of, refusal, service_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from zarr.core.buffer import Buffer


class RemoteStore(FsspecStore):
    """A store in a bucket; or, for reading alone, on any file system of fsspec.

    In a bucket an object appears whole or not at all.
    """

    url = ""
    options: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def at(cls, url: str, options: Mapping[str, Any], *, read_only: bool) -> RemoteStore:
        """Make a store of a URL; nothing is asked of its server yet.

        Parameters
        ----------
        url, options
            As for `access.filesystem_of`.
        read_only
            Refuse to write.

        Raises
        ------
        DestinationError
            It is to be written, and is in no bucket.
        """
        if not read_only and service_of(url) is None:
            raise DestinationError(
                url,
                "no store is written there, only into a folder or a bucket (s3://, gs://, az://); mount the place, or "
                "convert on its machine",
            )
        with access_errors(url):
            files, path = filesystem_of(url, options)
            # what blocks, as FTP, knows one call at a time on a connection
            own = {"asynchronous": True} if files.async_impl else {"skip_instance_cache": True}
            files = type(files)(*files.storage_args, **files.storage_options, **own)
            if not files.async_impl:
                files = AsyncFileSystemWrapper(files, asynchronous=True, semaphore=asyncio.Semaphore(1))
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
        with access_errors(self.url, writing=True):
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
