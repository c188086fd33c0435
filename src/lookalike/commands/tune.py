"""`lookalike tune`: search of settings on classes held out of the training list."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from lookalike import log, storage
from lookalike.commands.tune_trials import TrialRunner, WholeListRecipe
from lookalike.config.config import Config
from lookalike.config.duration import seconds_of
from lookalike.data.catalog import Catalog
from lookalike.data.held_out_classes import hold_out
from lookalike.distributed import signals
from lookalike.distributed.world import World
from lookalike.errors import (
    ConfigError,
    DataError,
    Interrupted,
    SearchInterrupted,
    check_integer,
)
from lookalike.log import counted, duration, logger
from lookalike.metrics.bootstrap import LEAST, Difference, differences
from lookalike.planning.choice import with_choices
from lookalike.planning.facts import gather_facts
from lookalike.planning.recipe import choose_by_file
from lookalike.planning.search_classes import (
    choosing_and_confirming,
    held_out_fraction,
    measurable,
    too_few,
)
from lookalike.planning.search_space import (
    Space,
    default_space,
    including,
    of_a_model,
    parse_space,
)
from lookalike.planning.search_state import SearchFolder, Trial
from lookalike.planning.trial_proposals import check_optuna, propose
from lookalike.planning.tune_page import render
from lookalike.storage.file_lock import locked
from lookalike.training import build
from lookalike.training.request_lists import create_source, keep_streams, open_catalogs

_TRIALS = 12
"""Trials that the time should reach for, where their number is not given."""


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
    request = keep_streams(request)
    _check_recipe(request)
    build.check_settings(request)
    for key, one in asked_space.items():
        for value in one.ends():
            build.check_settings(request.with_values({key: value}))
    log.start()
    folder = SearchFolder(str(request.run.output))
    with locked(folder.lock_file, f"{folder.path}: another search runs there; stop it first"):
        search, number = None, None
        signals.take_deferred()  # of what came before
        try:
            search = _SettingsSearch.prepare(
                request, folder, texts, asked_space, seconds, trials, began
            )
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
    config.require_list_and_output()
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


def _check_recipe(request: Config) -> None:
    """Check the file that is the recipe, if it is one."""
    budget = with_choices(request, choose_by_file(request)).train.time_budget
    if budget is not None:
        raise ConfigError(
            f"{request.train.recipe}: train.time_budget is not for a search; give its time in all "
            "(--time 2h), and the length of a trial as train.epochs (--epochs)"
        )


def _seconds(text: str) -> float:
    try:
        seconds = seconds_of(text)
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(f"--time {text}: is not a time; write e.g. 30m, 2h or 1h30m") from None
    if seconds <= 0:
        raise ConfigError(f"--time {text}: is not a time above 0; write e.g. 30m")
    return seconds


@dataclass
class _SettingsSearch:
    """A search, prepared.

    Attributes:
        catalog: the training list without the classes that are held out.
        asked_space: of the request; empty for the default space.
        seconds: that the search may take, None without a limit.
        most: trials, None without a limit.
        trials: the finished ones.
        began: when this call did, by the monotonic clock, less the seconds of the trials that
            earlier calls finished.
    """

    runner: TrialRunner
    folder: SearchFolder
    catalog: Catalog
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
    ) -> _SettingsSearch:
        with World.from_env(request.run.device) as world:
            # What `train` would find, with its validation set as a fact only, and no classes held
            # out by a file: the search holds out its own.
            config = with_choices(request, choose_by_file(request))
            config = config.with_values({"data.val_fraction": 0.0})
            source = create_source(config)
            catalog, validation = open_catalogs(config)
            check_optuna()
            facts = None
            if config.train.recipe == "auto":
                facts = gather_facts(config, catalog, validation, source, world)
            device = world.device
        fraction = held_out_fraction(catalog)
        training, held_out = hold_out(catalog, fraction, request.train.seed)
        if any(measurable(held_out, part) < LEAST for part in choosing_and_confirming(held_out)):
            raise too_few(catalog)
        recipe = WholeListRecipe(request, facts)
        longest = recipe.chosen({}).get("train.epochs", request.train.epochs)
        runner = TrialRunner(recipe, fraction, folder, held_out, source, device, longest)
        fingerprint = catalog.fingerprint()
        begun = folder.check_same(request, space, fingerprint)
        if begun is not None:
            space, runner.spellings = begun.space, begun.spellings
        search = cls(runner, folder, training, space, seconds, most, folder.finished(), began)
        runner.epochs = search._length() if begun is None else begun.epochs
        if begun is None:
            folder.begin(request, texts, fingerprint, runner.epochs)
        logger.info(
            "%s held out of %s: half of them choose, half confirm; %s a trial",
            counted(len(held_out.classes), "class is", "classes are"),
            f"{len(catalog.classes):,}",
            counted(runner.epochs, "epoch"),
        )
        if search.trials:
            logger.info("resuming after %s", counted(len(search.trials), "finished trial"))
        return search

    @property
    def _request(self) -> Config:
        return self.runner.recipe.request

    def _length(self) -> int:
        """Epochs of a trial: those of the recipe, or as many as the time allows."""
        longest = self.runner.epochs
        if self.seconds is None or "train.epochs" in self._request.asked():
            return longest
        began = monotonic()
        epoch = len(self.catalog) / self.runner.images_per_second()
        took = monotonic() - began
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
            values = propose(space, tried, self._request.train.seed) if number else {}
            if values is None:
                logger.info("every one of the settings to search was tried")
                return None
            logger.info("trial %d: %s", number, _text(values) or "the recipe's choice")
            one = self.runner.run(number, values)
            if not number:
                space, start = self._space_and_start()
                one = one.model_copy(update={"settings": {k: start.get(k) for k in space}})
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
        space, start = self._space_and_start()
        if not space:
            raise ConfigError("nothing to search: every setting of the space is given; use --over")
        return including(space, start)

    def _space_and_start(self) -> tuple[Space, Config]:
        resolved = self.folder.run(0).resolved
        start = Config.load(resolved, content=resolved.read_bytes())
        return self.asked_space or default_space(
            start, self._request.asked(), len(self.catalog)
        ), start

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
        storage.write_text(
            self.folder.page,
            render(
                self.trials, found.describe(), better=found.better, output=str(self.folder.path)
            ),
        )
        logger.info("%s", found.describe())
        logger.info("written: %s, %s", self.folder.recipe, self.folder.page)
        return found

    def _write_recipe(self, found: Tuning) -> None:
        """The request's settings and the recipe's, with the best trial's where it is better."""
        request = self._request
        given = {key: request.get(key) for key in request.asked() if of_a_model(key)}
        values = given | self.runner.settings(found.best if found.better else None)
        recipe = Config().with_values(values).without_secrets()
        text = f"# lookalike tune: {found.describe()}\n"
        storage.write_text(self.folder.recipe, text + recipe.to_yaml(complete=False))


def _text(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
