"""The training loop: which step comes next, and what happens between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from lookalike import checkpoint, interrupt
from lookalike.checkpoint import Progress, Trained
from lookalike.data.loader import Batch, TrainLoader
from lookalike.distributed import World
from lookalike.errors import LookalikeError, TrainingError
from lookalike.log import Bar, logger
from lookalike.optim import Schedule, set_lr
from lookalike.quota import Quota
from lookalike.step import Outcome, TrainStep
from lookalike.stopwatch import Stopwatch

PATIENCE = 25
"""Steps in a row without a finite loss after which training gives up."""

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """When things happen.

    Attributes:
        total_steps: length of the run.
        eval_every: epochs between measurements, 0 for none between start and end.
        log_every: steps between records.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between further checkpoints, None for none.
        checkpoint_minutes: minutes between further checkpoints, 0 for none.
        keep_checkpoints: how many of the latest stay.
        freeze_steps: first steps in which the backbone does not learn.
    """

    total_steps: int
    eval_every: int = 1
    log_every: int = 10
    checkpoint_every: int = 10
    checkpoint_every_steps: int | None = None
    checkpoint_minutes: float = 15
    keep_checkpoints: int = 2
    freeze_steps: int = 0


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
        record: takes one object for metrics.jsonl.
        saved: is told on the keeper of each directory after each checkpoint.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        step: TrainStep,
        loader: TrainLoader,
        schedule: Schedule,
        pace: Pace,
        folder: Path,
        world: World,
        quota: Quota,
        measure: Callable[[], tuple[float, dict[str, Any]]] | None,
        keep_model: Callable[[], None],
        record: Callable[[dict[str, Any]], None],
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
        self.progress = Progress()
        self._unhealthy = 0
        self._saved_at = time.monotonic()
        self._watch = Stopwatch()

    def fit(self) -> int | None:
        """Train to the end, or until a signal asks to stop; either way a checkpoint is there.

        Returns:
            The number of the signal that ended it, None when it came to its end.

        Raises:
            TrainingError: the loss stays not finite.
            DataError: more images are bad than the quota bears, or none can stand in for them.
            CredentialsError: the storage of the images refuses who asks; the last step is saved.
            UnavailableError: it does not answer; the last step is saved.
        """
        if self.progress.step == 0:
            self._measure(epoch=0)
            self._save()
        total, quiet = self.pace.total_steps, not self.world.is_main
        # Only what all workers agreed on ends the loop: a wish that comes a moment later is
        # granted after the next step, with its checkpoint.
        stop = 0
        with (
            interrupt.deferred() as wish,
            Bar("training", total, self.progress.step, unit="steps", quiet=quiet) as bar,
            closing(self._batches()) as batches,
        ):
            self._watch.start()
            self._set_phase()
            batch = next(batches, None)
            while batch is not None and not stop:
                epoch = self.progress.step // self.loader.steps_per_epoch
                bar.advance(note=self._one(batch, epoch))
                del batch  # not kept while the next is waited for
                # The next batch comes before the agreement about this step: so a worker that
                # cannot have it says so in time for all to save this step together.
                batch, failure = self._next(batches)
                stop, late, failed = self._agree(wish, failure)
                self._after(epoch, late=late or bool(stop) or failed)
                if failed:
                    raise self._ended(failure)
        return stop if stop and self.progress.step < total else None

    def _batches(self) -> Generator[Batch, None, None]:
        """The batches of all steps that are left."""
        step = self.progress.step
        while step < self.pace.total_steps:
            epoch, position = divmod(step, self.loader.steps_per_epoch)
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

    def _one(self, batch: Batch, epoch: int) -> str:
        """One step and its record; returns a note for the progress bar."""
        if self.progress.step == self.pace.freeze_steps:
            self._set_phase()
        lr = self.schedule.at(self.progress.step)
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
        return f"loss {outcome.losses['loss']:.3f}, {self._watch.rate():.0f} images/s{starved}"

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
        newest, _ = checkpoint.newest(self.folder)
        raise TrainingError(
            f"the loss has not been finite for {self._unhealthy} steps in a row, since step "
            f"{self.progress.step - self._unhealthy + 1} (learning rate "
            f"{self.schedule.at(self.progress.step - 1):.2g}). Lower optim.lr, set "
            f"optim.clip_grad_norm=1, or use train.precision=fp32; the last good checkpoint is "
            f"{newest or f'in {self.folder}'}"
        )

    def _agree(
        self, wish: interrupt.Wish, failure: LookalikeError | None
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
        end_of_epoch = step % self.loader.steps_per_epoch == 0
        last = step == pace.total_steps
        improved = False
        if last or (end_of_epoch and pace.eval_every and done % pace.eval_every == 0):
            with self._watch.paused():
                improved = self._measure(epoch=done)
                self._set_phase()
        regular = (end_of_epoch and done % pace.checkpoint_every == 0) or bool(
            pace.checkpoint_every_steps and step % pace.checkpoint_every_steps == 0
        )
        # Nothing regular in the middle of trouble: it would push out an older, sounder one.
        if last or late or improved or (regular and self._unhealthy == 0):
            with self._watch.paused():
                self._save()

    def _measure(self, epoch: int) -> bool:
        """Measure retrieval and keep the model if it is the best; returns whether it is."""
        if self.measure is None:
            self._averaged(self.keep_model)
            return False
        score, record = self._averaged(self.measure)
        self.record({"step": self.progress.step, "epoch": epoch, **record})
        improved = self.progress.best_score is None or score > self.progress.best_score
        if improved:
            self.progress = replace(self.progress, best_score=score, best_step=self.progress.step)
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
        if self.world.is_keeper:
            best = self.folder / name
            (self.folder / "latest").write_text(name + "\n", "utf-8")
            if self.progress.best_score is not None:
                best = self.folder / checkpoint.folder_name(self.progress.best_step)
                (self.folder / "best").write_text(best.name + "\n", "utf-8")
            checkpoint.prune(self.folder, keep=self.pace.keep_checkpoints, also=best)
            self.saved()
        # A worker that ends now must not take a keeper down in the middle of this.
        self.world.barrier()

    def _set_phase(self) -> None:
        self.step.prepare(frozen=self.progress.step < self.pace.freeze_steps)
