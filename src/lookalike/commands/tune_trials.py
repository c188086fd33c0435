"""Trials of `lookalike tune`: trained, and measured on classes held out of the training list."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch

from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, TrainingError, one_line
from lookalike.log import logger
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.planning.recipe import Choice
from lookalike.planning.search_classes import choosing_and_confirming
from lookalike.planning.search_state import SearchFolder, Trial
from lookalike.run import Run

_TIMED = 12  # steps


def request_of_trials(request: Config, choices: list[Choice], fraction: float) -> Config:
    """Request of a trial: the recipe's choice for the whole list, measured on held-out classes."""
    others = ("data.val_fraction", "train.epochs")
    values = {c.key: c.value for c in choices if c.key not in others}
    if "train.interpolate" not in request.asked():
        values.setdefault("train.interpolate", False)
    return request.with_values(
        {
            **values,
            "data.val": None,
            "data.val_fraction": fraction,
            "train.eval_every": 0,
            "train.early_stopping": 0,
            "train.checkpoint_every": 10**6,
            "train.checkpoint_every_steps": None,
            "train.checkpoint_minutes": 0,
            "train.keep_checkpoints": 1,
            "train.report": False,
            "train.loggers": (),
            "train.tensorboard": False,
        }
    )


@dataclass
class TrialRunner:
    """Training and measurement of trials, each in a directory of its own.

    Attributes:
        config: request of a trial, without what the recipe chooses.
        held_out: classes that trials are measured on.
        device: of the measurement.
    """

    config: Config
    folder: SearchFolder
    held_out: Catalog
    source: Source
    device: torch.device

    def images_per_second(self) -> float:
        """Rate of training, from some steps."""
        run = Run(self.folder.timing)
        with _quiet(logging.ERROR):
            train(
                self.config.with_values(
                    {
                        "run.output": str(run.path),
                        "train.max_steps": _TIMED,
                        "train.log_every": 1,
                        "train.interpolate": False,
                    }
                )
            )
        rates = [r["images_per_second"] for r in run.read(run.metrics) if "images_per_second" in r]
        shutil.rmtree(run.path)
        return statistics.median(rates[len(rates) // 2 :])

    def run(self, number: int, values: dict[str, Any]) -> Trial:
        """Train and measure with these settings; the weights are removed afterwards.

        A trial after the first that cannot be trained has scores of 0.
        """
        run = self.folder.run(number)
        config = self.config.with_values({"run.output": str(run.path)})
        if number:  # with what the recipe chose for trial 0, rates included
            settings = {**self.chosen_at_start(), "train.recipe": "component", **values}
            config = config.with_values(settings)
        began, failed = monotonic(), ""
        scores = {"recall_at_1": 0.0, "map_at_r": 0.0}
        try:
            with _quiet(logging.ERROR if number else logging.WARNING):
                train(config)
                scores = self._measure(number, run)
        except (TrainingError, ConfigError, torch.OutOfMemoryError) as error:
            if not number:
                raise
            failed = one_line(error)
        for place in (run.checkpoints, run.model, run.start, run.features):
            shutil.rmtree(place, ignore_errors=True)
        _free()
        score = (scores["recall_at_1"] + scores["map_at_r"]) / 2
        took = round(monotonic() - began, 2)
        return Trial(
            trial=number, settings=values, score=score, **scores, seconds=took, failed=failed
        )

    def _measure(self, number: int, run: Run) -> dict[str, float]:
        """Scores on the classes that choose; those of the others are kept by query."""
        embedder = Embedder.load(run.model, self.device)
        records = self.held_out.records
        found = embed_records(
            embedder, records, bad=BadImages(),
            world=World(device=embedder.device), source=self.source, quiet=True,
        )  # fmt: skip
        roles = Roles.of(records)
        classes = torch.from_numpy(self.held_out.class_ids)[found.rows]
        scores: dict[str, float] = {}
        for part, chooses in zip(
            choosing_and_confirming(self.held_out), (True, False), strict=True
        ):
            mine = torch.from_numpy(part)[classes].nonzero()[:, 0]
            labels = torch.from_numpy(self.held_out.all_ids)[found.rows[mine]]
            measured = measure_queries(
                found.vectors[mine], labels,
                roles=None if roles is None else roles[found.rows[mine]],
                device=self.device,
            )  # fmt: skip
            values = {name: measured.values[name] for name in ("recall_at_1", "map_at_r")}
            if chooses:
                scores = {name: float(each.mean()) for name, each in values.items()}
            else:
                self.folder.write_confirmation(number, classes[mine][measured.rows], values)
        return scores

    def chosen_at_start(self) -> dict[str, Any]:
        """Settings that the recipe chose in trial 0 alone, such as rates by the start's scores."""
        file = self.folder.run(0).recipe
        chosen = json.loads(file.read_text("utf-8")) if file.exists() else []
        asked = self.config.asked()
        return {c["key"]: c["value"] for c in chosen if c["key"] not in asked}


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    """Console without the lines of a trial's run below `level`; its log.txt has them."""

    def important(record: logging.LogRecord) -> bool:
        return record.levelno >= level

    handlers = list(logger.handlers)
    for handler in handlers:
        handler.addFilter(important)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(important)
        logger.setLevel(logging.INFO)


def _free() -> None:
    """Return the memory of a trial."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
