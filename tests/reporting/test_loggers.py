"""Experiment trackers, by fakes with the documented functions of each."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
from engine_process import records

from lookalike.commands.train import train
from lookalike.errors import ConfigError, MissingExtraError
from lookalike.reporting.loggers import Loggers, RunFacts


class FakeTrackers:
    """Recorded calls: (tracker, function, arguments)."""

    def __init__(self):
        self.calls = []

    def arguments(self, name, function):
        return [kwargs for who, what, kwargs in self.calls if (who, what) == (name, function)]

    def recorder(self, name, function, result=None):
        def called(*args, **kwargs):
            self.calls.append((name, function, {**kwargs, "args": args}))
            return result

        return called


@pytest.fixture
def trackers(monkeypatch):
    trackers = FakeTrackers()
    wandb, mlflow, trackio = (ModuleType(name) for name in ("wandb", "mlflow", "trackio"))
    run = SimpleNamespace(id="w1", log=trackers.recorder("wandb", "log"),
                          finish=trackers.recorder("wandb", "finish"))  # fmt: skip
    wandb.init = trackers.recorder("wandb", "init", run)
    wandb.Settings = trackers.recorder("wandb", "Settings", "quiet")
    for name in ("set_experiment", "log_params", "log_metrics", "end_run"):
        setattr(mlflow, name, trackers.recorder("mlflow", name))
    info = SimpleNamespace(info=SimpleNamespace(run_id="m1"))
    mlflow.start_run = trackers.recorder("mlflow", "start_run", info)
    trackio.init = trackers.recorder("trackio", "init", SimpleNamespace(name="run"))
    trackio.log, trackio.finish = (
        trackers.recorder("trackio", "log"),
        trackers.recorder("trackio", "finish"),
    )
    for module in (wandb, mlflow, trackio):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return trackers


def settings(shapes, output, **change):
    return {
        "train": str(shapes / "train.txt"), "val": str(shapes / "val.txt"),
        "output": str(output), "backbone": "test_resnet", "pretrained": False, "image_size": 32,
        "embedding_dim": 8, "batch_size": 8, "device": "cpu", "threads": 0, "log_every": 1,
        "report": False, "max_steps": 2, "loggers": ["wandb", "mlflow", "trackio"], **change,
    }  # fmt: skip


def test_every_tracker_gets_the_records_and_is_resumed(shapes, tmp_path, trackers):
    request = settings(shapes, tmp_path / "run")
    run = train(**request)
    name = f"{tmp_path.name}/run"
    [begun] = trackers.arguments("wandb", "init")
    assert (begun["project"], begun["name"], begun["id"]) == ("lookalike", name, None)
    assert begun["config"]["optim.lr"] == 0.001
    assert trackers.arguments("mlflow", "set_experiment")[0]["args"] == ("lookalike",)
    assert trackers.arguments("mlflow", "start_run") == [{"run_name": name, "args": ()}]
    assert trackers.arguments("mlflow", "log_params")[0]["args"][0]["train.max_steps"] == "2"
    assert trackers.arguments("trackio", "init")[0]["resume"] == "never"
    for tracker, function in (("wandb", "log"), ("mlflow", "log_metrics"), ("trackio", "log")):
        found = trackers.arguments(tracker, function)
        assert [each["step"] for each in found] == [r["step"] for r in records(run.path)]
        assert "validation/map_at_r" in found[0]["args"][0]
        assert "train/loss" in found[1]["args"][0]
        for each in found:
            assert all(type(value) in (int, float) for value in each["args"][0].values())
    assert trackers.arguments("wandb", "finish") == [{"exit_code": 0, "args": ()}]
    assert trackers.arguments("mlflow", "end_run") == [{"status": "FINISHED", "args": ()}]
    assert len(trackers.arguments("trackio", "finish")) == 1

    trackers.calls.clear()
    train(**{**request, "max_steps": 3}, resume=True)
    [again] = trackers.arguments("wandb", "init")
    assert (again["id"], again["resume"]) == ("w1", "allow")
    assert trackers.arguments("mlflow", "start_run") == [{"run_id": "m1", "args": ()}]
    assert not trackers.arguments("mlflow", "log_params")
    assert trackers.arguments("trackio", "init")[0]["resume"] == "allow"


@pytest.fixture
def facts(tmp_path):
    return RunFacts("a/run", tmp_path, {"data.train": "train.txt"})


def test_a_tracker_that_cannot_start_is_an_error_without_secrets(facts, trackers, monkeypatch):
    def refused(**_):
        raise RuntimeError("401 for https://me:hunter2@host/api with key abcdef123456\nmore")

    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")
    monkeypatch.setattr(sys.modules["wandb"], "init", refused)
    with pytest.raises(ConfigError) as error:
        Loggers().start(["mlflow", "wandb"], facts)
    assert str(error.value) == (
        "train.loggers: wandb cannot start: 401 for https://host/api with key ***; fix it, or "
        "remove wandb from the list"
    )
    assert trackers.arguments("mlflow", "end_run") == [{"status": "FAILED", "args": ()}]


def test_a_tracker_that_fails_later_is_dropped_with_one_warning(
    facts, trackers, monkeypatch, caplog
):
    def unreachable(*_, **__):
        raise ConnectionError("the server is unreachable")

    loggers = Loggers()
    loggers.start(["mlflow", "trackio"], facts)
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", unreachable)
    with caplog.at_level(logging.WARNING, "lookalike"):
        for step in (1, 2):
            loggers.log({"step": step, "epoch": 1, "loss": float("nan"), "lr": 0.1})
    assert caplog.text.count("mlflow: no more records are logged (the server is unreachable)") == 1
    assert [call["args"][0] for call in trackers.arguments("trackio", "log")] == [
        {"train/lr": 0.1}
    ] * 2


def test_a_failed_run_is_marked_as_failed(shapes, tmp_path, trackers, monkeypatch):
    def failing(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lookalike.training.step.TrainStep.__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        train(**settings(shapes, tmp_path / "run", loggers="wandb"))
    assert trackers.arguments("wandb", "finish") == [{"exit_code": 1, "args": ()}]


def test_trackers_get_no_secrets_of_uris(shapes, tmp_path, trackers):
    cache = "https://me:hunter2@host/x?X-Amz-Signature=abc"
    train(**settings(shapes, tmp_path / "run", loggers=["wandb"], workdir=cache, val=None))
    arguments = repr(trackers.calls)
    assert "hunter2" not in arguments
    assert "Amz-Signature" not in arguments


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_an_error_before_the_training(shapes, tmp_path, name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'lookalike\[{name}\]'"):
        train(**settings(shapes, tmp_path / "run", loggers=[name]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"loggers": ["tensorboard"]}, {"tensorboard": True}])
def test_tensorboard_reads_the_event_files(shapes, tmp_path, change):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(**settings(shapes, tmp_path / "run", **{"loggers": [], **change}))
    found = accumulator.EventAccumulator(str(run.tensorboard)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in found.Scalars("validation/map_at_r")] == [0, 2]


def test_a_broken_file_of_ids_starts_new_runs(facts, trackers):
    for text in ("[]", "{", '{"mlflow": 5}'):
        (facts.folder / "loggers.json").write_text(text)
        loggers = Loggers()
        loggers.start(["mlflow"], facts)
        loggers.finish(finished=True)
        assert json.loads((facts.folder / "loggers.json").read_text()) == {"mlflow": "m1"}
    assert all("run_name" in call for call in trackers.arguments("mlflow", "start_run"))
