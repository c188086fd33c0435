"""Measurement of a model on held-out images: retrieval scores, and calibration of its cosines."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import (
    RELATIVE_PATHS,
    BadImages,
    none_readable,
    warn_left_out,
)
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.distributed.world import ALONE, World
from lookalike.log import logger
from lookalike.losses.class_weights import ClassWeights
from lookalike.metrics.calibration import Calibration, fit_calibration
from lookalike.metrics.protocol import Roles, first_class
from lookalike.metrics.scores import score
from lookalike.model.batchnorm import share_statistics
from lookalike.model.embedder import Embedder
from lookalike.model.frozen_features import FrozenFeatures
from lookalike.model.inference import PictureModel, embed_records

LEAST_UNSEEN = 20
"""Fewer classes that training did not see are too few to calibrate on."""


def in_training(held_out: Catalog, catalog: Catalog) -> Tensor:
    """Training class of each class of `held_out`, (classes,) int64; -1 where it is new.

    Where `data.classes` names the integers of the training list, the validation list has the same
    integers.
    """
    rows = catalog.classes.rows
    if catalog.records[0].label not in rows:  # integers are rows of the names: all of them
        rows = {str(row): row for row in range(len(catalog.classes))}
    return torch.tensor([rows.get(name, -1) for name in held_out.classes.names])


class Validator:
    """A validation set that is measured repeatedly.

    Args:
        held_out: images with classes, numbered on their own.
        catalog: training set.
        list_id: fingerprint of the validation list, for the records.
        scoring: as in `checkpoint.Inputs`, for the records.

    Attributes:
        features: of the images by a frozen backbone, where they are stored; used to measure
            models with this very backbone.
    """

    def __init__(
        self,
        held_out: Catalog,
        catalog: Catalog,
        *,
        list_id: str = "",
        scoring: str = "",
        world: World = ALONE,
        source: Source = PLAIN,
    ) -> None:
        self.catalog = held_out
        self.train_classes = in_training(held_out, catalog)
        self._identity = {"val_list": list_id, "scoring": scoring}
        self.world = world
        self.source = source
        self.bad = BadImages()
        self.features: FrozenFeatures | None = None
        self._logged: set[int] = set()
        self._roles = Roles.of(held_out.records)

    def has_features_of(self, embedder: Embedder) -> bool:
        """True if features of the embedder's backbone are stored; called by all workers together.

        It has changed where a run was trained before it was frozen: at the start, at other
        checkpoints, and in an average of the weights.
        """
        if self.features is None:
            return False
        return bool(self.world.broadcast_object(self.features.are_of(embedder)))

    def measure(
        self, embedder: Embedder, head: ClassWeights | None = None
    ) -> tuple[float, dict[str, Any]]:
        """Primary score, and a record of all scores for metrics.jsonl.

        Where labels are among the training classes and `head` is given, the record has `accuracy`
        as well: the part of those images whose nearest class centre is their own.

        Raises:
            DataError: no image can be read.
        """
        began = time.monotonic()
        share_statistics(embedder, self.world)
        if self.features is not None and self.has_features_of(embedder):
            embedded = self.features.embedded(embedder, self.world)
        else:
            embedded = embed_records(
                embedder,
                self.catalog.records,
                bad=self.bad,
                world=self.world,
                source=self.source,
                what="validation",
            )
        if len(embedded.rows) == 0:
            raise none_readable(self.catalog.records, self.bad.reasons, RELATIVE_PATHS)
        labels = torch.from_numpy(self.catalog.all_ids)[embedded.rows]
        roles = None if self._roles is None else self._roles[embedded.rows]
        vectors = embedded.vectors.to(self.world.device)
        scores = score(vectors, labels, roles=roles, world=self.world)
        record: dict[str, Any] = scores.to_dict()
        record["unreadable"] = len(self.bad)
        levels = self._level_scores(vectors, embedded.rows, roles)
        record |= levels
        known = self.train_classes[labels].masked_fill(labels < 0, -1)  # as the labels
        is_known = known >= 0 if known.ndim == 1 else (known >= 0).any(1)  # (M,)
        if head is not None and bool(is_known.any()):
            mine = torch.arange(len(known))[is_known]
            vectors = embedded.vectors[mine].to(self.world.device)
            record["accuracy"] = _accuracy(head, vectors, known[mine], self.world)
        record["seconds"] = round(time.monotonic() - began, 3)
        self._log(levels)
        return scores.primary[1], {**record, **self._identity}

    def _level_scores(self, vectors: Tensor, rows: Tensor, roles: Roles | None) -> dict[str, float]:
        """Scores at the levels of `data.hierarchy`, under names that begin with the level's."""
        found: dict[str, float] = {}
        for level in self.catalog.levels:
            labels = torch.from_numpy(level.coarser(self.catalog.all_ids))[rows]
            scores = score(vectors, labels, roles=roles, ks=(1,), world=self.world)
            found[f"{level.name}_recall_at_1"] = scores.recall[1]
            found[f"{level.name}_map_at_r"] = scores.map_at_r
        return found

    def _log(self, levels: dict[str, float]) -> None:
        new = {row: why for row, why in self.bad.reasons.items() if row not in self._logged}
        self._logged |= new.keys()
        warn_left_out(self.catalog.records, new)
        for level in self.catalog.levels:
            logger.info(
                "by %s: Recall@1 %.1f %%, MAP@R %.1f %%", level.name,
                100 * levels[f"{level.name}_recall_at_1"], 100 * levels[f"{level.name}_map_at_r"],
            )  # fmt: skip

    def calibrate(
        self, embedder: Embedder | PictureModel, source: str, *, chose_checkpoint: bool = True
    ) -> Calibration:
        """Calibration of the model's cosines, on the classes that training did not see.

        Where fewer than `LEAST_UNSEEN` of the classes are new, all of them are taken, and the
        calibration records how many were seen.

        Args:
            source: name of the images, for people.
            chose_checkpoint: whether they chose the model among others.

        Raises:
            DataError: there are too few images or classes for any threshold.
        """
        classes = torch.from_numpy(self.catalog.all_ids)
        known = (self.train_classes[classes] >= 0) & (classes >= 0)
        unseen = ~known if known.ndim == 1 else ~known.any(1)  # (N,)
        if len(first_class(classes)[unseen].unique()) < LEAST_UNSEEN:
            unseen[:] = True
        rows = unseen.nonzero()[:, 0]
        records = [self.catalog.records[row] for row in rows.tolist()]
        embedded = embed_records(
            embedder,
            records,
            bad=BadImages(),
            world=self.world,
            source=self.source,
            what="calibration",
        )
        labels = classes[rows][embedded.rows]
        roles = Roles.of(records)
        return fit_calibration(
            embedded.vectors.to(self.world.device),
            labels,
            roles=None if roles is None else roles[embedded.rows],
            source=source,
            chose_checkpoint=chose_checkpoint,
            seen_in_training=int((self.train_classes[first_class(labels).unique()] >= 0).sum()),
            world=self.world,
        )


def _accuracy(head: ClassWeights, vectors: Tensor, classes: Tensor, world: World) -> float:
    """Part of the vectors whose nearest class centre is that of their class, or one of theirs."""
    # A sharded head answers for the rows of all workers at once; each asks for its part.
    part = world.shard(len(vectors))
    predicted = head.predict(vectors[part.start : part.stop])
    own = classes[part.start : part.stop]
    own = own[:, None] if own.ndim == 1 else own
    right = (predicted.cpu()[:, None] == own).any(1).sum()
    return float(world.sum(right.to(world.device))) / len(vectors)
