"""Object stores through obstore, as file systems of fsspec: ``obstore+s3://``, ``obstore+gs://``, ``obstore+az://``.

Its own file systems for fsspec list folder by folder, read no end of an object, and know no conditional put.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.fsspec import BufferedFile, FsspecStore

from isles24_zarr.access import OBSTORE

_LEAST_BLOCK_BYTES: Final = 2**16


class ObstoreFiles(FsspecStore):  # type: ignore[misc]
    """Objects of one kind of store; options are those of obstore."""

    scheme: ClassVar[str]
    compares: Final = True
    """A put may depend on the version that is there."""

    def __init__(self, **options: Any) -> None:
        super().__init__(self.scheme, **options)

    async def _pipe_file(
        self,
        path: str,
        value: Any,
        mode: str = "overwrite",
        IfMatch: str = "",  # noqa: N803 - as s3fs has it
        version: str = "",
        **_: Any,
    ) -> dict[str, Any]:
        """Write an object whole.

        Parameters
        ----------
        path, value
            Where, and bytes.
        mode
            ``"create"``: only where there is none.
        IfMatch, version
            Only where this one is.
        """
        bucket, key = self._split_path(path)
        seen = {name: text for name, text in (("e_tag", IfMatch), ("version", version)) if text}
        try:
            done = await self._construct_store(bucket).put_async(key, value, mode=seen or mode)
        except (AlreadyExistsError, PreconditionError) as error:
            raise FileExistsError(path) from error
        return {"ETag": done["e_tag"], "version": done["version"]}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if start is None or end is not None:
            return bytes(await super()._cat_file(path, 0 if start is None and end is not None else start, end))
        bucket, key = self._split_path(path)
        part = {"offset": start} if start >= 0 else {"suffix": -start}
        answer = await self._construct_store(bucket).get_async(key, options={"range": part})
        return bytes(await answer.bytes_async())

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        found = await super()._info(path)
        return {**found, "name": path, "ETag": found.get("e_tag")}

    async def _find(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:  # noqa: ARG002
        """List all that lies below a path: one request for a thousand objects."""
        bucket, prefix = self._split_path(path)
        objects = await self._construct_store(bucket).list(prefix or None).collect_async()
        found = {f"{bucket}/{each['path']}": each for each in objects}
        if not options.get("detail"):
            return sorted(found)
        return {
            name: {"name": name, "size": each["size"], "type": "file", "ETag": each["e_tag"]}
            for name, each in sorted(found.items())
        }

    async def _rm(self, path: str, recursive: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - as fsspec has it
        bucket, key = self._split_path(path)
        below = await self._find(path) if recursive else []
        await self._construct_store(bucket).delete_async([name.partition("/")[2] for name in below] or key)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> BufferedFile:
        # it would read no less than a megabyte, of headers too
        return BufferedFile(self, path, mode, buffer_size=block_size or _LEAST_BLOCK_BYTES)


class S3Files(ObstoreFiles):
    """Amazon S3 and what speaks its language."""

    protocol = f"{OBSTORE}s3"
    scheme = "s3"


class GsFiles(ObstoreFiles):
    """Google Cloud Storage."""

    protocol = f"{OBSTORE}gs"
    scheme = "gs"


class AzFiles(ObstoreFiles):
    """Azure Blob Storage."""

    protocol = f"{OBSTORE}az"
    scheme = "az"
