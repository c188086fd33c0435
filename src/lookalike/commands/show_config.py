"""`lookalike config`: the settings that a training would use, with the reasons of the recipe."""

from __future__ import annotations

from typing import Any

import torch

from lookalike.config.config import Config
from lookalike.distributed.world import ALONE
from lookalike.errors import ConfigError
from lookalike.planning.recipe import choose_by_data, choose_by_file, reasons, with_choices
from lookalike.training.build import check_settings
from lookalike.training.request_lists import create_source, open_catalogs


def show_config(config: Config | None = None, **settings: Any) -> str:
    """YAML of the complete request, loadable, with a comment above what the recipe chose.

    Lists are read, and some images of the training list; nothing is trained or downloaded. What
    depends on the features of the pretrained network is chosen when training begins.

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
    check_settings(config)
    catalog, held_out = open_catalogs(config)
    device = config.run.device
    choices += choose_by_data(
        config, catalog, held_out, create_source(config), ALONE, workers=config.run.workers,
        cuda=device == "cuda" or (device == "auto" and torch.cuda.is_available()),
    )  # fmt: skip
    return with_comments(with_choices(config, choices).without_secrets(), reasons(choices))


def with_comments(config: Config, comments: dict[str, str]) -> str:
    """YAML of every setting, with a comment above those that have one by their dotted key."""
    lines, section = [], ""
    for line in config.to_yaml().splitlines():
        name = line.strip().partition(":")[0]
        if line[:1] not in (" ", "-"):
            section = name
        elif line.startswith("  ") and line[2] not in " -":
            comment = comments.get(f"{section}.{name}")
            if comment is not None:
                lines.append(f"  # {comment}")
        lines.append(line)
    return "\n".join(lines) + "\n"
