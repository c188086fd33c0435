"""Heads that are compared with each other."""

from head_contender import Maker
from head_ours import FLOORS, OURS
from head_peers import PEERS

ALL: dict[str, Maker] = {**OURS, **PEERS, **FLOORS}

# Ours, and whom it meets on the CPU.
DUELS: list[tuple[str, list[str]]] = [
    ("ours fp32", ["PML fp32", "eager fp32", "PartialFC file"]),
    ("ours bf16 by device", ["PML bf16", "eager bf16"]),
    ("ours bf16", ["PML bf16", "eager bf16"]),
    ("ours bf16, bf16 weight", ["PML bf16", "eager bf16", "ours bf16"]),
    ("ours fp32, unfused", ["PML fp32", "eager fp32"]),
    ("ours fp32", ["ours fp32, unfused"]),
    ("ours bf16", ["ours bf16, unfused"]),
    ("ours fp32, rate 0.3", ["PartialFC file, rate 0.3", "ours fp32"]),
    ("ours fp32, rate 0.1", ["PartialFC file, rate 0.1", "ours fp32"]),
    (
        "ours softmax fp32",
        ["torch LCE fp32", "torch LCE fp32, options", "torch LCE fp32, one chunk"],
    ),
    (
        "ours softmax bf16",
        ["torch LCE bf16", "torch LCE bf16, options", "torch LCE bf16, one chunk"],
    ),
]  # fmt: skip

FLOOR_OF: dict[str, str] = {
    "ours fp32": "products fp32",
    "ours fp32, unfused": "products fp32",
    "ours softmax fp32": "products fp32",
    "ours fp32, rate 0.3": "products fp32, rate 0.3",
    "ours fp32, rate 0.1": "products fp32, rate 0.1",
    "ours bf16": "products bf16",
    "ours bf16, unfused": "products bf16",
    "ours bf16, bf16 weight": "products bf16",
    "ours softmax bf16": "products bf16",
}

RATES: dict[str, float] = {"ours fp32, rate 0.3": 0.3, "ours fp32, rate 0.1": 0.1}


def tolerance(name: str) -> float:
    """The relative error that a head may have by its name."""
    return 1e-2 if "bf16" in name else 1e-5
