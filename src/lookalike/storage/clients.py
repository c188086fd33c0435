"""The clients of object storage and web servers, by the scheme of a URI."""

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage.uri import public

_EXTRAS = {"s3": "s3fs", "oss": "ossfs", "gs": "gcsfs", "gcs": "gcsfs"}


def filesystem_of(uri: str):  # type: ignore[no-untyped-def]  # fsspec has no types
    """The fsspec filesystem of `uri`, and the path in it.

    Raises:
        MissingExtraError: the client of this scheme is not installed.
        StorageError: there is no such scheme.
    """
    import fsspec

    scheme = uri.split("://", 1)[0]
    try:
        return fsspec.core.url_to_fs(uri)
    except ImportError:
        raise MissingExtraError(_EXTRAS.get(scheme, scheme), scheme) from None
    except ValueError as error:
        raise StorageError(
            f"{public(uri)}: no client for {scheme}:// ({type(error).__name__})"
        ) from None
