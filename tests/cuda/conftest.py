"""Tests for a CUDA device: `pytest -m cuda tests/cuda tests/losses`.

Without a device they are skipped. LOOKALIKE_CUDA_TESTS=pretend runs them on one that is not there
(`pretend_device`), which finds tensors that are on the wrong device, and shows that the tests
themselves work: `benchmarks/gpu.py --dry` does so.
"""

import os
from pathlib import Path

import pytest
import torch
from pretend_device import pretended_device
from small_run import settings

import lookalike

PRETEND = os.environ.get("LOOKALIKE_CUDA_TESTS") == "pretend"


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if not PRETEND and not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture(scope="session")
def device():
    if not PRETEND:
        yield torch.device("cuda", 0)
        return
    with pretended_device() as found:
        yield found


@pytest.fixture
def real_device(device):
    """The device, for what cannot be pretended."""
    if PRETEND:
        pytest.skip("cannot be pretended")
    return device


@pytest.fixture
def group_device():
    """Places of a process group: NCCL on a device, gloo on the CPU."""
    return torch.device("cpu") if PRETEND else torch.device("cuda", 0)


@pytest.fixture(scope="session")
def run(shapes, device, tmp_path_factory):
    """A finished run with a validation list."""
    folder = tmp_path_factory.mktemp("cuda") / "run"
    val = str(shapes / "val.txt")
    return lookalike.train(**settings(shapes, folder, device, val=val, ema=0.9, max_steps=9))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
