"""`lookalike tune`: search of settings on classes held out of the training list."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import signal
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from lookalike import log
from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.config.duration import seconds_of
from lookalike.config.yaml_lines import write_yaml
from lookalike.data.catalog import Catalog, hold_out
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.distributed import signals
from lookalike.distributed.world import World
from lookalike.errors import (
    ConfigError,
    DataError,
    Interrupted,
    SearchInterrupted,
    TrainingError,
    check_integer,
    one_line,
)
from lookalike.log import counted, duration, logger
from lookalike.metrics.bootstrap import LEAST, Difference, differences
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.planning.recipe import Choice, choose_by_data, choose_by_file, with_choices
from lookalike.planning.search_classes import (
    choosing_and_confirming,
    held_out_fraction,
    measurable,
    too_few,
)
from lookalike.planning.search_space import Space, default_space, including, parse_space
from lookalike.planning.search_state import SearchFolder, Trial
from lookalike.planning.trial_proposals import check_optuna, propose
from lookalike.planning.tune_page import render
from lookalike.run import Run, write_text
from lookalike.storage.file_lock import locked
from lookalike.training import build

_TRIALS = 12
"""Trials that the time should reach for, where their number is not given."""

_TIMED = 12  # steps


@dataclass(frozen=True)
class Tuning:
    """Result of a search.

    Attributes:
        path: the output directory.
        recipe: file of the settings that were found, for `train.recipe`.
        trials: the finished ones, by number; the first is the recipe's choice.
        best: the one of the highest score.
        gain: the best one minus the recipe's choice on classes that chose nothing, by metric:
            `score`, `recall_at_1`, `map_at_r`; empty where the recipe's choice is the best.
    """

    path: Path
    recipe: Path
    trials: list[Trial]
    best: Trial
    gain: dict[str, Difference]

    @property
    def better(self) -> bool:
        """True if the best trial exceeds the recipe's choice by more than the interval."""
        return bool(self.gain) and self.gain["score"].real and self.gain["score"].value > 0

    def describe(self) -> str:
        """The result in a sentence."""
        if not self.gain:
            return "nothing was better than the recipe's choice: it has the highest score"
        gain = self.gain["score"]
        points = (
            f"mean of Recall@1 and MAP@R {100 * gain.value:+.1f} points on {gain.classes} classes "
            f"that chose nothing, 95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        )
        if self.better:
            return f"trial {self.best.trial} is better than the recipe's choice: {points}"
        return (
            "nothing was better than the recipe's choice by more than the interval; the highest "
            f"score is that of trial {self.best.trial}: {points}"
        )


def tune(
    config: Config | None = None,
    *,
    time: str | None = None,
    trials: int | None = None,
    over: str | Iterable[str] = (),
    **settings: Any,
) -> Tuning:
    """Search settings on classes that are held out of the training list.

    The recipe's choice is the first trial, and settings that are given are kept. The same call
    continues a search that was interrupted; more time or trials extend it.

    Args:
        config: the request; None for the defaults.
        time: that the search may take in all, as 90s, 30m or 2h.
        trials: in all, the recipe's choice included; time or trials, or both, must be given.
        over: what to search in place of the default space: `optim.lr=1e-4..1e-2`,
            `train.batch_size=32,64`; one or several.
        settings: values that differ from `config`, as in `train`; `output` is the directory of
            the search, `train__epochs` the length of a trial.

    Raises:
        LookalikeError: a mistake that the user can fix; see `lookalike.errors`.
    """
    began = monotonic()
    request = _checked(Config.of(config, settings), time, trials)
    seconds = None if time is None else _seconds(time)
    texts = [over] if isinstance(over, str) else list(over)
    asked_space = parse_space(texts, request)
    check_optuna()
    request = build.keep_streams(request)
    build.check_settings(request)
    for key, one in asked_space.items():
        for value in one.ends():
            build.check_settings(request.with_values({key: value}))
    log.start()
    folder = SearchFolder.create(str(request.run.output))
    with locked(folder.lock_file, f"{folder.path}: another search runs there; stop it first"):
        search, number = None, None
        signals.take_deferred()  # of what came before
        try:
            search = _Search.prepare(request, folder, texts, asked_space, seconds, trials, began)
            number = search.go()
        except Interrupted as error:
            number = error.exit_code - 128
        except KeyboardInterrupt:
            number = signal.SIGINT
        done = [] if search is None else search.trials
        found = search.result() if search is not None and done else None
        if number is not None:
            raise SearchInterrupted(number, len(done), str(request.run.output))
        assert found is not None
        return found


def _checked(config: Config, time: str | None, trials: int | None) -> Config:
    if config.data.train is None:
        raise ConfigError("nothing to train on: give data.train (--train), a list of images")
    if config.run.output is None:
        raise ConfigError("nowhere to write to: give run.output (--output), a directory")
    if time is None and trials is None:
        raise ConfigError("no end: give time (--time 2h), or a number of trials (--trials 20)")
    if trials is not None:
        check_integer("trials", trials, 1)
    if config.data.val_fraction:
        raise ConfigError(
            "data.val_fraction is not for a search, which holds out classes of its own; leave it "
            "out"
        )
    if config.train.time_budget is not None:
        raise ConfigError(
            "train.time_budget is not for a search; give its time in all (--time 2h), and the "
            "length of a trial as train.epochs"
        )
    return config


def _seconds(text: str) -> float:
    try:
        seconds = seconds_of(text)
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(f"--time {text}: is not a time; write e.g. 30m, 2h or 1h30m") from None
    if seconds <= 0:
        raise ConfigError(f"--time {text}: is not a time above 0; write e.g. 30m")
    return seconds


@dataclass
class _Search:
    """A search, prepared.

    Attributes:
        config: request of a trial, without what the recipe chooses.
        choices: settings of the recipe for the whole training list.
        held_out: classes that trials are measured on.
        asked_space: of the request; empty for the default space.
        seconds: that the search may take, None without a limit.
        most: trials, None without a limit.
        trials: the finished ones.
        began: when this call did, by the monotonic clock, less the seconds of the trials that
            earlier calls finished.
    """

    config: Config
    folder: SearchFolder
    choices: list[Choice]
    asked: set[str]
    catalog: Catalog
    held_out: Catalog
    source: Source
    device: torch.device
    asked_space: Space
    seconds: float | None
    most: int | None
    trials: list[Trial]
    began: float

    def __post_init__(self) -> None:
        self.began -= sum(one.seconds for one in self.trials)

    @classmethod
    def prepare(
        cls,
        request: Config,
        folder: SearchFolder,
        texts: list[str],
        space: Space,
        seconds: float | None,
        most: int | None,
        began: float,
    ) -> _Search:
        with World.from_env(request.run.device) as world:
            source = build.create_source(request)
            # What `train` would find, with its validation set as a fact only.
            choices = choose_by_file(request)
            chosen = with_choices(request, choices)
            catalog, validation = build.open_catalogs(chosen)
            choices += choose_by_data(chosen, catalog, validation, source, world)
            device = world.device
        fraction = held_out_fraction(catalog)
        training, held_out = hold_out(catalog, fraction, request.train.seed)
        if any(measurable(held_out, part) < LEAST for part in choosing_and_confirming(held_out)):
            raise too_few(catalog)
        asked = request.asked()
        config = _of_trials(request, choices, fraction)
        fingerprint = catalog.fingerprint()
        epochs = folder.check_same(request, texts, fingerprint)
        search = cls(
            config, folder, choices, asked, training, held_out, source, device, space, seconds,
            most, folder.finished(), began,
        )  # fmt: skip
        if epochs is None:
            epochs = search._length(request)
            folder.begin(request, texts, fingerprint, epochs)
        search.config = search.config.with_values({"train.epochs": epochs})
        logger.info(
            "%s held out of %s: half of them choose, half confirm; %s a trial",
            counted(len(held_out.classes), "class is", "classes are"),
            f"{len(catalog.classes):,}",
            counted(epochs, "epoch"),
        )
        if search.trials:
            logger.info("going on after %s", counted(len(search.trials), "finished trial"))
        return search

    def _length(self, request: Config) -> int:
        """Epochs of a trial: those of the recipe, or as many as the time allows."""
        longest: int = next(
            (c.value for c in self.choices if c.key == "train.epochs"), request.train.epochs
        )
        if self.seconds is None or "train.epochs" in self.asked:
            return longest
        run = Run(self.folder.timing)
        began = monotonic()
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
        took = monotonic() - began
        rates = [r["images_per_second"] for r in run.read(run.metrics) if "images_per_second" in r]
        shutil.rmtree(run.path)
        rate = statistics.median(rates[len(rates) // 2 :])
        epoch = len(self.catalog) / rate
        left = (self.seconds - self._used()) / (self.most or _TRIALS) - took
        return int(min(max(left / epoch, 1), longest))

    def go(self) -> int | None:
        """Run trials until the number or the time is reached, or a signal came.

        Returns:
            The number of the signal that came in the last step of a trial, which it did not end.
        """
        while not self._over():
            number = len(self.trials)
            space = self._space() if number else {}
            tried = [(one.settings, one.score) for one in self.trials]
            values = propose(space, tried, self.config.train.seed) if number else {}
            logger.info("trial %d: %s", number, _text(values) or "the recipe's choice")
            one = self._trial(number, values)
            self.trials.append(one)
            self.folder.write_trials(self.trials)
            stopped = signals.take_deferred()
            best = max(self.trials, key=lambda trial: trial.score)
            logger.info(
                "trial %d: %s in %s; best so far trial %d with %.1f %%; %s",
                number,
                one.failed or f"{100 * one.score:.1f} % (mean of Recall@1 and MAP@R)",
                duration(one.seconds), best.trial, 100 * best.score, self._left(),
            )  # fmt: skip
            if stopped is not None:
                return stopped
        return None

    def _over(self) -> bool:
        if self.most is not None and len(self.trials) >= self.most:
            return True
        if self.seconds is None or not self.trials:
            return False
        typical = statistics.median(one.seconds for one in self.trials)
        return self._used() + typical > self.seconds

    def _used(self) -> float:
        """Seconds of the search so far, those of earlier calls too."""
        return monotonic() - self.began

    def _left(self) -> str:
        typical = statistics.median(one.seconds for one in self.trials)
        left = [] if self.most is None else [typical * (self.most - len(self.trials))]
        if self.seconds is not None:
            left.append(self.seconds - self._used())
        return f"{duration(max(min(left), 0))} left"

    def _space(self) -> Space:
        """The space around the recipe's choice, as trial 0 ran."""
        start = Config.load(self.folder.run(0).resolved, content=self._resolved())
        space = self.asked_space
        space = space or default_space(start, self.asked, len(self.catalog))
        if not space:
            raise ConfigError("nothing to search: every setting of the space is given; use --over")
        return including(space, start)

    def _resolved(self) -> bytes:
        return self.folder.run(0).resolved.read_bytes()

    def _trial(self, number: int, values: dict[str, Any]) -> Trial:
        """Train and measure; the weights are removed afterwards."""
        run = self.folder.run(number)
        config = self.config.with_values({"run.output": str(run.path)})
        if number:  # with what the recipe chose for trial 0, rates included
            settings = {**self._chosen_by_trial(), "train.recipe": "component", **values}
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
        if not number:
            start = Config.load(run.resolved, content=run.resolved.read_bytes())
            space = self.asked_space or default_space(start, self.asked, len(self.catalog))
            values = {key: start.get(key) for key in space}
        score = (scores["recall_at_1"] + scores["map_at_r"]) / 2
        took = round(monotonic() - began, 2)
        return Trial(number, values, score, **scores, seconds=took, failed=failed)

    def _measure(self, number: int, run: Run) -> dict[str, float]:
        """Scores on the classes that choose; those of the others are kept by query."""
        embedder = Embedder.load(run.model, self.device)
        records = self.held_out.records
        found = embed_records(
            embedder, records, threads=self.config.data.threads, bad=BadImages(),
            world=World(device=embedder.device), source=self.source, quiet=True,
        )  # fmt: skip
        roles = Roles.of(records)
        classes = torch.from_numpy(self.held_out.class_ids)[found.rows]
        scores: dict[str, float] = {}
        for part, chooses in zip(
            choosing_and_confirming(self.held_out), (True, False), strict=True
        ):
            mine = torch.from_numpy(part)[classes].nonzero()[:, 0]
            labels = classes[mine]
            measured = measure_queries(
                found.vectors[mine], labels,
                roles=None if roles is None else roles[found.rows[mine]],
                device=self.device,
            )  # fmt: skip
            values = {name: measured.values[name] for name in ("recall_at_1", "map_at_r")}
            if chooses:
                scores = {name: float(each.mean()) for name, each in values.items()}
            else:
                self.folder.write_confirmation(number, labels[measured.rows], values)
        return scores

    def result(self) -> Tuning:
        """Compare the best trial with the recipe's choice, and write recipe and page."""
        best = max(self.trials, key=lambda trial: trial.score)
        gain: dict[str, Difference] = {}
        if best.trial:
            classes, first = self.folder.confirmation(0)
            others, second = self.folder.confirmation(best.trial)
            if not torch.equal(classes, others):
                raise DataError(
                    f"{self.folder.path}: other images could be read in trial {best.trial} than in "
                    "trial 0, so that they cannot be compared; see lookalike doctor"
                )
            gain = differences(first, second, classes)
        found = Tuning(self.folder.path, self.folder.recipe, self.trials, best, gain)
        self._write_recipe(found)
        write_text(
            self.folder.page,
            render(
                self.trials, found.describe(), better=found.better, output=str(self.folder.path)
            ),
        )
        logger.info("%s", found.describe())
        logger.info("written: %s, %s", self.folder.recipe, self.folder.page)
        return found

    def _chosen_by_trial(self) -> dict[str, Any]:
        """Settings that the recipe chose in trial 0 alone, such as rates by the start's scores."""
        file = self.folder.run(0).recipe
        chosen = json.loads(file.read_text("utf-8")) if file.exists() else []
        asked = self.config.asked()
        return {c["key"]: c["value"] for c in chosen if c["key"] not in asked}

    def _write_recipe(self, found: Tuning) -> None:
        """The recipe's settings, with those of the best trial where that is better."""
        values = self._chosen_by_trial() | {c.key: c.value for c in self.choices}
        if found.better:
            values |= found.best.settings
        tree: dict[str, dict[str, Any]] = {}
        for key in sorted(values):
            section, name = key.split(".")
            tree.setdefault(section, {})[name] = values[key]
        text = f"# lookalike tune: {found.describe()}\n"
        write_text(self.folder.recipe, text + write_yaml(tree))


def _of_trials(request: Config, choices: list[Choice], fraction: float) -> Config:
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


def _text(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
