"""Features of a list's images on disk, in parts that are written once and mapped into memory.

    <folder>/about.json            what they are features of
    <folder>/part-00003.npy        (rows of the part, K, C) float32
    <folder>/part-00003.bad.json   row -> reason of its images that cannot be read, where there are

A part appears when it is whole, so that an interrupted computation continues with those that are
missing. Reading takes the pages that are asked for, and no memory beyond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike import storage
from lookalike.errors import StorageError
from lookalike.storage.atomic import replacing
from lookalike.storage.local_files import writing

_PARTS = 256  # of a long list: enough to share among workers
_LARGEST = 64 * 2**20  # bytes of a part, which its writer has in memory


class FeatureParts:
    """Features (count, K, C) float32 of the images of a list.

    Attributes:
        rows: images of a part but the last, a multiple of `batch_size`.
        bad: row -> reason of images that cannot be read, known after `open`; their features are
            zeros.
    """

    def __init__(self, folder: Path, count: int, shape: tuple[int, int], batch_size: int) -> None:
        """Prepare; nothing is read or written."""
        self.folder, self.count, self.shape = folder, count, shape
        batches = -(-count // batch_size)
        most = max(1, _LARGEST // (4 * batch_size * shape[0] * shape[1]))
        self.rows = batch_size * min(most, max(4, -(-batches // _PARTS)))
        self.bad: dict[int, str] = {}
        self._arrays: list[np.ndarray] = []

    def __len__(self) -> int:
        """Number of parts."""
        return -(-self.count // self.rows)

    def rows_of(self, part: int) -> range:
        """Rows of a part."""
        return range(part * self.rows, min((part + 1) * self.rows, self.count))

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return 4 * self.count * self.shape[0] * self.shape[1]

    def missing(self) -> list[int]:
        """Parts that have yet to be written."""
        return [part for part in range(len(self)) if self._mapped(part) is None]

    def create(self, about: Mapping[str, Any]) -> None:
        """Make the folder, with a description for people.

        Raises:
            StorageError: it cannot be made.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(about, indent=1) + "\n"
            storage.write_text(self.folder / "about.json", text)

    def write(self, part: int, values: np.ndarray, bad: Mapping[int, str]) -> None:
        """Write a part, with the reasons of its rows that cannot be read.

        Raises:
            StorageError: the disk refuses.
        """
        assert values.shape == (len(self.rows_of(part)), *self.shape), values.shape
        with writing(self.folder):
            if bad:  # before the part, which makes it whole
                with replacing(self._path(part, "bad.json"), shared=True) as partial:
                    partial.write_text(json.dumps({str(row): bad[row] for row in bad}), "utf-8")
            with (
                replacing(self._path(part, "npy"), shared=True) as partial,
                partial.open("wb") as file,
            ):
                np.save(file, values.astype(np.float32, copy=False), allow_pickle=False)

    def open(self) -> None:
        """Map all parts.

        Raises:
            StorageError: one is missing or broken.
        """
        arrays: list[np.ndarray] = []
        bad: dict[int, str] = {}
        for part in range(len(self)):
            mapped = self._mapped(part)
            if mapped is None:
                raise StorageError(
                    f"{self._path(part, 'npy')}: is missing or broken: something else changed the "
                    "folder of the features; start again with --resume"
                )
            arrays.append(mapped)
            bad |= self._bad_of(part)
        self._arrays, self.bad = arrays, bad

    def take(self, rows: np.ndarray) -> Tensor:
        """Features (b, K, C) of `rows` (b,), in memory."""
        found = np.empty((len(rows), *self.shape), np.float32)
        parts, places = np.divmod(rows, self.rows)
        for part in np.unique(parts):
            here = parts == part
            found[here] = self._arrays[part][places[here]]
        return torch.from_numpy(found)

    def _path(self, part: int, suffix: str) -> Path:
        return self.folder / f"part-{part:05d}.{suffix}"

    def _mapped(self, part: int) -> np.ndarray | None:
        """A part as it is on disk; None where it is not, or not as it was written."""
        try:
            found = np.load(self._path(part, "npy"), mmap_mode="r", allow_pickle=False)
            self._bad_of(part)
        except (OSError, ValueError, EOFError):  # an empty file is the last
            return None
        whole = (len(self.rows_of(part)), *self.shape)
        return found if found.shape == whole and found.dtype == np.float32 else None

    def _bad_of(self, part: int) -> dict[int, str]:
        path = self._path(part, "bad.json")
        if not path.exists():
            return {}
        return {int(row): str(reason) for row, reason in json.loads(path.read_bytes()).items()}
