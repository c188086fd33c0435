"""`lookalike train`: from a list of labelled images to a proven embedding model.

The file to open first: `train` reads top to bottom as the story of a run.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from lookalike import checkpoint, log
from lookalike.checkpoint import Progress, Trained
from lookalike.config import Config
from lookalike.data.augment import Augment
from lookalike.data.bad_images import BadImages, describe_bad
from lookalike.data.catalog import Catalog, check_trainable, hold_out, open_catalog
from lookalike.data.loader import TrainLoader
from lookalike.distributed import World
from lookalike.errors import ConfigError, Interrupted, MissingExtraError, RunError
from lookalike.inference import Validator, summary
from lookalike.launch import in_worker, launch
from lookalike.log import logger
from lookalike.losses import create_margin
from lookalike.losses.head import Head
from lookalike.model.batchnorm import synchronise
from lookalike.model.branch import TEMPERATURE, ClassificationBranch, TrainingNetwork
from lookalike.model.embedder import Embedder
from lookalike.model.weights import worth_saying
from lookalike.optim import Ema, LossScaler, Schedule, create_optimizer, parameter_groups
from lookalike.quota import Quota
from lookalike.run import Run, write_text
from lookalike.step import TrainStep
from lookalike.trainer import Pace, Trainer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: Config | None = None, *, resume: bool = False, **settings: Any) -> Run:
    """Train an embedding model.

    Args:
        config: the whole request; None for the defaults.
        resume: go on from the newest checkpoint of the output directory, if there is one.
        settings: values that differ from `config`, by the flag's name (`train`, `val`, `output`,
            `backbone`, `loss`, `epochs`, `workers`), by a key's last part where only one key
            has it (`lr`, `batch_size`), or as `section__key` (`optim__lr`).

    Returns:
        The output directory.

    Raises:
        LookalikeError: anything that the user can mend; see `lookalike.errors`.
    """
    config = (config or Config()).with_settings(settings)
    if config.data.train is None:
        raise ConfigError("nothing to train on: give data.train (--train), a list of images")
    if config.run.output is None:
        raise ConfigError("nowhere to write to: give run.output (--output), a directory")
    create_margin(config.loss.name, config.loss.margin, config.loss.scale)  # fails before work
    if config.run.workers > 1 and not in_worker():
        return _train_in_workers(config, resume)

    with ExitStack() as stack:
        world = stack.enter_context(World.from_env(config.run.device))
        stack.enter_context(torch.random.fork_rng())
        log.start(logging.INFO if world.is_main else logging.ERROR)
        run = _open_run(config, resume, world)
        if world.is_main:
            stack.enter_context(log.also_to(run.log))
        catalog, held_out = _open_catalogs(config)
        _say_data(catalog, held_out, config)
        torch.manual_seed(config.train.seed)
        embedder = _create_embedder(config)
        config = _resolve(config, embedder, world)
        heads = _create_heads(config, catalog, world)
        trained = _assemble(config, embedder, heads, world)
        bad = BadImages()
        loader = _create_loader(config, embedder, catalog, bad, world)
        quota = Quota(
            bad,
            catalog,
            limit=config.data.max_bad_images,
            world=world,
            record=lambda found: run.append(run.bad_images, found),
        )
        pace = _pace(config, loader)
        trainer = Trainer(
            trained,
            step=TrainStep(
                trained,
                loss_weights={
                    "metric": config.loss.weight,
                    "classification": config.loss.classification_weight or 0.0,
                },
                world=world,
                seed=config.train.seed,
                precision=PRECISIONS[config.train.precision],
                clip_grad_norm=config.optim.clip_grad_norm,
                freeze_batchnorm=config.train.freeze_batchnorm,
            ),
            loader=loader,
            schedule=Schedule(
                lr=config.optim.lr,
                total_steps=pace.total_steps,
                warmup_steps=config.optim.warmup_steps,
                min_lr=config.optim.min_lr,
                kind=config.optim.schedule,
            ),
            pace=pace,
            folder=run.checkpoints,
            world=world,
            quota=quota,
            measure=_measure(embedder, heads["metric"], held_out, catalog, config, world),
            keep_model=lambda: embedder.save(run.model) if world.is_main else None,
            record=_recorder(run, config, world),
        )
        trainer.progress = _restore(run, trained, quota, catalog, resume, world)
        _say_plan(config, embedder, loader, pace, trainer.progress, world)
        if world.is_main:
            write_text(run.config, config.to_yaml())
            write_text(run.classes, catalog.classes.to_json())
        ended_by = trainer.fit()
        if ended_by:
            raise Interrupted(ended_by, trainer.progress.step, str(run.path))
        _say_result(run, trainer.progress)
    return run


def _train_in_workers(config: Config, resume: bool) -> Run:
    """The same request again, in as many processes as it asks for."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        request = Path(folder) / "config.yaml"
        request.write_text(config.to_yaml(), "utf-8")
        arguments = ["train", str(request), *(["--resume"] if resume else [])]
        launch(config.run.workers, arguments, folder)
    assert config.run.output is not None
    return Run.open(config.run.output)


def _open_run(config: Config, resume: bool, world: World) -> Run:
    """The output directory, made by the main worker before the others look at it."""
    assert config.run.output is not None
    if world.is_main:
        run = Run.create(config.run.output, resume=resume)
    world.barrier()
    return run if world.is_main else Run(Path(config.run.output))


def _open_catalogs(config: Config) -> tuple[Catalog, Catalog | None]:
    data = config.data
    assert data.train is not None
    catalog = open_catalog(
        data.train, format=data.format, classes=data.classes, num_classes=data.num_classes
    )
    held_out = None
    if data.val is not None:
        if data.val_fraction:
            raise ConfigError("data.val and data.val_fraction exclude each other; give one")
        held_out = open_catalog(data.val, format=data.format)
    elif data.val_fraction:
        catalog, held_out = hold_out(catalog, data.val_fraction, config.train.seed)
    check_trainable(catalog)
    return catalog, held_out


def _create_embedder(config: Config) -> Embedder:
    model = config.model
    embedder = Embedder.create(
        model.backbone,
        pretrained=model.pretrained,
        image_size=model.image_size,
        crop_pct=model.crop_pct,
        embedding_dim=model.embedding_dim,
        backbone_dim=model.backbone_dim,
        pooling=model.pooling,
    )
    if model.train_size not in (None, model.image_size) and not embedder.backbone.is_convolutional:
        raise ConfigError(
            f"model.train_size={model.train_size} differs from model.image_size="
            f"{model.image_size}, but {model.backbone} is built for one size; leave it out"
        )
    if embedder.match is not None:
        say = logger.warning if worth_saying(embedder.match) else logger.info
        say("%s: %s", model.pretrained, embedder.match.summary())
    return embedder


def _resolve(config: Config, embedder: Embedder, world: World) -> Config:
    """The request with everything filled in that was left to us; what config.yaml will say."""
    loss, head = config.loss, config.head
    margin = create_margin(loss.name, loss.margin, loss.scale)
    if warning := margin.warning():
        logger.warning("%s", warning)
    classification = loss.classification_weight
    if classification is None:
        classification = 1.0 if head.parallel == "data" else 0.0
    if loss.weight == 0 and classification == 0:
        raise ConfigError("loss.weight=0 and loss.classification_weight=0 leave nothing to learn")
    precision = config.train.precision
    if precision == "auto":
        precision = "fp32"
        if world.device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if config.train.batch_size < world.size:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is less than the {world.size} workers"
        )
    return config.with_values(
        {
            "model.backbone_dim": embedder.backbone.dim,
            "model.crop_pct": embedder.preprocess.crop_pct,
            "loss.margin": margin.margin,
            "loss.scale": margin.scale,
            "loss.classification_weight": classification,
            "train.precision": precision,
        }
    )


def _create_heads(config: Config, catalog: Catalog, world: World) -> dict[str, Head]:
    """The margin on the embedding, and plain softmax on the branch where it has a weight."""
    loss, dim, count = config.loss, config.model.embedding_dim, len(catalog.classes)
    sharded, seed = config.head.parallel == "model", config.train.seed
    margin = create_margin(loss.name, loss.margin, loss.scale)
    heads = {"metric": Head(dim, count, margin, sharded=sharded, world=world, seed=seed)}
    if loss.classification_weight:
        heads["classification"] = Head(
            dim,
            count,
            create_margin("softmax", scale=1 / TEMPERATURE),
            label_smoothing=loss.label_smoothing,
            sharded=sharded,
            world=world,
            seed=seed + 1,
        )
    return heads


def _assemble(config: Config, embedder: Embedder, heads: dict[str, Head], world: World) -> Trained:
    """Network, heads, optimizer, loss scale and average, on this worker's device."""
    branch = None
    if "classification" in heads:
        branch = ClassificationBranch(embedder.backbone.dim, embedder.embedding_dim)
    network = TrainingNetwork(embedder, branch)
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
        heads.values(),
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


def _create_loader(
    config: Config, embedder: Embedder, catalog: Catalog, bad: BadImages, world: World
) -> TrainLoader:
    data = config.data
    return TrainLoader(
        catalog,
        batch_size=config.train.batch_size,
        augment=Augment(
            image_size=config.model.train_size or config.model.image_size,
            crop_scale=(data.min_crop, 1.0),
            flip=data.flip,
            color_jitter=data.color_jitter,
            grayscale=data.grayscale,
            interpolation=embedder.preprocess.interpolation,
        ),
        seed=config.train.seed,
        threads=data.threads,
        world=world,
        bad=bad,
    )


def _pace(config: Config, loader: TrainLoader) -> Pace:
    settings, steps = config.train, loader.steps_per_epoch
    total = steps * settings.epochs
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    return Pace(
        total_steps=total,
        eval_every=settings.eval_every,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        checkpoint_every_steps=settings.checkpoint_every_steps,
        checkpoint_minutes=settings.checkpoint_minutes,
        keep_checkpoints=settings.keep_checkpoints,
        freeze_steps=total if settings.freeze_backbone else settings.freeze_backbone_epochs * steps,
    )


def _measure(
    embedder: Embedder,
    head: Head,
    held_out: Catalog | None,
    catalog: Catalog,
    config: Config,
    world: World,
) -> Callable[[], tuple[float, dict[str, Any]]] | None:
    """What measures the embedder on the validation set; None without one."""
    if held_out is None:
        return None
    threads = config.data.threads
    validator = Validator(held_out, _in_training(held_out, catalog), threads=threads, world=world)
    named: set[int] = set()

    def measure() -> tuple[float, dict[str, Any]]:
        scores, record = validator.measure(embedder, head)
        for row, reason in validator.bad.reasons.items():
            if row not in named:
                named.add(row)
                logger.warning("left out: %s", describe_bad(held_out.records[row], reason))
        logger.info("validation: %s", summary(scores))
        return scores.primary[1], record

    return measure


def _recorder(run: Run, config: Config, world: World) -> Callable[[dict[str, Any]], None]:
    """What writes records to metrics.jsonl, and to TensorBoard where it is wanted."""
    if not world.is_main:
        return lambda record: None
    writer = None
    if config.train.tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "tensorboard") from None
        writer = SummaryWriter(str(run.tensorboard))

    def record(values: dict[str, Any]) -> None:
        run.append(run.metrics, values)
        if writer is not None:
            group = "validation" if "recall_at_1" in values else "train"
            for name, value in values.items():
                if name not in ("step", "epoch"):
                    writer.add_scalar(f"{group}/{name}", value, values["step"])
            writer.flush()

    return record


def _restore(
    run: Run, trained: Trained, quota: Quota, catalog: Catalog, resume: bool, world: World
) -> Progress:
    """Go on where the newest whole checkpoint stands; from the start where there is none."""
    if not resume or not run.exists():
        return Progress()
    saved = run.classes.read_text("utf-8") if run.classes.exists() else None
    if saved is not None and saved != catalog.classes.to_json():
        raise RunError(
            f"{run.path}: the classes of the list are not those that the run began with "
            f"({run.classes}); train into another --output"
        )
    newest, faults = checkpoint.newest(run.checkpoints)
    for fault in faults:
        logger.warning("%s; left aside", fault)
    if newest is None and faults:
        raise RunError(f"{run.path}: no whole checkpoint is left to go on from")
    progress = Progress() if newest is None else checkpoint.load(newest, trained)
    quota.restore({found["row"]: found["reason"] for found in run.read(run.bad_images)})
    world.barrier()
    if world.is_main:
        run.forget_after(progress.step if newest is not None else -1)
    logger.info("going on from %s", newest or "the start: there is no checkpoint yet")
    return progress


def _in_training(held_out: Catalog, catalog: Catalog) -> torch.Tensor:
    """The training class of each class of `held_out`, (classes,) int64; -1 where it is new.

    Where `data.classes` gave the integers of the training list names, the validation list has
    the same integers.
    """
    rows = catalog.classes.rows
    if catalog.records[0].label not in rows:  # integers are rows of the names: all of them
        rows = {str(row): row for row in range(len(catalog.classes))}
    return torch.tensor([rows.get(name, -1) for name in held_out.classes.names])


def _say_data(catalog: Catalog, held_out: Catalog | None, config: Config) -> None:
    logger.info(
        "training: %s images of %s classes (%s)",
        f"{len(catalog):,}", f"{len(catalog.classes):,}", config.data.train,
    )  # fmt: skip
    if held_out is None:
        logger.warning(
            "no validation list: the quality of the model is NOT measured. Give --val LIST, or "
            "data.val_fraction=0.1 to hold out a tenth of the classes"
        )
        return
    seen = int((_in_training(held_out, catalog) >= 0).sum())
    logger.info(
        "validation: %s images of %s classes, %s of them seen in training",
        f"{len(held_out):,}", f"{len(held_out.classes):,}", f"{seen:,}" if seen else "none",
    )  # fmt: skip


def _say_plan(
    config: Config,
    embedder: Embedder,
    loader: TrainLoader,
    pace: Pace,
    progress: Progress,
    world: World,
) -> None:
    parameters = sum(p.numel() for p in embedder.parameters()) / 1e6
    size = config.model.train_size
    trained_at = f" (trained at {size})" if size else ""
    logger.info(
        "model: %s at %d px%s, %s pooling, embedding of %d (%.1f M parameters); %s, margin %g, "
        "scale %g, %s",
        config.model.backbone, config.model.image_size, trained_at, config.model.pooling,
        embedder.embedding_dim, parameters, config.loss.name, config.loss.margin,
        config.loss.scale, config.train.precision,
    )  # fmt: skip
    share = len(world.share(loader.batch_size))
    logger.info(
        "batch: %d images in all, %d on each of %d worker%s; %d steps an epoch, %d steps to do",
        loader.batch_size, share, world.size, "s" if world.size > 1 else "",
        loader.steps_per_epoch, pace.total_steps - progress.step,
    )  # fmt: skip


def _say_result(run: Run, progress: Progress) -> None:
    """Where the model lies and how good it is; plainly so if training did not help."""
    scores = run.scores()
    if not scores:
        logger.info("done: %s (its quality was not measured)", run.model)
        return
    start, best = scores[0], next(s for s in scores if s["step"] == progress.best_step)
    logger.info(
        "done: %s, from step %d: Recall@1 %.1f %%, MAP@R %.1f %% (start: %.1f %%, %.1f %%)",
        run.model, best["step"], 100 * best["recall_at_1"], 100 * best["map_at_r"],
        100 * start["recall_at_1"], 100 * start["map_at_r"],
    )  # fmt: skip
    if progress.best_step == 0:
        logger.warning(
            "training did not improve MAP@R over the start: %s holds the model as it was before "
            "the first step",
            run.model,
        )
    elif best["recall_at_1"] < start["recall_at_1"]:
        logger.warning("Recall@1 ended below the start, while MAP@R, the primary metric, rose")
