"""Options for what is behind a URL: which concern it, and what obstore is given of them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from isles24_zarr.errors import OptionError
from isles24_zarr.places.options import bucket_options, options_from_texts, own_options, service_of

HTTP = "http://127.0.0.1:9000"
SUFFIX = "core.usgovcloudapi.net"

TABLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # names of fsspec
    ("s3", {"anon": True}, {"skip_signature": True}),
    ("s3", {"anon": False, "key": None}, {"skip_signature": False}),
    (
        "s3",
        {"key": "k", "secret": "s", "token": "t"},
        {"access_key_id": "k", "secret_access_key": "s", "session_token": "t"},
    ),
    ("s3", {"key": 123}, {"access_key_id": "123"}),
    ("s3", {"endpoint_url": "https://x"}, {"endpoint": "https://x"}),
    (
        "s3",
        {"client_kwargs": {"endpoint_url": "https://x", "region_name": "eu"}},
        {"endpoint": "https://x", "region": "eu"},
    ),
    ("s3", {"region_name": "eu"}, {"region": "eu"}),
    ("s3", {"profile": "stroke", "requester_pays": True}, {"profile": "stroke", "request_payer": True}),
    ("gs", {"anon": True}, {"skip_signature": True}),
    ("gs", {"token": "anon"}, {"skip_signature": True}),
    ("gs", {"token": "google_default"}, {}),
    ("gs", {"token": "/home/me/account.json"}, {"application_credentials": "/home/me/account.json"}),
    ("gs", {"token": {"type": "service_account"}}, {"service_account_key": '{"type": "service_account"}'}),
    ("gs", {"token": "ya29.x"}, {"bearer_token": "ya29.x"}),
    ("gs", {"endpoint_url": "https://x"}, {"base_url": "https://x"}),
    ("az", {"account_name": "a", "account_key": "k"}, {"account_name": "a", "account_key": "k"}),
    ("az", {"account_name": "a", "anon": True}, {"account_name": "a", "skip_signature": True}),
    ("az", {"sas_token": "sv=1", "endpoint_url": "https://x"}, {"sas_key": "sv=1", "endpoint": "https://x"}),
    (
        "az",
        {
            "connection_string": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Zm9v==;BlobEndpoint=https://x/a;"
        },
        {"account_name": "a", "account_key": "Zm9v==", "endpoint": "https://x/a"},
    ),
    (
        "az",
        {"connection_string": f"AccountName=a;SharedAccessSignature=sv=1&sig=2;EndpointSuffix={SUFFIX}"},
        {"account_name": "a", "sas_key": "sv=1&sig=2", "endpoint": f"https://a.blob.{SUFFIX}"},
    ),
    ("az", {"connection_string": "UseDevelopmentStorage=true"}, {"use_emulator": "true"}),
    # names of obstore, and unknown ones, which it refuses
    ("s3", {"region": "eu", "access_key_id": "k"}, {"region": "eu", "access_key_id": "k"}),
    ("s3", {"endpont": 1}, {"endpont": "1"}),
    ("s3", {"client_kwargs": {"verify": False}}, {"client_kwargs.verify": False}),
    ("gs", {"profile": "stroke"}, {"profile": "stroke"}),
]


@pytest.mark.parametrize(("service", "options", "wanted"), TABLE)
def test_what_obstore_is_given(service: str, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = bucket_options(service, options, {})
    assert found.pop("client_options") == {"timeout": "10min", "read_timeout": "1min"}
    assert found == wanted


def test_a_server_without_tls_may_be_asked() -> None:
    for service, options, environment in [
        ("s3", {"endpoint_url": HTTP}, {}),
        ("s3", {"endpoint": HTTP}, {}),
        ("s3", {}, {"AWS_ENDPOINT_URL": HTTP}),
        ("gs", {"endpoint_url": HTTP}, {}),
        ("gs", {}, {"GOOGLE_BASE_URL": HTTP}),
        ("az", {"connection_string": f"BlobEndpoint={HTTP}"}, {}),
        ("az", {}, {"AZURE_STORAGE_ENDPOINT": HTTP}),
    ]:
        assert bucket_options(service, options, environment)["client_options"]["allow_http"] is True
    assert "allow_http" not in bucket_options("s3", {}, {"AWS_ENDPOINT_URL": "https://x"})["client_options"]
    refused = {"endpoint_url": HTTP, "client_options": {"allow_http": False}}
    assert bucket_options("s3", refused, {})["client_options"]["allow_http"] is False


def test_patience() -> None:
    wanted = {"timeout": "10min", "read_timeout": "5s", "connect_timeout": "1min"}
    for options in ({"read_timeout": 5, "connect_timeout": "1min"}, {"client_options": {**wanted}}):
        assert bucket_options("s3", options, {})["client_options"] == wanted
    found = bucket_options("s3", {"retry_config": {"max_retries": 0, "retry_timeout": 9, "max_retry": 1}}, {})
    assert found["retry_config"] == {"max_retries": 0, "retry_timeout": dt.timedelta(seconds=9)}
    assert found["retry_config.max_retry"] == "1"


@pytest.mark.parametrize(
    ("options", "environment", "wanted"),
    [
        ({}, {"AWS_PROFILE": "a"}, "a"),
        ({"profile": "b"}, {"AWS_PROFILE": "a"}, "b"),
        ({"profile": "b"}, {"AWS_ACCESS_KEY_ID": "k"}, "b"),
        ({}, {"AWS_PROFILE": "a", "AWS_ACCESS_KEY_ID": "k"}, None),
        ({"key": "k"}, {"AWS_PROFILE": "a"}, None),
        ({"anon": True}, {"AWS_PROFILE": "a"}, None),
    ],
)
def test_profiles(options: dict[str, Any], environment: dict[str, str], wanted: str | None) -> None:
    assert bucket_options("s3", options, environment).get("profile") == wanted


@pytest.mark.parametrize(
    ("url", "options", "wanted"),
    [
        ("s3://b/x", {"anon": True}, {"anon": True}),
        ("s3://b/x", {"s3": {"key": "k"}, "gs": {"token": "anon"}}, {"key": "k"}),
        ("s3a://b/x", {"s3": {"key": "k"}}, {"key": "k"}),
        ("abfss://b/x", {"az": {"account_name": "a"}}, {"account_name": "a"}),
        ("gs://b/x", {"s3": {"key": "k"}}, {}),
        ("http://x/y", {"s3": {"key": "k"}, "headers": {"a": "b"}}, {"headers": {"a": "b"}}),
        ("zip://a::http://x/y.zip", {"http": {"headers": {"a": "b"}}}, {"http": {"headers": {"a": "b"}}}),
    ],
)
def test_which_options_concern_a_url(url: str, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert own_options(url, options) == wanted


def test_which_urls_mean_buckets() -> None:
    urls = ["s3://b", "s3a://b", "gs://b", "gcs://b", "az://b", "abfs://b", "abfss://b", "http://b", "zip://::s3://b"]
    assert [service_of(url) for url in urls] == ["s3", "s3", "gs", "gs", "az", "az", "az", None, None]
    assert service_of("/data/s3") is None


def test_options_of_a_command_line() -> None:
    for wrong in ("anon", "=1", "a..b=1"):
        with pytest.raises(OptionError, match="is not a name and a value"):
            options_from_texts([wrong])
    with pytest.raises(OptionError, match="has another value already"):
        options_from_texts(["a=1", "a.b=1"])
    assert options_from_texts(["anon=true", "a.b=1", "a.c=x"]) == {"anon": True, "a": {"b": 1, "c": "x"}}
