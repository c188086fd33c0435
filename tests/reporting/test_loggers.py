"""Experiment trackers, by stand-ins that have the documented functions of each."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
from engine_process import records

from lookalike.commands.train import train
from lookalike.errors import ConfigError, MissingExtraError
from lookalike.reporting.loggers import Loggers, RunFacts


class Stand:
    """What the trackers were called with: (tracker, function, arguments)."""

    def __init__(self):
        self.calls = []

    def told(self, name, function):
        return [kwargs for who, what, kwargs in self.calls if (who, what) == (name, function)]

    def note(self, name, function, result=None):
        def called(*args, **kwargs):
            self.calls.append((name, function, {**kwargs, "args": args}))
            return result

        return called


@pytest.fixture
def stand(monkeypatch):
    stand = Stand()
    wandb, mlflow, trackio = (ModuleType(name) for name in ("wandb", "mlflow", "trackio"))
    run = SimpleNamespace(id="w1", log=stand.note("wandb", "log"),
                          finish=stand.note("wandb", "finish"))  # fmt: skip
    wandb.init = stand.note("wandb", "init", run)
    wandb.Settings = stand.note("wandb", "Settings", "quiet")
    for name in ("set_experiment", "log_params", "log_metrics", "end_run"):
        setattr(mlflow, name, stand.note("mlflow", name))
    info = SimpleNamespace(info=SimpleNamespace(run_id="m1"))
    mlflow.start_run = stand.note("mlflow", "start_run", info)
    trackio.init = stand.note("trackio", "init", SimpleNamespace(name="run"))
    trackio.log, trackio.finish = stand.note("trackio", "log"), stand.note("trackio", "finish")
    for module in (wandb, mlflow, trackio):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return stand


def settings(shapes, output, **change):
    return {
        "train": str(shapes / "train.txt"), "val": str(shapes / "val.txt"),
        "output": str(output), "backbone": "test_resnet", "pretrained": False, "image_size": 32,
        "embedding_dim": 8, "batch_size": 8, "device": "cpu", "threads": 0, "log_every": 1,
        "report": False, "max_steps": 2, "loggers": ["wandb", "mlflow", "trackio"], **change,
    }  # fmt: skip


def test_every_tracker_gets_the_records_and_is_resumed(shapes, tmp_path, stand):
    wanted = settings(shapes, tmp_path / "run")
    run = train(**wanted)
    name = f"{tmp_path.name}/run"
    [begun] = stand.told("wandb", "init")
    assert (begun["project"], begun["name"], begun["id"]) == ("lookalike", name, None)
    assert begun["config"]["optim.lr"] == 0.03
    assert stand.told("mlflow", "set_experiment")[0]["args"] == ("lookalike",)
    assert stand.told("mlflow", "start_run") == [{"run_name": name, "args": ()}]
    assert stand.told("mlflow", "log_params")[0]["args"][0]["train.max_steps"] == "2"
    assert stand.told("trackio", "init")[0]["resume"] == "never"
    for tracker, function in (("wandb", "log"), ("mlflow", "log_metrics"), ("trackio", "log")):
        found = stand.told(tracker, function)
        assert [each["step"] for each in found] == [r["step"] for r in records(run.path)]
        assert "validation/map_at_r" in found[0]["args"][0]
        assert "train/loss" in found[1]["args"][0]
        for each in found:
            assert all(type(value) in (int, float) for value in each["args"][0].values())
    assert stand.told("wandb", "finish") == [{"exit_code": 0, "args": ()}]
    assert stand.told("mlflow", "end_run") == [{"status": "FINISHED", "args": ()}]
    assert len(stand.told("trackio", "finish")) == 1

    stand.calls.clear()
    train(**{**wanted, "max_steps": 3}, resume=True)
    [again] = stand.told("wandb", "init")
    assert (again["id"], again["resume"]) == ("w1", "allow")
    assert stand.told("mlflow", "start_run") == [{"run_id": "m1", "args": ()}]
    assert not stand.told("mlflow", "log_params")
    assert stand.told("trackio", "init")[0]["resume"] == "allow"


@pytest.fixture
def facts(tmp_path):
    return RunFacts("a/run", tmp_path, {"data.train": "train.txt"})


def test_a_tracker_that_cannot_start_is_told_without_secrets(facts, stand, monkeypatch):
    def refused(**_):
        raise RuntimeError("401 for https://me:hunter2@host/api with key abcdef123456\nmore")

    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")
    monkeypatch.setattr(sys.modules["wandb"], "init", refused)
    with pytest.raises(ConfigError) as told:
        Loggers().start(["mlflow", "wandb"], facts)
    assert str(told.value) == (
        "train.loggers: wandb cannot start: 401 for https://host/api with key ***; mend it, or "
        "leave it out"
    )
    assert stand.told("mlflow", "end_run") == [{"status": "FAILED", "args": ()}]


def test_a_tracker_that_fails_later_is_named_once(facts, stand, monkeypatch, caplog):
    def away(*_, **__):
        raise ConnectionError("the server is away")

    loggers = Loggers()
    loggers.start(["mlflow", "trackio"], facts)
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", away)
    with caplog.at_level(logging.WARNING, "lookalike"):
        for step in (1, 2):
            loggers.log({"step": step, "epoch": 1, "loss": float("nan"), "lr": 0.1})
    assert caplog.text.count("mlflow takes no more records (the server is away)") == 1
    assert [call["args"][0] for call in stand.told("trackio", "log")] == [{"train/lr": 0.1}] * 2


def test_a_run_that_fails_is_marked_so(shapes, tmp_path, stand, monkeypatch):
    def failing(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lookalike.training.step.TrainStep.__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        train(**settings(shapes, tmp_path / "run", loggers="wandb"))
    assert stand.told("wandb", "finish") == [{"exit_code": 1, "args": ()}]


def test_secrets_of_addresses_are_not_handed_over(shapes, tmp_path, stand):
    cache = "https://me:hunter2@host/x?X-Amz-Signature=abc"
    train(**settings(shapes, tmp_path / "run", loggers=["wandb"], workdir=cache, val=None))
    handed = repr(stand.calls)
    assert "hunter2" not in handed
    assert "Amz-Signature" not in handed


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_before_anything_else(shapes, tmp_path, name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'lookalike\[{name}\]'"):
        train(**settings(shapes, tmp_path / "run", loggers=[name]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"loggers": ["tensorboard"]}, {"tensorboard": True}])
def test_tensorboard_reads_what_was_written(shapes, tmp_path, change):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(**settings(shapes, tmp_path / "run", **{"loggers": [], **change}))
    found = accumulator.EventAccumulator(str(run.tensorboard)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in found.Scalars("validation/map_at_r")] == [0, 2]


def test_a_broken_file_of_ids_starts_anew(facts, stand):
    for text in ("[]", "{", '{"mlflow": 5}'):
        (facts.folder / "loggers.json").write_text(text)
        loggers = Loggers()
        loggers.start(["mlflow"], facts)
        loggers.finish(finished=True)
        assert json.loads((facts.folder / "loggers.json").read_text()) == {"mlflow": "m1"}
    assert all("run_name" in call for call in stand.told("mlflow", "start_run"))
