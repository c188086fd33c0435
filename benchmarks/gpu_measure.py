"""Times, and what the machine can do at most: the ceilings of `gpu.py`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cache

import torch

from gpu_record import Record
from turns import ratios, seconds_of


@dataclass(frozen=True)
class Place:
    """Device and sizes of a measurement.

    Attributes:
        device: cuda or cpu.
        dry: the smallest sizes that show that everything works.
    """

    device: torch.device
    dry: bool

    @classmethod
    def here(cls, dry: bool) -> Place:
        """The first CUDA device, or the CPU where it is a dry run."""
        if dry:
            torch.set_num_threads(1)
            return cls(torch.device("cpu"), True)
        torch.cuda.set_device(0)
        return cls(torch.device("cuda", 0), False)

    def pick(self, full: int, dry: int) -> int:
        return dry if self.dry else full


def compare(
    record: Record,
    what: str,
    found: dict[str, list[float]],
    count: float,
    unit: str,
    how: str,
    first: str = "lookalike",
) -> float:
    """Record the rate of each contender and how much faster the first is; returns its seconds."""
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        record.figure(f"{what}: {name}", round(count / middle, 3), unit, how, rounds=len(seconds))
        if name != first:
            faster = ratios(seconds, found[first])
            record.figure(
                f"{what}: {first} / {name}", round(statistics.median(faster), 3), "times",
                "median of the ratios of neighbouring turns", lowest=round(min(faster), 3),
                highest=round(max(faster), 3),
            )  # fmt: skip
    return statistics.median(found[first])


@cache
def matmul_rate(place: Place, dtype: torch.dtype, tf32: bool = False) -> float:
    """Operations a second of a large product of random numbers; the median of several."""
    size = place.pick(8192, 256)
    a, b = (torch.randn(size, size, device=place.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, tf32
    try:
        times = [seconds_of(lambda: torch.mm(a, b, out=out), place.device, 3) for _ in range(6)]
    finally:
        matmul.allow_tf32 = before
    return 2 * size**3 / statistics.median(times[1:])


@cache
def copy_rate(place: Place) -> float:
    """Bytes a second, read and written, of a copy larger than any cache."""
    source = torch.randn(place.pick(2**29, 2**22), device=place.device)
    target = torch.empty_like(source)
    times = [seconds_of(lambda: target.copy_(source), place.device, 3) for _ in range(6)]
    return 2 * source.nbytes / statistics.median(times[1:])


@cache
def exp_rate(place: Place) -> float:
    """Exponentials a second, from numbers that stay in the cache."""
    x = torch.randn(2**20, device=place.device)
    out = torch.empty_like(x)
    times = [seconds_of(lambda: torch.exp(x, out=out), place.device, 50) for _ in range(5)]
    return x.numel() / statistics.median(times[1:])


def measure_ceilings(place: Place, record: Record) -> None:
    size = place.pick(8192, 256)
    how = f"torch.mm of {size} x {size} random numbers, median of 5"
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
        ("fp32", torch.float32, False),
        ("fp32 as TF32", torch.float32, True),
    ):
        if place.dry and dtype == torch.float16:
            continue  # a CPU may take seconds
        with record.attempt(f"matmul {name}"):
            rate = matmul_rate(place, dtype, tf32)
            record.figure(f"matmul {name}", round(rate / 1e12, 3), "TFLOP/s", how)
    with record.attempt("copy"):
        rate = copy_rate(place)
        record.figure("copy", round(rate / 1e9, 1), "GB/s", "copy_ on the device, read + written")
    with record.attempt("exp"):
        record.figure("exp", round(exp_rate(place) / 1e9, 2), "G/s", "torch.exp of 2^20 fp32")
    if place.device.type == "cuda":
        with record.attempt("host to device"):
            source = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
            target = torch.empty_like(source, device=place.device)
            times = [
                seconds_of(lambda: target.copy_(source, non_blocking=True), place.device)
                for _ in range(5)
            ]
            rate = source.numel() / statistics.median(times)
            record.figure("host to device", round(rate / 1e9, 2), "GB/s", "pinned, 256 MiB")
