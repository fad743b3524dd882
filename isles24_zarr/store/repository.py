"""Icechunk repositories: what a URL means, and a version of one as a store for Zarr.

``icechunk:///data/isles24.icechunk`` is a folder, ``icechunk+s3://bucket/isles24.icechunk`` a prefix of a bucket. What
comes after a ``?`` names the version: ``branch=main`` (the default), ``tag=v1`` or ``snapshot=ID``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

from zarr.storage import WrapperStore

from isles24_zarr.errors import (
    DestinationError,
    MissingExtraError,
    NotAStoreError,
    StoreAccessError,
    StoreDamageError,
    StoreWriteError,
    UnknownNameError,
)
from isles24_zarr.places import access_errors, bucket_options, own_options, require_threads, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer, BufferPrototype

LOCAL: Final = "icechunk://"
S3: Final = "icechunk+s3://"
MAIN: Final = "main"
_KINDS: Final = ("branch", "tag", "snapshot")


def is_versioned(url: str) -> bool:
    """Tell whether a URL means an Icechunk repository."""
    return url.startswith((LOCAL, S3))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A repository and one of its versions.

    Parameters
    ----------
    root
        Where it is: an absolute folder, or bucket and prefix.
    in_bucket
        Which of both.
    kind, name
        ``"branch"``, ``"tag"`` or ``"snapshot"``, and which.
    """

    root: str
    in_bucket: bool
    kind: str = "branch"
    name: str = MAIN

    @classmethod
    def of(cls, url: str) -> Place:
        """Parse a URL.

        Raises
        ------
        UnknownNameError
            It names a version in another way than described above.
        """
        in_bucket = url.startswith(S3)
        root, _, query = url.removeprefix(S3 if in_bucket else LOCAL).partition("?")
        version = parse_qsl(query, keep_blank_values=True)
        if len(version) > 1 or (query and not version) or any(kind not in _KINDS or not name for kind, name in version):
            raise UnknownNameError(repr(url), "names no version; end it in ?branch=, ?tag= or ?snapshot= and one name")
        if not root.strip("/"):
            raise NotAStoreError(repr(url), "names no place")
        kind, name = version[0] if version else ("branch", MAIN)
        root = root.strip("/") if in_bucket else os.path.realpath(Path(root).expanduser())
        return cls(root=root, in_bucket=in_bucket, kind=kind, name=name)

    @property
    def url(self) -> str:
        """The URL, with an absolute path."""
        version = "" if (self.kind, self.name) == ("branch", MAIN) else f"?{urlencode({self.kind: self.name})}"
        return f"{S3 if self.in_bucket else LOCAL}{self.root}{version}"


def _icechunk() -> Any:
    require_threads("icechunk", "an Icechunk repository")
    try:
        import icechunk
    except ImportError as error:
        raise MissingExtraError(
            "an Icechunk repository", "needs the extra: pip install 'isles24-zarr[icechunk]'"
        ) from error
    if "ICECHUNK_LOG" not in os.environ:
        # it would warn at every opening of a folder that there is no lock on it; we hold one
        icechunk.set_logs_filter("error")
    return icechunk


_BUCKET: Final = {
    "region": "region",
    "endpoint": "endpoint_url",
    "access_key_id": "access_key_id",
    "secret_access_key": "secret_access_key",
    "session_token": "session_token",
    "skip_signature": "anonymous",
    "request_payer": "requester_pays",
}
"""What Icechunk calls the options of obstore that it has as well; how long it waits is its own affair."""

_CREDENTIALS_LAST: Final = dt.timedelta(minutes=30)
"""After which a profile is asked again."""


def storage(place: Place, options: Mapping[str, Any]) -> Any:
    """Return where a repository is kept, for Icechunk.

    Parameters
    ----------
    place
        The repository.
    options
        As for a store in S3, see `places.bucket_options`; what is not given comes from the environment.

    Raises
    ------
    StoreAccessError
        Icechunk has no such option.
    """
    icechunk_ = _icechunk()
    if not place.in_bucket:
        return icechunk_.local_filesystem_storage(place.root)
    bucket, _, prefix = place.root.partition("/")
    own = {"endpoint": os.environ.get("AWS_ENDPOINT_URL"), **own_options("s3://", options)}
    found = bucket_options("s3", own, {})
    client, profile = found.pop("client_options"), found.pop("profile", None)
    found.pop("retry_config", None)
    if unknown := found.keys() - _BUCKET.keys():
        raise StoreAccessError(place.url, f"an option is unknown to Icechunk ({', '.join(sorted(unknown))})")
    given = {_BUCKET[name]: value for name, value in found.items()}
    if profile:
        with access_errors(place.url):
            given.setdefault("region", session_of(profile).region_name)
        given["get_credentials"] = functools.partial(_credentials, profile)
    elif not (given.get("anonymous") or "access_key_id" in given):
        given["from_env"] = True
    return icechunk_.s3_storage(
        bucket=bucket,
        prefix=prefix or None,
        allow_http=bool(client.get("allow_http")),
        force_path_style="endpoint_url" in given,
        **given,
    )


def _credentials(profile: str) -> Any:
    found = session_of(profile).get_credentials().get_frozen_credentials()
    until = dt.datetime.now(dt.UTC) + _CREDENTIALS_LAST
    return _icechunk().S3StaticCredentials(found.access_key, found.secret_key, found.token, until)


def existing_repository(place: Place, options: Mapping[str, Any]) -> Any:
    """Open a repository that is there.

    Raises
    ------
    NotAStoreError
        There is none.
    MissingExtraError
        Icechunk is not installed.
    """
    icechunk_ = _icechunk()
    try:
        return icechunk_.Repository.open(storage(place, options))
    except icechunk_.IcechunkError as error:
        raise NotAStoreError(
            place.url, f"there is no Icechunk repository that can be opened ({_reason(error)})"
        ) from error


def opened_version(url: str, options: Mapping[str, Any]) -> Store:
    """Open a version of a repository for reading.

    Parameters
    ----------
    url
        As described above.
    options
        As for `storage`.

    Raises
    ------
    NotAStoreError
        There is no repository.
    UnknownNameError
        It has no such version.
    MissingExtraError
        Icechunk is not installed.
    """
    place = Place.of(url)
    icechunk_ = _icechunk()
    repository = existing_repository(place, options)
    try:
        session = repository.readonly_session(**{"snapshot_id" if place.kind == "snapshot" else place.kind: place.name})
    except (icechunk_.IcechunkError, ValueError) as error:
        known = {"branch": repository.list_branches, "tag": repository.list_tags}.get(place.kind, set)()
        there = f"; it has {', '.join(sorted(known)) or 'none'}" if place.kind != "snapshot" else ""
        raise UnknownNameError(place.url, f"has no {place.kind} {place.name!r}{there}") from error
    return VersionStore(session.store, place.url)


class VersionStore(WrapperStore[Any]):
    """The store of a session of Icechunk, with errors of this package.

    Parameters
    ----------
    store
        Of the session.
    url
        Of the version, for errors.
    """

    def __init__(self, store: Store, url: str) -> None:
        super().__init__(store)
        self._url = url

    def __str__(self) -> str:
        return self._url

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Return what is stored, ``None`` where nothing is.

        Raises
        ------
        StoreDamageError
            The version lists it, and the repository has lost it.
        """
        icechunk_ = _icechunk()
        try:
            found: Buffer | None = await super().get(key, prototype, byte_range)
        except icechunk_.IcechunkError as error:
            if "node not found" in str(error):  # Icechunk 1 says so of a chunk of no array, Icechunk 2 gives nothing
                return None
            raise StoreDamageError(f"{self._url}/{key}", f"cannot be read ({_reason(error)})") from error
        return found

    async def getsize(self, key: str) -> int:
        """Return the size that the version lists; zarr-python would read the object."""
        size: int = await self._store.getsize(key)
        return size


@contextlib.contextmanager
def write_errors(place: Place) -> Iterator[None]:
    """Turn what Icechunk says of writing into a `StoreWriteError`."""
    icechunk_ = _icechunk()
    try:
        yield
    except icechunk_.ConflictError as error:
        what = f"another process has committed to {place.name} meanwhile"
        raise StoreWriteError(place.url, what) from error
    except icechunk_.IcechunkError as error:
        raise StoreWriteError(place.url, f"cannot be written ({_reason(error)})") from error


def writable_repository(place: Place, options: Mapping[str, Any]) -> Any:
    """Open a repository to commit to a branch of it; make what is not there yet.

    Raises
    ------
    UnknownNameError
        The place is no branch.
    DestinationError
        The folder holds something else.
    StoreWriteError
        The repository cannot be opened or made.
    """
    if place.kind != "branch":
        raise UnknownNameError(place.url, "is a version that stays as it is; commits go to a branch")
    try:
        if not place.in_bucket:
            Path(place.root).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreWriteError(place.url, f"cannot be written ({error})") from error
    icechunk_ = _icechunk()
    with write_errors(place):
        kept = storage(place, options)
        # it would be made among the files of a store, too
        if not place.in_bucket and any(Path(place.root).iterdir()) and not icechunk_.Repository.exists(kept):
            raise DestinationError(place.url, "is a folder with something else in it; give a new one")
        repository = icechunk_.Repository.open_or_create(kept)
        if place.name not in repository.list_branches():
            repository.create_branch(place.name, repository.lookup_branch(MAIN))
    return repository


def _reason(error: Exception) -> str:
    """Return the first line of what Icechunk says, without its decoration."""
    marks = ("x ", "\N{MULTIPLICATION SIGN} ")
    lines = [line.strip() for line in str(error).splitlines()]
    found = next((line for line in lines if line), type(error).__name__)
    return found[2:] if found.startswith(marks) else found
