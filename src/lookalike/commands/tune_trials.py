"""Trials of `lookalike tune`: trained, and measured on classes held out of the training list."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch

from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, ModelError, TrainingError, one_line
from lookalike.log import logger
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.planning.choice import with_choices
from lookalike.planning.facts import Facts, with_network
from lookalike.planning.recipe import BEFORE_START, IMPLYING, choose, choose_by_file
from lookalike.planning.search_classes import choosing_and_confirming
from lookalike.planning.search_space import Spellings
from lookalike.planning.search_state import SearchFolder, Trial
from lookalike.run import Run

_TIMED = 12  # steps


_MEASUREMENT: dict[str, Any] = {
    "data.val": None,
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
"""Settings of a trial that concern its measurement and files."""


@dataclass(frozen=True)
class WholeListRecipe:
    """The recipe's choices for the whole training list, from which classes are then held out.

    Attributes:
        request: of the user.
        facts: of the whole list; None where the recipe is not `auto`.
    """

    request: Config
    facts: Facts | None

    def chosen(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Choices of `train` for the whole list if it were given these settings too.

        Without what it chooses by the start's retrieval. A margin, a scale or a rate in `values`
        belongs to the loss and the optimizer that are chosen without it.
        """
        request = self.request.with_values({k: v for k, v in values.items() if k not in IMPLYING})
        choices = choose_by_file(request)
        config = with_choices(request, choices)
        if self.facts is not None:
            choices += choose(config, with_network(self.facts, config))
        return {c.key: c.value for c in choices if c.key not in values}

    def settings(self, values: Mapping[str, Any], by_start: Mapping[str, Any]) -> dict[str, Any]:
        """These settings and the recipe's choices, for a file that is a recipe itself.

        Where the recipe leaves it to the start's retrieval whether classes are held out, so does
        the file, by `train.interpolate` alone.

        Args:
            values: settings that were searched.
            by_start: choices of a trial by the start's retrieval.
        """
        found = {**self.chosen(values), **by_start, **values}
        asked = self.request.asked()
        config = self.request.with_values(found)
        measured = config.model.init_from_features and config.train.start_from is None
        if (
            self.facts is not None
            and measured
            and not asked & {"data.val_fraction", "train.interpolate"}
        ):
            found.setdefault("train.interpolate", True)
        return found

    def request_of_trial(self, values: Mapping[str, Any], fraction: float, epochs: int) -> Config:
        """Request of a trial that leaves open only what follows from the start's retrieval."""
        chosen = self.chosen(values)
        if "train.interpolate" not in self.request.asked():
            chosen.setdefault("train.interpolate", False)
        measured = {**_MEASUREMENT, "data.val_fraction": fraction}
        config = self.request.with_values({**chosen, "train.epochs": epochs, **values, **measured})
        return config.with_values({key: config.get(key) for key in BEFORE_START})


@dataclass
class TrialRunner:
    """Training and measurement of trials, each in a directory of its own.

    Attributes:
        fraction: part of the classes that is held out.
        held_out: classes that trials are measured on.
        device: of the measurement.
        epochs: of a trial.
        spellings: values of searched settings as they are written now.
    """

    recipe: WholeListRecipe
    fraction: float
    folder: SearchFolder
    held_out: Catalog
    source: Source
    device: torch.device
    epochs: int
    spellings: Spellings = field(default_factory=dict)

    def request(self, values: Mapping[str, Any]) -> Config:
        """Request of a trial with these settings."""
        return self.recipe.request_of_trial(self._written(values), self.fraction, self.epochs)

    def _written(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.spellings.get((key, value), value) for key, value in values.items()}

    def images_per_second(self) -> float:
        """Rate of training, from some steps."""
        run = Run(self.folder.timing)
        with _quiet(logging.ERROR):
            train(
                self.request({}).with_values(
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
        began, failed = monotonic(), ""
        scores = {"recall_at_1": 0.0, "map_at_r": 0.0}
        try:
            with _quiet(logging.ERROR if number else logging.WARNING):
                train(self.request(values).with_values({"run.output": str(run.path)}))
                scores = self._measure(number, run)
        except (TrainingError, ConfigError, ModelError, torch.OutOfMemoryError) as error:
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

    def settings(self, trial: Trial | None) -> dict[str, Any]:
        """Settings of a trial, and the recipe's for the whole list beside them.

        Those by the start's retrieval are the trial's. `None` is for trial 0.
        """
        values = {} if trial is None or not trial.trial else trial.settings
        file = self.folder.run(0 if trial is None else trial.trial).recipe
        in_run = json.loads(file.read_text("utf-8")) if file.exists() else []
        by_start = {c["key"]: c["value"] for c in in_run}
        return self.recipe.settings(self._written(values), by_start)


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
