"""Measuring on a machine that others use too: turns that they disturbed are taken again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def undisturbed(measure: Callable[[], float], tries: int) -> tuple[float, bool]:
    """Result of `measure` in a turn during which other processes computed for at most a twentieth.

    Args:
        measure: the thing to do, which takes a tenth of a second or more.
        tries: how often at most; the least disturbed counts, if all were.

    Returns:
        The result, and whether that turn was undisturbed. Only Linux tells.
    """
    best = float("inf"), 0.0
    for _ in range(tries):
        _wait_for_rest(2.0)
        began, others = time.perf_counter(), _others()
        value = measure()
        share = (_others() - others) / (time.perf_counter() - began)
        best = min(best, (share, value))
        if share < 0.05:
            return value, True
    return best[1], False


def _wait_for_rest(patience: float) -> None:
    """Until nobody else computes, or for so many seconds."""
    until = time.perf_counter() + patience
    while time.perf_counter() < until:
        others = _others()
        time.sleep(0.1)
        if _others() - others <= 0.02:
            return


def _others() -> float:
    """Seconds of computing so far of all processes but this one and its children."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    ours = [os.getpid(), *(child.pid for child in active_children())]
    return (sum(map(int, fields[:8])) - idle) / _TICK - sum(map(_seconds, ours))


def _seconds(process: int) -> float:
    # The name, in brackets, may hold blanks.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK  # its own, and of children that have ended
