"""Trainings with every sampler: resumed, and on two workers."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from engine_process import curve

import lookalike
from lookalike.commands.train import train

SAMPLERS = {
    "pk": {"sampler": "pk", "images_per_class": 2},
    "balanced": {"sampler": "balanced", "sampling_power": 0.0},
    "repeat_factor": {"sampler": "repeat_factor", "repeat_threshold": 10},
    "repeats": {"repeats": 4},
    "pk, repeats": {"sampler": "pk", "images_per_class": 2, "repeats": 2},
}


def settings(shapes, output, name, **change):
    return {
        "train": str(shapes / "train.txt"), "output": str(output), "backbone": "test_resnet",
        "pretrained": False, "image_size": 32, "embedding_dim": 8, "batch_size": 8,
        "device": "cpu", "threads": 2, "log_every": 1, "schedule": "constant", "lr": 0.001,
        "warmup_steps": 0, "classification_weight": 0.0, "augment": ["trivial_augment"],
        **SAMPLERS[name], **change,
    }  # fmt: skip


@pytest.fixture(scope="module")
def tail(shapes, tmp_path_factory):
    """The shapes with classes of 6, 6, 6, 4, 3, 2, 1 and 1 images."""
    lines = (shapes / "train.txt").read_text().splitlines()
    kept = [
        line
        for kind, number in enumerate((6, 6, 6, 4, 3, 2, 1, 1))
        for line in [one for one in lines if one.endswith(f" {kind}")][:number]
    ]
    folder = tmp_path_factory.mktemp("tail")
    (folder / "train.txt").write_text("".join(f"{shapes}/{line}\n" for line in kept))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_resume_within_an_epoch_equals_an_uninterrupted_run(tail, tmp_path, name):
    whole = train(**settings(tail, tmp_path / "whole", name, max_steps=9))
    parts = tmp_path / "parts"
    for steps in (2, 5, 9):
        train(**settings(tail, parts, name, max_steps=steps), resume=True)
    expected = curve(whole.path)
    assert [dict(record)["step"] for record in expected] == list(range(1, 10))
    assert curve(parts) == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_epochs_steps_messages_and_plan_agree(tail, tmp_path, name):
    wanted = settings(tail, tmp_path / "run", name)
    planned = lookalike.plan(measure=False, **wanted).spec
    run = train(**wanted, epochs=2)
    steps = planned.steps_per_epoch
    epochs = [dict(record)["epoch"] for record in curve(run.path)]
    assert epochs == [1] * steps + [2] * steps
    told = run.log.read_text()
    assert f"; {steps} steps an epoch, {2 * steps} steps to do" in told
    assert f"; {steps * planned.batch} images an epoch" in told


def work(rank: int, port: int, shapes, folder) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    for number, name in enumerate(SAMPLERS):
        os.environ["MASTER_PORT"] = str(port[number])
        train(**settings(shapes, folder / f"two {name}", name, max_steps=3))


@pytest.mark.slow
def test_two_workers_have_the_curve_of_one(tail, tmp_path):
    ports = []
    for _ in SAMPLERS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    mp.spawn(work, (ports, tail, tmp_path), nprocs=2)
    for name in SAMPLERS:
        alone = train(**settings(tail, tmp_path / f"one {name}", name, max_steps=3))
        one, two = (
            [dict(record)["loss"] for record in curve(run)]
            for run in (alone.path, tmp_path / f"two {name}")
        )
        assert len(one) == 3
        # The same pictures, summed in another order.
        assert one == pytest.approx(two, rel=1e-3), name
        assert one[0] == pytest.approx(two[0], rel=1e-5), name
