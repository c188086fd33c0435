"""A process that changes an index again and again, until it is killed.

    writer_process.py INDEX     for each line "N" on stdin: a child begins with change N

The child prints its id, and each change's number when it is done. It is a fork of a process that
has imported everything, so that hundreds can be killed in a minute. What another thread holds at
that moment stays locked in a fork for good; so there must be no other thread, and that is checked.
"""

import ctypes
import faulthandler
import os
import signal
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's allocator starts one

import numpy as np

from lookalike.index import compaction
from lookalike.index.index import Index

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POOL = 600
DIM = 16


def plan(number: int) -> tuple[str, list[str]]:
    """Kind and ids of change `number`."""
    dice = np.random.default_rng(number)
    kind = ["add", "add", "add", "remove", "compact"][dice.integers(5)]
    return kind, [f"{i}" for i in dice.choice(POOL, dice.integers(1, 250), replace=False)]


def vector(id: str, number: int) -> np.ndarray:
    """The vector that change `number` gives to an id."""
    x = np.random.default_rng([int(id), number]).standard_normal(DIM)
    return (x / np.linalg.norm(x)).astype(np.float32)


def work(path: str, number: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it has no end of its own
    report(f"child {os.getpid()}")  # before any change is reported
    index = Index.open(path)
    while True:
        kind, ids = plan(number)
        if kind == "add":
            index.add(vectors=np.stack([vector(id, number) for id in ids]), ids=ids)
        elif kind == "remove":
            index.remove(ids)
        else:
            index.compact()
        report(f"done {number}")
        number += 1


def report(line: str) -> None:
    """Write a line in one system call: `print` may be killed before its newline."""
    os.write(1, f"{line}\n".encode())


def main() -> None:
    compaction.LEVEL_0_ROWS, compaction.INT8_ROWS = 32, 64
    faulthandler.enable()  # whoever waits in vain sends SIGABRT
    for line in sys.stdin:
        names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
        if len(names) > 1:
            sys.exit(f"writer_process.py: would fork beside other threads: {', '.join(names)}")
        child = os.fork()
        if child == 0:
            work(sys.argv[1], int(line))
        os.waitpid(child, 0)
        report("ended")


if __name__ == "__main__":
    main()
