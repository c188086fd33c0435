"""Loaders of images in order, each once, without randomness: for evaluation and use."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lookalike.data.decoding.crop_box import decode_record
from lookalike.data.decoding.decode import BadImage
from lookalike.data.loading.bad_images import BadImages, image_fault
from lookalike.data.loading.batch import Batch, empty_images
from lookalike.data.loading.image_source import PLAIN, Source, read_twice
from lookalike.data.loading.pipeline import Job, Work, pipeline
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.distributed.world import ALONE, World
from lookalike.errors import StorageError, check_integer

# Whole images may take hundreds of megabytes each: few are held at a time.
_GROUPS_AHEAD = 1


class SequentialLoader:
    """Images by number; unreadable ones are left out.

    Batch i always holds the records [i * batch_size, (i + 1) * batch_size): whole batches are
    dealt to workers, so that an image shares its batch with the same others, and its embedding
    has the same bits, whatever the number of workers.

    Args:
        bad: the rows known to fail; those found are added.
        batches: the numbers of the batches to yield; default all.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        batch_size: int,
        bad: BadImages,
        batches: Sequence[int] | None = None,
        source: Source = PLAIN,
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        self._records = records
        self._batch_size = batch_size
        self._bad = bad
        self._batches = range(-(-len(records) // batch_size)) if batches is None else batches
        self._source = source

    def __len__(self) -> int:
        """The number of batches, counting those of which no image can be read."""
        return len(self._batches)

    def shard(self, world: World) -> Self:
        """The loader of one worker: every world.size-th of these batches."""
        part = copy.copy(self)
        part._batches = self._batches[world.rank :: world.size]
        return part

    def _rows(self) -> Iterator[range]:
        """Of each batch."""
        for number in self._batches:
            start = number * self._batch_size
            yield range(start, min(start + self._batch_size, len(self._records)))

    def _to_read(self, rows: range) -> list[Record | None]:
        return [None if row in self._bad else self._records[row] for row in rows]

    def _pixels(self, row: int, pending: PendingBytes | None) -> np.ndarray | None:
        """The image of `row`, (H, W, 3) uint8; None if it cannot be read."""
        if row in self._bad:
            return None
        record = self._records[row]
        try:
            return read_twice(record, partial(decode_record, record), self._source, pending)
        except (BadImage, StorageError) as error:
            self._bad.add(row, image_fault(error, record))
            return None


class EvalLoader(SequentialLoader):
    """Preprocessed images in batches.

    Args:
        class_ids: (N,) int64, for `Batch.classes`; without them these are zeros.
        device: destination of the batches: those for CUDA are pinned.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        preprocess: Preprocess,
        class_ids: np.ndarray | None = None,
        device: torch.device = ALONE.device,
        batch_size: int,
        bad: BadImages,
        batches: Sequence[int] | None = None,
        source: Source = PLAIN,
    ) -> None:
        super().__init__(records, batch_size=batch_size, bad=bad, batches=batches, source=source)
        self._preprocess = preprocess
        self._class_ids = class_ids
        self._device = device

    def shard(self, world: World) -> Self:
        part = super().shard(world)
        part._device = world.device
        return part

    def __iter__(self) -> Iterator[Batch]:
        """The batches that have at least one image."""
        jobs = (Job(self._to_read(rows), partial(self._start, rows)) for rows in self._rows())
        # `filter` holds no batch while the next is waited for, as a loop's variable would.
        return filter(_has_images, pipeline(jobs, source=self._source))

    def _start(self, rows: range) -> Work[Batch]:
        images = empty_images(len(rows), self._preprocess.image_size, self._device)
        read = np.zeros(len(rows), dtype=bool)

        def run(piece: int, pending: PendingBytes | None) -> None:
            pixels = self._pixels(rows[piece], pending)
            if pixels is not None:
                images[piece].copy_(self._preprocess.prepare(pixels))
                read[piece] = True

        def result() -> Batch:
            kept, found = np.arange(rows.start, rows.stop), images  # (b,)
            if not read.all():
                kept = kept[read]
                found = empty_images(len(kept), self._preprocess.image_size, self._device)
                found.copy_(images[torch.from_numpy(read)])
            classes = np.zeros_like(kept)
            if self._class_ids is not None:
                classes = self._class_ids[kept].astype(np.int64)
            return Batch(found, torch.from_numpy(classes), torch.from_numpy(kept))

        return run, result


@dataclass(frozen=True)
class WholeImages:
    """b images.

    Attributes:
        images: (H, W, 3) uint8 each, of any sizes.
        rows: (b,) int64, indices of the records that these images are.
    """

    images: list[np.ndarray]
    rows: Tensor


class WholeImageLoader(SequentialLoader):
    """Decoded images in groups, for models that do their own preprocessing."""

    def __iter__(self) -> Iterator[WholeImages]:
        """The groups that have at least one image."""
        jobs = (Job(self._to_read(rows), partial(self._start, rows)) for rows in self._rows())
        groups = pipeline(jobs, source=self._source, ahead=_GROUPS_AHEAD)
        return filter(_has_images, groups)

    def _start(self, rows: range) -> Work[WholeImages]:
        found: list[np.ndarray | None] = [None] * len(rows)

        def run(piece: int, pending: PendingBytes | None) -> None:
            pixels = self._pixels(rows[piece], pending)
            found[piece] = None if pixels is None else np.ascontiguousarray(pixels)

        def result() -> WholeImages:
            kept = [row for row, image in zip(rows, found, strict=True) if image is not None]
            return WholeImages([i for i in found if i is not None], torch.tensor(kept))

        return run, result


def _has_images(batch: Batch | WholeImages) -> bool:
    return len(batch.rows) > 0
