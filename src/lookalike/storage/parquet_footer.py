"""Sizes that the footer of a Parquet file claims.

pyarrow has them too, but its `RowGroupMetaData.column` ends the process at some damaged footers
(26.0: an exception of C++ that nothing catches). The footer is the struct FileMetaData of
apache/parquet-format, in Thrift's compact protocol: fields by number, each with its type.
"""

from __future__ import annotations

import struct
from typing import IO, Any, NamedTuple

_END = 8  # bytes after the footer: its length, and PAR1
_DEEPEST = 16


class ColumnChunk(NamedTuple):
    """Claims about a column in a row group.

    Attributes:
        path: its name, with those of what it lies in.
        begin: offset of its first page.
    """

    path: str
    values: int
    uncompressed: int
    compressed: int
    begin: int


class RowGroup(NamedTuple):
    """Claims about a row group."""

    rows: int
    columns: list[ColumnChunk]


class Footer(NamedTuple):
    """Claims about a file."""

    rows: int
    groups: list[RowGroup]


def read_footer(stream: IO[bytes], size: int) -> Footer:
    """The footer of an open file of `size` bytes.

    Raises:
        ValueError: it is damaged.
    """
    if size < _END:
        raise ValueError("cut off")
    stream.seek(size - _END)
    length, magic = struct.unpack("<i4s", stream.read(_END))
    if magic != b"PAR1" or not 0 <= length <= size - _END:
        raise ValueError("no footer")
    stream.seek(size - _END - length)
    try:
        found = _Compact(stream.read(length)).fields()
        groups = [
            RowGroup(_integer(group[3]), [_chunk(column[3]) for column in group[1]])
            for group in found[4]
        ]
        return Footer(_integer(found[3]), groups)
    except (struct.error, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a footer of another form: {error}") from None


def _chunk(about: dict[int, Any]) -> ColumnChunk:
    path = b".".join(about[3]).decode(errors="replace")
    begin = about.get(11) or about[9]  # of the dictionary, or of the data
    return ColumnChunk(path, *map(_integer, (about[5], about[6], about[7], begin)))


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a number is missing")
    return value


class _Compact:
    """Thrift's compact protocol: structs as dicts by the number of a field, lists as lists."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def fields(self, depth: int = 0) -> dict[int, Any]:
        """The next struct."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if kind in (1, 2, 3):  # of a list, a truth value is a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == 8:
            return self._bytes(self._unsigned())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, depth + 1) for _ in range(self._checked(count))]
        if kind == 12:
            return self.fields(depth + 1)
        raise ValueError(f"type {kind}")  # maps: there are none in a footer

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += self._checked(count)
        return self._content[self._at - count : self._at]

    def _checked(self, count: int) -> int:
        """A number of bytes or values, each of a byte at least, that are there."""
        if count > len(self._content) - self._at:
            raise ValueError("cut off")
        return count

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
