"""Damaged checkpoints and models: found before they are used, named and skipped."""

import json
import shutil

import fsspec
import pytest
import torch
from torch import nn

import lookalike
from lookalike import storage
from lookalike.distributed.world import ALONE
from lookalike.errors import RunError
from lookalike.run import Run
from lookalike.training import checkpoint, checkpoint_writer, remote_run
from lookalike.training.checkpoint import STATE_FILE, Progress, Trained
from lookalike.training.loss_scaler import LossScaler

FILES = ["head-metric-00000.safetensors", "network.safetensors", "network-optimizer.safetensors",
         STATE_FILE]  # fmt: skip
SETTINGS = {
    "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 16,
    "batch_size": 8, "device": "cpu", "report": False, "keep_checkpoints": 9,
    "checkpoint_every_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory) -> Run:
    """A run of two steps with three checkpoints."""
    output = str(tmp_path_factory.mktemp("trained") / "run")
    return lookalike.train(train=str(shapes / "train.txt"), output=output, max_steps=2, **SETTINGS)


@pytest.fixture
def run(trained, tmp_path) -> Run:
    return Run(shutil.copytree(trained.path, tmp_path / "run"))


def flip_a_bit(content: bytes) -> bytes:
    at = content.rfind(b"1") if content[:1] == b"{" else len(content) - 9
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("damage", [flip_a_bit, zeros])
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoint_is_named_and_the_previous_one_used(run, name, damage):
    file = run.checkpoints / "step-00000002" / name
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert file.stat().st_size == len(content)
    found, [fault] = checkpoint.newest(run.checkpoints)
    assert found.name == "step-00000001"
    assert f"step-00000002/{name}: damaged" in fault or f"{name} is damaged" in fault


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '"x"', "null", "{}", "[" * 99_999, '{"format": "lookalike checkpoint 2"}', "\x00",
     '{"format": "lookalike checkpoint 2", "files": {}, "progress": 3, "loss_scale": [1, 0]}',
     '{"format": "lookalike checkpoint 2", "files": {"../../x": 1}, "progress": {"step": 1},'
     '"loss_scale": [1, 0]}', '{"format": "lookalike checkpoint 2", "files": ["a"], "progress":'
     '{"step": 1}, "loss_scale": [1, 0]}'],
)  # fmt: skip
def test_invalid_state_is_damaged(run, text):
    (run.checkpoints / "step-00000002" / STATE_FILE).write_text(text)
    found, [fault] = checkpoint.newest(run.checkpoints)
    assert found.name == "step-00000001"
    assert fault.endswith("step-00000002: state.json is damaged")


def test_checkpoint_without_digests_is_read(run):
    file = run.checkpoints / "step-00000002" / STATE_FILE
    state = json.loads(file.read_text())
    del state["sha256"], state["own_sha256"]
    file.write_text(json.dumps(state))
    assert checkpoint.newest(run.checkpoints) == (file.parent, [])


def test_resume_skips_a_damaged_checkpoint_and_then_replaces_it(run, caplog):
    file = run.checkpoints / "step-00000002/network.safetensors"
    file.write_bytes(flip_a_bit(file.read_bytes()))
    config = lookalike.Config.load(run.config).with_settings(
        {"output": str(run.path), "keep_checkpoints": 1}
    )
    lookalike.train(config, resume=True)
    assert f"{file}: damaged: its bytes are not those that were written" in caplog.text
    assert f"resuming from {run.checkpoints}/step-00000001" in caplog.text
    assert checkpoint.newest(run.checkpoints) == (run.checkpoints / "step-00000002", [])


def test_pruning_removes_skipped_checkpoints(run):
    checkpoint.prune(run.checkpoints, written="step-00000001", keep=1, also=None)
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-00000001"]


def test_checkpoint_is_removed_after_its_replacement_is_written(tmp_path, monkeypatch):
    """A resumed run may save the step again at which it began."""
    network = nn.Linear(2, 2)
    trained = Trained(
        network, {}, torch.optim.SGD(network.parameters()), LossScaler(enabled=False), None
    )
    folder = tmp_path / "step-00000001"
    checkpoint_writer.save(folder, trained, Progress(step=1, skipped=0), ALONE)
    remove = shutil.rmtree

    def removing(path, **how):
        remove(path, **how)
        assert checkpoint.newest(tmp_path)[0] == folder, f"{path} went first"

    monkeypatch.setattr(checkpoint_writer.shutil, "rmtree", removing)
    checkpoint_writer.save(folder, trained, Progress(step=1, skipped=1), ALONE)
    assert checkpoint.read_state(folder)["progress"]["skipped"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_start_from_refuses_a_damaged_checkpoint(run, shapes, tmp_path, caplog):
    words = {**SETTINGS, "train": str(shapes / "train.txt"), "max_steps": 1}
    file = run.checkpoints / "step-00000002/head-metric-00000.safetensors"
    file.write_bytes(zeros(file.read_bytes()))
    with pytest.raises(RunError, match=f"{file}: damaged"):
        lookalike.train(**words, output=str(tmp_path / "a"), start_from=str(file.parent))
    lookalike.train(**words, output=str(tmp_path / "b"), start_from=str(run.path))
    assert f"{file}: damaged" in caplog.text
    assert f"start from {run.path} (step 1, its newest)" in caplog.text


@pytest.fixture
def remote(run, tmp_path, monkeypatch):
    """The run in object storage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = "memory://bucket/run"
    for path in run.path.rglob("*"):
        if path.is_file():
            storage.write_file(path, f"{place}/{path.relative_to(run.path)}")
    yield place
    fsspec.filesystem("memory").store.clear()


def test_checkpoint_damaged_in_the_storage_is_skipped(remote, tmp_path, caplog):
    uri = f"{remote}/checkpoints/step-00000002/network.safetensors"
    storage.write_bytes(uri, flip_a_bit(storage.read_bytes(uri)))
    here = Run(tmp_path / "here")
    remote_run.resume_from(remote, here)
    assert f"{uri}: damaged" in caplog.text
    assert checkpoint.newest(here.checkpoints) == (here.checkpoints / "step-00000001", [])
    assert {path.name for path in here.checkpoints.iterdir()} == {"latest", "step-00000001"}


def test_local_copy_that_is_damaged_is_downloaded_again(remote, tmp_path):
    here = Run(tmp_path / "here")
    remote_run.resume_from(remote, here)
    file = here.checkpoints / "step-00000002/network.safetensors"
    file.write_bytes(zeros(file.read_bytes()))
    remote_run.resume_from(remote, here)
    assert checkpoint.newest(here.checkpoints) == (file.parent, [])


@pytest.mark.parametrize("key", ["a/../../outside", "/outside"])
def test_keys_outside_of_the_run_are_refused(remote, tmp_path, monkeypatch, key):
    listed = {**storage.sizes_below(remote), key: 3}
    monkeypatch.setattr(storage, "sizes_below", lambda uri: listed)
    with pytest.raises(RunError, match=f"holds the key '{key}'"):
        remote_run.resume_from(remote, Run(tmp_path / "deep" / "here"))


def test_best_pointer_outside_of_the_run_is_ignored(remote, run, tmp_path):
    name = "step-00000001/../../outside"
    for file in (run.checkpoints / "step-00000001").iterdir():
        storage.write_file(file, f"{remote}/checkpoints/{name}/{file.name}")
    storage.write_bytes(f"{remote}/checkpoints/best", name.encode())
    here = Run(tmp_path / "here")
    remote_run.resume_from(remote, here)
    assert not (here.checkpoints / "best").exists()


@pytest.mark.parametrize("damage", [flip_a_bit, zeros])
def test_damaged_model_is_not_loaded(run, damage):
    file = run.model / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RunError, match=f"{file}: damaged"):
        lookalike.load(run.path, device="cpu")


def test_model_replaced_during_loading_is_the_new_one(run, monkeypatch):
    """Its two files are renamed one after the other."""

    old = (run.model / "config.json").read_text()
    config = json.loads(old)
    (run.model / "config.json").write_text(json.dumps({**config, "sha256": "of other weights"}))
    monkeypatch.setattr(
        "lookalike.model.embedder.time.sleep",
        lambda seconds: (run.model / "config.json").write_text(old),
    )
    assert lookalike.load(run.path, device="cpu").embedding_dim == 16
