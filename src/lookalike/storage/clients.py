"""The clients of object storage and web servers, by the scheme of a URI."""

from functools import lru_cache

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage import oss
from lookalike.storage.uri import public

_EXTRAS = {"s3": "s3fs", "oss": "ossfs", "gs": "gcsfs", "gcs": "gcsfs"}

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


def forget_credentials(uri: str) -> None:
    """Have the credentials for `uri` read anew at the next request: they were refused."""
    import fsspec

    account.cache_clear()
    fsspec.get_filesystem_class(uri.split("://", 1)[0]).clear_instance_cache()
