"""Bytes from anywhere: local paths and any URI that fsspec knows, one function a verb.

A local path never goes through fsspec: opening a file must cost one system call.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TypeVar
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


def read_bytes(uri: str, *, part: tuple[int, int] | None = None, retries: int = 2) -> bytes:
    """The content of `uri`.

    Args:
        uri: a local path or any fsspec URI.
        part: offset and size of the bytes to read; None for all.
        retries: how often to ask again, with growing pauses, when the answer may change.

    Raises:
        StorageError: it cannot be read, or ends before `part` does; the message holds the cause.
    """
    return _retrying(lambda: _read_once(uri, part), uri, retries)


@contextmanager
def opened(uri: str) -> Iterator[IO[bytes]]:
    """`uri` as a stream of bytes that can seek.

    Raises:
        StorageError: it cannot be opened, or fails while it is read.
    """
    try:
        if is_remote(uri):
            filesystem, path = _filesystem(uri)
            stream = filesystem.open(path, "rb")
        else:
            stream = open(local_path(uri), "rb")  # noqa: SIM115  # closed below
        with stream:
            yield stream
    except LookalikeError:
        raise
    except OSError as error:
        raise StorageError(f"{public(uri)}: {_cause(error)}") from None


def exists(uri: str) -> bool:
    """Whether `uri` can be found."""
    if not is_remote(uri):
        return os.path.exists(local_path(uri))
    filesystem, path = _filesystem(uri)
    return bool(filesystem.exists(path))


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder (in object storage: whether any key begins with it and a `/`).

    Raises:
        StorageError: the storage does not answer.
    """
    if not is_remote(uri):
        return os.path.isdir(local_path(uri))
    if uri.startswith(("http://", "https://")):
        return False  # a web server has no folders, only pages

    def ask() -> bool:
        filesystem, path = _filesystem(uri)
        return bool(filesystem.isdir(path))

    return _retrying(ask, uri, 2)


def files_below(uri: str) -> list[str]:
    """The paths of all files below a folder, relative to it, with `/`, in their order.

    Links to folders are followed, but never to a folder that is being looked at already.

    Raises:
        StorageError: it cannot be read.
    """
    if is_remote(uri):

        def ask() -> list[str]:
            filesystem, path = _filesystem(uri)
            root = path.rstrip("/") + "/"
            return sorted(found.removeprefix(root) for found in filesystem.find(path))

        return _retrying(ask, uri, 2)
    return sorted(_retrying(lambda: list(_walk(local_path(uri), "", ())), uri, 2))


def join(folder: str, path: str) -> str:
    """The URI of a file below a folder, as `resolve` makes it from a list that lies there."""
    if not is_remote(folder):
        return os.path.join(local_path(folder), path)
    place, _, query = folder.partition("?")
    return place.rstrip("/") + "/" + path + (f"?{query}" if query else "")


def _walk(folder: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Files of `folder` and its folders, each with `below` before it."""
    status = os.stat(folder)
    own = (status.st_dev, status.st_ino)
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{below}{entry.name}/", (*above, own))
            else:
                yield below + entry.name


def _read_once(uri: str, part: tuple[int, int] | None) -> bytes:
    if part is None:
        if not is_remote(uri):
            with open(local_path(uri), "rb") as file:
                return file.read()
        filesystem, path = _filesystem(uri)
        return bytes(filesystem.cat_file(path))
    offset, size = part
    if not is_remote(uri):
        with open(local_path(uri), "rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
    else:
        filesystem, path = _filesystem(uri)
        content = bytes(filesystem.cat_file(path, start=offset, end=offset + size))
    if len(content) != size:
        raise StorageError(
            f"{public(uri)}: ends at {offset + len(content):,} bytes, {offset + size:,} expected; "
            "it has changed since it was indexed, or is cut off"
        )
    return content


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
