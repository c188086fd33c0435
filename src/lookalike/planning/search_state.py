"""Output directory of a search: what it was begun with, and its finished trials.

tune.json          request, recipe file, working folder, searched settings and length of a trial, as
                   the search began
trials.jsonl       finished trials, one JSON object a line
trials/0003/       a trial's run, without its weights, and confirmation.json
recipe.yaml        the settings that were found, for train.recipe
tune.html          scores and settings of all trials
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookalike import storage
from lookalike.config.config import Config
from lookalike.config.same_setting import same_setting, settings_text
from lookalike.errors import ConfigError, RunError, reason_of
from lookalike.planning.choice import with_choices
from lookalike.planning.recipe import choose_by_file
from lookalike.planning.search_space import Space, Spellings, as_begun
from lookalike.run import Run
from lookalike.storage import Place
from lookalike.storage.checked_json import Amount, Checked, Count, Share, read_checked

FIX = "choose another --output"


class Trial(Checked):
    """A finished trial, a line of trials.jsonl.

    Attributes:
        trial: its number; 0 is the recipe's choice.
        settings: values of the searched settings, by dotted key.
        score: mean of Recall@1 and MAP@R on the classes that choose; 0 where it failed.
        failed: why it has no score; "" where it has one.
    """

    trial: Count
    settings: dict[str, Any]
    score: Share
    recall_at_1: Share
    map_at_r: Share
    seconds: Amount
    failed: str


class _Begun(Checked):
    request: dict[str, Any]
    recipe: dict[str, Any] | None = None
    folder: str = ""
    over: list[str]
    list: str
    epochs: Count


@dataclass(frozen=True)
class Continued:
    """A search that is continued.

    Attributes:
        epochs: of a trial.
        space: as the search began.
        spellings: its values as they are written now.
    """

    epochs: int
    space: Space
    spellings: Spellings


class _Confirmation(Checked):
    classes: list[Count]
    recall_at_1: list[Share]
    map_at_r: list[Share]


class SearchFolder:
    """The output directory of a search, made where it is missing.

    Attributes:
        timing: run whose steps are timed before the first trial.

    Raises:
        RunError: it is remote, cannot be made, or holds something else.
    """

    def __init__(self, output: Place) -> None:
        if storage.is_remote(str(output)):
            raise RunError(
                f"--output {storage.public(str(output))}: a search is written to a directory of "
                "this machine; give one"
            )
        self.path = path = storage.path_of(output).absolute()
        self.state, self.trials_file = path / "tune.json", path / "trials.jsonl"
        self.recipe, self.page = path / "recipe.yaml", path / "tune.html"
        self.timing, self.lock_file = path / ".timing", path / ".lock"
        try:
            path.mkdir(parents=True, exist_ok=True)
            own = (self.lock_file, self.timing)
            foreign = sorted(each.name for each in path.iterdir() if each not in own)
        except OSError as error:
            raise RunError(f"{output}: cannot be made: {reason_of(error)}") from None
        if foreign and not self.state.exists():
            raise RunError(
                f"{output} is not empty and holds no search (it has {foreign[0]}); {FIX}"
            )

    def run(self, number: int) -> Run:
        """The run of a trial."""
        return Run(self.path / "trials" / f"{number:04d}")

    def begin(self, config: Config, over: list[str], fingerprint: str, epochs: int) -> None:
        """Write what the search begins with."""
        begun = {
            "request": _request(config), "recipe": _recipe(config), "folder": str(Path.cwd()),
            "over": over, "list": fingerprint, "epochs": epochs,
        }  # fmt: skip
        storage.write_text(self.state, json.dumps(begun, indent=1) + "\n")

    def check_same(self, config: Config, space: Space, fingerprint: str) -> Continued | None:
        """The search that is continued; None for a new one.

        Raises:
            RunError: the search was begun with other images, settings or ranges.
        """
        if not self.state.exists():
            return None
        fix = f"resume with the settings that it began with, or {FIX}"
        begun = read_checked(self.state.read_bytes(), _Begun, str(self.state), FIX)
        pairs = [(_request(config), begun.request, "")]
        if begun.recipe is not None:
            pairs.append((_recipe(config), begun.recipe, f" in {config.train.recipe}"))
        for now, before, place in pairs:
            for key in sorted({*now, *before}):
                values = now.get(key), before.get(key), begun.folder
                if not _same(key, *values):
                    value, began_with = settings_text(key, *values)
                    raise RunError(
                        f"{self.path}: the search began with {key}={began_with}{place}, and not "
                        f"{value}; {fix}"
                    )
        continued = as_begun(space, begun.over, config, begun.folder)
        if continued is None:
            over = " ".join(begun.over) or "none"
            raise RunError(f"{self.path}: the search began with --over {over}; {fix}")
        if fingerprint != begun.list:
            raise RunError(f"{self.path}: the search began with another training list; {fix}")
        return Continued(begun.epochs, *continued)

    def finished(self) -> list[Trial]:
        """The finished trials, by number; folders of unfinished ones are removed.

        Raises:
            RunError: the file is broken.
        """
        found: list[Trial] = []
        if self.trials_file.exists():
            for number, line in enumerate(self.trials_file.read_bytes().splitlines(), 1):
                place = f"{self.trials_file}:{number}"
                found.append(read_checked(line, Trial, place, FIX))
                if found[-1].trial != number - 1:
                    raise RunError(f"{place}: is trial {found[-1].trial}, not {number - 1}; {FIX}")
        names = {self.run(one.trial).path for one in found}
        for folder in (self.timing, *(self.path / "trials").glob("*")):
            if folder not in names and folder.exists():
                shutil.rmtree(folder)
        return found

    def write_trials(self, trials: list[Trial]) -> None:
        """Replace trials.jsonl, durably."""
        storage.write_text(
            self.trials_file, "".join(json.dumps(one.model_dump()) + "\n" for one in trials)
        )

    def write_confirmation(
        self, number: int, classes: Tensor, values: Mapping[str, Tensor]
    ) -> None:
        """Keep the values by query, (Q,), of the classes that confirm."""
        found = {"classes": classes.tolist()} | {k: v.tolist() for k, v in values.items()}
        storage.write_text(self.run(number).path / "confirmation.json", json.dumps(found) + "\n")

    def confirmation(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Class, (Q,), and Recall@1, MAP@R and their mean, (Q,), of each query."""
        place = self.run(number).path / "confirmation.json"
        try:
            found = read_checked(place.read_bytes(), _Confirmation, str(place), FIX)
        except FileNotFoundError:
            raise RunError(f"{place}: is missing; {FIX}") from None
        recall, precision = (
            torch.tensor(values, dtype=torch.float64)
            for values in (found.recall_at_1, found.map_at_r)
        )
        mean = (recall + precision) / 2
        values = {"score": mean, "recall_at_1": recall, "map_at_r": precision}
        return torch.tensor(found.classes), values


_FREE = (
    "data.train", "data.format", "data.threads", "data.requests", "data.cache", "data.cache_size",
)  # fmt: skip
"""Settings that may differ on resume; those of the list are compared by its content."""


def _same(key: str, now: Any, begun: Any, folder: str) -> bool:
    """True if a trial gives the same; relative paths of `begun` start at `folder`."""
    if key == "data.val":  # only its presence counts
        return (now is None) == (begun is None)
    return same_setting(key, now, begun, folder)


def _request(config: Config) -> dict[str, Any]:
    """The settings of a request that decide what a trial gives, as JSON has them."""
    return _values(config, config.asked())


def _recipe(config: Config) -> dict[str, Any]:
    """The settings of the file that is the recipe."""
    choices = choose_by_file(config)
    return _values(with_choices(config, choices), {choice.key for choice in choices})


def _values(config: Config, asked: set[str]) -> dict[str, Any]:
    public = config.without_secrets()
    values = {
        key: public.get(key)
        for key in sorted(asked)
        if key not in _FREE and not key.startswith("run.")
    }
    try:
        found: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except ValueError:
        raise ConfigError("a setting is not finite; give finite numbers") from None
    return found
