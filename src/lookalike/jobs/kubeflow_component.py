"""Kubeflow Pipelines: the training as a component with typed inputs and outputs."""

# No postponed annotations: kfp reads the types of the component's function.

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, List, Optional  # noqa: UP035  # kfp has these words in its own copy

from lookalike import log, storage
from lookalike.config.config import Config
from lookalike.errors import LookalikeError, MissingExtraError
from lookalike.log import logger
from lookalike.run import kept_score


def training_component(image: str) -> Any:
    """The component `lookalike-train` for pipelines of kfp 2.

    Inputs: `config`, the text of a config.yaml; `settings`, a list of `key=value`s; and the
    artefacts `train` and `val`, lists of labelled images. Both are optional, and where one is
    connected it wins over `data.train` or `data.val`. Outputs: `metrics`, the scores on the
    validation list, and `model`, a model folder. The run itself goes to `run.output`, and a second
    start resumes it.

    Args:
        image: container image that holds lookalike[kfp].

    Raises:
        MissingExtraError: kfp is not installed.
    """
    try:
        from kfp import dsl
        from kfp.dsl import Dataset, Input, Metrics, Model, Output
    except ImportError:
        raise MissingExtraError("kfp", "kfp") from None

    @dsl.component(base_image=image, install_kfp_package=False)
    def lookalike_train(
        config: str,
        metrics: Output[Metrics],
        model: Output[Model],
        settings: List[str] = [],  # noqa: B006, UP006
        train: Optional[Input[Dataset]] = None,  # noqa: UP045
        val: Optional[Input[Dataset]] = None,  # noqa: UP045
    ) -> None:
        from lookalike.jobs.kubeflow_component import run_training

        run_training(config, settings, {"data.train": train, "data.val": val}, metrics, model)

    return lookalike_train


def run_training(
    config: str, settings: Sequence[str], connected: dict[str, Any], metrics: Any, model: Any
) -> None:
    """Train inside the component; a user's mistake ends the process with one line.

    Args:
        config: text of a config.yaml.
        settings: `key=value`s.
        connected: artefacts by the setting that they replace; None for those that are not.
        metrics: artefact of the scores.
        model: artefact of the model folder.
    """
    try:
        _train(config, settings, connected, metrics, model)
    except LookalikeError as error:
        raise SystemExit(f"error: {error}") from None


def _train(
    text: str, settings: Sequence[str], connected: dict[str, Any], metrics: Any, model: Any
) -> None:
    log.start()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, "utf-8")
        config = Config.load(str(file), list(settings))
    places = {key: _place(data) for key, data in connected.items() if data is not None}
    for key, place in places.items():
        if config.get(key) is not None:
            logger.info("%s is connected, and wins over the setting", key)
        logger.info("%s=%s", key, storage.public(place))
    from lookalike.commands.train import train

    run = train(config.with_values(places), resume=True)
    for name, value in (kept_score(run.scores()) or {}).items():
        if isinstance(value, (int, float)):
            metrics.log_metric(name, float(value))
    shutil.copytree(run.model, model.path, dirs_exist_ok=True)
    model.metadata["run"] = storage.public(str(config.get("run.output") or run))


def _place(data: Any) -> str:
    """Place that a list is read from: in object storage its address, for the images beside it."""
    return str(data.uri if storage.is_remote(data.uri) else data.path)
