"""Timing of contenders in turns, so that a machine with other work slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def in_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int, seconds: float = math.inf
) -> dict[str, list[float]]:
    """Results of each, called in turns; forwards and backwards, so that no place is better.

    Args:
        contenders: each returns the seconds of the same work, or its rate.
        rounds: at most.
        seconds: after so many no further round begins, once there are three.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    began = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - began > seconds:
            break
        names = list(contenders)
        for name in names if number % 2 == 0 else names[::-1]:
            found[name].append(contenders[name]())
    return found


def synchronise(device: torch.device | str) -> None:
    """Wait until the device has done what it was asked."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    work: Callable[[], object], device: torch.device | str = "cpu", times: int = 1
) -> float:
    """Seconds of `work`, the mean of so many calls one after the other."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronise(device)
    return (time.perf_counter() - began) / times


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Ratios of neighbours in time, a round each."""
    return [a / b for a, b in zip(above, below, strict=True)]


def shown(found: Sequence[float]) -> str:
    """The median of ratios, the lowest and the highest."""
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
