"""Memory and cores of this machine."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")
_SYSTEM = Path("/proc/meminfo")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed() -> int:
    """Bytes of memory of this machine, or of what its control group allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _limit()
    return total if limit is None else min(total, limit)


def available() -> int:
    """Bytes that programs may still take without swapping; `installed` where it is unknown."""
    found = (
        re.search(r"MemAvailable:\s+(\d+) kB", _SYSTEM.read_text()) if _SYSTEM.exists() else None
    )
    free = installed() if found is None else int(found[1]) * 1024
    limit = _limit()
    if limit is None:
        return free
    used = int((_GROUP / "memory.current").read_text())
    # Cached files count as used, and are dropped where programs need memory.
    cached = re.search(r"^inactive_file (\d+)$", (_GROUP / "memory.stat").read_text(), re.MULTILINE)
    return min(free, limit - used + (0 if cached is None else int(cached[1])))


def resident() -> int:
    """Resident bytes of this process."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def _limit() -> int | None:
    file = _GROUP / "memory.max"
    text = file.read_text().strip() if file.exists() else "max"
    return int(text) if text.isdigit() else None
