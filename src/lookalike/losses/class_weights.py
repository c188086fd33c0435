"""Class weights: one vector or more for each class, on all workers or shared out among them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import Work

from lookalike.distributed.world import ALONE, World
from lookalike.losses.chunk_products import default_chunk
from lookalike.losses.class_sampling import PartialClassSampler
from lookalike.losses.collectives import gather_embeddings, gather_equal
from lookalike.losses.head_update import HeadUpdate, UpdateRule, create_update
from lookalike.losses.logits import inverse_norms, unit_rows

# Class weights are drawn in blocks of this many rows. Part of the meaning of a seed: another
# number draws other values.
_INIT_BLOCK = 1024


@dataclass(frozen=True)
class HeadOptions:
    """Computation of a head; `centres`, `sample_rate` and `filter_above` change the loss.

    Attributes:
        centres: rows of the weight a class, of which the nearest counts (Deng et al.,
            Sub-center ArcFace, ECCV 2020).
        chunk: classes at once; None for a default by device.
        precision: dtype of the products; None for that of the embeddings.
        dtype: of the weight and its optimizer state; float32, or bfloat16 with `update`.
        update: the optimizer that changes the weight chunk by chunk; None leaves a
            gradient to an ordinary one.
        sample_rate: part of the classes in each step besides the batch's own; below 1 with
            `update`.
        filter_above: other classes whose cosine is above this are left out of the sum (inter-class
            filtering, Partial FC, arXiv 2203.15565); None for no filter.
    """

    centres: int = 1
    chunk: int | None = None
    precision: torch.dtype | None = None
    dtype: torch.dtype = torch.float32
    update: UpdateRule | None = None
    sample_rate: float = 1.0
    filter_above: float | None = None

    def __post_init__(self) -> None:
        if self.centres < 1 or (self.chunk is not None and self.chunk < 1):
            raise ValueError(f"centres={self.centres}, chunk={self.chunk}: not positive")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate={self.sample_rate} is not in (0, 1]")
        if self.update is None and (self.sample_rate < 1 or self.dtype == torch.bfloat16):
            raise ValueError("sample_rate below 1 and a weight in bfloat16 need update")


class ClassWeights(nn.Module, ABC):
    """Class weights, with a loss of a batch of embeddings against them.

    Either every worker holds all classes (`sharded=False`), or each holds its share. Dense weights
    are sharded ones with a world of one: `peers` below are the workers that hold one weight
    together, and they are this worker alone when it is dense.

    The convention for losses and gradients, with W workers:

    - The mean over the workers of the result of `forward` is the loss of the global batch,
      however unevenly that batch lies on the workers.
    - The gradient of the embeddings is such that averaging the backbone's gradients over the
      workers, as DistributedDataParallel does, gives the gradient of that loss.
    - The gradient of the weight, after `average_gradients`, is the gradient of that loss.
      The module must stay outside DistributedDataParallel.

    With an update rule the weight never has a gradient: call `begin` before the forward pass and
    `end` after the backward pass of each step, and set `update.lr`. `end` changes the weight;
    without it the step changes nothing but the running statistics.

    Attributes:
        weight: (len(rows) * centres, D), the weights of this worker's classes, class by class;
            not normalised.
        rows: the classes that this worker holds.
        centres: weights a class.
        update: the optimizer that changes the weight chunk by chunk, with its state, or None.
        margin_state: (s,) the loss's running statistics.
    """

    margin_state: Tensor
    update: HeadUpdate | None
    sampler: PartialClassSampler | None

    def __init__(
        self,
        dim: int,
        num_classes: int,
        options: HeadOptions,
        *,
        state: tuple[float, ...] = (),
        sharded: bool = False,
        world: World = ALONE,
        seed: int = 0,
        init_std: float = 0.01,
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
            state: the running statistics before the first batch.
            sharded: each worker holds its share of the classes instead of all.
            seed: of the initial weights, which do not depend on the number of workers.
            init_std: standard deviation of the initial weights.
        """
        super().__init__()
        if dim < 1 or num_classes < 1:
            raise ValueError(f"dim={dim}, num_classes={num_classes}: not positive")
        self.dim, self.num_classes = dim, num_classes
        self.options, self.centres = options, options.centres
        self.sharded, self.world = sharded, world
        self.peers = world if sharded else ALONE
        self.rows = self.peers.shard(num_classes)
        held = range(self.rows.start * self.centres, self.rows.stop * self.centres)
        self.weight = nn.Parameter(
            initial_weight(held, dim, seed=seed, std=init_std, dtype=options.dtype)
        )
        self.register_buffer("margin_state", torch.tensor(state))
        sampled = options.sample_rate < 1
        self.update = None
        if options.update is not None:
            part = seed + 7919 * (self.peers.rank + 1)
            self.update = create_update(options.update, self.weight, lazy=sampled, seed=part)
            if not sharded:
                self.update.world = world
        self._exchange: Work | None = None
        if not sharded and world.size > 1 and self.update is None:
            self.weight.register_post_accumulate_grad_hook(self._begin_average)
        self.sampler = None
        if sampled:
            part = seed + 104729 * (self.peers.rank + 1)
            self.sampler = PartialClassSampler(len(self.rows), options.sample_rate, part)

    @property
    @abstractmethod
    def loss_name(self) -> str:
        """Name of the loss to which `margin_state` belongs."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of embeddings, logits and sums: that of the weight, float32 at least."""
        narrow = self.weight.dtype == torch.bfloat16
        return torch.float32 if narrow else self.weight.dtype

    def begin(self, unscale: float = 1.0) -> None:
        """Start a step, before its forward pass; `unscale` is 1 / loss scale."""
        if self.update is not None:
            self.update.begin(unscale)

    def end(self) -> None:
        """Finish a step after its backward pass, on all workers: the update changes the weight."""
        if self.update is not None:
            self.update.end(self.weight)

    @torch.no_grad()
    def _begin_average(self, weight: Tensor) -> None:
        # Workers add up this gradient while the backward pass goes on through the network.
        assert weight.grad is not None
        self._exchange = self.world.begin_sum(weight.grad)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Average the weight's gradient over the workers; call after backward, on all of them.

        Sharded ones have nothing to average: their gradient is exact as it is.
        """
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange = None
            assert self.weight.grad is not None
            self.weight.grad.div_(self.world.size)

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> Tensor:
        """The classes (b,) int64 whose weights are nearest by cosine; of equal ones, the lowest.

        Every worker must call it at the same time, with its own embeddings (b, D); b may be 0.
        """
        with torch.autocast(self.weight.device.type, enabled=False):
            parts = self.peers.gather(embeddings.to(self.compute_dtype))
            unit, _ = unit_rows(torch.cat(parts))  # (B, D)
            return self._nearest(unit).split([len(part) for part in parts])[self.peers.rank]

    def _nearest(self, unit: Tensor) -> Tensor:
        """The nearest class of each unit vector (B, D), over chunks of classes and peers, (B,)."""
        best = unit.new_full((len(unit),), -torch.inf)
        nearest = torch.full((len(unit),), self.rows.start, device=unit.device)
        weight, k = self.weight, self.centres
        size = self.options.chunk or max(1, default_chunk(len(unit), weight) // k)
        for start in range(0, len(self.rows), size):
            span = slice(start * k, min(start + size, len(self.rows)) * k)
            if self.update is not None and self.update.lazy:
                index = torch.arange(span.start, span.stop, device=weight.device)
                block = self.update.read(weight, index)
            else:
                block = weight[span].to(unit.dtype)  # (n * centres, D)
            cos = unit @ block.t() * inverse_norms(block, block.new_empty(len(block)))
            cos = cos.view(len(unit), len(block) // k, k).amax(2)
            value, column = cos.max(dim=1)  # of equal values, the first
            nearer = value > best
            best = value.where(nearer, best)
            nearest = (column + (self.rows.start + start)).where(nearer, nearest)
        # Peers hold ascending classes: the first of equal values is the lowest class.
        winner = gather_equal(best, self.peers).argmax(0, keepdim=True)  # (1, B)
        return gather_equal(nearest, self.peers).gather(0, winner)[0]

    def gathered(self, embeddings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, D) in `compute_dtype` and classes that this worker's weights are for.

        Those of all workers where the weights are sharded, else its own.
        """
        embeddings = embeddings.to(self.compute_dtype)
        if not self.sharded:
            return embeddings, classes
        parts = self.peers.gather(classes)
        sizes = [len(part) for part in parts]
        return gather_embeddings(embeddings, sizes, self.peers), torch.cat(parts)

    def _check(self, embeddings: Tensor, classes: Tensor) -> None:
        if embeddings.ndim != 2 or embeddings.shape != (len(classes), self.dim):
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} and classes {tuple(classes.shape)}: "
                f"expected (b, {self.dim}) and (b,)"
            )
        # Behind the first class of an image there may be -1.
        inside = (classes >= 0) & (classes < self.num_classes)
        if classes.ndim == 2:
            inside[:, 1:] |= classes[:, 1:] == -1
        if classes.device.type == "cuda":
            torch._assert_async(inside.all())  # reading it would make the host wait
        elif not inside.all():
            raise ValueError(f"class {int(classes[~inside][0])} is not in [0, {self.num_classes})")


def initial_weight(
    rows: range, dim: int, *, seed: int, std: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal weights of the rows `rows`, (len(rows), D), the same for any sharding.

    Each block of rows has a generator of its own, so that a worker draws only the blocks that it
    holds a part of.
    """
    weight = torch.empty(len(rows), dim, dtype=dtype)
    for block in range(rows.start // _INIT_BLOCK, -(-rows.stop // _INIT_BLOCK) if rows else 0):
        (state,) = np.random.SeedSequence([seed, block]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state))
        values = torch.randn(_INIT_BLOCK, dim, generator=generator).mul_(std)
        first = max(rows.start, block * _INIT_BLOCK)
        stop = min(rows.stop, (block + 1) * _INIT_BLOCK)
        weight[first - rows.start : stop - rows.start] = values[
            first - block * _INIT_BLOCK : stop - block * _INIT_BLOCK
        ]
    return weight
