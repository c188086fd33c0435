"""Settings that a search varies, each with its range or its values."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lookalike.config.config import Config, keys
from lookalike.config.same_setting import same_setting
from lookalike.config.setting_paths import PATH_SETTINGS
from lookalike.config.yaml_lines import read_value
from lookalike.errors import ConfigError
from lookalike.losses import MARGINS, PAIR_LOSSES

FORM = "write --over optim.lr=1e-4..1e-2, or --over train.batch_size=32,64"

_NOT_SEARCHED = {
    "data.train", "data.val", "data.train_split", "data.val_split", "data.val_fraction",
    "data.format", "data.classes", "data.num_classes", "train.recipe", "train.seed",
    "train.time_budget", "train.report", "train.loggers", "train.tensorboard", "train.eval_every",
}  # fmt: skip
"""Settings that choose the images of a measurement, or have no effect on the model."""

_OF_FILES = {
    "train.checkpoint_every", "train.checkpoint_every_steps", "train.checkpoint_minutes",
    "train.keep_checkpoints", "train.log_every", "train.early_stopping", "data.threads",
    "data.requests", "data.cache", "data.cache_size",
}  # fmt: skip
"""Settings of a run's files, length and input that are its own, beside `_NOT_SEARCHED`."""


def of_a_model(key: str) -> bool:
    """True for a setting that goes with a model from one list to another."""
    return key not in _NOT_SEARCHED | _OF_FILES and not key.startswith("run.")


_LOGARITHMIC_FROM = 10  # ratio of the ends


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        logarithmic: drawn evenly by their logarithm.
    """

    low: float
    high: float
    integer: bool = False
    logarithmic: bool = False

    @classmethod
    def between(cls, low: float, high: float, *, integer: bool = False) -> Range:
        """A range that is logarithmic where its ends are far apart."""
        return cls(low, high, integer, low > 0 and high / low >= _LOGARITHMIC_FROM)

    def ends(self) -> tuple[Any, ...]:
        return (self.number(self.low), self.number(self.high))

    def number(self, value: float) -> float | int:
        """The value to three digits, inside the range."""
        if self.integer:
            return int(min(max(round(value), self.low), self.high))
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def text(self) -> str:
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Values:
    """Some values, in no order."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        return self.values

    def text(self) -> str:
        return ",".join(str(value) for value in self.values)


Space = dict[str, Range | Values]
"""By dotted key."""

Spellings = dict[tuple[str, Any], Any]
"""By dotted key and a value as a search began with it: the value as it is written now."""


def parse_space(texts: Sequence[str], config: Config) -> Space:
    """The space of `KEY=LOW..HIGH` and `KEY=VALUE,VALUE`.

    Raises:
        ConfigError: a key is unknown, given as a setting too, or cannot be searched, or a range
            or a value is wrong.
    """
    space: Space = {}
    for text in texts:
        key, one = _key_and_dimension(text, config)
        if key in space:
            raise ConfigError(f"--over {text}: {key} is there twice; give it once")
        space[key] = one
        used = [config.with_values({key: value}).get(key) for value in one.ends()]
        if isinstance(one, Values) and any(
            same_setting(key, *two) for two in combinations(used, 2)
        ):
            raise ConfigError(f"--over {text}: takes two different values or more; {FORM}")
    return space


def as_begun(
    space: Space, texts: Sequence[str], config: Config, folder: str = ""
) -> tuple[Space, Spellings] | None:
    """The space of the texts that a search began with, in its order; None if `space` is another.

    Proposals follow from the order of a space and its values, and finished trials have the values
    as they were written: both stay those of the beginning.

    Args:
        folder: where relative paths among `texts` start; the working folder by default.

    Returns:
        The space, and how `space` writes its texts.
    """
    begun: Space = {}
    for text in texts:
        try:
            key, begun[key] = _key_and_dimension(text, config)
        except ConfigError:
            return None
    if space.keys() != begun.keys():
        return None
    spellings: Spellings = {}
    for key, one in begun.items():
        now = space[key]
        if isinstance(one, Range) or isinstance(now, Range):
            if one != now:
                return None
            continue
        left = list(now.values)
        for value in one.values:
            same = [each for each in left if _same_value(key, each, value, config, folder)]
            if not same:
                return None
            left.remove(same[0])
            spellings[key, value] = same[0]
        if left:
            return None
    return begun, spellings


def _same_value(key: str, now: Any, begun: Any, config: Config, folder: str) -> bool:
    try:
        one, other = (config.with_values({key: value}).get(key) for value in (now, begun))
    except ConfigError:
        return False
    return same_setting(key, one, other, folder)


def _key_and_dimension(text: str, config: Config) -> tuple[str, Range | Values]:
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not values.strip():
        raise ConfigError(f"--over {text}: has no range; {FORM}")
    _check_key(key, config)
    return key, _dimension(text, key, values.strip())


def _check_key(key: str, config: Config) -> None:
    if key not in keys():
        close = difflib.get_close_matches(key, list(keys()), 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else "; see lookalike train --settings"
        raise ConfigError(f"--over {key}: there is no such setting{hint}")
    if key in _NOT_SEARCHED or key.startswith("run."):
        raise ConfigError(
            f"--over {key}: cannot be searched, as it does not change what a model learns"
        )
    if key in config.asked():
        raise ConfigError(f"--over {key}: the setting is also given; leave one of them out")


def _dimension(text: str, key: str, values: str) -> Range | Values:
    low, dots, high = values.partition("..")
    if dots and key not in PATH_SETTINGS:
        integer = keys()[key][0].startswith("int")
        try:
            ends = (int(low), int(high)) if integer else (float(low), float(high))
        except ValueError:
            kind = "whole numbers" if integer else "numbers"
            raise ConfigError(f"--over {text}: its ends are no {kind}; {FORM}") from None
        if not float("-inf") < ends[0] < ends[1] < float("inf"):
            raise ConfigError(f"--over {text}: its first end is not below its last; {FORM}")
        return Range.between(*ends, integer=integer)
    try:
        found = tuple(read_value(part.strip()) for part in values.split(","))
    except ValueError:
        raise ConfigError(f"--over {text}: the values cannot be read; {FORM}") from None
    if len(found) < 2 or len(set(map(repr, found))) < len(found):
        raise ConfigError(f"--over {text}: takes two different values or more; {FORM}")
    if not all(value is None or isinstance(value, str | int | float) for value in found):
        raise ConfigError(f"--over {text}: takes numbers, texts, true and false; {FORM}")
    return Values(found)


_MARGIN_ENDS = {
    "amsoftmax": (0.0, 0.4),
    "cosface": (0.0, 0.4),
    "arcface": (0.0, 30.0),
    "curricularface": (0.0, 30.0),
    "proxy_anchor": (0.0, 0.3),
}
"""Margins, by loss, in its unit; others have none, or few that train."""


def default_space(used: Config, asked: set[str], images: int) -> Space:
    """The space around the settings of a run, without those that the user gave.

    Args:
        asked: dotted keys that stay.
    """
    loss, optim, batch = used.loss, used.optim, used.train.batch_size
    decay = 0.05 if optim.name == "adamw" else 1e-3
    space: Space = {"optim.lr": Range.between(optim.lr / 5, optim.lr * 5)}
    space["optim.weight_decay"] = Range.between(1e-6, decay)
    if loss.name in MARGINS and loss.scale is not None:
        space["loss.scale"] = Range(8.0, 64.0, logarithmic=True)
    if loss.name in _MARGIN_ENDS:
        space["loss.margin"] = Range(*_MARGIN_ENDS[loss.name])
    if loss.name not in PAIR_LOSSES:
        space["head.lr_factor"] = Range.between(1.0, 20.0)
    pretrained = used.model.pretrained is not False or used.train.start_from is not None
    if pretrained and not used.train.freeze_backbone:
        space["optim.backbone_lr_factor"] = Range.between(0.01, 1.0)
    space["data.min_crop"] = Range(0.2, 0.9)
    space["data.flip"] = Values((0.0, 0.5))
    sizes = [size for size in (batch // 2, batch, 2 * batch) if 16 <= size <= max(images // 4, 16)]
    if len(sizes) > 1:
        space["train.batch_size"] = Values(tuple(sizes))
    return {key: one for key, one in space.items() if key not in asked}


def including(space: Space, start: Config) -> Space:
    """The space, widened to hold the settings of the start; a range cannot hold what is unset."""
    found: Space = {}
    for key, one in space.items():
        value = start.get(key)
        if isinstance(one, Values):
            known = value in one.values
            found[key] = one if known else Values((value, *one.values))
        elif value is None:
            found[key] = one
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = min(one.low, value), max(one.high, value)
            found[key] = Range(low, high, one.integer, one.logarithmic and low > 0)
        else:
            raise ConfigError(
                f"--over {key}={one.text()}: the search begins at {key}={value}, which is no "
                "number; give values in place of a range"
            )
    return found
