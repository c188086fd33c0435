"""A process that changes an index again and again, until it is killed.

    writer_process.py INDEX     for each line "N" on stdin: a child begins with change N

It prints the child's id, and each change's number when it is done. The child is a fork of a process
that has imported everything, so that hundreds can be killed in a minute.
"""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has one thread only

import numpy as np

from lookalike.gallery import approximate, upkeep
from lookalike.gallery.index import Index

POOL = 600
DIM = 16


def plan(number: int) -> tuple[str, list[str]]:
    """What change `number` is, and of which ids."""
    dice = np.random.default_rng(number)
    kind = ["add", "add", "add", "remove", "compact"][dice.integers(5)]
    return kind, [f"{i}" for i in dice.choice(POOL, dice.integers(1, 250), replace=False)]


def vector(id: str, number: int) -> np.ndarray:
    """The vector that change `number` gives to an id."""
    x = np.random.default_rng([int(id), number]).standard_normal(DIM)
    return (x / np.linalg.norm(x)).astype(np.float32)


def work(path: str, number: int) -> None:
    index = Index.open(path)
    while True:
        kind, ids = plan(number)
        if kind == "add":
            index.add(vectors=np.stack([vector(id, number) for id in ids]), ids=ids)
        elif kind == "remove":
            index.remove(ids)
        else:
            index.compact()
        print(f"done {number}", flush=True)
        number += 1


def main() -> None:
    upkeep._SMALLEST, upkeep._CODED, upkeep._STRUCTURED = 32, 64, 420
    approximate.faiss()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            work(sys.argv[1], int(line))
        print(f"child {child}", flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
