"""Whole decoded pictures for models that do their own preprocessing: in order, each once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lookalike.data.loading.batch import made_ahead, ticket_of
from lookalike.data.loading.image_source import Tickets
from lookalike.data.loading.sequential import InOrder
from lookalike.distributed.world import World

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


class PictureLoader(InOrder):
    """Every picture once, in order; those that cannot be read are left out."""

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


class _PictureJob:
    def __init__(self, loader: PictureLoader, rows: range, tickets: Tickets | None) -> None:
        self.size = len(rows)
        self.tickets = tickets
        self._loader = loader
        self._rows = rows
        self._found: list[np.ndarray | None] = [None] * len(rows)

    def run(self, piece: int) -> None:
        pixels = self._loader._pixels(self._rows[piece], ticket_of(self, piece))
        self._found[piece] = None if pixels is None else np.ascontiguousarray(pixels)

    def result(self) -> Pictures:
        kept = [
            (row, found)
            for row, found in zip(self._rows, self._found, strict=True)
            if found is not None
        ]
        return Pictures([found for _, found in kept], torch.tensor([row for row, _ in kept]))
