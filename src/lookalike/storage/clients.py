"""The clients of object storage and web servers, by the scheme of a URI."""

import threading
from functools import lru_cache
from typing import Any

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage import oss
from lookalike.storage.download import sendable
from lookalike.storage.uri import public, scheme_of

SUPPORTED = "paths of this machine, oss://, s3://, gs://, http:// and https://"

_EXTRAS = {"s3": "s3fs", "gs": "gcsfs"}
_SCHEMES = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http",
    "memory": "memory",
}  # fmt: skip

_lock = threading.Lock()
_number = 0

oss_account = lru_cache(maxsize=1)(oss.account)
"""The account of OSS, read once."""


def check_scheme(uri: str) -> None:
    """Refuse a URI of a storage that is not supported.

    Raises:
        StorageError: no client of ours reads it.
    """
    from fsspec.registry import registry

    scheme = scheme_of(uri)
    # What a program registered itself with fsspec before is its own affair.
    if scheme not in _SCHEMES and scheme != "oss" and scheme not in registry:
        raise StorageError(
            f"{public(uri)}: {scheme}:// is not supported; supported are {SUPPORTED}. Copy the "
            "files to one of these, or mount their storage as a folder"
        )


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a `uri` that is not in OSS, and the path in it.

    Raises:
        MissingExtraError: the client of this scheme is not installed.
        StorageError: there is no such scheme.
    """
    import fsspec

    check_scheme(uri)
    scheme = _SCHEMES.get(scheme_of(uri))
    if scheme is None:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem, path
    try:
        if scheme == "http":
            # Encoded, to fsspec and aiohttp, means: leave it as it is.
            options = {"encoded": True, "client_kwargs": {"requote_redirect_url": False}}
            return fsspec.filesystem(scheme, **options), sendable(uri)
        # Not fsspec's url_to_fs, to which `::` in a key has a meaning.
        path = uri.partition("://")[2]
        return fsspec.filesystem(scheme), f"/{path}" if scheme == "memory" else path
    except ImportError:
        raise MissingExtraError(_EXTRAS.get(scheme, scheme), scheme) from None


@lru_cache(maxsize=64)
def oss_bucket(endpoint: str, name: str) -> Any:
    """The vendor's client of a bucket.

    Raises:
        MissingExtraError: the client is not installed.
    """
    try:
        import oss2
    except ImportError:
        raise MissingExtraError("oss2", "oss") from None
    asks = oss_account()
    if asks.token:
        auth = oss2.StsAuth(asks.key, asks.secret, asks.token)
    elif asks.key:
        auth = oss2.Auth(asks.key, asks.secret)
    else:
        auth = oss2.AnonymousAuth()
    # By default it signs no key that begins with `?`: a guard for callers who do not encode keys.
    return oss2.Bucket(auth, endpoint, name, is_verify_object_strict=False)


def oss_place(uri: str) -> tuple[Any, str]:
    """The vendor's client of the bucket of an `oss://` URI, and the key.

    Raises:
        StorageError: no endpoint is known, or the client cannot name the key.
        MissingExtraError: the client is not installed.
    """
    endpoint, name, key = oss.locate(uri, oss_account().endpoint)
    if key in (".", ".."):  # the client's HTTP library asks for the bucket in its place
        raise StorageError(f"{public(uri)}: OSS's client cannot take the key {key!r}; rename it")
    return oss_bucket(endpoint, name), key


def credentials_number() -> int:
    """Which credentials are in use, counted from 0: those that `forget_credentials` is about."""
    return _number


def forget_credentials(uri: str, number: int) -> bool:
    """Have the credentials for `uri` read anew at the next request: they were refused.

    Args:
        uri: what was asked for.
        number: the credentials that were refused; if others have taken their place since, nothing
            is done.

    Returns:
        Whether they are to be read anew.
    """
    import fsspec

    global _number
    with _lock:
        if number != _number:
            return False
        _number += 1
        oss_account.cache_clear()
        scheme = scheme_of(uri)
        if scheme != "oss":
            fsspec.get_filesystem_class(_SCHEMES.get(scheme, scheme)).clear_instance_cache()
        return True
