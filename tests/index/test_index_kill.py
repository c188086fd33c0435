"""An index whose writer is killed at any moment: all of the old, or all of the new."""

import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import writer_process

from lookalike.index.index import Index

KILLS = 5
PATIENCE = 120.0
"""Seconds in which the busiest machine imports torch, or changes an index."""


class Writer:
    """The process that changes an index, heard line by line, and never waited for in vain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.child: int | None = None
        self._process = subprocess.Popen(
            [sys.executable, writer_process.__file__, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("nothing more")

    def hear(self) -> str:
        try:
            return self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            os.kill(self.child or self._process.pid, signal.SIGABRT)  # it shows where it stands
            self.child = None
            raise AssertionError(f"not a word from the writer in {PATIENCE:g} s") from None

    def begin(self, number: int) -> None:
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        word, _, child = self.hear().partition(" ")
        assert word == "child"
        self.child = int(child)

    def kill(self) -> None:
        assert self.child is not None
        os.kill(self.child, signal.SIGKILL)
        self.child = None

    def close(self) -> int:
        """The exit code; whatever is alive yet is killed."""
        if self.child is not None:
            self.kill()
        self._process.stdin.close()
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            self._process.stdout.close()


@pytest.fixture
def writer(tmp_path):
    path = tmp_path / "x"
    Index.create(path, dim=writer_process.DIM)
    writer = Writer(path)
    yield writer
    assert writer.close() == 0


def after(state: dict[str, int], number: int) -> dict[str, int]:
    """Id -> the change that gave it its vector, after change `number`; in order."""
    kind, ids = writer_process.plan(number)
    state = dict(state)
    if kind != "compact":
        for id in ids:
            state.pop(id, None)
    if kind == "add":
        state |= dict.fromkeys(ids, number)
    return state


def holds(index: Index, state: dict[str, int]) -> bool:
    """True if the index is this state: ids, order, vectors, and what is found."""
    if index.ids() != list(state):
        return False
    if not state:
        return True
    vectors = np.stack([writer_process.vector(id, number) for id, number in state.items()])
    if not (index.vectors(list(state)) == vectors).all():
        return False
    asked = list(state)[:: max(1, len(state) // 8)]
    queries = np.stack([writer_process.vector(id, state[id]) for id in asked])
    found = index.search(queries, 1)
    return [row[0] for row in found.ids] == asked


def test_kill_at_any_moment_leaves_the_old_or_new_state(writer):
    path = writer.path
    dice = random.Random(0)
    state: dict[str, int] = {}
    number = 0
    halves = 0
    pace = 0.1
    kills = 0
    # Until one of them fell between a change and its report, if chance has it.
    while kills < KILLS or (halves == 0 and kills < 4 * KILLS):
        kills += 1
        writer.begin(number)
        reader = Index.open(path)
        for _ in range(dice.randrange(3)):
            began = time.monotonic()
            assert writer.hear() == f"done {number}"
            state = after(state, number)
            number += 1
            pace = time.monotonic() - began
        end = time.monotonic() + dice.uniform(0.0, 1.3 * pace)
        while time.monotonic() < end:  # whoever reads meanwhile sees a whole state
            ids = reader.search(np.ones((1, writer_process.DIM)), 50).ids[0]
            assert len(set(ids)) == len(ids)
        writer.kill()
        while (line := writer.hear()) != "ended":
            state = after(state, number)
            number += 1
            assert line == f"done {number - 1}"
        index = Index.open(path)
        if not holds(index, state):
            state = after(state, number)
            number += 1
            halves += 1
            assert holds(index, state), f"neither before nor after change {number - 1}"
    assert number > KILLS / 2  # it did work
    index.compact()
    assert holds(index, state)
    left = {file.name for file in Path(path, "segments").rglob("*") if file.is_file()}
    assert left == set().union(*(entry.files for entry in index.store.state.segments))
