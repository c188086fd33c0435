"""Checksums of an index's files, so that damaged bytes are found when they are read.

A file that is read as a whole has a SHA-256 in the manifest. One that is mapped into memory has a
CRC-32 for each `BLOCK` bytes in a file of its own beside it, `NAME.sums`, whose SHA-256 is in the
manifest: a block is checked when it is read for the first time, so that opening a large index
stays fast, and a search reads no more of the disk than before. CRC-32 finds every flipped bit and
every run of up to 32 damaged bits, at several times the speed of SHA-256.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import RunError
from lookalike.storage.local_files import digest_of

BLOCK = 65536
"""Bytes of a block."""

CHECKED_AT_ONCE = 16 * 2**20
"""Bytes of a mapped file up to which all of it is checked when it is opened."""

FIX = "restore the index from a copy, or remove its folder and build it again"


def digest(content: Any) -> str:
    """The SHA-256 of bytes or of any buffer."""
    return hashlib.sha256(content).hexdigest()


def check(path: Path, content: Any, expected: str | None) -> None:
    """Compare a file's content with its SHA-256; files of older indexes have none.

    Raises:
        RunError: it is damaged.
    """
    if expected is not None and digest(content) != expected:
        raise RunError(f"{path}: damaged: its content is not what was written; {FIX}")


def check_file(path: Path, expected: str | None) -> None:
    """`check` of a file that is not in memory.

    Raises:
        RunError: it is damaged.
    """
    if expected is not None and digest_of(path) != expected:
        raise RunError(f"{path}: damaged: its content is not what was written; {FIX}")


def sums_file(path: Path) -> Path:
    """The file with the checksums of a mapped file."""
    return path.with_name(path.name + ".sums")


def write_sums(path: Path) -> Path:
    """Write the checksums of a file that has just been written."""
    data = np.memmap(path, np.uint8, "r")
    count = -(-len(data) // BLOCK)
    sums = [zlib.crc32(data[at * BLOCK : (at + 1) * BLOCK].data) for at in range(count)]
    beside = sums_file(path)
    beside.write_bytes(np.array(sums, "<u4").tobytes())
    return beside


class CheckedArray:
    """Rows of a `.npy` file that is mapped into memory, each checked before its first use.

    Threads may read at the same time: a block may then be checked twice, never left out. Files of
    older indexes have no `sums`, the CRC-32 of each block, and are not checked.
    """

    def __init__(self, path: Path, array: np.ndarray, sums: np.ndarray | None) -> None:
        self._path = path
        self._array = array
        self._sums = sums
        self.shape = array.shape
        if sums is None:
            return
        self._file = np.memmap(path, np.uint8, "r")
        if len(sums) != -(-len(self._file) // BLOCK):
            raise RunError(f"{path}: damaged: {len(self._file):,} bytes; {FIX}")
        self._start = len(self._file) - array.nbytes
        self._row = array.nbytes // len(array) if len(array) else 0
        self._unchecked = np.ones(len(sums), bool)
        self._left = len(sums)
        self._check(np.arange(1))  # the header
        if len(self._file) <= CHECKED_AT_ONCE:
            self.check()

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: slice | np.ndarray | int) -> np.ndarray:
        """Some rows, as NumPy indexes them; a slice is a view.

        Raises:
            RunError: a block that they lie in is damaged.
        """
        if self._sums is not None and self._left:
            self._check(self._blocks(key))
        return self._array[key]

    def check(self) -> np.ndarray:
        """All rows.

        Raises:
            RunError: a block is damaged.
        """
        if self._sums is not None and self._left:
            self._check(np.arange(len(self._sums)))
        return self._array

    def _blocks(self, key: slice | np.ndarray | int) -> np.ndarray:
        """The blocks that hold these rows."""
        if isinstance(key, slice):
            begin, end, _ = key.indices(len(self._array))
            first = (self._start + begin * self._row) // BLOCK
            return np.arange(first, -(-(self._start + end * self._row) // BLOCK))
        rows = np.atleast_1d(np.asarray(key)).astype(np.int64)
        firsts = (self._start + rows * self._row) // BLOCK
        lasts = (self._start + (rows + 1) * self._row - 1) // BLOCK
        most = int((lasts - firsts).max(initial=0))
        found = [np.minimum(firsts + more, lasts) for more in range(most + 1)]
        return np.unique(np.concatenate(found))

    def _check(self, blocks: np.ndarray) -> None:
        assert self._sums is not None
        for block in blocks[self._unchecked[blocks]].tolist():
            begin = block * BLOCK
            if zlib.crc32(self._file[begin : begin + BLOCK].data) != self._sums[block]:
                end = min(begin + BLOCK, len(self._file))
                raise RunError(
                    f"{self._path}: damaged: bytes {begin:,} to {end:,} are not what was written; "
                    f"{FIX}"
                )
            self._unchecked[block] = False
        self._left = int(np.count_nonzero(self._unchecked))
