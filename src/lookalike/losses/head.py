"""The head: class weights, and the loss of a batch of embeddings against them."""

import numpy as np
import torch
from torch import Tensor, nn

from lookalike.distributed import ALONE, World
from lookalike.losses.chunked import class_statistics, default_chunk, inverse_norms, unit_rows
from lookalike.losses.exchange import exchange_rows, gather_embeddings, gather_equal
from lookalike.losses.margin import Margin

# Class weights are drawn in blocks of this many classes. Part of what a seed means: another
# number draws other values.
_BLOCK = 1024


class Head(nn.Module):
    """Class weights (C, D) and the margin softmax loss on them.

    Either every worker holds all classes (`sharded=False`), or each holds its share. A dense head
    is the sharded one with a world of one: `peers` below are the workers that hold one weight
    together, and they are this worker alone when the head is dense.

    The convention for losses and gradients, with W workers:

    - The mean over the workers of what `forward` returns is the mean loss over the global batch,
      however unevenly that batch lies on the workers.
    - The gradient of the embeddings is such that averaging the backbone's gradients over the
      workers, as DistributedDataParallel does, gives the gradient of that mean loss.
    - The gradient of the weight, after `average_gradients`, is the gradient of that mean loss.
      The head must stay outside DistributedDataParallel.

    Attributes:
        weight: (len(rows), D) float32, the weights of this worker's classes; not normalised.
        rows: the classes that this worker holds.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        margin: Margin,
        *,
        label_smoothing: float = 0.0,
        sharded: bool = False,
        world: World = ALONE,
        seed: int = 0,
        init_std: float = 0.01,
        chunk: int | None = None,
    ) -> None:
        """Draw the class weights.

        The small `init_std` suits every margin. Where the logits do not carry the norm of the
        weight, a step of SGD turns a class by lr / norm^2: large weights hardly move, and small
        ones grow until the steps suit them (gradients are at right angles to the weight, so that
        only weight decay lets its norm fall). Where they do carry it, small weights start as a
        uniform softmax, instead of a confident and wrong one.

        Args:
            dim: D, length of an embedding.
            num_classes: C, over all workers.
            margin: what happens to the true class.
            label_smoothing: the share of the target that is spread evenly over the other C - 1
                classes, in [0, 1); ignored for C = 1.
            sharded: each worker holds its share of the classes instead of all.
            world: the workers.
            seed: of the initial weights, which do not depend on the number of workers.
            init_std: standard deviation of the initial weights.
            chunk: classes to take at once; None for a default by device.
        """
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1)")
        if dim < 1 or num_classes < 1 or (chunk is not None and chunk < 1):
            raise ValueError(f"dim={dim}, num_classes={num_classes}, chunk={chunk}: not positive")
        self.dim = dim
        self.num_classes = num_classes
        self.margin = margin
        self.label_smoothing = label_smoothing if num_classes > 1 else 0.0
        self.sharded = sharded
        self.world = world
        self.peers = world if sharded else ALONE
        self.chunk = chunk
        self.rows = self.peers.share(num_classes)
        self.weight = nn.Parameter(_initial_weight(self.rows, dim, seed, init_std))

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of this worker, a scalar; see the class for what its mean and gradients are.

        Every worker must call it at the same step. Computed in the dtype of the weight, inside
        an autocast region too.

        Args:
            embeddings: (b, D) raw embeddings of this worker; b may differ between workers.
            classes: (b,) int64, classes in [0, C).

        Raises:
            ValueError: the shapes do not fit, or a class is out of range.
        """
        self._check(embeddings, classes)
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.sharded:
                parts = self.peers.gather(classes)
                classes = torch.cat(parts)  # (B,)
                embeddings = gather_embeddings(
                    embeddings.to(self.weight.dtype), [len(part) for part in parts], self.peers
                )  # (B, D)
                return self._row_losses(embeddings, classes).mean()
            count = torch.full((), len(classes), device=classes.device)
            count = self.world.sum(count)  # B; a tensor, so that no one waits for the device
            losses = self._row_losses(embeddings.to(self.weight.dtype), classes)  # (b,)
            return losses.sum() * self.world.size / count

    def _row_losses(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of each row of (B, D) embeddings, (B,), the same on all peers."""
        margin = self.margin
        unit, length = unit_rows(embeddings)  # (B, D), (B,)
        own = classes - self.rows.start  # (B,) row of our weight, where we hold the class
        held = (own >= 0) & (own < len(self.rows))  # (B,)

        lse, total, target = class_statistics(
            (embeddings if margin.embedding_norm else unit) * margin.scale,
            self.weight,
            own,
            normalize=not margin.weight_norm,
            need_total=self.label_smoothing > 0,
            chunk=self.chunk,
        )  # (B,), (B,), (B, D)

        target_unit, target_length = unit_rows(target)
        true = margin.target((unit * target_unit).sum(1)) * margin.scale  # (B,)
        if margin.embedding_norm:
            true = true * length
        if margin.weight_norm:
            true = true * target_length

        # The peers' numbers: one knows the logit of the true class, each the rest of its own.
        statistics = torch.stack([true.where(held, 0), lse, total])  # (3, B)
        all_true, all_lse, all_total = exchange_rows(statistics, self.peers).unbind(1)
        true = all_true.sum(0)  # (B,)
        # -log p_y = log(1 + sum over j != y of exp(z_j - z_y)); the 1 keeps the sum finite where
        # there is no other class.
        zero = torch.zeros_like(all_lse[:1])
        losses = torch.logsumexp(torch.cat([all_lse - true, zero]), 0)  # (B,)
        if self.label_smoothing > 0:
            others = all_total.sum(0) / (self.num_classes - 1)  # (B,) mean logit
            losses = losses + self.label_smoothing * (true - others)
        return losses

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Average the weight's gradient over the workers; call after backward, on all of them.

        A sharded head has nothing to average: its gradient is exact as it is.
        """
        if not self.sharded and self.world.size > 1 and self.weight.grad is not None:
            self.world.sum(self.weight.grad).div_(self.world.size)

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> Tensor:
        """The class whose weight is nearest by cosine; of equally near ones, the lowest.

        Every worker must call it at the same time, with as many embeddings as it has.

        Args:
            embeddings: (b, D) of this worker; b may be 0 and differ between workers.

        Returns:
            (b,) int64 classes in [0, C).
        """
        with torch.autocast(self.weight.device.type, enabled=False):
            parts = self.peers.gather(embeddings.to(self.weight.dtype))
            unit, _ = unit_rows(torch.cat(parts))  # (B, D)
            best = unit.new_full((len(unit),), -torch.inf)
            nearest = torch.full((len(unit),), self.rows.start, device=unit.device)
            size = default_chunk(len(unit), self.weight) if self.chunk is None else self.chunk
            for start in range(0, len(self.rows), size):
                block = self.weight[start : start + size]  # (n, D)
                cos = unit @ block.t() * inverse_norms(block, block.new_empty(len(block)))
                value, index = cos.max(dim=1)  # of equal values, the first
                nearer = value > best
                best = value.where(nearer, best)
                nearest = (index + (self.rows.start + start)).where(nearer, nearest)
            # Peers hold ascending classes: the first of equal values is the lowest class.
            winner = gather_equal(best, self.peers).argmax(0, keepdim=True)  # (1, B)
            nearest = gather_equal(nearest, self.peers).gather(0, winner)[0]  # (B,)
            return nearest.split([len(part) for part in parts])[self.peers.rank]

    def extra_repr(self) -> str:
        """Sizes, margin, and the share of the classes held here."""
        held = ""
        if self.sharded:
            span = f"classes {self.rows.start} to {self.rows.stop - 1}"
            held = f", {span if self.rows else 'no classes'} here"
        smoothing = f", label_smoothing={self.label_smoothing:g}" if self.label_smoothing else ""
        return f"dim={self.dim}, num_classes={self.num_classes}, {self.margin}{smoothing}{held}"

    def _check(self, embeddings: Tensor, classes: Tensor) -> None:
        if embeddings.ndim != 2 or embeddings.shape != (len(classes), self.dim):
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} and classes {tuple(classes.shape)}: "
                f"expected (b, {self.dim}) and (b,)"
            )
        inside = ((classes >= 0) & (classes < self.num_classes)).all()
        if classes.device.type == "cuda":
            torch._assert_async(inside)  # asking would make the host wait for the device
        elif not inside:
            wrong = classes[(classes < 0) | (classes >= self.num_classes)]
            raise ValueError(f"class {int(wrong[0])} is not in [0, {self.num_classes})")


def _initial_weight(rows: range, dim: int, seed: int, std: float) -> Tensor:
    """The weights of the classes `rows`, (len(rows), D), the same for any sharding.

    Each block of classes has a generator of its own, so that a worker draws only the blocks that
    it holds a part of.
    """
    weight = torch.empty(len(rows), dim)
    for block in range(rows.start // _BLOCK, -(-rows.stop // _BLOCK)):
        (state,) = np.random.SeedSequence([seed, block]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state))
        values = torch.randn(_BLOCK, dim, generator=generator)
        first = max(rows.start, block * _BLOCK)
        stop = min(rows.stop, (block + 1) * _BLOCK)
        weight[first - rows.start : stop - rows.start] = values[
            first - block * _BLOCK : stop - block * _BLOCK
        ]
    return weight.mul_(std)
