"""What is behind a URL: its file system, the options for it, and what it says when it fails, in one line.

fsspec knows the file systems, and their libraries retry transient errors: requests that time out, are throttled or meet
an error of the server. What still fails afterwards is told here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import MissingExtraError, StoreAccessError, StoreWriteError
from isles24_zarr.places.forks import require_threads
from isles24_zarr.places.options import bucket_options, own_options, service_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LIBRARY_ERRORS: Final = (
    ("obstore.exceptions", "BaseError"),
    ("botocore.exceptions", "BotoCoreError"),  # of profiles
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),  # of huggingface_hub, until 2.0
    ("httpx2", "HTTPError"),
    ("ftplib", "Error"),
    ("paramiko.ssh_exception", "SSHException"),
)
"""What libraries of file systems raise that is no OSError."""

_SSH: Final = ("sftp://", "ssh://")

PARTIAL: Final = ".partial"
"""How the names of files end that are being written, or were when the writer was killed; so LocalStore has it."""

_NO_CREDENTIALS: Final = frozenset({"PartialCredentialsError", "ProfileNotFound", "UnauthenticatedError"})
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})


def lock_file(descriptor: int) -> None:
    """Lock a file or folder for this process, until it is closed or the process ends.

    Parameters
    ----------
    descriptor
        Of the open file.

    Raises
    ------
    BlockingIOError
        Another process holds the lock.
    OSError
        There are no such locks: on this file system, or at all, as on Windows.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("this system has no locks that end with a process") from None
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_url(text: str) -> bool:
    """Tell whether a place is reached through fsspec: a URL, or a chain of them."""
    return "://" in text or "::" in text


def local_path(text: str) -> str:
    """Return the path that a URL of this machine names, and anything else as it is."""
    if not text.startswith(("file://", "local://")) or "::" in text:
        return text
    import fsspec

    return str(fsspec.core.url_to_fs(text)[1])


def filesystem_of(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of a URL, with blocking calls, and the path on it.

    Parameters
    ----------
    url
        Of a bucket, which obstore reaches whatever fsspec would take; of an archive in one; or any other of fsspec.
    options
        As for `places.own_options`.

    Raises
    ------
    MissingExtraError
        obstore is not installed, or boto3, which a profile needs.
    StoreAccessError
        The value of an option cannot be used.
    """
    if url.startswith("obstore+"):
        raise ValueError("obstore is used without it, too: leave out the prefix obstore+")
    import fsspec

    link, _, place = url.partition("::")
    if service_of(place):
        from fsspec.archive import AbstractArchiveFileSystem
        from fsspec.core import OpenFile

        archive = fsspec.get_filesystem_class(link.partition("://")[0])
        if not issubclass(archive, AbstractArchiveFileSystem):
            raise ValueError("what is in a bucket is read as it is, or out of an archive, as zip://::s3://bucket/x.zip")
        return archive(fo=OpenFile(*filesystem_of(place, options))), link.partition("://")[2].strip("/")
    own = own_options(url, options)
    if service := service_of(url):
        return _bucket_files(url, service, own)
    # what others write meanwhile must be seen; paramiko is handed all options, and knows no listings
    usual = {} if url.startswith(_SSH) or "::" in url else {"use_listings_cache": False}
    filesystem, path = fsspec.core.url_to_fs(url, **{**usual, **own})
    return filesystem, str(path)


def _bucket_files(url: str, service: str, own: Mapping[str, Any]) -> tuple[Any, str]:
    try:
        from isles24_zarr.places._obstores import FILES
    except ImportError as error:
        raise MissingExtraError(url, "needs the extra: pip install 'isles24-zarr[s3]'") from error
    require_threads("obstore", url)
    path = url.partition("://")[2].rstrip("/")
    try:
        files = FILES[service](**bucket_options(service, own, os.environ))
        files.bucket(path)  # here options are looked at
    except (TypeError, ValueError) as error:
        raise StoreAccessError(url, f"an option has a value that cannot be used ({error})") from error
    return files, path


def library_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what file systems raise, and others: a library that was not imported has raised nothing."""
    found: list[type[Exception]] = [OSError, EOFError, *others]  # the latter of connections that end, as of FTP
    for module, name in _LIBRARY_ERRORS:
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def refusal(error: BaseException) -> str | None:
    """Say why a place cannot be used at all; ``None`` of errors that concern one request."""
    names, text = {kind.__name__ for kind in type(error).__mro__}, str(error)
    # obstore asks the machine for credentials last, at these addresses
    if names & _NO_CREDENTIALS or ("GenericError" in names and re.search(r"169\.254\.169\.254|metadata\.google", text)):
        return (
            f"there are no credentials for it ({_short(error)}); a public bucket needs none, with the option anon=true"
        )
    if names & {"ClientConnectorError", "ConnectError"} or (
        "GenericError" in names and "error sending request" in text
    ):
        return f"its server cannot be reached ({_short(error)})"
    # obstore has no more of what the server says than its text
    code = re.search(r"<Code>(\w+)</Code>", text)
    if code and code[1] in _NO_BUCKET:
        return "there is no such bucket"
    if "incorrectly configured region" in text:
        return "it is in another region; give the option region"
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
        Whether a transient error is one of writing, after which a command that is run again resumes.

    Raises
    ------
    StoreAccessError
        The place is out of reach: no credentials, no server, no bucket, no permission, or, in reading, no answer.
    StoreWriteError
        Something could not be written.
    """
    if service_of(url):
        require_threads("obstore", url)
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
