"""The workers of a run, as processes of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence


def run_workers(command: Sequence[str], workers: int) -> list[str]:
    """Run a command once for each worker, which share the cores; what each of them printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    shared = {
        **os.environ, "WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    running = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(workers)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"error: a worker has failed: {' '.join(command)}")
    return outputs
