"""The run to plan, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lookalike.data.image_size import ImageSize
from lookalike.losses.chunk_products import default_chunk, shared_chunk
from lookalike.losses.pairs.batch_comparison import BLOCK


@dataclass(frozen=True)
class RunSpec:
    """The numbers of a run that its bytes and seconds depend on.

    Attributes:
        classes: C, over all workers.
        images: in the training list; None where it is not known.
        steps_per_epoch: None where the number of images is not known.
        max_steps: None for no limit.
        workers: N.
        batch: images of a step, over all workers.
        accumulate: micro-batches of a worker's part of it.
        image_size: side of the training images, or (height, width), in pixels.
        dim: D, length of an embedding.
        counted: image counts that are kept: C where the margin uses them, else 1; 0 without one.
        heads: 1, or 2 with the classification branch's, which has as many classes.
        nested: dimensions of the heads on the first ones of the embedding, ascending.
        centres: rows a class of the first head's weight; the second has one.
        sharded: every worker holds a share of the classes.
        shared_network: every worker holds a part of the network.
        fused: the head's weight is updated chunk by chunk and has no gradient.
        weight_bytes: of a number of the head's weight and optimizer state, 4 or 2.
        product_bytes: of a number in the head's products, 4 or 2.
        narrow_network: in bfloat16 or float16.
        logit_cache: logits kept for the backward pass, as a share of weight and momentum.
        sample_rate: part of the classes that a step looks at.
        momentum: sgd keeps one in the network's optimizer (a head's update always does).
        ema: an average of the embedder is kept.
        shared_norms: batch norms exchange their statistics.
        compared: what the metric loss compares an image with: the weights of classes by a margin,
            proxies of classes, or the images of the batch.
        remembered: embeddings of earlier batches that are kept.
        positives: images of a class, where the loss compares ranks; else 1.
        epochs: of the run; None where they follow from its time.
    """

    classes: int
    images: int | None
    steps_per_epoch: int | None
    epochs: int | None
    workers: int
    batch: int
    image_size: ImageSize
    dim: int
    product_bytes: int
    narrow_network: bool
    optimizer: Literal["sgd", "adamw"]
    device: Literal["cpu", "cuda"]
    max_steps: int | None = None
    accumulate: int = 1
    counted: int = 1
    heads: int = 1
    nested: tuple[int, ...] = ()
    centres: int = 1
    sharded: bool = False
    shared_network: bool = False
    fused: bool = False
    weight_bytes: int = 4
    logit_cache: float = 0.0
    sample_rate: float = 1.0
    momentum: bool = True
    ema: bool = False
    shared_norms: bool = False
    compared: Literal["classes", "proxies", "images"] = "classes"
    remembered: int = 0
    positives: int = 1

    @property
    def local_batch(self) -> int:
        """Images on the worker that has most of them."""
        return -(-self.batch // self.workers)

    @property
    def micro_batch(self) -> int:
        """Images whose activations are in memory together."""
        return -(-self.local_batch // self.accumulate)

    @property
    def head_batch(self) -> int:
        """Rows that a worker's head compares with its classes."""
        return self.batch if self.sharded else self.local_batch

    def head_chunk(self, centres: int) -> int:
        """Rows at once of a head's weight with so many of them a class."""
        place = torch.empty(0, device="cpu" if self.device == "cpu" else "meta")
        if self.fused and not self.sharded and self.workers > 1:
            return shared_chunk(place, centres) * centres
        return default_chunk(self.head_batch, place)

    @property
    def metric_dims(self) -> tuple[int, ...]:
        """Dimensions that the metric loss reads, those of the embedding first."""
        return (self.dim, *self.nested)

    @property
    def weighted_heads(self) -> int:
        """Of `heads`, those that have class weights."""
        return self.heads - (self.compared == "images")

    @property
    def comparisons(self) -> int:
        """Numbers of an image's comparison with others, at once, on a worker."""
        each = (self.batch + self.remembered) * self.positives
        return min(self.local_batch * each, max(BLOCK, each))

    @property
    def share(self) -> int:
        """Classes on the worker that has most of them."""
        return -(-self.classes // self.workers) if self.sharded else self.classes

    @property
    def seen(self) -> int:
        """Classes of a share that a step looks at; those of the batch always take part."""
        if self.sample_rate == 1:
            return self.share
        drawn = int(self.share * self.sample_rate) + 1
        return min(self.share, drawn + (self.batch if not self.sharded else self.head_batch))

    @property
    def kept_logits(self) -> tuple[int, ...]:
        """Logits of each head that wait for the backward pass, on one worker."""
        budgets = [
            int(self.logit_cache * 2 * rows * self.dim * self.weight_bytes / 4)
            for rows in self.head_rows
        ]
        if self.compared == "proxies":  # the branch's alone
            budgets = [0, *budgets[1 : self.heads], *[0] * len(self.nested)]
        return tuple(
            min(budget, seen * self.head_batch)
            for budget, seen in zip(budgets, self.seen_rows, strict=True)
        )

    @property
    def moments(self) -> int:
        """Numbers of optimizer state for each number of the head's weight."""
        if self.optimizer == "adamw":
            return 2
        return 1 if self.momentum or self.fused else 0

    @property
    def head_rows(self) -> tuple[int, ...]:
        """Rows of D numbers of the weight of each head on one worker."""
        return (
            self._metric(self.share) * self.centres,
            *[self.share] * (self.heads - 1),
            *self._short(self._metric(self.share)),
        )

    @property
    def seen_rows(self) -> tuple[int, ...]:
        """Rows of each head that a step looks at, on one worker."""
        metric = self._metric(self.seen)
        return (metric * self.centres, *[self.seen] * (self.heads - 1), *self._short(metric))

    def _metric(self, rows: int) -> int:
        return 0 if self.compared == "images" else rows

    def _short(self, rows: int) -> tuple[int, ...]:
        return tuple(-(-rows * self.centres * dim // self.dim) for dim in self.nested)

    @property
    def steps(self) -> int | None:
        """Steps of the run, None where the images are not known, or the length is a time."""
        epoch = self.steps_per_epoch
        if self.epochs is None:
            return None
        if epoch is None:
            return self.max_steps
        total = epoch * self.epochs
        return total if self.max_steps is None else min(total, self.max_steps)
