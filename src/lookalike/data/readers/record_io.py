"""MXNet's RecordIO (`train.rec`), as the face data sets MS1MV3 and Glint360K come in.

    record   magic 0xced7230a, kind (3 bits) and length (29 bits), content, zeros to a multiple of 4
    content  flag (uint32), label (float32), two ids (uint64), `flag` more labels (float32), image

All numbers are little-endian (dmlc-core `recordio.h`, MXNet `image_recordio.h`). Images are read in
place, by offset and size. A content in which the magic number occurs at a multiple of 4 bytes is
written as several records, without those numbers: such images, a few in a hundred gigabytes, are
joined in the cache (`$LOOKALIKE_CACHE/unpacked`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from lookalike import storage
from lookalike.data.readers.annotation import Annotation, BadRows, MalformedRow
from lookalike.data.record import Member, Record
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError, StorageError, reason_of
from lookalike.storage.atomic import replacing
from lookalike.storage.cache_folder import cache_entry
from lookalike.storage.local_files import regular_file

MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")
_IMAGE = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_AHEAD = _FRAME.size + _IMAGE.size + 4  # bytes read of each record: up to its first further label


def is_record_io(uri: str) -> bool:
    """True for the name of a RecordIO file."""
    return storage.split_query(uri)[0].lower().endswith(".rec")


def read(annotation: Annotation) -> RecordTable:
    """The records of a RecordIO file of images, in their order.

    The label is the first one of the image. Records without an image are skipped: the first one
    of InsightFace's files, and those of its classes. The `.idx` beside the file is not needed.

    Raises:
        StorageError: it is not on this machine, or cannot be read.
        DataError: it is no RecordIO file, is cut off, or holds no images.
    """
    if storage.is_remote(annotation.uri):
        raise StorageError(
            f"{annotation.name}: RecordIO files are read in place; copy it to this machine first"
        )
    path = Path(storage.local_path(annotation.uri))
    bad, records = BadRows(), RecordTable()
    joined: list[bytes] = []  # images that lie in several records
    end = 0  # of the last of them in the cache
    try:
        status = path.stat()
        state = f"{status.st_size}:{status.st_mtime_ns}"
        blob = cache_entry("unpacked", str(path.absolute()), state).with_suffix(".images")
        with open(path, "rb", buffering=0, opener=regular_file) as stream:
            for number, image, first in _images(stream.fileno(), annotation.name):
                try:
                    label = _label(first)
                except MalformedRow as error:
                    bad.add(f"{annotation.name}: record {number}", error)
                    continue
                place = path
                if isinstance(image, bytes):
                    place, member = blob, Member(f"in parts {len(joined)}", end, len(image))
                    joined.append(image)
                    end += len(image)
                else:
                    member = image
                records.append(Record(str(place), label, annotation.name, 0, member))
    except OSError as error:
        reason = reason_of(error, "cannot be read")
        raise StorageError(f"{annotation.name}: {reason}") from None
    if joined and not blob.exists():
        try:
            with replacing(blob, shared=True) as file:
                file.write_bytes(b"".join(joined))
        except OSError as error:
            raise StorageError(
                f"{blob.parent}: images of {path} cannot be joined there: "
                f"{reason_of(error)}; set LOOKALIKE_CACHE to another folder"
            ) from None
    return annotation.finish(records, bad, "holds no images")


def _images(file: int, place: str) -> Iterator[tuple[int, Member | bytes, float]]:
    """Number, place and first label of each image; its bytes where they are not in one piece."""
    offset, number, end = 0, 0, os.fstat(file).st_size
    while offset < end:
        head = os.pread(file, _AHEAD, offset)
        kind, length = _frame(head, offset, end, place)
        if kind == _WHOLE:
            start, label = _content(head[_FRAME.size :], length, place, number)
            if length > start:
                at = offset + _FRAME.size + start
                yield number, Member(str(number), at, length - start), label
            offset += _FRAME.size + -(-length // 4) * 4
        elif kind == _FIRST:
            content, offset = _parts(file, offset, end, place)
            start, label = _content(content, len(content), place, number)
            if len(content) > start:
                yield number, content[start:], label
        else:
            raise DataError(f"{place}: damaged at byte {offset:,}: a part without its beginning")
        number += 1


def _frame(head: bytes, offset: int, end: int, place: str) -> tuple[int, int]:
    """Kind and length of the record that begins at `offset`."""
    if len(head) < _FRAME.size:
        raise DataError(f"{place}: cut off at byte {offset:,}; copy it again")
    magic, word = _FRAME.unpack_from(head)
    if magic != MAGIC:
        what = "no RecordIO file" if offset == 0 else "damaged"
        raise DataError(f"{place}: {what}: no record at byte {offset:,}")
    kind, length = word >> 29, word & (1 << 29) - 1
    if offset + _FRAME.size + length > end:
        raise DataError(f"{place}: cut off within the record at byte {offset:,}; copy it again")
    if kind > _LAST:
        raise DataError(f"{place}: damaged: a record of kind {kind} at byte {offset:,}")
    return kind, length


def _content(head: bytes, length: int, place: str, number: int) -> tuple[int, float]:
    """Start of the image within the content, and its first label."""
    if length < _IMAGE.size:
        raise DataError(f"{place}: record {number} is none of an image ({length} bytes)")
    flag, label, _, _ = _IMAGE.unpack_from(head)
    start = _IMAGE.size + 4 * flag
    if start > length:
        raise DataError(f"{place}: record {number} is damaged: {flag:,} labels in {length} bytes")
    return start, struct.unpack_from("<f", head, _IMAGE.size)[0] if flag else label


def _parts(file: int, offset: int, end: int, place: str) -> tuple[bytes, int]:
    """The content that several records hold, and the offset behind the last of them."""
    parts: list[bytes] = []
    kind = _FIRST
    while kind != _LAST:
        kind, length = _frame(os.pread(file, _FRAME.size, offset), offset, end, place)
        if kind != _FIRST if not parts else kind not in (_MIDDLE, _LAST):
            raise DataError(f"{place}: damaged at byte {offset:,}: parts of a record are missing")
        parts.append(os.pread(file, length, offset + _FRAME.size))
        offset += _FRAME.size + -(-length // 4) * 4
    return struct.pack("<I", MAGIC).join(parts), offset


def _label(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        raise MalformedRow(f"label {value}; write the file again with whole numbers")
    return str(int(value)) if value.is_integer() else str(value)
