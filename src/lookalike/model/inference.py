"""Embedding of whole catalogs, batch by batch, on all workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.sequential import EvalLoader, WholeImageLoader
from lookalike.data.record import Record
from lookalike.distributed.world import ALONE, World
from lookalike.log import Bar
from lookalike.model.embedder import Embedder
from lookalike.model.user_images import Images, require_finite

BATCH_SIZE = 64
"""Images at a time. One number for all: the same image in the same batch gives the same bits."""

PICTURES = 16
"""`BATCH_SIZE` of models that take whole images, which are large."""


class PictureModel(Protocol):
    """A model with its preprocessing inside, as exports are: it takes decoded images."""

    embedding_dim: int

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit vectors (N, D) float32 on the CPU of N pictures (H, W, 3) uint8 of any sizes."""


class FinishedModel(PictureModel, Protocol):
    """A `PictureModel` with the methods of an `Embedder` that an index needs."""

    def fingerprint(self) -> str:
        """32 hexadecimal digits; see `Embedder.fingerprint`."""

    def trained_fingerprint(self) -> str:
        """Shared by models whose vectors may be compared."""

    def embed(self, images: Images, *, threads: int = 4) -> np.ndarray:
        """Unit vectors of images; see `Embedder.embed`."""


@dataclass(frozen=True)
class Embedded:
    """The embeddings of the images that could be read.

    Attributes:
        vectors: (M, D) float32 on the CPU, unit length.
        rows: (M,) int64, ascending, of the records.
    """

    vectors: Tensor
    rows: Tensor


def batch_size_of(model: Embedder | PictureModel) -> int:
    """Images at a time of this kind of model."""
    return BATCH_SIZE if isinstance(model, Embedder) else PICTURES


def embed_batches(
    embedder: Embedder | PictureModel,
    records: Sequence[Record],
    *,
    bad: BadImages,
    batches: Sequence[int] | None = None,
    source: Source = PLAIN,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and unit vectors of one batch after the other; `bad` takes unreadable rows.

    `batches` are numbers of the batches of `batch_size_of(embedder)` records; default all.

    Yields:
        (b,) int64, ascending, and (b, D) float32 on the CPU, all finite; batches without a
        readable image are left out.

    Raises:
        NotFiniteError: the model gives NaN or infinity; names the images.
    """
    size = batch_size_of(embedder)
    if isinstance(embedder, Embedder):
        loader = EvalLoader(
            records,
            preprocess=embedder.preprocess,
            batch_size=size,
            bad=bad,
            batches=batches,
            device=embedder.device,
            source=source,
        )
        for batch in loader:
            yield _checked(batch.rows, embedder.embed_batch(batch.images).cpu(), records)
        return
    pictures = WholeImageLoader(records, batch_size=size, bad=bad, batches=batches, source=source)
    for group in pictures:
        yield _checked(group.rows, embedder.embed_pictures(group.images), records)


def _checked(rows: Tensor, vectors: Tensor, records: Sequence[Record]) -> tuple[Tensor, Tensor]:
    require_finite(vectors.numpy(), lambda row: records[int(rows[row])].place)
    return rows, vectors


def embed_records(
    embedder: Embedder | PictureModel,
    records: Sequence[Record],
    *,
    bad: BadImages,
    world: World = ALONE,
    source: Source = PLAIN,
    what: str = "embedding",
    quiet: bool = False,
) -> Embedded:
    """Unit vectors of all records, computed by all workers and gathered on each.

    Batches are the same whatever the number of workers, and so is every vector, to the bit. `bad`
    takes the rows that could not be read; they have no vector. `what` is the
    name of the progress bar.

    Raises:
        LookalikeError: on all workers together, an error of any of them.
    """
    size = batch_size_of(embedder)
    batches = range(-(-len(records) // size))[world.rank :: world.size]
    vectors = [torch.empty(0, embedder.embedding_dim)]
    rows = [torch.empty(0, dtype=torch.int64)]
    bar = Bar(what, len(records), unit="images", quiet=quiet or not world.is_main)
    with world.raise_together(), bar:
        found = embed_batches(embedder, records, bad=bad, batches=batches, source=source)
        for some, their in found:
            rows.append(some)
            vectors.append(their)
            bar.advance(min(size * world.size, len(records) - bar.done))
    return gathered(torch.cat(rows), torch.cat(vectors), world)


def gathered(rows: Tensor, vectors: Tensor, world: World) -> Embedded:
    """Rows (m,) and vectors (m, D) of all workers, on each, in the order of rows."""
    everyone = torch.cat([part.cpu() for part in world.gather(rows.to(world.device))])
    all_vectors = [part.cpu() for part in world.gather(vectors.to(world.device))]
    order = everyone.argsort()
    return Embedded(torch.cat(all_vectors)[order], everyone[order])
