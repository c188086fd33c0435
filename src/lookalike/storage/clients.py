"""The clients of object storage and web servers, by the scheme of a URI."""

import threading
from functools import lru_cache

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage import oss
from lookalike.storage.uri import public

_EXTRAS = {"s3": "s3fs", "oss": "ossfs", "gs": "gcsfs", "gcs": "gcsfs"}

_lock = threading.Lock()
_number = 0

account = lru_cache(maxsize=1)(oss.account)
"""The account of OSS, read once."""


def filesystem_of(uri: str):  # type: ignore[no-untyped-def]  # fsspec has no types
    """The fsspec filesystem of `uri`, and the path in it.

    Raises:
        MissingExtraError: the client of this scheme is not installed.
        StorageError: there is no such scheme, or no endpoint is known.
    """
    import fsspec

    scheme = uri.split("://", 1)[0]
    try:
        if scheme == "oss":
            asks = account()
            endpoint, bucket, key = oss.locate(uri, asks.endpoint)
            filesystem = fsspec.filesystem(
                "oss",
                endpoint=endpoint,
                key=asks.key,
                secret=asks.secret,
                token=asks.token,
            )
            return filesystem, f"/{bucket}/{key}"
        return fsspec.core.url_to_fs(uri)
    except ImportError:
        raise MissingExtraError(_EXTRAS.get(scheme, scheme), scheme) from None
    except ValueError as error:
        raise StorageError(
            f"{public(uri)}: no client for {scheme}:// ({type(error).__name__})"
        ) from None


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
        account.cache_clear()
        fsspec.get_filesystem_class(uri.split("://", 1)[0]).clear_instance_cache()
        return True
