"""Two whole jobs: the quickstart's, and one of a million classes."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_input import write_jpegs
from gpu_measure import Place
from gpu_record import Record


def run_quickstart(place: Place, record: Record) -> None:
    """The quickstart's recipe; from a random start where the package of weights is missing."""
    from lookalike.commands import quickstart
    from lookalike.commands.train import train
    from lookalike.config.config import Config
    from lookalike.errors import MissingExtraError

    with tempfile.TemporaryDirectory() as name, record.attempt("quickstart"):
        folder = Path(name) / "quickstart"
        data = quickstart.unpack_images(folder)
        change: dict[str, Any] = {"run.device": place.device.type}
        try:
            change["model.pretrained"] = str(quickstart.unpack_weights(folder))
        except MissingExtraError as error:
            record.not_run("the quickstart's pretrained weights", error)
            change["model.pretrained"] = False
        lists = {"train": data / "train.txt", "val": data / "test.txt"}
        if place.dry:
            change |= _TINY
            lists = {key: _first_lines(path, 60) for key, path in lists.items()}
        values = {
            **quickstart.REQUEST, "data.train": str(lists["train"]), "data.val": str(lists["val"]),
            "run.output": str(folder / "run"), "train.seed": 0, **change,
        }  # fmt: skip
        if not place.dry:
            values["data.threads"] = 8
        began = time.perf_counter()
        run = train(Config().with_values(values))
        seconds = time.perf_counter() - began
        record.figure("quickstart: whole job", round(seconds, 2), "s", "lookalike.train, all of it")
        scores = run.scores()
        how = "on the quickstart's test list"
        for key in ("recall_at_1", "map_at_r"):
            record.figure(f"quickstart: {key} before", scores[0][key], "", how)
            record.figure(f"quickstart: {key} after", scores[-1][key], "", how)
        _rates(place, record, "quickstart", run.metrics)


_TINY = {
    "model.backbone": "test_resnet", "model.pretrained": False, "model.image_size": 32,
    "model.train_size": None, "model.embedding_dim": 16, "train.batch_size": 8,
    "train.max_steps": 3, "train.report": False, "train.log_every": 1,
}  # fmt: skip


def run_million(place: Place, record: Record) -> None:
    """A million classes: how much memory, how many images a second, and where they go."""
    from lookalike.commands.train import train
    from lookalike.config.config import Config

    classes, steps = place.pick(1_000_000, 300), place.pick(60, 3)
    with tempfile.TemporaryDirectory() as name, record.attempt("a million classes"):
        folder = Path(name)
        size = (48, 64) if place.dry else (150, 200)
        files = write_jpegs(folder, place.pick(512, 8), *size)
        names = [Path(path).name for path in files]
        lines = (f"{names[number % len(names)]} {number}\n" for number in range(classes))
        (folder / "train.txt").write_text("".join(lines))
        values = {
            "model.backbone": "resnet50", "model.pretrained": False, "model.image_size": 112,
            "model.embedding_dim": 512, "model.pooling": "avg", "loss.name": "arcface",
            "loss.classification_weight": 0, "head.fused_update": True, "train.batch_size": 512,
            "train.log_every": 10, "train.report": False, "data.threads": 16,
            "optim.warmup_steps": 10, "optim.lr": 0.01, **(_TINY if place.dry else {}),
            "data.train": str(folder / "train.txt"), "run.output": str(folder / "run"),
            "run.device": place.device.type, "train.max_steps": steps,
        }  # fmt: skip
        cuda = place.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        run = train(Config().with_values(values))
        seconds = time.perf_counter() - began
        record.figure(
            "a million classes: whole job", round(seconds, 2), "s",
            f"lookalike.train, {classes:,} classes, {steps} steps, list and checkpoints included",
        )  # fmt: skip
        if cuda:
            peak = torch.cuda.max_memory_allocated() / 1e9
            held = 2 * 4 * classes * 512 / 1e9
            how = "torch.cuda.max_memory_allocated of the whole job"
            record.figure("a million classes: memory", round(peak, 3), "GB", how)
            record.figure("a million classes: weights and momentum", held, "GB", "counted")
        _rates(place, record, "a million classes", run.metrics)


def _rates(place: Place, record: Record, what: str, metrics: Path) -> None:
    """Images a second and the share of waiting, by the run's own records."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steady = [line for line in lines if "images_per_second" in line][1:]
    if not steady:
        return
    how = f"median of {len(steady)} records of metrics.jsonl, the first left out"
    rate = statistics.median(line["images_per_second"] for line in steady)
    waiting = statistics.median(line["waiting"] for line in steady)
    record.figure(f"{what}: training", rate, "images/s", how)
    record.figure(f"{what}: waiting for images", waiting, "", how)
    record.figure(f"{what}: steps left out", steady[-1]["skipped"], "", "by metrics.jsonl")


def _first_lines(path: Path, count: int) -> Path:
    short = path.with_name(f"short-{path.name}")
    lines = path.read_text().splitlines(keepends=True)
    short.write_text("".join(lines[:count]))
    return short
