"""Memory of a head: peaks in a process of its own, and free bytes."""

import gc
import json
import re
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from head_contender import Maker, NotRunError, Shape, make_batch
from process_figures import forget_peak, memory
from turns import synchronise


@dataclass(frozen=True)
class Peak:
    """Memory of a contender, bytes.

    Attributes:
        held: weight and momentum.
        extra: what came on top in the worst moment of a step.
    """

    held: int
    extra: int


def measure_peak(make: Maker, shape: Shape, steps: int = 3) -> Peak:
    """The peak of some steps. To be called in a process of its own.

    On the CPU: the high-water mark of resident memory, less what was resident before, and less
    the weight and the momentum.
    """
    warm = make(replace(shape, classes=4096))
    warm.step(*make_batch(replace(shape, classes=4096)))  # libraries load, thread pools start
    del warm
    gc.collect()
    cuda = shape.device == "cuda"
    batch = make_batch(shape)
    synchronise(shape.device)
    before = torch.cuda.memory_allocated() if cuda else memory("VmRSS")
    contender = make(shape)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    for _ in range(steps):
        contender.step(*batch)
    synchronise(shape.device)
    peak = torch.cuda.max_memory_allocated() if cuda else memory("VmHWM")
    held = 2 * shape.classes * shape.dim * contender.itemsize
    return Peak(held, peak - before - held)


def free_memory() -> int:
    """Bytes that can be had now."""
    [line] = re.findall(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(line) * 1024


def limit_memory() -> None:
    """Let an allocation beyond what is free fail in this process, instead of ending another."""
    limit = memory("VmData") + int(0.92 * free_memory())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def peak_in_child(script: str, name: str, shape: Shape, threads: int) -> dict[str, Any]:
    """`measure_peak` in a process of its own; `script` answers to --peak by `answer_peak`."""
    command = [sys.executable, script, "--peak", name, *as_flags(shape, threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        return {"not_run": f"ended by signal {-done.returncode}"}
    raise RuntimeError(f"{name}: {done.stderr}")


def as_flags(shape: Shape, threads: int) -> list[str]:
    flags = {
        "--batch": shape.batch, "--dim": shape.dim, "--classes": shape.classes,
        "--threads": threads,
    }  # fmt: skip
    if shape.partial_fc is not None:
        flags["--partial-fc"] = shape.partial_fc
    return [str(word) for pair in flags.items() for word in pair]


def answer_peak(make: Maker, shape: Shape) -> None:
    """Work of the child: one line of JSON."""
    limit_memory()
    try:
        line = asdict(measure_peak(make, shape))
    except NotRunError as reason:
        line = {"not_run": str(reason)}
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        line = {"not_run": "out of memory"}
    print(json.dumps(line))
