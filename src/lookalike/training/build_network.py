"""Network of a run between pixels and heads, and which of its parameters learn."""

from __future__ import annotations

from lookalike.config.config import Config
from lookalike.errors import ConfigError
from lookalike.model.dry_run import exclude_unused
from lookalike.model.embedder import Embedder
from lookalike.model.lora import add_lora
from lookalike.model.training_network import ClassificationBranch, TrainingNetwork

_NOT_SHARDED = {
    "freeze_backbone": "a frozen backbone has no gradients and optimizer state to share out",
    "cache_features": "features are stored by the whole backbone",
    "compile": "a compiled backbone is not gathered block by block",
}


def check_network(config: Config) -> None:
    """Check settings of the network against each other.

    Raises:
        ConfigError: they contradict each other.
    """
    rank, train = config.model.lora_rank, config.train
    if train.ema and train.average_last:
        raise ConfigError(
            f"train.ema={train.ema:g} and train.average_last={train.average_last:g}: only one "
            "average of the weights is kept; leave one of them out"
        )
    if train.shard_backbone:
        for key, value in (
            ("freeze_backbone", train.freeze_backbone),
            ("cache_features", bool(train.cache_features)),
            ("compile", train.compile),
        ):
            if value:
                raise ConfigError(
                    f"train.shard_backbone=true does not go with train.{key}={str(value).lower()}: "
                    f"{_NOT_SHARDED[key]}; leave one of them out"
                )
    if rank and train.freeze_backbone:
        raise ConfigError(
            f"model.lora_rank={rank} learns in the backbone, which train.freeze_backbone=true "
            "never trains; leave one of them out"
        )


def create_network(config: Config, embedder: Embedder, *, branch: bool) -> TrainingNetwork:
    """Network around `embedder`, which becomes part of it; with `branch`, that for plain softmax.

    Parameters that do not learn in this run require no gradient.

    Raises:
        ModelError: the backbone cannot be adapted as asked.
    """
    backbone = embedder.backbone
    second = ClassificationBranch(backbone.dim, embedder.embedding_dim) if branch else None
    network = TrainingNetwork(embedder, second)
    size = config.model.train_size or config.model.image_size
    exclude_unused(network, size)
    if config.model.gradient_checkpointing:
        backbone.checkpoint_activations()
    if config.train.freeze_backbone:
        backbone.requires_grad_(False)
    elif config.model.lora_rank:
        add_lora(backbone, config.model.lora_rank, size)
    return network


def keeps_statistics(config: Config) -> bool:
    """True if the backbone's batch norms keep their statistics: they belong to frozen weights."""
    return config.train.freeze_batchnorm or config.model.lora_rank > 0
