"""The class head on the device: agreement, time beside its peers, share of the floor, memory."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import head_measure
from gpu_measure import Place, copy_rate, matmul_rate
from gpu_record import Record
from head_contender import MARGIN, SCALE, Contender, Maker, Shape
from head_memory import measure_peak
from head_peers import TorchContender
from head_plan import ALL, tolerance
from lookalike.losses import class_weights
from lookalike.losses.kernels import uses_triton


class PartialFCFormula(TorchContender):
    """Partial FC (An et al., arXiv 2203.15565), by its formulas, in fp32.

    All logits pass through acos and cos, the margin has no slope, the softmax is written out, and
    a sample of the classes is gathered into a weight of its own, whose gradient is dense.
    """

    true_slope = False

    def __init__(self, shape: Shape, rate: float = 1.0) -> None:
        self.sample_rate = rate
        self._index: Tensor | None = None
        super().__init__(shape)

    def sample(self, classes: Tensor) -> Tensor | None:
        return self._index

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        weight = self.weight
        if self.sample_rate < 1:
            chance = torch.rand(len(weight), device=weight.device)
            chance[classes] = 2.0
            count = max(int(self.sample_rate * len(weight)), len(classes.unique()))
            self._index = chance.topk(count).indices.sort().values
            weight = weight[self._index]
            classes = torch.searchsorted(self._index, classes)
        cos = F.linear(F.normalize(embeddings), F.normalize(weight)).clamp(-1, 1)
        with torch.no_grad():
            angle = cos.detach().acos()
            angle[torch.arange(len(cos), device=cos.device), classes] += math.radians(MARGIN)
            shift = angle.cos() - cos
        loss: Tensor = _SoftmaxWrittenOut.apply((cos + shift) * SCALE, classes)
        return loss


class _SoftmaxWrittenOut(torch.autograd.Function):
    """The mean cross-entropy by its formula, pass by pass, with the gradient made from p - 1."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor) -> Tensor:
        share = logits.sub_(logits.amax(1, keepdim=True)).exp_()
        share.div_(share.sum(1, keepdim=True))
        ctx.save_for_backward(share, classes)
        return -share.gather(1, classes[:, None]).clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        share, classes = ctx.saved_tensors
        share[torch.arange(len(share), device=share.device), classes] -= 1
        return share.div_(len(share)).mul_(gradient), None


MAKERS: dict[str, Maker] = {
    **ALL,
    "PartialFC formula": PartialFCFormula,
    "PartialFC formula, rate 0.1": partial(PartialFCFormula, rate=0.1),
}

# Ours, whom it meets, and at how many rows and classes; the most important ones first.
LARGE, MIDDLE = (1024, 1_000_000), (256, 100_000)
DUELS: list[tuple[str, str, tuple[int, int]]] = [
    ("ours bf16", "eager bf16", LARGE),
    ("ours bf16", "products bf16", LARGE),
    ("ours fp32", "PartialFC formula", LARGE),
    ("ours fp32", "products fp32", LARGE),
    ("ours fp32, rate 0.1", "PartialFC formula, rate 0.1", LARGE),
    ("ours softmax bf16", "torch LCE bf16", LARGE),
    ("ours softmax bf16", "liger-kernel bf16", LARGE),
    ("ours softmax bf16", "cut-cross-entropy bf16", LARGE),
    ("ours fp32", "eager fp32", LARGE),
    ("ours bf16", "ours bf16, unfused", LARGE),
    ("ours bf16, bf16 weight", "ours bf16", LARGE),
    ("ours bf16", "eager bf16", MIDDLE),
    ("ours bf16", "products bf16", MIDDLE),
    ("ours fp32", "PML fp32", MIDDLE),
    ("ours bf16", "compiled bf16", LARGE),
]


def measure_head(place: Place, record: Record) -> None:
    record.figure("kernels", str(uses_triton(place.device)), "", "whether Triton's are used")
    plan = DUELS[:3] + DUELS[4:6] if place.dry else DUELS
    names = dict.fromkeys(name for duel in plan for name in duel[:2])
    sound = _agreement(place, record, [name for name in names if "products" not in name])
    for ours, theirs, (rows, classes) in plan:
        what = f"{ours} and {theirs}, {rows} x 512 x {classes:,}"
        if not {ours, theirs} <= sound | {name for name in names if "products" in name}:
            record.not_run(what, "one of the two did not agree or run")
            continue
        with record.attempt(what):
            _duel(place, record, ours, theirs, _shape(place, rows, classes))
    for name, classes in (("ours bf16", LARGE[1]), ("ours bf16, bf16 weight", 10_000_000)):
        with record.attempt(f"memory of {name}, {classes:,} classes"):
            _memory(place, record, name, _shape(place, 256, classes))


def _shape(place: Place, rows: int, classes: int) -> Shape:
    if place.dry:
        return Shape(16, 32, 3000 if classes > 10**5 else 1000, "cpu")
    return Shape(rows, 512, classes, "cuda")


def _made(name: str, shape: Shape) -> Contender:
    """A contender whose weights were drawn on the device, which takes no seconds."""

    def empty(rows: range, dim: int, *, seed: int, std: float, dtype: torch.dtype) -> Tensor:
        return torch.empty(len(rows), dim, dtype=dtype, device=shape.device)

    with mock.patch.object(class_weights, "initial_weight", empty):
        contender = MAKERS[name](shape)
    contender.weights().normal_(0, 0.01)
    return contender


def _agreement(place: Place, record: Record, names: list[str]) -> set[str]:
    """Hold each against float64; returns those that agree."""
    sound = set()
    shape = _shape(place, 128, 5000)
    with mock.patch.object(head_measure, "CHECK_CLASSES", place.pick(5000, 700)):
        for name in names:
            with record.attempt(f"agreement of {name}"):
                found = head_measure.check(partial(_made, name), shape)
                record.figure(
                    f"agreement of {name}", found.worst, "relative error",
                    "loss, gradient and change of the weights in a step, against float64",
                )  # fmt: skip
                allowed = tolerance(name) if name.startswith("ours") else 0.1
                if place.dry and "bf16" in name:
                    allowed = 0.05  # so few dimensions do not average it away
                if not found.worst <= allowed:
                    raise ArithmeticError(f"{found} is above {allowed}")
                sound.add(name)
    return sound


def _duel(place: Place, record: Record, ours: str, theirs: str, shape: Shape) -> None:
    allowed = math.inf if place.dry else 10 * max(tolerance(ours), tolerance(theirs))
    with mock.patch.object(head_measure, "LEAST_TURN", 0.005 if place.dry else 0.2):
        found = head_measure.duel(
            partial(_made, ours), partial(_made, theirs), shape, place.pick(7, 3), 4.0, allowed
        )
    size = f"{shape.batch} x {shape.dim} x {shape.classes:,}"
    how = "forward, backward and SGD with momentum, in turns from the same weights"
    record.figure(f"{ours}, {size}", round(1e3 * found.ours, 4), "ms", how)
    record.figure(f"{theirs}, {size}", round(1e3 * found.theirs, 4), "ms", how)
    record.figure(
        f"{ours} / {theirs}, {size}", round(found.ratio, 3), "times",
        "median of the ratios of neighbouring turns", lowest=round(min(found.ratios), 3),
        highest=round(max(found.ratios), 3), rounds=len(found.ratios),
    )  # fmt: skip
    if theirs.startswith("products"):
        seconds = _floor(place, ours, shape)
        record.figure(
            f"{ours}, {size}: share of the floor", round(seconds / found.ours, 4), "",
            "the longer of 8 B D C operations at the rate of matmul and the bytes of weight and "
            "momentum at that of copy, over the time of a step", floor_ms=round(1e3 * seconds, 4),
        )  # fmt: skip


def _floor(place: Place, name: str, shape: Shape) -> float:
    """Seconds that no head can fall below: products, or the weight twice and the momentum."""
    narrow = "bf16" in name
    numbers = shape.classes * shape.dim
    rate = matmul_rate(place, torch.bfloat16 if narrow else torch.float32)
    size = 2 if name.endswith("bf16 weight") else 4
    return max(8 * shape.batch * numbers / rate, 5 * size * numbers / copy_rate(place))


def _memory(place: Place, record: Record, name: str, shape: Shape) -> None:
    make = partial(_made, name)
    peak = measure_peak(lambda given: make(replace(given, device=shape.device)), shape, steps=2)
    size = f"{shape.batch} x {shape.dim} x {shape.classes:,}"
    how = "peak of two steps"
    record.figure(f"{name}, {size}: weight and momentum", peak.held / 1e9, "GB", how)
    record.figure(f"{name}, {size}: on top of them", peak.extra / 1e9, "GB", how)
    record.figure(f"{name}, {size}: on top, share", peak.extra / max(peak.held, 1), "", how)
