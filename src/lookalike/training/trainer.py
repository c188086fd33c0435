"""Training loop: the next step, and what happens between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch

from lookalike.data.loading.batch import Batch
from lookalike.distributed import signals
from lookalike.distributed.world import World
from lookalike.errors import LookalikeError, TrainingError
from lookalike.log import Bar, counted, logger
from lookalike.model.embedder import Embedder
from lookalike.training import checkpoint
from lookalike.training.checkpoint import Progress
from lookalike.training.gradients import all_finite
from lookalike.training.interpolation import keep_weights_between, read_start
from lookalike.training.learning_rate import LearningRateSchedule, set_lr
from lookalike.training.network_shards import part_of
from lookalike.training.parts import TrainingParts, TrainingSchedule
from lookalike.training.run_output import RunOutput
from lookalike.training.step import Outcome
from lookalike.training.throughput import ThroughputMeter
from lookalike.training.weight_average import resumed_start

PATIENCE = 25
"""Steps in a row without a finite loss after which training gives up."""

_REMEDIES = "Lower optim.lr, set optim.clip_grad_norm=1, or use train.precision=fp32"

T = TypeVar("T")


class Trainer:
    """Train on the batches of a loader, measure, save."""

    def __init__(
        self,
        parts: TrainingParts,
        *,
        schedule: TrainingSchedule,
        learning_rate: LearningRateSchedule,
        output: RunOutput,
        world: World,
        progress: Progress = Progress(),  # noqa: B008  # frozen
    ) -> None:
        self.parts = parts
        self.trained = parts.trained
        self.step = parts.step
        self.loader = parts.loader
        self.validator = parts.validator
        self.bad_images = parts.bad_images
        self.schedule = schedule
        self.learning_rate = learning_rate
        self.output = output
        self.folder = output.run.checkpoints
        self.world = world
        self.progress = replace(progress, average_from=self._begin_average(progress))
        self._unhealthy = 0
        self._saved_at = time.monotonic()
        self._meter = ThroughputMeter()

    def _begin_average(self, progress: Progress) -> int | None:
        """Set the first step of the average of the weights; returns it where they count alike."""
        average, wanted = self.trained.average, self.schedule.average_from
        if average is None:
            return None
        average.start = wanted
        if average.decay is not None:
            return None
        average.start = resumed_start(wanted, progress.step, progress.average_from)
        if average.start != wanted and progress.step < self.schedule.total_steps:
            logger.warning(
                "train.average_last: the average is of the steps from %d on, and not from %d: the "
                "run had another length, and the weights of single steps are not kept",
                average.start + 1, wanted + 1,
            )  # fmt: skip
        return average.start

    def fit(self) -> int | None:
        """Train to the end, or until a signal asks to stop; a checkpoint is saved either way.

        Returns:
            The number of the signal that ended it, None when it came to its end.

        Raises:
            RunError: a checkpoint cannot be written.
            TrainingError: the loss or the weights stay not finite, or no step was finite.
            NotFiniteError: the model gives the validation images vectors that are not finite.
            DataError: more images are bad than the limit allows, or none can replace them.
            CredentialsError: the storage of the images refuses the credentials; the last step is
                saved.
            UnavailableError: it does not answer; the last step is saved.
        """
        # The start of a run, or of its measurements on another validation list.
        if self.progress.step == 0:
            self.progress = replace(self.progress, best_score=None, since_best=0)
        if self._interpolates:
            if self.progress.step == 0:
                with self.trained.whole() as network:
                    self.output.save_start(network.embedder)
            with self.world.raise_together():
                if self.world.is_main:
                    read_start(self.output.run)  # found now, not after the training
        if self.progress.step == 0 or (self.validator and self.progress.best_score is None):
            self.measure(epoch=-(-self._position // self.loader.steps_per_epoch))
            self._save()
        if self.out_of_patience:
            self._log_early_stop()
            self._end()
            return None
        total, quiet = self.schedule.total_steps, not self.world.is_main
        # Only what all workers agreed on ends the loop: a signal that comes a moment later stops
        # training after the next step, with its checkpoint.
        stop = 0
        with (
            signals.deferred() as request,
            Bar("training", total, self.progress.step, unit="steps", quiet=quiet) as bar,
            closing(self._batches()) as batches,
        ):
            self._meter.start()
            self._freeze_or_learn()
            batch = next(batches, None)
            while batch is not None and not stop:
                epoch = self._position // self.loader.steps_per_epoch
                lr = self._prepare_step()
                outcome = self.step(batch, self.progress.step)
                self._count(outcome)
                self._record(outcome, epoch, lr)
                bar.advance(note=self._note(outcome), rate=f"{self._meter.rate():,.0f} images/s")
                del batch  # not kept during the wait for the next one
                # The next batch comes before the agreement about this step: a worker that cannot
                # load it reports so in time for all to save this step together.
                batch, failure = None, None
                try:
                    batch = next(batches, None)
                except LookalikeError as error:
                    failure = error
                stop, late, failed = self._agree(request, failure)
                self._measure_and_save(epoch, late=late or bool(stop) or failed)
                if failed:
                    self.output.checkpoints.wait()
                    logger.warning("training stops; step %d is saved", self.progress.step)
                    raise failure or TrainingError(
                        "another worker cannot continue; see its own message"
                    )
                if self.out_of_patience:
                    self._log_early_stop()
                    stop = 0
                    break
            # A signal that comes now does not take a worker from those that write with it.
            self.output.checkpoints.wait()
        done = self.out_of_patience or self.progress.step >= total
        if done and 0 < self.progress.skipped == self.progress.step:
            raise TrainingError(
                f"all {self.progress.step} steps were skipped, as the loss or a gradient was not "
                f"finite: nothing was learned. {_REMEDIES}"
            )
        if done or not stop:
            self._end()
            return None
        return stop

    def _end(self) -> None:
        with signals.deferred():
            self.output.checkpoints.wait()
        self._interpolate()

    @property
    def _position(self) -> int:
        """In the training data, in steps."""
        return self.progress.step + self.progress.shift

    @property
    def out_of_patience(self) -> bool:
        """True if early stopping ends the run."""
        return 0 < self.schedule.patience <= self.progress.since_best

    def _log_early_stop(self) -> None:
        logger.info(
            "early stopping at step %d: no better score in %d measurements, since step %d",
            self.progress.step, self.progress.since_best, self.progress.best_step,
        )  # fmt: skip

    def _batches(self) -> Generator[Batch, None, None]:
        """Batches of all steps that are left."""
        step, shift = self.progress.step, self.progress.shift
        while step < self.schedule.total_steps:
            epoch, position = divmod(step + shift, self.loader.steps_per_epoch)
            with closing(self.loader.epoch(epoch, position)) as batches:
                for batch in batches:
                    yield batch
                    del batch
                    step += 1
                    if step == self.schedule.total_steps:
                        return

    def _prepare_step(self) -> float:
        """Freeze the backbone or not, set the learning rate and return it."""
        if self._position == self.schedule.freeze_steps:
            self._freeze_or_learn()
        lr = self.learning_rate.at(self._position)
        updates = [head.update for head in self.trained.heads.values() if head.update is not None]
        set_lr(self.trained.optimizer, lr, updates)
        return lr

    def _freeze_or_learn(self) -> None:
        self.step.prepare(frozen=self._position < self.schedule.freeze_steps)

    def _record(self, outcome: Outcome, epoch: int, lr: float) -> None:
        """Count the step's images, and write its record where one is due."""
        self._meter.add(self.loader.batch_size)
        step = self.progress.step
        if step % self.schedule.log_every == 0 or step in (1, self.schedule.total_steps):
            rate, waiting = self._meter.lap(self.loader.wait_seconds)
            self.output.record(
                {
                    "step": step,
                    "epoch": epoch + 1,
                    **outcome.losses,
                    "lr": lr,
                    "grad_norm": outcome.grad_norm,
                    "images_per_second": round(rate, 2),
                    "waiting": round(waiting, 4),
                    "skipped": self.progress.skipped,
                }
            )

    def _note(self, outcome: Outcome) -> str:
        """Text beside the progress bar."""
        waiting = self._meter.waiting(self.loader.wait_seconds)
        starved = f", {waiting:.0%} waiting for images" if waiting >= 0.01 else ""
        skipped = f", {self.progress.skipped} skipped" if self.progress.skipped else ""
        return f"loss {outcome.losses['loss']:.3f}{skipped}{starved}"

    def _count(self, outcome: Outcome) -> None:
        """Update progress and loss scale.

        Raises:
            TrainingError: the loss has not been finite for too long.
        """
        scaler = self.trained.scaler
        scaler.update(finite=outcome.finite)
        skipped = self.progress.skipped + (not outcome.finite)
        self.progress = replace(self.progress, step=self.progress.step + 1, skipped=skipped)
        self._unhealthy = 0 if outcome.finite else self._unhealthy + 1
        # While the loss scale still falls to its level, skipped steps are normal.
        if self._unhealthy < PATIENCE or (scaler.enabled and scaler.scale > 1):
            return
        raise TrainingError(
            f"the loss has not been finite for {self._unhealthy} steps in a row, since step "
            f"{self.progress.step - self._unhealthy + 1} (learning rate "
            f"{self.learning_rate.at(self._position - 1):.2g}). {self._last_good()}"
        )

    def _last_good(self) -> str:
        """Remedies for numbers that are not finite, and the checkpoint to return to."""
        self.output.checkpoints.wait()
        newest, _ = checkpoint.newest(self.folder, verify=False)
        return f"{_REMEDIES}; the last good checkpoint is {newest or f'in {self.folder}'}"

    def _agree(
        self, request: signals.StopRequest, failure: LookalikeError | None
    ) -> tuple[int, bool, bool]:
        """Exchange between the workers what each has to report after a step.

        Returns:
            A signal to stop at; whether to save now; whether a worker has no next batch.

        Raises:
            RunError: the last checkpoint could not be written.
        """
        minutes = (time.monotonic() - self._saved_at) / 60
        late = self.world.is_main and 0 < self.schedule.checkpoint_minutes <= minutes
        unwritten = self.output.checkpoints.failed
        flags = [request.signal or 0, int(late), int(failure is not None), int(unwritten)]
        mine = torch.tensor([*flags, self.bad_images.unshared()])
        if self.world.size > 1:  # alone, the host need not wait for the device
            mine = self.world.max(mine.to(self.world.device))
        stop, save, failed, unwritten, bad = mine.tolist()
        if unwritten:
            self.output.checkpoints.wait()
        if bad:
            self.bad_images.gather()
        return stop, bool(save), bool(failed)

    def _measure_and_save(self, epoch: int, *, late: bool) -> None:
        """Measure and save where it is due after a step."""
        step, schedule, done = self.progress.step, self.schedule, epoch + 1
        end_of_epoch = self._position % self.loader.steps_per_epoch == 0
        last = step == schedule.total_steps
        due = bool(end_of_epoch and schedule.eval_every and done % schedule.eval_every == 0)
        measured = last or due
        regular = (end_of_epoch and done % schedule.checkpoint_every == 0) or bool(
            schedule.checkpoint_every_steps and step % schedule.checkpoint_every_steps == 0
        )
        # No regular one while losses are not finite: it would replace an older, sounder one.
        regular = regular and self._unhealthy == 0
        if not (measured or late or regular):
            return
        with self._meter.paused():
            if not self._weights_are_finite():
                if last or late:
                    raise TrainingError(
                        f"the weights are not finite after step {step} (learning rate "
                        f"{self.learning_rate.at(self._position - 1):.2g}); they are not saved. "
                        f"{self._last_good()}"
                    )
                return  # the loss is not finite any more: patience with it ends the run
            improved = False
            if measured:
                improved = self.measure(epoch=done, due=due)
                self._freeze_or_learn()
            if last or late or improved or regular or self.out_of_patience:
                self._save()

    def _weights_are_finite(self) -> bool:
        """True if the weights of all workers are finite."""
        trained = self.trained
        tensors = [
            *map(part_of, trained.network.state_dict().values()),
            *(head.weight for head in trained.heads.values()),
        ]
        if trained.average is not None:
            tensors += trained.average.values.values()
        broken = all_finite(tensors).logical_not().to(self.world.device, torch.int64)
        return not self.world.max(broken)

    def measure(self, epoch: int, *, due: bool = True) -> bool:
        """Measure retrieval and save the model if it is the best; returns whether it is.

        `epoch` is the number of the epoch, the last one perhaps not finished. A measurement that is
        not `due`, at the end of a run, does not count for early stopping: the run may be resumed.
        """
        if self.validator is None:
            self._with_model(self.output.save_model)
            return False
        validator, head = self.validator, self.trained.heads.get("metric")
        score, record = self._with_model(lambda embedder: validator.measure(embedder, head))
        # The score of the main worker decides for all, despite different rounding.
        score = float(
            self.world.broadcast(torch.tensor(score, dtype=torch.float64).to(self.world.device))
        )
        progress = self.progress
        improved = progress.best_score is None or score > progress.best_score
        if improved:
            self.progress = replace(
                progress, best_score=score, best_step=progress.step, since_best=0
            )
        elif due:
            self.progress = replace(progress, since_best=progress.since_best + 1)
        self.output.record(
            {
                "step": progress.step,
                "epoch": epoch,
                **record,
                "since_best": self.progress.since_best,
            }
        )
        self._log_scores(epoch, record, best=improved)
        if improved:
            self._with_model(self.output.save_model)
        return improved

    def _log_scores(self, epoch: int, record: Mapping[str, Any], *, best: bool) -> None:
        step, lone = self.progress.step, record.get("lone_queries", 0)
        note = " (best so far)" if best and step else ""
        if lone and not step:
            note = f" ({counted(lone, 'lone image')} skipped)"
        logger.info(
            "%s: Recall@1 %.1f %%, MAP@R %.1f %%%s",
            f"epoch {epoch}, step {step:,}" if step else "start",
            100 * record["recall_at_1"], 100 * record["map_at_r"], note,
        )  # fmt: skip

    def _interpolate(self) -> None:
        """Replace the model by one between start and end, where that is asked for."""
        part = self.schedule.interpolate
        if self._interpolates:
            keep_weights_between(
                self.parts, self.output, self.progress, self.world,
                weight=None if isinstance(part, bool) else part,
            )  # fmt: skip

    @property
    def _interpolates(self) -> bool:
        """True if the model is to lie between start and end; the best needs a validation set."""
        part = self.schedule.interpolate
        return part is not False and (part is not True or self.validator is not None)

    def _with_model(self, action: Callable[[Embedder], T]) -> T:
        """Call with the model on each worker: the average of the weights, where one is kept."""
        average = self.trained.average
        with (
            average.applied() if average is not None else nullcontext(),
            self.trained.whole() as network,
        ):
            return action(network.embedder)

    def _save(self) -> None:
        keep = self.schedule.keep_checkpoints
        self.output.save_checkpoint(self.trained, self.progress, keep=keep)
        self._saved_at = time.monotonic()
