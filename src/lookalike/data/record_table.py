"""The records of lists, in a tenth of the memory that Python's objects take, mostly mapped files.

The last rows are records as they are, so that a short list stays a list. Every `BLOCK` rows become
an Arrow stream in a file that is mapped: one in memory up to `IN_MEMORY` rows, then one on the
disk, of which the system keeps in memory what is read. Neither has a name, so that both go with
the last process that has them open, however it ends; the other workers of a machine map the same
file (`data.shared_records`).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain, count, islice, repeat
from typing import IO, Any, overload

import numpy as np
import pyarrow as pa

from lookalike.data.record import Details, Record
from lookalike.data.record_block import RecordBlock, Shared, pack, pack_rows, without_measures
from lookalike.errors import StorageError, reason_of
from lookalike.storage.cache_folder import cache_folder
from lookalike.storage.local_files import writing

BLOCK = 2**16
"""Rows that are packed together: 6 MB."""

IN_MEMORY = 2**22
"""Rows up to which the blocks are in memory: 350 MB."""


class RecordTable(Sequence[Record]):
    """A sequence of records that grows at its end, or some rows of one."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._shared = Shared()
        self._blocks: list[RecordBlock] = []
        self._starts: list[int] = []  # the first row of each block
        self._packed = 0  # rows in blocks
        self._last: list[Record] = []  # those behind the blocks
        self._codes_of_last: dict[str, np.ndarray] = {}  # until there are more
        self._file = _BlockFile(None)
        self._rows: np.ndarray | None = None  # indices of the rows above; None for all of them
        self.extend(records)

    @classmethod
    def of(cls, records: Sequence[Record]) -> RecordTable:
        """These records as a table; a table as it is."""
        return records if isinstance(records, RecordTable) else cls(records)

    def append(self, record: Record) -> None:
        """Add one record."""
        assert self._rows is None
        self._last.append(record)
        if len(self._last) >= BLOCK:
            self._pack()

    def extend(self, records: Iterable[Record]) -> None:
        """Add records."""
        assert self._rows is None
        if isinstance(records, RecordTable) and records._rows is None:
            self._add_blocks(records)
            records = records._last
        waiting = iter(records)
        while more := list(islice(waiting, BLOCK - len(self._last))):
            self._last += more
            if len(self._last) >= BLOCK:
                self._pack()

    def add_rows(
        self, uris: Sequence[str], labels: Sequence[str], source: str, first_line: int
    ) -> None:
        """Add the records of successive lines of a list, without members and details."""
        if len(uris) < BLOCK // 2:
            self.extend(map(Record, uris, labels, repeat(source), count(first_line)))
        else:
            assert self._rows is None
            self._pack()
            self._add(pack_rows(uris, labels, source, first_line, self._shared), len(uris))

    def take(self, rows: np.ndarray) -> RecordTable:
        """The records of some rows, (M,) indices; nothing is copied, and they cannot grow."""
        found = copy(self)
        found._rows = rows if self._rows is None else self._rows[rows]
        if self._total < 2**31:
            found._rows = found._rows.astype(np.int32)
        return found

    @property
    def labels(self) -> list[str]:
        """The labels that `label_codes` are indices of; some may be of no record."""
        self._count_last()
        return self._shared.labels.values

    @property
    def label_codes(self) -> np.ndarray:
        """The first label of each record: (N,) int32 indices of `labels`."""
        return self._codes("label")

    @property
    def details(self) -> list[Details | None]:
        """Values of `details_codes`, without boxes and weights; last None, for -1."""
        self._count_last()
        return [*self._shared.details.values, None]

    @property
    def details_codes(self) -> np.ndarray:
        """The details of each record: (N,) int32 indices of `details`."""
        return self._codes("details")

    def distinct_labels(self) -> set[str]:
        """All labels of the records, further ones too."""
        labels = self.labels
        if self._rows is not None:
            labels = [labels[code] for code in np.unique(self.label_codes).tolist()]
        found = set(labels)
        return found.union(*(one.further_labels for one in self.distinct_details() if one))

    def distinct_details(self) -> list[Details | None]:
        """`details` of the records, each once, in the order of their appearance in the list."""
        details = self.details
        if all(one is None for one in details):
            return [None]
        return [details[code] for code in np.unique(self.details_codes).tolist()]

    @property
    def has_boxes(self) -> bool:
        """True if any record has a box, also of a table of which these are some rows."""
        if any(block.has_boxes for block in self._blocks):
            return True
        return any(record.details and record.details.box for record in self._last)

    def __len__(self) -> int:
        return self._total if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Record]: ...
    def __getitem__(self, row: int | slice) -> Record | Sequence[Record]:
        if isinstance(row, slice):
            return self.take(np.arange(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} records")
        row = row % len(self)
        return self._record(row if self._rows is None else int(self._rows[row]))

    def __iter__(self) -> Iterator[Record]:
        if self._rows is None:
            return chain(chain.from_iterable(self._blocks), self._last)
        return (self._record(row) for start in range(0, len(self), BLOCK)
                for row in self._rows[start : start + BLOCK].tolist())  # fmt: skip

    def uris(self) -> Iterator[str]:
        """The URI of each record."""
        if self._rows is None:
            for block in self._blocks:
                yield from block.uris()
            yield from (record.uri for record in self._last)
        else:
            yield from (record.uri for record in self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def handle(self) -> dict[str, Any]:
        """JSON by which another process of this machine gets the table, with `from_handle`.

        This process must keep the table until then.

        Raises:
            StorageError: the file on the disk cannot be written.
        """
        assert self._rows is None
        self._pack()
        blocks = list(self._file.places)
        self._file.add(self._shared.to_arrow())
        return {
            "process": os.getpid(),
            "file": self._file.fileno(),
            "blocks": blocks,
            "starts": self._starts,
            "rows": self._packed,
            "shared": self._file.places.pop(),
        }

    @classmethod
    def from_handle(cls, handle: dict[str, Any]) -> RecordTable:
        """The table of another process, whose file is mapped here too.

        Raises:
            StorageError: that process has ended, or does not let this one open its files.
        """
        found = cls()
        place = f"/proc/{handle['process']}/fd/{handle['file']}"
        try:
            with open(place, "rb") as file:
                buffers = [_mapped(file, *where) for where in handle["blocks"]]
                shared = _mapped(file, *handle["shared"])
        except OSError as error:
            raise StorageError(
                f"the list that worker {handle['process']} of this machine has read cannot be "
                f"opened: {reason_of(error, 'it is not there')}"
            ) from None
        found._shared = Shared.from_arrow(shared)
        found._blocks = [RecordBlock(buffer, found._shared) for buffer in buffers]
        found._starts, found._packed = handle["starts"], handle["rows"]
        return found

    @property
    def _total(self) -> int:
        """Rows in all, whatever are taken of them."""
        return self._packed + len(self._last)

    def _record(self, row: int) -> Record:
        if row >= self._packed:
            return self._last[row - self._packed]
        block = bisect_right(self._starts, row) - 1
        return self._blocks[block][row - self._starts[block]]

    def _codes(self, name: str) -> np.ndarray:
        self._count_last()
        parts = [*(block.codes(name) for block in self._blocks), self._codes_of_last[name]]
        found = np.concatenate(parts)
        return found if self._rows is None else found[self._rows]

    def _count_last(self) -> None:
        """Have the codes of the last records, and their values among the shared ones."""
        known = self._codes_of_last.get("label")
        if known is None or len(known) < len(self._last):
            labels = (record.label for record in self._last)
            details = (without_measures(record.details) for record in self._last)
            self._codes_of_last["label"] = self._shared.labels.codes(labels)
            self._codes_of_last["details"] = self._shared.details.codes(details)
            self._shared.forget_codes()  # a list that was read seldom grows

    def _add_blocks(self, other: RecordTable) -> None:
        """Add all rows of another table but the last."""
        if other._blocks:
            self._pack()
            codes = self._shared.codes_of(other._shared)
            for block in other._blocks:
                self._add(block.recoded(codes), len(block))

    def _pack(self) -> None:
        if self._last:
            self._add(pack(self._last, self._shared), len(self._last))
        self._last, self._codes_of_last = [], {}

    def _add(self, content: pa.Buffer, rows: int) -> None:
        """Add packed rows; new lists, since tables of some rows share those of before."""
        if self._file.folder is None and self._packed + rows > IN_MEMORY:
            self._file = _BlockFile(cache_folder() / "lists")
            self._blocks = [
                RecordBlock(self._file.add(block.buffer), self._shared) for block in self._blocks
            ]
        self._blocks = [*self._blocks, RecordBlock(self._file.add(content), self._shared)]
        self._starts = [*self._starts, self._packed]
        self._packed += rows


class _BlockFile:
    """A file without a name in a folder, or in memory; nothing is made before the first block."""

    def __init__(self, folder: os.PathLike[str] | None) -> None:
        self.folder = folder
        self.places: list[tuple[int, int]] = []  # offset and size of each block
        self._file: IO[bytes] | None = None

    def fileno(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def add(self, content: pa.Buffer) -> pa.Buffer:
        """The content as it is mapped once it is in the file."""
        end = sum(self.places[-1]) if self.places else 0
        start = -(-end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        place = "memory" if self.folder is None else os.fspath(self.folder)
        try:
            with writing(place):
                self._file = self._file or self._made()
                _write(self._file.fileno(), memoryview(content), start)
        except StorageError as error:
            raise StorageError(
                f"a list of more than {IN_MEMORY:,} images is kept in the cache: {error}; set "
                "LOOKALIKE_CACHE to another folder"
            ) from None
        self.places.append((start, content.size))
        return _mapped(self._file, start, content.size)

    def _made(self) -> IO[bytes]:
        if self.folder is None and hasattr(os, "memfd_create"):
            return open(os.memfd_create("lookalike-list"), "r+b", buffering=0)
        folder = self.folder or cache_folder() / "lists"
        os.makedirs(folder, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder, buffering=0)


def _write(file: int, content: memoryview, start: int) -> None:
    while content:
        written = os.pwrite(file, content, start)
        content, start = content[written:], start + written


def _mapped(file: IO[bytes], start: int, size: int) -> pa.Buffer:
    return pa.py_buffer(mmap.mmap(file.fileno(), size, offset=start, access=mmap.ACCESS_READ))
