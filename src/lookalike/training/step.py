"""Training step: forward, backward, update; skipped on every worker alike if not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import World
from lookalike.model.batchnorm import freeze_statistics, share_statistics
from lookalike.model.freed_memory import keep_freed_memory
from lookalike.model.training_network import TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.gradients import all_finite, scale_gradients, squared_norm


@dataclass(frozen=True)
class Outcome:
    """Result of a step, on all workers together.

    Attributes:
        losses: means over the global batch: `loss` is the total, `<head>_loss` that of a head.
        grad_norm: of all gradients together, before clipping; class weights that are updated in
            the backward pass have none.
        finite: True if everything was finite and the weights were updated; otherwise nothing has
            changed.
    """

    losses: dict[str, float]
    grad_norm: float
    finite: bool


class TrainStep:
    """Training step of a run.

    Args:
        trained: network, heads, optimizer, loss scale and average.
        loss_weights: by the head's name.
        coarser: of losses on coarser classes by name, (C,) the class there of each class.
        seed: of dropout.
        precision: float32, bfloat16 or float16; of the network, never of the heads.
        clip_grad_norm: largest norm of all gradients together, 0 for any.
        freeze_batchnorm: keep the statistics of the backbone's batch norms.
        accumulate: micro-batches of each worker's part of a batch.
        recomputing: the backbone computes activations again in the backward pass.
        synchronised: batch norms see the global batch, so that all workers have its statistics.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        loss_weights: dict[str, float],
        coarser: dict[str, Tensor] | None = None,
        world: World,
        seed: int,
        precision: torch.dtype = torch.float32,
        clip_grad_norm: float = 0.0,
        freeze_batchnorm: bool = False,
        accumulate: int = 1,
        recomputing: bool = False,
        synchronised: bool = False,
    ) -> None:
        assert isinstance(trained.network, TrainingNetwork)
        self.network = trained.network
        self.trained = trained
        self.loss_weights = loss_weights
        self.coarser = coarser or {}
        self.world = world
        self.seed = seed
        self.precision = precision
        self.clip_grad_norm = clip_grad_norm
        self.freeze_batchnorm = freeze_batchnorm
        backbone = self.network.embedder.backbone
        self._learning = [value for value in backbone.parameters() if value.requires_grad]
        self.accumulate = accumulate
        self.recomputing = recomputing
        self.synchronised = synchronised
        self._statistics = _Statistics.of(trained)
        self._wrapped: DistributedDataParallel | None = None
        self._wrapped_frozen: bool | None = None
        self._updating = [head for head in trained.heads.values() if head.update is not None]
        if world.device.type == "cpu":
            keep_freed_memory()
        self._shards = [head.weight for head in trained.heads.values() if head.sharded]
        if trained.shards is not None:
            self._shards += trained.shards.parts.values()
        self._shared = [
            *(() if trained.shards is not None else self.network.parameters()),
            *(head.weight for head in trained.heads.values() if not head.sharded),
        ]

    def prepare(self, *, frozen: bool) -> None:
        """Put the network in training mode; call after each change of the mode or of `frozen`."""
        backbone = self.network.embedder.backbone
        self.network.train()
        for parameter in self._learning:
            parameter.requires_grad_(not frozen)
        if frozen:
            backbone.eval()
        elif self.freeze_batchnorm:
            freeze_statistics(backbone)
        if self.trained.shards is None and self.world.size > 1 and frozen != self._wrapped_frozen:
            # DDP registers the trainable parameters when it is created: one for each phase.
            self._wrapped = None
            self._wrapped = DistributedDataParallel(
                self.network,
                device_ids=[self.world.device] if self.world.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
            self._wrapped_frozen = frozen

    def __call__(self, batch: Batch, step: int) -> Outcome:
        """Train on this worker's part of the global batch.

        A step whose loss, gradients or running statistics are not finite on any worker changes
        nothing on any.
        """
        self._statistics.save()
        if self.trained.shards is not None and not self.synchronised:
            share_statistics(self.network, self.world)  # as DistributedDataParallel does
        for head in self._updating:
            head.begin(1 / self.trained.scaler.scale)
        if self.accumulate == 1:
            images = batch.images.to(self.world.device, non_blocking=True)
            embeddings, branch = self._embed(self._wrapped or self.network, images, step)
            del images  # not kept during the backward pass, unless the network needs it
            losses = self._losses(embeddings, branch, batch)
            del embeddings, branch
            with self._recomputed():
                self._backward(losses["loss"])
        else:
            losses = self._in_micro_batches(batch, step)
        if self.trained.shards is not None:
            self.trained.shards.take_gradients()
        for head in self.trained.heads.values():
            head.average_gradients()
        scale_gradients([*self._shared, *self._shards], 1 / self.trained.scaler.scale)
        outcome = self._update(losses, step)
        if not outcome.finite:
            self._statistics.restore()
        return outcome

    def _in_micro_batches(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Forward and backward pass with the activations of one micro-batch at a time.

        The embeddings of the whole batch are computed first, without activations; the heads see
        all of them at once, so that loss, margin statistics, class samples and class weights are
        those of one step on the whole batch; then each micro-batch goes through the network again
        and back with the gradients of its embeddings (Gao et al., Scaling Deep Contrastive
        Learning Batch Size under Memory Limited Setup, arXiv 2101.06983).
        """
        images = batch.images.to(self.world.device, non_blocking=True)
        parts = images.tensor_split(self.accumulate)
        with torch.no_grad():
            found = [
                self._embed(self.network, part, step, number) for number, part in enumerate(parts)
            ]
        self._statistics.restore()  # the second pass moves them
        outputs = [torch.cat(each).requires_grad_() for each in _columns(found)]
        losses = self._losses(outputs[0], outputs[1] if len(outputs) > 1 else None, batch)
        self._backward(losses["loss"])
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in outputs]
        start = 0
        for number, part in enumerate(parts):
            wrapped, last = self._wrapped, number == len(parts) - 1
            # Workers average gradients once, with the last micro-batch.
            with nullcontext() if wrapped is None or last else wrapped.no_sync():
                [*results] = _columns([self._embed(wrapped or self.network, part, step, number)])
                with self._recomputed():
                    torch.autograd.backward(
                        [each for (each,) in results],
                        [each[start : start + len(part)] for each in gradients],
                    )
            start += len(part)
        return losses

    @contextmanager
    def _recomputed(self) -> Iterator[None]:
        """Keep the running statistics of the forward pass.

        A backward pass that computes activations again would move them twice.
        """
        if not self.recomputing:
            yield
            return
        buffers = list(self.network.buffers())
        after_forward = [value.clone() for value in buffers]
        yield
        if buffers:
            torch._foreach_copy_(buffers, after_forward)

    def _backward(self, loss: Tensor) -> None:
        self.trained.optimizer.zero_grad(set_to_none=True)
        (loss * self.trained.scaler.scale).backward()

    def _embed(
        self, network: nn.Module, images: Tensor, step: int, part: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        # Dropout follows from (seed, step, rank), so that a checkpoint needs no random state.
        torch.manual_seed(_mix(self.seed, step, self.world.rank, *([part] if part else [])))
        shards = self.trained.shards
        with self._autocast(), nullcontext() if shards is None else shards.forward_pass():
            found: tuple[Tensor, Tensor | None] = network(images)
        return found

    def _losses(self, embeddings: Tensor, branch: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        classes = batch.classes.to(self.world.device, non_blocking=True)
        weights = []
        if batch.weights is not None:
            weights.append(batch.weights.to(self.world.device, non_blocking=True))
        losses = {}
        for name, loss in self.trained.losses.items():
            # A loss of fewer dimensions than the embedding reads the first ones.
            vectors = branch if name == "classification" else embeddings[:, : loss.dim]
            coarser = self.coarser.get(name)
            own = classes if coarser is None else coarser_classes(classes, coarser)
            losses[name] = loss(vectors, own, *weights)
        total = torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **{f"{name}_loss": loss for name, loss in losses.items()}}

    def _update(self, losses: dict[str, Tensor], step: int) -> Outcome:
        """Apply the gradients if they, the losses and the statistics are finite on all workers."""
        device, size = self.world.device, self.world.size
        sums = torch.stack(
            [
                *(loss.detach().float() for loss in losses.values()),
                squared_norm(self._shared).to(device),
                squared_norm(self._shards).to(device),
                self._statistics.finite().logical_not().float().to(device),
            ]
        )  # (losses + 3,)
        # The only synchronisation with the device in a step: all workers must decide alike.
        *means, shared, shards, broken = self.world.sum(sums).tolist()
        norm_squared = shared / size + shards
        means = [value / size for value in means]
        finite = math.isfinite(norm_squared) and all(map(math.isfinite, means)) and not broken
        norm = math.sqrt(norm_squared) if math.isfinite(norm_squared) else norm_squared
        if finite:
            if 0 < self.clip_grad_norm < norm:
                scale_gradients([*self._shared, *self._shards], self.clip_grad_norm / norm)
            self.trained.optimizer.step()
            for head in self._updating:
                head.end()
            for comparison in self.trained.comparisons.values():
                comparison.end()
            if self.trained.average is not None:
                self.trained.average.update(step)
        return Outcome(dict(zip(losses, means, strict=True)), norm, finite)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=self.precision)


def coarser_classes(classes: Tensor, of_class: Tensor) -> Tensor:
    """The coarser classes of (b,) or (b, L) classes, -1 for none; each once in a row.

    `of_class` (C,) is the coarser class of each class.
    """
    found = of_class[classes]
    if classes.ndim == 1:
        return found
    found = found.masked_fill(classes < 0, -1)
    columns = list(found.unbind(1))
    for number in range(1, len(columns)):
        for before in columns[:number]:
            columns[number] = columns[number].masked_fill(columns[number] == before, -1)
    return torch.stack(columns, 1)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Select cuDNN's deterministic convolutions on a CUDA device.

    Its fastest gradients of weights sum in a random order, so that a resumed run would leave the
    curve. Some gradients of attention do so too, which this does not change.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class _Statistics:
    """Copy of the running statistics before a step, which the forward pass updates in any case.

    Args:
        buffers: all that training changes.
        running: those of them that must stay finite.
    """

    def __init__(self, buffers: list[Tensor], running: list[Tensor]) -> None:
        self._buffers, self._running = buffers, [each for each in running if each.numel()]
        self._saved = [each.clone() for each in buffers]

    @classmethod
    def of(cls, trained: Trained) -> _Statistics:
        states = [head.margin_state for head in trained.heads.values()]
        running = [
            buffer
            for name, buffer in trained.network.named_buffers()
            if name.rpartition(".")[2].startswith("running_")
        ]
        return cls([*trained.network.buffers(), *states], [*running, *states])

    @torch.no_grad()
    def save(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._saved, self._buffers)

    @torch.no_grad()
    def restore(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._saved)

    def finite(self) -> Tensor:
        """() bool: all running statistics are finite."""
        return all_finite(self._running)


def _columns(outputs: list[tuple[Tensor, Tensor | None]]) -> list[list[Tensor]]:
    """Embeddings of all micro-batches, and their branch's vectors if any."""
    embeddings = [embedding for embedding, _ in outputs]
    branches = [branch for _, branch in outputs if branch is not None]
    return [embeddings, branches] if branches else [embeddings]


def _mix(*numbers: int) -> int:
    """Seed from several numbers (SplitMix64's finaliser, applied in turn)."""
    value = 0
    for number in numbers:
        value = (value + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & (2**64 - 1)
        value ^= value >> 31
    return value & (2**63 - 1)
