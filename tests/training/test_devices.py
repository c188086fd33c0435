"""Choice of device and precision, on simulated machines."""

import pytest
import timm
import torch

from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.training.build import create_embedder
from lookalike.training.build_heads import metric_loss
from lookalike.training.precision import common_precision
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


@pytest.mark.parametrize(
    ("backbone", "amx", "precision"),
    [
        ("resnet18", True, "bf16"),
        ("resnet18", False, "fp32"),
        ("vit_small_patch32_224", True, "bf16"),
        ("test_resnet", True, "fp32"),  # few parameters
        ("tf_efficientnet_lite2", True, "fp32"),  # depthwise convolutions
        ("resnext50_32x4d", True, "fp32"),  # grouped ones
    ],
)
def test_bfloat16_on_cpus_where_it_is_faster(monkeypatch, backbone, amx, precision):
    monkeypatch.setattr("lookalike.training.precision.has_bf16_products", lambda device: amx)
    monkeypatch.setattr("lookalike.training.resolve.has_bf16_products", lambda device: amx)
    config = Config().with_values({"model.backbone": backbone, "model.pretrained": False})
    margin, world = metric_loss(config), World()
    found = resolve(config, margin, create_embedder(config, margin), world, 8)
    assert found.train.precision == found.head.precision == precision


@pytest.mark.parametrize(
    ("others", "common"), [(["bf16"], "bf16"), (["fp32"], "fp32"), (["fp16", "bf16"], "fp16")]
)
def test_workers_train_in_a_precision_that_all_have(monkeypatch, others, common):
    monkeypatch.setattr("lookalike.training.precision.has_bf16_products", lambda device: True)
    world = World(size=len(others) + 1)
    monkeypatch.setattr(World, "all_gather_object", lambda self, value: [value, *others])
    assert common_precision(timm.create_model("resnet18"), world) == common


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
