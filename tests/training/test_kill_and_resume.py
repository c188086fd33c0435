"""SIGKILL at random moments and resume: the curve of an uninterrupted run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from engine_process import TINY, call, command, curve, environment

KILLS = {1: 6, 2: 4}  # by the number of workers


def arguments(shapes: Path, output: Path, workers: int) -> list[str]:
    return [
        "train", "--train", str(shapes / "train.txt"), "--val", str(shapes / "val.txt"),
        "--output", str(output), "--backbone", "test_resnet", "--epochs", "10",
        "--workers", str(workers), *TINY,
        "train.checkpoint_every_steps=4", "train.eval_every=5", "train.ema=0.9",
        "model.backbone=test_efficientnet", "run.device=cpu",
    ]  # fmt: skip


def start_and_kill(words: list[str], metrics: Path, rng: random.Random, cwd: Path) -> bool:
    """Let it do a random number of new steps, then kill all of it; whether it was still alive."""
    lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    process = subprocess.Popen(
        command(*words), cwd=cwd, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wanted = rng.randrange(8)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        now = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        # A resumed run first takes lines back, so that any change of their number is life.
        if now != lines and abs(now - lines) >= wanted:
            break
        time.sleep(0.01)
    time.sleep(rng.random() * 0.2)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("workers", KILLS)
def test_killed_often_equals_uninterrupted(shapes, tmp_path, workers):
    peace = tmp_path / "peace"
    done = call(*arguments(shapes, peace, workers), cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    war = tmp_path / "war"
    words = [*arguments(shapes, war, workers), "--resume"]
    rng = random.Random(workers)
    metrics, kills = war / "metrics.jsonl", KILLS[workers]
    killed = sum(start_and_kill(words, metrics, rng, tmp_path) for _ in range(kills))
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert killed >= kills // 2, "the run ended too early for this test to mean anything"

    assert curve(war) == curve(peace)
    assert [r for r in curve(peace) if ("step", 60) in r], "60 steps were to be done"
    for file in ("model/model.safetensors", "checkpoints/step-00000060/ema.safetensors"):
        left, right = (safetensors.torch.load_file(run / file) for run in (peace, war))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left), file
