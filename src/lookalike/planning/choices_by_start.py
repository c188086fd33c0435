"""Choices of the recipe by the retrieval of training images before training.

They need the network, and so are made when training begins. The figures behind them are in
docs/recipe.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.metrics.scores import Scores
from lookalike.planning.choice import Choice, percent
from lookalike.planning.facts import has_quarters

POOLING, _FACTOR = "model.pooling", "optim.backbone_lr_factor"

_GUARD = "train.interpolate"

BY_START = frozenset({POOLING, _FACTOR})
"""Settings that are chosen by the features of the start, after the network was built."""

QUARTERS, WHOLE = "gem+quarters", "gem+avg"

_LOSS_OF_QUARTERS = 0.04
"""Mean of Recall@1 and MAP@R that quarters may lose before training, and are still chosen.

Training gains more with quarters: see docs/recipe.md.
"""

_RECALLS, _FACTORS = (0.85, 0.6), (0.1, 0.3, 1.0)
"""Recall@1 of the start above which the backbone's learning rate has each factor."""

HELD_OUT_FROM = 100
"""Classes from which on some are held out whatever the start retrieves."""

_FEWEST = 3  # held-out classes

_PART_UNMEASURED = 0.25
"""Part of the way from start to end that is kept of a good start with too few classes to hold out.

Half-way ended below the start on three of seven lists of photographs: see docs/recipe.md.
"""

_MOST = 200


def left_to_start(config: Config) -> set[str]:
    """Keys that are left to `choose_by_start`, as the run begins; of a request with its choices."""
    pretrained = config.model.pretrained is not False or config.train.start_from is not None
    if config.train.recipe != "auto" or not pretrained:
        return set()
    left = set(BY_START)
    if config.optim.name != "adamw":
        left.discard(_FACTOR)
    measured = config.model.init_from_features and config.train.start_from is None
    if not measured or not has_quarters(config):
        left.discard(POOLING)
    return left - config.asked()


def poolings_to_measure(config: Config) -> tuple[str, ...]:
    """Poolings of which the start's retrieval chooses one; the network is built with the first."""
    if POOLING in left_to_start(config):
        return QUARTERS, WHOLE
    return (config.model.pooling,)


def choose_by_start(
    config: Config, starts: Mapping[str, Scores | None], held_out: float | None = None
) -> list[Choice]:
    """Settings that follow from the retrieval of training images before training.

    Args:
        config: the request with its other choices.
        starts: retrieval by pooling, of `poolings_to_measure`; None where no class has two images.
            Empty where it was not measured.
        held_out: `part_to_hold_out` of the list.
    """
    left, choices = left_to_start(config), []
    pooling = config.model.pooling
    if POOLING in left and starts:
        pooling, reason = _pooling_by_start(starts)
        choices.append(Choice(POOLING, pooling, reason))
    start = starts.get(pooling)
    if _FACTOR in left:
        choices.append(_factor_by_start(start))
    if held_out == 0 and start is not None and start.recall[1] >= _RECALLS[0]:
        reason = (
            "training on few classes loses what a good start has: Recall@1 is "
            f"{percent(start.recall[1])} before training; a quarter of the way keeps it, and there "
            "are too few classes to choose by"
        )
        choices.append(Choice(_GUARD, _PART_UNMEASURED, reason))
    elif held_out and start is not None and start.recall[1] >= _RECALLS[-1]:
        reason = (
            f"training may lose what a good start has: Recall@1 is {percent(start.recall[1])} "
            f"before training; {percent(held_out)} of the classes choose between start and end"
        )
        choices.append(Choice("data.val_fraction", held_out, reason))
        if _GUARD not in config.asked():
            choices.append(Choice(_GUARD, True, reason))
    return choices


def part_to_hold_out(config: Config, catalog: Catalog, held_out: Catalog | None) -> float | None:
    """Part of the classes of a short list to hold out where its start is good.

    A tenth, or as many as have 100 images; three at least, and a fifth at most. With a file that is
    the recipe, which has to set `train.interpolate`, also of a long list. 0 where the list is too
    short for that, None where no class is to be held out for another reason.
    """
    asked, recipe = config.asked(), config.train.recipe
    given = held_out is not None or config.data.val is not None or "data.val_fraction" in asked
    used = config.train.interpolate is True if _GUARD in asked else recipe == "auto"
    measured = config.model.init_from_features and config.train.start_from is None
    if recipe == "component" or given or not used or not measured:
        return None
    sizes = np.bincount(catalog.class_ids)
    classes, several = len(catalog.classes), int((sizes > 1).sum())
    if several < classes / 2:
        return None
    if several < 5 * _FEWEST:
        return None if _GUARD in asked and recipe == "auto" else 0.0
    if several >= HELD_OUT_FROM:
        return None if recipe == "auto" else part_of_long_list(classes)
    enough = math.ceil(100 * classes / len(catalog))
    held = min(max(classes // 10, enough, _FEWEST), classes // 5)
    return round(held / classes, 4)


def part_of_long_list(classes: int) -> float:
    """Part of at least `HELD_OUT_FROM` classes to hold out: a twentieth, 20 to 200 of them."""
    held = min(max(round(classes / 20), 20), _MOST)
    return round(held / classes, len(str(classes)) + 1)


def _pooling_by_start(starts: Mapping[str, Scores | None]) -> tuple[str, str]:
    quarters, whole = starts[QUARTERS], starts[WHOLE]
    if quarters is None or whole is None:
        return WHOLE, "no class has two images: retrieval before training was not measured"
    figures = (
        f"before training Recall@1 and MAP@R of {whole.num_queries:,} training images are "
        f"{percent(quarters.recall[1])} and {percent(quarters.map_at_r)} with {QUARTERS}, "
        f"{percent(whole.recall[1])} and {percent(whole.map_at_r)} with {WHOLE}"
    )
    if _mean(quarters) < _mean(whole) - _LOSS_OF_QUARTERS:
        return WHOLE, f"quarters retrieve worse before training: {figures}"
    return QUARTERS, f"quarters retrieve no worse before training: {figures}"


def _mean(scores: Scores) -> float:
    return (scores.recall[1] + scores.map_at_r) / 2


def _factor_by_start(start: Scores | None) -> Choice:
    if start is None:
        reason = "the backbone is pretrained: its retrieval before training was not measured"
        return Choice(_FACTOR, _FACTORS[1], reason)
    recall = start.recall[1]
    return Choice(
        _FACTOR,
        _FACTORS[sum(recall < limit for limit in _RECALLS)],
        f"Recall@1 is {percent(recall)} before training: among {start.num_queries:,} training "
        "images; a lower one gets a higher rate",
    )
