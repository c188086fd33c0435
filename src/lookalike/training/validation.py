"""Measuring a model on held-out images: how well it retrieves, and what its cosines mean."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError
from lookalike.log import counted
from lookalike.losses.head import Head
from lookalike.metrics.calibration import Calibration, fit_calibration
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import Scores, score
from lookalike.model.embedder import Embedder
from lookalike.model.inference import PictureModel, embed_records

LEAST_UNSEEN = 20
"""Fewer classes that training did not see are too few to calibrate on."""


def summary(scores: Scores) -> str:
    """The scores in a line."""
    recall = ", ".join(f"Recall@{k} {100 * value:.1f} %" for k, value in scores.recall.items())
    lone = f" ({counted(scores.num_lone, 'lone image')} skipped)" if scores.num_lone else ""
    queries = counted(scores.num_queries, "query", "queries")
    return (
        f"{recall}, MAP@R {100 * scores.map_at_r:.1f} %, R-precision "
        f"{100 * scores.r_precision:.1f} % over {queries}{lone}"
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
    return fit_calibration(
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
    part = world.shard(len(vectors))
    predicted = head.predict(vectors[part.start : part.stop])
    right = (predicted.cpu() == classes[part.start : part.stop]).sum()
    return float(world.sum(right.to(world.device))) / len(vectors)
