"""Alibaba Cloud OSS, through the vendor's oss2; GETs are sent by URLs that it signs.

Credentials come from the environment or from the file of the vendor's ossutil, never from a
setting. The endpoint may stand in the URI, as in the cloud's own SDK:
`oss://bucket.oss-cn-hangzhou.aliyuncs.com/key` or `oss://bucket/key?endpoint=...`.
"""

import configparser
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage.client import SIGNED_FOR, BucketClient
from lookalike.storage.uri import public, split_query

_IN_PARTS = 100 * 2**20  # bytes from which on a file is uploaded in parts

ID_VARIABLES = ("OSS_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID")
SECRET_VARIABLES = ("OSS_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_ACCESS_KEY_SECRET")
TOKEN_VARIABLES = ("OSS_SESSION_TOKEN", "ALIBABA_CLOUD_SECURITY_TOKEN")


@dataclass(frozen=True)
class Account:
    """The account of requests; without a key they are anonymous."""

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
    if any(name in os.environ for name in ID_VARIABLES):
        key, secret, token = (
            _first(names) for names in (ID_VARIABLES, SECRET_VARIABLES, TOKEN_VARIABLES)
        )
    else:
        key, secret, token = (
            kept.get(name) or None for name in ("accesskeyid", "accesskeysecret", "ststoken")
        )
    return Account(endpoint, key, secret, token)


def locate(uri: str, default: str | None) -> tuple[str, str, str]:
    """The endpoint with its protocol, the bucket and the key of an `oss://` URI.

    The default endpoint is for URIs without one.

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


class Oss(BucketClient):
    """Buckets of OSS."""

    def url(self, uri: str) -> str:
        endpoint, name, key = locate(uri, _account().endpoint)
        return str(_bucket(endpoint, name).sign_url("GET", key, SIGNED_FOR, slash_safe=True))

    def key_of(self, uri: str) -> str:
        return _place(uri)[1]

    def describe(self, uri: str) -> dict[str, Any]:
        _place(uri)  # a key that can be written too
        return super().describe(uri)

    def objects(self, uri: str, prefix: str, page: int) -> Iterator[tuple[str, int]]:
        bucket, marker = _place(uri)[0], ""
        while True:
            with _translated():
                answer = bucket.list_objects(prefix=prefix, marker=marker, max_keys=page)
            for one in answer.object_list:
                yield one.key, one.size
            if not answer.is_truncated:
                return
            marker = answer.next_marker

    def upload(self, local: str, uri: str, size: int) -> None:
        bucket, key = _place(uri)
        with _translated():
            if size < _IN_PARTS:
                bucket.put_object_from_file(key, local)
                return
            import oss2

            with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
                oss2.resumable_upload(bucket, key, local, store=oss2.ResumableStore(root=folder))

    def remove(self, uri: str) -> None:
        bucket, key = _place(uri)
        with _translated():
            bucket.delete_object(key)

    def forget(self, uri: str) -> None:
        _account.cache_clear()
        _bucket.cache_clear()


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of oss2 as those of files, where there are such."""
    import oss2.exceptions

    try:
        yield
    except oss2.exceptions.NoSuchBucket as error:
        raise FileNotFoundError("NoSuchBucket") from error
    except oss2.exceptions.AccessDenied as error:
        raise PermissionError("AccessDenied") from error


_account = lru_cache(maxsize=1)(account)


def _place(uri: str) -> tuple[Any, str]:
    """The client of the bucket of a URI, and the key."""
    endpoint, name, key = locate(uri, _account().endpoint)
    if key in (".", ".."):  # the client's HTTP library asks for the bucket in its place
        raise StorageError(f"{public(uri)}: OSS's client cannot take the key {key!r}; rename it")
    return _bucket(endpoint, name), key


@lru_cache(maxsize=64)
def _bucket(endpoint: str, name: str) -> Any:
    """The vendor's client of a bucket."""
    try:
        import oss2
    except ImportError:
        raise MissingExtraError("oss2", "oss") from None
    own = _account()
    if own.token:
        auth = oss2.StsAuth(own.key, own.secret, own.token)
    elif own.key:
        auth = oss2.Auth(own.key, own.secret)
    else:
        auth = oss2.AnonymousAuth()
    # By default it signs no key that begins with `?`: a guard for callers who do not encode keys.
    return oss2.Bucket(auth, endpoint, name, is_verify_object_strict=False)


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
