"""Model card of a folder: README.md as the Hugging Face hub shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike import pages
from lookalike.data.image_size import height_width
from lookalike.exporting.weight_folders import feature_layout
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.scores import DEFINITIONS
from lookalike.model.backbone import Backbone
from lookalike.model.embedder import WEIGHTS_FILE, Embedder
from lookalike.model.neck import GEM_EPS, GEM_POWER

CARD_FILE = "README.md"

_ROWS = (
    ("Recall@1", "recall_at_1"),
    ("Recall@8", "recall_at_8"),
    ("MAP@R", "map_at_r"),
    ("R-precision", "r_precision"),
)

_POOLED = {
    "avg": "features.mean(dim=1)",
    "max": "features.amax(dim=1)",
    "gem": f"features.clamp(min={GEM_EPS}).pow({GEM_POWER:g}).mean(dim=1).pow(1 / {GEM_POWER:g})",
    "cls": "token",
    "map": "token",
    "quarters": "quarters",
}


def write_card(
    folder: Path,
    embedder: Embedder,
    about: Mapping[str, Any],
    *,
    name: str,
    list_name: str,
    sampled: bool,
    training: Mapping[str, str],
    calibration: Calibration | None,
) -> None:
    """Write README.md beside the weights.

    Args:
        about: the description of the artefact.
        name: of the folder in its final place.
        list_name: the list that it was measured on.
        sampled: a part of that list only.
        training: facts of the training by name.
    """
    text = pages.render(
        "model_card.md.j2",
        about=about,
        architecture=embedder.backbone.architecture.name,
        calibration=calibration,
        definitions=[(key, DEFINITIONS[key]) for key in ("recall_at_k", "map_at_r", "r_precision")],
        dim=embedder.embedding_dim,
        images=f"{about['certificate']['images']:,} images",
        library="timm" if about["artefact"] == "timm" else "lookalike",
        list_name=list_name,
        name=name,
        resized=embedder.preprocess.resized,
        rows=_ROWS,
        sampled=sampled,
        size=height_width(embedder.preprocess.image_size),
        snippet=timm_snippet(embedder, name) if about["artefact"] == "timm" else "",
        training=training,
        weights_mb=(folder / WEIGHTS_FILE).stat().st_size / 1e6,
    )
    (folder / CARD_FILE).write_text(text, "utf-8")


def timm_snippet(embedder: Embedder, name: str) -> str:
    """Python code of the full embedding with timm, from a folder called `name`."""
    layout = feature_layout(embedder)
    prefix = embedder.backbone.num_prefix_tokens
    poolings = embedder.pooling.split("+")
    shape = {
        "tokens": f"maps[:, {prefix}:]" if prefix else "maps",
        "NCHW": "maps.flatten(2).transpose(1, 2)",
        "NHWC": "maps.flatten(1, 2)",
        "pooled": "maps[:, None]",
    }[layout]
    lines = [
        "import timm",
        "import torch",
        "import torch.nn.functional as F",
        "from safetensors.torch import load_file",
        "",
        f'model = timm.create_model("local-dir:{name}", pretrained=True, num_classes=0).eval()',
        f'neck = load_file("{name}/neck.safetensors")',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "",
        "",
        "@torch.inference_mode()",
        "def embed(images):",
        '    """Unit vectors (B, D) of transformed images (B, 3, S, S)."""',
        *_maps(embedder.backbone),
        *(["    maps = model.head.norm(maps)"] if embedder.backbone.has_final_norm else []),
        f"    features = {shape}  # (B, places, channels)",
        *(["    token = maps[:, 0]"] if "cls" in poolings else []),
        *(["    token = model.pool(maps)"] if "map" in poolings else []),
        f"    pooled = [{', '.join(_POOLED[pooling] for pooling in poolings)}]",
        '    parts = [x @ neck[f"projections.{i}.weight"].T for i, x in enumerate(pooled)]',
    ]
    if not embedder.normalize:
        lines += [
            '    norm = [neck[f"norm.{x}"] for x in ("running_mean", "running_var", "weight", '
            '"bias")]',
            "    joined = F.batch_norm(torch.cat(parts, dim=1), *norm)",
        ]
    else:
        lines += ["    joined = torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)"]
    return "\n".join([*lines, "    return F.normalize(joined, dim=1)"])


def _maps(backbone: Backbone) -> list[str]:
    index = backbone.earlier_map
    if index is None:
        return ["    maps = model.forward_features(images)"]
    return [
        f"    maps, (earlier,) = model.forward_intermediates(images, indices=[{index}])",
        "    height, width = earlier.shape[2:]",
        "    rows = slice((height + 1) // 2), slice(height // 2, height)",
        "    columns = slice((width + 1) // 2), slice(width // 2, width)",
        "    parts = [earlier[:, :, r, c].mean(dim=(2, 3)) for r in rows for c in columns]",
        "    quarters = torch.cat(parts, dim=1)",
    ]
