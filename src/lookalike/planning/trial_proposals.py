"""Settings of the next trial of a search, proposed by Optuna from the trials so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from lookalike.errors import MissingExtraError
from lookalike.planning.search_space import Range, Space

_RANDOM = 8
"""Trials that are drawn at random, before the others follow the scores."""

_FEW = 1000
"""Settings of a space that are compared with those tried; of more, few are drawn twice."""

_DRAWS = 20
"""Proposals before the first untried settings are taken, where each was tried before."""


def check_optuna() -> None:
    """Raise a MissingExtraError where Optuna is not installed."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(
    space: Space, tried: Sequence[tuple[dict[str, Any], float]], seed: int
) -> dict[str, Any] | None:
    """Settings of the next trial, by the tree-structured Parzen estimator.

    They follow from the arguments alone: a search that was interrupted resumes as if it had not
    been. They differ from all that were tried, as the same settings give the same score; None
    where a space of a few values has no others.

    Args:
        tried: settings and score of each trial so far, the higher the better; 0 for a failed one.
            A setting with a range is None where the trial had none.
    """
    import optuna

    distributions: dict[str, Any] = {}
    for key, one in space.items():
        if not isinstance(one, Range):
            distributions[key] = optuna.distributions.CategoricalDistribution(one.values)
        elif one.integer:
            distributions[key] = optuna.distributions.IntDistribution(
                int(one.low), int(one.high), log=one.logarithmic
            )
        else:
            distributions[key] = optuna.distributions.FloatDistribution(
                one.low, one.high, log=one.logarithmic
            )
    left = _untried(space, [settings for settings, _ in tried])
    if left is not None and not left:
        return None
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=_RANDOM, seed=(1_000_003 * seed + len(tried)) % 2**32
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for settings, score in tried:
        params = {
            key: settings[key]
            for key, one in space.items()
            if not (isinstance(one, Range) and settings[key] is None)
        }
        known = {key: distributions[key] for key in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=known, value=score))
    for _ in range(_DRAWS):
        params = study.ask(distributions).params
        found = {
            key: one.number(params[key]) if isinstance(one, Range) else params[key]
            for key, one in space.items()
        }
        if left is None or found in left:
            return found
    assert left is not None
    return left[0]


def _untried(space: Space, tried: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The settings of a space of few values that were not tried; None for a larger space."""
    values = []
    for one in space.values():
        if isinstance(one, Range) and not one.integer:
            return None
        ends = one.ends()
        values.append(range(ends[0], ends[1] + 1) if isinstance(one, Range) else ends)
    if math.prod(map(len, values)) > _FEW:
        return None
    combined = (dict(zip(space, each, strict=True)) for each in product(*values))
    return [each for each in combined if each not in tried]
