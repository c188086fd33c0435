"""Heads of a run, with the margin on the embedding, created from the request."""

from __future__ import annotations

import os

import torch

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.losses import create_margin
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.margin import Margin
from lookalike.model.training_network import TEMPERATURE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def metric_margin(config: Config) -> Margin:
    """Margin on the embedding."""
    loss = config.loss
    return create_margin(loss.name, loss.margin, loss.scale, loss.options)


def create_heads(config: Config, margin: Margin, catalog: Catalog, world: World) -> dict[str, Head]:
    """Head of the margin on the embedding, and of plain softmax on the branch if it has a weight.

    The request must be resolved.

    Raises:
        ConfigError: the weights are larger than the memory of this machine or its device.
    """
    _check_memory(config, len(catalog.classes), world)
    loss, dim, count = config.loss, config.model.embedding_dim, len(catalog.classes)
    sharded, seed = config.head.parallel == "model", config.train.seed
    counts = None
    if margin.uses_count:
        counts = torch.bincount(torch.from_numpy(catalog.class_ids), minlength=count)
    heads = {
        name: Head(
            its_dim, count, margin, _head_options(config, metric=True),
            sharded=sharded, world=world, seed=seed, class_counts=counts,
        )
        for name, its_dim in (("metric", dim), *_nested(config).items())
    }  # fmt: skip
    if loss.classification_weight:
        heads["classification"] = Head(
            dim, count, create_margin("softmax", scale=1 / TEMPERATURE),
            _head_options(config, metric=False),
            label_smoothing=loss.label_smoothing, sharded=sharded, world=world, seed=seed + 1,
        )  # fmt: skip
    return heads


def loss_weights(config: Config) -> dict[str, float]:
    """Weight of each head's loss; the embedding and its nested parts share that of metric.

    The paper adds its losses up; their mean keeps the learning rate and the balance with the
    classification loss as they are without nested dimensions.
    """
    nested = _nested(config)
    each = config.loss.weight / (1 + len(nested))
    return {
        "metric": each,
        **dict.fromkeys(nested, each),
        "classification": config.loss.classification_weight or 0.0,
    }


def _nested(config: Config) -> dict[str, int]:
    """Dimensions of the heads on the first numbers of the embedding, by name."""
    return {f"metric_{dim}": dim for dim in config.loss.nested_dims}


def _head_options(config: Config, *, metric: bool) -> HeadOptions:
    """Options of a head; the plain softmax has one centre for each class and no filter."""
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


def _check_memory(config: Config, classes: int, world: World) -> None:
    """Check that class weights and their optimizer state are not larger than all memory."""
    held = -(-classes // world.size) if config.head.parallel == "model" else classes
    dims = config.model.embedding_dim * config.head.centres + sum(_nested(config).values())
    if config.loss.classification_weight:
        dims += config.model.embedding_dim
    states = 2 if config.optim.name == "adamw" else int(config.optim.momentum > 0)
    needed = held * dims * DTYPES[config.head.dtype].itemsize * (1 + states)
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
