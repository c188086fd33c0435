"""Whole runs on the device: trained, resumed, measured, searched, exported."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_process import curve
from small_run import settings

import lookalike
from lookalike.run import Run

PRETEND = os.environ.get("LOOKALIKE_CUDA_TESTS") == "pretend"


def test_what_a_run_resolves_and_says(run, device):
    assert "; network in bf16\n" in run.log.read_text()
    found = json.loads(run.environment.read_text())
    assert torch.__version__.split("+")[0] in json.dumps(found)
    assert torch.cuda.get_device_name(device) in json.dumps(found)
    scores = run.scores()
    assert 0 <= scores[-1]["recall_at_1"] <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"train__precision": "auto"},
        {"train__precision": "fp16"},
        {"train__precision": "bf16", "head__dtype": "bf16", "sample_rate": 0.5},
        {"train__precision": "auto", "optim__name": "adamw", "ema": 0.9},
    ],
    ids=["auto", "fp16", "sampled", "adamw"],
)
def test_a_resumed_run_follows_the_same_curve(shapes, device, tmp_path, change):
    if PRETEND and "sample_rate" not in change:
        pytest.skip("one is enough where the device is pretended")
    whole = lookalike.train(**settings(shapes, tmp_path / "whole", device, **change))
    parts = settings(shapes, tmp_path / "parts", device, **change)
    for steps in (2, 6):
        lookalike.train(**{**parts, "max_steps": steps}, resume=True)
    expected = curve(whole.path)
    assert len(expected) == 6
    assert curve(tmp_path / "parts") == expected


def test_embeddings_are_those_of_the_cpu(run, device, shapes):
    paths = sorted(map(str, (shapes / "images").glob("*.jpg")))[:20]
    there = _loaded(run, device.type)
    assert there.device.type == device.type
    here = _loaded(run, "cpu")
    mine, true = there.embed(paths, batch_size=7), here.embed(paths, batch_size=7)
    assert np.abs(np.linalg.norm(mine, axis=1) - 1).max() < 1e-5
    assert (mine * true).sum(1).min() > 1 - 1e-4  # convolutions are in TF32 by default


def test_evaluation(run, device, shapes):
    pytest.importorskip("pyarrow.lib")
    data = str(shapes / "val.txt")
    one, other = (
        lookalike.evaluate(str(run.path), data, device=where, threads=2)
        for where in (device.type, "cpu")
    )
    assert one.num_queries == other.num_queries
    assert one.map_at_r == pytest.approx(other.map_at_r, abs=0.1)


def test_an_index_made_on_the_device_finds_its_images(run, device, shapes, tmp_path):
    pytest.importorskip("pyarrow.lib")
    paths = sorted(map(str, (shapes / "images").glob("10*.jpg")))
    index = lookalike.Index.build(_loaded(run, device.type), paths, tmp_path / "index", threads=2)
    found = index.search(paths, k=1)
    assert len(paths) == len(found.ids) == 20
    assert found.cosines.min() > 1 - 1e-4  # itself, or one that looks the same


def test_an_exported_model_gives_the_embeddings_of_the_device(run, real_device, shapes, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    file = tmp_path / "model.onnx"
    lookalike.export(str(run.path), output=str(file), data=str(shapes / "val.txt"))
    exported = lookalike.load(str(file))
    paths = sorted(map(str, (shapes / "images").glob("*.jpg")))[:10]
    mine, true = exported.embed(paths), _loaded(run, real_device.type).embed(paths)
    assert (mine * true).sum(1).min() > 1 - 1e-4


def _loaded(run: Run, device: str):
    return lookalike.load(str(run.path), device=device)


def test_a_run_leaves_the_state_of_the_process(shapes, device, tmp_path):
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, torch.get_rng_state()
    lookalike.train(**settings(shapes, tmp_path / "run", device, max_steps=1))
    assert (cudnn.deterministic, cudnn.benchmark) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert Path(tmp_path / "run" / "model").is_dir()
