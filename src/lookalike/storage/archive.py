"""ZIP archives as folders: `photos.zip`, `photos.zip/cat`, `photos.zip/cat/1.jpg`.

Nothing is unpacked to a disk: the directory of an archive is read once in a process, and an entry
by one read of the bytes from its header to the next entry's. An unpacked entry is bounded by the
size that the directory states and by `MOST_BYTES`.
"""

from __future__ import annotations

import os
import posixpath
import re
import struct
import threading
import zipfile
import zlib
from functools import lru_cache
from typing import NamedTuple

from lookalike.errors import StorageError
from lookalike.storage.client_registry import client_of
from lookalike.storage.stream import stream_of
from lookalike.storage.uri import is_remote, local_path, public, split_query

MOST_BYTES = 256 * 2**20
"""The largest entry that is unpacked."""

_END = re.compile(r"\.zip(?=/|$)", re.IGNORECASE)
_HEADER = struct.Struct("<4s22xHH")  # of an entry: signature, lengths of name and extra field
_STORED, _DEFLATED = 0, 8
_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz", 98: "PPMd"}
_TRAILER = 1 << 17  # most bytes of an entry beside its content: header, name, extra field, sizes

_lock = threading.Lock()


class ArchiveEntry(NamedTuple):
    """A file in an archive.

    Attributes:
        offset: of its header in the archive.
        span: bytes from there to the end of its content, or some more.
        size: unpacked.
        method: the number of the compression method.
        encrypted: True if a password is needed.
    """

    offset: int
    span: int
    size: int
    method: int
    checksum: int
    encrypted: bool


class ArchivePath(NamedTuple):
    """Path or URI of an archive, and the name of a file or folder in it, "" for the whole."""

    archive: str
    name: str


def may_lead_in(uri: str) -> bool:
    """True if `uri` looks like a place in an archive, by its text alone."""
    return ".zip/" in uri.lower()


def is_archive(uri: str) -> bool:
    """True if `uri` is named like an archive."""
    name = split_query(uri)[0] if is_remote(uri) else uri
    return name.rstrip("/").lower().endswith(".zip")


def find(uri: str) -> ArchivePath | None:
    """The place in an archive that `uri` names; None where there is no such archive.

    `photos.zip` itself leads into it too.
    """
    if ".zip" not in uri.lower():
        return None
    remote = is_remote(uri)
    path, query = split_query(uri) if remote else (local_path(uri), "")
    for end in _END.finditer(path):
        place = path[: end.end()] + query
        if _is_object(place) if remote else os.path.isfile(place):
            name = posixpath.normpath(path[end.end() :].lstrip("/") or ".")
            return ArchivePath(place, "" if name == "." else name)
    return None


def entry_of(uri: str) -> tuple[str, ArchiveEntry] | None:
    """The archive and the entry that `uri` names; None where `uri` is not in an archive.

    A name that leads out of the archive (`../a.jpg`) is none of its files.

    Raises:
        FileNotFoundError: the archive has no such file.
        StorageError: the archive cannot be read.
    """
    found = find(uri)
    if found is None or not found.name:
        return None
    entry = _entries(found.archive).get(found.name)
    if entry is None or leads_out(found.name):
        raise FileNotFoundError(found.name)
    return found.archive, entry


def is_file(found: ArchivePath) -> bool:
    """True if a place in an archive is a file.

    Raises:
        StorageError: the archive cannot be read.
    """
    return found.name in _entries(found.archive) and not leads_out(found.name)


def leads_out(name: str) -> bool:
    """True for the name of an entry outside of the folder of its archive."""
    return name.startswith(("/", "../"))


def names_below(found: ArchivePath) -> list[str]:
    """The paths of all files below a place in an archive, relative to it; some may `leads_out`.

    Raises:
        StorageError: the archive cannot be read.
    """
    start = f"{found.name}/" if found.name else ""
    names = _entries(found.archive)
    return [name[len(start) :] for name in names if name.startswith(start)]


def unpacked(place: str, entry: ArchiveEntry, packed: bytes) -> bytes:
    """The content of an entry, from the bytes of its span; errors name `place`.

    Raises:
        StorageError: it is damaged, too large, encrypted, or compressed in another way.
    """
    if reason := refusal(entry):
        raise StorageError(f"{place}: {reason}")
    if len(packed) < _HEADER.size or packed[:4] != b"PK\3\4":
        raise StorageError(f"{place}: damaged (no entry of a ZIP archive where one should be)")
    _, name, extra = _HEADER.unpack_from(packed)
    start = _HEADER.size + name + extra
    if entry.method == _STORED:
        content = packed[start : start + entry.size]
    else:
        try:
            content = zlib.decompressobj(-15).decompress(packed[start:], entry.size + 1)
        except zlib.error:
            raise StorageError(f"{place}: damaged in the archive; write it again") from None
    if len(content) != entry.size or zlib.crc32(content) != entry.checksum:
        raise StorageError(f"{place}: damaged in the archive (wrong checksum); write it again")
    return content


def refusal(entry: ArchiveEntry) -> str:
    """The reason why an entry cannot be read, and the fix; "" if it can."""
    if entry.encrypted:
        return "encrypted in the archive; write the archive without a password"
    if entry.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        return f"compressed by {method} in the archive; write it stored or deflated"
    if entry.size > MOST_BYTES:
        return f"unpacks to {entry.size / 2**20:,.0f} MB, more than {MOST_BYTES >> 20} MB"
    return ""


def _entries(archive: str) -> dict[str, ArchiveEntry]:
    """The files of an archive by name; read once for each state of a local file."""
    state: tuple[int, ...] = ()
    if not is_remote(archive):
        status = os.stat(archive)
        state = status.st_size, status.st_mtime_ns
    with _lock:  # one thread reads it, the others wait
        return _read(archive, state)


@lru_cache(maxsize=32)
def _read(archive: str, state: tuple[int, ...]) -> dict[str, ArchiveEntry]:
    place = public(archive)
    try:
        stream = stream_of(archive) if is_remote(archive) else open(archive, "rb")  # noqa: SIM115
        with stream, zipfile.ZipFile(stream) as opened:
            return _directory(opened, place)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise StorageError(f"{place}: not a whole ZIP archive ({error})") from None


def _directory(opened: zipfile.ZipFile, place: str) -> dict[str, ArchiveEntry]:
    """The files of an opened archive, in the order of their names.

    Of several with the very same name, the last one is the file.

    Raises:
        StorageError: entries overlap, or two names are one path.
    """
    infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in infos), opened.start_dir][1:]
    found: dict[str, ArchiveEntry] = {}
    written: dict[str, str] = {}
    for info, end in zip(infos, ends, strict=True):
        span = end - info.header_offset
        if span < _HEADER.size + info.compress_size:
            # Entries that share bytes are how a small archive holds petabytes.
            raise StorageError(f"{place}: its entries overlap; write the archive again")
        if info.filename and not info.filename.endswith("/"):
            name = posixpath.normpath(info.filename.replace("\\", "/"))
            other = written.setdefault(name, info.filename)
            if other != info.filename:
                raise StorageError(
                    f"{place}: the entries {other!r} and {info.filename!r} are one path; write the "
                    "archive again with one of them, or other names"
                )
            found[name] = ArchiveEntry(
                offset=info.header_offset,
                span=min(span, info.compress_size + _TRAILER),
                size=info.file_size,
                method=info.compress_type,
                checksum=info.CRC,
                encrypted=bool(info.flag_bits & 1),
            )
    return dict(sorted(found.items()))


@lru_cache(maxsize=256)
def _is_object(uri: str) -> bool:
    """True if there is a remote file of this very name."""
    try:
        return client_of(uri).describe(uri).get("type", "file") == "file"
    except FileNotFoundError:
        return False
