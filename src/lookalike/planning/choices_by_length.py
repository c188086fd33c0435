"""Choices of the recipe by how often `train.time_budget` reaches for all images.

The figures behind them are in docs/recipe.md.
"""

from __future__ import annotations

from collections.abc import Collection

from lookalike.config.config import Config
from lookalike.planning.choice import Choice
from lookalike.training.frozen_backbone import without_effect

FROZEN_EPOCHS = 30
"""Epochs on stored features at most; they take seconds."""

_OTHERS = frozenset(
    {
        "train.freeze_backbone", "train.freeze_backbone_epochs", "train.cache_features",
        "train.max_steps", "optim.backbone_lr_factor", "optim.layer_decay",
    }
)  # fmt: skip
"""Settings that, given, are meant for a backbone that learns, or are the choice itself."""


def choose_by_length(config: Config, asked: Collection[str], passes: float) -> list[Choice]:
    """Settings of a run that is too short to train the backbone, if its features can be stored.

    Args:
        config: the request with its other choices.
        asked: keys of the request without them.
        passes: over the training images that fit the time, with the whole network learning.
    """
    model, train = config.model, config.train
    frozen_start = model.pretrained is not False and train.start_from is None
    if train.recipe != "auto" or not frozen_start or passes >= 1:
        return []
    if model.lora_rank or train.shard_backbone or not _OTHERS.isdisjoint(asked):
        return []
    if without_effect(config):
        return []
    reason = (
        f"the time is too short to train the backbone: it reaches for {passes:.2g} of the images"
    )
    return [
        Choice("train.freeze_backbone_epochs", FROZEN_EPOCHS, reason),
        Choice("train.cache_features", True, reason),
    ]
