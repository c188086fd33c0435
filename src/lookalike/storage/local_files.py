"""Local files: digests, modes, and errors of the system in words."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import ConfigError, LookalikeError, RunError, StorageError, reason_of
from lookalike.storage.uri import Place, is_remote, local_path, path_of, public

Opener = Callable[[str, int], int]
"""Of `open`: the descriptor of a path, by flags."""

_OS_ERROR = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
"""Number of a system's error, as errors of safetensors (Rust) and Arrow (C++) name it."""


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(file: Place) -> str:
    """The text of a file in UTF-8.

    Raises:
        ConfigError: it cannot be read, is elsewhere, or is no such text.
    """
    refuse_remote(file)
    try:
        return path_of(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: {reason_of(error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None


def regular_file(path: str, flags: int) -> int:
    """Descriptor of a regular file, as an opener of `open`; waits for no other end of a pipe.

    Raises:
        StorageError: it is a pipe, a socket or a device.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise StorageError(f"{path}: is a socket, not a file") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` refuses a folder itself
        return descriptor
    os.close(descriptor)
    kind = "named pipe" if stat.S_ISFIFO(mode) else "device"
    raise StorageError(f"{path}: is a {kind}, not a file")


def refuse_remote(file: Place) -> None:
    """Refuse the address of a file that is read from this machine only."""
    if is_remote(str(file)):
        raise ConfigError(
            f"{public(str(file))}: an address, where a file of this machine is expected; copy it "
            "here, and give the copy"
        )


def local_folder(place: Place, use: str) -> Path:
    """The path of a folder that is written on this machine; `use` names it, as "the cache".

    Raises:
        ConfigError: it is an address.
    """
    if is_remote(str(place)):
        raise ConfigError(
            f"{public(str(place))}: an address, where {use} is on this machine; give a path"
        )
    return path_of(place)


def make_folder(folder: Path, place: Place | None = None) -> None:
    """Make a folder, and those above it.

    Raises:
        RunError: it cannot be made; with its name as the user gave it, `place`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{place or folder}: cannot be made: {reason_of(error)}") from None


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Give the file `path`, written in the block, the mode of any new file, set by the umask.

    safetensors makes its files through a temporary one that only their owner may read.
    """
    path.open("wb").close()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield
    path.chmod(mode)


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Name the local file or folder `place` in errors of a block that writes to it.

    Raises:
        StorageError: the system refused: the disk is full, may not be written to, ...
    """
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise StorageError(str(LookalikeError.of_system(error) or error)) from error
        reason = refused(error) or _full(Path(local_path(str(place))))
        if reason is None:
            raise
        raise StorageError(f"{place}: cannot be written: {reason}") from error


def refused(error: BaseException) -> str | None:
    """The reason of a system error, in lower case; None for other errors.

    Libraries wrap such errors in classes of their own, with the number in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _OS_ERROR.search(str(error))):
        number = int(found[1])
    if number is not None and number in errno.errorcode:
        return os.strerror(number).lower()
    return None


def _full(path: Path) -> str | None:
    """The reason if the disk of `path` is full: errors of NumPy and torch do not state it."""
    folder = next((each for each in (path, *path.parents) if each.is_dir()), None)
    if folder is not None and os.statvfs(folder).f_bavail == 0:
        return os.strerror(errno.ENOSPC).lower()
    return None
