"""Batches of training: records -> bytes -> pixels -> tensors, ahead of the model, in threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from random import Random
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from lookalike.data.augmentations.training_crop import Augment, scale_box
from lookalike.data.catalog import Catalog
from lookalike.data.decoding.crop_box import decode_record, pixel_box
from lookalike.data.decoding.decode import BadImage, decode, jpeg_header, shrinks
from lookalike.data.decoding.partial_jpeg import Box, decode_part
from lookalike.data.image_weights import relative_weights
from lookalike.data.loading.bad_images import (
    RELATIVE_PATHS,
    BadImages,
    describe_bad,
    image_fault,
)
from lookalike.data.loading.batch import Batch, empty_images
from lookalike.data.loading.feature_parts import FeatureParts
from lookalike.data.loading.image_source import PLAIN, Source, read_twice
from lookalike.data.loading.pipeline import Job, Work, pipeline
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.data.rng import occurrences, row_rng
from lookalike.data.samplers import Sampling, create_sampler
from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError, StorageError
from lookalike.log import counted
from lookalike.storage.retry import MISSING

_SUBSTITUTES = 8


class TrainLoader:
    """This worker's shard of deterministic, randomly drawn and augmented batches.

    The rows of a step, and each row's crop, depend on (seed, epoch, row) alone, and on how often
    the epoch had the row before: not on the number of threads or workers, nor on the step at which
    an epoch is resumed.

    Attributes:
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
        sampling: Sampling | None = None,
        world: World = ALONE,
        bad: BadImages | None = None,
        source: Source = PLAIN,
    ) -> None:
        """Prepare; nothing is read before an epoch is iterated.

        The batch size is global, and workers share each batch. By default each row comes once an
        epoch. Rows that fail are added to `bad`, those known to fail.

        Raises:
            DataError: there are no images, or fewer in a batch than workers.
            ConfigError: the batch does not fit the sampler.
        """
        if len(catalog) == 0:
            raise DataError("there are no images to train on")
        self.sampler = create_sampler(
            catalog.sampling_ids(),
            batch_size=batch_size,
            seed=seed,
            sampling=sampling or Sampling(),
        )
        self.batch_size = self.sampler.batch_size
        self.steps_per_epoch = self.sampler.steps_per_epoch
        if self.batch_size < world.size:
            raise DataError(
                f"a batch of {self.batch_size} images ({len(catalog)} in the list, batch size "
                f"{batch_size}) cannot be shared by {world.size} workers; use fewer workers"
            )
        self.wait_seconds = 0.0
        self.catalog = catalog
        self._classes = catalog.all_ids
        weights = catalog.weights
        self._weights = None if weights is None else relative_weights(weights)
        self._augment = augment
        self._seed = seed
        self._world = world
        self._bad = BadImages() if bad is None else bad
        self._source = source
        self._features: FeatureParts | None = None
        self._feature_epochs = 0

    def epoch(
        self, epoch: int, start: int = 0, *, stored: bool = True
    ) -> Generator[Batch, None, None]:
        """The batches of epoch number `epoch` (from 0), from step `start` on.

        Of stored features where the epoch is one of `use_features`, unless `stored` is False.

        An image that cannot be read is noted in `bad` and replaced by another, drawn from
        (seed, epoch, row), so that a batch keeps its shape.

        Raises:
            DataError: an image and eight substitutes cannot be read.
        """
        assert 0 <= start <= self.steps_per_epoch
        if stored and self._features is not None and epoch < self._feature_epochs:
            yield from self._stored_batches(self._features, epoch, start)
            return
        batches = pipeline(self._jobs(epoch, start), source=self._source)
        try:
            while True:
                began = perf_counter()
                batch = next(batches, None)
                self.wait_seconds += perf_counter() - began
                if batch is None:
                    return
                yield batch
                del batch  # not kept while the next is waited for
        finally:
            batches.close()

    def use_features(self, features: FeatureParts, epochs: int) -> None:
        """Give stored features in place of images in the first `epochs` epochs.

        Rows and substitutes are those of the images; nothing is augmented.
        """
        self._features, self._feature_epochs = features, epochs

    def _stored_batches(
        self, features: FeatureParts, epoch: int, start: int
    ) -> Generator[Batch, None, None]:
        for drawn, before in self._drawn(epoch, start):
            began = perf_counter()
            rows = drawn.copy()
            for place in [place for place, row in enumerate(drawn.tolist()) if row in self._bad]:
                row = int(drawn[place])
                found = next(self._candidates(epoch, row, int(before[place])), None)
                if found is None:
                    raise self._none_readable(row)
                rows[place] = found[1]
            batch = self._batch(features.take(rows), rows)
            self.wait_seconds += perf_counter() - began
            yield batch

    def _drawn(self, epoch: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """This worker's rows (b,) of each step, and how often the epoch had each before."""
        rows = self.sampler.rows(epoch)  # (steps, B)
        before = np.zeros_like(rows)  # how often the epoch has had each before
        if self.sampler.repeating:
            before = occurrences(rows.reshape(-1)).reshape(rows.shape)
        shard = self._world.shard(self.batch_size)
        mine = slice(shard.start, shard.stop)
        for step in range(start, self.steps_per_epoch):
            yield rows[step, mine], before[step, mine]

    def _jobs(self, epoch: int, start: int) -> Iterator[Job[Batch]]:
        records = self.catalog.records
        for drawn, before in self._drawn(epoch, start):
            to_read = [None if row in self._bad else records[row] for row in drawn.tolist()]
            yield Job(to_read, partial(self._start, epoch, drawn.copy(), before))

    def _batch(self, images: Tensor, rows: np.ndarray) -> Batch:
        classes = self._classes[rows].astype(np.int64)
        weights = None if self._weights is None else torch.from_numpy(self._weights[rows])
        return Batch(images, torch.from_numpy(classes), torch.from_numpy(rows), weights)

    def _start(self, epoch: int, rows: np.ndarray, before: np.ndarray) -> Work[Batch]:
        images = empty_images(len(rows), self._augment.image_size, self._world.device)

        def run(piece: int, pending: PendingBytes | None) -> None:
            row, times = int(rows[piece]), int(before[piece])
            rows[piece] = self._write(epoch, row, times, images[piece], pending)

        return run, lambda: self._batch(images, rows)

    def _write(
        self, epoch: int, row: int, before: int, slot: Tensor, pending: PendingBytes | None
    ) -> int:
        """Fill `slot` (3, S, S) with the image of `row` or a substitute; the row used.

        `before` is how often the epoch had `row` before.
        """
        for attempt, tried in self._candidates(epoch, row, before):
            record = self.catalog.records[tried]
            crop = partial(self._crop, record, (epoch, tried, attempt, before))
            try:
                fetched = None if attempt else pending
                pixels, box, crop_rng = read_twice(record, crop, self._source, fetched)
            except (BadImage, StorageError) as error:
                self._bad.add(tried, image_fault(error, record))
            else:
                self._augment.write(pixels, box, crop_rng, slot)
                return tried
        raise self._none_readable(row)

    def _none_readable(self, row: int) -> DataError:
        reasons, records = self._bad.reasons, self.catalog.records
        first = next(iter(reasons))
        root = f" {RELATIVE_PATHS}" if set(reasons.values()) == {MISSING} else ""
        return DataError(
            f"{counted(len(reasons), 'image')} cannot be read, among them {records[row].origin} "
            f"and all {_SUBSTITUTES} drawn in its place.{root} The first one: "
            f"{describe_bad(records[first], reasons[first])}"
        )

    def _candidates(self, epoch: int, row: int, before: int) -> Iterator[tuple[int, int]]:
        """`row` and its substitutes, with their number, without those known to fail."""
        wanted, rng = row, row_rng(self._seed, epoch, row, _SUBSTITUTES + 1, before)
        for attempt in range(_SUBSTITUTES + 1):
            if row not in self._bad:
                yield attempt, row
            row = self.sampler.substitute(wanted, attempt, rng)

    def _crop(
        self, record: Record, key: tuple[int, int, int, int], data: bytes
    ) -> tuple[np.ndarray, Box, Random]:
        """The record's image in `data`, (H, W, 3), the crop, and the rng of what follows.

        The rng starts anew with each call: bytes that are read twice are cropped alike.
        """
        rng = row_rng(self._seed, *key)
        header = jpeg_header(data)
        if header is None:
            pixels = decode_record(record, data)
            height, width, _ = pixels.shape
            return pixels, self._augment.draw_box(height, width, rng), rng
        size = header.upright_size
        y, x, height, width = pixel_box(record, size)
        top, left, height, width = self._augment.draw_box(height, width, rng)
        box = y + top, x + left, height, width
        least = self._augment.least_size(*size, box)
        if self._augment.scaled_decode and shrinks(size, least):
            pixels = decode(data, min_size=least, header=header)
            return pixels, scale_box(box, size, pixels.shape[:2]), rng
        return decode_part(data, box, header), (0, 0, height, width), rng
