"""Our training step with an ArcFace head, as benchmarks measure it."""

from __future__ import annotations

import torch

from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.kernels import has_bf16_products
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.learning_rate import set_lr
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.network_shards import NetworkShards
from lookalike.training.optimizer import create_optimizer, parameter_groups
from lookalike.training.step import TrainStep

DIM = 512
CPU = torch.device("cpu")


def our_step(
    backbone: str, size: int, classes: int, *, device: torch.device = CPU,
    precision: torch.dtype = torch.float32, optimizer: str = "sgd", lr: float = 0.01,
    clip_grad_norm: float = 0.0, compiled: bool = False, shared: bool = False,
    recomputing: bool = False,
) -> TrainStep:  # fmt: skip
    """The step of a network with drawn weights, ready for its first batch.

    Args:
        size: of the images.
        shared: workers share the network (FSDP2); needs a process group.
        recomputing: activations are computed again in the backward pass.
    """
    torch.manual_seed(0)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=size, embedding_dim=DIM, pooling="avg"
    )
    if recomputing:
        embedder.backbone.checkpoint_activations()
    if compiled:
        embedder.backbone.compile_features()
    network, world = TrainingNetwork(embedder, None), World(device=device)
    shards = NetworkShards(network, world) if shared else None
    network.to(device)
    if embedder.backbone.is_convolutional:
        network.to(memory_format=torch.channels_last)
    narrow = precision == torch.bfloat16 and has_bf16_products(device)
    options = HeadOptions(precision=torch.bfloat16 if narrow else None)
    head = Head(DIM, classes, create_loss("arcface"), options).to(device)
    groups = parameter_groups(
        network, [head], weight_decay=1e-4, backbone_prefix="embedder.backbone.",
        parts={} if shards is None else shards.parts,
    )  # fmt: skip
    made = create_optimizer(optimizer, groups, momentum=0.9)
    set_lr(made, lr)
    scaler = LossScaler(enabled=precision == torch.float16, scale=2.0**10)
    step = TrainStep(
        Trained(network, {"metric": head}, made, scaler, None, shards=shards),
        loss_weights={"metric": 1.0}, world=world, seed=0, precision=precision,
        clip_grad_norm=clip_grad_norm, recomputing=recomputing,
    )  # fmt: skip
    step.prepare(frozen=False)
    return step
