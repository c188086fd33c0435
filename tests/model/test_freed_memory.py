import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource
from lookalike.model.freed_memory import keep_freed_memory, return_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]

def faults(size=50 * 2**20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
kept = keep_freed_memory()
faults()
print(kept, faults() < before / 4)
return_freed_memory()
print(keep_freed_memory(), faults() < before / 4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize("chosen", [False, True])
def test_large_blocks_are_used_again_unless_the_environment_sets_malloc(chosen, monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert done.stdout.split() == [str(not chosen)] * 2 + ["False"] * 2, done.stderr
