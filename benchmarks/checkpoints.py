"""Time that a training step waits for a checkpoint, written by a thread and before the next step.

    python benchmarks/checkpoints.py [--classes 100000] [--rounds 7] [--folder DIR]

Both ways take turns on the same state: ResNet-18, ArcFace over `--classes` classes of 512 numbers,
SGD with momentum. `wait` is the time until the next step may begin. `step` is the median of the
steps while no checkpoint is written, `step meanwhile` of those that a thread writes during.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import ALONE
from lookalike.training.checkpoint import Progress, folder_name
from lookalike.training.checkpoint_writer import CheckpointWriter
from our_step import our_step

SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    options = parser.parse_args()
    step = our_step("resnet18", SIZE, options.classes)
    classes = torch.randint(0, options.classes, (options.batch,))
    pixels = torch.randint(0, 256, (options.batch, 3, SIZE, SIZE), dtype=torch.uint8)
    batch = Batch(pixels, classes, torch.arange(options.batch))
    done = 0

    def timed_step() -> float:
        nonlocal done
        began = time.perf_counter()
        step(batch, done)
        done += 1
        return time.perf_counter() - began

    timed_step()
    waits: dict[bool, list[float]] = {True: [], False: []}
    written, alone, meanwhile = [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        writer, size = CheckpointWriter(ALONE), 0
        for turn in range(options.rounds):
            for copied in (True, False) if turn % 2 else (False, True):
                alone.append(timed_step())
                folder = Path(place) / folder_name(0)  # the same again: the disk need not grow
                began = time.perf_counter()
                writer.save(folder, step.trained, Progress(), copied=copied)
                waits[copied].append(time.perf_counter() - began)
                while writer.busy:
                    meanwhile.append(timed_step())
                writer.wait()
                if copied:
                    written.append(time.perf_counter() - began)
                size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"{size / 1e9:.2f} GB, {options.classes:,} classes, {torch.get_num_threads()} threads, "
        f"median of {options.rounds} (least to most)"
    )
    for copied, name in ((False, "before the next step"), (True, "by a thread")):
        found = waits[copied]
        middle = statistics.median(found)
        print(f"{name:21} wait {middle:.3f} s ({min(found):.3f} to {max(found):.3f})")
    print(
        f"step {statistics.median(alone):.3f} s, step meanwhile {statistics.median(meanwhile):.3f} "
        f"s, written in {statistics.median(written):.2f} s"
    )


if __name__ == "__main__":
    main()
