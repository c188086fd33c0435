"""Pictures for evaluation and use: in order, each once, without chance."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.batch import Batch, empty_images, made_ahead, ticket_of, timed
from lookalike.data.loading.image_source import PLAIN, Source, Tickets
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.read_ahead import Ticket
from lookalike.data.loading.sequential import InOrder
from lookalike.data.record import Record
from lookalike.distributed.world import ALONE, World


class EvalLoader(InOrder):
    """Every picture once, in order, without chance; those that cannot be read are left out.

    Attributes:
        wait_seconds: how long the consumer has waited for batches so far.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        preprocess: Preprocess,
        batch_size: int,
        threads: int,
        bad: BadImages,
        batches: Sequence[int] | None = None,
        class_ids: np.ndarray | None = None,
        device: torch.device = ALONE.device,
        source: Source = PLAIN,
    ) -> None:
        """Prepare; nothing is read before the loader is iterated.

        Args:
            records: the images; `Batch.rows` are indices of it.
            preprocess: what is done to each picture.
            batch_size: in images.
            threads: that read and decode; with 0 the consumer's thread does.
            bad: the rows known to fail; those found are added.
            batches: the numbers of the batches to yield; default all.
            class_ids: (N,) int64, for `Batch.classes`; without them these are zeros.
            device: where the batches are to go: those for CUDA are pinned.
            source: of the images' bytes.

        Raises:
            ConfigError: a number is out of range.
        """
        super().__init__(
            records,
            batch_size=batch_size,
            threads=threads,
            bad=bad,
            batches=batches,
            source=source,
        )
        self.wait_seconds = 0.0
        self._preprocess = preprocess
        self._class_ids = class_ids
        self._device = device

    def shard(self, world: World) -> EvalLoader:
        """The loader of one worker: every world.size-th of these batches, for its device."""
        return EvalLoader(
            self._records,
            preprocess=self._preprocess,
            batch_size=self._batch_size,
            threads=self._threads,
            bad=self._bad,
            batches=self._batches[world.rank :: world.size],
            class_ids=self._class_ids,
            device=world.device,
            source=self._source,
        )

    def __len__(self) -> int:
        """The number of batches, counting those of which no image can be read."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that have at least one image."""
        batches: Generator[Batch, None, None] = made_ahead(
            self._plans(),
            partial(_EvalJob, self),
            source=self._source,
            record_of=self._wanted,
            threads=self._threads,
        )
        return timed(self, batches)

    def _empty(self, count: int) -> Tensor:
        return empty_images(count, self._preprocess.image_size, self._device)

    def _write(self, row: int, slot: Tensor, ticket: Ticket | None) -> bool:
        """Fill `slot` (3, S, S) with the picture of `row`; whether it could be read."""
        pixels = self._pixels(row, ticket)
        if pixels is None:
            return False
        slot.copy_(self._preprocess.prepare(pixels))
        return True


class _EvalJob:
    def __init__(self, loader: EvalLoader, rows: range, tickets: Tickets | None) -> None:
        self.size = len(rows)
        self.tickets = tickets
        self._loader = loader
        self._rows = rows
        self._read = np.zeros(self.size, dtype=bool)
        self._images = loader._empty(self.size)

    def run(self, piece: int) -> None:
        row, ticket = self._rows[piece], ticket_of(self, piece)
        self._read[piece] = self._loader._write(row, self._images[piece], ticket)

    def result(self) -> Batch:
        rows, images = np.arange(self._rows.start, self._rows.stop), self._images  # (b,)
        if not self._read.all():
            rows = rows[self._read]
            kept = images[torch.from_numpy(self._read)]
            images = self._loader._empty(len(rows)).copy_(kept)
        classes = np.zeros_like(rows)
        if self._loader._class_ids is not None:
            classes = self._loader._class_ids[rows].astype(np.int64)
        return Batch(images, torch.from_numpy(classes), torch.from_numpy(rows))
