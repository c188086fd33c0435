"""Alibaba Cloud OSS: where a URI points to, and with which credentials it is read.

Credentials come from the environment or from the file of the vendor's ossutil, never from a
setting. The endpoint may stand in the URI, as in the cloud's own SDK:
`oss://bucket.oss-cn-hangzhou.aliyuncs.com/key` or `oss://bucket/key?endpoint=...`.
"""

import configparser
import os
from dataclasses import dataclass, field
from urllib.parse import unquote

from lookalike.errors import StorageError
from lookalike.storage.uri import split_query

_ID = ("OSS_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID")
_SECRET = ("OSS_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_ACCESS_KEY_SECRET")
_TOKEN = ("OSS_SESSION_TOKEN", "ALIBABA_CLOUD_SECURITY_TOKEN")


@dataclass(frozen=True)
class Account:
    """Who asks; without a key, anybody."""

    endpoint: str | None
    key: str | None = field(repr=False)
    secret: str | None = field(repr=False)
    token: str | None = field(repr=False)


def account() -> Account:
    """The credentials of the environment, else of ossutil's file; the endpoint of either.

    Raises:
        StorageError: the file cannot be read.
    """
    kept = _ossutil()
    endpoint = os.environ.get("OSS_ENDPOINT") or kept.get("endpoint")
    if any(name in os.environ for name in _ID):
        key, secret, token = (_first(names) for names in (_ID, _SECRET, _TOKEN))
    else:
        key, secret, token = (
            kept.get(name) or None for name in ("accesskeyid", "accesskeysecret", "ststoken")
        )
    return Account(endpoint, key, secret, token)


def locate(uri: str, default: str | None) -> tuple[str, str, str]:
    """The endpoint with its protocol, the bucket and the key of an `oss://` URI.

    Args:
        uri: as in the module's text.
        default: the endpoint where the URI has none.

    Raises:
        StorageError: no endpoint is known.
    """
    place, query = split_query(uri)
    host, _, key = place.partition("://")[2].partition("/")
    bucket, _, endpoint = host.rsplit("@", 1)[-1].partition(".")
    endpoint = unquote(query.removeprefix("?endpoint=")) or endpoint or default or ""
    if not endpoint:
        raise StorageError(
            f"oss://{bucket}/{key}: no endpoint is known; set OSS_ENDPOINT, or write it in the "
            f"address: oss://{bucket}.oss-cn-hangzhou.aliyuncs.com/{key}"
        )
    if "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    return endpoint, bucket, key


def _first(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _ossutil() -> dict[str, str]:
    path = os.environ.get("OSS_CONFIG_FILE") or os.path.expanduser("~/.ossutilconfig")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser["Credentials"]) if parser.has_section("Credentials") else {}
    except (configparser.Error, UnicodeDecodeError):
        # Not the error's own text, which quotes the line with the secret.
        raise StorageError(f"{path}: is not in the form of ossutil's configuration") from None
