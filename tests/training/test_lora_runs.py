"""Runs with low-rank adaptation: what learns, resume, warm start, and the saved model."""

import shutil

import pytest
import safetensors.torch
import torch
from engine_process import TINY, curve, records

from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.data.catalog import open_catalog
from lookalike.errors import ConfigError, RunError
from lookalike.model.embedder import Embedder
from lookalike.model.lora import is_lora
from lookalike.training.validation import Validator


def run(shapes, output, *more, resume=False):
    fixed = [
        f"data.train={shapes / 'train.txt'}", f"data.val={shapes / 'val.txt'}",
        f"run.output={output}", "model.backbone=test_vit", "run.device=cpu", *TINY,
        "train.report=false", "optim.name=adamw", "optim.lr=0.01", "model.lora_rank=2",
        "train.ema=0.5", "train.checkpoint_every_steps=3", "train.keep_checkpoints=9",
        "train.epochs=1", "loss.classification_weight=0", *more,
    ]  # fmt: skip
    return train(Config.load(None, fixed), resume=resume)


def tensors(folder, name):
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    return run(shapes, tmp_path_factory.mktemp("lora") / "run")


def test_matrices_and_neck_learn_and_nothing_else(whole):
    start, end = (tensors(whole.checkpoints / f"step-0000000{step}", "network") for step in (0, 6))
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    state = tensors(whole.checkpoints / "step-00000006", "network-optimizer")
    average = tensors(whole.checkpoints / "step-00000006", "ema")
    backbone = {name for name in changed if name.startswith("embedder.backbone.")}
    assert backbone == {name for name in start if is_lora(name)}
    assert {name.rpartition(".")[0] for name in state} == changed
    assert {f"embedder.{name}" for name in average} == {
        name for name in changed if name.startswith("embedder.")
    }


def test_saved_model_has_the_scores_of_the_run_and_no_trace(whole, shapes):
    embedder = Embedder.load(whole.model)
    assert not any(is_lora(name) for name in embedder.state_dict())
    best = max(whole.scores(), key=lambda record: record["map_at_r"])
    assert best["step"] == 6
    start = tensors(whole.checkpoints / "step-00000000", "network")
    name = "backbone.model.blocks.0.attn.qkv.weight"
    assert not torch.equal(embedder.state_dict()[name], start[f"embedder.{name}"])
    assert measured(whole, shapes) == pytest.approx(best["map_at_r"], abs=1e-6)


def measured(run, shapes) -> float:
    """MAP@R of the saved model on the validation list."""
    held_out, catalog = (open_catalog(str(shapes / f"{name}.txt")) for name in ("val", "train"))
    return Validator(held_out, catalog).measure(Embedder.load(run.model))[0]


def test_the_best_weights_between_start_and_end_are_saved(shapes, tmp_path):
    more = ["train.interpolate=true", "train.max_steps=3"]
    found = run(shapes, tmp_path / "run", *more)
    last = records(found.path)[-1]
    assert len(last["points"]) == 5
    assert measured(found, shapes) == pytest.approx(last["map_at_r"], abs=1e-6)


def test_resumed_run_has_the_same_curve(whole, shapes, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(whole.path, cut)
    shutil.rmtree(cut / "checkpoints/step-00000006")
    run(shapes, cut, resume=True)
    assert curve(cut) == curve(whole.path)
    with pytest.raises(RunError, match=r"cannot be resumed with model\.lora_rank=4 \(it was 2\)"):
        run(shapes, cut, "model.lora_rank=4", resume=True)


def test_warm_start(whole, shapes, tmp_path):
    plain = run(
        shapes, tmp_path / "plain", "model.lora_rank=0", "train.max_steps=1", "data.val=null"
    )
    adapted = run(shapes, tmp_path / "adapted", f"train.start_from={plain}", "train.max_steps=1")
    old = tensors(plain.checkpoints / "step-00000001", "ema")
    new = tensors(adapted.checkpoints / "step-00000000", "network")
    name = "backbone.model.blocks.0.mlp.fc1.weight"
    assert torch.equal(new[f"embedder.{name}"], old[name])
    again = run(shapes, tmp_path / "again", f"train.start_from={whole}", "train.max_steps=1")
    assert records(again.path)[0]["map_at_r"] == max(r["map_at_r"] for r in whole.scores())
    with pytest.raises(RunError, match=r"lora_down has shape .*; give model\.lora_rank as in that"):
        run(shapes, tmp_path / "none", f"train.start_from={whole}", "model.lora_rank=0")


def test_frozen_backbone_is_refused(shapes, tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.lora_rank=2 learns in the backbone, which"):
        run(shapes, tmp_path / "run", "train.freeze_backbone=true")
