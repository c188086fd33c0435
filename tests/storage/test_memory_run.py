"""A run in object storage, gone on with on a machine that has nothing of it."""

import json
import shutil

import fsspec
import pytest

import lookalike
from lookalike import storage
from lookalike.commands.models import calibration_of
from lookalike.errors import RunError
from lookalike.training.trainer import Trainer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    fsspec.filesystem("memory").store.clear()


def go(shapes, output, steps, **more):
    return lookalike.train(
        train=str(shapes / "train.txt"), output=output, backbone="test_resnet",
        pretrained=False, image_size=32, embedding_dim=16, batch_size=8, log_every=1,
        max_steps=steps, device="cpu", data__threads=1, warmup_steps=0, **more,
    )  # fmt: skip


def test_run_resumes_from_storage_and_loads(shapes, cache):
    output = "memory://bucket/runs/x"
    run = go(shapes, output, 3)
    assert storage.sizes_below(output)["checkpoints/step-00000003/state.json"] > 0
    with pytest.raises(RunError, match="holds a run already"):
        go(shapes, output, 3)
    shutil.rmtree(cache)
    torn = f"{output}/checkpoints/step-00000009/network.safetensors"
    storage.write_bytes(torn, b"half")
    again = go(shapes, output, 5, resume=True)
    assert again.path == run.path
    assert [r["step"] for r in again.read(again.metrics) if "loss" in r] == [1, 2, 3, 4, 5]
    assert storage.read_bytes(f"{output}/checkpoints/latest") == b"step-00000005\n"
    assert lookalike.load(output, device="cpu").embedding_dim == 16


def test_a_finished_run_without_checkpoints_is_not_trained_over(shapes, cache, monkeypatch):
    output = "memory://bucket/runs/z"
    go(shapes, output, 1, report=False)
    mark = f"{output}/finished.json"
    assert json.loads(storage.read_bytes(mark)) == {"step": 1}
    with monkeypatch.context() as failing:
        failing.setattr(Trainer, "fit", fails)
        with pytest.raises(RunError, match="no more"):
            go(shapes, output, 2, report=False, resume=True)
    assert storage.read_if_exists(mark) is None
    go(shapes, output, 2, report=False, resume=True)
    shutil.rmtree(cache)
    for name in storage.sizes_below(f"{output}/checkpoints"):
        storage.remove_file(f"{output}/checkpoints/{name}")
    before = storage.read_bytes(f"{output}/model/model.safetensors")
    with pytest.raises(RunError, match="a finished run without checkpoints"):
        go(shapes, output, 3, report=False, resume=True)
    assert storage.read_bytes(f"{output}/model/model.safetensors") == before


def fails(_):
    raise RunError("no more")


def test_calibration_is_uploaded_with_the_model(shapes, many_shapes, cache):
    output = "memory://bucket/runs/y"
    run = go(shapes, output, 2, val=str(many_shapes))
    here = lookalike.Calibration.load(run.path)
    assert here.classes == 40
    shutil.rmtree(cache)
    assert calibration_of(output) == here
    found = lookalike.compare([output], str(many_shapes), verification=True, device="cpu")
    assert found.evaluations[0].calibration_check.threshold == here.threshold
    storage.remove_file(f"{output}/model/calibration.json")
    assert calibration_of(output) is None


def test_secrets_in_the_output_are_refused(shapes, cache):
    with pytest.raises(RunError) as error:
        go(shapes, "memory://me:SECRET@bucket/x?token=SECRET", 1)
    assert "SECRET" not in str(error.value)
