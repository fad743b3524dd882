"""What is behind a URL: its file system, the options for it, and what it says when it fails, in one line.

fsspec knows the file systems, and their libraries retry what may pass: requests that time out, are throttled or meet an
error of the server. What still fails afterwards is told here.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import fsspec
from fsspec.spec import AbstractFileSystem

from isles24_zarr.errors import OptionError, StoreAccessError, StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LIBRARY_ERRORS: Final = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("obstore.exceptions", "BaseError"),
    ("azure.core.exceptions", "AzureError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("ftplib", "Error"),
    ("paramiko.ssh_exception", "SSHException"),
)
"""What libraries of file systems raise that is no OSError."""

OBSTORE: Final = "obstore+"
"""How the protocol of a URL begins that obstore is to reach."""

for _scheme in ("s3", "gs", "az"):  # by name, so that obstore is imported where it is used
    fsspec.register_implementation(
        OBSTORE + _scheme,
        f"isles24_zarr.obstores.{_scheme.capitalize()}Files",
        errtxt="obstore is not installed, run: pip install 'isles24-zarr[s3]'",
    )

_S3: Final = frozenset({"s3", "s3a"})
_WHOLE_OBJECTS: Final = _S3 | {"gs", "gcs", "az", "abfs", "abfss", "memory"}
"""Protocols of object stores, where an object appears whole or not at all, and a put may depend on what is there."""

_SSH: Final = frozenset({"sftp", "ssh"})
"""Protocols of a file system that hands all of its options on to paramiko."""

PARTIAL: Final = ".partial"
"""How the names of objects end that are being written, or were when the writer was killed; LocalStore has them too."""

_NO_CREDENTIALS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "NoAuthTokenError",
        "DefaultCredentialsError",
        "UnauthenticatedError",
    }
)
_NO_ENDPOINT: Final = frozenset(
    {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ClientConnectorError",
        "ProxyConnectionError",
        "ServiceRequestError",
    }
)
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})


def is_url(text: str) -> bool:
    """Tell whether a place is reached through fsspec: a URL, or a chain of them."""
    return "://" in text or "::" in text


def local_path(text: str) -> str:
    """Return the path that a URL of this machine names, and anything else as it is."""
    is_local = text.startswith(("file://", "local://")) and "::" not in text
    return str(fsspec.core.url_to_fs(text)[1]) if is_local else text


def url_options(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that concern a URL.

    Parameters
    ----------
    url
        Of one file system, or a chain of them.
    options
        Of that file system; or by protocol, as ``{"s3": {...}}``, where source and store need different ones.
    """
    found = dict(options)
    if "::" in url:  # by protocol, as fsspec has it
        return found
    protocol = url.split("://", maxsplit=1)[0]
    if isinstance(found.get(protocol), dict):
        found = dict(found[protocol])
    if protocol.startswith(OBSTORE) or protocol in _SSH:  # they keep no listings
        return found
    # what others write meanwhile must be seen
    usual: dict[str, Any] = {"use_listings_cache": False}
    if protocol in _S3:
        # an object is read by one request, which is tried again as a whole: s3fs would ask for its size first, and not
        # try again what breaks off while it is read in pieces
        usual["max_concurrency"] = 1
    return {**usual, **found}


def options_from_texts(texts: Iterable[str] | None) -> dict[str, Any]:
    """Parse options as they are given on a command line.

    Parameters
    ----------
    texts
        As ``"anon=true"``, ``"client_kwargs.region_name=eu-central-1"``: dots lead into nested options, a value is JSON
        where it can be read as such, and text where it cannot.

    Raises
    ------
    OptionError
        One has no name or no value, or two contradict each other.
    """
    options: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        *outer, last = name.split(".")
        if not equals or not all((*outer, last)):
            raise OptionError(f"--storage-option {text}", "is not a name and a value")
        place = options
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise OptionError(f"--storage-option {text}", f"{part!r} has another value already")
        try:
            place[last] = json.loads(value)
        except ValueError:
            place[last] = value
    return options


def filesystem_of(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, with blocking calls, and the path on it; options as for `url_options`."""
    filesystem, path = fsspec.core.url_to_fs(url, **url_options(url, options))
    return filesystem, str(path)


def protocols_of(filesystem: Any) -> frozenset[str]:
    """Return the names of a file system of fsspec."""
    known = filesystem.protocol
    return frozenset({known} if isinstance(known, str) else known)


def writes_whole(filesystem: Any) -> bool:
    """Tell whether an object that is written to a file system appears whole or not at all, as in object stores."""
    return bool(protocols_of(filesystem) & _WHOLE_OBJECTS)


def own_instance(filesystem: Any) -> Any:
    """Return another instance of a file system, with connections of its own: that of an FTP server knows one call."""
    return type(filesystem)(*filesystem.storage_args, **filesystem.storage_options, skip_instance_cache=True)


def writing_refusal(url: str, filesystem: Any) -> str | None:
    """Say why no store can be written to a file system, ``None`` where one can.

    Parameters
    ----------
    url
        Of the store.
    filesystem
        Behind it, as fsspec has it.
    """
    if "::" in url:
        return "is a chain of file systems, through which no store is written; give a folder, or the URL of one of them"
    if type(filesystem).__module__ == "obstore.fsspec":
        return f"obstore, as it was registered with fsspec, takes no lock; give {OBSTORE}{url}"
    # fsspec's own renaming is copying
    if not writes_whole(filesystem) and type(filesystem).mv is AbstractFileSystem.mv:
        return (
            "its file system neither writes an object whole nor renames one, so that an interrupted write would leave "
            "half of one; give a folder, or a URL of an object store"
        )
    return None


def library_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what file systems raise, and others: a library that was not imported has raised nothing."""
    found: list[type[Exception]] = [OSError, EOFError, *others]  # the latter of connections that end, as of FTP
    for module, name in _LIBRARY_ERRORS:
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def is_there(filesystem: Any, path: str) -> bool:
    """Tell whether something has a path; `exists` of fsspec would take all errors for a no."""
    try:
        filesystem.info(path)
    except FileNotFoundError:
        return False
    return True


def put_by_renaming(filesystem: Any, path: str, data: bytes) -> None:
    """Write an object whole where a file system writes in place: under another name first.

    Parameters
    ----------
    filesystem
        With blocking calls, which renames.
    path, data
        Of the object, whose folder is there.
    """
    partial = f"{path}.{uuid.uuid4().hex}{PARTIAL}"
    filesystem.pipe_file(partial, data)
    try:
        filesystem.mv(partial, path)
    except library_errors():
        # as SMB and HDFS, which rename, but not to a name that is taken
        if not is_there(filesystem, path):
            raise
        filesystem.rm_file(path)
        filesystem.mv(partial, path)


def make_folder(filesystem: Any, path: str) -> None:
    """Make a folder in one that is there, whoever does so at the same time."""
    try:
        filesystem.mkdir(path, create_parents=False)
    except library_errors():
        if not is_there(filesystem, path):
            raise


def error_code(error: BaseException | None) -> str:
    """Return what a server calls an error, as ``"NoSuchBucket"``; empty where no server has spoken."""
    while error is not None:
        # of Azure, and of obstore, which has no more than its text
        if found := re.search(r"<Code>(\w+)</Code>", str(error)):
            return found[1]
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def refusal(error: BaseException) -> str | None:
    """Say why a place cannot be used at all; ``None`` of errors that concern one request."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _NO_CREDENTIALS:
        return (
            f"there are no credentials for it ({_short(error)}); a public bucket needs none, with the option anon=true"
        )
    # obstore asks the machine for credentials last, at these addresses
    if "GenericError" in names and re.search(r"169\.254\.169\.254|metadata\.google", str(error)):
        return "there are no credentials for it; a public bucket needs none, with the option skip_signature=true"
    if names & _NO_ENDPOINT or ("GenericError" in names and "error sending request" in str(error)):
        return f"its server cannot be reached ({_short(error)})"
    if error_code(error) in _NO_BUCKET:
        return "there is no such bucket"
    if isinstance(error, PermissionError) or "PermissionDeniedError" in names:
        return f"access is refused ({_short(error)})"
    if isinstance(error, TypeError) or "UnknownConfigurationKeyError" in names:
        return f"an option is unknown ({_short(error)})"
    return None


def _short(error: BaseException) -> str:
    # obstore adds the answer of the server, and what it is made of
    text = re.split(r":?\s*(?:Debug source:|<\?xml)", str(error))[0]
    return " ".join(text.split()) or type(error).__name__


@contextlib.contextmanager
def access_errors(url: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what a file system says into an error of ours.

    Parameters
    ----------
    url
        What it is about.
    writing
        Whether an error that may pass is one of writing, after which the same command resumes.

    Raises
    ------
    StoreAccessError
        The place is out of reach: no credentials, no server, no bucket, no permission, or, in reading, no answer.
    StoreWriteError
        Something could not be written.
    """
    try:
        yield
    except TypeError as error:
        # fsspec hands options on to libraries, which look at them late
        if "unexpected keyword argument" not in str(error):
            raise
        raise StoreAccessError(url, refusal(error) or "") from error
    except library_errors() as error:
        why = refusal(error)
        if why is None and writing:
            raise StoreWriteError(url, f"cannot be written ({_short(error)})") from error
        raise StoreAccessError(url, why or f"cannot be read ({_short(error)})") from error
