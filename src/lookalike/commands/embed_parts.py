"""Embedding of a list part by part, for `embed` and for `evaluate` on several machines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def request_of(
    embedder: Embedder | ExportedModel, records: Sequence[Record], size: int = PART_SIZE
) -> Request:
    """The vectors of these records by this model, in parts of `size` images."""
    return Request(
        model=embedder.fingerprint(),
        images=fingerprint_of(records),
        count=len(records),
        dim=embedder.embedding_dim,
        size=size,
        trained=embedder.trained_fingerprint(),
    )


def make_parts(
    embedder: Embedder | ExportedModel,
    records: Sequence[Record],
    parts: _WrittenParts,
    numbers: Sequence[int],
    *,
    source: Source,
    advance: Callable[[int], None],
) -> None:
    """Make these parts; `advance` is called with the number of images of each batch."""
    request = parts.request
    size = batch_size_of(embedder)
    batches = [row // size for number in numbers for row in request.rows(number)[::size]]
    bad = BadImages()

    def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        found = embed_batches(embedder, records, bad=bad, batches=batches, source=source)
        for rows, vectors in found:
            advance(len(rows))
            yield rows.numpy(), vectors.numpy()

    for number, rows, vectors in by_part(counted(), numbers, request):
        parts.write(number, Part(rows, vectors, bad.among(request.rows(number))))


def make_own_parts(
    embedder: Embedder | ExportedModel,
    records: Sequence[Record],
    parts: _WrittenParts,
    numbers: Sequence[int],
    *,
    source: Source,
    world: World,
) -> None:
    """`make_parts` with a progress bar of this worker's images alone, on the main one."""
    count = sum(len(parts.request.rows(number)) for number in numbers)
    with Bar("embedding", count, unit="images", quiet=not world.is_main) as bar:
        make_parts(embedder, records, parts, numbers, source=source, advance=bar.advance)


@contextmanager
def shared_parts(place: str, request: Request, rank: int) -> Iterator[SharedParts]:
    """Parts at a place that all machines see."""
    folder = cache_entry("embedding", place, f"#{rank}")
    try:
        yield SharedParts(place, folder, request)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def embed_together(
    embedder: Embedder | ExportedModel,
    records: Sequence[Record],
    request: Request,
    output: str,
    *,
    bad: BadImages,
    world: World,
    source: Source,
) -> Embedded:
    """`embed_records`, with parts below a folder or URI that all machines see: they outlive a kill.

    Called by all workers together, and `forget_parts` when they are of no more use.
    """
    found, bar = [], Bar("embedding", len(records), unit="images", quiet=not world.is_main)
    place = parts_place(output, request)
    with shared_parts(place, request, world.rank) as parts, world.raise_together(), bar:
        parts.begin()
        mine = range(request.parts)[world.rank :: world.size]
        missing = set(parts.missing())
        if world.is_main and len(missing) < request.parts:
            done = f"{request.parts - len(missing):,} of {request.parts:,}"
            logger.info("resumed: %s parts were done before", done)
        make_parts(
            embedder,
            records,
            parts,
            [number for number in mine if number in missing],
            source=source,
            advance=lambda n: bar.advance(min(n * world.size, len(records) - bar.done)),
        )
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
