"""Length of a run from a time budget."""

import json
import time
from functools import partial
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

import lookalike
from lookalike.commands.show_config import show_config
from lookalike.config.config import Config
from lookalike.config.duration import seconds_of
from lookalike.distributed import launch
from lookalike.errors import ConfigError, LookalikeError
from lookalike.model.embedder import Embedder
from lookalike.planning.choices_by_length import choose_by_length
from lookalike.training import time_budget
from lookalike.training.open_run import check_request
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


@pytest.mark.slow
def test_the_time_of_workers_begins_with_their_launcher(shapes, tmp_path, monkeypatch, capfd):
    """torchrun starts them seconds later, here an hour."""
    early = SimpleNamespace(monotonic=lambda: time.monotonic() - 3600)
    monkeypatch.setattr(launch, "time", early)
    request = pretrained_request(shapes, tmp_path, workers=2, device="cpu")
    with pytest.raises(LookalikeError):
        lookalike.train(output=tmp_path / "run", time_budget="10m", **request)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "error: train" in line]
    assert "train.time_budget=10m: 0 s of it are left after the start, not enough for one" in line


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
    monkeypatch.setattr(launch, "time", clock)
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
    # One that was killed while steps were timed is given again.
    killed = tmp_path / "killed"
    for name in (".timing", "..timing.partial", "..timing.replaced.partial"):
        (killed / name).mkdir(parents=True)
        (killed / name / "state.json").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr(time_budget, "length_within", lambda *_, **__: Length(1, 1, 1))
        again = lookalike.train(output=killed, time_budget="1h", **settings)
    assert not list(again.path.glob("*.timing*"))
    lengths = {"train": shapes / "train.txt", "epochs": 2, "time_budget": "8s"}
    for command in (show_config, partial(lookalike.plan, measure=False)):
        with pytest.raises(ConfigError, match="exclude each other"):
            command(**lengths)
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


def pretrained_request(shapes, tmp_path, **settings):
    weights = tmp_path / "weights.safetensors"
    if not weights.exists():
        torch.manual_seed(3)
        embedder = Embedder.create("test_resnet", pretrained=False, image_size=32)
        safetensors.torch.save_file(embedder.backbone.model.state_dict(), weights)
    return {
        "train": shapes / "train.txt", "val": shapes / "val.txt", "backbone": "test_resnet",
        "pretrained": str(weights), "image_size": 32, "embedding_dim": 16, "batch_size": 16,
        "threads": 1, "report": False, "log_every": 1, **settings,
    }  # fmt: skip


def test_a_budget_of_less_than_a_pass_trains_on_stored_features(shapes, tmp_path, monkeypatch):
    """As a run whose length and frozen epochs were given, and resumed as it."""
    request = pretrained_request(shapes, tmp_path)
    per_epoch = len((shapes / "train.txt").read_text().splitlines()) // 16
    lengths = [Length(1, max(1, round(0.6 * per_epoch)), 1), Length(50, 50 * per_epoch, 7)]
    assert 0.5 <= lengths[0].steps / per_epoch < 1
    with monkeypatch.context() as patch:
        patch.setattr(time_budget, "length_within", lambda *_, **__: lengths.pop(0))
        run = lookalike.train(output=tmp_path / "budget", time_budget="1h", **request)
    used = Config.load(content=run.resolved.read_bytes(), file="used.yaml").train
    assert (used.freeze_backbone_epochs, used.cache_features) == (30, True)
    assert (used.epochs, used.max_steps, used.eval_every) == (30, 30 * per_epoch, 7)
    chosen = {each["key"]: each for each in json.loads(run.recipe.read_text())}
    assert chosen["train.freeze_backbone_epochs"]["value"] == 30
    assert (
        "the time is too short to train the backbone: it reaches for 0.67 of"
        in chosen["train.cache_features"]["reason"]
    )
    given = lookalike.train(
        output=tmp_path / "given", epochs=30, max_steps=30 * per_epoch, eval_every=7,
        freeze_backbone_epochs=30, cache_features=True, **request,
    )  # fmt: skip
    losses = [[r["loss"] for r in each.read(each.metrics) if "loss" in r] for each in (run, given)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 30 * per_epoch
    start, end = (Embedder.load(each).state_dict() for each in (run.start, run.model))
    assert all(torch.equal(start[n], end[n]) for n in start if n.startswith("backbone."))
    assert not all(torch.equal(start[n], end[n]) for n in start if n.startswith("neck."))
    lookalike.train(output=run, resume=True)  # is at its end, with the same settings


@pytest.mark.parametrize(("forward", "stored"), [(3.0, True), (3.8, False), (30.0, False)])
def test_features_are_stored_only_where_the_time_reaches_for_them(
    shapes, tmp_path, monkeypatch, caplog, forward, stored
):
    """With a clock that only batches move: of training by 6 s, of a forward pass by less or more.

    Where decoding is the slower part, a forward pass takes as long as training. The calibration,
    which loads the saved model, passes the 20 validation images through the network again: with
    3.8 s a batch of 16, there is time for the features, but not for these too.
    """
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    step, pooled = TrainStep.__call__, time_budget.pooled_features

    def slow_step(self, *args, **keywords):
        nonlocal now
        now += 0.001 if args[0].images.dtype != torch.uint8 else 6.0
        return step(self, *args, **keywords)

    def slow_features(*args):
        nonlocal now
        now += forward
        return pooled(*args)

    monkeypatch.setattr(TrainStep, "__call__", slow_step)
    monkeypatch.setattr(time_budget, "pooled_features", slow_features)
    monkeypatch.setattr(time_budget, "time", clock)
    monkeypatch.setattr(launch, "time", clock)
    request = pretrained_request(shapes, tmp_path)
    run = lookalike.train(output=tmp_path / "run", time_budget="52s", **request)
    used = Config.load(content=run.resolved.read_bytes(), file="used.yaml").train
    assert used.freeze_backbone_epochs == (30 if stored else 0)
    assert bool(used.cache_features) == stored
    assert used.max_steps >= (3 if stored else 1)
    assert ("; 4 s are reserved" in caplog.text) == stored  # 3.75 s for the calibration


@pytest.mark.parametrize(
    ("passes", "settings", "frozen"),
    [
        (0.5, {}, True),
        (0.99, {}, True),
        (1.0, {}, False),
        (0.1, {}, True),
        (0.7, {"train.recipe": "component"}, False),
        (0.7, {"model.pretrained": False}, False),
        (0.7, {"train.max_steps": 9}, False),
        (0.7, {"train.freeze_backbone_epochs": 0}, False),
        (0.7, {"optim.backbone_lr_factor": 0.5}, False),
        (0.7, {"optim.layer_decay": 0.7}, False),
        (0.7, {"optim.layer_decay": 1.0}, True),
        (0.7, {"data.color_jitter": 0.4}, False),
        (0.7, {"model.lora_rank": 4}, False),
        (0.7, {"train.shard_backbone": True}, False),
    ],
)
def test_what_is_chosen_by_the_length(passes, settings, frozen):
    config = Config.load(overrides=[f"{key}={value}" for key, value in settings.items()])
    assert bool(choose_by_length(config, config.asked(), passes)) == frozen


@pytest.mark.parametrize("given", [{}, {"recipe": "component"}, {"max_steps": 9}])
def test_the_file_of_config_leaves_open_what_a_budget_chooses(shapes, tmp_path, given):
    request = pretrained_request(shapes, tmp_path, **given)
    file = tmp_path / "config.yaml"
    file.write_text(show_config(**request, time_budget="1h"))
    loaded = Config.load(str(file))
    check_request(loaded.with_settings({"output": tmp_path / "run"}), resume=False)
    assert loaded.train.time_budget == "1h"
    assert loaded.asked().isdisjoint({"train.epochs", "train.eval_every"})
    for passes in (0.5, 2.0):
        expected = not given and passes < 1
        assert bool(choose_by_length(loaded, loaded.asked(), passes)) == expected
    assert ("max_steps" in given) == ("train.max_steps" in loaded.asked())
