"""`benchmarks/fuzz.py` runs all of its targets."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "benchmarks/fuzz.py"


@pytest.mark.slow
def test_some_inputs_of_every_target_are_read_or_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--inputs", "400", "--seed", "0"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = re.findall(r"^(.+?) +([\d,]+) inputs:", done.stdout, re.M)
    assert len(lines) == 22
    assert "keys in object storage" in dict(lines)
