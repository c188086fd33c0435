"""Tests for a CUDA device: `pytest -m cuda tests/cuda tests/kernels`.

Without a device they are skipped. LOOKALIKE_CUDA_TESTS=cpu runs them on the CPU, so that the tests
themselves can be tried anywhere: `benchmarks/gpu.py --dry` does.
"""

import os
from pathlib import Path

import pytest
import torch

ON_CPU = os.environ.get("LOOKALIKE_CUDA_TESTS") == "cpu"


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if not ON_CPU and not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture(scope="session")
def device():
    return torch.device("cpu") if ON_CPU else torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
