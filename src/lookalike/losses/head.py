"""The head: class weights, and the loss of a batch of embeddings against them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lookalike.distributed.world import ALONE, World
from lookalike.losses.chunk_softmax import LogitBend
from lookalike.losses.chunked import class_statistics
from lookalike.losses.class_chunks import Update, Walk, shared_chunk, stash_bytes
from lookalike.losses.class_optimizers import create_update
from lookalike.losses.class_sampling import Sampler, positions
from lookalike.losses.collectives import AveragedUpdate, exchange_rows, gather_embeddings
from lookalike.losses.fused_update import HeadUpdate
from lookalike.losses.head_options import HeadOptions
from lookalike.losses.logits import bent_logits, target_logits
from lookalike.losses.margin import Margin, Rows
from lookalike.losses.nearest_class import nearest_class
from lookalike.losses.normalization import unit_rows
from lookalike.losses.weight_init import initial_weight


class Head(nn.Module):
    """Class weights and the margin softmax loss on them.

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
    sampler: Sampler | None

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
            margin: what happens to the true class.
            options: how to compute.
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
        options.check(margin, label_smoothing)
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
        self.walk = Walk(
            normalize=not margin.weight_norm,
            need_total=self.label_smoothing > 0,
            centres=self.centres,
            chunk=options.chunk,
            precision=options.precision,
            need_length=margin.weight_norm and margin.bends_target,
        )
        sampled = options.sample_rate < 1
        self.update = None
        if options.update is not None:
            part = seed + 7919 * (self.peers.rank + 1)
            self.update = create_update(options.update, self.weight, lazy=sampled, seed=part)
        self.sampler = None
        if sampled:
            part = seed + 104729 * (self.peers.rank + 1)
            self.sampler = Sampler(len(self.rows), options.sample_rate, part)
        self._workspace: dict[str, Tensor] = {}
        # Margins that look at the true cosines before the others are computed.
        self._looks_ahead = (
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
        """The loss of this worker, a scalar; see the class for what its mean and gradients are.

        Every worker must call it at the same step. Computed in `compute_dtype`, inside an
        autocast region too.

        Args:
            embeddings: (b, D) raw embeddings of this worker; b may differ between workers.
            classes: (b,) int64, classes in [0, C).

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
            count = self.world.sum(count)  # B; a tensor, so that no one waits for the device
            losses = self._row_losses(embeddings, classes)  # (b,)
            return losses.sum() * self.world.size / count

    def _row_losses(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of each row of (B, D) embeddings, (B,), the same on all peers."""
        margin, scale = self.margin, self.margin.scale
        unit, length = unit_rows(embeddings)  # (B, D), (B,)
        own = classes - self.rows.start  # (B,) row of our weight, where we hold the class
        held = (own >= 0) & (own < len(self.rows))  # (B,)
        counted = classes if len(self.class_counts) > 1 else torch.zeros_like(classes)
        facts = Rows(length, self.class_counts[counted], self.margin_state)
        index, own = self._sample(own)

        def bend(true: Tensor) -> LogitBend | None:
            nonlocal facts
            if self._looks_ahead:
                cos = exchange_rows((true / scale).where(held, 0), self.peers).sum(0)
                facts = replace(facts, state=self._advance(cos, length.detach()))
            else:
                cos = true
            return bent_logits(margin, cos, facts, self.options.filter_above)

        lse, total, raw, target_length = class_statistics(
            (embeddings if margin.embedding_norm else unit) * scale,
            self.weight,
            own,
            self._walk(),
            index=index,
            bend=bend,
            update=self._averaged(),
            workspace=self._workspace,
        )  # (B,) each

        true = target_logits(margin, raw, target_length, facts)

        # The peers' numbers: one knows the logit of the true class, each the rest of its own.
        statistics = torch.stack([true.where(held, 0), lse, total])  # (3, B)
        all_true, all_lse, all_total = exchange_rows(statistics, self.peers).unbind(1)
        true = all_true.sum(0)  # (B,)
        # -log p_y = log(1 + sum over j != y of exp(z_j - z_y)); the 1 keeps the sum finite where
        # there is no other class.
        zero = torch.zeros_like(all_lse[:1])
        losses = torch.logsumexp(torch.cat([all_lse - true, zero]), 0)  # (B,)
        if self.label_smoothing > 0:
            others = all_total.sum(0) / (self._classes_seen(index) - 1)  # (B,) mean logit
            losses = losses + self.label_smoothing * (true - others)
        penalty = margin.penalty(facts)
        if penalty is None:
            return losses
        # All peers have the same penalty; its gradient comes from the one that holds the class.
        return losses + penalty.where(held, penalty.detach())

    def _sample(self, own: Tensor) -> tuple[Tensor | None, Tensor]:
        """The classes of this step, and where those of the batch are among them."""
        if self.sampler is None or self.update is None:
            return None, own
        positives = own
        if not self.sharded and self.world.size > 1:  # all workers draw alike
            positives = torch.cat(self.world.gather(own))
        index = self.sampler.draw(positives, self.update.steps)
        return index, positions(index, own)

    def _classes_seen(self, index: Tensor | None) -> int | Tensor:
        """How many classes take part in this step, on all peers together."""
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

    def _walk(self) -> Walk:
        """How to walk over the classes in a step."""
        chunk = self.walk.chunk
        if chunk is None and isinstance(self._averaged(), AveragedUpdate):
            chunk = shared_chunk(self.weight, self.centres)
        stash = stash_bytes(self.options.stash, self.weight)
        return replace(self.walk, stash=stash, chunk=chunk)

    def _averaged(self) -> Update | None:
        """The update, with gradients averaged over the workers where each has a part of them."""
        if self.update is None or self.sharded or self.world.size == 1:
            return self.update
        return AveragedUpdate(self.update, self.world)

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
            parts = self.peers.gather(embeddings.to(self.compute_dtype))
            unit, _ = unit_rows(torch.cat(parts))  # (B, D)
            nearest = nearest_class(
                unit, self.weight, self.rows, self.walk, self.update, self.peers
            )
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
