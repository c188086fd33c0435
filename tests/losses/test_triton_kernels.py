"""The Triton kernels, in a process of their own: Triton must know before it is imported that it
is to be interpreted, and no other test shall see that setting."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CHECKS = ["check_softmax_kernels.py", "check_update_kernels.py", "check_head_kernels.py"]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def run(**environment):
    """All checks; how many passed."""
    free = {
        k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "LOOKALIKE_TRITON")
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", HERE,
         *(HERE / check for check in CHECKS)],
        cwd=HERE, env={**free, "LOOKALIKE_TRITON": "1", **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
    return int(re.search(r"(\d+) passed", done.stdout)[1])


@pytest.mark.slow
def test_kernels_in_the_interpreter():
    assert run(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1") > 20


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_the_device():
    assert run() > 20
