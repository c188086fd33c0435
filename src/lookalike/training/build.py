"""Parts of a training run, each created once from the resolved settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lookalike.config.config import Config
from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog
from lookalike.data.hierarchy import HierarchyLevel
from lookalike.data.image_size import size_text
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.samplers import Sampling
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.losses.class_weights import ClassWeights
from lookalike.losses.metric_loss import MetricLoss
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.model.batchnorm import synchronise
from lookalike.model.embedder import Embedder, digest_of_tensors
from lookalike.model.pretrained import lacks_weights
from lookalike.reporting.loggers import check_installed
from lookalike.run import Run
from lookalike.training.bad_image_limit import BadImageLimit
from lookalike.training.build_heads import (
    DTYPES,
    create_comparisons,
    create_heads,
    level_loss,
    loss_weights,
    metric_loss,
)
from lookalike.training.build_network import check_network, create_network, keeps_statistics
from lookalike.training.checkpoint import Inputs, Trained
from lookalike.training.frozen_backbone import check_cache_features
from lookalike.training.learning_rate import LearningRateSchedule
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.network_shards import NetworkShards
from lookalike.training.optimizer import create_optimizer, parameter_groups
from lookalike.training.parts import TrainingParts, TrainingSchedule
from lookalike.training.request_lists import reading_options
from lookalike.training.resolve import check_micro_batches
from lookalike.training.sampler_choice import sampler_name
from lookalike.training.step import TrainStep
from lookalike.training.validation import Validator
from lookalike.training.weight_average import WeightAverage


def build(
    config: Config,
    loss: MetricLoss,
    embedder: Embedder,
    catalog: Catalog,
    held_out: Catalog | None,
    source: Source,
    run: Run,
    world: World,
) -> TrainingParts:
    """Create the parts of a run; called by all workers together.

    The request must be resolved. `embedder` becomes part of the trained network, `held_out` is
    the validation set.

    Raises:
        ConfigError: batches are too small for a batch norm, or class weights too large for memory.
    """
    bad = BadImages()
    loader = create_loader(config, embedder, catalog, bad, world, source)
    check_micro_batches(config, embedder, loader.batch_size, world)
    heads = create_heads(config, loss, catalog, world)
    comparisons = create_comparisons(config, loss, catalog, world)
    trained = create_trained(config, embedder, heads, world, comparisons)
    inputs = _inputs(config, embedder, loader, catalog, held_out, world)
    return TrainingParts(
        loader=loader,
        trained=trained,
        step=create_step(config, trained, world, catalog.levels),
        bad_images=BadImageLimit(
            bad, catalog, limit=config.data.max_bad_images, run=run, world=world
        ),
        inputs=inputs,
        validator=None
        if held_out is None
        else Validator(
            held_out,
            catalog,
            list_id=inputs.val_list,
            scoring=inputs.scoring,
            world=world,
            source=source,
        ),
    )


def _inputs(
    config: Config,
    embedder: Embedder,
    loader: TrainLoader,
    catalog: Catalog,
    held_out: Catalog | None,
    world: World,
) -> Inputs:
    lists = ["", ""]
    if world.is_main:  # takes a while for a list of millions
        lists = [catalog.fingerprint(), "" if held_out is None else held_out.fingerprint()]
    train_list, val_list = world.broadcast_object(lists)
    sampler, text = config.data.sampler, loader.sampler.describe()
    return Inputs(
        steps_per_epoch=loader.steps_per_epoch,
        batch_size=loader.batch_size,
        sampler=f"{sampler}: {text}" if text else sampler,
        images=len(catalog),
        train_list=train_list,
        val_list=val_list,
        scoring=_scoring(config, embedder),
    )


def _scoring(config: Config, embedder: Embedder) -> str:
    """`Inputs.scoring` of a run with this request."""
    about = {
        "preprocess": embedder.preprocess.to_dict(),
        "pooling": embedder.pooling,
        **reading_options(config),
    }
    return digest_of_tensors(about, {})[:16]


def check_settings(config: Config) -> None:
    """Check the names and numbers of loss, augmentations, sampling and loggers before any work.

    Raises:
        ConfigError: one is not possible.
        MissingExtraError: the package of a logger is not installed.
    """
    metric_loss(config)
    create_augmentations(config.data.augment)
    if config.train.recipe != "auto" or "train.batch_size" in config.asked():
        create_sampling(config)  # else the recipe chooses a batch that fits
    check_cache_features(config)
    check_network(config)
    check_installed(logger_names(config))


def logger_names(config: Config) -> list[str]:
    """Experiment trackers of a run."""
    return [*config.train.loggers, *(["tensorboard"] if config.train.tensorboard else [])]


def create_embedder(config: Config, loss: MetricLoss, *, pretrained: bool = True) -> Embedder:
    """Network with its initial weights; logs how a file of weights matched.

    With `pretrained=False` those of `model.pretrained` are neither read nor downloaded: for a run
    whose weights come from a checkpoint.
    """
    model = config.model
    if model.quarters_stride is not None and "quarters" not in model.pooling.split("+"):
        raise ConfigError(
            f"model.quarters_stride={model.quarters_stride} is of model.pooling=quarters, and it "
            f"is {model.pooling}; leave the stride out, or add +quarters"
        )
    embedder = Embedder.create(
        model.backbone,
        pretrained=model.pretrained if pretrained else False,
        image_size=model.image_size,
        crop_pct=model.crop_pct,
        embedding_dim=model.embedding_dim,
        backbone_dim=model.backbone_dim,
        pooling=model.pooling,
        quarters_stride=model.quarters_stride,
        normalize=not loss.uses_length,
    )
    other = model.train_size not in (None, model.image_size)
    if model.train_size is not None and other and not embedder.backbone.is_convolutional:
        raise ConfigError(
            f"model.train_size={size_text(model.train_size)} differs from model.image_size="
            f"{size_text(model.image_size)}, but {model.backbone} is built for one size; leave it "
            "out"
        )
    if model.train_size is not None:
        embedder.backbone.check_size(model.train_size, "model.train_size")
    if embedder.match is not None:
        log = logger.warning if lacks_weights(embedder.match) else logger.info
        log("%s: %s", model.pretrained, embedder.match.summary())
    return embedder


def create_loader(
    config: Config,
    embedder: Embedder,
    catalog: Catalog,
    bad: BadImages,
    world: World,
    source: Source,
) -> TrainLoader:
    """Training batches."""
    data, preprocess = config.data, embedder.preprocess
    size = config.model.train_size or config.model.image_size
    return TrainLoader(
        catalog,
        batch_size=config.train.batch_size,
        augment=Augment(
            image_size=size,
            crop_scale=(data.min_crop, 1.0),
            flip=data.flip,
            interpolation=preprocess.interpolation,
            scaled_decode=data.scaled_decode,
            then=tuple(
                each.fitted(size, preprocess.mean)
                for each in create_augmentations(
                    data.augment, color_jitter=data.color_jitter, grayscale=data.grayscale
                )
            ),
        ),
        seed=config.train.seed,
        sampling=create_sampling(config),
        world=world,
        bad=bad,
        source=source,
    )


def create_sampling(config: Config) -> Sampling:
    """Sampling of training images, checked against the batch size.

    Raises:
        ConfigError: numbers do not fit each other.
    """
    data = config.data
    sampling = Sampling(
        name=sampler_name(config, metric_loss(config)),
        images_per_class=data.images_per_class,
        power=data.sampling_power,
        threshold=data.repeat_threshold,
        repeats=data.repeats,
    )
    sampling.check_batch(config.train.batch_size)
    return sampling


def create_trained(
    config: Config,
    embedder: Embedder,
    heads: Mapping[str, ClassWeights],
    world: World,
    comparisons: Mapping[str, BatchComparison] | None = None,
) -> Trained:
    """Network, losses, optimizer, loss scale and average, on this worker's device."""
    network = create_network(config, embedder, branch="classification" in heads)
    if world.size > 1 and config.train.sync_batchnorm:
        synchronise(network, world.device)
    shards = None
    if world.size > 1 and config.train.shard_backbone:
        shards = NetworkShards(network, world)
    network.to(world.device)
    if embedder.backbone.is_convolutional and shards is None:  # FSDP2 takes contiguous weights only
        network.to(memory_format=torch.channels_last)
    comparisons = comparisons or {}
    for each in (*heads.values(), *comparisons.values()):
        each.to(world.device)
    if config.train.compile:
        embedder.backbone.compile_features()
    optim = config.optim
    groups = parameter_groups(
        network,
        [head for head in heads.values() if head.update is None],
        weight_decay=optim.weight_decay,
        backbone_prefix="embedder.backbone.",
        backbone_lr_factor=optim.backbone_lr_factor,
        layers=embedder.backbone.layers() if optim.layer_decay < 1 else {},
        layer_decay=optim.layer_decay,
        head_lr_factor=config.head.lr_factor,
        parts={} if shards is None else shards.parts,
    )
    return Trained(
        network=network,
        heads=heads,
        comparisons=comparisons,
        optimizer=create_optimizer(optim.name, groups, momentum=optim.momentum),
        scaler=LossScaler(enabled=config.train.precision == "fp16"),
        average=create_average(config, embedder),
        shards=shards,
    )


def create_average(config: Config, embedder: Embedder) -> WeightAverage | None:
    """Average of the weights, where one is kept; a schedule sets its `start`."""
    train = config.train
    if not train.ema and not train.average_last:
        return None
    return WeightAverage(embedder, train.ema or None)


def create_step(
    config: Config, trained: Trained, world: World, levels: Sequence[HierarchyLevel] = ()
) -> TrainStep:
    """Training step on these parts; `levels` are those of `data.hierarchy`."""
    return TrainStep(
        trained,
        loss_weights=loss_weights(config, len(levels)),
        coarser={
            level_loss(number): torch.from_numpy(level.of_class).to(world.device)
            for number, level in enumerate(levels, 1)
        },
        world=world,
        seed=config.train.seed,
        precision=DTYPES[config.train.precision],
        clip_grad_norm=config.optim.clip_grad_norm,
        freeze_batchnorm=keeps_statistics(config),
        accumulate=config.train.accumulate,
        recomputing=config.model.gradient_checkpointing,
        synchronised=config.train.sync_batchnorm,
    )


def create_schedule(config: Config, steps_per_epoch: int, shift: int = 0) -> TrainingSchedule:
    """Times of measurements, records and checkpoints, in steps; `shift` as in `Progress`."""
    train = config.train
    total = steps_per_epoch * train.epochs - shift
    if train.max_steps is not None:
        total = min(total, train.max_steps)
    averaged = max(1, round(total * train.average_last)) if train.average_last else total
    frozen = train.freeze_backbone_epochs * steps_per_epoch
    return TrainingSchedule(
        total_steps=total,
        eval_every=train.eval_every,
        log_every=train.log_every,
        checkpoint_every=train.checkpoint_every,
        checkpoint_every_steps=train.checkpoint_every_steps,
        checkpoint_minutes=train.checkpoint_minutes,
        keep_checkpoints=train.keep_checkpoints,
        freeze_steps=total + shift if train.freeze_backbone else frozen,
        average_from=total - averaged,
        patience=train.early_stopping,
        interpolate=train.interpolate,
    )


def create_learning_rate(config: Config, total_steps: int) -> LearningRateSchedule:
    """Learning rate by the position in the training data, in steps."""
    optim = config.optim
    return LearningRateSchedule(
        lr=optim.lr,
        total_steps=total_steps,
        warmup_steps=optim.warmup_steps,
        min_lr=optim.min_lr,
        kind=optim.schedule,
    )
