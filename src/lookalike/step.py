"""One training step: forward, backward, update; the same decision on every worker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lookalike.checkpoint import Trained
from lookalike.data.loader import Batch
from lookalike.distributed import World
from lookalike.model.batchnorm import freeze_statistics
from lookalike.model.branch import TrainingNetwork
from lookalike.optim import scale_gradients, squared_norm


@dataclass(frozen=True)
class Outcome:
    """What a step did, on all workers together.

    Attributes:
        losses: means over the global batch: `loss` in all, `<head>_loss` by head.
        grad_norm: of all gradients together, before clipping; class weights that change in the
            backward pass have none.
        finite: whether everything was finite, and so the weights were updated.
    """

    losses: dict[str, float]
    grad_norm: float
    finite: bool


class TrainStep:
    """The step of a run.

    Args:
        trained: network, heads, optimizer, loss scale and average.
        loss_weights: weight of each head's loss, by the head's name.
        world: the workers.
        seed: of dropout and the like.
        precision: float32, bfloat16 or float16; of the network, never of the heads.
        clip_grad_norm: largest norm of all gradients together, 0 for any.
        freeze_batchnorm: batch norms of the backbone keep their statistics.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        loss_weights: dict[str, float],
        world: World,
        seed: int,
        precision: torch.dtype = torch.float32,
        clip_grad_norm: float = 0.0,
        freeze_batchnorm: bool = False,
    ) -> None:
        assert isinstance(trained.network, TrainingNetwork)
        self.network = trained.network
        self.trained = trained
        self.loss_weights = loss_weights
        self.world = world
        self.seed = seed
        self.precision = precision
        self.clip_grad_norm = clip_grad_norm
        self.freeze_batchnorm = freeze_batchnorm
        backbone = self.network.embedder.backbone
        self._learning = [value for value in backbone.parameters() if value.requires_grad]
        self._wrapped: nn.Module | None = None
        self._wrapped_frozen: bool | None = None
        self._updating = [head for head in trained.heads.values() if head.update is not None]
        self._shards = [head.weight for head in trained.heads.values() if head.sharded]
        self._shared = [
            *(p for p in self.network.parameters()),
            *(head.weight for head in trained.heads.values() if not head.sharded),
        ]

    def prepare(self, *, frozen: bool) -> None:
        """Put the network in training mode, its backbone frozen or learning.

        To be called after anything that changed the mode, and when `frozen` changes.
        """
        backbone = self.network.embedder.backbone
        self.network.train()
        for parameter in self._learning:
            parameter.requires_grad_(not frozen)
        if frozen:
            backbone.eval()
        elif self.freeze_batchnorm:
            freeze_statistics(backbone)
        if self.world.size > 1 and frozen != self._wrapped_frozen:
            # DDP takes note of what learns when it is made, so each phase has its own.
            self._wrapped = None
            self._wrapped = DistributedDataParallel(
                self.network,
                device_ids=[self.world.device] if self.world.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
            self._wrapped_frozen = frozen

    def __call__(self, batch: Batch, step: int) -> Outcome:
        """Do step `step` with this worker's part of the global batch."""
        scale = self.trained.scaler.scale
        for head in self._updating:
            head.begin(1 / scale)
        losses = self.forward(batch, step)
        if self._updating:
            # These heads change in the backward pass, so that the loss must be sound before it.
            means = self.world.sum(torch.stack(list(losses.values())).detach()) / self.world.size
            if not means.isfinite().all():
                return Outcome(dict(zip(losses, means.tolist(), strict=True)), math.nan, False)
        self.backward(losses["loss"])
        for head in self._updating:
            head.end()
        return self._update(losses, step)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """This worker's losses, scalars; their means over the workers are those of the batch."""
        device = self.world.device
        # Dropout follows from (seed, step, rank), so that a checkpoint needs no random state.
        torch.manual_seed(_mix(self.seed, step, self.world.rank))
        images = batch.images_on(device)
        classes = batch.classes.to(device, non_blocking=True)
        with self._autocast():
            embeddings, branch = (self._wrapped or self.network)(images)
        losses = {
            # A head of fewer dimensions than the embedding reads the first ones.
            name: head(branch if name == "classification" else embeddings[:, : head.dim], classes)
            for name, head in self.trained.heads.items()
        }
        total = torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **{f"{name}_loss": loss for name, loss in losses.items()}}

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of the global mean loss in the parameters, on every worker."""
        scale = self.trained.scaler.scale
        self.trained.optimizer.zero_grad(set_to_none=True)
        (loss * scale).backward()
        for head in self.trained.heads.values():
            head.average_gradients()
        scale_gradients([*self._shared, *self._shards], 1 / scale)

    def _update(self, losses: dict[str, Tensor], step: int) -> Outcome:
        """Apply the gradients if they and the losses are finite on every worker."""
        device, size = self.world.device, self.world.size
        sums = torch.stack(
            [
                *(loss.detach().float() for loss in losses.values()),
                squared_norm(self._shared).to(device),
                squared_norm(self._shards).to(device),
            ]
        )  # (losses + 2,)
        # One wait for the device a step: here, where skipping must be decided by all alike.
        *means, shared, shards = self.world.sum(sums).tolist()
        norm_squared = shared / size + shards
        means = [value / size for value in means]
        finite = math.isfinite(norm_squared) and all(map(math.isfinite, means))
        norm = math.sqrt(norm_squared) if finite else norm_squared
        if finite:
            if 0 < self.clip_grad_norm < norm:
                scale_gradients([*self._shared, *self._shards], self.clip_grad_norm / norm)
            self.trained.optimizer.step()
            if self.trained.ema is not None:
                self.trained.ema.update(step)
        return Outcome(dict(zip(losses, means, strict=True)), norm, finite)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=self.precision)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a CUDA device, let cuDNN take convolutions that give the same bits every time.

    Its fastest gradients of weights add up in an order of chance, so that a resumed run would
    leave the curve. Attention has gradients of that kind too, which this does not reach.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _mix(*numbers: int) -> int:
    """One seed from several numbers (SplitMix64's finaliser, applied in turn)."""
    value = 0
    for number in numbers:
        value = (value + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & (2**64 - 1)
        value ^= value >> 31
    return value & (2**63 - 1)
