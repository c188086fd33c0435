"""Storages that fsspec reads: Google's, memory, and those that a program registered with it.

Pages of links on web servers too, as folders.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import IO, Any

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage.download import Limits, Part, sendable
from lookalike.storage.uri import public, scheme_of

SUPPORTED = "paths of this machine, oss://, s3://, gs://, http:// and https://"

_SCHEMES = {"gs": "gs", "gcs": "gs", "memory": "memory", "http": "http", "https": "http"}
_THREADS = 32  # for file systems without coroutines
_NOT_SATISFIABLE = 416  # a range of what is empty


def check_scheme(uri: str) -> None:
    """Refuse a URI of a storage that is not supported.

    Raises:
        StorageError: fsspec has no client of this scheme that we or the program registered.
    """
    from fsspec.registry import registry

    scheme = scheme_of(uri)
    if scheme not in _SCHEMES and scheme not in registry:
        raise StorageError(
            f"{public(uri)}: {scheme}:// is not supported; supported are {SUPPORTED}. Copy the "
            "files to one of these, or mount their storage as a folder"
        )


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI, and the path in it.

    Raises:
        MissingExtraError: the client of this scheme is not installed.
        StorageError: the scheme is not supported.
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
        raise MissingExtraError("gcsfs", "gs") from None


def url(uri: str) -> str | None:
    """None: read by `read`, not by HTTP requests of ours."""
    return None


async def read(uri: str, part: Part, limits: Limits) -> bytes:
    """The content of a file, or a part of it."""
    filesystem, path = filesystem_of(uri)
    span: dict[str, int] = {}
    if part is not None:
        span = {"start": part[0], "end": part[0] + part[1]}
    elif limits.size is not None:
        span = {"start": 0, "end": limits.size + 1}
    try:
        if filesystem.async_impl:
            answer = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(
                    filesystem._cat_file(path, **span), filesystem.loop
                )
            )
        else:
            loop = asyncio.get_running_loop()
            answer = loop.run_in_executor(_pool(), lambda: filesystem.cat_file(path, **span))
        content = bytes(await answer)
    except Exception as error:
        if part is None and span and getattr(error, "status", None) == _NOT_SATISFIABLE:
            return b""
        raise
    if part is None:
        limits.check(len(content))
    return content


def copy_to(file: IO[bytes], uri: str) -> None:
    """Write the content of a file to `file`, as it comes."""
    filesystem, path = _fresh(uri)
    filesystem.get_file(path, file)


def open_stream(uri: str) -> IO[bytes]:
    """The content of a file as a stream."""
    filesystem, path = filesystem_of(uri)
    stream: IO[bytes] = filesystem.open(path, "rb")
    return stream


def describe(uri: str) -> dict[str, Any]:
    """Facts about a file or folder."""
    filesystem, path = _fresh(uri)
    return dict(filesystem.info(path))


def sizes_below(uri: str) -> dict[str, int]:
    """The size of each file below a folder; {} if there is none."""
    filesystem, path = _fresh(uri)
    folder = path.rstrip("/") + "/"
    try:
        entries = filesystem.find(path, detail=True)
    except FileNotFoundError:
        return {}
    # Of a file, fsspec finds itself.
    below = {name: entry["size"] for name, entry in entries.items() if name.startswith(folder)}
    return {name.removeprefix(folder): size for name, size in below.items()}


def has_below(uri: str) -> bool:
    """True if the filesystem has a folder of this name."""
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.isdir(path))


def upload(local: str, uri: str, size: int) -> None:
    """Copy a local file."""
    filesystem, path = filesystem_of(uri)
    filesystem.put_file(local, path)


def remove(uri: str) -> None:
    """Remove a file."""
    filesystem, path = filesystem_of(uri)
    filesystem.rm_file(path)
    filesystem.invalidate_cache()


def forget() -> None:
    """Make the filesystems anew at the next request."""
    from fsspec.registry import registry

    for scheme in set(registry):
        registry[scheme].clear_instance_cache()


def _fresh(uri: str) -> tuple[Any, str]:
    """`filesystem_of`, without its memory of listings: another machine may have written since."""
    filesystem, path = filesystem_of(uri)
    filesystem.invalidate_cache()
    return filesystem, path


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "lookalike-requests")
