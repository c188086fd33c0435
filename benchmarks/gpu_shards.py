"""Steps of a network that workers share (FSDP2), by a group of one worker, beside whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gpu_measure import Place, compare, in_turns, seconds_of
from gpu_record import Record
from gpu_step import random_batch
from lookalike.distributed.world import World
from lookalike.losses import create_margin
from lookalike.losses.head import Head
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.learning_rate import set_lr
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.network_shards import NetworkShards
from lookalike.training.optimizer import create_optimizer, parameter_groups
from lookalike.training.step import TrainStep

DIM, CLASSES, LR = 512, 1000, 1e-4


@dataclass
class Steps:
    """Training steps on one batch.

    Attributes:
        step: takes one and returns its loss.
        trained: what they train.
    """

    step: Callable[[], float]
    trained: Trained


def measure_shards(place: Place, record: Record) -> None:
    """Record seconds, bytes and losses of both, and the time that gathering takes."""
    name = "test_vit" if place.dry else "vit_large_patch16_224"
    count = place.pick(64, 4)
    what = f"{name}, batch {count}, adamw"
    makers = {
        "lookalike": lambda: _steps(place, name, count, shared=False),
        "shared": lambda: _steps(place, name, count, shared=True),
        "shared, activations recomputed": lambda: _steps(
            place, name, count, shared=True, recomputing=True
        ),
    }
    with _group(place):
        losses: dict[str, list[float]] = {}
        times: dict[str, list[float]] = {}
        for contender, make in makers.items():
            with record.attempt(f"{what}: {contender}"):
                if place.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                steps = make()
                losses[contender] = [steps.step() for _ in range(3)]
                turn = {contender: lambda s=steps: seconds_of(s.step, place.device, 3)}
                times |= in_turns(turn, place.pick(5, 1), 5.0)
                if place.device.type == "cuda":
                    used = torch.cuda.max_memory_allocated() / 1e9
                    record.figure(f"{what}: {contender}: peak memory", round(used, 3), "GB", "")
                if steps.trained.shards is not None:
                    _gathering(place, record, f"{what}: {contender}", steps.trained)
                del steps
        if "lookalike" in times:
            compare(record, what, times, count, "images/s", "whole steps, one after the other")
        for contender in losses.keys() - {"lookalike"}:
            pairs = zip(losses[contender], losses.get("lookalike", []), strict=False)
            worst = max((abs(a - b) / abs(b) for a, b in pairs), default=None)
            if worst is not None:
                how = "of the losses of three steps, to those of a whole network"
                record.figure(f"{what}: {contender}: largest relative difference", worst, "", how)


def _gathering(place: Place, record: Record, what: str, trained: Trained) -> None:
    def gather() -> None:
        with trained.whole():
            pass

    seconds = seconds_of(gather, place.device, place.pick(5, 1))
    how = "all weights, as for a measurement; between workers it takes longer"
    record.figure(f"{what}: gathering", round(seconds * 1e3, 2), "ms", how)


def _steps(
    place: Place, backbone: str, count: int, *, shared: bool, recomputing: bool = False
) -> Steps:
    torch.manual_seed(0)
    size = place.pick(224, 32)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=size, embedding_dim=DIM, pooling="avg"
    )
    if recomputing:
        embedder.backbone.checkpoint_activations()
    network = TrainingNetwork(embedder, None)
    world = World(device=place.device)
    shards = NetworkShards(network, world) if shared else None
    network.to(place.device)
    head = Head(DIM, CLASSES, create_margin("arcface")).to(place.device)
    groups = parameter_groups(
        network, [head], weight_decay=0.05, backbone_prefix="embedder.backbone.",
        parts={} if shards is None else shards.parts,
    )  # fmt: skip
    optimizer = create_optimizer("adamw", groups, momentum=0.9)
    set_lr(optimizer, LR)
    trained = Trained(
        network, {"metric": head}, optimizer, LossScaler(enabled=False), None, shards=shards
    )
    step = TrainStep(
        trained, loss_weights={"metric": 1.0}, world=world, seed=0, clip_grad_norm=5.0,
        precision=torch.bfloat16, recomputing=recomputing,
    )  # fmt: skip
    step.prepare(frozen=False)
    batch = random_batch(place, count, size, CLASSES)
    return Steps(lambda: step(batch, 1).losses["loss"], trained)


@contextmanager
def _group(place: Place) -> Iterator[None]:
    """Process group of this worker alone: NCCL on a GPU."""
    cuda = place.device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1,
        device_id=place.device if cuda else None,
    )  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()
