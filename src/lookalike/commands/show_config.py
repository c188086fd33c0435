"""`lookalike config`: the settings that a training would use, with the reasons of the recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from lookalike.config.config import Config
from lookalike.distributed.world import ALONE
from lookalike.errors import ConfigError
from lookalike.planning.choice import reasons, with_choices
from lookalike.planning.choices_by_length import left_to_length
from lookalike.planning.choices_by_start import left_to_start, part_to_hold_out
from lookalike.planning.recipe import choose_by_data, choose_by_file
from lookalike.training.build import check_settings
from lookalike.training.open_run import check_one_length
from lookalike.training.request_lists import create_source, open_catalogs


def show_config(config: Config | None = None, **settings: Any) -> str:
    """YAML of the request, loadable, with a comment above what the recipe chose.

    Lists are read, and some images of the training list; nothing is trained or downloaded. What
    depends on the features of the pretrained network is chosen when training begins: a comment
    stands in its place.

    Args:
        config: the request; None for the defaults.
        settings: values that differ from `config`, as in `lookalike.train`.

    Raises:
        LookalikeError: settings or lists are wrong.
    """
    config = Config.of(config, settings)
    choices = choose_by_file(config)
    config = with_choices(config, choices)
    if config.data.train is None:
        raise ConfigError("no training list: give data.train (--train), a list of images")
    check_one_length(config)
    check_settings(config)
    catalog, held_out = open_catalogs(config)
    device = config.run.device
    choices += choose_by_data(
        config, catalog, held_out, create_source(config), ALONE, workers=config.run.workers,
        cuda=device == "cuda" or (device == "auto" and torch.cuda.is_available()),
    )  # fmt: skip
    config = with_choices(config, choices)
    left = left_to_start(config) | left_to_length(config)
    part = part_to_hold_out(config, catalog, held_out)
    if part is not None:
        left |= {"train.interpolate"} - config.asked()
    if part:
        left |= {"data.val_fraction"} - config.asked()
    return with_comments(config.without_secrets(), reasons(choices), left)


def with_comments(config: Config, comments: Mapping[str, str], left: Collection[str] = ()) -> str:
    """YAML of every setting, with a comment above those that have one by their dotted key.

    A comment stands in place of those that are `left` to the start of training.
    """
    lines, section = [], ""
    for line in config.to_yaml().splitlines():
        name = line.strip().partition(":")[0]
        if line[:1] not in (" ", "-"):
            section = name
        elif line.startswith("  ") and line[2] not in " -":
            key = f"{section}.{name}"
            if key in left:
                lines.append(f"  # {name}: chosen when training begins")
                continue
            comment = comments.get(key)
            if comment is not None:
                lines.append(f"  # {comment}")
        lines.append(line)
    return "\n".join(lines) + "\n"
