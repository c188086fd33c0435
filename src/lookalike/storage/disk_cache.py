"""A cache of remote images on this machine, shared by any number of processes.

An entry is a file named by the hash of its address, which begins with the size and the checksum of
its content: damaged entries are fetched again. The file `size` holds the bytes of all entries and
is the lock too. Room is reserved there before a byte is written: an unfinished file has its full
length from the start and is locked by its writer, so that a sweep counts it. A killed process
leaves too large a number at worst, until the next sweep, which does not count unlocked files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike import storage
from lookalike.errors import ConfigError, reason_of
from lookalike.log import logger
from lookalike.storage.download import ByteRange
from lookalike.storage.file_lock import is_locked
from lookalike.storage.local_files import local_folder

_FOLDER = "lookalike-images-1"  # the number of the entries' form
_NAME = re.compile(r"^[0-9a-f]{40}$")
_PARTIAL = ".aside-"
_HEAD = struct.Struct("<QI")  # size and CRC-32 of the content
_SWEPT_TO = 0.9  # of the limit, so that not each new entry needs a sweep
_LEFT_BEHIND_SECONDS = 600.0  # after which an unlocked file is not being written


class DiskCache:
    """The content of remote files and parts of files, within a limit.

    Least recently used entries make room for new ones, except those that were used since this
    object was made: otherwise, of a list larger than the limit, each image would be evicted before
    it is read again.

    Args:
        folder: any folder; the cache makes one of its own in it.
        limit: bytes, of all entries together.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder = local_folder(folder, "the cache of images (data.cache)") / _FOLDER
        self.limit = limit
        self._numbers = itertools.count()
        self._mutex = threading.Lock()
        self._giving_up = False  # no room for more entries
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._size_file = os.open(self.folder / "size", os.O_RDWR | os.O_CREAT, 0o666)
            os.utime(self._size_file)
            # By the clock of the entries' times, which is not the one of time.time().
            self._began = os.fstat(self._size_file).st_mtime_ns
            with self._locked():
                self._total()
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be the cache of images: "
                f"{reason_of(error, type(error).__name__)}; choose another data.cache"
            ) from None

    def __del__(self) -> None:
        if hasattr(self, "_size_file"):
            os.close(self._size_file)

    def has(self, uri: str, part: ByteRange) -> bool:
        """True if there is an entry, damaged or not."""
        return os.path.exists(self.entry_path(uri, part))

    def get(self, uri: str, part: ByteRange) -> bytes | None:
        """The content; None without an entry, or with a damaged one."""
        place = self.entry_path(uri, part)
        try:
            with open(place, "rb", buffering=0) as file:
                entry = file.read()
            content = entry[_HEAD.size :]
            if entry[: _HEAD.size] == _head(place, content):
                os.utime(place)
                return content
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        logger.warning("%s: damaged in the cache (%s); fetched again", storage.public(uri), place)
        self._remove(place, len(entry))
        return None

    def put(self, uri: str, part: ByteRange, content: bytes) -> None:
        """Keep `content`, if there is room for it or room can be made."""
        size = _HEAD.size + len(content)
        place = self.entry_path(uri, part)
        try:
            partial = None if self._giving_up else self._reserve(size)
            if partial is None:
                return
            with partial:
                try:
                    partial.write(_head(place, content))
                    partial.write(content)
                    partial.flush()
                    os.makedirs(os.path.dirname(place), exist_ok=True)
                    self._keep(partial.name, place)
                except BaseException:
                    self._remove(partial.name, size)
                    raise
        except OSError as error:
            self._giving_up = True
            self._warn(error)

    def entry_path(self, uri: str, part: ByteRange) -> str:
        key = f"{storage.address(uri)}\n{part}"
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return f"{self.folder}/{name[:2]}/{name}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude the other threads and processes that use the folder."""
        with self._mutex:
            fcntl.flock(self._size_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._size_file, fcntl.LOCK_UN)

    def _total(self) -> int:
        """Bytes of all entries; locked."""
        text = os.pread(self._size_file, 32, 0)
        if not text.strip().isdigit():  # a new folder, or edited by hand
            entries = sum(size for _, size, _ in self._entries())
            self._set_total(entries + self._being_written())
            return self._total()
        return int(text)

    def _set_total(self, total: int) -> None:
        os.pwrite(self._size_file, b"%-31d\n" % max(total, 0), 0)

    def _reserve(self, size: int) -> IO[bytes] | None:
        """A locked file of `size` bytes to write to, counted already; None without room for it."""
        with self._locked():
            total = self._total()
            if total + size > self.limit:
                total = self._sweep(int(_SWEPT_TO * self.limit) - size)
                self._set_total(total)
            if total + size > self.limit:
                # Entries in use by other processes cannot make room either.
                self._giving_up = size <= self.limit // 10
                return None
            name = f"{self.folder}/{_PARTIAL}{os.getpid()}-{id(self)}-{next(self._numbers)}"
            partial = open(name, "wb")  # noqa: SIM115  # the caller closes it
            try:
                fcntl.flock(partial, fcntl.LOCK_EX)  # until it is closed
                partial.truncate(size)
            except BaseException:
                partial.close()
                os.unlink(name)
                raise
            self._set_total(total + size)
            return partial

    def _keep(self, partial: str, place: str) -> None:
        """Make a written file an entry; it may replace one of the same address."""
        with self._locked():
            replaced = 0
            with contextlib.suppress(FileNotFoundError):
                replaced = os.stat(place).st_size
            os.replace(partial, place)
            self._set_total(self._total() - replaced)

    def _sweep(self, goal: int) -> int:
        """Remove least recently used entries down to `goal` bytes; returns the bytes that stay."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries) + self._being_written()
        for used, size, path in entries:
            if total <= goal or used >= self._began:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """Last use in ns, bytes and path of each entry."""
        for outer in os.scandir(self.folder):
            if len(outer.name) == 2 and outer.is_dir():
                for entry in os.scandir(outer.path):
                    if _NAME.match(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat()
                            yield status.st_mtime_ns, status.st_size, entry.path

    def _being_written(self) -> int:
        """Bytes of the files that are being written; those of killed processes are removed."""
        total = 0
        for entry in os.scandir(self.folder):
            if entry.name.startswith(_PARTIAL):
                with contextlib.suppress(FileNotFoundError), open(entry.path, "rb") as file:
                    status = os.fstat(file.fileno())
                    if is_locked(file):
                        total += status.st_size
                    elif time.time() - status.st_mtime > _LEFT_BEHIND_SECONDS:
                        os.unlink(entry.path)
        return total

    def _remove(self, place: str, size: int) -> None:
        """Remove a file that was counted with `size` bytes."""
        with self._locked(), contextlib.suppress(FileNotFoundError):
            os.unlink(place)
            self._set_total(self._total() - size)

    def _warn(self, error: OSError) -> None:
        logger.warning(
            "%s: the cache of images fails (%s); images are fetched instead",
            self.folder, reason_of(error, type(error).__name__),
        )  # fmt: skip


def _head(place: str, content: bytes) -> bytes:
    """The head of an entry; its checksum depends on the name too."""
    name = place.rsplit("/", 1)[1].encode()
    return _HEAD.pack(len(content), zlib.crc32(content, zlib.crc32(name)))
