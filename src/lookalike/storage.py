"""Bytes from anywhere: local paths and any URI that fsspec knows, one function a verb.

A local path never goes through fsspec: opening a file must cost one system call.
"""

import os
import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from lookalike.errors import LookalikeError, MissingExtraError, StorageError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_EXTRAS = {"s3": "s3fs", "oss": "ossfs", "gs": "gcsfs", "gcs": "gcsfs"}

# The operating system's answers that asking again does not change.
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

T = TypeVar("T")


def is_remote(uri: str) -> bool:
    """Whether `uri` names a place that is not a path of this machine."""
    return bool(_SCHEME.match(uri)) and not uri.startswith("file://")


def local_path(uri: str) -> str:
    """The path of a local URI: `file:///a%20b` and plain paths."""
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def resolve(uri: str, base: str) -> str:
    """`uri` as written in the file `base`: a relative path starts at that file's folder."""
    if _SCHEME.match(uri) or os.path.isabs(uri):
        return uri
    if is_remote(base):
        place, _, query = base.partition("?")
        return place.rsplit("/", 1)[0] + "/" + uri + (f"?{query}" if query else "")
    return os.path.join(os.path.dirname(local_path(base)), uri)


def public(uri: str) -> str:
    """`uri` without user info and query, which may hold secrets: for logs and messages."""
    if not is_remote(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path}"


def read_bytes(uri: str, *, retries: int = 2) -> bytes:
    """The whole content of `uri`.

    Args:
        uri: a local path or any fsspec URI.
        retries: how often to ask again, with growing pauses, when the answer may change.

    Raises:
        StorageError: it cannot be read; the message holds the cause.
    """
    return _retrying(lambda: _read_once(uri), uri, retries)


def exists(uri: str) -> bool:
    """Whether `uri` can be found."""
    if not is_remote(uri):
        return os.path.exists(local_path(uri))
    filesystem, path = _filesystem(uri)
    return bool(filesystem.exists(path))


def _read_once(uri: str) -> bytes:
    if not is_remote(uri):
        with open(local_path(uri), "rb") as file:
            return file.read()
    filesystem, path = _filesystem(uri)
    return bytes(filesystem.cat_file(path))


def _filesystem(uri: str):  # type: ignore[no-untyped-def]  # fsspec has no types
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


def _retrying(action: Callable[[], T], uri: str, retries: int) -> T:
    for attempt in range(retries + 1):
        try:
            return action()
        except LookalikeError:
            raise
        except (*_FINAL, ValueError) as error:  # ValueError: a NUL in a path, a broken URL
            raise StorageError(f"{public(uri)}: {_cause(error)}") from None
        except Exception as error:
            # A store's client raises what it likes, not only OSError; on this machine anything
            # else is our own mistake.
            if not isinstance(error, OSError) and not is_remote(uri):
                raise
            if attempt == retries:
                raise StorageError(f"{public(uri)}: {_cause(error)}") from None
            time.sleep(0.05 * 4**attempt)
    raise AssertionError("unreachable")


def _cause(error: Exception) -> str:
    """Why, without the error's own words, which may quote a URL with its secrets."""
    if isinstance(error, ValueError):
        return "not a path or URL that can be opened"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
