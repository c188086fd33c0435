"""The loss, and the component's names of it."""

from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from lookalike.config.section import Section
from lookalike.config.spelling import plain, spelled

LossName = Literal[
    "amsoftmax", "arcface", "cosface", "large_margin_softmax", "sphereface", "softmax",
    "adaface", "adaptive_arcface", "curricularface", "magface",
]  # fmt: skip

LOSS_ALIASES = {
    "AMSoftmax": "amsoftmax",
    "ArcFaceLoss": "arcface",
    "CosFaceLoss": "cosface",
    "LargeMarginSoftmaxLoss": "large_margin_softmax",
    "SphereFaceLoss": "sphereface",
    "Softmax": "softmax",
}
"""The component's names of the losses."""

MODEL_PARALLEL_LOSSES = {
    "Model-parallel AMSoftmax": "amsoftmax",
    "Model-parallel Softmax": "softmax",
}
"""The component's losses that mean a margin and `head.parallel=model` in one."""


_OTHER_NAMES = {
    "additive_margin_softmax": "amsoftmax",
    "lmcl": "cosface",
    "additive_angular_margin": "arcface",
    "aam_softmax": "arcface",
    "l_softmax": "large_margin_softmax",
    "a_softmax": "sphereface",
    "cross_entropy": "softmax",
}


def loss_name(text: str) -> str:
    """Our name of a loss in any spelling, with `Loss` behind or not; `text` where it is none."""
    names = {name: name for name in get_args(LossName)} | LOSS_ALIASES | _OTHER_NAMES
    known = {plain(name).removesuffix("loss"): ours for name, ours in names.items()}
    return known.get(plain(text).removesuffix("loss"), text)


def model_parallel_loss(text: str) -> str | None:
    """Our name of one of the component's model-parallel losses; None for any other."""
    return MODEL_PARALLEL_LOSSES.get(spelled(text, MODEL_PARALLEL_LOSSES))


class LossConfig(Section):
    """What training minimises."""

    name: LossName = "amsoftmax"
    """The margin: amsoftmax, arcface, cosface, large_margin_softmax, sphereface, softmax, adaface,
    adaptive_arcface, curricularface or magface; the component's names are accepted."""
    margin: float | None = None
    """Margin, in the unit of the loss (cosine for amsoftmax and cosface, degrees for arcface, a
    whole multiplier for large_margin_softmax and sphereface); by default the recommended one."""
    scale: float | None = Field(None, gt=0)
    """Scale of the logits; by default the recommended one."""
    options: dict[str, float] = {}  # noqa: RUF012  # pydantic gives each its own
    """Further numbers of the margin by name, where it has any; by default those of its paper."""
    nested_dims: tuple[int, ...] = ()
    """Also learn from the first so many dimensions of the embedding alone, `[64, 128]`, each with
    class weights of its own: such an embedding may be cut to these lengths (Kusupati et al.,
    Matryoshka Representation Learning, 2022)."""
    weight: float = Field(1.0, ge=0)
    """Weight of the metric loss beside the classification loss: the total is
    weight * metric + classification_weight * classification."""
    classification_weight: float | None = Field(None, ge=0)
    """Weight of the classification loss; by default 1 with `head.parallel=data` and 0 (no such
    branch) with `head.parallel=model`, as in the component."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the classification loss."""

    @field_validator("nested_dims")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or any(dim < 2 for dim in value):
            raise ValueError("takes ascending numbers of dimensions, from 2 on, as [64, 128]")
        return value

    @field_validator("name", mode="before")
    @classmethod
    def _name_alias(cls, value: Any) -> Any:
        return loss_name(value) if isinstance(value, str) else value
