"""Memory and processor time of processes, as Linux counts them."""

from __future__ import annotations

import os
from pathlib import Path


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most, VmData of its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Let VmHWM start anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def processor_seconds(process: int) -> float:
    """Seconds of computing so far of a process."""
    # The name, in brackets, may hold blanks.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    """Name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "an unknown processor"
