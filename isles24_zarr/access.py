"""What is behind a URL: its file system, the options for it, and what it says when it fails, in one line.

fsspec knows the file systems, and their libraries retry what may pass: requests that time out, are throttled or meet an
error of the server. What still fails afterwards is told here.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import fsspec

from isles24_zarr.errors import OptionError, StoreAccessError, StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LIBRARY_ERRORS: Final = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
)
"""What libraries of object stores raise that is no OSError."""

_S3: Final = frozenset({"s3", "s3a"})
_NO_CREDENTIALS: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoAuthTokenError"}
)
_NO_ENDPOINT: Final = frozenset(
    {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ClientConnectorError",
        "ProxyConnectionError",
    }
)


def is_url(text: str) -> bool:
    """Tell whether a place is reached through fsspec: a URL, or a chain of them."""
    return "://" in text or "::" in text


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


def library_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what file systems raise, and others: a library that was not imported has raised nothing."""
    found: list[type[Exception]] = [OSError, *others]
    for module, name in _LIBRARY_ERRORS:
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def error_code(error: BaseException | None) -> str:
    """Return what a server calls an error, as ``"NoSuchBucket"``; empty where no server has spoken."""
    while error is not None:
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
    if names & _NO_ENDPOINT:
        return f"its server cannot be reached ({_short(error)})"
    if error_code(error) == "NoSuchBucket":
        return "there is no such bucket"
    if isinstance(error, PermissionError):
        return f"access is refused ({_short(error)})"
    if isinstance(error, TypeError):
        return f"an option is unknown ({_short(error)})"
    return None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
