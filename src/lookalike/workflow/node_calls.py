"""The call of the command behind each kind of node."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.config.config import Config
from lookalike.log import logger
from lookalike.run import DOCTOR_JSON


@dataclass(frozen=True)
class Call:
    """A call of a command.

    Attributes:
        settings: of the node, with its connected inputs in them.
        folder: for what the node makes, where its settings name no other place.
        resume: an attempt that was stopped lies there.
    """

    settings: Mapping[str, Any]
    folder: Path
    resume: bool


def _read(call: Call) -> dict[str, str]:
    place = str(call.settings["list"])
    return {"list": place if storage.is_remote(place) else os.path.abspath(place)}


def _config(call: Call, name: str) -> Config:
    output = {"run.output": str(call.folder / name)}
    return Config().with_values({**output, **call.settings})


def _doctor(call: Call) -> dict[str, str]:
    from lookalike.commands.doctor import doctor

    config = _config(call, "issues")
    found = doctor(config)
    logger.info(
        "%d issues; they are in %s",
        len(found.issues),
        storage.join(storage.public(str(config.run.output)), DOCTOR_JSON),
    )
    return {}


def _train(call: Call) -> dict[str, str]:
    from lookalike.commands.train import train

    return {"run": str(train(_config(call, "run"), resume=call.resume))}


def _evaluate(call: Call) -> dict[str, str]:
    from lookalike.commands.evaluate import RESULT_JSON, compare

    settings = dict(call.settings)
    model, data = settings.pop("model"), settings.pop("data")
    found = compare([model], data, output=call.folder, **settings)
    [one] = found.evaluations
    logger.info("%s", _headline(one.scores))
    return {"scores": str(call.folder / RESULT_JSON)}


def _improve(call: Call) -> dict[str, str]:
    from lookalike.commands.improve import improve

    settings = dict(call.settings)
    model, data = settings.pop("model"), settings.pop("data")
    kept = call.folder / "model"
    if settings.get("keep") is not None:
        settings["output"] = kept
    found = improve(model, data, **settings)
    for one in found:
        logger.info("%s: %s", one.variant, _headline(one.scores))
    scores = call.folder / "improve.json"
    text = json.dumps({"variants": [one.to_dict() for one in found]}, indent=1) + "\n"
    storage.write_text(scores, text)
    return {"scores": str(scores), **({"run": str(kept)} if "output" in settings else {})}


def _export(call: Call) -> dict[str, str]:
    from lookalike.commands.export import export, name_of
    from lookalike.commands.read_options import run_config

    settings = dict(call.settings)
    model = settings.pop("model")
    if settings.get("output") is None and run_config(model) is None:  # as that of `improve`
        chosen = {key: settings[key] for key in ("format", "precision", "input") if key in settings}
        settings["output"] = call.folder / name_of(**chosen)
    return {"export": str(export(model, **settings).path)}


def _index(call: Call) -> dict[str, str]:
    from lookalike.commands.search import search

    settings = dict(call.settings)
    folder = call.folder / "index"
    found = search(settings.pop("model"), index=folder, **settings)
    logger.info("%s: %d images", folder, len(found.index))
    return {"index": str(folder)}


def _headline(scores: Any) -> str:
    recall = ", ".join(f"Recall@{k} {100 * value:.1f} %" for k, value in scores.recall.items())
    return f"{recall} over {scores.num_queries:,} queries"


CALLS: dict[str, Callable[[Call], dict[str, str]]] = {
    "read": _read,
    "doctor": _doctor,
    "train": _train,
    "evaluate": _evaluate,
    "improve": _improve,
    "export": _export,
    "index": _index,
}
"""For each kind of node: its command, and the places of its outputs."""
