"""Losses on the embedding, by name.

Most are margin x head: `MARGINS` here, the head in `lookalike.losses.head`. A new one is one
subclass of `Margin`, one line in `MARGINS` and its name in `LossName`
(`lookalike.config.sections`); it then works dense and sharded. `PAIR_LOSSES` compare the images of
a batch with each other; the same three steps, with a subclass of `PairLoss`. Proxy Anchor compares
the images of a batch with class weights, from the side of the class.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lookalike.errors import ConfigError
from lookalike.losses.margin import Margin
from lookalike.losses.margins.adaface import AdaFace
from lookalike.losses.margins.adaptive_arcface import AdaptiveArcFace
from lookalike.losses.margins.arcface import ArcFace
from lookalike.losses.margins.cosface import AMSoftmax, CosFace
from lookalike.losses.margins.curricular import CurricularFace
from lookalike.losses.margins.magface import MagFace
from lookalike.losses.margins.softmax import Softmax
from lookalike.losses.margins.sphereface import LargeMarginSoftmax, SphereFace
from lookalike.losses.metric_loss import MetricLoss
from lookalike.losses.pairs.multi_similarity import MultiSimilarity
from lookalike.losses.pairs.pair_loss import PairLoss
from lookalike.losses.pairs.proxy_anchor import ProxyAnchor
from lookalike.losses.pairs.recall_at_k import RecallAtK
from lookalike.losses.pairs.smooth_ap import SmoothAP
from lookalike.losses.pairs.supcon import SupCon

MARGINS: dict[str, type[Margin]] = {
    "amsoftmax": AMSoftmax,
    "arcface": ArcFace,
    "cosface": CosFace,
    "large_margin_softmax": LargeMarginSoftmax,
    "sphereface": SphereFace,
    "softmax": Softmax,
    "adaface": AdaFace,
    "adaptive_arcface": AdaptiveArcFace,
    "curricularface": CurricularFace,
    "magface": MagFace,
}

PAIR_LOSSES: dict[str, type[PairLoss]] = {
    "multi_similarity": MultiSimilarity,
    "supcon": SupCon,
    "smooth_ap": SmoothAP,
    "recall_at_k": RecallAtK,
}

LOSSES: dict[str, type[MetricLoss]] = {**MARGINS, "proxy_anchor": ProxyAnchor, **PAIR_LOSSES}


def create_loss(
    name: str,
    margin: float | None = None,
    scale: float | None = None,
    options: Mapping[str, float] | None = None,
) -> MetricLoss:
    """The loss called `name`, with the recommended `margin` and `scale` where they are None.

    `options` are further parameters of this loss, by name.

    Raises:
        ConfigError: the name is unknown, the loss has no such number, or a value is out of its
            range.
    """
    if name not in LOSSES:
        raise ConfigError(f"loss.name={name!r} is not one of {', '.join(LOSSES)}")
    kind: Any = LOSSES[name]
    names = [field.name for field in fields(kind)]
    known = [each for each in names if each not in ("margin", "scale")]
    for option in options or {}:
        if option not in known:
            choices = f"its options are {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"loss.options: {name} has no option {option!r}; {choices}")
    values = {
        key: value for key, value in (("margin", margin), ("scale", scale)) if value is not None
    }
    for key, value in values.items():
        if key not in names:
            raise ConfigError(
                f"loss.{key}={value:g}: {name} has no {key}; leave it out (its numbers are "
                f"loss.options.{', '.join(known)})"
            )
    values |= options or {}
    loss: MetricLoss = kind(**{key: float(value) for key, value in values.items()})
    return loss
