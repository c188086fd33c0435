"""Facts of a local or remote run, for pages about it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.config.config import Config, keys
from lookalike.data.catalog import Catalog
from lookalike.data.image_size import size_text
from lookalike.data.readers.path_patterns import shown
from lookalike.errors import RunError
from lookalike.log import counted, logger
from lookalike.planning.study_effects import effects_of
from lookalike.reporting.report_data import RunHistory, Setting
from lookalike.run import ENVIRONMENT, METRICS, RECIPE, of_one_list, read_lines
from lookalike.training.setting_folders import used_config


def required_config(run: str) -> Config:
    """Settings that a run used.

    Raises:
        RunError: there is no run.
    """
    config = used_config(run)
    if config is None:
        raise RunError(f"{storage.public(run)}: no run here (config.yaml is missing)")
    return config


def history(run: str) -> RunHistory:
    """Records, name and time of a run."""
    lines = io.StringIO(_text(run, METRICS))
    metrics = of_one_list(list(read_lines(lines, storage.public(storage.join(run, METRICS)))))
    times = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d):\d\d,\d+ ", _text(run, "log.txt"), re.M)
    trained = f"Trained {times[0]} to {times[-1][11:]}" if times else ""
    if times and times[0][:10] != times[-1][:10]:
        trained = f"Trained {times[0]} to {times[-1]}"
    return RunHistory(name=name_of(run), metrics=metrics, trained=trained)


def name_of(run: str) -> str:
    """Name of a run, the last two parts of its place: `quickstart/run`."""
    path = storage.public(run) if storage.is_remote(run) else str(storage.path_of(run).absolute())
    return "/".join(path.rstrip("/").split("://")[-1].split("/")[-2:])


def facts(config: Config, train: Catalog | None, shown: Catalog | None) -> list[tuple[str, str]]:
    """Model, loss and lists of a run, as rows of a table."""
    model, loss = config.model, config.loss
    facts = [
        (
            "model",
            f"{model.backbone} at {size_text(model.image_size)} px, {model.pooling} pooling, "
            f"embedding of {model.embedding_dim:,}",
        ),
        (
            "loss",
            loss.describe(),
        ),
    ]
    for name, catalog in (("trained on", train), ("evaluated on", shown)):
        if catalog is not None:
            classes = len(np.unique(catalog.class_ids))
            source = storage.public(catalog.records[0].source)
            images = counted(len(catalog), "image")
            facts.append((name, f"{images} of {counted(classes, 'class', 'classes')} ({source})"))
    return facts


def validated_on(config: Config, history: RunHistory) -> str:
    """Name of a run's validation list, without secrets; "" where nothing was measured."""
    if not history.measured:
        return ""
    data = config.data
    train = shown(data.train)
    if data.val is not None:
        return shown(data.val)
    if data.val_fraction:
        return f"{data.val_fraction:.3g} of the classes of {train}, held out"
    return f"the split {data.val_split} of {train}"


def settings(config: Config, reasons: Mapping[str, str]) -> list[Setting]:
    """Every setting, without secrets in addresses; `reasons` by key where the recipe chose."""
    default, found = Config(), []
    pretrained = config.model.pretrained is not False
    for key in keys():
        value = _shown(config.get(key))
        found.append(
            Setting(
                key,
                value,
                config.get(key) != default.get(key),
                reasons.get(key, ""),
                effects_of(key, value, pretrained=pretrained) if key in reasons else (),
            )
        )
    return found


def reasons(run: str) -> dict[str, str]:
    """Reasons of the recipe, by the key that it chose; empty if they were not recorded."""
    try:
        found = json.loads(_text(run, RECIPE) or "[]")
        return {str(each["key"]): str(each["reason"]) for each in found}
    except (ValueError, RecursionError, TypeError, KeyError):
        logger.warning("%s: is broken, and skipped", storage.public(storage.join(run, RECIPE)))
        return {}


def environment(run: str) -> list[tuple[str, str]]:
    """Versions and devices; empty if they were not recorded."""
    try:
        found = json.loads(_text(run, ENVIRONMENT) or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        logger.warning("%s: is broken, and skipped", storage.public(storage.join(run, ENVIRONMENT)))
        return []
    return [(name, str(value)) for name, value in found.items()]


def _text(run: str, name: str) -> str:
    return (storage.read_if_exists(storage.join(run, name)) or b"").decode("utf-8", "replace")


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        parts = [storage.public(str(part)) for part in value]
        return ", ".join(parts[:8]) + (f" and {len(parts) - 8:,} more" if len(parts) > 8 else "")
    return f"{value:g}" if isinstance(value, float) else storage.public(str(value))
