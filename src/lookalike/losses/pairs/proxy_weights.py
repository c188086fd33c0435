"""Class weights as proxies, and the Proxy Anchor loss of the global batch against them."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lookalike.distributed.world import ALONE, World
from lookalike.losses.chunk_products import default_chunk
from lookalike.losses.class_weights import ClassWeights, HeadOptions
from lookalike.losses.collectives import gather_own_gradient
from lookalike.losses.logits import unit_rows
from lookalike.losses.pairs.pair_loss import MASKED
from lookalike.losses.pairs.proxy_anchor import ProxyAnchor


class ProxyWeights(ClassWeights):
    """One proxy a class and the Proxy Anchor loss on them.

    The loss of a class is over the images of the global batch, each class on its own. So a chunk of
    classes is computed at a time, and again in the backward pass. Sharded proxies see the gathered
    embeddings; dense ones those of their worker, and the sums of all workers are then put together:
    two numbers a class.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        loss: ProxyAnchor,
        *,
        chunk: int | None = None,
        sharded: bool = False,
        world: World = ALONE,
        seed: int = 0,
        init_std: float = 0.01,
    ) -> None:
        """Draw the proxies; other arguments as of `ClassWeights`.

        Args:
            loss: margin and scale.
            chunk: classes at once; None for a default by device.
        """
        super().__init__(
            dim, num_classes, HeadOptions(chunk=chunk),
            sharded=sharded, world=world, seed=seed, init_std=init_std,
        )  # fmt: skip
        self.loss = loss

    @property
    def loss_name(self) -> str:
        return self.loss.name

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of the global batch, a scalar, the same on all workers.

        Every worker must call it at the same step. Computed in float32 at least, inside an
        autocast region too.

        `embeddings` (b, D) are raw, b may differ between workers; `classes` (b,) int64 are in
        [0, C), or (b, L) where images may have several, with -1 behind the last: an image is one of
        each of its classes.

        Raises:
            ValueError: the shapes do not fit, or a class is out of range.
        """
        self._check(embeddings, classes)
        with torch.autocast(self.weight.device.type, enabled=False):
            embeddings, classes = self.gathered(embeddings, classes)
            unit, _ = unit_rows(embeddings)
            sums = self._log_sums(unit, classes - self.rows.start)  # (2, c)
            if not self.sharded:
                sums = gather_own_gradient(sums, self.world).logsumexp(0)
            present = self.peers.sum((sums[0] > MASKED / 2).sum())
            near, far = sums.logaddexp(torch.zeros_like(sums)).sum(1)
            part = near / present + far / self.num_classes
            loss = gather_own_gradient(part[None], self.peers).sum()
            if self.sharded:
                return loss
            # Each worker has the gradient of its own rows, and workers average gradients.
            return loss + (self.world.size - 1) * (loss - loss.detach())

    def _log_sums(self, unit: Tensor, own: Tensor) -> Tensor:
        """Logarithms of the sums in P and N over `unit` (b, D), for each class held, (2, c).

        `own` (b,) or (b, L) are the rows of the weight of each one's classes; they may be held
        elsewhere.
        """
        size = self.options.chunk or default_chunk(len(unit), self.weight)
        blocks = self.weight.split(size)
        if len(blocks) == 1:
            return self._block_sums(unit, own, blocks[0])
        return torch.cat(
            [
                checkpoint(
                    self._block_sums, unit, own - number * size, block,
                    use_reentrant=False, preserve_rng_state=False,
                )
                for number, block in enumerate(blocks)
            ],
            dim=1,
        )  # fmt: skip

    def _block_sums(self, unit: Tensor, own: Tensor, block: Tensor) -> Tensor:
        proxies, _ = unit_rows(block.to(unit.dtype))  # (n, D)
        cos = unit @ proxies.t()  # (b, n)
        mine = own[..., None] == torch.arange(len(block), device=own.device)
        if own.ndim == 2:
            mine = mine.any(1)  # (b, n)
        near = self.loss.positive(cos).masked_fill(~mine, MASKED).logsumexp(0)
        far = self.loss.negative(cos).masked_fill(mine, MASKED).logsumexp(0)
        return torch.stack([near, far])

    def extra_repr(self) -> str:
        """Sizes, and margin and scale."""
        return f"dim={self.dim}, num_classes={self.num_classes}, {self.loss}"
