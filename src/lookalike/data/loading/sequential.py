"""What the loaders have in common that give every picture once, in order, without chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from lookalike.data.decoding.crop_box import picture
from lookalike.data.decoding.decode import BadImage
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.batch import cause, check_at_least, read_twice
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.read_ahead import Ticket
from lookalike.data.record import Record
from lookalike.errors import CredentialsError, StorageError, UnavailableError


class InOrder:
    """Pictures by number; those that cannot be read are left out.

    Batch i always holds the records [i * batch_size, (i + 1) * batch_size): whole batches are
    dealt to workers, so that an image shares its batch with the same others, and its embedding
    has the same bits, whatever the number of workers.

    Args:
        records: the pictures; rows are indices of it.
        batch_size: pictures of a batch.
        threads: that read and decode; with 0 the consumer's thread does.
        bad: the rows known to fail; those found are added.
        batches: the numbers of the batches to yield; default all.
        source: of the pictures' bytes.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        batch_size: int,
        threads: int,
        bad: BadImages,
        batches: Sequence[int] | None = None,
        source: Source = PLAIN,
    ) -> None:
        """Prepare; nothing is read before the loader is iterated."""
        check_at_least(batch_size=(batch_size, 1), threads=(threads, 0))
        self._records = records
        self._batch_size = batch_size
        self._threads = threads
        self._bad = bad
        self._batches = range(-(-len(records) // batch_size)) if batches is None else batches
        self._source = source

    def _plans(self) -> Iterator[range]:
        """The rows of each batch."""
        for number in self._batches:
            start = number * self._batch_size
            yield range(start, min(start + self._batch_size, len(self._records)))

    def _wanted(self, row: int) -> Record | None:
        return None if row in self._bad else self._records[row]

    def _pixels(self, row: int, ticket: Ticket | None) -> np.ndarray | None:
        """The picture of `row`, (H, W, 3) uint8; None where it cannot be read."""
        if row in self._bad:
            return None
        try:
            record = self._records[row]
            return read_twice(record, partial(picture, record), self._source, ticket)
        except (CredentialsError, UnavailableError):
            raise  # it is not this picture's fault, and would be every picture's
        except (BadImage, StorageError) as error:
            self._bad.add(row, cause(error, self._records[row]))
            return None
