"""Length of a run from the time that it may take, by the speed of its own steps."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from lookalike.config.duration import seconds_of
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import duration, logger
from lookalike.model.frozen_features import pooled_features
from lookalike.model.training_network import TrainingNetwork
from lookalike.run import Run
from lookalike.training import checkpoint, checkpoint_writer
from lookalike.training.checkpoint import Progress
from lookalike.training.parts import TrainingParts

_WARM_UP, _TIMED = 2, 10  # steps
_SECONDS = 60.0
"""Longest timing; a slower machine times fewer steps."""

_FORWARD = 1 / 3  # part of the time of a training step on the same images

_MOST_FOR_FEATURES = 0.8  # part of the time that is left


@dataclass(frozen=True)
class Length:
    """Length of a run.

    Attributes:
        epochs: passes over the images, the last of which may be cut short.
        steps: in all.
        eval_every: epochs between measurements, so that these take a tenth of the time at most.
    """

    epochs: int
    steps: int
    eval_every: int


def length_within(
    seconds: float, step: float, steps_per_epoch: int, validation: float, passes: int
) -> Length | None:
    """The longest run within `seconds`; None where the time does not reach for one step.

    Args:
        seconds: that are left.
        step: seconds of a step.
        steps_per_epoch: of the training list.
        validation: seconds of a pass over the validation set.
        passes: over it, beside those after epochs.
    """
    epoch = step * steps_per_epoch
    eval_every = max(1, int(np.ceil(validation / (0.1 * epoch))))
    left = seconds - passes * validation
    steps = int(left / (step + validation / (eval_every * steps_per_epoch)))
    if steps < 1:
        return None
    return Length(-(-steps // steps_per_epoch), steps, eval_every)


def reserved_passes(*, interpolate: bool, report: bool, workers: int) -> int:
    """Passes over the validation set beside those after epochs, in the time of all workers.

    Start and end are measured, and with `interpolate` three points between them; then the model is
    calibrated. The main worker embeds for the report alone.
    """
    return 3 + 3 * interpolate + image_passes(report=report, workers=workers) - 1


def image_passes(*, report: bool, workers: int) -> int:
    """Those of `reserved_passes` that read the images again where features are stored.

    The saved model is loaded for the calibration and for the report.
    """
    return 1 + workers * report


def fit_length(
    budget: str,
    parts: TrainingParts,
    run: Run,
    world: World,
    *,
    frozen: bool,
    epoch: int,
    began: float,
    passes: int,
    seconds: float = 0.0,
    least: int = 0,
) -> Length:
    """Length of a new run by the time of some real steps, which are then undone.

    Args:
        budget: `train.time_budget`.
        parts: of the run, before its first step.
        run: holds a checkpoint for a moment.
        world: the workers, which call this together.
        frozen: whether the backbone is never trained.
        epoch: whose steps are timed.
        began: `time.monotonic()` at the start of the command.
        passes: over the validation set that are reserved, see `reserved_passes`.
        seconds: that are reserved beside them.
        least: steps to take even where the time does not reach for them.

    Raises:
        ConfigError: the time does not reach for a single step, and `least` is 0.
    """
    step = _seconds_of_a_step(parts, run, world, frozen, epoch)
    validator, batch = parts.validator, parts.loader.batch_size
    images = 0 if validator is None else len(validator.catalog)
    validation = _FORWARD * step * images / batch
    if validator is not None and validator.features is not None:
        validation = _seconds_of_measurement(parts)  # not by the size of images
    left = seconds_of(budget) - (time.monotonic() - began) - seconds
    mine = length_within(left, step, parts.loader.steps_per_epoch, validation, passes)
    if least and (mine is None or mine.steps < least):
        mine = Length(-(-least // parts.loader.steps_per_epoch), least, 1)
    needed, smaller = f"one step of {step:.2g} s", "a smaller model.image_size"
    if images:
        needed += f" and {passes} passes over the validation set of {validation:.2g} s each"
        smaller += ", or a smaller validation set"
    lacking = (
        f"train.time_budget={budget}: {max(left, 0):.2g} s of it are left after the start, not "
        f"enough for {needed}; give more time, or {smaller}"
    )
    # The main worker's clock decides for all.
    shared, lacking = world.broadcast_object((None if mine is None else asdict(mine), lacking))
    if shared is None:
        raise ConfigError(lacking)
    found = Length(**shared)
    logger.info(
        "train.time_budget=%s: a step takes %.3g s, so that %s steps (%.3g epochs) fit; %s are "
        "reserved for start, end, calibration and report",
        budget, step, f"{found.steps:,}", found.steps / parts.loader.steps_per_epoch,
        duration(passes * validation + seconds),
    )  # fmt: skip
    return found


def _seconds_of_measurement(parts: TrainingParts) -> float:
    assert parts.validator is not None
    began = time.monotonic()
    with parts.trained.whole() as network:
        parts.validator.measure(network.embedder)
    return time.monotonic() - began


def seconds_beside_features(
    budget: str, parts: TrainingParts, world: World, *, epoch: int, passes: int, began: float
) -> float | None:
    """Seconds of `passes` over the validation images; None if features do not fit beside them.

    They fit if all images go through the backbone once, forward, in most of the time that is left
    without these passes. Some batches of the training images are timed; where decoding is the
    slower part, a forward pass takes as long as training does. Arguments as of `fit_length`.
    """
    network = parts.trained.network
    assert isinstance(network, TrainingNetwork)
    took: list[float] = []
    last = time.monotonic()
    with closing(parts.loader.epoch(epoch)) as batches:
        for batch in islice(batches, _WARM_UP + _TIMED):
            pooled_features(network.embedder, batch.images, network.poolings).cpu()
            took.append(time.monotonic() - last)
            last = time.monotonic()
    image = float(np.median(took[_WARM_UP:] or took)) / parts.loader.batch_size
    validated = 0 if parts.validator is None else len(parts.validator.catalog)
    needed = image * (len(parts.loader.catalog) + validated)
    reserved = image * validated * passes
    left = seconds_of(budget) - (time.monotonic() - began) - reserved
    shared: float | None = world.broadcast_object(
        reserved if needed <= _MOST_FOR_FEATURES * left else None
    )
    return shared


def _seconds_of_a_step(
    parts: TrainingParts, run: Run, world: World, frozen: bool, epoch: int
) -> float:
    """Seconds of a step with its images; network, heads and statistics end as they were."""
    folder = run.timing
    if len(world.directory_leaders) > 1:
        raise ConfigError(
            "train.time_budget needs a directory that all machines share; give train.epochs"
        )
    try:
        return _timed(parts, folder, world, frozen, epoch)
    finally:
        if world.is_directory_leader:
            shutil.rmtree(folder, ignore_errors=True)


def _timed(parts: TrainingParts, folder: Path, world: World, frozen: bool, epoch: int) -> float:
    checkpoint_writer.save(folder, parts.trained, Progress(), world)
    parts.step.prepare(frozen=frozen)
    took: list[float] = []
    began = last = time.monotonic()
    wanted = _WARM_UP + _TIMED
    with closing(parts.loader.epoch(epoch)) as batches:
        for number, batch in enumerate(islice(batches, wanted)):
            parts.step(batch, number)
            if world.device.type == "cuda":
                torch.cuda.synchronize(world.device)
            now = time.monotonic()
            took.append(now - last)
            last = now
            late = torch.tensor(int(now - began > _SECONDS), device=world.device)
            if world.max(late):
                break
    parts.trained.optimizer.state.clear()  # a checkpoint before the first step holds no moments
    checkpoint.load(folder, parts.trained)
    world.barrier()
    timed = took[_WARM_UP:] or took
    return float(np.median(timed))
