"""The network."""

from typing import Any

from pydantic import Field, field_validator

from lookalike.config.section import Section
from lookalike.config.spelling import spelled
from lookalike.model import BACKBONE_ALIASES, BACKBONES, POOLINGS, TORCHVISION_NAMES


class ModelConfig(Section):
    """The network from pixels to embedding."""

    backbone: str = "resnet50"
    """resnet18 34 50 101, swint_tiny small base, vit_tiny small base, xcit_tiny small base, the
    component's spellings (`resnet_50`, `swin_transformer_tiny`), any timm model name,
    `hf-hub:OWNER/REPOSITORY`, or `local-dir:FOLDER` with the same files."""
    pretrained: bool | str = True
    """`true`: timm's weights from its hub; `false`: random; or the path or URI of a `.pth` or
    `.safetensors` file."""
    image_size: int | tuple[int, int] = 224
    """Side of the square, in pixels, that the network sees; or `[height, width]`, as `[256,128]`
    for people."""
    train_size: int | tuple[int, int] | None = None
    """The same in training; `image_size` by default. A smaller one trains faster, and
    convolutional backbones often gain from it (Touvron et al., FixRes, 2019)."""
    crop_pct: float | None = Field(None, ge=0.05, le=1)
    """Part of the resized image that the centre crop keeps in evaluation; by default what timm
    states for the backbone."""
    backbone_dim: int | None = Field(None, ge=1)
    """Channels of the backbone's feature map; inferred, and checked when given."""
    embedding_dim: int = Field(1536, ge=2, le=2**16)
    """Length of the embedding."""
    pooling: str = "gem+avg"
    """How the neck pools the feature map: gem, avg, max, cls (the class token of a ViT or XCiT),
    or several joined by `+`; each gets an equal part of the embedding."""

    @field_validator("backbone")
    @classmethod
    def _backbone_alias(cls, value: str) -> str:
        others = {**BACKBONE_ALIASES, **TORCHVISION_NAMES}
        known = spelled(spelled(value, BACKBONES), others)
        return others.get(known, known)

    @field_validator("image_size", "train_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        # Whether there must be one is the field's own matter.
        from lookalike.data.image_size import read_size  # brings NumPy, which --help needs not

        return None if value is None else read_size(value)

    @field_validator("pooling")
    @classmethod
    def _known_poolings(cls, value: str) -> str:
        parts = value.split("+")
        wrong = [part for part in parts if part not in POOLINGS]
        if wrong or len(set(parts)) < len(parts):
            raise ValueError(f"takes {', '.join(POOLINGS)}, or several of them joined by '+'")
        return value
