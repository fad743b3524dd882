"""Buckets through obstore, as file systems of fsspec: Amazon S3, Google Cloud Storage, Azure Blob Storage.

Those of obstore itself list folder by folder, read no end of an object, and know no conditional put.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.fsspec import BufferedFile, FsspecStore

from isles24_zarr.places.options import session_of

_LEAST_BLOCK_BYTES: Final = 2**16


class BucketFiles(FsspecStore):  # type: ignore[misc]
    """Objects of one kind of store.

    Parameters
    ----------
    profile
        In ``~/.aws``, whose credentials boto3 finds.
    options
        As from `places.bucket_options`.
    """

    scheme: ClassVar[str]

    def __init__(self, *, profile: str = "", **options: Any) -> None:
        if profile:
            session = session_of(profile)
            from obstore.auth.boto3 import Boto3CredentialProvider  # where boto3 is

            options["credential_provider"] = Boto3CredentialProvider(session)
        super().__init__(self.scheme, **options)

    def bucket(self, path: str) -> tuple[Any, str]:
        """Return the bucket of a path, as obstore has it, and the key in it."""
        bucket, key = self._split_path(path)
        return self._construct_store(bucket), key

    def put_if_unchanged(self, path: str, data: bytes, seen: dict[str, str]) -> dict[str, str] | None:
        """Write a small object, if nobody else has.

        Parameters
        ----------
        path, data
            Where, and what.
        seen
            The version that is to be replaced; empty where there must be none.

        Returns
        -------
        dict
            The version that was written; ``None`` where another one is there, or none any more.
        """
        bucket, key = self.bucket(path)
        try:
            return _version(bucket.put(key, data, mode=seen or "create"))
        except (AlreadyExistsError, PreconditionError):
            return None
        except FileNotFoundError:
            if not seen:  # there is no such bucket
                raise
            return None

    def content_and_version(self, path: str) -> tuple[bytes, dict[str, str]]:
        """Read a small object and which version of it that is."""
        bucket, key = self.bucket(path)
        answer = bucket.get(key)
        return bytes(answer.bytes()), _version(answer.meta)

    # --- the interface of fsspec ---

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if start is None or end is not None:
            return bytes(await super()._cat_file(path, 0 if start is None and end is not None else start, end))
        bucket, key = self.bucket(path)
        part = {"offset": start} if start >= 0 else {"suffix": -start}
        answer = await bucket.get_async(key, options={"range": part})
        return bytes(await answer.bytes_async())

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        if not self._split_path(path)[1]:  # the bucket itself, which is no object
            return {"name": path, "size": 0, "type": "directory"}
        found = await super()._info(path)
        return {**found, "name": path, "ETag": found.get("e_tag")}

    async def _find(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:  # noqa: ARG002
        """List all that lies below a path: one request for a thousand objects."""
        bucket, prefix = self.bucket(path)
        name = self._split_path(path)[0]
        objects = await bucket.list(prefix or None).collect_async()
        found = {f"{name}/{each['path']}": each for each in objects}
        if not options.get("detail"):
            return sorted(found)
        return {
            name: {"name": name, "size": each["size"], "type": "file", "ETag": each["e_tag"]}
            for name, each in sorted(found.items())
        }

    async def _rm(self, path: str, recursive: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - as fsspec has it
        bucket, key = self.bucket(path)
        below = await self._find(path) if recursive else []
        await bucket.delete_async([name.partition("/")[2] for name in below] or key)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> BufferedFile:
        # it would read no less than a megabyte, of headers too
        return BufferedFile(self, path, mode, buffer_size=block_size or _LEAST_BLOCK_BYTES)


class S3Files(BucketFiles):
    """Amazon S3 and what speaks its language."""

    protocol = ("s3", "s3a")
    scheme = "s3"


class GsFiles(BucketFiles):
    """Google Cloud Storage."""

    protocol = ("gs", "gcs")
    scheme = "gs"


class AzFiles(BucketFiles):
    """Azure Blob Storage."""

    protocol = ("az", "abfs", "abfss")
    scheme = "az"


FILES: Final = {kind.scheme: kind for kind in (S3Files, GsFiles, AzFiles)}
"""File systems, by service."""


def _version(told: Any) -> dict[str, str]:
    return {name: told[name] for name in ("e_tag", "version") if told.get(name)}
