"""A training of seconds, and its curve."""

import json
from pathlib import Path


def write_config(folder: Path, shapes: Path) -> str:
    """The configuration of a run in `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(
        f"data: {{train: {shapes}/train.txt, threads: 1}}\n"
        "model: {backbone: test_resnet, pretrained: false, image_size: 32, embedding_dim: 16}\n"
        "train: {batch_size: 8, max_steps: 60, epochs: 100, report: false, recipe: component,\n"
        "        log_every: 1, checkpoint_every_steps: 20}\n"
        f"run: {{output: {folder}/run, device: cpu}}\n"
    )
    return str(path)


def losses(folder: Path) -> dict[int, float]:
    """Loss by step of the run in `folder`."""
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {each["step"]: each["loss"] for each in found if "loss" in each}
