"""Storages that fsspec reads: Google's, memory, and those that a program registered with it.

Pages of links on web servers too, as folders.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any

from lookalike.errors import MissingExtraError, StorageError
from lookalike.storage.client import Client
from lookalike.storage.download import ByteRange, Limits, sendable
from lookalike.storage.uri import public, scheme_of

SUPPORTED = "paths of this machine, oss://, s3://, gs://, http:// and https://"

_SCHEMES = {"gs": "gs", "gcs": "gs", "memory": "memory", "http": "http", "https": "http"}
_THREADS = 32  # for file systems without coroutines
_NOT_SATISFIABLE = 416  # a range of what is empty


class FsspecClient(Client):
    """All storages of fsspec."""

    def check_scheme(self, uri: str) -> None:
        """Refuse a URI of a storage that is not supported.

        Raises:
            StorageError: neither we nor the program registered a client of this scheme.
        """
        from fsspec.registry import registry

        scheme = scheme_of(uri)
        if scheme not in _SCHEMES and scheme not in registry:
            raise StorageError(
                f"{public(uri)}: {scheme}:// is not supported; supported are {SUPPORTED}. Copy the "
                "files to one of these, or mount their storage as a folder"
            )

    def filesystem_of(self, uri: str) -> tuple[Any, str]:
        """The fsspec filesystem of a URI, and the path in it.

        Raises:
            MissingExtraError: the client of this scheme is not installed.
            StorageError: the scheme is not supported.
        """
        import fsspec

        self.check_scheme(uri)
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

    def _fresh(self, uri: str) -> tuple[Any, str]:
        """The same without remembered listings: another machine may have written since."""
        filesystem, path = self.filesystem_of(uri)
        filesystem.invalidate_cache()
        return filesystem, path

    async def fetch(self, uri: str, part: ByteRange, limits: Limits) -> bytes:
        filesystem, path = self.filesystem_of(uri)
        span: dict[str, int] = {}
        if part is not None:
            span = {"start": part[0], "end": part[0] + part[1]}
        elif limits.size is not None:
            span = {"start": 0, "end": limits.size + 1}
        try:
            if filesystem.async_impl:
                work = filesystem._cat_file(path, **span)
                answer = asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(work, filesystem.loop)
                )
            else:
                loop = asyncio.get_running_loop()
                answer = loop.run_in_executor(_pool(), lambda: filesystem.cat_file(path, **span))
            with _translated():
                content = bytes(await answer)
        except Exception as error:
            if part is None and span and getattr(error, "status", None) == _NOT_SATISFIABLE:
                return b""
            raise
        if part is None:
            limits.check(len(content))
        return content

    def copy_to(self, file: IO[bytes], uri: str) -> None:
        filesystem, path = self._fresh(uri)
        with _translated():
            filesystem.get_file(path, file)

    def describe(self, uri: str) -> dict[str, Any]:
        filesystem, path = self._fresh(uri)
        with _translated():
            return dict(filesystem.info(path))

    def sizes_below(self, uri: str) -> dict[str, int]:
        filesystem, path = self._fresh(uri)
        folder = path.rstrip("/") + "/"
        try:
            with _translated():
                entries = filesystem.find(path, detail=True)
        except FileNotFoundError:
            return {}
        # Of a file, fsspec finds itself.
        below = {name: entry["size"] for name, entry in entries.items() if name.startswith(folder)}
        return {name.removeprefix(folder): size for name, size in below.items()}

    def has_below(self, uri: str) -> bool:
        filesystem, path = self.filesystem_of(uri)
        return bool(filesystem.isdir(path))

    def check_bucket(self, uri: str) -> None:
        # Of Google's buckets: `isdir` is False of one that is not there, and on any failure.
        if _SCHEMES.get(scheme_of(uri)) != "gs":
            self.has_below(uri)
            return
        filesystem, path = self._fresh(uri)
        try:
            with _translated():
                filesystem.ls(path.partition("/")[0], detail=False, max_results=1)
        finally:
            filesystem.invalidate_cache()  # old versions keep this listing as if it were all

    def upload(self, local: str, uri: str, size: int) -> None:
        filesystem, path = self.filesystem_of(uri)
        with _translated():
            filesystem.put_file(local, path)

    def remove(self, uri: str) -> None:
        filesystem, path = self.filesystem_of(uri)
        with _translated():
            filesystem.rm_file(path)
        filesystem.invalidate_cache()

    def forget(self, uri: str) -> None:
        type(self.filesystem_of(uri)[0]).clear_instance_cache()


@contextmanager
def _translated() -> Iterator[None]:
    """The plain OSError by which gcsfs says that permission is missing, as a PermissionError."""
    try:
        yield
    except OSError as error:
        if type(error) is OSError and str(error).startswith("Forbidden"):
            raise PermissionError("Forbidden") from error
        raise


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "lookalike-requests")
