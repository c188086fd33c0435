"""Effects of the recipe's choices: scores with another value less those of the recipe.

Each effect is of `ours:KEY=VALUE` and `ours`, or of both with `model.pooling=gem+avg`, which was
the recipe's before `gem+quarters`, where the first were not run.
"""

from __future__ import annotations

import json
from typing import Any

from quality_results import advantages, cells
from quality_study import Method, Study, StudyError
from quality_trial import METRICS

EARLIER = "model.pooling=gem+avg"

IMPLIED = {"optim.lr": "optim.name", "loss.margin": "loss.scale", "loss.name": "loss.scale"}
"""Settings that only go with another one, in an ablation of that one."""


def effects(study: Study, scale: float) -> str:
    """The effects on all sets as JSON, an effect a line; as the report of a run reads them.

    Raises:
        StudyError: the study has no ablation of this length.
    """
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for (name, regime), rows in cells(study).items():
        by_method = {row.method: row for row in rows if row.scale == scale}
        for base in (f"ours:{EARLIER}", "ours"):  # the last one counts
            if base not in by_method:
                continue
            for method, row in by_method.items():
                changed = _changed(method, base)
                if changed is None:
                    continue
                key, value = changed
                gains = advantages(by_method[base], row)
                found[key, value, regime, name] = {
                    "key": key,
                    "value": value,
                    "regime": regime,
                    "set": name,
                    **{
                        metric: [
                            round(100 * number, 1) + 0.0
                            for number in (-gain.value, -gain.high, -gain.low)
                        ]
                        for metric, gain in ((each, gains[each]) for each in METRICS)
                    },
                }
    if not found:
        raise StudyError(f"{study.folder}: no trial of `ours:KEY=VALUE` at a scale of {scale:g}")
    lines = [json.dumps(found[each]) for each in sorted(found)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _changed(method: str, base: str) -> tuple[str, str] | None:
    """Key and value of the one choice that a method leaves out of `base`; None for another one."""
    own, common = Method.parse(method), Method.parse(base)
    if own.base != "ours" or own.tuned or not own.settings.items() >= common.settings.items():
        return None
    changed = {key: value for key, value in own.settings.items() if key not in common.settings}
    if len(changed) > 1:
        implied = {key for key in changed if IMPLIED.get(key) in changed}
        changed = {key: value for key, value in changed.items() if key not in implied}
    if len(changed) != 1:
        return None
    [(key, value)] = changed.items()
    return key, str(value)
