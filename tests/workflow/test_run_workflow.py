"""Nodes that run, those that are kept, and those after a failed one."""

import importlib
import json
from pathlib import Path

import pytest

from lookalike.errors import ConfigError, DataError, Interrupted, RunError
from lookalike.model.embedder import Embedder
from lookalike.storage.file_lock import locked
from lookalike.workflow.node_calls import CALLS
from lookalike.workflow.run_workflow import run_workflow

FLOW = """\
learn: {uses: read, with: {list: learn.txt}}
test: {uses: read, with: {list: test.txt}}
train: {uses: train, inputs: {train: learn.list}, with: {epochs: 1}}
evaluate: {uses: evaluate, inputs: {model: train.run, data: test.list}}
export: {uses: export, inputs: {model: train.run}}
"""


@pytest.fixture
def flow(tmp_path, monkeypatch):
    """A workflow whose training, evaluation and export write small files; `calls` counts them."""
    calls = []
    wrong = {}

    def fake(uses, port):
        def act(call):
            calls.append((uses, dict(call.settings), call.folder, call.resume))
            if uses in wrong:
                raise wrong[uses]
            made = call.folder / port
            made.mkdir(exist_ok=True)
            (made / "content").write_text(str(call.settings.get("train.epochs")))
            return {port: str(made)}

        return act

    for uses, port in (("train", "run"), ("evaluate", "scores"), ("export", "export")):
        monkeypatch.setitem(CALLS, uses, fake(uses, port))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "flow.yaml").write_text(FLOW)
    (folder / "learn.txt").write_text("a.jpg 1\n")
    (folder / "test.txt").write_text("b.jpg 1\n")
    return folder, calls, wrong


def did(outcome):
    return {one.node: one.did for one in outcome.nodes}


def names(calls):
    found = [uses for uses, *_ in calls]
    calls.clear()
    return found


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_one_node_runs_again_when_what_it_takes_from_others_changed(flow):
    folder, calls, _ = flow
    file = folder / "flow.yaml"
    run_workflow(file)
    names(calls)
    assert did(run_workflow(file, only="train")) == {"train": "kept"}
    (folder / "learn.txt").write_text("a.jpg 1\nb.jpg 2\n")
    assert did(run_workflow(file, only="train", dry_run=True)) == {"train": "would run"}
    assert did(run_workflow(file, only="train")) == {"train": "done"}
    assert did(run_workflow(file, only="train")) == {"train": "kept"}
    assert did(run_workflow(file))["train"] == "kept"
    names(calls)
    other = folder / "other.txt"
    other.write_text("a.jpg 1\n")
    change(file, "learn.txt", "other.txt")
    assert did(run_workflow(file, only="train")) == {"train": "done"}
    assert calls[0][1]["data.train"] == str(other)
    other.unlink()
    [failed] = run_workflow(file, only="train").nodes
    assert failed.did == "failed"
    assert "other.txt: no such file or folder" in failed.why


def test_what_did_not_change_is_kept(flow):
    folder, calls, _ = flow
    here = Path.cwd()
    run_workflow(folder / "flow.yaml")
    assert Path.cwd() == here
    assert calls[0][1] == {"train.epochs": 1, "data.train": str(folder / "learn.txt")}
    assert names(calls) == ["train", "evaluate", "export"]
    found = run_workflow(folder / "flow.yaml")
    assert set(did(found).values()) == {"kept"}
    assert names(calls) == []
    (folder / "test.txt").write_text("c.jpg 1\n")  # only the evaluation reads it
    run_workflow(folder / "flow.yaml")
    assert names(calls) == ["evaluate"]
    change(folder / "flow.yaml", "epochs: 1", "epochs: 2")
    found = run_workflow(folder / "flow.yaml", dry_run=True)
    assert did(found)["train"] == did(found)["export"] == "would run"
    assert names(calls) == []
    run_workflow(folder / "flow.yaml")
    assert names(calls) == ["train", "evaluate", "export"]
    assert (folder / ".lookalike/flow/train/1/run/content").read_text() == "1", "nothing is lost"
    run_workflow(folder / "flow.yaml", again="export")
    assert names(calls) == ["export"]
    (folder / ".lookalike/flow/train/2/run/content").unlink()
    run_workflow(folder / "flow.yaml", only="train")
    assert names(calls) == ["train"]
    assert "done in" in (folder / ".lookalike/flow/train/log.txt").read_text()


def test_a_failed_node_holds_back_what_depends_on_it(flow):
    folder, calls, wrong = flow
    wrong["train"] = DataError("learn.txt:1: no such image")
    found = run_workflow(folder / "flow.yaml")
    assert did(found) == {
        "learn": "done", "test": "done", "train": "failed", "evaluate": "held back",
        "export": "held back",
    }  # fmt: skip
    assert str(found.failure()).startswith("train: learn.txt:1: no such image (log: ")
    assert names(calls) == ["train"]
    wrong.clear()
    assert run_workflow(folder / "flow.yaml").failure() is None
    assert calls[0][3], "a training that failed goes on"
    assert names(calls) == ["train", "evaluate", "export"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted(2, 5, "run")])
def test_a_stopped_training_goes_on(flow, stop):
    folder, calls, wrong = flow
    wrong["train"] = stop
    with pytest.raises(type(stop)):
        run_workflow(folder / "flow.yaml")
    state = json.loads((folder / ".lookalike/flow/train/state.json").read_text())
    assert state["state"] == "stopped"
    wrong.clear()
    first = calls.pop()
    run_workflow(folder / "flow.yaml")
    assert calls[0][2:] == (first[2], True)
    change(folder / "flow.yaml", "epochs: 1", "epochs: 2")
    wrong["train"] = stop
    with pytest.raises(type(stop)):
        run_workflow(folder / "flow.yaml")
    change(folder / "flow.yaml", "epochs: 2", "epochs: 3")
    wrong.clear()
    calls.clear()
    run_workflow(folder / "flow.yaml")
    assert calls[0][2].name == "3", "other settings begin anew"
    assert not calls[0][3]


def test_a_connected_input_wins_and_this_is_said(flow, caplog):
    folder, calls, _ = flow
    change(folder / "flow.yaml", "epochs: 1", "epochs: 1, train: mine.txt")
    with caplog.at_level("INFO", logger="lookalike"):
        run_workflow(folder / "flow.yaml", only="learn")
        run_workflow(folder / "flow.yaml", only="train")
    assert calls[0][1]["data.train"] == str(folder / "learn.txt")
    assert "train: learn.list is connected, and wins over data.train=mine.txt" in caplog.text


def test_what_cannot_run_is_told(flow):
    folder, calls, _ = flow
    with pytest.raises(ConfigError, match="no node tain; nodes: learn, test, train"):
        run_workflow(folder / "flow.yaml", only="tain")
    with pytest.raises(
        RunError, match=r"train: its input learn.list is not there yet; run learn"
    ) as told:
        run_workflow(folder / "flow.yaml", only="train")
    assert str(told.value).endswith(f"lookalike run {folder / 'flow.yaml'} --only learn")
    (folder / "learn.txt").unlink()
    found = run_workflow(folder / "flow.yaml")
    assert did(found)["learn"] == "failed"
    assert "learn.txt: no such file or folder" in str(found.failure())
    log = folder / ".lookalike/flow/learn/log.txt"
    assert str(found.failure()).endswith(f"(log: {log})")
    assert "learn: failed: learn.txt: no such file or folder" in log.read_text()
    assert names(calls) == []
    (folder / ".lookalike/flow/test/state.json").write_text("{")
    with pytest.raises(RunError, match="is damaged; remove it"):
        run_workflow(folder / "flow.yaml")


def test_a_model_without_a_run_is_exported_into_the_folder_of_the_node(shapes, tmp_path):
    """As the one that a node `improve` keeps."""
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    embedder.save(tmp_path / "model")
    (tmp_path / "flow.yaml").write_text(
        "export:\n"
        "  uses: export\n"
        f"  with: {{model: model, data: {shapes / 'val.txt'}, format: safetensors}}\n"
    )
    found = run_workflow(tmp_path / "flow.yaml")
    assert found.failure() is None
    [export] = found.nodes
    assert export.outputs == {"export": f"{tmp_path}/.lookalike/flow/export/1/safetensors"}


def test_one_process_runs_a_workflow(flow, monkeypatch):
    folder, _, _ = flow
    module = importlib.import_module("lookalike.storage.file_lock")
    monkeypatch.setattr(module, "PATIENCE", 0)
    run_workflow(folder / "flow.yaml")
    with (
        locked(folder / ".lookalike/flow/.lock", "busy"),
        pytest.raises(RunError, match="is being run by another process"),
    ):
        run_workflow(folder / "flow.yaml")


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    """With a tenth of its images and a few steps of training, on the CPU."""
    from lookalike.workflow.example_workflow import write_example

    path = write_example(tmp_path / "example")
    for name in ("train.txt", "test.txt"):
        file = path.parent / "data" / name
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[: len(lines) // 10]))
    change(path, "    epochs: 4\n", "    max_steps: 2\n    device: cpu\n    report: false\n")
    found = run_workflow(path)
    assert found.failure() is None
    assert did(found) == dict.fromkeys(
        ["read_train", "read_val", "train", "evaluate", "export"], "done"
    )
    places = {one.node: one.outputs for one in found.nodes}
    assert json.loads(Path(places["evaluate"]["scores"]).read_text())
    assert Path(places["export"]["export"]).suffix == ".onnx"
    assert set(did(run_workflow(path)).values()) == {"kept"}
