"""Folders of weights, in our format and in timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch

from lookalike.data.image_size import ImageSize, height_width
from lookalike.errors import ConfigError
from lookalike.exporting.network import in_precision
from lookalike.model.architecture import Architecture
from lookalike.model.embedder import WEIGHTS_FILE, Embedder
from lookalike.storage.local_files import usual_mode

NECK_FILE = "neck.safetensors"


def save_ours(embedder: Embedder, folder: Path, precision: str) -> None:
    """Folder for `Embedder.load`; fp16 is the backbone's."""
    in_precision(embedder, precision).save(folder)


def save_timm(embedder: Embedder, folder: Path, precision: str) -> None:
    """Folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`: the backbone.

    The neck, which no model of timm has, lies beside it.
    """
    stored = in_precision(embedder, precision)
    if embedder.mirror or embedder.projection is not None:
        raise ConfigError(
            "--format timm: this model has postprocessing (mirror images, whitening or fewer "
            "dimensions), and timm's cannot hold that; use onnx, torch_export or safetensors"
        )
    preprocess = embedder.preprocess
    height, width = height_width(preprocess.image_size)
    found = embedder.backbone.architecture
    more: dict[str, Any] = {}
    if _is_sized(found, preprocess.image_size):
        more = {"img_size": preprocess.image_size}
    weights = stored.backbone.model.state_dict()
    with torch.device("meta"):
        published = timm.create_model(found.name, num_classes=0, **found.args, **more)
    # Where timm's own pooling has weights or a norm that ours has not, it is left out.
    if published.state_dict().keys() != weights.keys():
        more["global_pool"] = ""
    pixels = {
        "input_size": [3, height, width],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_pct,
        # timm would prefer the test sizes of its own weights.
        "test_input_size": [3, height, width],
        "test_crop_pct": preprocess.crop_pct,
        "crop_mode": "center",
    }
    # With timm's own pooling where that fits, for config.json.
    model: Any = timm.create_model(found.name, num_classes=0, **found.args, **more)
    model.load_state_dict(weights)
    if precision == "fp16":
        model.half()
    folder.mkdir(parents=True)
    with usual_mode(folder / WEIGHTS_FILE):
        timm.models.save_for_hf(
            model,
            str(folder),
            model_config={"pretrained_cfg": pixels, "num_classes": 0},
            model_args={**found.args, **more},
            safe_serialization=True,
        )
    neck = {name: tensor.contiguous() for name, tensor in embedder.neck.state_dict().items()}
    with usual_mode(folder / NECK_FILE):
        safetensors.torch.save_file(neck, folder / NECK_FILE)


def load_timm(folder: Path, like: Embedder) -> Embedder:
    """The embedder of such a folder, with the settings of `like` and none of its weights."""
    backbone = type(like.backbone)(
        like.backbone.architecture,
        like.preprocess.image_size,
        attention_pool=like.backbone.attention_pool,
        quarters=like.backbone.quarters_stride or False,
        final_norm=like.backbone.has_final_norm,
    )
    backbone.model.load_state_dict(
        timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).state_dict()
    )
    embedder = Embedder(
        backbone,
        like.embedding_dim,
        like.pooling,
        like.preprocess,
        normalize=like.normalize,
    )
    embedder.neck.load_state_dict(safetensors.torch.load_file(folder / NECK_FILE))
    return embedder.eval()


def feature_layout(embedder: Embedder) -> str:
    """Output of timm's `forward_features`: tokens (B, P + N, C), NCHW, NHWC or pooled (B, C)."""
    height, width = height_width(embedder.preprocess.image_size)
    model: Any = embedder.backbone.model
    with torch.inference_mode():
        maps = model.forward_features(torch.zeros(1, 3, height, width, dtype=embedder.dtype))
    if maps.ndim == 3:
        return "tokens"
    if maps.ndim == 2:
        return "pooled"
    return "NHWC" if getattr(model, "output_fmt", "NCHW") == "NHWC" else "NCHW"


def _is_sized(architecture: Architecture, size: ImageSize) -> bool:
    """True if timm's model takes `img_size`."""
    try:
        with torch.device("meta"):
            timm.create_model(architecture.name, num_classes=0, img_size=size, **architecture.args)
    except (TypeError, AssertionError):  # as in `lookalike.model.backbone`
        return False
    return True
