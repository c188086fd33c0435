"""Machines to plan for: accelerators by published figures, or one that a file describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.storage import Place
from lookalike.storage.schema_faults import faults_of

# Measured on one H100: 798 of 989 TFLOP/s in bfloat16 products, 3.0 of 3.35 TB/s. The same parts
# of the published peaks are assumed of the others.
_PRODUCTS, _COPIES = 798 / 989, 3.0 / 3.35
# 2470 images/s of a ResNet-50 on an A100 (NVIDIA DeepLearningExamples) are 61 of 312 TFLOP/s;
# ViT-5-S compiled on an H100 reaches 22 to 23 % of 989. Of the reachable rate it is a quarter.
_UTILISATION = 0.2 / _PRODUCTS
_Rate = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Machine:
    """Figures of one worker, while all workers of its machine compute.

    Attributes:
        memory: bytes of memory of one worker; 0 where it is not known.
        wide: float32 products, operations a second.
        narrow: bfloat16 (float16 on V100 and T4) products, operations a second.
        bandwidth: of memory, bytes a second.
        link: what a worker sends to another of its machine, bytes a second.
        network: the same between machines.
        latency: of a collective, seconds.
        workers: of a machine.
        utilisation: part of the narrow or wide rate that a backbone reaches.
        bfloat16: products in it.
    """

    name: str
    wide: _Rate
    narrow: _Rate
    bandwidth: _Rate
    link: _Rate
    network: _Rate
    workers: Annotated[int, Field(gt=0)]
    source: str
    device: Literal["cpu", "cuda"] = "cuda"
    memory: Annotated[float, Field(ge=0)] = 0.0
    latency: Annotated[float, Field(ge=0)] = 30e-6
    utilisation: Annotated[float, Field(ge=0)] = _UTILISATION
    bfloat16: bool = True


def _gpu(
    name: str,
    *,
    gigabytes: float,
    narrow: float,
    wide: float,
    bandwidth: float,
    link: float,
    network: float,
    workers: int,
    source: str,
    bfloat16: bool = True,
) -> Machine:
    """From published peaks: TFLOP/s without sparsity, GB/s in one direction."""
    return Machine(
        name=name,
        memory=gigabytes * 1e9,
        wide=wide * 1e12 * _PRODUCTS,
        narrow=narrow * 1e12 * _PRODUCTS,
        bandwidth=bandwidth * 1e9 * _COPIES,
        link=link * 1e9 * 0.8,  # what NCCL's tests reach of NVLink
        network=network * 1e9 * 0.8,
        workers=workers,
        bfloat16=bfloat16,
        source=source,
    )


MACHINES: dict[str, Machine] = {
    "h100": _gpu(
        "H100 SXM", gigabytes=80, narrow=989, wide=67, bandwidth=3350, link=450, network=50,
        workers=8, source="NVIDIA H100 datasheet; NVLink 4; NDR InfiniBand 400 Gb/s a GPU",
    ),
    "h200": _gpu(
        "H200 SXM", gigabytes=141, narrow=989, wide=67, bandwidth=4800, link=450, network=50,
        workers=8, source="NVIDIA H200 datasheet; NVLink 4; NDR InfiniBand 400 Gb/s a GPU",
    ),
    "a100": _gpu(
        "A100 SXM 80 GB", gigabytes=80, narrow=312, wide=19.5, bandwidth=2039, link=300,
        network=25, workers=8,
        source="NVIDIA A100 datasheet; NVLink 3; HDR InfiniBand 200 Gb/s a GPU",
    ),
    "a100-40": _gpu(
        "A100 SXM 40 GB", gigabytes=40, narrow=312, wide=19.5, bandwidth=1555, link=300,
        network=25, workers=8,
        source="NVIDIA A100 datasheet; NVLink 3; HDR InfiniBand 200 Gb/s a GPU",
    ),
    "l40s": _gpu(
        "L40S", gigabytes=48, narrow=362, wide=91.6, bandwidth=864, link=32, network=12.5,
        workers=8, source="NVIDIA L40S datasheet; PCIe 4 x16; 100 Gb/s a GPU",
    ),
    "l4": _gpu(
        "L4", gigabytes=24, narrow=121, wide=30.3, bandwidth=300, link=32, network=6.25,
        workers=8, source="NVIDIA L4 datasheet; PCIe 4 x16; 50 Gb/s a GPU",
    ),
    "a10": _gpu(
        "A10", gigabytes=24, narrow=125, wide=31.2, bandwidth=600, link=32, network=6.25,
        workers=4, source="NVIDIA A10 datasheet; PCIe 4 x16; 50 Gb/s a GPU",
    ),
    "v100": _gpu(
        "V100 SXM2 32 GB", gigabytes=32, narrow=125, wide=15.7, bandwidth=900, link=150,
        network=12.5, workers=8, bfloat16=False,
        source="NVIDIA V100 datasheet; NVLink 2; EDR InfiniBand 100 Gb/s a GPU",
    ),
    "t4": _gpu(
        "T4", gigabytes=16, narrow=65, wide=8.1, bandwidth=320, link=16, network=3.1,
        workers=4, bfloat16=False, source="NVIDIA T4 datasheet; PCIe 3 x16; 25 Gb/s a GPU",
    ),
}  # fmt: skip
"""Accelerators by the name that `lookalike plan --gpu` takes."""


def known_machine(name: str) -> Machine:
    """The machine of that name.

    Raises:
        ConfigError: there is none.
    """
    found = MACHINES.get(name.lower())
    if found is None:
        raise ConfigError(
            f"--gpu {name}: not one of {', '.join(MACHINES)}; describe another with --machine FILE"
        )
    return found


def read_machine(file: Place) -> Machine:
    """A machine from a YAML file with the fields of `Machine`; `base` may name a known one.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, missing or wrong.
    """
    try:
        tree = yaml.safe_load(storage.path_of(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "is not YAML"
        raise ConfigError(f"--machine {file}: {str(reason).lower()}") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(f"--machine {file}: holds no fields; write e.g. 'base: h100'")
    values: dict[str, Any] = {"name": Path(file).stem, "source": str(file)}
    if "base" in tree:
        values = asdict(known_machine(str(tree["base"])))
    values |= {key: value for key, value in tree.items() if key != "base"}
    known = {field.name: field.default is MISSING for field in fields(Machine)}
    if unknown := [str(key) for key in values if key not in known]:
        choices = ", ".join(known)
        raise ConfigError(
            f"--machine {file}: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not "
            f"one of base, {choices}"
        )
    if missing := [name for name, needed in known.items() if needed and name not in values]:
        raise ConfigError(f"--machine {file}: lacks {', '.join(missing)}; give them, or a base")
    try:
        return TypeAdapter(Machine).validate_python(values)
    except ValidationError as error:
        lines = [f"--machine {file}: {what}" for _, what in faults_of(error)]
        raise ConfigError("\n".join(lines)) from None
