"""The heads of a run, made as a Config asks."""

from __future__ import annotations

import os
from typing import Any

import torch

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.losses import create_margin
from lookalike.losses.head import Head, HeadOptions
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.kernels import has_bf16_products
from lookalike.losses.margin import Margin
from lookalike.model.classification_branch import TEMPERATURE

FUSED_FROM = 2_000_000_000
"""Bytes of gradients of class weights from which on they are updated in the backward pass."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def metric_margin(config: Config) -> Margin:
    """The margin on the embedding."""
    loss = config.loss
    return create_margin(loss.name, loss.margin, loss.scale, loss.options)


def resolve_head(
    config: Config,
    margin: Margin,
    precision: str,
    device: torch.device,
    *,
    classes: int,
    classification: float,
) -> dict[str, Any]:
    """The head's settings that were left to us, by dotted key.

    Args:
        config: the request.
        margin: on the embedding.
        precision: of the network, resolved.
        device: where the head will compute.
        classes: how many there are.
        classification: weight of the branch's loss, resolved.

    Raises:
        ConfigError: settings contradict each other.
    """
    head = config.head
    needing = [
        f"head.{key}={value}"
        for key, value, plain in (
            ("dtype", head.dtype, "fp32"),
            ("sample_rate", head.sample_rate, 1.0),
        )
        if value != plain
    ]
    if needing and head.fused_update is False:
        raise ConfigError(
            f"head.fused_update=false, but {' and '.join(needing)} needs it; leave it out"
        )
    if margin.weight_norm and (head.centres > 1 or head.filter_above is not None):
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
    if nested and margin.uses_length:
        raise ConfigError(
            f"loss.nested_dims needs a loss that does not read the length of the embedding, and "
            f"loss.name={config.loss.name} does; use arcface"
        )
    # From the request and the classes alone, not from the machine: the same run has the same curve
    # everywhere.
    fused = head.fused_update
    if fused is None:
        large = gradient_bytes(config, classes, classification) >= FUSED_FROM
        fused = bool(needing) or large
    wanted = head.precision
    if wanted == "auto":
        wanted = "bf16" if precision == "bf16" and has_bf16_products(device) else "fp32"
    return {
        "head.precision": wanted,
        "head.fused_update": fused,
    }


def gradient_bytes(config: Config, classes: int, classification: float) -> int:
    """Bytes of the float32 gradients of all class weights of a run, where they are kept."""
    dim, centres = config.model.embedding_dim, config.head.centres
    numbers = centres * (dim + sum(config.loss.nested_dims)) + (dim if classification else 0)
    return 4 * classes * numbers


def create_heads(config: Config, catalog: Catalog, world: World) -> dict[str, Head]:
    """The margin on the embedding, and plain softmax on the branch where it has a weight.

    The config must be resolved.

    Raises:
        ConfigError: the weights are larger than the memory of this machine or its device.
    """
    _check_memory(config, len(catalog.classes), world)
    loss, dim, count = config.loss, config.model.embedding_dim, len(catalog.classes)
    sharded, seed = config.head.parallel == "model", config.train.seed
    margin = metric_margin(config)
    counts = None
    if margin.uses_count:
        counts = torch.bincount(torch.from_numpy(catalog.class_ids), minlength=count)
    heads = {
        name: Head(
            its_dim, count, margin, _options(config, metric=True),
            sharded=sharded, world=world, seed=seed, class_counts=counts,
        )
        for name, its_dim in (("metric", dim), *_nested(config).items())
    }  # fmt: skip
    if loss.classification_weight:
        heads["classification"] = Head(
            dim, count, create_margin("softmax", scale=1 / TEMPERATURE),
            _options(config, metric=False),
            label_smoothing=loss.label_smoothing, sharded=sharded, world=world, seed=seed + 1,
        )  # fmt: skip
    return heads


def loss_weights(config: Config) -> dict[str, float]:
    """The weight of each head's loss: the whole embedding and its beginnings share that of metric.

    The paper adds its losses up; their mean keeps the learning rate and the balance with the
    classification loss as they are without.
    """
    nested = _nested(config)
    share = config.loss.weight / (1 + len(nested))
    return {
        "metric": share,
        **dict.fromkeys(nested, share),
        "classification": config.loss.classification_weight or 0.0,
    }


def _check_memory(config: Config, classes: int, world: World) -> None:
    """See that class weights and their optimizer state are not larger than all memory."""
    share = -(-classes // world.size) if config.head.parallel == "model" else classes
    dims = config.model.embedding_dim * config.head.centres + sum(_nested(config).values())
    if config.loss.classification_weight:
        dims += config.model.embedding_dim
    states = 2 if config.optim.name == "adamw" else int(config.optim.momentum > 0)
    needed = share * dims * DTYPES[config.head.dtype].itemsize * (1 + states)
    if world.device.type == "cuda":
        there = torch.cuda.get_device_properties(world.device).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        needed *= world.local_size
    if needed > there:
        raise ConfigError(
            f"the weights of {classes:,} classes with their optimizer state need "
            f"{needed / 1e9:,.1f} GB, more than the {there / 1e9:,.1f} GB of "
            f"{'the device' if world.device.type == 'cuda' else 'this machine'}; lower "
            "model.embedding_dim or data.num_classes, or see what `lookalike plan` suggests"
        )


def _nested(config: Config) -> dict[str, int]:
    """The heads on the first dimensions of the embedding, by name."""
    return {f"metric_{dim}": dim for dim in config.loss.nested_dims}


def _options(config: Config, *, metric: bool) -> HeadOptions:
    """The plain softmax has one centre a class, and leaves nobody out."""
    head, optim = config.head, config.optim
    rule = UpdateRule(
        optim.name, optim.momentum, optim.weight_decay, lr_factor=config.head.lr_factor
    )
    return HeadOptions(
        centres=head.centres if metric else 1,
        precision=torch.bfloat16 if head.precision == "bf16" else None,
        dtype=DTYPES[head.dtype],
        update=rule if head.fused_update else None,
        sample_rate=head.sample_rate,
        filter_above=head.filter_above if metric else None,
    )
