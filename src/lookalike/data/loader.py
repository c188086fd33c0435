"""Batches of pictures: records -> bytes -> pixels -> tensors, ahead of the model, in threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from random import Random

import numpy as np
import torch
from torch import Tensor

from lookalike.data.augment import Augment, scale_box
from lookalike.data.bad_images import BadImages, describe_bad
from lookalike.data.batch import (
    AHEAD,
    Batch,
    cause,
    check_at_least,
    empty_images,
    read_twice,
    timed,
)
from lookalike.data.catalog import Catalog
from lookalike.data.decode import BadImage, decode, jpeg_size, shrinks
from lookalike.data.eval_loader import EvalLoader
from lookalike.data.part import Box, decode_part
from lookalike.data.pixels import part_used, picture
from lookalike.data.prefetch import Job, in_order
from lookalike.data.record import Record
from lookalike.data.sampler import epoch_order, global_batch, row_rng, steps_per_epoch
from lookalike.distributed import ALONE, World
from lookalike.errors import CredentialsError, DataError, StorageError

__all__ = ["BadImages", "Batch", "EvalLoader", "TrainLoader", "describe_bad"]

_SUBSTITUTES = 8


class TrainLoader:
    """Endless chance, exactly repeatable: this worker's share of shuffled, augmented batches.

    Which rows a step holds, and each row's crop, depend on (seed, epoch, row) alone: not on the
    number of threads or workers, nor on the step at which an epoch is taken up again.

    Attributes:
        batch_size: images in a step of all workers together; the whole set where that is smaller.
        steps_per_epoch: global batches in an epoch; an incomplete last one is left out.
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
        world: World = ALONE,
        bad: BadImages | None = None,
    ) -> None:
        """Prepare; nothing is read before an epoch is iterated.

        Args:
            catalog: the training images.
            batch_size: global, in images.
            augment: what is done to each picture.
            seed: at least 0.
            threads: that read and decode; with 0 the consumer's thread does.
            world: the workers, who share each batch.
            bad: the rows known to fail; those found are added.

        Raises:
            DataError: there are no images, or fewer in a batch than workers.
            ConfigError: a number is out of range.
        """
        check_at_least(batch_size=(batch_size, 1), threads=(threads, 0), seed=(seed, 0))
        if len(catalog) == 0:
            raise DataError("there are no images to train on")
        self.batch_size = global_batch(len(catalog), batch_size)
        if self.batch_size < world.size:
            raise DataError(
                f"a batch of {self.batch_size} images ({len(catalog)} in the list, batch size "
                f"{batch_size}) cannot be shared by {world.size} workers; use fewer workers"
            )
        self.steps_per_epoch = steps_per_epoch(len(catalog), batch_size)
        self.wait_seconds = 0.0
        self._catalog = catalog
        self._augment = augment
        self._seed = seed
        self._threads = threads
        self._world = world
        self._bad = BadImages() if bad is None else bad

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of epoch number `epoch` (from 0), from step `start` on.

        An image that cannot be read is noted in `bad` and replaced by another, drawn from
        (seed, epoch, row), so that a batch keeps its shape.

        Raises:
            DataError: an image and eight substitutes cannot be read.
        """
        assert 0 <= start <= self.steps_per_epoch
        return timed(self, in_order(self._jobs(epoch, start), self._threads, AHEAD))

    def _jobs(self, epoch: int, start: int) -> Iterator[Job[Batch]]:
        order = epoch_order(len(self._catalog), self._seed, epoch)
        share = self._world.share(self.batch_size)
        for step in range(start, self.steps_per_epoch):
            first = step * self.batch_size
            yield _TrainJob(self, epoch, order[first + share.start : first + share.stop])

    def _empty(self, count: int) -> Tensor:
        return empty_images(count, self._augment.image_size, self._world.device)

    def _write(self, epoch: int, row: int, slot: Tensor) -> int:
        """Fill `slot` (3, S, S) with the picture of `row` or a substitute; the row it was."""
        wanted, dice = row, row_rng(self._seed, epoch, row, _SUBSTITUTES + 1)
        for attempt in range(_SUBSTITUTES + 1):
            record = self._catalog.records[row]
            if row not in self._bad:
                crop = partial(self._crop, record, (epoch, row, attempt))
                try:
                    pixels, box, rng = read_twice(record, crop)
                except CredentialsError:
                    raise  # it is not this image's fault, and would be every image's
                except (BadImage, StorageError) as error:
                    self._bad.add(row, cause(error, record))
                else:
                    self._augment.write(pixels, box, rng, slot)
                    return row
            row = int(dice.random() * len(self._catalog))
        reasons, records = self._bad.reasons, self._catalog.records
        first = next(iter(reasons))
        raise DataError(
            f"{len(reasons)} images cannot be read, among them {records[wanted].origin} and all "
            f"{_SUBSTITUTES} drawn in its place; first: "
            f"{describe_bad(records[first], reasons[first])}"
        )

    def _crop(
        self, record: Record, key: tuple[int, int, int], data: bytes
    ) -> tuple[np.ndarray, Box, Random]:
        """The record's picture in `data`, (H, W, 3), the part of it to use, and the chance left.

        The chance begins anew with each call: bytes that are read twice are cropped alike.
        """
        rng = row_rng(self._seed, *key)
        size = jpeg_size(data)
        if size is None:
            pixels = picture(record, data)
            height, width, _ = pixels.shape
            return pixels, self._augment.draw_box(height, width, rng), rng
        y, x, height, width = part_used(record, size)
        top, left, height, width = self._augment.draw_box(height, width, rng)
        box = y + top, x + left, height, width
        least = self._augment.least_size(*size, box)
        if self._augment.scaled_decode and shrinks(size, least):
            pixels = decode(data, min_size=least)
            return pixels, scale_box(box, size, pixels.shape[:2]), rng
        return decode_part(data, box), (0, 0, height, width), rng


class _TrainJob:
    def __init__(self, loader: TrainLoader, epoch: int, rows: np.ndarray) -> None:
        self.size = len(rows)
        self._loader = loader
        self._epoch = epoch
        self._rows = rows.copy()  # (b,)
        self._images = loader._empty(self.size)

    def run(self, piece: int) -> None:
        row = int(self._rows[piece])
        self._rows[piece] = self._loader._write(self._epoch, row, self._images[piece])

    def result(self) -> Batch:
        classes = self._loader._catalog.class_ids[self._rows].astype(np.int64)
        return Batch(self._images, torch.from_numpy(classes), torch.from_numpy(self._rows))
