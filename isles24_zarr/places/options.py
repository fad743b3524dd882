"""Options for what is behind a URL: which of them concern it, and what obstore calls those for buckets.

Buckets take the names of obstore, and those that users of fsspec know. What is not translated is left to obstore, which
refuses what it does not know by its name.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SERVICES: Final = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""Object stores, by the protocols of their URLs."""

_NAMES: Final = {
    "s3": {
        "endpoint_url": "endpoint",
        "client_kwargs.endpoint_url": "endpoint",
        "region_name": "region",
        "client_kwargs.region_name": "region",
        "key": "access_key_id",
        "secret": "secret_access_key",
        "token": "session_token",
        "requester_pays": "request_payer",
    },
    "gs": {"endpoint_url": "base_url"},
    "az": {"endpoint_url": "endpoint", "sas_token": "sas_key"},
}
"""What fsspec's libraries call the options of obstore, beside ``anon``."""

_ENDPOINTS: Final = {
    "s3": ("endpoint", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("base_url", "GOOGLE_BASE_URL"),
    "az": ("endpoint", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Where the address of a server may stand: among the options, and in the environment."""

_CLIENT: Final = frozenset({
    "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "default_headers",
    "http1_only", "http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_only",
    "pool_idle_timeout", "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
    "randomize_addresses", "read_timeout", "root_certificate", "timeout", "user_agent",
})  # fmt: skip
"""Options of the connection: among others, obstore panics at them."""

_RETRY: Final = frozenset({"backoff", "max_retries", "retry_timeout"})

_PATIENCE: Final = {"timeout": "10min", "read_timeout": "1min"}
"""obstore itself gives a request half a minute, in which a shard does not come through every line."""

_CONNECTION: Final = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
    "UseDevelopmentStorage": "use_emulator",
}
"""Parts of a connection string of Azure."""


def service_of(url: str) -> str | None:
    """Return which object store a URL means, ``"s3"``, ``"gs"`` or ``"az"``; ``None`` of all others."""
    return None if "::" in url else _SERVICES.get(url.partition("://")[0])


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


def own_options(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that concern a URL.

    Parameters
    ----------
    url
        Of one file system, or a chain of them, which takes all options by protocol, as fsspec has it.
    options
        Of that file system; or by protocol, as ``{"s3": {...}}``, where source and store need different ones.
    """
    protocol = url.partition("://")[0]
    if "::" in url:
        return dict(options)
    for name in (protocol, _SERVICES.get(protocol, protocol)):
        if isinstance(options.get(name), dict):
            return dict(options[name])
    return {name: value for name, value in options.items() if not (name in _SERVICES and isinstance(value, dict))}


def bucket_options(service: str, options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Translate options to those of obstore.

    Parameters
    ----------
    service
        As from `service_of`.
    options
        Its own, by the names of obstore or of fsspec.
    environment
        In which obstore looks for what is not given. What it does not see there: a profile, a server without TLS.

    Returns
    -------
    dict
        For ``obstore.store.from_url``, and ``profile``, the name of one in ``~/.aws``, where one is to be used.
    """
    found: dict[str, Any] = {}
    client: dict[str, Any] = dict(_PATIENCE)
    retry: dict[str, Any] = {}
    for name, value in _flat(options):
        group, _, last = name.rpartition(".")
        if last in _CLIENT and group in ("", "client_options"):
            client[last] = f"{value}s" if last.endswith("timeout") and isinstance(value, int | float) else value
        elif group == "retry_config" and last in _RETRY:
            in_seconds = last == "retry_timeout" and isinstance(value, int | float)
            retry[last] = dt.timedelta(seconds=value) if in_seconds else value
        elif service == "gs" and name == "token":
            found |= _google_token(value)
        elif service == "az" and name == "connection_string":
            found |= _connection(value)
        elif name == "anon":
            found["skip_signature"] = value
        else:
            found[_NAMES[service].get(name, name)] = (
                value if isinstance(value, bool | str) or callable(value) else str(value)
            )
    places = [found.get(name) or environment.get(name) for name in _ENDPOINTS[service]]
    if any(str(place).startswith("http://") for place in places):
        client.setdefault("allow_http", True)
    elsewhere = {"access_key_id", "credential_provider"} & found.keys() or found.get("skip_signature")
    profile = environment.get("AWS_PROFILE")
    # as all tools of Amazon have it: keys in the environment go before a profile in it
    if service == "s3" and profile and not elsewhere and not environment.get("AWS_ACCESS_KEY_ID"):
        found.setdefault("profile", profile)
    return {**found, "client_options": client, **({"retry_config": retry} if retry else {})}


def session_of(profile: str) -> Any:
    """Return the session of boto3 for a profile of ``~/.aws``, which has credentials."""
    try:
        import boto3
    except ImportError as error:
        raise MissingExtraError(f"the profile {profile!r}", "needs boto3: pip install boto3") from error
    session = boto3.Session(profile_name=profile)
    if session.get_credentials() is None:
        raise PermissionError(f"the profile {profile!r} has no credentials")
    return session


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield options with the names of those around them; what is ``None`` is not given."""
    for name, value in options.items():
        if isinstance(value, dict) and name in ("client_kwargs", "client_options", "retry_config", "config_kwargs"):
            yield from ((f"{name}.{inner}", part) for inner, part in value.items())
        elif value is not None:
            yield name, value


def _google_token(token: Any) -> dict[str, Any]:
    if isinstance(token, dict):
        return {"service_account_key": json.dumps(token)}
    if token == "anon":  # noqa: S105 - no password
        return {"skip_signature": True}
    if token in ("google_default", "cloud"):  # where obstore looks anyway
        return {}
    return {"application_credentials" if str(token).endswith(".json") else "bearer_token": str(token)}


def _connection(text: str) -> dict[str, Any]:
    parts = dict(part.split("=", 1) for part in str(text).split(";") if "=" in part)
    found = {_CONNECTION[name]: value for name, value in parts.items() if name in _CONNECTION}
    if "EndpointSuffix" in parts and "AccountName" in parts:
        scheme = parts.get("DefaultEndpointsProtocol", "https")
        found.setdefault("endpoint", f"{scheme}://{parts['AccountName']}.blob.{parts['EndpointSuffix']}")
    return found
