"""Whole decoded pictures for models that do their own preprocessing: in order, each once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lookalike.data.bad_images import BadImages
from lookalike.data.batch import cause, check_at_least, made_ahead, read_twice, ticket_of
from lookalike.data.decode import BadImage
from lookalike.data.pixels import picture
from lookalike.data.record import Record
from lookalike.data.requests import Ticket
from lookalike.data.source import PLAIN, Source, Tickets
from lookalike.distributed import World
from lookalike.errors import CredentialsError, StorageError, UnavailableError

# Pictures come as large as they are, up to hundreds of megabytes: few are held at a time.
_AHEAD = 1


@dataclass(frozen=True)
class Pictures:
    """What the loader yields; b pictures.

    Attributes:
        pictures: (H, W, 3) uint8 each, of any sizes.
        rows: (b,) int64, indices of the records that these pictures are.
    """

    pictures: list[np.ndarray]
    rows: Tensor


class PictureLoader:
    """Every picture once, in order; those that cannot be read are left out.

    Group i always holds the records [i * batch_size, (i + 1) * batch_size), as `EvalLoader`'s
    batches do, and for the same reason.
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
        """Prepare; nothing is read before the loader is iterated.

        Args:
            records: the pictures; `Pictures.rows` are indices of it.
            batch_size: pictures that are held together.
            threads: that read and decode; with 0 the consumer's thread does.
            bad: the rows known to fail; those found are added.
            batches: the numbers of the groups to yield; default all.
            source: of the pictures' bytes.
        """
        check_at_least(batch_size=(batch_size, 1), threads=(threads, 0))
        self._records = records
        self._batch_size = batch_size
        self._threads = threads
        self._bad = bad
        self._source = source
        self._batches = range(-(-len(records) // batch_size)) if batches is None else batches

    def shard(self, world: World) -> PictureLoader:
        """The loader of one worker: every world.size-th of these groups."""
        return PictureLoader(
            self._records,
            batch_size=self._batch_size,
            threads=self._threads,
            bad=self._bad,
            batches=self._batches[world.rank :: world.size],
            source=self._source,
        )

    def __iter__(self) -> Iterator[Pictures]:
        """The groups that have at least one picture."""
        groups: Generator[Pictures, None, None] = made_ahead(
            self._plans(),
            partial(_PictureJob, self),
            source=self._source,
            record_of=self._wanted,
            threads=self._threads,
            ahead=_AHEAD,
        )
        for group in groups:
            if len(group.rows):
                yield group

    def _plans(self) -> Iterator[range]:
        for number in self._batches:
            start = number * self._batch_size
            yield range(start, min(start + self._batch_size, len(self._records)))

    def _wanted(self, row: int) -> Record | None:
        return None if row in self._bad else self._records[row]

    def _read(self, row: int, ticket: Ticket | None) -> np.ndarray | None:
        if row in self._bad:
            return None
        try:
            record = self._records[row]
            return np.ascontiguousarray(
                read_twice(record, partial(picture, record), self._source, ticket)
            )
        except (CredentialsError, UnavailableError):
            raise  # it is not this picture's fault, and would be every picture's
        except (BadImage, StorageError) as error:
            self._bad.add(row, cause(error, self._records[row]))
            return None


class _PictureJob:
    def __init__(self, loader: PictureLoader, rows: range, tickets: Tickets | None) -> None:
        self.size = len(rows)
        self.tickets = tickets
        self._loader = loader
        self._rows = rows
        self._found: list[np.ndarray | None] = [None] * len(rows)

    def run(self, piece: int) -> None:
        self._found[piece] = self._loader._read(self._rows[piece], ticket_of(self, piece))

    def result(self) -> Pictures:
        kept = [
            (row, found)
            for row, found in zip(self._rows, self._found, strict=True)
            if found is not None
        ]
        return Pictures([found for _, found in kept], torch.tensor([row for row, _ in kept]))
