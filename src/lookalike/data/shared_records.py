"""A list that one worker of each machine reads, and that the others map."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from lookalike.data.record_table import RecordTable
from lookalike.distributed.world import KeyValueStore, World


def read_once(read: Callable[[], RecordTable], world: World) -> RecordTable:
    """The table of `read`, called on one worker of each machine; called by all together.

    Raises:
        LookalikeError: `read` raised it, on this worker or another.
        StorageError: a worker cannot open the list that another has read.
    """
    if world.size == 1:
        return read()
    store = KeyValueStore(world)
    workers = world.all_gather_object([_machine() or f"worker {world.rank}", os.getpid()])
    machines = [machine for machine, _ in workers]
    reader = machines.index(machines[world.rank])
    table = None
    with world.raise_together():
        if reader == world.rank:
            try:
                table = read()
            finally:
                store.set(f"read by {reader}", True)
        else:
            _wait(store, f"read by {reader}", workers[reader][1])
    with world.raise_together():
        handle = None if table is None else table.handle()
    handles = world.all_gather_object(handle)
    with world.raise_together():
        if table is None:
            table = RecordTable.from_handle(handles[reader])
    return table


def _wait(store: KeyValueStore, key: str, process: int) -> None:
    """Wait until a worker of this machine has set the key or has ended.

    Not in a collective, whose time-out is shorter than it may take to read a long list.
    """
    began = time.monotonic()
    while store.get(key) is None and Path(f"/proc/{process}").exists():
        time.sleep(min(0.5, 0.01 + 0.05 * (time.monotonic() - began)))


def _machine() -> str | None:
    """A text that processes have in common if they can open each other's files, as on Linux."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:
        return None
