"""Experiment trackers beside metrics.jsonl: TensorBoard, W&B, MLflow and trackio.

To add one, write a class and name it in `LOGGERS`, in `TrainConfig.loggers` and as an extra in
pyproject.toml. Servers, projects and keys come from the environment variables of each tracker, of
which only the names of projects are read here.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from lookalike.errors import ConfigError, MissingExtraError
from lookalike.log import logger
from lookalike.run import LOGGERS as LOGGERS_FILE

PROJECT = "lookalike"
"""Default project or experiment."""

_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True)
class RunFacts:
    """Run as trackers show it; settings by dotted key, without secrets."""

    name: str
    folder: Path
    settings: Mapping[str, Any]


class Logger(Protocol):
    """A tracker of one run; a resumed run continues the tracker's run `id`, if it has one."""

    id: str | None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""

    def finish(self, *, finished: bool) -> None:
        """Close; `finished` is False where training failed or was interrupted."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self, run: RunFacts, id: str | None) -> None:
        self.id: str | None = None
        module = _import("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(str(run.folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, *, finished: bool) -> None:
        """Close."""
        self._writer.close()


class Wandb:
    """Weights & Biases; `WANDB_MODE=offline` needs no account."""

    def __init__(self, run: RunFacts, id: str | None) -> None:
        module = _import("wandb", "wandb")
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, id=id,
            resume="allow" if id else None, dir=str(run.folder), config=dict(run.settings),
            # The command line, the console and the repository may hold addresses with passwords.
            settings=module.Settings(
                console="off", disable_git=True, save_code=False, x_disable_meta=True
            ),
        )  # fmt: skip
        self.id: str | None = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""
        self._run.log(dict(values), step=step)

    def finish(self, *, finished: bool) -> None:
        """Close."""
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """MLflow; without `MLFLOW_TRACKING_URI` in its default place."""

    def __init__(self, run: RunFacts, id: str | None) -> None:
        self._mlflow = _import("mlflow", "mlflow")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        if id is None:
            found = self._mlflow.start_run(run_name=run.name)
            # A parameter cannot be changed: those of the start stay.
            self._mlflow.log_params({key: str(value) for key, value in run.settings.items()})
        else:
            found = self._mlflow.start_run(run_id=id)
        self.id: str | None = found.info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self, *, finished: bool) -> None:
        """Close."""
        self._mlflow.end_run(status="FINISHED" if finished else "FAILED")


class Trackio:
    """trackio, in files of this machine or in a Space that its environment names."""

    def __init__(self, run: RunFacts, id: str | None) -> None:
        self._trackio = _import("trackio", "trackio")
        found = self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=id or run.name,
            config=dict(run.settings), resume="allow" if id else "never",
        )  # fmt: skip
        self.id: str | None = getattr(found, "name", None) or id or run.name

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""
        self._trackio.log(dict(values), step=step)

    def finish(self, *, finished: bool) -> None:
        """Close."""
        self._trackio.finish()


LOGGERS: dict[str, Callable[[RunFacts, str | None], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Loggers:
    """All trackers of a run. One that fails later is dropped with a warning; training continues."""

    def __init__(self) -> None:
        self._active: dict[str, Logger] = {}

    def start(self, names: Sequence[str], run: RunFacts) -> None:
        """Start these trackers, or continue those of an earlier start of the run.

        Raises:
            MissingExtraError: a package is not installed.
            ConfigError: one cannot start; with its reason, without secrets.
        """
        file = run.folder / LOGGERS_FILE
        ids: dict[str, Any] = _read(file)
        for name in dict.fromkeys(names):
            known = ids.get(name)
            try:
                self._active[name] = LOGGERS[name](run, known if isinstance(known, str) else None)
            except MissingExtraError:
                self.finish(finished=False)
                raise
            except Exception as error:  # of any kind: trackers and servers differ
                self.finish(finished=False)
                raise ConfigError(
                    f"train.loggers: {name} cannot start: {_public(error)}; fix it, or remove "
                    f"{name} from the list"
                ) from None
        found = {name: each.id for name, each in self._active.items() if each.id is not None}
        if found:
            file.write_text(json.dumps({**ids, **found}, indent=1) + "\n", "utf-8")

    def log(self, record: Mapping[str, Any]) -> None:
        """Add the finite numbers of a record as `train/...` or `validation/...`."""
        group = "validation" if "recall_at_1" in record else "train"
        values = {
            f"{group}/{name}": value
            for name, value in record.items()
            if name not in ("step", "epoch")
            and isinstance(value, (int, float))
            and math.isfinite(value)
        }
        self._each(lambda each: each.log(values, record["step"]))

    def finish(self, *, finished: bool) -> None:
        """Close all of them."""
        self._each(lambda each: each.finish(finished=finished))
        self._active.clear()

    def _each(self, action: Callable[[Logger], None]) -> None:
        for name, each in list(self._active.items()):
            try:
                action(each)
            except Exception as error:  # an unreachable server must not end the training
                del self._active[name]
                logger.warning(
                    "%s: no more records are logged (%s); metrics.jsonl has all of them",
                    name, _public(error),
                )  # fmt: skip


def check_installed(names: Sequence[str]) -> None:
    """Check that the packages of these trackers are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, name)


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:  # installed, but without a dependency of its own
            raise
        raise MissingExtraError(package, package) from None


def _read(file: Path) -> dict[str, Any]:
    """The ids of an earlier start of the run; none of a broken file."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _public(error: Exception) -> str:
    """First line of an error without passwords in URIs and values of secret variables."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    text = re.sub(r"(?<=://)[^/\s@]+@", "", text)
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET.search(name):
            text = text.replace(value, "***")
    return text
