"""The program as a user runs it: as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

TINY = [
    "model.pretrained=false", "model.image_size=32", "model.embedding_dim=16",
    "train.batch_size=8", "train.log_every=1", "data.threads=2",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lookalike", *arguments]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


def call(*arguments: str, cwd: Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=timeout,
        env=environment(), check=False,
    )  # fmt: skip


def records(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def curve(run: Path) -> list[tuple]:
    """Records without times."""
    clocks = {"images_per_second", "waiting", "seconds"}
    return [
        tuple(sorted((k, v) for k, v in record.items() if k not in clocks))
        for record in records(run)
    ]
