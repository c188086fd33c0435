"""Values of the settings that a request leaves open, and checks of settings against each other."""

from __future__ import annotations

from typing import Any, Literal

import torch

from lookalike.config.config import Config
from lookalike.data.image_size import height_width, size_text
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.losses import MARGINS
from lookalike.losses.kernels import has_bf16_products
from lookalike.losses.margin import Margin
from lookalike.losses.metric_loss import MetricLoss
from lookalike.model.dry_run import single_value_norms
from lookalike.model.embedder import Embedder
from lookalike.training.sampler_choice import resolve_sampler

FUSED_FROM = 2_000_000_000
"""Bytes of gradients of class weights from which on they are updated in the backward pass."""

RESOLVED_FROM = {
    "data.sampler": ("loss.name",),
    "data.val_fraction": ("data.val",),
    "model.backbone_dim": ("model.backbone",),
    "model.quarters_stride": ("model.backbone", "model.pooling"),
    "model.crop_pct": ("model.backbone",),
    "loss.margin": ("loss.name",),
    "loss.scale": ("loss.name",),
    "loss.classification_weight": ("head.parallel", "loss.name"),
    "train.max_steps": ("train.epochs",),
    "train.precision": ("run.device",),
    "head.precision": ("run.device", "train.precision"),
    "head.fused_update": ("head.dtype", "head.sample_rate"),
}
"""Settings that `resolve` fills in, each with those that its value follows from."""


def resolve(
    config: Config, metric: MetricLoss, embedder: Embedder, world: World, classes: int
) -> Config:
    """Complete request, with a value for every setting left open; the content of resolved.yaml.

    Raises:
        ConfigError: settings contradict each other.
    """
    loss = config.loss
    if warning := metric.warning():
        logger.warning("%s", warning)
    classification = loss.classification_weight
    if classification is None:
        with_branch = config.head.parallel == "data" and isinstance(metric, Margin)
        classification = 1.0 if with_branch else 0.0
    if loss.weight == 0 and classification == 0:
        raise ConfigError("loss.weight=0 and loss.classification_weight=0 leave nothing to learn")
    precision = config.train.precision
    if precision == "auto":
        precision = "fp32"
        if world.device.type == "cuda":
            # Without emulation: GPUs before Ampere accept bfloat16 tensors, and multiply them many
            # times slower than float16.
            precision = half_precision(torch.cuda.is_bf16_supported(including_emulation=False))
    if config.train.batch_size < world.size:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is less than the {world.size} workers"
        )
    smallest_micro_batch(config, config.train.batch_size, world)
    return config.with_values(
        {
            "data.sampler": resolve_sampler(config, metric, classes),
            "model.backbone_dim": embedder.backbone.dim,
            "model.quarters_stride": embedder.backbone.quarters_stride,
            "model.crop_pct": embedder.preprocess.crop_pct,
            "loss.margin": metric.margin,
            "loss.scale": metric.scale,
            "loss.classification_weight": classification,
            "train.precision": precision,
            **resolve_head(
                config,
                metric,
                precision,
                world.device,
                classes=classes,
                classification=classification,
            ),
        }
    )


def half_precision(bfloat16: bool) -> Literal["bf16", "fp16"]:
    """Precision of the network on a GPU, by whether it computes in bfloat16."""
    return "bf16" if bfloat16 else "fp16"


def resolve_head(
    config: Config,
    metric: MetricLoss,
    precision: str,
    device: torch.device,
    *,
    classes: int,
    classification: float,
) -> dict[str, Any]:
    """Values of the head's settings left open, by dotted key.

    `precision` of the network and the `classification` weight are resolved ones.

    Raises:
        ConfigError: settings contradict each other.
    """
    head = config.head
    requiring = [
        f"head.{key}={value}"
        for key, value, plain in (
            ("dtype", head.dtype, "fp32"),
            ("sample_rate", head.sample_rate, 1.0),
        )
        if value != plain
    ]
    if requiring and head.fused_update is False:
        raise ConfigError(
            f"head.fused_update=false, but {' and '.join(requiring)} needs it; leave it out"
        )
    if not isinstance(metric, Margin):
        _check_without_margin(config, metric, classification)
    if metric.weight_norm and (head.centres > 1 or head.filter_above is not None):
        key = "centres" if head.centres > 1 else "filter_above"
        raise ConfigError(
            f"head.{key} needs a loss on cosines, and loss.name={config.loss.name} carries the "
            "length of the class weights; use arcface, or leave it out"
        )
    nested, dim = config.loss.nested_dims, config.model.embedding_dim
    if nested and nested[-1] >= dim:
        raise ConfigError(
            f"loss.nested_dims={list(nested)}: each must be less than model.embedding_dim={dim}, "
            "which is learnt from anyway"
        )
    if nested and metric.uses_length:
        raise ConfigError(
            f"loss.nested_dims needs a loss that does not read the length of the embedding, and "
            f"loss.name={config.loss.name} does; use arcface"
        )
    # By request and classes, not by machine: the same run has the same curve everywhere.
    fused = head.fused_update
    if fused is None:
        large = gradient_bytes(config, classes, classification) >= FUSED_FROM
        fused = bool(requiring) or large
    matmul = head.precision
    if matmul == "auto":
        matmul = "bf16" if precision == "bf16" and has_bf16_products(device) else "fp32"
    return {
        "head.precision": matmul,
        "head.fused_update": fused,
    }


def _check_without_margin(config: Config, metric: MetricLoss, classification: float) -> None:
    """Check the head's settings for a loss that is no margin.

    Raises:
        ConfigError: one has no meaning.
    """
    head = config.head
    # Margins alone have several centres, and leave classes out; the rest concerns all class
    # weights, those of the classification branch too.
    given: list[tuple[str, Any, Any]] = [
        ("centres", head.centres, 1),
        ("filter_above", head.filter_above, None),
    ]
    if metric.has_class_weights or not classification:
        given += [("dtype", head.dtype, "fp32"), ("sample_rate", head.sample_rate, 1.0)]
        if head.fused_update and not classification:
            given.append(("fused_update", "true", None))
    if not (metric.has_class_weights or classification):
        given.append(("parallel", head.parallel, "data"))
    for key, value, plain in given:
        if value != plain:
            raise ConfigError(
                f"head.{key}={value} is for the class weights of a margin, and loss.name="
                f"{metric.name} has {'proxies' if metric.has_class_weights else 'no class weights'}"
                "; use a margin such as arcface, or leave it out"
            )


def gradient_bytes(config: Config, classes: int, classification: float) -> int:
    """Bytes of the float32 gradients of the class weights that can be updated chunk by chunk."""
    dim, numbers = config.model.embedding_dim, 0
    if config.loss.name in MARGINS:
        numbers = config.head.centres * (dim + sum(config.loss.nested_dims))
    if classification:
        numbers += dim
    return 4 * classes * numbers


def smallest_micro_batch(config: Config, batch_size: int, world: World) -> int:
    """Images of the smallest micro-batch on any worker, given the global batch size.

    Raises:
        ConfigError: there are none.
    """
    shard, parts = batch_size // world.size, config.train.accumulate
    if shard < parts:
        raise ConfigError(
            f"train.accumulate={parts} splits the images of a worker into more parts than there "
            f"are: {_batch_text(config, batch_size)} gives {shard} to each of {world.size} "
            f"workers; use train.accumulate={shard} or less"
        )
    return shard // parts


def check_micro_batches(config: Config, embedder: Embedder, batch_size: int, world: World) -> None:
    """Check that no batch norm gets a single value of each channel in training: no variance.

    `batch_size` is the global one, limited by the length of the list.

    Raises:
        ConfigError: one does.
    """
    synchronised = world.size > 1 and config.train.sync_batchnorm
    if smallest_micro_batch(config, batch_size, world) > 1 or synchronised:
        return
    size = config.model.train_size or config.model.image_size
    frozen = config.train.freeze_batchnorm or config.train.freeze_backbone
    found = [] if frozen else single_value_norms(embedder.backbone, size)
    norms = [f"backbone.{name.removeprefix('model.')}" for name in found]
    # These two normalise one vector for each image, at every size of the feature map.
    if embedder.neck.norm is not None:
        norms.append(f"neck.norm (of loss.name={config.loss.name})")
    if config.loss.classification_weight:
        norms.append("branch.norm (of loss.classification_weight)")
    if not norms:
        return
    fixes = _larger_micro_batches(config, batch_size, world)
    if len(found) == len(norms):
        fixes.append("train.freeze_batchnorm=true")
        height, width = height_width(size)
        twice = (2 * height, 2 * width)
        if embedder.backbone.is_convolutional and not single_value_norms(embedder.backbone, twice):
            setting = "model.image_size" if config.model.train_size is None else "model.train_size"
            fixes.append(f"{setting}={2 * height if height == width else list(twice)}")
    elif len(norms) == 1 and config.loss.classification_weight:
        fixes.append("loss.classification_weight=0")
    more = f" and {len(norms) - 1} more" if len(norms) > 1 else ""
    raise ConfigError(
        f"{_batch_text(config, batch_size)}{_parts_text(config, world)} puts one image at a time "
        f"through the network: at {size_text(size)} px that is one value of each channel for the "
        f"batch norm {norms[0]}{more}, which needs two; set {', or '.join(fixes)}"
    )


def _larger_micro_batches(config: Config, batch_size: int, world: World) -> list[str]:
    """Settings that each give every forward pass two images or the statistics of two."""
    least, fixes = 2 * world.size * config.train.accumulate, []
    if batch_size == config.train.batch_size:
        fixes.append(f"train.batch_size={least} or more")
    elif batch_size < 2:
        fixes.append("a list of more images")
    if config.train.accumulate > 1 and batch_size >= 2 * world.size:
        fixes.append(f"train.accumulate={batch_size // world.size // 2} or less")
    if world.size > 1:
        fixes.append("train.sync_batchnorm=true")
    return fixes


def _batch_text(config: Config, batch_size: int) -> str:
    """Batch size as set, and as the length of the list limits it."""
    asked = f"train.batch_size={config.train.batch_size}"
    return asked if batch_size == config.train.batch_size else f"{asked} ({batch_size} by the list)"


def _parts_text(config: Config, world: World) -> str:
    text = ""
    if config.train.accumulate > 1:
        text += f" with train.accumulate={config.train.accumulate}"
    if world.size > 1:
        text += f" on {world.size} workers with train.sync_batchnorm=false"
    return text
