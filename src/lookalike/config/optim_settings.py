"""The optimizer."""

from typing import Any, Literal

from pydantic import Field, field_validator

from lookalike.config.section import Section


class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: float = Field(0.03, gt=0)
    """Learning rate after the warm-up."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd; the first beta of adamw."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay; norms and biases have none."""
    backbone_lr_factor: float = Field(1.0, ge=0)
    """Learning rate of the backbone, relative to `lr`."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises from near zero; a tenth of the run at most."""
    min_lr: float = Field(1e-6, ge=0)
    """Where the cosine schedule ends."""
    clip_grad_norm: float = Field(5.0, ge=0)
    """Largest norm of all gradients together; 0 is off. Large scales need it: ArcFace at its
    recommended 64 fell apart on pretrained weights without."""

    @field_validator("name", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value
