import os
import resource

import pytest
import torch

from lookalike.memory import freed_memory_kept

CPU = torch.device("cpu")
BYTES = 200 * 2**20


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


def faults_of_one_more() -> int:
    """Page faults of 200 MB that were there a moment ago.

    The best of some tries: a small block may come to lie in the gap, which then is too small.
    """
    found = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(BYTES, dtype=torch.uint8)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found[1:])


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_used_again_within_and_given_back_after():
    with freed_memory_kept(CPU) as kept:
        assert kept
        with freed_memory_kept(CPU):
            assert faults_of_one_more() < 50
        assert faults_of_one_more() < 50  # the inner one does not end the outer one
        held = resident()
    assert resident() < held - BYTES / 2
    before = resident()
    assert faults_of_one_more() > 50
    assert resident() < before + BYTES / 2  # a large block is given back when it is freed


def test_nothing_is_changed_where_it_is_not_ours(monkeypatch):
    with freed_memory_kept(torch.device("cuda")) as kept:
        assert not kept
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    with freed_memory_kept(CPU) as kept:
        assert not kept
