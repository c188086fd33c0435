"""Parts of a training run, and the times at which it measures, records and saves."""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.data.loading.train_loader import TrainLoader
from lookalike.training.bad_image_limit import BadImageLimit
from lookalike.training.checkpoint import Inputs, Trained
from lookalike.training.step import TrainStep
from lookalike.training.validation import Validator


@dataclass(frozen=True)
class TrainingSchedule:
    """Times of measurements, records and checkpoints.

    Attributes:
        total_steps: length of the run.
        eval_every: epochs between measurements, 0 for none between start and end.
        log_every: steps between records.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between further checkpoints, None for none.
        checkpoint_minutes: minutes between further checkpoints, 0 for none.
        keep_checkpoints: number of the latest checkpoints that are kept.
        freeze_steps: position in the training data, in steps, up to which the backbone is frozen.
        average_from: step from which on weights are averaged.
        patience: measurements in a row without a better score after which training stops, 0 for
            no early stopping.
        interpolate: keep the best weights between start and end, as the model; a number is the
            part of the way that is kept.
    """

    total_steps: int
    eval_every: int = 1
    log_every: int = 10
    checkpoint_every: int = 10
    checkpoint_every_steps: int | None = None
    checkpoint_minutes: float = 15
    keep_checkpoints: int = 2
    freeze_steps: int = 0
    average_from: int = 0
    patience: int = 0
    interpolate: bool | float = False


@dataclass(frozen=True)
class TrainingParts:
    """Parts of a run, on one worker.

    Attributes:
        bad_images: limit on unreadable images of the training list.
        inputs: training and validation inputs, compared when the run is resumed.
        validator: None without a validation set.
    """

    loader: TrainLoader
    trained: Trained
    step: TrainStep
    bad_images: BadImageLimit
    inputs: Inputs
    validator: Validator | None
