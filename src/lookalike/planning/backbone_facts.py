"""Facts of backbones: of timm's own tables, and measured on fake tensors.

`backbone_facts.json` beside this file holds those of the listed backbones, so that listing them
takes no time; `docs/make_backbones.py` writes it, and a test compares it with timm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from lookalike.data.image_size import ImageSize
from lookalike.planning.network_profile import NetworkProfile, measure

FACTS = Path(__file__).with_name("backbone_facts.json")

IMAGE_SIZE = 224
"""Of the facts in the file: the default of `model.image_size`."""

EMBEDDING_DIM = 512
_IMAGES = (2, 10)  # of the two profiles, between and beyond which bytes are linear in the images


@dataclass(frozen=True)
class BackboneFacts:
    """One backbone and the weights that timm has for it.

    Attributes:
        name: for `model.backbone`.
        timm: architecture and tag of the weights; the architecture alone where there are none.
        licence: of the weights, as timm states it; None where it does not.
        hub: repository of the weights; None where they are elsewhere or there are none.
        pretrained: timm has weights.
        native: image size of the weights' training, (height, width) in pixels.
        patch: side of a patch, which divides a good image size; None for convolutions.
        dim: channels C of the feature map.
        macs: multiply-accumulates of the forward pass of one image at `image_size`.
        image_size: at which bytes and operations were measured.
        profiles: of the network with an embedding of `EMBEDDING_DIM`, for two numbers of images.
    """

    name: str
    timm: str
    licence: str | None
    hub: str | None
    pretrained: bool
    native: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    patch: int | None
    dim: int
    parameters: int
    macs: int
    image_size: ImageSize
    profiles: tuple[NetworkProfile, NetworkProfile]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, of its JSON too."""
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        profiles = tuple(
            NetworkProfile(**{**profile, "norm_channels": tuple(profile["norm_channels"])})
            for profile in values["profiles"]
        )
        return cls(**{**values, **lists, "profiles": profiles})

    def profile(self, images: int) -> NetworkProfile:
        """The network's profile for a batch, by the line through the two measured ones."""
        low, high = self.profiles
        share = (images - low.images) / (high.images - low.images)

        def line(key: str) -> int:
            start, end = getattr(low, key), getattr(high, key)
            return round(start + share * (end - start))

        return replace(
            low,
            images=images,
            activations=line("activations"),
            forward_peak=line("forward_peak"),
            backward_peak=line("backward_peak"),
            backward_grown_peak=line("backward_grown_peak"),
            flops=line("flops"),
        )


@cache
def known_facts() -> dict[str, BackboneFacts]:
    """The facts in the file, by name."""
    listed = json.loads(FACTS.read_text("utf-8"))["backbones"]
    return {each["name"]: BackboneFacts.from_dict(each) for each in listed}


def read_facts(names: Sequence[str], image_size: ImageSize) -> list[BackboneFacts]:
    """Facts of these backbones at this size, from the file where it has them, else measured.

    Raises:
        ModelError: there is no such backbone, or it does not take the size.
    """
    known = known_facts() if image_size == IMAGE_SIZE else {}
    return [known.get(name) or measure_facts(name, image_size) for name in names]


def timm_facts(name: str) -> dict[str, Any]:
    """Figures of a backbone by timm: the fields of `BackboneFacts` up to `crop_pct`."""
    import timm

    from lookalike.model.architecture import find_architecture

    found = timm.models.get_pretrained_cfg(find_architecture(name).name)
    weights = {} if found is None else found.to_dict()
    data = timm.data.resolve_data_config({}, pretrained_cfg=weights)
    pretrained = any(weights.get(key) for key in ("url", "file", "hf_hub_id"))
    architecture = find_architecture(name).name.partition(".")[0]
    tag = weights.get("tag") if pretrained else None
    return {
        "name": name,
        "timm": f"{architecture}.{tag}" if tag else architecture,
        "licence": weights.get("license") if pretrained else None,
        "hub": weights.get("hf_hub_id") if pretrained else None,
        "pretrained": pretrained,
        "native": tuple(data["input_size"][1:]),
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "interpolation": data["interpolation"],
        "crop_pct": data["crop_pct"],
    }


def measure_facts(name: str, image_size: ImageSize) -> BackboneFacts:
    """Facts of a backbone: timm's, and its bytes and operations in bfloat16, on fake tensors.

    The network is built with random weights; nothing is computed or downloaded.

    Raises:
        ModelError: there is no such backbone, or it does not take the size.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lookalike.data.image_size import height_width
    from lookalike.model.backbone import Backbone
    from lookalike.model.dry_run import exclude_unused
    from lookalike.model.embedder import Embedder
    from lookalike.model.training_network import TrainingNetwork

    with torch.random.fork_rng(devices=[]):
        embedder = Embedder.create(
            name, pretrained=False, image_size=image_size, embedding_dim=EMBEDDING_DIM
        )
    network = TrainingNetwork(embedder, None)
    exclude_unused(network, image_size)
    profiles = [
        measure(network, images=images, image_size=image_size, precision=torch.bfloat16)
        for images in _IMAGES
    ]
    with torch.device("meta"):
        backbone = Backbone(name, image_size).eval()
        count = FlopCounterMode(display=False)
        with torch.no_grad(), count:
            backbone.model.forward_features(torch.empty(1, 3, *height_width(image_size)))
    patches = getattr(backbone.model, "patch_embed", None)
    patch = getattr(patches, "patch_size", None)
    return BackboneFacts(
        **timm_facts(name),
        patch=patch[0] if isinstance(patch, tuple) else patch,
        dim=backbone.dim,
        parameters=profiles[0].backbone,
        macs=count.get_total_flops() // 2,
        image_size=image_size,
        profiles=(profiles[0], profiles[1]),
    )
