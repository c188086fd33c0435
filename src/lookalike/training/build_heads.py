"""Losses of a run, with class weights or without, created from the request."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import torch

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.hierarchy import HierarchyLevel
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.losses import PAIR_LOSSES, create_loss
from lookalike.losses.class_weights import ClassWeights, HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.margin import Margin
from lookalike.losses.margins.softmax import Softmax
from lookalike.losses.metric_loss import MetricLoss
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.pair_loss import PairLoss
from lookalike.losses.pairs.proxy_anchor import ProxyAnchor
from lookalike.losses.pairs.proxy_weights import ProxyWeights
from lookalike.model.training_network import TEMPERATURE

LEVEL = "level_"
"""The beginning of the names of losses on coarser classes."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def metric_loss(config: Config) -> MetricLoss:
    """Loss on the embedding.

    Raises:
        ConfigError: it does not exist, or a number of it is wrong or has no meaning.
    """
    loss = config.loss
    found = create_loss(loss.name, loss.margin, loss.scale, loss.options)
    if loss.memory and found.has_class_weights:
        raise ConfigError(
            f"loss.memory={loss.memory} keeps embeddings to compare images with, and loss.name="
            f"{loss.name} compares them with class weights; leave it out, or use one of "
            f"{', '.join(PAIR_LOSSES)}"
        )
    if config.data.weights is not None and isinstance(found, ProxyAnchor):
        raise ConfigError(
            f"data.weights={config.data.weights} and loss.name={loss.name}: its loss is over "
            "classes, not over images, so that an image has no weight in it; leave "
            "data.weights out, or use another loss"
        )
    if config.loss.hierarchy_weight and config.data.hierarchy is None:
        raise ConfigError(
            f"loss.hierarchy_weight={config.loss.hierarchy_weight:g} needs data.hierarchy: columns "
            "of a table, or a file with one `label coarser coarsest` a line"
        )
    return found


def create_heads(
    config: Config, loss: MetricLoss, catalog: Catalog, world: World
) -> dict[str, ClassWeights]:
    """Class weights: of `loss` where it has any, and of plain softmax on the branch if that weighs.

    Of `loss` on the levels of `data.hierarchy` too, where these weigh.

    The request must be resolved.

    Raises:
        ConfigError: the weights are larger than the memory of this machine or its device.
    """
    _check_memory(config, len(catalog.classes), world)
    dim, count = config.model.embedding_dim, len(catalog.classes)
    sharded, seed = config.head.parallel == "model", config.train.seed
    heads: dict[str, ClassWeights] = {}
    options = _head_options(config)
    if isinstance(loss, Margin):
        counts = None
        if loss.uses_count:
            counts = torch.from_numpy(catalog.class_sizes())
        for name, its_dim in _metric_dims(config).items():
            heads[name] = Head(
                its_dim, count, loss, options,
                sharded=sharded, world=world, seed=seed, class_counts=counts,
            )  # fmt: skip
    elif isinstance(loss, ProxyAnchor):
        for name, its_dim in _metric_dims(config).items():
            heads[name] = ProxyWeights(
                its_dim, count, loss, sharded=sharded, world=world, seed=seed
            )
    for number, (name, level) in enumerate(_level_losses(config, catalog).items(), 2):
        if isinstance(loss, Margin):
            # There are few: all of them take part in each step.
            of_level = replace(options, centres=1, sample_rate=1.0)
            ids = level.coarser(catalog.all_ids)
            sizes = torch.from_numpy(np.bincount(ids[ids >= 0], minlength=len(level.names)))
            heads[name] = Head(
                dim, len(level.names), loss, of_level, sharded=sharded, world=world,
                seed=seed + number, class_counts=sizes if loss.uses_count else None,
            )  # fmt: skip
        elif isinstance(loss, ProxyAnchor):
            heads[name] = ProxyWeights(
                dim, len(level.names), loss, sharded=sharded, world=world, seed=seed + number
            )
    if config.loss.classification_weight:
        heads["classification"] = Head(
            dim, count, Softmax(scale=1 / TEMPERATURE),
            replace(options, centres=1, filter_above=None),  # of the metric loss
            label_smoothing=config.loss.label_smoothing,
            sharded=sharded, world=world, seed=seed + 1,
        )  # fmt: skip
    return heads


def create_comparisons(
    config: Config, loss: MetricLoss, catalog: Catalog, world: World
) -> dict[str, BatchComparison]:
    """Losses without class weights: `loss`, its nested parts and levels, where it is such a one."""
    if not isinstance(loss, PairLoss):
        return {}
    dims = {**_metric_dims(config), **dict.fromkeys(_level_losses(config, catalog), _dim(config))}
    memory, labels = config.loss.memory, catalog.most_labels
    return {
        name: BatchComparison(dim, loss, memory=memory, labels=labels, world=world)
        for name, dim in dims.items()
    }


def level_loss(number: int) -> str:
    """The name of the loss on level `number` of `data.hierarchy`, from 1."""
    return f"{LEVEL}{number}"


def loss_weights(config: Config, levels: int = 0) -> dict[str, float]:
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
        **{
            level_loss(number): config.loss.weight * config.loss.hierarchy_weight / levels
            for number in range(1, levels + 1)
        },
    }


def _level_losses(config: Config, catalog: Catalog) -> dict[str, HierarchyLevel]:
    """The levels that the loss is on too, by its name there."""
    if not config.loss.hierarchy_weight:
        return {}
    return {level_loss(number): level for number, level in enumerate(catalog.levels, 1)}


def _dim(config: Config) -> int:
    return config.model.embedding_dim


def _metric_dims(config: Config) -> dict[str, int]:
    """Dimensions that the metric loss reads, by its name; the embedding itself first."""
    return {"metric": config.model.embedding_dim, **_nested(config)}


def _nested(config: Config) -> dict[str, int]:
    """Dimensions of the heads on the first numbers of the embedding, by name."""
    return {f"metric_{dim}": dim for dim in config.loss.nested_dims}


def _head_options(config: Config) -> HeadOptions:
    head, optim = config.head, config.optim
    rule = UpdateRule(
        optim.name, optim.momentum, optim.weight_decay, lr_factor=config.head.lr_factor
    )
    return HeadOptions(
        centres=head.centres,
        precision=torch.bfloat16 if head.precision == "bf16" else None,
        dtype=DTYPES[head.dtype],
        update=rule if head.fused_update else None,
        sample_rate=head.sample_rate,
        filter_above=head.filter_above,
    )


def _check_memory(config: Config, classes: int, world: World) -> None:
    """Check that class weights and their optimizer state are not larger than all memory."""
    held = -(-classes // world.size) if config.head.parallel == "model" else classes
    dims = 0
    if config.loss.name not in PAIR_LOSSES:
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
