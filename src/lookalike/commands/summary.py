"""Log lines about a run: its data, plan, memory and result."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.image_size import size_text
from lookalike.data.image_weights import relative_weights
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.readers.path_patterns import shown
from lookalike.distributed.world import World
from lookalike.inspection.list_checks import images_in_both
from lookalike.log import counted, logger
from lookalike.losses.class_weights import ClassWeights
from lookalike.metrics.calibration import Calibration
from lookalike.model.embedder import Embedder
from lookalike.planning.choice import Choice
from lookalike.planning.estimate import Plan
from lookalike.run import Run, kept_score
from lookalike.storage.byte_size import in_words
from lookalike.training.checkpoint import Progress
from lookalike.training.parts import TrainingSchedule
from lookalike.training.resolve import FUSED_FROM
from lookalike.training.validation import in_training

_MUCH = 0.5  # part of a worker's memory from which on the need is logged


def log_data(catalog: Catalog, held_out: Catalog | None, config: Config) -> None:
    """Log the number of images and classes, and warn where quality is not measured."""
    logger.info(
        "training: %s of %s (%s)",
        counted(len(catalog), "image"), counted(len(catalog.classes), "class", "classes"),
        shown(config.data.train),
    )  # fmt: skip
    if catalog.further_ids is not None:
        logger.info(
            "%s of several classes, of up to %d each",
            counted(int((catalog.further_ids[:, 0] >= 0).sum()), "image"), catalog.most_labels,
        )  # fmt: skip
    if catalog.levels:
        logger.info(
            "coarser classes: %s",
            ", ".join(f"{len(level.names):,} of {level.name}" for level in catalog.levels),
        )
    if catalog.weights is not None:
        relative = relative_weights(catalog.weights)
        logger.info(
            "weights of images: %.3g to %.3g times their mean (%s)",
            relative.min(), relative.max(), shown(config.data.weights),
        )  # fmt: skip
    if len(catalog) == len(catalog.classes):
        logger.warning(
            "each class has a single image, so that nothing shows what images of a class have in "
            "common: is %r the label of %s?",
            catalog.records[0].label, catalog.records[0].origin,
        )  # fmt: skip
    if held_out is None:
        logger.warning(
            "no validation list: the quality of the model is NOT measured. Give --val LIST, or "
            "data.val_fraction=0.1 to hold out a tenth of the classes%s",
            "; train.interpolate=true has no effect without one"
            if config.train.interpolate is True else "",
        )  # fmt: skip
        return
    seen = int((in_training(held_out, catalog) >= 0).sum())
    logger.info(
        "validation: %s of %s, %s of them seen in training",
        counted(len(held_out), "image"), counted(len(held_out.classes), "class", "classes"),
        f"{seen:,}" if seen else "none",
    )  # fmt: skip
    both = images_in_both(catalog, held_out)
    if both:
        logger.warning(
            "%s of the validation set %s in the training set too, the first at %s and %s: the "
            "scores will be better than the model is; lookalike doctor lists them",
            counted(len(both), "image"), "is" if len(both) == 1 else "are",
            both[0][0].origin, both[0][1].origin,
        )  # fmt: skip


def log_choices(choices: Sequence[Choice]) -> None:
    """Log each setting that the recipe chose, with its reason, as a line of a table."""
    if not choices:
        return
    settings = [f"{choice.key}={_written(choice.value)}" for choice in choices]
    width = max(map(len, settings))
    logger.info("settings by the recipe; `lookalike config` and the report have the facts:")
    for setting, choice in zip(settings, choices, strict=True):
        logger.info("  %s  %s", setting.ljust(width), choice.short_reason)


def _written(value: Any) -> str:
    """Value as a request has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def log_plan(
    config: Config,
    embedder: Embedder,
    loader: TrainLoader,
    schedule: TrainingSchedule,
    progress: Progress,
    world: World,
) -> None:
    """Log the model, the loss, the batch and the steps to do."""
    parameters = sum(p.numel() for p in embedder.parameters()) / 1e6
    size = config.model.train_size
    learning = sum(p.numel() for p in embedder.parameters() if p.requires_grad) / 1e6
    frozen = config.train.freeze_backbone or config.model.lora_rank
    learnt = f", of which {learning:.3g} M learn" if frozen else ""
    shared = world.size > 1 and config.train.shard_backbone
    held = f", 1/{world.size} of them on each worker" if shared else ""
    trained_at = f" (trained at {size_text(size)})" if size else ""
    logger.info(
        "model: %s at %s px%s, %s pooling, embedding of %d, %.1f M parameters%s%s",
        config.model.backbone, size_text(config.model.image_size), trained_at,
        config.model.pooling, embedder.embedding_dim, parameters, learnt, held,
    )  # fmt: skip
    logger.info("loss: %s; network in %s", config.loss.describe(), config.train.precision)
    shard, parts = len(world.shard(loader.batch_size)), config.train.accumulate
    micro = f" in {parts} micro-batches" if parts > 1 else ""
    left = "" if not progress.step else f"{schedule.total_steps - progress.step:,} of "
    each = f", {shard} on each of {world.size} workers" if world.size > 1 else ""
    logger.info(
        "batch: %s%s%s; %s an epoch, %s%s to do",
        counted(loader.batch_size, "image"), each, micro,
        counted(loader.steps_per_epoch, "step"),
        left, counted(schedule.total_steps, "step"),
    )  # fmt: skip
    if words := loader.sampler.describe():
        logger.info(
            "sampler: %s: %s; %s images an epoch",
            config.data.sampler, words, f"{loader.steps_per_epoch * loader.batch_size:,}",
        )  # fmt: skip


def log_heads(heads: Mapping[str, ClassWeights], world: World) -> None:
    """Log the number, place and size of the class weights."""
    for name, head in heads.items():
        tensors = [head.weight, *([] if head.update is None else head.update.rows.values())]
        size = in_words(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        options = head.options
        notes = [
            f"{options.centres} centres a class" if options.centres > 1 else "",
            f"{100 * options.sample_rate:g} % of the classes a step" if head.sampler else "",
            "updated in the backward pass" if head.update is not None else "",
            "in bfloat16" if head.weight.dtype == torch.bfloat16 else "",
            f"1/{world.size} of them on each worker" if head.sharded and world.size > 1 else "",
        ]
        logger.info(
            "%s head: %s classes x %d, %s%s on this worker%s",
            name, f"{head.num_classes:,}", head.dim, size,
            " with their momentum" if head.update is not None else "",
            "".join(f", {note}" for note in notes if note),
        )  # fmt: skip


def log_needed_memory(plan: Plan | None, config: Config, asked: Config) -> None:
    """Log the memory that a worker needs where that is much, and settings that need less.

    Args:
        plan: of the run; None where it needs little.
        config: the request, resolved.
        asked: the request as given.
    """
    head = config.head
    chosen = head.fused_update and asked.head.fused_update is None
    if chosen and head.dtype == "fp32" and head.sample_rate == 1:
        logger.info(
            "head.fused_update=true: class weights are updated in the backward pass, since their "
            "gradients would take %s or more; optim.clip_grad_norm leaves them out",
            in_words(FUSED_FROM),
        )
    if plan is None or plan.limit is None or plan.memory.peak < _MUCH * plan.limit:
        return
    needed = plan.memory
    parts = (
        ("class weights", needed.head_weights + needed.head_gradients + needed.head_optimizer),
        ("network", needed.network_weights + needed.network_gradients + needed.network_optimizer),
        ("activations", needed.activations + needed.transient),
    )
    text = (
        f"memory: about {in_words(needed.peak)} of the {in_words(plan.limit)} that a worker "
        f"has ({', '.join(f'{name} {in_words(number)}' for name, number in parts)})"
    )
    if plan.fits:
        logger.info("%s", text)
        return
    ways = []
    for change in plan.changes:
        ways.append(f"{change.setting} ({in_words(change.together)})")
        if change.fits:
            break
    logger.warning(
        "%s: the run may be killed for lack of memory. In this order, each with those before it: "
        "%s; see `lookalike plan`", text, ", ".join(ways),
    )  # fmt: skip


def log_memory(world: World) -> None:
    """Log the peak memory of the main worker."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    device = ""
    if world.device.type == "cuda":
        device = f", {torch.cuda.max_memory_allocated(world.device) / 1e9:.2f} GB on the device"
    logger.info("peak memory of the main worker: %.2f GB%s", host, device)


def log_calibration(calibration: Calibration) -> None:
    """Log the threshold for images of one class, and its error rates."""
    level = calibration.level()
    logger.info(
        "threshold: cosine %.3f: FAR %.3g %% (%.2g to %.2g %% on other classes), TAR %.1f %%",
        level.threshold, 100 * level.far, 100 * level.far_low, 100 * level.far_high,
        100 * level.tar,
    )  # fmt: skip
    if calibration.seen_in_training:
        logger.warning(
            "%s of the %s classes that the threshold was measured on were trained on: FAR on "
            "unseen classes will be higher",
            f"{calibration.seen_in_training:,}", f"{calibration.classes:,}",
        )  # fmt: skip


def log_result(run: Run, progress: Progress) -> None:
    """Log the place and the scores of the model, and warn if training did not help."""
    if progress.skipped:
        # The first steps of float16 are skipped until the loss scale fits.
        log = logger.warning if progress.skipped > progress.step / 100 else logger.info
        log(
            "%s of %s steps were skipped, as the loss or a gradient was not finite; they changed "
            "nothing",
            f"{progress.skipped:,}", f"{progress.step:,}",
        )  # fmt: skip
    scores = run.scores()
    kept = kept_score(scores)
    if progress.best_score is None or kept is None:
        logger.info("done: %s (its quality was not measured)", run.model)
        return
    way = kept.get("interpolation")  # of the weights from start to end
    if way is None and kept["step"] != progress.best_step:
        logger.info(
            "done: %s, from step %d: MAP@R %.1f %%; its other scores are missing in %s",
            run.model, progress.best_step, 100 * progress.best_score, run.metrics,
        )  # fmt: skip
        return
    place = f"from step {kept['step']}"
    if way == 0:
        place = "the start"
    elif way is not None and way < 1:
        place = f"{100 * way:g} % of the way from the start to step {kept['end']}"
    elif way is not None:
        place = f"from step {kept['end']}"
    start = scores[0]
    logger.info("done: %s, %s", run.model, place)
    logger.info(
        "Recall@1 %.1f %% (start: %.1f %%), MAP@R %.1f %% (start: %.1f %%)",
        100 * kept["recall_at_1"], 100 * start["recall_at_1"],
        100 * kept["map_at_r"], 100 * start["map_at_r"],
    )  # fmt: skip
    if way == 0:
        logger.warning(
            "training gained nothing on the validation set: %s holds the model before training",
            run.model,
        )  # fmt: skip
    elif progress.best_step == 0 and way is None:
        logger.warning(
            "training did not improve MAP@R over the start: %s holds the model as it was before "
            "the first step",
            run.model,
        )
    elif kept["recall_at_1"] < start["recall_at_1"]:
        logger.warning("Recall@1 ended below the start, while MAP@R, the primary metric, rose")
