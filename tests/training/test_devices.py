"""Choice of device and precision, on simulated machines."""

import pytest
import torch

from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.training.build import create_embedder
from lookalike.training.build_heads import metric_loss
from lookalike.training.resolve import resolve
from lookalike.training.step import repeatable


@pytest.fixture
def gpu(monkeypatch):
    """A machine with two GPUs whose compute capability the test sets; the second is current."""

    class Properties:
        major = 7

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    # What torch calls emulation: a tensor of the type can be made.
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return Properties


@pytest.mark.parametrize(("major", "precision"), [(7, "fp16"), (8, "bf16"), (9, "bf16")])
def test_bfloat16_only_on_gpus_that_support_it(gpu, major, precision):
    gpu.major = major
    config = Config().with_values(
        {"model.backbone": "test_resnet", "model.pretrained": False, "model.image_size": 32}
    )
    margin, world = metric_loss(config), World(device=torch.device("cuda", 0))
    found = resolve(config, margin, create_embedder(config, margin), world, 8)
    assert found.train.precision == precision
    assert found.head.precision == ("bf16" if precision == "bf16" else "fp32")


def test_call_from_a_program_keeps_the_current_device(gpu, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert World.from_env("auto").device == torch.device("cuda", 1)
    assert chosen == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert World.from_env("auto").device == torch.device("cuda", 0)
    assert chosen == [torch.device("cuda", 0)]


def test_repeatable_convolutions_on_cuda_alone():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with repeatable(torch.device("cpu")):
        assert (cudnn.deterministic, cudnn.benchmark) == before
    with repeatable(torch.device("cuda", 0)):
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert (cudnn.deterministic, cudnn.benchmark) == before
