"""Writing of files, local and remote: whole or not at all, and verified afterwards."""

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import IO

from lookalike.errors import StorageError
from lookalike.storage.atomic import replacing
from lookalike.storage.client_registry import client_of
from lookalike.storage.download import TransferError
from lookalike.storage.retry import refusal, retrying
from lookalike.storage.stream import stream_of
from lookalike.storage.uri import Place, is_remote, path_of, public

_MD5 = re.compile(r"^[0-9a-f]{32}$")
_RETRIES = 2
# The names of versions in the clients' descriptions.
_VERSION = ("ETag", "etag", "LastModified", "mtime", "created", "size")


def write_bytes(uri: str, data: bytes) -> None:
    """Make `data` the content of `uri`.

    Raises:
        StorageError: it could not be written, or is not there afterwards.
    """
    if not is_remote(uri):

        def act() -> None:
            with replacing(path_of(uri), shared=True) as partial:
                partial.write_bytes(data)

        retrying(act, uri, 0)
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        copy = Path(folder) / "data"
        copy.write_bytes(data)
        write_file(copy, uri)


def write_text(place: Place, text: str) -> None:
    """Make `text`, in UTF-8, the content of `place`; see `write_bytes`."""
    write_bytes(os.fspath(place), text.encode("utf-8", "surrogateescape"))


def write_file(local: str | Path, uri: str) -> None:
    """Copy a file of this machine to `uri`, in parts where it is large.

    Raises:
        StorageError: it could not be written, or is not there afterwards.
    """
    if not is_remote(uri):
        write_bytes(uri, Path(local).read_bytes())
        return
    retrying(lambda: _put(str(local), uri), uri, _RETRIES)


def fetch_file(uri: str, local: Path, size: int | None = None) -> None:
    """Copy remote `uri` to the file `local`, which appears when it is whole.

    Its size must be `size` bytes, or by default those that the storage states.

    Raises:
        StorageError: it cannot be read, or has another size.
    """

    def get() -> None:
        expected = client_of(uri).describe(uri)["size"] if size is None else size
        with partial.open("wb") as file:
            client_of(uri).copy_to(file, uri)
        if expected not in (None, partial.stat().st_size):
            raise TransferError(f"{partial.stat().st_size} bytes of {expected} arrived")

    with replacing(local, shared=True) as partial:
        retrying(get, uri, _RETRIES)


def no_such_bucket(uri: str) -> StorageError:
    """The error of writing to a bucket that is not there."""
    return StorageError(
        f"{public(uri)}: cannot be written: no such bucket; make it first, or correct the name"
    )


def remove_file(uri: str) -> None:
    """Remove remote `uri`, if it is there.

    Raises:
        StorageError: the storage refuses.
    """

    def act() -> None:
        with contextlib.suppress(FileNotFoundError):
            client_of(uri).remove(uri)

    retrying(act, uri, _RETRIES)


def sizes_below(uri: str) -> dict[str, int]:
    """The size of each file below a remote folder, by its path relative to it.

    Raises:
        StorageError: it cannot be listed.
    """
    return retrying(lambda: client_of(uri).sizes_below(uri), uri, _RETRIES)


def version_of(uri: str) -> str:
    """A text that changes with the content of remote `uri`: its ETag, time and size.

    Raises:
        StorageError: it cannot be asked for.
    """

    def ask() -> str:
        info = client_of(uri).describe(uri)
        return " ".join(f"{name}={info[name]}" for name in _VERSION if info.get(name) is not None)

    return retrying(ask, uri, _RETRIES)


def _put(local: str, uri: str) -> None:
    size = os.stat(local).st_size
    try:
        client_of(uri).upload(local, uri, size)
    except FileNotFoundError:
        raise no_such_bucket(uri) from None
    except PermissionError as error:
        if refusal(error):  # fsspec's clients raise it for expired tokens too
            raise
        raise StorageError(
            f"{public(uri)}: cannot be written: no permission; the credentials of this machine's "
            "environment must allow writing here"
        ) from None
    info = client_of(uri).describe(uri)
    if info["size"] != size:
        raise TransferError(f"{info['size']} bytes of {size} arrived")
    tag = str(info.get("ETag", "")).strip('"').lower()
    # An ETag is the MD5 only of what was written in one part and not encrypted by a key of the
    # user's; so where it differs, the content itself decides.
    if _MD5.match(tag):
        with open(local, "rb") as file:
            wanted = _md5(file)
        if tag == wanted:
            return
        with stream_of(uri) as content:
            if _md5(content) != wanted:
                raise TransferError("other bytes arrived than were sent")


def _md5(file: IO[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
