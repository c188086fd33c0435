"""Results of a training: records, the model, checkpoints and the upload."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from lookalike import storage
from lookalike.distributed.world import ALONE, World
from lookalike.model.embedder import Embedder
from lookalike.reporting.loggers import Loggers
from lookalike.run import Run
from lookalike.training import checkpoint
from lookalike.training.checkpoint import Progress, Trained
from lookalike.training.checkpoint_writer import CheckpointWriter
from lookalike.training.uploader import Uploader


class RunOutput:
    """Output directory of a training, with its trackers and its copy in object storage.

    Only the main worker writes records and the model. `uploader`
    is None on workers that upload nothing. A context manager: at its end the last checkpoint is
    complete, and uploaded.
    """

    def __init__(
        self,
        run: Run,
        loggers: Loggers | None = None,
        uploader: Uploader | None = None,
        world: World = ALONE,
    ) -> None:
        self.run = run
        self.loggers = loggers
        self.uploader = uploader
        self.world = world
        # Where several machines upload, all take a snapshot or none does, so that their slices fit.
        several = uploader is not None and len(world.directory_leaders) > 1
        self.checkpoints = CheckpointWriter(
            world, occupied=lambda: several and uploader is not None and uploader.busy
        )
        self._files = threading.Lock()  # of a model, while a snapshot is taken

    def __enter__(self) -> RunOutput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.checkpoints.close(error)
        if self.uploader is not None:
            self.uploader.finish()

    def begin(self) -> None:
        """Remove the mark of an earlier end."""
        if self.world.is_main:
            self.run.finished.unlink(missing_ok=True)

    def finish(self, step: int) -> None:
        """Mark the run as finished after `step`."""
        if self.world.is_main:
            storage.write_text(self.run.finished, json.dumps({"step": step}) + "\n")

    def record(self, values: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl and send it to the trackers."""
        if self.world.is_main:
            self.run.append(self.run.metrics, values)
            if self.loggers is not None:
                self.loggers.log(values)

    def save_model(self, embedder: Embedder) -> None:
        """Save the model of the run; a calibration of other weights is removed."""
        if self.world.is_main:
            with self._files:
                self.run.calibration.unlink(missing_ok=True)
                embedder.save(self.run.model)

    def save_start(self, embedder: Embedder) -> None:
        """Save the model before training."""
        if self.world.is_main:
            with self._files:
                embedder.save(self.run.start)

    def save_checkpoint(self, trained: Trained, progress: Progress, *, keep: int) -> None:
        """Begin to write a checkpoint, and then to upload it; called by all workers together.

        Args:
            keep: number of the latest checkpoints that stay, beside the best.

        Raises:
            RunError: the checkpoint before could not be written; all workers raise.
        """
        name = checkpoint.folder_name(progress.step)

        def then(idle: bool) -> None:
            self._point_to(name, progress, keep)
            if idle and self.uploader is not None:
                with self._files:
                    self.uploader.checkpoint_saved()

        self.checkpoints.save(self.run.checkpoints / name, trained, progress, then=then)

    def _point_to(self, name: str, progress: Progress, keep: int) -> None:
        """Name the newest and the best checkpoint, and remove older ones."""
        folder = self.run.checkpoints
        best = folder / name
        storage.write_text(folder / "latest", f"{name}\n")
        if progress.best_score is not None:
            best = folder / checkpoint.folder_name(progress.best_step)
            storage.write_text(folder / "best", f"{best.name}\n")
        checkpoint.prune(folder, written=name, keep=keep, also=best)
