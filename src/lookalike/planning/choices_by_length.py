"""Choices of the recipe by how often `train.time_budget` reaches for all images.

The figures behind them are in docs/recipe.md.
"""

from __future__ import annotations

from collections.abc import Collection

from lookalike.config.config import Config
from lookalike.planning.choice import Choice
from lookalike.training.frozen_backbone import without_effect

BY_LENGTH = frozenset({"train.freeze_backbone_epochs", "train.cache_features"})
"""Settings that are chosen by the length, after some steps were timed."""

FROZEN_EPOCHS = 30
"""Epochs on stored features at most; they take seconds."""

_OTHERS = frozenset(
    {
        *BY_LENGTH, "train.freeze_backbone", "train.max_steps", "optim.backbone_lr_factor",
    }
)  # fmt: skip
"""Settings that, given, are meant for a backbone that learns, or are the choice itself."""


def left_to_length(config: Config) -> set[str]:
    """Keys that `train.time_budget` leaves open until steps were timed, as the run begins.

    With those that must stay open for `choose_by_length`; of a request with its choices.
    """
    if config.train.time_budget is None:
        return set()
    asked = config.asked()
    left = {"train.epochs", "train.max_steps", "train.eval_every"} - asked
    return left | _OTHERS if choose_by_length(config, asked, 0) else left


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
    if config.optim.layer_decay < 1:  # meant for a backbone that learns
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
