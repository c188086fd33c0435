"""A pair loss on the global batch, whatever the number of workers, with a memory if asked."""

from itertools import repeat

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lookalike.distributed.world import ALONE, World
from lookalike.losses.collectives import gather_embeddings, gather_own_gradient
from lookalike.losses.logits import unit_rows
from lookalike.losses.pairs.embedding_memory import EmbeddingMemory
from lookalike.losses.pairs.pair_loss import PairLoss, Pairs
from lookalike.losses.shared_classes import share_class

BLOCK = 2**22
"""Cosines, or comparisons of cosines, at once; more are computed again in the backward pass."""


class BatchComparison(nn.Module):
    """A pair loss of the images of the global batch; it has no weights.

    Each worker has its own images as anchors, and the images of all workers to compare them with.
    Losses and gradients are those of `lookalike.losses.class_weights.ClassWeights`: averaging the
    network's gradients over the workers gives the gradient of the loss of the global batch.

    With a memory, anchors are compared with the embeddings in it too. `end`, after a step that
    changes the weights, stores the embeddings of the batch; without it the step changes nothing.
    """

    memory: EmbeddingMemory | None

    def __init__(
        self,
        dim: int,
        loss: PairLoss,
        *,
        memory: int = 0,
        labels: int = 1,
        world: World = ALONE,
        block: int = BLOCK,
    ) -> None:
        """Prepare.

        Args:
            dim: D, length of an embedding.
            memory: M, embeddings of earlier batches that are kept.
            labels: L, the most classes of an image, where `memory` is not 0.
            block: see `BLOCK`.
        """
        super().__init__()
        self.dim, self.loss, self.world, self.block = dim, loss, world, block
        self.memory = EmbeddingMemory(memory, dim, labels) if memory else None
        self._latest: tuple[Tensor, Tensor] | None = None

    def forward(self, embeddings: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of the global batch, a scalar, the same on all workers.

        Every worker must call it at the same step. Computed in float32 at least, inside an
        autocast region too.

        `embeddings` (b, D) are raw, b may differ between workers; `classes` (b,) int64, or (b, L)
        where images may have several, with -1 behind the last: two images with a class in common
        are a positive pair. `weights` (b,) multiply the losses of the anchors, before their mean.

        Raises:
            ValueError: the shapes do not fit.
        """
        if embeddings.ndim != 2 or embeddings.shape != (len(classes), self.dim):
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} and classes {tuple(classes.shape)}: "
                f"expected (b, {self.dim}) and (b,)"
            )
        world = self.world
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = torch.promote_types(embeddings.dtype, torch.float32)
            parts = world.gather(classes)
            counts = [len(part) for part in parts]
            unit, _ = unit_rows(gather_embeddings(embeddings.to(wide), counts, world))  # (B, D)
            gathered = torch.cat(parts)  # (B,)
            self._latest = unit.detach(), gathered
            total, counted = self._sums(unit, gathered, counts, weights)
            part = total / world.sum(counted).clamp_min(1)
            # A loss may leave out what is not finite, as mining does: it must show all the same.
            part = part + 0 * unit.detach().sum()
            return gather_own_gradient(part[None], world).sum()

    def _sums(
        self, unit: Tensor, gathered: Tensor, counts: list[int], weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sum of the losses of this worker's anchors, and the number of those that count."""
        first = sum(counts[: self.world.rank])
        count = counts[self.world.rank]
        anchors, classes = unit[first : first + count], gathered[first : first + count]
        gallery, labels = unit, gathered  # (N, D), (N,) or (N, L)
        if self.memory is not None:
            kept, kept_labels = self.memory.contents()
            gallery = torch.cat([unit, kept.to(unit.dtype)])
            labels = torch.cat([gathered, kept_labels])
        each = len(labels)
        if self.loss.ranks:
            each *= int(share_class(classes, labels).sum(1).max())
        size = max(1, self.block // each)
        if count <= size:
            return self._block_sums(anchors, classes, gallery, labels, first, weights)
        blocks = zip(
            anchors.split(size), classes.split(size),
            repeat(None) if weights is None else weights.split(size),
            strict=weights is not None,
        )  # fmt: skip
        found = [
            checkpoint(
                self._block_sums, some, theirs, gallery, labels, first + number * size, each_weight,
                use_reentrant=False, preserve_rng_state=False,
            )
            for number, (some, theirs, each_weight) in enumerate(blocks)
        ]  # fmt: skip
        totals, numbers = zip(*found, strict=True)
        return torch.stack(totals).sum(), torch.stack(numbers).sum()

    def _block_sums(
        self,
        anchors: Tensor,
        classes: Tensor,
        gallery: Tensor,
        labels: Tensor,
        first: int,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Sum and number for anchors (n, D), which are the images from `first` of the gallery."""
        itself = torch.zeros(len(anchors), len(gallery), dtype=torch.bool, device=labels.device)
        itself[:, first : first + len(anchors)].fill_diagonal_(True)
        same = share_class(classes, labels)
        pairs = Pairs(anchors @ gallery.t(), same & ~itself, ~same)
        losses, counted = self.loss.row_losses(pairs)
        if weights is not None:
            losses = losses * weights.to(losses.dtype)
        return losses.masked_fill(~counted, 0).sum(), counted.sum()

    def end(self) -> None:
        """Finish a step after its backward pass, on all workers."""
        if self.memory is not None and self._latest is not None:
            self.memory.store(*self._latest)
        self._latest = None

    def extra_repr(self) -> str:
        """Length of an embedding, and the loss."""
        return f"dim={self.dim}, {self.loss}"
