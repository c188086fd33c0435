"""Losses = margin x head: `MARGINS` here, the head in `lookalike.losses.head`.

A new loss is one subclass of `Margin` and one line in `MARGINS`; it then works dense and
sharded.
"""

from lookalike.errors import ConfigError
from lookalike.losses.additive import AMSoftmax, CosFace
from lookalike.losses.arcface import ArcFace
from lookalike.losses.margin import Margin
from lookalike.losses.multiplicative import LargeMarginSoftmax, SphereFace
from lookalike.losses.softmax import Softmax

MARGINS: dict[str, type[Margin]] = {
    "amsoftmax": AMSoftmax,
    "arcface": ArcFace,
    "cosface": CosFace,
    "large_margin_softmax": LargeMarginSoftmax,
    "sphereface": SphereFace,
    "softmax": Softmax,
}


def create_margin(name: str, margin: float | None = None, scale: float | None = None) -> Margin:
    """The margin called `name`.

    Args:
        name: a key of `MARGINS`.
        margin: in the unit of that margin; None for the recommended value.
        scale: of the logits; None for the recommended value.

    Raises:
        ConfigError: the name is unknown, or a value is out of its range.
    """
    if name not in MARGINS:
        raise ConfigError(f"loss.name={name!r} is not one of {', '.join(MARGINS)}")
    kind = MARGINS[name]
    return kind(
        margin=kind.default_margin if margin is None else float(margin),
        scale=kind.default_scale if scale is None else float(scale),
    )
