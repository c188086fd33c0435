"""Versions and devices of a run, without names of machines or users."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


def describe(lookalike: str, device: torch.device, workers: int) -> dict[str, str]:
    """Names and values to show; `lookalike` is this package's version."""
    found = {"lookalike": lookalike, "Python": platform.python_version()}
    found |= {name: version(name) for name in _PACKAGES}
    if torch.version.cuda is not None and device.type == "cuda":
        found["CUDA"] = torch.version.cuda
    found["device"] = _device(device)
    found["workers"] = str(workers)
    found["threads of torch"] = str(torch.get_num_threads())
    found["system"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return found


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or device.type
