"""Differences between a run and the request that resumes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lookalike.config.config import Config, keys
from lookalike.config.same_setting import same_setting, settings_text
from lookalike.log import logger
from lookalike.run import Run
from lookalike.training import remote_run
from lookalike.training.build import create_schedule
from lookalike.training.checkpoint import Inputs, Progress
from lookalike.training.setting_folders import folders_of

_SHAPES = (
    "model.backbone", "model.backbone_dim", "model.embedding_dim", "model.pooling",
    "model.quarters_stride", "model.image_size", "model.lora_rank",
    "loss.name", "loss.nested_dims", "loss.memory",
    "loss.classification_weight", "loss.hierarchy_weight", "data.hierarchy", "head.centres",
    "head.parallel", "head.dtype", "head.fused_update", "optim.name", "train.ema",
    "train.average_last",
)  # fmt: skip
"""Settings that decide which tensors a checkpoint holds, and of which shape."""


def changes_of_shape(run: Run, config: Config) -> list[str]:
    """Settings of `_SHAPES` that differ from the run's own, as text."""
    used = remote_run.saved_config(str(run.path))
    if used is None:
        return []
    folders = folders_of(run)
    changed = [
        key
        for key in _SHAPES
        if not same_setting(key, config.get(key), used.get(key), folders.get(key, ""))
    ]
    return [f"{key}={config.get(key)} (it was {used.get(key)})" for key in changed]


_LENGTH = ("train.epochs", "train.max_steps")
"""Settings of the length of a run."""

_REPORTED_ELSEWHERE = (*_LENGTH, "train.batch_size", "data.train", "data.val", "train.recipe")
"""Settings whose change another message reports."""

_OF_THE_START = ("model.pretrained", "model.init_from_features", "train.start_from")
"""Settings of the weights before the first step, which a checkpoint replaces."""


def other_changes(run: Run, config: Config) -> list[str]:
    """Other settings that differ from the run's own, as text."""
    used, now = remote_run.saved_config(str(run.path)), config.without_secrets()
    if used is None:
        return []
    changed = _changes(
        [key for key in keys() if key not in _REPORTED_ELSEWHERE and not key.startswith("run.")],
        used,
        now,
        folders_of(run),
    )
    return [
        text + (" (without effect: training has begun)" if key in _OF_THE_START else "")
        for key, text in changed.items()
    ]


def change_of_length(run: Run, config: Config, saved: Progress, now: Progress) -> str:
    """Another length than that of the run so far, and its effect on the rate; empty if the same.

    `saved` is the progress of the checkpoint, `now` the same with the present inputs.
    """
    used = remote_run.saved_config(str(run.path))
    inputs, inputs_now = saved.inputs or now.inputs, now.inputs
    if used is None or inputs is None or inputs_now is None:
        return ""
    changes = _changes(_LENGTH, used, config, {})
    if not changes:
        return ""
    before = create_schedule(used, inputs.steps_per_epoch, saved.shift).total_steps
    after = create_schedule(config, inputs_now.steps_per_epoch, now.shift).total_steps
    text = f"{', '.join(changes.values())}; the last step is {after} (it was {before})"
    # In epochs: a step may have had another number of images.
    epochs_before = (before + saved.shift) / inputs.steps_per_epoch
    epochs = (after + now.shift) / inputs_now.steps_per_epoch
    if config.optim.schedule != "cosine" or epochs == epochs_before:
        return text
    kind, rate = ("longer", "higher") if epochs > epochs_before else ("shorter", "lower")
    return f"{text}, and the learning rate follows it: that of a {kind} run is {rate}"


def _changes(
    some: Iterable[str], used: Config, now: Config, folders: Mapping[str, str]
) -> dict[str, str]:
    """Those of the settings that differ, as text by key; `folders` are those of `used`."""
    texts = {}
    for key in some:
        values = now.get(key), used.get(key), folders.get(key, "")
        if not same_setting(key, *values):
            texts[key] = settings_text(key, *values)
    return {key: f"{key} {old} -> {new}" for key, (new, old) in texts.items() if old != new}


def with_inputs(saved: Progress, now: Inputs) -> Progress:
    """Progress of a run that is resumed with other inputs; logs what changed.

    Finished epochs stay finished: with batches of another size, the next step is the one that
    many epochs into the training data. Scores on different validation lists, and those of another
    image size or pooling, are not compared: the best one is dropped.
    """
    before = saved.inputs
    progress = replace(saved, inputs=now)
    if before is None:
        return progress
    changes = [
        f"{name} {old} -> {new}"
        for name, old, new in (
            ("batch size", before.batch_size, now.batch_size),
            ("sampler", before.sampler, now.sampler),
            ("images in the training list", before.images, now.images),
            ("steps in an epoch", before.steps_per_epoch, now.steps_per_epoch),
        )
        if old != new
    ]
    if before.train_list != now.train_list and before.images == now.images:
        changes.insert(0, "other images, labels or weights in the training list")
    position = saved.step + saved.shift
    if before.steps_per_epoch != now.steps_per_epoch:
        there = position * now.steps_per_epoch // before.steps_per_epoch
        progress = replace(progress, shift=there - saved.step)
    if changes:
        logger.warning(
            "resumed with changes: %s; %.4g epochs are done and stay so, and the learning rate "
            "follows the epochs",
            "; ".join(changes), position / before.steps_per_epoch,
        )  # fmt: skip
    another = ""
    if before.val_list != now.val_list:
        another = "another validation list"
    elif before.scoring not in ("", now.scoring):
        another = "another preprocessing, pooling or reading of images"
    if another:
        if saved.best_score is not None:
            logger.warning(
                "resumed with %s: the best MAP@R so far, %.1f %% at step %d, is of the old one and "
                "is not compared", another, 100 * saved.best_score, saved.best_step,
            )  # fmt: skip
        progress = replace(progress, best_score=None, best_step=saved.step, since_best=0)
    return progress
