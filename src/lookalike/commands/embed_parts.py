"""Embedding of a list part by part, for `embed` and for `evaluate` on several machines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from lookalike import storage
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.record import Record
from lookalike.distributed.world import World
from lookalike.exporting.exported import ExportedModel
from lookalike.log import Bar, logger
from lookalike.model.embedder import Embedder
from lookalike.model.inference import Embedded, batch_size_of, embed_batches, gathered
from lookalike.storage.cache_folder import cache_entry
from lookalike.vectors.shared_parts import SharedParts
from lookalike.vectors.vector_parts import Part, Request, by_part, fingerprint_of

PART_SIZE = 1024
"""Images of a part: the most that a kill costs, for each worker."""


class _WrittenParts(Protocol):
    request: Request

    def write(self, number: int, part: Part) -> None: ...


@dataclass(frozen=True)
class EmbeddingTask:
    """A list that workers embed with a model, part by part.

    Attributes:
        source: of the images' bytes.
        world: the workers, seen from this one.
        size: images of a part.
    """

    embedder: Embedder | ExportedModel
    records: Sequence[Record]
    source: Source
    world: World
    size: int = PART_SIZE

    @cached_property
    def request(self) -> Request:
        """The vectors of these records by this model."""
        return Request(
            model=self.embedder.fingerprint(),
            images=fingerprint_of(self.records),
            count=len(self.records),
            dim=self.embedder.embedding_dim,
            size=self.size,
            trained=self.embedder.trained_fingerprint(),
        )

    @property
    def mine(self) -> range:
        """The parts that are this worker's."""
        return range(self.request.parts)[self.world.rank :: self.world.size]

    def make(
        self, parts: _WrittenParts, numbers: Sequence[int], bar: Bar, workers: int = 1
    ) -> None:
        """Make these parts; `bar` counts the images of so many workers, all about as far."""
        size = batch_size_of(self.embedder)
        batches = [row // size for number in numbers for row in self.request.rows(number)[::size]]
        bad = BadImages()

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows, vectors in embed_batches(
                self.embedder, self.records, bad=bad, batches=batches, source=self.source
            ):
                bar.advance(min(len(rows) * workers, bar.total - bar.done))
                yield rows.numpy(), vectors.numpy()

        for number, rows, vectors in by_part(counted(), numbers, self.request):
            parts.write(number, Part(rows, vectors, bad.among(self.request.rows(number))))

    def make_own(self, parts: _WrittenParts, numbers: Sequence[int]) -> None:
        """`make` with a progress bar of this worker's images alone, on the main one."""
        count = sum(len(self.request.rows(number)) for number in numbers)
        with Bar("embedding", count, unit="images", quiet=not self.world.is_main) as bar:
            self.make(parts, numbers, bar)


@contextmanager
def shared_parts(place: str, request: Request, rank: int) -> Iterator[SharedParts]:
    """Parts at a place that all machines see."""
    folder = cache_entry("embedding", place, f"#{rank}")
    try:
        yield SharedParts(place, folder, request)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def embed_together(task: EmbeddingTask, output: str, bad: BadImages) -> Embedded:
    """`embed_records`, with parts below a folder or URI that all machines see: they outlive a kill.

    Called by all workers together, and `forget_parts` when they are of no more use.
    """
    request, world, mine = task.request, task.world, task.mine
    found, bar = [], Bar("embedding", request.count, unit="images", quiet=not world.is_main)
    place = parts_place(output, request)
    with shared_parts(place, request, world.rank) as parts, world.raise_together(), bar:
        parts.begin()
        missing = set(parts.missing())
        if world.is_main and len(missing) < request.parts:
            done = f"{request.parts - len(missing):,} of {request.parts:,}"
            logger.info("resumed: %s parts were done before", done)
        task.make(parts, [number for number in mine if number in missing], bar, world.size)
        parts.fetch(mine)
        found = [parts.local.read(number) for number in mine]
    for part in found:
        for row, reason in part.bad.items():
            bad.add(row, reason)
    empty = np.empty((0, request.dim), np.float32)
    rows = np.concatenate([np.empty(0, np.int64), *(part.rows for part in found)])
    vectors = np.concatenate([empty, *(part.vectors for part in found)])
    return gathered(torch.from_numpy(rows), torch.from_numpy(vectors), world)


def forget_parts(request: Request, output: str, world: World) -> None:
    """Remove the parts of `embed_together`."""
    with shared_parts(parts_place(output, request), request, world.rank) as parts:
        parts.remove(range(request.parts)[world.rank :: world.size])
        world.barrier()
        if world.is_main or not storage.is_remote(output):
            parts.remove_manifest()


def parts_place(output: str, request: Request) -> str:
    """Folder or URI of the parts of `embed_together`."""
    return storage.join(output, f".vectors-{request.model[:8]}-{request.images[:8]}")
