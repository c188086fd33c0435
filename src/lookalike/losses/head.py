"""Head: class weights, and the margin softmax loss of a batch of embeddings against them."""

from dataclasses import replace

import torch
from torch import Tensor

from lookalike.distributed.world import ALONE, World
from lookalike.losses.chunk_products import ChunkOptions, shared_chunk
from lookalike.losses.chunk_softmax import LogitModulation
from lookalike.losses.class_sampling import positions
from lookalike.losses.class_statistics import class_statistics
from lookalike.losses.class_weights import ClassWeights, HeadOptions
from lookalike.losses.collectives import gather_own_gradient
from lookalike.losses.logits import logit_modulation, target_logits, unit_rows
from lookalike.losses.margin import Margin, RowContext


class Head(ClassWeights):
    """Class weights and the margin softmax loss on them.

    An image may have several classes. None of them is then among the others of the softmax, and its
    loss is the mean over them: with Y the set of its classes, t_y the logit of class y with the
    margin and z_j those of the others,

        loss = 1/|Y| * sum over y in Y of log(1 + sum over j not in Y of exp(z_j - t_y))

    The target is shared equally as in Mahajan et al., Exploring the Limits of Weakly Supervised
    Pretraining (ECCV 2018, arXiv 1805.00932); the classes of an image do not compete with each
    other as the positives of an anchor do not in the N-pair loss (Sohn, NeurIPS 2016).

    Attributes:
        class_counts: (C,) training images of each class where the margin uses them, else (1,).
    """

    class_counts: Tensor

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
        """Draw the class weights; other arguments as of `ClassWeights`.

        Args:
            label_smoothing: the share of the target that is spread evenly over the other C - 1
                classes, in [0, 1); ignored for C = 1.
            class_counts: (C,) training images of each class; one each by default.
        """
        options = options or HeadOptions()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1)")
        if options.centres > 1 and margin.weight_norm:
            raise ValueError(f"several centres need normalised classes; {margin.name} has none")
        if options.filter_above is not None and (label_smoothing or margin.weight_norm):
            raise ValueError("filter_above needs normalised classes, and no label smoothing")
        super().__init__(
            dim, num_classes, options, state=margin.initial_state,
            sharded=sharded, world=world, seed=seed, init_std=init_std,
        )  # fmt: skip
        self.margin = margin
        self.label_smoothing = label_smoothing if num_classes > 1 else 0.0
        counts = torch.ones(1)
        if margin.uses_count and class_counts is not None:
            counts = class_counts.float()
        self.register_buffer("class_counts", counts, persistent=False)
        self.chunk_options = ChunkOptions(
            normalize=not margin.weight_norm,
            need_total=self.label_smoothing > 0,
            need_length=margin.weight_norm and margin.modifies_target,
            centres=self.centres,
            chunk=options.chunk,
            precision=options.precision,
        )
        self._workspace: dict[str, Tensor] = {}
        # Margins that need the true cosines of all peers before the other logits.
        self._needs_true_cosines = (
            bool(margin.initial_state) or type(margin).negatives is not Margin.negatives
        )

    @property
    def loss_name(self) -> str:
        return self.margin.name

    def forward(self, embeddings: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of this worker, a scalar; see the class for the convention.

        Every worker must call it at the same step. Computed in `compute_dtype`, inside an
        autocast region too.

        `embeddings` (b, D) are raw, b may differ between workers; `classes` (b,) int64 are in
        [0, C), or (b, L) where images may have several, different ones, with -1 behind the last.
        `weights` (b,) multiply the losses of the rows, before their mean.

        Raises:
            ValueError: the shapes do not fit, or a class is out of range.
        """
        self._check(embeddings, classes)
        with torch.autocast(self.weight.device.type, enabled=False):
            embeddings, classes = self.gathered(embeddings, classes)
            if self.sharded:
                losses = self._row_losses(embeddings, classes)  # (B,)
                if weights is not None:
                    losses = losses * torch.cat(self.peers.gather(weights)).to(losses.dtype)
                return losses.mean()
            count = torch.full((), len(classes), device=classes.device)
            count = self.world.sum(count)  # B; a tensor, so that the host need not wait
            losses = self._row_losses(embeddings, classes)  # (b,)
            if weights is not None:
                losses = losses * weights.to(losses.dtype)
            return losses.sum() * self.world.size / count

    def _row_losses(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of each row of (B, D) embeddings, (B,), the same on all peers."""
        margin, scale = self.margin, self.margin.scale
        unit, length = unit_rows(embeddings)  # (B, D), (B,)
        labels = None if classes.ndim == 1 else _Labels(classes)
        own = classes - self.rows.start  # row of our weight, where we hold the class
        held = (own >= 0) & (own < len(self.rows))
        counted = classes if len(self.class_counts) > 1 else torch.zeros_like(classes)
        context = RowContext(length, self.class_counts[counted], self.margin_state)
        index, own = self._sample(own)

        def modulate(true: Tensor) -> LogitModulation | None:
            nonlocal context
            cos = true
            if self._needs_true_cosines:
                cos = gather_own_gradient((true / scale).where(held, 0), self.peers).sum(0)
            if labels is not None:
                cos = labels.mean(cos)  # (B,)
            if self._needs_true_cosines:
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
        )  # (B,) each, the last two of the shape of the classes
        if labels is None:
            true = target_logits(margin, raw, weight_length, context)
        else:
            true = labels.target_logits(margin, raw, weight_length, context)

        # The peers' numbers: one holds the logit of a true class, each the rest of its own.
        statistics = torch.cat([_columns(true.where(held, 0)), torch.stack([lse, total])])
        gathered = gather_own_gradient(statistics, self.peers)  # (peers, L + 2, B)
        true = gathered[:, :-2].sum(0)  # (L, B)
        all_lse, all_total = gathered[:, -2, None], gathered[:, -1]
        # -log p_y = log(1 + sum over j != y of exp(z_j - z_y)); the 1 keeps the sum finite where
        # there is no other class.
        zero = torch.zeros_like(true[None])
        losses = torch.logsumexp(torch.cat([all_lse - true, zero]), 0)  # (L, B)
        if self.label_smoothing > 0:
            mine = 1 if labels is None else labels.count
            seen = torch.as_tensor(self._classes_seen(index) - mine).clamp_min(1)
            losses = losses + self.label_smoothing * (true - all_total.sum(0) / seen)
        losses = losses[0] if labels is None else labels.mean(losses.t())  # (B,)
        penalty = margin.penalty(context)
        if penalty is None:
            return losses
        # All peers have the same penalty; its gradient comes from the one that holds the class.
        first = held if labels is None else held[:, 0]
        return losses + penalty.where(first, penalty.detach())

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

    def extra_repr(self) -> str:
        """Sizes, margin, and the share of the classes held here."""
        held = ""
        if self.sharded:
            span = f"classes {self.rows.start} to {self.rows.stop - 1}"
            held = f", {span if self.rows else 'no classes'} here"
        smoothing = f", label_smoothing={self.label_smoothing:g}" if self.label_smoothing else ""
        return f"dim={self.dim}, num_classes={self.num_classes}, {self.margin}{smoothing}{held}"


class _Labels:
    """The classes of images that may have several, (B, L), with -1 behind the last.

    Attributes:
        count: (B,) how many each has.
    """

    def __init__(self, classes: Tensor) -> None:
        self._real = classes >= 0  # (B, L)
        self.count = self._real.sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the classes of each image, (B,), of (B, L) values."""
        return values.where(self._real, 0).sum(1) / self.count

    def target_logits(
        self, margin: Margin, raw: Tensor, weight_length: Tensor, context: RowContext
    ) -> Tensor:
        """`target_logits` of (B, L) logits."""
        each = replace(
            context,
            length=context.length.repeat_interleave(raw.shape[1]),
            count=context.count.flatten(),
        )
        return target_logits(margin, raw.flatten(), weight_length.flatten(), each).view_as(raw)


def _columns(values: Tensor) -> Tensor:
    """(B,) or (B, L) values as rows, (1, B) or (L, B)."""
    return values[None] if values.ndim == 1 else values.t()
