"""Losses = margin x head: `MARGINS` here, the head in `lookalike.losses.head`.

A new loss is one subclass of `Margin`, one line in `MARGINS` and its name in `LossName`
(`lookalike.config.sections`); it then works dense and sharded.
"""

from collections.abc import Mapping
from dataclasses import fields

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


def create_margin(
    name: str,
    margin: float | None = None,
    scale: float | None = None,
    options: Mapping[str, float] | None = None,
) -> Margin:
    """The margin called `name`, with the recommended `margin` and `scale` where they are None.

    `options` are further parameters of this margin, by name.

    Raises:
        ConfigError: the name is unknown, or a value is out of its range.
    """
    if name not in MARGINS:
        raise ConfigError(f"loss.name={name!r} is not one of {', '.join(MARGINS)}")
    kind = MARGINS[name]
    known = [field.name for field in fields(kind) if field.name not in ("margin", "scale")]
    for option in options or {}:
        if option not in known:
            choices = f"its options are {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"loss.options: {name} has no option {option!r}; {choices}")
    return kind(
        margin=kind.default_margin if margin is None else float(margin),
        scale=kind.default_scale if scale is None else float(scale),
        **{option: float(value) for option, value in (options or {}).items()},
    )
