"""Runs that are interrupted by signals, kills, infinite losses or torn checkpoints."""

import json
import logging
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
from lookalike.config.config import Config
from lookalike.errors import DataError, Interrupted, RunError, TrainingError
from lookalike.run import Run
from lookalike.training.bad_image_limit import BadImageLimit
from lookalike.training.checkpoint_writer import CheckpointWriter


def words(shapes, output, *more):
    return [
        "train", "--train", str(shapes / "train.txt"), "--output", str(output),
        "model.backbone=test_resnet", "run.device=cpu", *TINY, *more,
    ]  # fmt: skip


def here(shapes, output, *settings, resume=False):
    """The same training in this process."""
    places = [f"data.train={shapes / 'train.txt'}", f"run.output={output}"]
    fixed = ["model.backbone=test_resnet", "run.device=cpu", *TINY]
    return train(Config.load(None, [*places, *fixed, *settings]), resume=resume)


@pytest.mark.parametrize(
    ("number", "workers", "code"), [
        (signal.SIGHUP, 1, 129),
        pytest.param(signal.SIGINT, 1, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, 143, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_signal_saves_a_checkpoint_to_resume_from(shapes, tmp_path, number, workers, code):
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


def test_signal_after_the_agreement_stops_one_step_later(shapes, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("stopped", [False, True])
def test_a_signal_while_the_last_checkpoint_is_written_does_not_stop_that(
    shapes, tmp_path, monkeypatch, stopped
):
    """On several workers it reaches some of them before, and others after the last step."""
    run = tmp_path / "my run"
    wait, unshared, steps = CheckpointWriter.wait, BadImageLimit.unshared, []

    def signalled(writer):
        if steps:
            signal.raise_signal(signal.SIGINT)
        wait(writer)

    def stepped(limit):
        steps.append(None)
        if stopped:
            signal.raise_signal(signal.SIGTERM)
        return unshared(limit)

    monkeypatch.setattr(CheckpointWriter, "wait", signalled)
    monkeypatch.setattr(BadImageLimit, "unshared", stepped)
    if stopped:
        with pytest.raises(Interrupted, match=f"--output '{run}'$"):  # for a shell
            here(shapes, run, "train.max_steps=5")
    else:
        here(shapes, run, "train.max_steps=2")
    latest = (run / "checkpoints/latest").read_text()
    assert latest == "step-00000002\n"


def test_infinite_loss_stops_with_an_explanation(shapes, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as error:
        here(shapes, run, "train.epochs=60", "optim.lr=1e36", "optim.warmup_steps=0")
    assert "the loss has not been finite for 25 steps in a row" in str(error.value)
    assert "Lower optim.lr" in str(error.value)
    assert "step-00000000" in str(error.value)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert kept[-1]["skipped"] >= 24


def test_torn_checkpoint_is_skipped_and_the_curve_is_the_same(shapes, tmp_path, caplog):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    more = ("train.epochs=3", "train.checkpoint_every_steps=6", "optim.schedule=constant",
            "optim.warmup_steps=0")  # fmt: skip
    here(shapes, whole, *more)
    here(shapes, torn, *more, "train.max_steps=12")
    file = torn / "checkpoints/step-00000012/network.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    caplog.set_level(logging.INFO, "lookalike")
    here(shapes, torn, *more, "train.max_steps=18", resume=True)
    assert "step-00000012/network.safetensors: has" in caplog.text
    assert f"resuming from {torn}/checkpoints/step-00000006" in caplog.text
    assert curve(torn) == curve(whole)


@pytest.mark.parametrize(
    ("workers", "optimizer"),
    [(1, "sgd"), pytest.param(2, "sgd", marks=pytest.mark.slow), (1, "adamw")],
)
def test_backbone_learns_after_its_frozen_epochs(shapes, tmp_path, workers, optimizer):
    run = tmp_path / "run"
    here(
        shapes, run, "train.epochs=2", f"run.workers={workers}", f"optim.name={optimizer}",
        "train.freeze_backbone_epochs=1", "train.checkpoint_every=1", "train.keep_checkpoints=9",
    )  # fmt: skip
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


def test_lock_of_the_output_directory(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("lookalike.storage.file_lock.PATIENCE", 0.3)
    run = Run.create(tmp_path / "run")
    with run.locked(), pytest.raises(RunError, match="another process is training"), run.locked():
        pytest.fail("the lock was given twice")
    with run.locked():
        assert run.lock_file.exists()


@pytest.mark.slow
def test_workers_end_when_their_launcher_is_killed(shapes, tmp_path):
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
def test_resume_of_a_run_killed_before_its_first_step(shapes, tmp_path, optimizer, caplog):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ("train.epochs=1", f"optim.name={optimizer}", "train.ema=0.9",
            f"data.val={shapes / 'val.txt'}")  # fmt: skip
    here(shapes, whole, *more)
    shutil.copytree(whole, cut)
    for later in cut.glob("checkpoints/step-*"):
        if later.name != "step-00000000":
            shutil.rmtree(later)
    caplog.set_level(logging.INFO, "lookalike")
    here(shapes, cut, *more, resume=True)
    assert f"resuming from {cut}/checkpoints/step-00000000" in caplog.text
    assert curve(cut) == curve(whole)


def test_corrected_request_reuses_the_output(shapes, tmp_path):
    run = tmp_path / "run"
    bad = shapes / "one-bad-line.txt"
    bad.write_text((shapes / "train.txt").read_text() + "nolabel\n")
    with pytest.raises(DataError):
        here(shapes, run, "train.max_steps=1", f"data.train={bad}")
    here(shapes, run, "train.max_steps=1")


@pytest.mark.slow
def test_killed_worker_is_the_only_error_reported(shapes, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(*words(shapes, run, "--epochs", "200", "--workers", "2")), cwd=tmp_path,
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    [second] = [
        int(child)
        for child in children
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    ]
    os.kill(second, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 137, errors
    logged = (run / "log.txt").read_text()
    [line] = [line for line in errors.splitlines() if f" {line}\n" not in logged]
    assert line.startswith("error: worker 1 was ended by SIGKILL: the usual cause is memory")
    assert line.endswith(f"Resume with: lookalike train --resume --output {run}")
