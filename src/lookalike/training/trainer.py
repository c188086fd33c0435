"""The training loop: which step comes next, and what happens between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from lookalike import storage
from lookalike.data.loading.train_loader import Batch, TrainLoader
from lookalike.distributed.world import World
from lookalike.errors import LookalikeError, TrainingError
from lookalike.log import Bar, logger
from lookalike.training import checkpoint, signals
from lookalike.training.bad_image_limit import BadImageLimit
from lookalike.training.checkpoint import Progress, Trained
from lookalike.training.optim import LearningRateSchedule, all_finite, set_lr
from lookalike.training.step import Outcome, TrainStep
from lookalike.training.throughput import ThroughputMeter

PATIENCE = 25
"""Steps in a row without a finite loss after which training gives up."""

_REMEDIES = "Lower optim.lr, set optim.clip_grad_norm=1, or use train.precision=fp32"

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingSchedule:
    """When things happen.

    Attributes:
        total_steps: length of the run.
        eval_every: epochs between measurements, 0 for none between start and end.
        log_every: steps between records.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between further checkpoints, None for none.
        checkpoint_minutes: minutes between further checkpoints, 0 for none.
        keep_checkpoints: how many of the latest stay.
        freeze_steps: position in the training data, in steps, up to which the backbone does not
            learn.
        patience: measurements in a row without a better score after which training stops, 0 for
            no such end.
    """

    total_steps: int
    eval_every: int = 1
    log_every: int = 10
    checkpoint_every: int = 10
    checkpoint_every_steps: int | None = None
    checkpoint_minutes: float = 15
    keep_checkpoints: int = 2
    freeze_steps: int = 0
    patience: int = 0


class Trainer:
    """Train on the batches of a loader, measure, save.

    Args:
        trained: network, heads, optimizer, loss scale and average.
        step: does one step with them.
        loader: the training batches.
        schedule: the learning rate.
        pace: when to log, measure and save.
        folder: where the checkpoints go.
        world: the workers.
        quota: how many bad images are bearable.
        measure: gives the primary score and a record of all scores; None without a validation
            set.
        keep_model: saves the embedder as the run's result.
        progress: where training begins.
        record: takes one object for metrics.jsonl.
        saved: called on the leader of each directory after each checkpoint.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        step: TrainStep,
        loader: TrainLoader,
        schedule: LearningRateSchedule,
        pace: TrainingSchedule,
        folder: Path,
        world: World,
        quota: BadImageLimit,
        measure: Callable[[], tuple[float, dict[str, Any]]] | None,
        keep_model: Callable[[], None],
        record: Callable[[dict[str, Any]], None],
        progress: Progress = Progress(),  # noqa: B008  # frozen
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.trained = trained
        self.step = step
        self.loader = loader
        self.schedule = schedule
        self.pace = pace
        self.folder = folder
        self.world = world
        self.quota = quota
        self.measure = measure
        self.keep_model = keep_model
        self.record = record
        self.saved = saved
        self.progress = progress
        self._unhealthy = 0
        self._saved_at = time.monotonic()
        self._watch = ThroughputMeter()

    def fit(self) -> int | None:
        """Train to the end, or until a signal asks to stop; either way a checkpoint is there.

        Returns:
            The number of the signal that ended it, None when it came to its end.

        Raises:
            TrainingError: the loss or the weights stay not finite, or no step was finite.
            NotFiniteError: the model gives the validation images vectors that are not finite.
            DataError: more images are bad than the quota bears, or none can stand in for them.
            CredentialsError: the storage of the images refuses who asks; the last step is saved.
            UnavailableError: it does not answer; the last step is saved.
        """
        # The start of a run, or of its measurements on another validation list.
        if self.progress.step == 0:
            self.progress = replace(self.progress, best_score=None, since_best=0)
        if self.progress.step == 0 or (self.measure and self.progress.best_score is None):
            self._measure(epoch=self._position // self.loader.steps_per_epoch)
            self._save()
        if self._is_early_end():
            self._say_early_end()
            return None
        total, quiet = self.pace.total_steps, not self.world.is_main
        # Only what all workers agreed on ends the loop: a wish that comes a moment later is
        # granted after the next step, with its checkpoint.
        stop = 0
        with (
            signals.deferred() as wish,
            Bar("training", total, self.progress.step, unit="steps", quiet=quiet) as bar,
            closing(self._batches()) as batches,
        ):
            self._watch.start()
            self._set_phase()
            batch = next(batches, None)
            while batch is not None and not stop:
                epoch = self._position // self.loader.steps_per_epoch
                loss, rate = self._one(batch, epoch)
                bar.advance(note=loss, rate=rate)
                del batch  # not kept while the next is waited for
                # The next batch comes before the agreement about this step: so a worker that
                # cannot have it says so in time for all to save this step together.
                batch, failure = self._next(batches)
                stop, late, failed = self._agree(wish, failure)
                self._after(epoch, late=late or bool(stop) or failed)
                if failed:
                    raise self._ended(failure)
                if self._is_early_end():
                    self._say_early_end()
                    stop = 0
                    break
        done = self._is_early_end() or self.progress.step >= total
        if done and 0 < self.progress.skipped == self.progress.step:
            raise TrainingError(
                f"all {self.progress.step} steps were skipped, as the loss or a gradient was not "
                f"finite: nothing was learned. {_REMEDIES}"
            )
        return None if done else stop or None

    @property
    def _position(self) -> int:
        """In the training data, in steps."""
        return self.progress.step + self.progress.shift

    def _is_early_end(self) -> bool:
        """Whether the score has not become better for as long as is waited for that."""
        return 0 < self.pace.patience <= self.progress.since_best

    def _say_early_end(self) -> None:
        logger.info(
            "early stopping at step %d: no better score in %d measurements, since step %d",
            self.progress.step, self.progress.since_best, self.progress.best_step,
        )  # fmt: skip

    def _batches(self) -> Generator[Batch, None, None]:
        """The batches of all steps that are left."""
        step, shift = self.progress.step, self.progress.shift
        while step < self.pace.total_steps:
            epoch, position = divmod(step + shift, self.loader.steps_per_epoch)
            with closing(self.loader.epoch(epoch, position)) as batches:
                for batch in batches:
                    yield batch
                    del batch
                    step += 1
                    if step == self.pace.total_steps:
                        return

    def _next(self, batches: Iterator[Batch]) -> tuple[Batch | None, LookalikeError | None]:
        """The next batch, None at the end; and what the user must mend before there is one."""
        try:
            return next(batches, None), None
        except LookalikeError as failure:
            return None, failure

    def _ended(self, failure: LookalikeError | None) -> LookalikeError:
        """What to raise after `failure` here, or on another worker."""
        logger.warning("training stops; step %d is saved", self.progress.step)
        return failure or TrainingError("another worker cannot go on; its own message says why")

    def _one(self, batch: Batch, epoch: int) -> tuple[str, str]:
        """One step and its record; returns loss and rate for the progress bar."""
        if self._position == self.pace.freeze_steps:
            self._set_phase()
        lr = self.schedule.at(self._position)
        updates = [head.update for head in self.trained.heads.values() if head.update is not None]
        set_lr(self.trained.optimizer, lr, updates)
        outcome = self.step(batch, self.progress.step)
        self._count(outcome)
        self._watch.add(self.loader.batch_size)
        step = self.progress.step
        if step % self.pace.log_every == 0 or step in (1, self.pace.total_steps):
            rate, share = self._watch.lap(self.loader.wait_seconds)
            self.record(
                {
                    "step": step,
                    "epoch": epoch + 1,
                    **outcome.losses,
                    "lr": lr,
                    "grad_norm": outcome.grad_norm,
                    "images_per_second": round(rate, 2),
                    "waiting": round(share, 4),
                    "skipped": self.progress.skipped,
                }
            )
        waiting = self._watch.waiting(self.loader.wait_seconds)
        starved = f", {waiting:.0%} waiting for images" if waiting >= 0.01 else ""
        skipped = f", {self.progress.skipped} skipped" if self.progress.skipped else ""
        loss = f"loss {outcome.losses['loss']:.3f}{skipped}{starved}"
        return loss, f"{self._watch.rate():,.0f} images/s"

    def _count(self, outcome: Outcome) -> None:
        """Progress, loss scale, and the patience with losses that are not finite."""
        scaler = self.trained.scaler
        scaler.update(finite=outcome.finite)
        skipped = self.progress.skipped + (not outcome.finite)
        self.progress = replace(self.progress, step=self.progress.step + 1, skipped=skipped)
        self._unhealthy = 0 if outcome.finite else self._unhealthy + 1
        # A loss scale that is still falling to its level is no illness.
        if self._unhealthy < PATIENCE or (scaler.enabled and scaler.scale > 1):
            return
        raise TrainingError(
            f"the loss has not been finite for {self._unhealthy} steps in a row, since step "
            f"{self.progress.step - self._unhealthy + 1} (learning rate "
            f"{self.schedule.at(self._position - 1):.2g}). {self._last_good()}"
        )

    def _last_good(self) -> str:
        """What to do about numbers that are not finite, and the checkpoint to go back to."""
        newest, _ = checkpoint.newest(self.folder, verify=False)
        return f"{_REMEDIES}; the last good checkpoint is {newest or f'in {self.folder}'}"

    def _agree(
        self, wish: signals.StopRequest, failure: LookalikeError | None
    ) -> tuple[int, bool, bool]:
        """What any worker wishes, known to all.

        Returns:
            A signal to stop at; whether to save now; whether a worker has no next batch.
        """
        minutes = (time.monotonic() - self._saved_at) / 60
        late = self.world.is_main and 0 < self.pace.checkpoint_minutes <= minutes
        mine = torch.tensor(
            [wish.signal or 0, int(late), int(failure is not None), self.quota.unshared()]
        )
        if self.world.size > 1:  # alone, the host need not wait for the device
            mine = self.world.max(mine.to(self.world.device))
        stop, save, failed, bad = mine.tolist()
        if bad:
            self.quota.share()
        return stop, bool(save), bool(failed)

    def _after(self, epoch: int, *, late: bool) -> None:
        """Measure and save where it is due after a step."""
        step, pace, done = self.progress.step, self.pace, epoch + 1
        end_of_epoch = self._position % self.loader.steps_per_epoch == 0
        last = step == pace.total_steps
        measured = last or bool(end_of_epoch and pace.eval_every and done % pace.eval_every == 0)
        regular = (end_of_epoch and done % pace.checkpoint_every == 0) or bool(
            pace.checkpoint_every_steps and step % pace.checkpoint_every_steps == 0
        )
        # Nothing regular in the middle of trouble: it would push out an older, sounder one.
        regular = regular and self._unhealthy == 0
        if not (measured or late or regular):
            return
        with self._watch.paused():
            if not self._weights_are_finite():
                if last or late:
                    raise TrainingError(
                        f"the weights are not finite after step {step} (learning rate "
                        f"{self.schedule.at(self._position - 1):.2g}); they are not saved. "
                        f"{self._last_good()}"
                    )
                return  # the loss is not finite any more: patience with it ends the run
            improved = False
            if measured:
                improved = self._measure(epoch=done)
                self._set_phase()
            if last or late or improved or regular or self._is_early_end():
                self._save()

    def _weights_are_finite(self) -> bool:
        """Whether all workers have sound weights."""
        trained = self.trained
        tensors = [
            *trained.network.state_dict().values(),
            *(head.weight for head in trained.heads.values()),
        ]
        if trained.ema is not None:
            tensors += trained.ema.average.values()
        broken = all_finite(tensors).logical_not().to(self.world.device, torch.int64)
        return not self.world.max(broken)

    def _measure(self, epoch: int) -> bool:
        """Measure retrieval and keep the model if it is the best; returns whether it is."""
        if self.measure is None:
            self._averaged(self.keep_model)
            return False
        score, record = self._averaged(self.measure)
        # What follows is decided alike by all, whatever their rounding.
        score = float(
            self.world.broadcast(torch.tensor(score, dtype=torch.float64).to(self.world.device))
        )
        progress = self.progress
        improved = progress.best_score is None or score > progress.best_score
        if improved:
            self.progress = replace(
                progress, best_score=score, best_step=progress.step, since_best=0
            )
        else:
            self.progress = replace(progress, since_best=progress.since_best + 1)
        self.record(
            {
                "step": progress.step,
                "epoch": epoch,
                **record,
                "since_best": self.progress.since_best,
            }
        )
        if improved:
            self._averaged(self.keep_model)
        return improved

    def _averaged(self, action: Callable[[], T]) -> T:
        """Do it with the average of the weights, where one is kept."""
        ema = self.trained.ema
        with ema.applied() if ema is not None else nullcontext():
            return action()

    def _save(self) -> None:
        name = checkpoint.folder_name(self.progress.step)
        checkpoint.save(self.folder / name, self.trained, self.progress, self.world)
        self._saved_at = time.monotonic()
        if self.world.is_directory_leader:
            best = self.folder / name
            storage.write_bytes(str(self.folder / "latest"), f"{name}\n".encode())
            if self.progress.best_score is not None:
                best = self.folder / checkpoint.folder_name(self.progress.best_step)
                storage.write_bytes(str(self.folder / "best"), f"{best.name}\n".encode())
            checkpoint.prune(self.folder, written=name, keep=self.pace.keep_checkpoints, also=best)
            self.saved()
        # A worker that ends now must not take a directory leader down in the middle of this.
        self.world.barrier()

    def _set_phase(self) -> None:
        self.step.prepare(frozen=self._position < self.pace.freeze_steps)
