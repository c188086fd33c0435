"""Embedding whole catalogs, and measuring how well that retrieves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lookalike.data.bad_images import BadImages
from lookalike.data.catalog import Catalog
from lookalike.data.loader import EvalLoader
from lookalike.data.record import Record
from lookalike.data.source import PLAIN, Source
from lookalike.distributed import ALONE, World
from lookalike.errors import DataError
from lookalike.log import Bar
from lookalike.losses.head import Head
from lookalike.model.embedder import Embedder
from lookalike.retrieval.metrics import Scores, score
from lookalike.retrieval.roles import Roles

BATCH_SIZE = 64
"""Images at a time. One number for all: the same image in the same batch gives the same bits."""


@dataclass(frozen=True)
class Embedded:
    """The embeddings of the images that could be read.

    Attributes:
        vectors: (M, D) float32 on the CPU, unit length.
        rows: (M,) int64, ascending: which record each one is.
    """

    vectors: Tensor
    rows: Tensor


def embed_records(
    embedder: Embedder,
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
    loader = EvalLoader(
        records,
        preprocess=embedder.preprocess,
        batch_size=BATCH_SIZE,
        threads=threads,
        bad=bad,
        source=source,
    ).shard(world)
    vectors = [torch.empty(0, embedder.embedding_dim)]
    rows = [torch.empty(0, dtype=torch.int64)]
    with Bar(what, len(records), unit="images", quiet=quiet or not world.is_main) as bar:
        for batch in loader:
            if len(batch.rows):
                vectors.append(embedder.embed_batch(batch.images).cpu())
                rows.append(batch.rows)
            bar.advance(min(BATCH_SIZE * world.size, len(records) - bar.done))
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
        self, embedder: Embedder, head: Head | None = None
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


def _accuracy(head: Head, vectors: Tensor, classes: Tensor, world: World) -> float:
    """Part of the vectors whose nearest class centre is that of their class."""
    # A sharded head answers for the rows of all workers at once; each asks for its part.
    part = world.share(len(vectors))
    predicted = head.predict(vectors[part.start : part.stop])
    right = (predicted.cpu() == classes[part.start : part.stop]).sum()
    return float(world.sum(right.to(world.device))) / len(vectors)
