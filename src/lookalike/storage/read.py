"""Reading of files and folders, local and remote.

A local path never goes through fsspec: opening a file must cost one system call.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import IO

from lookalike.errors import LookalikeError, MissingFileError, StorageError
from lookalike.storage import archive
from lookalike.storage.client_registry import client_of, fetch
from lookalike.storage.download import NO_LIMITS, Limits
from lookalike.storage.event_loop import waited
from lookalike.storage.local_files import Opener, regular_file
from lookalike.storage.retry import cause, retrying, retrying_there
from lookalike.storage.stream import stream_of
from lookalike.storage.uri import is_remote, local_path, public

_STARTS = 64  # requests at a time


def read_bytes(
    uri: str,
    *,
    part: tuple[int, int] | None = None,
    retries: int = 2,
    limits: Limits = NO_LIMITS,
    regular: bool = False,
) -> bytes:
    """The content of `uri`.

    Args:
        uri: a local path, a URI of a supported storage, or a file in a ZIP archive,
            `photos.zip/cat/1.jpg`.
        part: offset and size of the bytes to read; None for all.
        retries: more tries, with growing pauses, after errors that may pass.
        limits: on the size and, for a remote `uri`, on the time.
        regular: refuse a pipe, a socket or a device of this machine, which may never end.

    Raises:
        MissingFileError: there is no such file.
        StorageError: it cannot be read, ends before `part` does, is no regular file, or exceeds
            the limits; the message holds the cause.
    """
    if is_remote(uri):
        return waited(fetch_bytes(uri, part=part, retries=retries, limits=limits))
    opener = regular_file if regular else None
    return retrying(lambda: _read_local(uri, part, limits, opener), uri, retries, limits.seconds)


def read_if_exists(uri: str) -> bytes | None:
    """The content of `uri`, by a single request; None where there is no such file.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return read_bytes(uri)
    except MissingFileError:
        return None


async def fetch_bytes(
    uri: str,
    *,
    part: tuple[int, int] | None = None,
    retries: int = 2,
    limits: Limits = NO_LIMITS,
) -> bytes:
    """`read_bytes` of a remote `uri`, in the loop of `lookalike.storage.event_loop`."""
    now = limits.running()

    async def once() -> bytes:
        if archive.may_lead_in(uri):
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(_archive_threads(), archive.entry_of, uri)
            if found is not None:
                place, entry = found
                limits.check(entry.size)
                span = entry.offset, entry.span
                packed = await fetch(place, span, now().of_any_size())
                return _of_entry(uri, entry, _whole(place, span, packed), part)
        content = await fetch(uri, part, now())
        return content if part is None else _whole(uri, part, content)

    return await retrying_there(once, uri, retries, limits.seconds)


@cache
def _archive_threads() -> ThreadPoolExecutor:
    """Threads that may wait for the loop; its own, which look host names up for it, may not."""
    return ThreadPoolExecutor(2, thread_name_prefix="lookalike-archives")


def read_starts(uris: Sequence[str], size: int) -> list[bytes]:
    """The first `size` bytes of each file, or all of a shorter one; b"" of one that fails."""

    def local(uri: str) -> bytes:
        try:
            if archive.may_lead_in(uri) and archive.find(uri) is not None:
                return read_bytes(uri)[:size]
            with open(local_path(uri), "rb", buffering=0, opener=regular_file) as file:
                return file.read(size)
        except (OSError, StorageError):
            return b""

    async def remote(uri: str, room: asyncio.Semaphore) -> bytes:
        async with room:
            try:
                if archive.may_lead_in(uri):
                    return (await fetch_bytes(uri))[:size]
                return await retrying_there(lambda: fetch(uri, (0, size)), uri, 2)
            except StorageError:
                return b""

    async def all_remote() -> list[bytes]:
        room = asyncio.Semaphore(_STARTS)
        return await asyncio.gather(*(remote(uri, room) for uri in uris if is_remote(uri)))

    found = iter(waited(all_remote())) if any(map(is_remote, uris)) else iter(())
    return [next(found) if is_remote(uri) else local(uri) for uri in uris]


@contextmanager
def opened(uri: str) -> Iterator[IO[bytes]]:
    """`uri` as a stream of bytes that can seek.

    Raises:
        StorageError: it cannot be opened, or fails while it is read.
    """
    try:
        if is_remote(uri):
            stream = retrying(lambda: stream_of(uri), uri, 2)
        else:
            stream = open(local_path(uri), "rb", opener=regular_file)  # noqa: SIM115  # below
        with stream:
            yield stream
    except LookalikeError:
        raise
    except OSError as error:
        raise StorageError(f"{public(uri)}: {cause(error)}") from None


def exists(uri: str) -> bool:
    """True if there is a file or folder `uri`.

    Raises:
        StorageError: the storage does not answer.
    """
    found = retrying(lambda: archive.find(uri), uri, 2)
    if found is not None and found.name:
        return archive.is_file(found) or bool(archive.names_below(found))
    if not is_remote(uri):
        return os.path.exists(local_path(uri))

    def ask() -> bool:
        try:
            client_of(uri).describe(uri)
        except FileNotFoundError:
            return _has_below(uri)
        return True

    return retrying(ask, uri, 2)


def is_folder(uri: str) -> bool:
    """True if `uri` is a folder; in object storage, if any key begins with it and a `/`.

    A ZIP archive is one, and so are the folders in it.

    Raises:
        StorageError: the storage does not answer.
    """
    found = retrying(lambda: archive.find(uri), uri, 2)
    if found is not None:
        return not found.name or bool(archive.names_below(found))
    if not is_remote(uri):
        return os.path.isdir(local_path(uri))
    return retrying(lambda: _has_below(uri), uri, 2)


def _has_below(uri: str) -> bool:
    try:
        return client_of(uri).has_below(uri)
    except FileNotFoundError:  # no such bucket
        return False


def files_below(uri: str) -> list[str]:
    """The paths of all files below a folder, relative to it, with `/`, in their order.

    Links to folders are followed, except to a folder above. ZIP archives are single files, unless
    `uri` is one or leads into one.

    Raises:
        StorageError: it cannot be read.
    """
    found = retrying(lambda: archive.find(uri), uri, 2)
    if found is not None:
        return archive.names_below(found)
    if is_remote(uri):
        return sorted(retrying(lambda: client_of(uri).sizes_below(uri), uri, 2))
    return sorted(retrying(lambda: list(_walk(local_path(uri), "", ())), uri, 2))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself, which is no more than a file that cannot be read


def _walk(folder: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Files below `folder`, each with the prefix `below`."""
    status = os.stat(folder)
    own = (status.st_dev, status.st_ino)
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_dir(entry):
                yield from _walk(entry.path, f"{below}{entry.name}/", (*above, own))
            else:
                yield below + entry.name


def _of_entry(
    uri: str, entry: archive.ArchiveEntry, packed: bytes, part: tuple[int, int] | None
) -> bytes:
    content = archive.unpacked(public(uri), entry, packed)
    if part is None:
        return content
    return _whole(uri, part, content[part[0] : part[0] + part[1]])


def _read_local(
    uri: str, part: tuple[int, int] | None, limits: Limits, opener: Opener | None = None
) -> bytes:
    if archive.may_lead_in(uri):
        found = archive.entry_of(uri)
        if found is not None:
            place, entry = found
            limits.check(entry.size)
            packed = _read_local(place, (entry.offset, entry.span), NO_LIMITS)
            return _of_entry(uri, entry, packed, part)
    buffering = -1 if part is None else 0
    with open(local_path(uri), "rb", buffering=buffering, opener=opener) as file:
        if part is not None:
            limits.check(part[1])
            file.seek(part[0])
            return _whole(uri, part, file.read(part[1]))
        if limits.size is None:
            return file.read()
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            limits.check(status.st_size)
            return file.read()
        content = file.read(limits.size + 1)  # a device or a pipe may never end
        limits.check(len(content))
        return content


def _whole(uri: str, part: tuple[int, int], content: bytes) -> bytes:
    """`content`, if it is all of `part`."""
    offset, size = part
    if len(content) != size:
        raise StorageError(
            f"{public(uri)}: ends at {offset + len(content):,} bytes, {offset + size:,} expected; "
            "it has changed since it was indexed, or is cut off"
        )
    return content
