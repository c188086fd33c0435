"""Effects of the recipe's choices in the quality study, from study_effects.json.

`python benchmarks/quality.py effects benchmarks/study --scale 0.5` writes that file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("study_effects.json")

_RANDOM_WEIGHTS = "scratch"

_WORDS = {"true": "yes", "false": "no"}


@dataclass(frozen=True)
class StudyEffect:
    """Change of the scores on the test classes of a set with another value of one setting.

    Attributes:
        key: of the setting, dotted.
        value: in place of the recipe's.
        regime: of the study; `scratch` is from random weights, all others are pretrained.
        set: name of the image set.
        recall_at_1: points, and its bounds of 95 % by class; negative where the recipe is better.
        map_at_r: the same of MAP@R.
    """

    key: str
    value: str
    regime: str
    set: str
    recall_at_1: Sequence[float]
    map_at_r: Sequence[float]


@cache
def study_effects() -> tuple[StudyEffect, ...]:
    """All effects that were measured."""
    return tuple(StudyEffect(**each) for each in json.loads(_FILE.read_text()))


def effects_of(key: str, chosen: str, *, pretrained: bool) -> list[str]:
    """Effects of other values of a setting than `chosen`, a value a line.

    As `0.2: −4.6 / −6.2 on cards, −1.7 / −2.4 on flags`: points of Recall@1 / MAP@R. `chosen` is
    a value in words: yes and no of a switch.
    """
    lines: dict[str, list[str]] = {}
    for each in study_effects():
        own = each.key == key and pretrained == (each.regime != _RANDOM_WEIGHTS)
        value = _WORDS.get(each.value, each.value)
        if own and value != chosen:
            lines.setdefault(value, []).append(
                f"{_points(each.recall_at_1)} / {_points(each.map_at_r)} on {each.set}"
            )
    return [f"{value}: {', '.join(found)}" for value, found in lines.items()]


def _points(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:+.1f}".replace("-", "−")
