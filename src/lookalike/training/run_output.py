"""Results of a training: records of metrics and trackers, the model, and the upload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lookalike.distributed.world import ALONE, World
from lookalike.model.embedder import Embedder
from lookalike.reporting.loggers import Loggers
from lookalike.run import Run
from lookalike.training.uploader import Uploader


class RunOutput:
    """Output directory of a training, with its trackers and its copy in object storage.

    Only the main worker writes records and the model. `uploader` is None on workers that upload
    nothing.
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

    def record(self, values: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl and send it to the trackers."""
        if self.world.is_main:
            self.run.append(self.run.metrics, values)
            if self.loggers is not None:
                self.loggers.log(values)

    def save_model(self, embedder: Embedder) -> None:
        """Save the model of the run; a calibration of other weights is removed."""
        if self.world.is_main:
            self.run.calibration.unlink(missing_ok=True)
            embedder.save(self.run.model)

    def save_start(self, embedder: Embedder) -> None:
        """Save the model before training."""
        if self.world.is_main:
            embedder.save(self.run.start)

    def checkpoint_saved(self) -> None:
        """Start the upload of the newest checkpoint; called by all workers together.

        Where several machines upload, all take a snapshot or none does, so that their slices fit.
        """
        if len(self.world.directory_leaders) > 1:
            busy = self.uploader is not None and self.uploader.busy
            if any(self.world.all_gather_object(busy)):
                return
        if self.uploader is not None:
            self.uploader.checkpoint_saved()
