"""Embedding whole catalogs, and measuring how well that retrieves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lookalike.data.bad_images import BadImages
from lookalike.data.catalog import Catalog
from lookalike.data.decode import ImageSource
from lookalike.data.loader import EvalLoader
from lookalike.data.picture_loader import PictureLoader
from lookalike.data.record import Record
from lookalike.data.source import PLAIN, Source
from lookalike.distributed import ALONE, World
from lookalike.errors import DataError
from lookalike.log import Bar
from lookalike.losses.head import Head
from lookalike.model.embedder import Embedder
from lookalike.retrieval.calibrating import calibrate
from lookalike.retrieval.calibration import Calibration
from lookalike.retrieval.metrics import Scores, score
from lookalike.retrieval.roles import Roles

BATCH_SIZE = 64
"""Images at a time. One number for all: the same image in the same batch gives the same bits."""

LEAST_UNSEEN = 20
"""Fewer classes that training did not see are too few to calibrate on."""

PICTURES = 16
"""The same for models that take whole pictures, which are large."""


class PictureModel(Protocol):
    """A model that takes pictures as they were decoded, and does the rest: an exported one."""

    embedding_dim: int

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit vectors (N, D) float32 on the CPU of N pictures (H, W, 3) uint8 of any sizes."""


class FinishedModel(PictureModel, Protocol):
    """A `PictureModel` with the methods of an `Embedder` that a gallery asks for."""

    def fingerprint(self) -> str:
        """32 hexadecimal digits that two models share if they are the same to the bit."""

    def embed(self, images: Sequence[ImageSource], *, threads: int = 4) -> np.ndarray:
        """Unit vectors of images; see `Embedder.embed`."""


@dataclass(frozen=True)
class Embedded:
    """The embeddings of the images that could be read.

    Attributes:
        vectors: (M, D) float32 on the CPU, unit length.
        rows: (M,) int64, ascending: which record each one is.
    """

    vectors: Tensor
    rows: Tensor


def batch_size_of(model: Embedder | PictureModel) -> int:
    """Images that go through this kind of model together."""
    return BATCH_SIZE if isinstance(model, Embedder) else PICTURES


def embed_batches(
    embedder: Embedder | PictureModel,
    records: Sequence[Record],
    *,
    threads: int,
    bad: BadImages,
    batches: Sequence[int] | None = None,
    source: Source = PLAIN,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and unit vectors of one batch after the other; a model is fed as production feeds it.

    Args:
        embedder: the model.
        records: the images.
        threads: threads that read and decode.
        bad: takes the rows that could not be read.
        batches: numbers of the batches of `batch_size_of(embedder)` records; default all.
        source: of the images' bytes.

    Yields:
        (b,) int64, ascending, and (b, D) float32 on the CPU; batches without a readable image are
        left out.
    """
    size = batch_size_of(embedder)
    if isinstance(embedder, Embedder):
        loader = EvalLoader(
            records,
            preprocess=embedder.preprocess,
            batch_size=size,
            threads=threads,
            bad=bad,
            batches=batches,
            device=embedder.device,
            source=source,
        )
        for batch in loader:
            yield batch.rows, embedder.embed_batch(batch.images).cpu()
        return
    pictures = PictureLoader(
        records, batch_size=size, threads=threads, bad=bad, batches=batches, source=source
    )
    for group in pictures:
        yield group.rows, embedder.embed_pictures(group.pictures)


def embed_records(
    embedder: Embedder | PictureModel,
    records: Sequence[Record],
    *,
    threads: int,
    bad: BadImages,
    world: World = ALONE,
    source: Source = PLAIN,
    what: str = "embedding",
    quiet: bool = False,
) -> Embedded:
    """Unit vectors of all records, computed by all workers and known to each.

    Batches are the same whatever the number of workers, and so is every vector, to the bit.

    Args:
        embedder: the model.
        records: the images.
        threads: threads that read and decode, for each worker.
        bad: takes the rows that could not be read; they have no vector.
        world: the workers.
        source: of the images' bytes.
        what: the name of the progress bar.
        quiet: show no progress.
    """
    size = batch_size_of(embedder)
    batches = range(-(-len(records) // size))[world.rank :: world.size]
    vectors = [torch.empty(0, embedder.embedding_dim)]
    rows = [torch.empty(0, dtype=torch.int64)]
    with Bar(what, len(records), unit="images", quiet=quiet or not world.is_main) as bar:
        found = embed_batches(
            embedder, records, threads=threads, bad=bad, batches=batches, source=source
        )
        for some, their in found:
            rows.append(some)
            vectors.append(their)
            bar.advance(min(size * world.size, len(records) - bar.done))
    everyone = torch.cat([part.cpu() for part in world.gather(torch.cat(rows).to(world.device))])
    all_vectors = [part.cpu() for part in world.gather(torch.cat(vectors).to(world.device))]
    order = everyone.argsort()
    return Embedded(torch.cat(all_vectors)[order], everyone[order])


def summary(scores: Scores) -> str:
    """The scores in a line."""
    recall = ", ".join(f"Recall@{k} {100 * value:.1f} %" for k, value in scores.recall.items())
    lone = f" ({scores.num_lone:,} lone images left out)" if scores.num_lone else ""
    return (
        f"{recall}, MAP@R {100 * scores.map_at_r:.1f} %, R-precision "
        f"{100 * scores.r_precision:.1f} % over {scores.num_queries:,} queries{lone}"
    )


class Validator:
    """A validation set, to be measured again and again.

    Args:
        catalog: images with classes, numbered on their own.
        train_classes: (classes of the catalog,) int64: the training class of the same label, or
            -1 where training does not know the label.
        threads: threads that read and decode, for each worker.
        world: the workers.
        source: of the images' bytes.
    """

    def __init__(
        self,
        catalog: Catalog,
        train_classes: Tensor,
        *,
        threads: int,
        world: World = ALONE,
        source: Source = PLAIN,
    ) -> None:
        self.catalog = catalog
        self.train_classes = train_classes
        self.threads = threads
        self.world = world
        self.source = source
        self.bad = BadImages()
        self._roles = Roles.of(catalog.records)

    def measure(
        self, embedder: Embedder | PictureModel, head: Head | None = None
    ) -> tuple[Scores, dict[str, Any]]:
        """Retrieval scores by the roles that the records state, and a record for metrics.jsonl.

        Where labels are among the training classes and `head` is given, the record has `accuracy`
        as well: the part of those images whose nearest class centre is their own.

        Raises:
            DataError: nothing can be measured.
        """
        began = time.monotonic()
        embedded = embed_records(
            embedder,
            self.catalog.records,
            threads=self.threads,
            bad=self.bad,
            world=self.world,
            source=self.source,
            what="validation",
        )
        if len(embedded.rows) == 0:
            raise DataError("validation cannot be measured: no image of the list can be read")
        labels = torch.from_numpy(self.catalog.class_ids)[embedded.rows]
        roles = None if self._roles is None else self._roles[embedded.rows]
        vectors = embedded.vectors.to(self.world.device)
        scores = score(vectors, labels, roles=roles, world=self.world)
        record: dict[str, Any] = scores.to_dict()
        record["unreadable"] = len(self.bad)
        known = self.train_classes[labels]  # (M,)
        if head is not None and bool((known >= 0).any()):
            mine = torch.arange(len(known))[known >= 0]
            vectors = embedded.vectors[mine].to(self.world.device)
            record["accuracy"] = _accuracy(head, vectors, known[mine], self.world)
        record["seconds"] = round(time.monotonic() - began, 3)
        return scores, record


def calibrate_on(
    embedder: Embedder,
    catalog: Catalog,
    train_classes: Tensor,
    *,
    threads: int,
    source: str,
    chose_checkpoint: bool,
    world: World = ALONE,
    images: Source = PLAIN,
) -> Calibration:
    """What the model's cosines mean, on the classes that training did not see.

    Where fewer than `LEAST_UNSEEN` of the classes are new, all of them are taken, and the
    calibration says how many were seen.

    Args:
        embedder: the model.
        catalog: images with classes, numbered on their own.
        train_classes: (classes of the catalog,) int64: -1 where training does not know the label.
        threads: threads that read and decode, for each worker.
        source: what the images are, in words.
        chose_checkpoint: whether they chose the model among others.
        world: the workers.
        images: where their bytes come from.

    Raises:
        DataError: there are too few images or classes for any threshold.
    """
    classes = torch.from_numpy(catalog.class_ids)
    unseen = train_classes[classes] < 0  # (N,)
    if len(classes[unseen].unique()) < LEAST_UNSEEN:
        unseen[:] = True
    rows = unseen.nonzero()[:, 0]
    records = [catalog.records[row] for row in rows.tolist()]
    embedded = embed_records(
        embedder,
        records,
        threads=threads,
        bad=BadImages(),
        world=world,
        source=images,
        what="calibration",
    )
    labels = classes[rows][embedded.rows]
    roles = Roles.of(records)
    return calibrate(
        embedded.vectors.to(world.device),
        labels,
        roles=None if roles is None else roles[embedded.rows],
        source=source,
        chose_checkpoint=chose_checkpoint,
        seen_in_training=int((train_classes[labels.unique()] >= 0).sum()),
        world=world,
    )


def _accuracy(head: Head, vectors: Tensor, classes: Tensor, world: World) -> float:
    """Part of the vectors whose nearest class centre is that of their class."""
    # A sharded head answers for the rows of all workers at once; each asks for its part.
    part = world.share(len(vectors))
    predicted = head.predict(vectors[part.start : part.stop])
    right = (predicted.cpu() == classes[part.start : part.stop]).sum()
    return float(world.sum(right.to(world.device))) / len(vectors)
