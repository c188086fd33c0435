"""Checkpoints that a thread writes while training goes on."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch
from torch import nn

from lookalike.distributed.world import ALONE, World
from lookalike.errors import RunError
from lookalike.losses import create_loss
from lookalike.losses.head import Head
from lookalike.training import checkpoint, checkpoint_writer
from lookalike.training.checkpoint import Progress, Trained
from lookalike.training.checkpoint_writer import CheckpointWriter
from lookalike.training.loss_scaler import LossScaler


def trained(**heads: Head) -> Trained:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9)
    return Trained(network, heads, optimizer, LossScaler(enabled=False), None)


@pytest.fixture
def held(monkeypatch):
    """Lets the threads write once it is set."""
    event, write = threading.Event(), safetensors.torch.save_file

    def when_set(*given):
        assert event.wait(60)
        write(*given)

    monkeypatch.setattr(safetensors.torch, "save_file", when_set)
    return event


def test_holds_the_state_of_its_step_and_appears_whole(tmp_path, held):
    state, writer = trained(), CheckpointWriter(ALONE)
    folder = tmp_path / "step-00000003"
    seen = []
    expected = state.network.weight.detach().clone()
    writer.save(folder, state, Progress(step=3), then=lambda idle: seen.append(folder.exists()))
    with torch.no_grad():
        state.network.weight.add_(1)  # training goes on
    assert writer.busy
    assert not folder.exists()
    held.set()
    writer.wait()
    assert seen == [True]
    found = safetensors.torch.load_file(folder / checkpoint.NETWORK_FILE)
    torch.testing.assert_close(found["weight"], expected, rtol=0, atol=0)
    assert checkpoint.read_state(folder, verify=True)["progress"]["step"] == 3


def test_a_save_waits_for_the_one_before(tmp_path, held):
    state, writer = trained(), CheckpointWriter(ALONE)
    order = []
    writer.save(tmp_path / "a", state, Progress(step=1), then=lambda idle: order.append("a"))

    def save_another():
        writer.save(tmp_path / "b", state, Progress(step=2), then=lambda idle: order.append("b"))

    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(save_another)
        with pytest.raises(TimeoutError):
            saved.result(0.2)
        held.set()
        saved.result(60)
    assert order[0] == "a"
    writer.wait()
    assert order == ["a", "b"]


def test_a_failure_is_raised_by_the_next_wait_and_logged_at_an_end_by_another(tmp_path, caplog):
    (tmp_path / "file").touch()
    state, writer = trained(), CheckpointWriter(ALONE)
    writer.save(tmp_path / "file/step", state, Progress())
    while writer.busy:
        time.sleep(0.01)
    assert writer.failed
    with pytest.raises(RunError, match="file/step: the checkpoint could not be written: not a dir"):
        writer.wait()
    writer.wait()  # once
    writer.save(tmp_path / "file/step", state, Progress())
    writer.close(ValueError())
    assert "the checkpoint could not be written" in caplog.text


def test_without_room_for_a_copy_training_waits(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "lookalike")
    monkeypatch.setattr(checkpoint_writer, "available", lambda: 40)
    state, writer = trained(), CheckpointWriter(ALONE)
    for step in range(2):
        writer.save(tmp_path / f"{step}", state, Progress(step=step))
        assert checkpoint.read_state(tmp_path / f"{step}", verify=True)
    assert caplog.text.count("memory has no room for a copy of its state") == 1


@dataclass(frozen=True)
class Two(World):
    """One of two workers of this process: collectives find the same on both."""

    size: int = 2
    local_size: int = 2

    def max(self, tensor):
        return tensor

    def gather(self, tensor):
        return [tensor, tensor]


@pytest.fixture
def store(monkeypatch):
    """Messages of the writers of both workers to each other."""
    told: dict = {}

    class Store:
        def __init__(self, world):
            self.set, self.get = told.__setitem__, told.get

    monkeypatch.setattr(checkpoint_writer, "KeyValueStore", Store)
    return told


def both(folder, timeout=60.0):
    for rank in (0, 1):
        world = Two(rank=rank, timeout=timeout)
        head = Head(2, 5, create_loss("arcface"), sharded=True, world=world)
        writer = CheckpointWriter(world)
        writer.save(folder, trained(metric=head), Progress(step=1), copied=True)
        yield writer


def test_two_workers_write_one_checkpoint(tmp_path, store):
    folder = tmp_path / "step-00000001"
    for writer in list(both(folder)):
        writer.wait()
    state = checkpoint.read_state(folder, verify=True)
    assert {"head-metric-00000.safetensors", "head-metric-00001.safetensors"} < set(state["files"])
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_failure_of_one_worker_is_the_failure_of_all(tmp_path, store, monkeypatch):
    write = safetensors.torch.save_file

    def failing(tensors, path, *given):
        if path.name == "head-metric-00001.safetensors":
            raise OSError(28, "No space left on device")
        write(tensors, path, *given)

    monkeypatch.setattr(safetensors.torch, "save_file", failing)
    for writer in list(both(tmp_path / "step-00000001")):
        with pytest.raises(RunError, match="could not be written: no space left on device"):
            writer.wait()
    assert not list(tmp_path.iterdir())


def test_a_lost_worker_is_waited_for_as_long_as_the_timeout(tmp_path, store):
    main = next(both(tmp_path / "step-00000001", timeout=0.2))  # without the other
    with pytest.raises(RunError, match=r"worker 1 has not written its part in 0\.2 s"):
        main.wait()
