"""Steps of a network that workers share (FSDP2), by a group of one worker, beside whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from gpu_measure import Place, compare
from gpu_record import Record
from gpu_step import random_batch
from lookalike.training.checkpoint import Trained
from our_step import our_step
from turns import in_turns, seconds_of

CLASSES = 1000


def measure_shards(place: Place, record: Record) -> None:
    """Record seconds, bytes and losses of both, and the time that gathering takes."""
    name = "test_vit" if place.dry else "vit_large_patch16_224"
    count = place.pick(64, 4)
    what = f"{name}, batch {count}, adamw"
    size = place.pick(224, 32)
    contenders: dict[str, dict[str, bool]] = {
        "lookalike": {},
        "shared": {"shared": True},
        "shared, activations recomputed": {"shared": True, "recomputing": True},
    }
    batch = random_batch(place, count, size, CLASSES)
    with _group(place):
        losses: dict[str, list[float]] = {}
        times: dict[str, list[float]] = {}
        for contender, options in contenders.items():
            with record.attempt(f"{what}: {contender}"):
                if place.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                step = our_step(
                    name, size, CLASSES, device=place.device, precision=torch.bfloat16,
                    optimizer="adamw", lr=1e-4, clip_grad_norm=5.0, **options,
                )  # fmt: skip
                losses[contender] = [step(batch, 1).losses["loss"] for _ in range(3)]
                turn = {contender: lambda s=step: seconds_of(lambda: s(batch, 1), place.device, 3)}
                times |= in_turns(turn, place.pick(5, 1), 5.0)
                if place.device.type == "cuda":
                    used = torch.cuda.max_memory_allocated() / 1e9
                    record.figure(f"{what}: {contender}: peak memory", round(used, 3), "GB", "")
                if step.trained.shards is not None:
                    _gathering(place, record, f"{what}: {contender}", step.trained)
                del step, turn
        if "lookalike" in times:
            compare(record, what, times, count, "images/s", "whole steps, one after the other")
        for contender in losses.keys() - {"lookalike"}:
            pairs = zip(losses[contender], losses.get("lookalike", []), strict=False)
            worst = max((abs(a - b) / abs(b) for a, b in pairs), default=None)
            if worst is not None:
                how = "of the losses of three steps, to those of a whole network"
                record.figure(f"{what}: {contender}: largest relative difference", worst, "", how)


def _gathering(place: Place, record: Record, what: str, trained: Trained) -> None:
    def gather() -> None:
        with trained.whole():
            pass

    seconds = seconds_of(gather, place.device, place.pick(5, 1))
    how = "all weights, as for a measurement; between workers it takes longer"
    record.figure(f"{what}: gathering", round(seconds * 1e3, 2), "ms", how)


@contextmanager
def _group(place: Place) -> Iterator[None]:
    """Process group of this worker alone: NCCL on a GPU."""
    cuda = place.device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1,
        device_id=place.device if cuda else None,
    )  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()
