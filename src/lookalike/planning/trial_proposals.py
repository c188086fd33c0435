"""Settings of the next trial of a search, proposed by Optuna from the trials so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lookalike.errors import MissingExtraError
from lookalike.planning.search_space import Range, Space

_RANDOM = 8
"""Trials that are drawn at random, before the others follow the scores."""


def check_optuna() -> None:
    """Raise a MissingExtraError where Optuna is not installed."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(
    space: Space, tried: Sequence[tuple[dict[str, Any], float]], seed: int
) -> dict[str, Any]:
    """Settings of the next trial, by the tree-structured Parzen estimator.

    They follow from the arguments alone: a search that was interrupted resumes as if it had not
    been.

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
    params = study.ask(distributions).params
    return {
        key: one.number(params[key]) if isinstance(one, Range) else params[key]
        for key, one in space.items()
    }
