"""A training step on the device beside timm's plain loop: same network, batch and arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gpu_measure import Place, compare, matmul_rate
from gpu_record import Record
from head_peers import eager_loss
from lookalike.data.loading.batch import Batch
from lookalike.training.step import repeatable
from our_step import DIM, our_step
from turns import in_turns, seconds_of

LR = 0.01
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
Step = Callable[[], object]


def _ours(
    place: Place, backbone: str, size: int, batch: Batch, classes: int, precision: torch.dtype,
    compiled: bool = False,
) -> Step:  # fmt: skip
    step = our_step(
        backbone, size, classes, device=place.device, precision=precision, compiled=compiled
    )
    return lambda: step(batch, 1)


class PlainLoop:
    """timm's model, cross-entropy, autocast and torch's SGD, as timm's training script has them.

    With `metric`, a linear embedding and ArcFace written by hand in place of the classifier.
    """

    def __init__(
        self, place: Place, backbone: str, size: int, batch: Batch, classes: int,
        precision: torch.dtype, metric: bool = False,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        wanted = {"img_size": size} if "vit" in backbone else {}
        self.model = timm.create_model(backbone, num_classes=DIM if metric else classes, **wanted)
        self.model.to(place.device)
        if "vit" not in backbone:
            self.model.to(memory_format=torch.channels_last)
        self.model.train()
        parameters = list(self.model.parameters())
        self.weight = None
        if metric:
            self.weight = nn.Parameter(0.01 * torch.randn(classes, DIM, device=place.device))
            parameters.append(self.weight)
        self.optimizer = torch.optim.SGD(parameters, LR, momentum=0.9, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(
            place.device.type, enabled=precision == torch.float16, init_scale=2.0**10
        )
        self.batch, self.place, self.precision = batch, place, precision
        self.mean = torch.tensor(MEAN, device=place.device).view(1, 3, 1, 1)
        self.std = torch.tensor(STD, device=place.device).view(1, 3, 1, 1)

    def __call__(self) -> None:
        """A step, from bytes in pinned memory as timm's prefetcher has them."""
        device = self.place.device
        images = self.batch.images.to(device, non_blocking=True).float()
        images = images.sub_(self.mean).div_(self.std)
        classes = self.batch.classes.to(device, non_blocking=True)
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            out = self.model(images)
        if self.weight is None:
            loss = F.cross_entropy(out.float(), classes)
        else:
            loss = eager_loss(out.float(), self.weight, classes)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def measure_step(place: Place, record: Record) -> None:
    """Record all of it, the most important settings first."""
    count, size = place.pick(256, 4), place.pick(224, 32)
    few, many = place.pick(1000, 20), place.pick(100_000, 200)
    conv, vit = ("test_resnet", "test_vit") if place.dry else ("resnet50", "vit_small_patch16_224")
    bf16 = torch.float32 if place.dry else torch.bfloat16
    for backbone in (conv, vit):
        held = random_batch(place, count, size, few)
        makers = {
            "lookalike": lambda b=backbone, h=held: _ours(place, b, size, h, few, bf16),
            "timm's loop": lambda b=backbone, h=held: PlainLoop(place, b, size, h, few, bf16),
        }
        flops = _flops(place, backbone, size)
        what = f"step, {backbone} at {size}, batch {count}, {bf16}, {few:,} classes"
        seconds = _compared(place, record, what, makers, count)
        if seconds:
            share = flops * count / seconds / matmul_rate(place, bf16)
            record.figure(
                f"{what}: share of the matmul rate", round(share, 4), "",
                "3 x the operations of a forward pass over the rate of torch.mm",
            )  # fmt: skip
    held = random_batch(place, count, size, many)
    makers = {
        "lookalike": lambda: _ours(place, conv, size, held, many, bf16),
        "timm's model, ArcFace by hand": lambda: PlainLoop(
            place, conv, size, held, many, bf16, metric=True
        ),
        "lookalike, 10 classes": lambda: _ours(
            place, conv, size, Batch(held.images, held.classes % 10, held.rows), 10, bf16
        ),
        "lookalike, repeatable convolutions": lambda: _repeatable(
            place, _ours(place, conv, size, held, many, bf16)
        ),
    }
    what = f"step, {conv} at {size}, batch {count}, {bf16}, {many:,} classes"
    _compared(place, record, what, makers, count)
    if place.dry:
        return
    held = random_batch(place, count, size, few)
    fp16 = {
        "lookalike": lambda: _ours(place, conv, size, held, few, torch.float16),
        "timm's loop": lambda: PlainLoop(place, conv, size, held, few, torch.float16),
    }
    _compared(place, record, f"step, {conv} at {size}, batch {count}, fp16", fp16, count)
    with record.attempt("whether steps of a vision transformer repeat to the bit"):
        same = _repeats(place, vit, size, bf16)
        how = "three steps twice from one seed, convolutions repeatable"
        record.figure(f"{vit}: steps repeat to the bit", str(same), "", how)
    compiled = {
        "lookalike": lambda: _ours(place, vit, size, held, few, bf16),
        "lookalike, compiled": lambda: _ours(place, vit, size, held, few, bf16, compiled=True),
    }
    _compared(place, record, f"step, {vit}, train.compile", compiled, count)


def _compared(
    place: Place, record: Record, what: str, makers: dict[str, Callable[[], Step]], count: int
) -> float | None:
    steps: dict[str, Step] = {}
    for name, make in makers.items():
        with record.attempt(f"{what}: {name}"):
            step = make()
            for _ in range(place.pick(4, 1)):
                step()
            steps[name] = step
    if "lookalike" not in steps:
        return None
    times = place.pick(8, 1)
    turns = {
        name: lambda step=step: seconds_of(step, place.device, times)
        for name, step in steps.items()
    }
    found = in_turns(turns, place.pick(7, 3), 6.0)
    how = "whole steps on a batch in pinned memory, SGD with momentum, in turns"
    return compare(record, what, found, count, "images/s", how)


def random_batch(place: Place, count: int, size: int, classes: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    if place.device.type == "cuda":
        pixels = pixels.pin_memory()
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Batch(pixels.permute(0, 3, 1, 2), labels, torch.arange(count))


def _flops(place: Place, backbone: str, size: int) -> float:
    """Operations of a training step of an image: three forward passes."""
    wanted = {"img_size": size} if "vit" in backbone else {}
    model = timm.create_model(backbone, num_classes=0, **wanted).to(place.device).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size, device=place.device))
    return 3 * counter.get_total_flops()


def _repeatable(place: Place, step: Step) -> Step:
    def run() -> None:
        with repeatable(place.device):
            step()

    return run


def _repeats(place: Place, backbone: str, size: int, precision: torch.dtype) -> bool:
    """True if the losses of some steps are the same twice."""
    losses = []
    with repeatable(place.device):
        for _ in range(2):
            step = _ours(place, backbone, size, random_batch(place, 32, size, 100), 100, precision)
            losses.append([step().losses["loss"] for _ in range(3)])  # type: ignore[attr-defined]
    return losses[0] == losses[1]
