"""Batches of pictures: records -> bytes -> pixels -> tensors, ahead of the model, in threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data.augmentations.training_crop import Augment, scale_box
from lookalike.data.catalog import Catalog
from lookalike.data.decoding.crop_box import part_used, picture
from lookalike.data.decoding.decode import BadImage, decode, jpeg_header, shrinks
from lookalike.data.decoding.partial_jpeg import Box, decode_part
from lookalike.data.loading.bad_images import BadImages, describe_bad
from lookalike.data.loading.batch import (
    Batch,
    cause,
    check_at_least,
    empty_images,
    made_ahead,
    read_twice,
    ticket_of,
    timed,
)
from lookalike.data.loading.eval_loader import EvalLoader
from lookalike.data.loading.image_source import PLAIN, Source, Tickets
from lookalike.data.loading.read_ahead import Ticket
from lookalike.data.record import Record
from lookalike.data.rng import occurrences, row_rng
from lookalike.data.samplers import Sampling, create_sampler
from lookalike.distributed.world import ALONE, World
from lookalike.errors import CredentialsError, DataError, StorageError, UnavailableError

__all__ = ["BadImages", "Batch", "EvalLoader", "TrainLoader", "describe_bad"]

_SUBSTITUTES = 8


class TrainLoader:
    """Endless chance, exactly repeatable: this worker's share of drawn, augmented batches.

    Which rows a step holds, and each row's crop, depend on (seed, epoch, row) alone, and on how
    often the epoch had the row before: not on the number of threads or workers, nor on the step
    at which an epoch is taken up again.

    Attributes:
        sampler: which rows each batch holds.
        batch_size: images in a step of all workers together.
        steps_per_epoch: global batches in an epoch.
        wait_seconds: how long the consumer has waited for batches so far.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        threads: int,
        sampling: Sampling | None = None,
        world: World = ALONE,
        bad: BadImages | None = None,
        source: Source = PLAIN,
    ) -> None:
        """Prepare; nothing is read before an epoch is iterated.

        Args:
            catalog: the training images.
            batch_size: global, in images.
            augment: what is done to each picture.
            seed: at least 0.
            threads: that read and decode; with 0 the consumer's thread does.
            sampling: how rows are drawn; by default each once an epoch.
            world: the workers, who share each batch.
            bad: the rows known to fail; those found are added.
            source: of the images' bytes.

        Raises:
            DataError: there are no images, or fewer in a batch than workers.
            ConfigError: a number is out of range, or the batch does not fit the sampler.
        """
        check_at_least(batch_size=(batch_size, 1), threads=(threads, 0), seed=(seed, 0))
        if len(catalog) == 0:
            raise DataError("there are no images to train on")
        self.sampler = create_sampler(
            catalog.class_ids, batch_size=batch_size, seed=seed, sampling=sampling or Sampling()
        )
        self.batch_size = self.sampler.batch_size
        self.steps_per_epoch = self.sampler.steps_per_epoch
        if self.batch_size < world.size:
            raise DataError(
                f"a batch of {self.batch_size} images ({len(catalog)} in the list, batch size "
                f"{batch_size}) cannot be shared by {world.size} workers; use fewer workers"
            )
        self.wait_seconds = 0.0
        self._catalog = catalog
        self._augment = augment
        self._seed = seed
        self._threads = threads
        self._world = world
        self._bad = BadImages() if bad is None else bad
        self._source = source

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of epoch number `epoch` (from 0), from step `start` on.

        An image that cannot be read is noted in `bad` and replaced by another, drawn from
        (seed, epoch, row), so that a batch keeps its shape.

        Raises:
            DataError: an image and eight substitutes cannot be read.
        """
        assert 0 <= start <= self.steps_per_epoch
        batches: Generator[Batch, None, None] = made_ahead(
            self._plans(epoch, start),
            partial(_TrainJob, self, epoch),
            source=self._source,
            record_of=self._wanted,
            threads=self._threads,
        )
        return timed(self, batches)

    def _plans(self, epoch: int, start: int) -> Iterator[_Visits]:
        """The rows (b,) of each of this worker's batches."""
        rows = self.sampler.rows(epoch)  # (steps, B)
        before = np.zeros_like(rows)  # how often the epoch has had each before
        if self.sampler.repeating:
            before = occurrences(rows.reshape(-1)).reshape(rows.shape)
        share = self._world.shard(self.batch_size)
        mine = slice(share.start, share.stop)
        for step in range(start, self.steps_per_epoch):
            yield _Visits(rows[step, mine], before[step, mine])

    def _wanted(self, row: int) -> Record | None:
        return None if row in self._bad else self._catalog.records[row]

    def _empty(self, count: int) -> Tensor:
        return empty_images(count, self._augment.image_size, self._world.device)

    def _write(self, epoch: int, row: int, before: int, slot: Tensor, ticket: Ticket | None) -> int:
        """Fill `slot` (3, S, S) with the picture of `row` or a substitute; the row it was.

        `before` is how often the epoch had `row` before.
        """
        wanted, dice = row, row_rng(self._seed, epoch, row, _SUBSTITUTES + 1, before)
        for attempt in range(_SUBSTITUTES + 1):
            record = self._catalog.records[row]
            if row not in self._bad:
                crop = partial(self._crop, record, (epoch, row, attempt, before))
                try:
                    pixels, box, rng = read_twice(record, crop, self._source, ticket)
                except (CredentialsError, UnavailableError):
                    raise  # it is not this image's fault, and would be every image's
                except (BadImage, StorageError) as error:
                    self._bad.add(row, cause(error, record))
                else:
                    self._augment.write(pixels, box, rng, slot)
                    return row
            row, ticket = self.sampler.stand_in(wanted, attempt, dice), None
        reasons, records = self._bad.reasons, self._catalog.records
        first = next(iter(reasons))
        raise DataError(
            f"{len(reasons)} images cannot be read, among them {records[wanted].origin} and all "
            f"{_SUBSTITUTES} drawn in its place; first: "
            f"{describe_bad(records[first], reasons[first])}"
        )

    def _crop(
        self, record: Record, key: tuple[int, int, int, int], data: bytes
    ) -> tuple[np.ndarray, Box, Random]:
        """The record's picture in `data`, (H, W, 3), the part of it to use, and the chance left.

        The chance begins anew with each call: bytes that are read twice are cropped alike.
        """
        rng = row_rng(self._seed, *key)
        header = jpeg_header(data)
        if header is None:
            pixels = picture(record, data)
            height, width, _ = pixels.shape
            return pixels, self._augment.draw_box(height, width, rng), rng
        size = header.upright_size
        y, x, height, width = part_used(record, size)
        top, left, height, width = self._augment.draw_box(height, width, rng)
        box = y + top, x + left, height, width
        least = self._augment.least_size(*size, box)
        if self._augment.scaled_decode and shrinks(size, least):
            pixels = decode(data, min_size=least, header=header)
            return pixels, scale_box(box, size, pixels.shape[:2]), rng
        return decode_part(data, box, header), (0, 0, height, width), rng


class _Visits(Sequence[int]):
    """The rows of a batch, (b,), and how often the epoch has had each before, (b,)."""

    def __init__(self, rows: np.ndarray, before: np.ndarray) -> None:
        self.rows, self.before = rows, before

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]


class _TrainJob:
    def __init__(
        self, loader: TrainLoader, epoch: int, visits: _Visits, tickets: Tickets | None
    ) -> None:
        self.size = len(visits)
        self.tickets = tickets
        self._loader = loader
        self._epoch = epoch
        self._rows = visits.rows.copy()  # (b,)
        self._before = visits.before  # (b,)
        self._images = loader._empty(self.size)

    def run(self, piece: int) -> None:
        row, before = int(self._rows[piece]), int(self._before[piece])
        slot, ticket = self._images[piece], ticket_of(self, piece)
        self._rows[piece] = self._loader._write(self._epoch, row, before, slot, ticket)

    def result(self) -> Batch:
        classes = self._loader._catalog.class_ids[self._rows].astype(np.int64)
        return Batch(self._images, torch.from_numpy(classes), torch.from_numpy(self._rows))
