"""Trainings in bfloat16 on a CPU, with the second branch."""

import pytest
from engine_process import curve

from lookalike.commands.train import train


def settings(shapes, output, **change):
    return {
        "train": str(shapes / "train.txt"), "output": str(output), "backbone": "test_resnet",
        "pretrained": False, "image_size": 32, "embedding_dim": 8, "batch_size": 8,
        "device": "cpu", "threads": 2, "log_every": 1, "lr": 0.001, "warmup_steps": 0,
        "report": False, "classification_weight": 1.0, "schedule": "constant", **change,
    }  # fmt: skip


def test_bfloat16_resumes_to_the_same_curve_and_is_close_to_float32(shapes, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = train(
            **settings(shapes, tmp_path / precision, train__precision=precision, max_steps=9)
        )
        losses[precision] = [dict(record)["loss"] for record in curve(run.path)]
    parts = tmp_path / "parts"
    for steps in (4, 9):
        train(**settings(shapes, parts, train__precision="bf16", max_steps=steps), resume=True)
    assert curve(parts) == curve(tmp_path / "bf16")
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.02)
