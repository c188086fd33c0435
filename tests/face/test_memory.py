"""The command line asks for large pages before torch allocates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

CODE = """
import resource, sys
sys.argv = ["lookalike", "--version"]
from lookalike.cli import main
try:
    main()
except SystemExit:
    pass
import torch
torch.ones(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(100 * 2**20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**chosen: str) -> int:
    """Page faults of a tensor of 100 MB, which has 25,600 small pages."""
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"} | chosen
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=True
    )
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="this kernel gives no large pages"
)
def test_tensors_lie_in_large_pages_unless_somebody_says_otherwise():
    assert faults(THP_MEM_ALLOC_ENABLE="0") > 25_000
    assert faults() < 20_000  # as many as the machine has free
