"""Bytes to anywhere: whole or not at all, and looked at again before they count as written."""

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import IO

from lookalike.errors import StorageError
from lookalike.storage import s3
from lookalike.storage.clients import check_scheme, filesystem_of, oss_place
from lookalike.storage.download import TransferError
from lookalike.storage.get_request import copy_to
from lookalike.storage.listing import described, sizes_in
from lookalike.storage.retry import refusal, retrying
from lookalike.storage.stream import stream_of
from lookalike.storage.uri import is_remote, local_path, public, scheme_of

_MD5 = re.compile(r"^[0-9a-f]{32}$")
_RETRIES = 2
_IN_PARTS = 100 * 2**20  # bytes from which on a file goes in parts to OSS
# What the clients of the several storages call it.
_VERSION = ("ETag", "etag", "LastModified", "mtime", "created", "size")


def check_writable(uri: str) -> None:
    """Refuse what no file can be written to, before the work whose result goes there.

    Raises:
        StorageError: `uri` is of a web server, or of a storage that is not supported.
    """
    if not is_remote(uri):
        return
    check_scheme(uri)
    if scheme_of(uri) in ("http", "https"):
        raise StorageError(
            f"{public(uri)}: nothing can be written to a web server; give a path of this machine, "
            "or a URI in object storage"
        )


def write_bytes(uri: str, data: bytes) -> None:
    """Make `data` the content of `uri`.

    Raises:
        StorageError: it could not be written, or is not there afterwards.
    """
    if not is_remote(uri):
        retrying(lambda: _replace(Path(local_path(uri)), data), uri, 0)
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        aside = Path(folder) / "data"
        aside.write_bytes(data)
        write_file(aside, uri)


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
    """Copy remote `uri` to the file `local`, which appears only when it is whole.

    Args:
        uri: the file.
        local: where to; its folder is made.
        size: bytes that it must have; None for what the storage says.

    Raises:
        StorageError: it cannot be read, or has another size.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    aside = local.with_name(f".{local.name}.{os.getpid()}.partial")

    def get() -> None:
        expected = described(uri)["size"] if size is None else size
        with aside.open("wb") as file:
            copy_to(file, uri)
        if aside.stat().st_size != expected:
            raise TransferError(f"{aside.stat().st_size} bytes of {expected} arrived")

    try:
        retrying(get, uri, _RETRIES)
        aside.replace(local)
    finally:
        aside.unlink(missing_ok=True)


def remove_file(uri: str) -> None:
    """Remove remote `uri`; one that is not there is removed already.

    Raises:
        StorageError: the storage refuses.
    """

    def act() -> None:
        with contextlib.suppress(FileNotFoundError):
            if scheme_of(uri) == "oss":
                bucket, key = oss_place(uri)
                bucket.delete_object(key)
                return
            filesystem, path = filesystem_of(uri)
            if scheme_of(uri) in ("s3", "s3a"):
                bucket, key = s3.locate(uri)
                filesystem.call_s3("delete_object", Bucket=bucket, Key=key)
            else:
                filesystem.rm_file(path)
                filesystem.invalidate_cache()

    retrying(act, uri, _RETRIES)


def sizes_below(uri: str) -> dict[str, int]:
    """The size of each file below a remote folder, by its path relative to it.

    What was listed before is not remembered: another machine may have written since.

    Raises:
        StorageError: it cannot be listed.
    """
    return retrying(lambda: sizes_in(uri), uri, _RETRIES)


def version_of(uri: str) -> str:
    """A text that changes when the content of remote `uri` does: its ETag, time and size.

    Raises:
        StorageError: it cannot be asked for.
    """

    def ask() -> str:
        info = described(uri)  # not fsspec's `ukey`, which not all of its clients answer
        return " ".join(f"{name}={info[name]}" for name in _VERSION if info.get(name) is not None)

    return retrying(ask, uri, _RETRIES)


def _put(local: str, uri: str) -> None:
    size = os.stat(local).st_size
    try:
        _send(local, uri, size)
    except FileNotFoundError:
        raise StorageError(
            f"{public(uri)}: cannot be written: no such bucket; make it first, or correct the name"
        ) from None
    except PermissionError as error:
        if refusal(error):  # s3fs says this of expired tokens too
            raise
        raise StorageError(
            f"{public(uri)}: cannot be written: no permission; the credentials of this machine's "
            "environment must allow writing here"
        ) from None
    info = described(uri)
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


def _send(local: str, uri: str, size: int) -> None:
    if scheme_of(uri) == "oss":
        import oss2
        import oss2.exceptions

        bucket, key = oss_place(uri)
        try:
            if size >= _IN_PARTS:
                with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
                    notes = oss2.ResumableStore(root=folder)
                    oss2.resumable_upload(bucket, key, local, store=notes)
            else:
                bucket.put_object_from_file(key, local)
        except oss2.exceptions.NoSuchBucket as error:
            raise FileNotFoundError(bucket.bucket_name) from error
        except oss2.exceptions.AccessDenied as error:
            raise PermissionError(key) from error
        return
    if scheme_of(uri) in ("s3", "s3a") and "?versionId=" in uri:
        raise StorageError(
            f"{public(uri)}: cannot be written: the client of S3 cuts a key at '?versionId='; "
            "choose another name"
        )
    filesystem, path = filesystem_of(uri)
    filesystem.put_file(local, path)


def _md5(file: IO[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own: several processes may write the same file of a cache.
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # it could not be made
            aside.unlink()
        raise
