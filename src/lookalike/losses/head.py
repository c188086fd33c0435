"""Head: class weights, and the margin softmax loss of a batch of embeddings against them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lookalike.distributed.world import ALONE, World
from lookalike.losses.chunk_products import ChunkOptions, default_chunk, shared_chunk
from lookalike.losses.chunk_softmax import LogitModulation
from lookalike.losses.class_sampling import PartialClassSampler, positions
from lookalike.losses.class_statistics import class_statistics
from lookalike.losses.collectives import gather_embeddings, gather_equal, gather_own_gradient
from lookalike.losses.head_update import HeadUpdate, UpdateRule, create_update
from lookalike.losses.logits import inverse_norms, logit_modulation, target_logits, unit_rows
from lookalike.losses.margin import Margin, RowContext

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


class Head(nn.Module):
    """Class weights and the margin softmax loss on them.

    Either every worker holds all classes (`sharded=False`), or each holds its share. A dense head
    is the sharded one with a world of one: `peers` below are the workers that hold one weight
    together, and they are this worker alone when the head is dense.

    The convention for losses and gradients, with W workers:

    - The mean over the workers of the result of `forward` is the mean loss over the global batch,
      however unevenly that batch lies on the workers.
    - The gradient of the embeddings is such that averaging the backbone's gradients over the
      workers, as DistributedDataParallel does, gives the gradient of that mean loss.
    - The gradient of the weight, after `average_gradients`, is the gradient of that mean loss.
      The head must stay outside DistributedDataParallel.

    With an update rule the weight never has a gradient: call `begin` before the forward pass and
    `end` after the backward pass of each step, and set `update.lr`. `end` changes the weight;
    without it the step changes nothing but the margin's running statistics.

    Attributes:
        weight: (len(rows) * centres, D), the weights of this worker's classes, class by class;
            not normalised.
        rows: the classes that this worker holds.
        centres: weights a class.
        update: the optimizer that changes the weight chunk by chunk, with its state, or None.
        margin_state: (s,) the margin's running statistics.
        class_counts: (C,) training images of each class where the margin uses them, else (1,).
    """

    margin_state: Tensor
    class_counts: Tensor
    update: HeadUpdate | None
    sampler: PartialClassSampler | None

    def __init__(
        self,
        dim: int,
        num_classes: int,
        margin: Margin,
        options: HeadOptions | None = None,
        *,
        label_smoothing: float = 0.0,
        sharded: bool = False,
        world: World = ALONE,
        seed: int = 0,
        init_std: float = 0.01,
        class_counts: Tensor | None = None,
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
            margin: on the true class.
            options: of the computation.
            label_smoothing: the share of the target that is spread evenly over the other C - 1
                classes, in [0, 1); ignored for C = 1.
            sharded: each worker holds its share of the classes instead of all.
            world: the workers.
            seed: of the initial weights, which do not depend on the number of workers.
            init_std: standard deviation of the initial weights.
            class_counts: (C,) training images of each class; one each by default.
        """
        super().__init__()
        options = options or HeadOptions()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1)")
        if dim < 1 or num_classes < 1:
            raise ValueError(f"dim={dim}, num_classes={num_classes}: not positive")
        if options.centres > 1 and margin.weight_norm:
            raise ValueError(f"several centres need normalised classes; {margin.name} has none")
        if options.filter_above is not None and (label_smoothing or margin.weight_norm):
            raise ValueError("filter_above needs normalised classes, and no label smoothing")
        self.dim, self.num_classes = dim, num_classes
        self.margin, self.options, self.centres = margin, options, options.centres
        self.label_smoothing = label_smoothing if num_classes > 1 else 0.0
        self.sharded, self.world = sharded, world
        self.peers = world if sharded else ALONE
        self.rows = self.peers.shard(num_classes)
        held = range(self.rows.start * self.centres, self.rows.stop * self.centres)
        self.weight = nn.Parameter(
            initial_weight(held, dim, seed=seed, std=init_std, dtype=options.dtype)
        )
        counts = torch.ones(1)
        if margin.uses_count and class_counts is not None:
            counts = class_counts.float()
        self.register_buffer("class_counts", counts, persistent=False)
        self.register_buffer("margin_state", torch.tensor(margin.initial_state))
        self.chunk_options = ChunkOptions(
            normalize=not margin.weight_norm,
            need_total=self.label_smoothing > 0,
            need_length=margin.weight_norm and margin.modifies_target,
            centres=self.centres,
            chunk=options.chunk,
            precision=options.precision,
        )
        sampled = options.sample_rate < 1
        self.update = None
        if options.update is not None:
            part = seed + 7919 * (self.peers.rank + 1)
            self.update = create_update(options.update, self.weight, lazy=sampled, seed=part)
            if not sharded:
                self.update.world = world
        self.sampler = None
        if sampled:
            part = seed + 104729 * (self.peers.rank + 1)
            self.sampler = PartialClassSampler(len(self.rows), options.sample_rate, part)
        self._workspace: dict[str, Tensor] = {}
        # Margins that need the true cosines of all peers before the other logits.
        self._needs_true_cosines = (
            bool(margin.initial_state) or type(margin).negatives is not Margin.negatives
        )

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

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of this worker, a scalar; see the class for the convention.

        Every worker must call it at the same step. Computed in `compute_dtype`, inside an
        autocast region too.

        `embeddings` (b, D) are raw, b may differ between workers; `classes` (b,) int64 are in
        [0, C).

        Raises:
            ValueError: the shapes do not fit, or a class is out of range.
        """
        self._check(embeddings, classes)
        with torch.autocast(self.weight.device.type, enabled=False):
            embeddings = embeddings.to(self.compute_dtype)
            if self.sharded:
                parts = self.peers.gather(classes)
                classes = torch.cat(parts)  # (B,)
                embeddings = gather_embeddings(
                    embeddings, [len(part) for part in parts], self.peers
                )  # (B, D)
                return self._row_losses(embeddings, classes).mean()
            count = torch.full((), len(classes), device=classes.device)
            count = self.world.sum(count)  # B; a tensor, so that the host need not wait
            losses = self._row_losses(embeddings, classes)  # (b,)
            return losses.sum() * self.world.size / count

    def _row_losses(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of each row of (B, D) embeddings, (B,), the same on all peers."""
        margin, scale = self.margin, self.margin.scale
        unit, length = unit_rows(embeddings)  # (B, D), (B,)
        own = classes - self.rows.start  # (B,) row of our weight, where we hold the class
        held = (own >= 0) & (own < len(self.rows))  # (B,)
        counted = classes if len(self.class_counts) > 1 else torch.zeros_like(classes)
        context = RowContext(length, self.class_counts[counted], self.margin_state)
        index, own = self._sample(own)

        def modulate(true: Tensor) -> LogitModulation | None:
            nonlocal context
            cos = true
            if self._needs_true_cosines:
                cos = gather_own_gradient((true / scale).where(held, 0), self.peers).sum(0)
                context = replace(context, state=self._advance(cos, length.detach()))
            return logit_modulation(margin, cos, context, self.options.filter_above)

        lse, total, raw, weight_length = class_statistics(
            (embeddings if margin.embedding_norm else unit) * scale,
            self.weight,
            own,
            self._step_options(),
            index=index,
            modulate=modulate,
            update=self.update,
            workspace=self._workspace,
        )  # (B,) each
        true = target_logits(margin, raw, weight_length, context)

        # The peers' numbers: one holds the logit of the true class, each the rest of its own.
        statistics = torch.stack([true.where(held, 0), lse, total])  # (3, B)
        all_true, all_lse, all_total = gather_own_gradient(statistics, self.peers).unbind(1)
        true = all_true.sum(0)  # (B,)
        # -log p_y = log(1 + sum over j != y of exp(z_j - z_y)); the 1 keeps the sum finite where
        # there is no other class.
        zero = torch.zeros_like(all_lse[:1])
        losses = torch.logsumexp(torch.cat([all_lse - true, zero]), 0)  # (B,)
        if self.label_smoothing > 0:
            others = all_total.sum(0) / (self._classes_seen(index) - 1)  # (B,) mean logit
            losses = losses + self.label_smoothing * (true - others)
        penalty = margin.penalty(context)
        if penalty is None:
            return losses
        # All peers have the same penalty; its gradient comes from the one that holds the class.
        return losses + penalty.where(held, penalty.detach())

    def _sample(self, own: Tensor) -> tuple[Tensor | None, Tensor]:
        """The classes of this step, and the positions of the batch's among them."""
        if self.sampler is None or self.update is None:
            return None, own
        positives = own
        if not self.sharded and self.world.size > 1:  # all workers draw alike
            positives = torch.cat(self.world.gather(own))
        index = self.sampler.draw(positives, self.update.steps)
        return index, positions(index, own)

    def _classes_seen(self, index: Tensor | None) -> int | Tensor:
        """The number of classes that take part in this step, on all peers together."""
        if index is None:
            return self.num_classes
        return self.peers.sum(torch.tensor(len(index), device=index.device))

    @torch.no_grad()
    def _advance(self, cos: Tensor, length: Tensor) -> Tensor:
        """The margin's running statistics with this batch in them, kept while training."""
        observed = self.margin.observe(cos, length)  # (k, B)
        ones = torch.ones_like(observed[:0].sum(0, keepdim=True))  # (1, B)
        sums = torch.cat([observed, ones]).sum(1)  # (k + 1,)
        if not self.sharded:
            sums = self.world.sum(sums)
        state = self.margin.advance(self.margin_state, sums[:-1] / sums[-1], sums[-1])
        state = state.where(state.isfinite(), self.margin_state)
        if self.training:
            self.margin_state.copy_(state)
        return state

    def _step_options(self) -> ChunkOptions:
        options = self.chunk_options
        if options.chunk is None and self.update is not None and self.update.world.size > 1:
            return replace(options, chunk=shared_chunk(self.weight, self.centres))
        return options

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Average the weight's gradient over the workers; call after backward, on all of them.

        A sharded head has nothing to average: its gradient is exact as it is.
        """
        if not self.sharded and self.world.size > 1 and self.weight.grad is not None:
            self.world.sum(self.weight.grad).div_(self.world.size)

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
            torch._assert_async(inside)  # reading it would make the host wait
        elif not inside:
            wrong = classes[(classes < 0) | (classes >= self.num_classes)]
            raise ValueError(f"class {int(wrong[0])} is not in [0, {self.num_classes})")


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
