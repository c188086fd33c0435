"""The parts of a training run, each made as a Config asks."""

from __future__ import annotations

from dataclasses import replace

import torch

from lookalike import storage
from lookalike.config.byte_size import in_bytes
from lookalike.config.config import Config
from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog, build_catalog, check_trainable, hold_out
from lookalike.data.image_size import size_text
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions, BadRows
from lookalike.data.readers.skipped_files import Skipped
from lookalike.data.readers.streams import is_stream, keep_list
from lookalike.data.samplers import Sampling
from lookalike.data.splits import select, split_name, splits_of
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.losses.head import Head
from lookalike.model.batchnorm import synchronise
from lookalike.model.classification_branch import ClassificationBranch, TrainingNetwork
from lookalike.model.embedder import Embedder
from lookalike.model.pretrained import worth_saying
from lookalike.model.trial_pass import exclude_unused
from lookalike.storage.disk_cache import DiskCache
from lookalike.training.build_heads import loss_weights, metric_margin, resolve_head
from lookalike.training.checkpoint import Trained
from lookalike.training.micro_batches import smallest_part
from lookalike.training.optim import (
    Ema,
    LearningRateSchedule,
    LossScaler,
    create_optimizer,
    parameter_groups,
)
from lookalike.training.step import TrainStep
from lookalike.training.trainer import TrainingSchedule

RESOLVED_FROM = {
    "model.backbone_dim": ("model.backbone",),
    "model.crop_pct": ("model.backbone",),
    "loss.margin": ("loss.name",),
    "loss.scale": ("loss.name",),
    "loss.classification_weight": ("head.parallel",),
    "train.precision": ("run.device",),
    "head.precision": ("run.device", "train.precision"),
    "head.fused_update": ("head.dtype", "head.sample_rate"),
}
"""The settings that `resolve` fills in, each with those that its value follows from."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def annotation_options(config: Config) -> AnnotationOptions:
    """Reading options of the annotations, from the request."""
    data = config.data
    return AnnotationOptions(
        path_column=data.path_column, label_column=data.label_column, image_root=data.image_root
    )


def keep_streams(config: Config) -> Config:
    """The request with lists that can be read only once kept as files (`data.readers.streams`)."""
    streams = {
        key: value
        for key in ("data.train", "data.val")
        if isinstance(value := config.get(key), str) and is_stream(value)
    }
    if len(set(streams.values())) < len(streams):
        raise ConfigError("data.train and data.val are both standard input; give a file for one")
    if not streams:
        return config
    options = annotation_options(config)
    values = {
        key: keep_list(read_records(uri, config.data.format, options), options)
        for key, uri in streams.items()
    }
    # What is kept is a table, whatever it was.
    return config.with_values({**values, "data.format": "auto"})


def open_catalogs(
    config: Config, bad: BadRows | None = None, skipped: list[Skipped] | None = None
) -> tuple[Catalog, Catalog | None]:
    """The training set, and the validation set where one is given or held out.

    Args:
        config: the request.
        bad: gathers complaints about rows, which are then left out; None to raise them.
        skipped: takes what is skipped of image folders, by kind.
    """
    data = config.data
    assert data.train is not None
    options = replace(annotation_options(config), bad=bad, skipped=skipped)
    records = read_records(data.train, data.format, options)
    catalog = build_catalog(
        select(records, data.train_split), classes=data.classes, num_classes=data.num_classes
    )
    held_out = None
    if data.val is not None:
        if data.val_fraction:
            raise ConfigError("data.val and data.val_fraction exclude each other; give one")
        held_out = build_catalog(
            select(read_records(data.val, data.format, options), data.val_split)
        )
    elif data.val_fraction:
        catalog, held_out = hold_out(catalog, data.val_fraction, config.train.seed)
    elif split_name(data.val_split) in splits_of(records):
        held_out = build_catalog(select(records, data.val_split))
    check_trainable(catalog)
    patience = config.train.early_stopping
    if patience and (held_out is None or not config.train.eval_every):
        needed = (
            "train.eval_every of 1 or more" if held_out else "a validation set: give --val LIST"
        )
        raise ConfigError(f"train.early_stopping={patience} needs {needed}, or leave it out")
    return catalog, held_out


def create_embedder(config: Config) -> Embedder:
    """The network with its weights; says how a file of weights fitted."""
    model = config.model
    embedder = Embedder.create(
        model.backbone,
        pretrained=model.pretrained,
        image_size=model.image_size,
        crop_pct=model.crop_pct,
        embedding_dim=model.embedding_dim,
        backbone_dim=model.backbone_dim,
        pooling=model.pooling,
        free_length=metric_margin(config).uses_length,
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
        say = logger.warning if worth_saying(embedder.match) else logger.info
        say("%s: %s", model.pretrained, embedder.match.summary())
    return embedder


def resolve(config: Config, embedder: Embedder, world: World, classes: int) -> Config:
    """The request with everything filled in that was left to us; what resolved.yaml will say.

    Args:
        config: the request.
        embedder: made for it.
        world: the workers.
        classes: how many classes there are to learn.

    Raises:
        ConfigError: settings contradict each other.
    """
    loss = config.loss
    margin = metric_margin(config)
    if warning := margin.warning():
        logger.warning("%s", warning)
    classification = loss.classification_weight
    if classification is None:
        classification = 1.0 if config.head.parallel == "data" else 0.0
    if loss.weight == 0 and classification == 0:
        raise ConfigError("loss.weight=0 and loss.classification_weight=0 leave nothing to learn")
    precision = config.train.precision
    if precision == "auto":
        precision = "fp32"
        if world.device.type == "cuda":
            # Without what torch calls emulation: GPUs before Ampere take bfloat16 tensors, and
            # multiply them many times slower than float16.
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if native else "fp16"
    if config.train.batch_size < world.size:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is less than the {world.size} workers"
        )
    smallest_part(config, config.train.batch_size, world)
    return config.with_values(
        {
            "model.backbone_dim": embedder.backbone.dim,
            "model.crop_pct": embedder.preprocess.crop_pct,
            "loss.margin": margin.margin,
            "loss.scale": margin.scale,
            "loss.classification_weight": classification,
            "train.precision": precision,
            **resolve_head(
                config,
                margin,
                precision,
                world.device,
                classes=classes,
                classification=classification,
            ),
        }
    )


def assemble(config: Config, embedder: Embedder, heads: dict[str, Head], world: World) -> Trained:
    """Network, heads, optimizer, loss scale and average, on this worker's device."""
    branch = None
    if "classification" in heads:
        branch = ClassificationBranch(embedder.backbone.dim, embedder.embedding_dim)
    network = TrainingNetwork(embedder, branch)
    exclude_unused(network, config.model.train_size or config.model.image_size)
    if world.size > 1 and config.train.sync_batchnorm:
        synchronise(network, world.device)
    network.to(world.device)
    if embedder.backbone.is_convolutional:
        network.to(memory_format=torch.channels_last)
    for head in heads.values():
        head.to(world.device)
    if config.train.compile:
        embedder.backbone.compile_features()
    optim = config.optim
    groups = parameter_groups(
        network,
        [head for head in heads.values() if head.update is None],
        weight_decay=optim.weight_decay,
        backbone_prefix="embedder.backbone.",
        backbone_lr_factor=optim.backbone_lr_factor,
        head_lr_factor=config.head.lr_factor,
    )
    return Trained(
        network=network,
        heads=heads,
        optimizer=create_optimizer(optim.name, groups, momentum=optim.momentum),
        scaler=LossScaler(enabled=config.train.precision == "fp16"),
        ema=Ema(embedder, config.train.ema) if config.train.ema else None,
    )


def create_source(config: Config) -> Source:
    """Where the bytes of images come from."""
    data = config.data
    cache = None if data.cache is None else DiskCache(data.cache, in_bytes(data.cache_size))
    limits = storage.Limits(in_bytes(data.max_image_size), data.image_timeout)
    return Source(
        requests=data.requests,
        cache=cache,
        limits=limits,
        allow_truncated=data.allow_truncated,
    )


def create_loader(
    config: Config,
    embedder: Embedder,
    catalog: Catalog,
    bad: BadImages,
    world: World,
    source: Source,
) -> TrainLoader:
    """The training batches."""
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
        threads=data.threads,
        sampling=create_sampling(config),
        world=world,
        bad=bad,
        source=source,
    )


def create_sampling(config: Config) -> Sampling:
    """How training draws its images; checked against the size of a batch.

    Raises:
        ConfigError: numbers do not fit each other.
    """
    data = config.data
    sampling = Sampling(
        name=data.sampler,
        images_per_class=data.images_per_class,
        power=data.sampling_power,
        threshold=data.repeat_threshold,
        repeats=data.repeats,
    )
    sampling.check_batch(config.train.batch_size)
    return sampling


def create_schedule(config: Config, loader: TrainLoader, shift: int = 0) -> TrainingSchedule:
    """When things happen, in steps.

    Args:
        config: the request.
        loader: the training batches.
        shift: see `Progress`.
    """
    settings, steps = config.train, loader.steps_per_epoch
    total = steps * settings.epochs - shift
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    return TrainingSchedule(
        total_steps=total,
        eval_every=settings.eval_every,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        checkpoint_every_steps=settings.checkpoint_every_steps,
        checkpoint_minutes=settings.checkpoint_minutes,
        keep_checkpoints=settings.keep_checkpoints,
        freeze_steps=(
            total + shift if settings.freeze_backbone else settings.freeze_backbone_epochs * steps
        ),
        patience=settings.early_stopping,
    )


def create_step(config: Config, trained: Trained, world: World) -> TrainStep:
    """The training step on these parts."""
    return TrainStep(
        trained,
        loss_weights=loss_weights(config),
        world=world,
        seed=config.train.seed,
        precision=PRECISIONS[config.train.precision],
        clip_grad_norm=config.optim.clip_grad_norm,
        freeze_batchnorm=config.train.freeze_batchnorm,
        accumulate=config.train.accumulate,
    )


def create_learning_rate(
    config: Config, pace: TrainingSchedule, shift: int = 0
) -> LearningRateSchedule:
    """The learning rate by the position in the training data, in steps."""
    return LearningRateSchedule(
        lr=config.optim.lr,
        total_steps=pace.total_steps + shift,
        warmup_steps=config.optim.warmup_steps,
        min_lr=config.optim.min_lr,
        kind=config.optim.schedule,
    )
