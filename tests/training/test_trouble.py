"""Signals, losses that are not finite, checkpoints that are torn: nothing is lost, all is told."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from engine_process import TINY, call, command, curve, environment, records

from lookalike.commands.train import train
from lookalike.errors import Interrupted, RunError
from lookalike.run import Run
from lookalike.training.bad_image_limit import BadImageLimit


def words(shapes, output, *more):
    return [
        "train", "--train", str(shapes / "train.txt"), "--output", str(output),
        "model.backbone=test_resnet", "run.device=cpu", *TINY, *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "workers", "code"), [(signal.SIGHUP, 1, 129), (signal.SIGINT, 1, 130),
                                    (signal.SIGTERM, 2, 143)],
)  # fmt: skip
def test_a_signal_saves_and_resume_goes_on(shapes, tmp_path, number, workers, code):
    run = tmp_path / "run"
    mine = words(shapes, run, "--epochs", "200", "--workers", str(workers))
    process = subprocess.Popen(
        command(*mine), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len(records(run)) > 5:
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "resume with: lookalike train --resume" in errors
    assert "Traceback" not in errors
    step = records(run)[-1]["step"]
    assert (run / "checkpoints/latest").read_text() == f"step-{step:08d}\n"

    done = call("train", "--resume", "--output", str(run), f"train.max_steps={step + 2}",
                "run.workers=1", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r["step"] for r in records(run)] == list(range(1, step + 3))


def test_a_signal_that_comes_after_the_workers_agreed_is_granted_a_step_later(
    shapes, tmp_path, monkeypatch
):
    unshared, calls = BadImageLimit.unshared, []

    def signalled(limit):  # after the signals were looked at
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return unshared(limit)

    monkeypatch.setattr(BadImageLimit, "unshared", signalled)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match="at step 4, which is saved"):
        train(
            train=str(shapes / "train.txt"), output=str(run), backbone="test_resnet",
            pretrained=False, image_size=32, embedding_dim=16, batch_size=8, device="cpu",
        )  # fmt: skip
    assert (run / "checkpoints/latest").read_text() == "step-00000004\n"


def test_a_loss_that_stays_infinite_stops_with_an_explanation(shapes, tmp_path):
    run = tmp_path / "run"
    done = call(
        *words(shapes, run, "--epochs", "60", "optim.lr=1e36", "optim.warmup_steps=0"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "the loss has not been finite for 25 steps in a row" in done.stderr
    assert "Lower optim.lr" in done.stderr
    assert "Traceback" not in done.stderr
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert kept[-1]["skipped"] >= 24
    assert "step-00000000" in done.stderr


def test_a_torn_checkpoint_is_left_aside_and_the_curve_is_the_same(shapes, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    more = ("--epochs", "3", "train.checkpoint_every_steps=6", "optim.schedule=constant",
            "optim.warmup_steps=0")  # fmt: skip
    assert call(*words(shapes, whole, *more), cwd=tmp_path).returncode == 0
    cut = call(*words(shapes, torn, *more, "train.max_steps=12"), cwd=tmp_path)
    assert cut.returncode == 0
    file = torn / "checkpoints/step-00000012/network.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    done = call(*words(shapes, torn, *more, "train.max_steps=18", "--resume"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step-00000012/network.safetensors: has" in done.stderr
    assert "resuming from" in done.stderr
    assert "step-00000006" in done.stderr
    assert curve(torn) == curve(whole)


@pytest.mark.parametrize(("workers", "optimizer"), [(1, "sgd"), (2, "sgd"), (1, "adamw")])
def test_a_backbone_that_is_frozen_first_learns_later(shapes, tmp_path, workers, optimizer):
    run = tmp_path / "run"
    done = call(
        *words(shapes, run, "--epochs", "2", "--workers", str(workers)), f"optim.name={optimizer}",
        "train.freeze_backbone_epochs=1", "train.checkpoint_every=1", "train.keep_checkpoints=9",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    start, frozen, free = (
        safetensors.torch.load_file(run / f"checkpoints/step-{step:08d}/network.safetensors")
        for step in (0, 6, 12)
    )
    for name in start:
        if name.startswith("embedder.backbone"):
            assert torch.equal(start[name], frozen[name]), name
            assert start[name].ndim < 2 or not torch.equal(frozen[name], free[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(start[name], frozen[name]), name


def test_two_processes_do_not_train_into_one_directory(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("lookalike.storage.file_lock._SECONDS", 0.3)
    run = Run.create(tmp_path / "run")
    with run.locked(), pytest.raises(RunError, match="another process is training"), run.locked():
        pytest.fail("the lock was given twice")
    with run.locked():
        assert run.lock_file.exists()


def test_workers_end_with_a_launcher_that_is_killed(shapes, tmp_path):
    run = tmp_path / "run"
    mine = words(shapes, run, "--epochs", "200", "--workers", "2")
    process = subprocess.Popen(
        command(*mine), cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.kill()  # it alone, as the kernel does when memory is short
    process.wait()
    time.sleep(1)
    before = len(records(run))
    time.sleep(2)
    assert len(records(run)) == before
    with Run(run).locked():
        pass


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_killed_before_its_first_step_goes_on_from_the_start(shapes, tmp_path, optimizer):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ("--epochs", "1", f"optim.name={optimizer}", "train.ema=0.9",
            "--val", str(shapes / "val.txt"))  # fmt: skip
    assert call(*words(shapes, whole, *more), cwd=tmp_path).returncode == 0
    shutil.copytree(whole, cut)
    for later in cut.glob("checkpoints/step-*"):
        if later.name != "step-00000000":
            shutil.rmtree(later)
    done = call(*words(shapes, cut, *more, "--resume"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step-00000000" in done.stderr
    assert curve(cut) == curve(whole)


def test_a_corrected_mistake_may_use_the_same_output(shapes, tmp_path):
    run = tmp_path / "run"
    bad = shapes / "one-bad-line.txt"
    bad.write_text((shapes / "train.txt").read_text() + "nolabel\n")
    first = words(shapes, run, "train.max_steps=1")
    first[2] = str(bad)
    assert call(*first, cwd=tmp_path).returncode == 2
    done = call(*words(shapes, run, "train.max_steps=1"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_worker_that_is_killed_is_named_and_nothing_else_is_said(shapes, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(*words(shapes, run, "--epochs", "200", "--workers", "2")), cwd=tmp_path,
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [
        int(child)
        for child in children
        if b"lookalike" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    os.kill(workers[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 137, errors
    logged = (run / "log.txt").read_text()
    [line] = [line for line in errors.splitlines() if f" {line}\n" not in logged]
    assert line.startswith("error: worker 1 was ended by SIGKILL: the usual cause is memory")
    assert line.endswith(f"Resume with: lookalike train --resume --output {run}")
