"""Random search of `quality.py`: the settings that may be drawn for each method.

Trial 0 is the published setting, or our defaults; of a margin loss trial 1 is what experience
suggests. A draw depends on the method, the kind of start and its number alone: it is the same on
every set.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from quality_oml import OML
from quality_peers import PUBLISHED

Draw = Callable[[random.Random], Any]


def between(low: float, high: float) -> Draw:
    """Uniform on a logarithmic axis, to three digits."""
    return lambda rng: float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")


def within(low: float, high: float) -> Draw:
    """Uniform, to three digits."""
    return lambda rng: float(f"{rng.uniform(low, high):.3g}")


def one_of(*values: Any) -> Draw:
    return lambda rng: rng.choice(values)


LOSS_SPACES: dict[str, dict[str, Draw]] = {
    "arcface": {"scale": between(8, 64), "margin": within(0, 35)},
    "cosface": {"scale": between(8, 64), "margin": within(0, 0.5)},
    "subcenter_arcface": {
        "scale": between(8, 64), "margin": within(0, 35), "sub_centers": one_of(2, 3),
    },
    "proxy_anchor": {"alpha": between(8, 64), "margin": within(0, 0.3)},
    "multi_similarity": {
        "alpha": between(1, 10), "beta": between(20, 80), "base": within(0.3, 0.8),
        "epsilon": within(0.05, 0.2),
    },
    "soft_triple": {
        "la": between(5, 40), "gamma": between(0.03, 0.3), "margin": within(0, 0.1),
        "centers_per_class": one_of(2, 5, 10),
    },
    "normalized_softmax": {"temperature": between(1 / 64, 1 / 8)},
    "cross_entropy": {"label_smoothing": one_of(0.0, 0.1)},
}  # fmt: skip


EXPERIENCE: dict[str, dict[str, Any]] = {
    "arcface": {"scale": 16, "margin": 11.5},
    "cosface": {"scale": 16, "margin": 0.1},
    "subcenter_arcface": {"scale": 16, "margin": 11.5},
    "normalized_softmax": {"temperature": 1 / 16},
}
"""Options of the second trial, by loss: a small scale and margin."""


def draw(base: str, trial: int, *, pretrained: bool) -> dict[str, Any]:
    """The settings of one trial, by name; none for trial 0."""
    if trial == 0:
        return {}
    if trial == 1 and (known := _experience(base, pretrained)):
        return known
    rng = random.Random(f"{base} {pretrained} {trial}")
    space = _ours(pretrained) if base == "ours" else _peer(base, rng, pretrained)
    return {name: drawn(rng) for name, drawn in space.items()}


def method_name(base: str, settings: dict[str, Any]) -> str:
    """Name of a method with these settings, which `Method.parse` reads."""
    text = ",".join(f"{key}={_as_yaml(value)}" for key, value in settings.items())
    return f"{base}:{text}" if text else base


def _as_yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _experience(base: str, pretrained: bool) -> dict[str, Any]:
    if base not in PUBLISHED or (loss := PUBLISHED[base][0].loss) not in EXPERIENCE:
        return {}
    usual = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "min_crop": 0.75}
    start = {"freeze_batchnorm": True, "backbone_lr_factor": 1.0} if pretrained else {}
    return {**EXPERIENCE[loss], **usual, **start}


def _peer(base: str, rng: random.Random, pretrained: bool) -> dict[str, Draw]:
    if base in OML:
        return _oml(base, pretrained)
    loss = PUBLISHED[base][0].loss
    optimizer = rng.choice(("sgd", "adamw", "adamw"))
    rates = {"sgd": (3e-3, 0.3), "adamw": (2e-4, 5e-3)}[optimizer]
    space = {
        **LOSS_SPACES[loss],
        "optimizer": one_of(optimizer),
        "lr": between(*rates),
        "weight_decay": between(1e-6, 1e-4 if optimizer == "sgd" else 0.05),
        "loss_lr_factor": one_of(1, 10, 100) if optimizer == "adamw" else one_of(1, 10),
        "warmup": one_of(0.0, 0.1),
        "flip": one_of(0.0, 0.5),
        "min_crop": one_of(0.2, 0.5, 0.75),
        "crop_pct": one_of(None, 1.0),
        "pooling": one_of("avg", "avgmax"),
        "batch_size": one_of(32, 64) if pretrained else one_of(16, 32, 64),
        "images_per_class": one_of(4, 2) if loss == "multi_similarity" else one_of(None, 4),
    }
    if loss == "cross_entropy":
        del space["loss_lr_factor"]
    if pretrained:
        space["backbone_lr_factor"] = between(0.01, 1)
        space["freeze_batchnorm"] = one_of(False, True)
    return space


def _oml(base: str, pretrained: bool) -> dict[str, Draw]:
    loss: dict[str, Draw] = {"margin": within(0.05, 0.5), "images_per_class": one_of(2, 4)}
    if base == "oml_arcface":
        loss = {"margin": within(0, 0.6), "scale": between(8, 64)}
    return {
        **loss,
        "lr": between(1e-5, 1e-3) if pretrained else between(2e-4, 5e-3),
        "weight_decay": between(1e-6, 1e-3),
        "normalise": one_of(False, True),
        "flip": one_of(0.0, 0.5),
        "min_crop": one_of(0.2, 0.5, 0.75),
        "crop_pct": one_of(None, 1.0),
    }


def _ours(pretrained: bool) -> dict[str, Draw]:
    space = {
        "loss.name": one_of("cosface", "arcface"),
        "loss.scale": between(8, 64),
        "loss.classification_weight": one_of(0, 1),
        "optim.name": one_of("adamw"),
        "optim.lr": between(2e-4, 5e-3),
        "optim.weight_decay": between(1e-6, 0.05),
        "head.lr_factor": one_of(1, 10),
        "model.embedding_dim": one_of(512),
        "model.pooling": one_of("avg", "gem+avg", "gem+max", "gem+quarters"),
        "model.crop_pct": one_of("null", 1.0),
        "data.flip": one_of(0.0, 0.5),
        "data.min_crop": one_of(0.2, 0.5, 0.75),
        "train.batch_size": one_of(32, 64) if pretrained else one_of(16, 32, 64),
    }
    if pretrained:
        space["optim.backbone_lr_factor"] = between(0.01, 1)
        space["train.freeze_batchnorm"] = one_of("false", "true")
    return space
