"""Length of a run from a time budget."""

from importlib import import_module
from types import SimpleNamespace

import pytest

import lookalike
from lookalike.config.config import Config
from lookalike.config.duration import seconds_of
from lookalike.errors import ConfigError
from lookalike.training import time_budget
from lookalike.training.step import TrainStep
from lookalike.training.time_budget import Length, length_within, reserved_passes


def test_durations_as_people_write_them():
    assert [seconds_of(text) for text in ("90s", "30m", "8h", "1h30m", "0.5h", "1d")] == [
        90, 1800, 28800, 5400, 1800, 86400,
    ]  # fmt: skip
    for text in ("", "90", "1x", "m", "-3m", "0s"):
        with pytest.raises(ConfigError, match=r"train\.time_budget"):
            Config().with_values({"train.time_budget": text})


def test_the_length_fits_training_and_validation():
    found = length_within(1000, step=1.0, steps_per_epoch=100, validation=20, passes=5)
    assert found.eval_every == 2
    total = found.steps + 20 * (found.steps / (100 * found.eval_every)) + 5 * 20
    assert total <= 1000 < total + 2 * 1.2
    assert found.epochs == -(-found.steps // 100)
    assert length_within(50, step=1.0, steps_per_epoch=10, validation=20, passes=3) is None


def test_calibration_and_report_are_reserved():
    assert reserved_passes(interpolate=False, report=False, workers=4) == 3
    assert reserved_passes(interpolate=True, report=True, workers=1) == 7
    assert reserved_passes(interpolate=True, report=True, workers=4) == 10


def test_the_length_follows_the_time_of_real_steps(shapes, tmp_path, monkeypatch):
    """With a clock that only steps move, by 2 s each."""
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    step = TrainStep.__call__

    def two_seconds(self, *args, **keywords):
        nonlocal now
        now += 2.0
        return step(self, *args, **keywords)

    monkeypatch.setattr(TrainStep, "__call__", two_seconds)
    monkeypatch.setattr(time_budget, "time", clock)
    monkeypatch.setattr(import_module("lookalike.commands.train"), "time", clock)
    run = lookalike.train(
        train=shapes / "train.txt", output=tmp_path / "run", backbone="test_resnet",
        pretrained=False, image_size=32, embedding_dim=8, batch_size=16, threads=1,
        recipe="component", report=False, log_every=1, time_budget="17s", val=shapes / "val.txt",
    )  # fmt: skip
    # Three timed steps leave 11 s.
    images = len((shapes / "val.txt").read_text().splitlines())
    validation = 2 / 3 * images / 16
    expected = length_within(11, 2.0, 3, validation, 3)
    assert max(r["step"] for r in run.read(run.metrics)) == expected.steps
    used = Config.load(content=run.resolved.read_bytes(), file="used.yaml")
    assert (used.train.epochs, used.train.eval_every) == (expected.epochs, expected.eval_every)


def test_a_budget_sets_the_steps_and_leaves_no_trace(shapes, tmp_path, monkeypatch):
    """The curve is that of a run whose length was given."""
    settings = {
        "train": shapes / "train.txt", "backbone": "resnet18", "pretrained": False,
        "image_size": 32, "embedding_dim": 16, "batch_size": 16, "threads": 1,
        "recipe": "component", "report": False, "log_every": 1, "ema": 0.5,
    }  # fmt: skip
    with monkeypatch.context() as patch:  # the length would depend on how busy the machine is
        patch.setattr(time_budget, "length_within", lambda *_, **__: Length(2, 4, 1))
        budget = lookalike.train(output=tmp_path / "budget", time_budget="1h", **settings)
    losses = [r["loss"] for r in budget.read(budget.metrics) if "loss" in r]
    assert len(losses) == 4
    assert not (budget.path / ".timing").exists()
    given = lookalike.train(output=tmp_path / "given", epochs=2, max_steps=4, **settings)
    assert [r["loss"] for r in given.read(given.metrics) if "loss" in r] == losses
    both = {**settings, "output": tmp_path / "both", "time_budget": "8s", "epochs": 2}
    for resume in (False, True):  # jobs always resume, into a fresh folder too
        with pytest.raises(ConfigError, match="exclude each other"):
            lookalike.train(**both, resume=resume)
    assert not (tmp_path / "both").exists()
    # A run that began with a time budget takes another length.
    lookalike.train(output=budget, resume=True, epochs=3)
    lookalike.train(output=budget, resume=True)
    with pytest.raises(ConfigError, match="not enough for one step"):
        lookalike.train(output=tmp_path / "short", time_budget="0.001s", **settings)
