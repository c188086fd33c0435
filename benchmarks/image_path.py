"""Files to batches: our image path against those that others use, side by side in one run.

    python benchmarks/image_path.py [--rounds 7] [--workers 2]

The contenders take turns, one epoch each, on the same files; a ratio is that of two neighbours in
time, and the medians and ranges of the ratios are printed. What is not installed is said. All run
in a process that keeps freed memory, as a training on the CPU does; so do their own processes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from image_paths import PEERS, Epoch, decode_all, ours
from photographs import SIZES, write_photographs
from requirements import missing
from turns import in_turns, ratios, shown

BATCH, SIZE = 64, 224


OURS = ("lookalike", "lookalike, scaled decode")


def rate(epoch: Epoch) -> float:
    gc.collect()
    settle()
    getattr(epoch, "before", lambda: None)()
    began, count = time.perf_counter(), 0
    for images in epoch():
        assert images.shape[1:] == (3, SIZE, SIZE)
        count += len(images)
    return count / (time.perf_counter() - began)


def settle() -> None:
    """Wait until no thread works ahead any more, on what nobody will take before its next turn."""
    rest = 0.05
    while True:
        used = time.process_time()
        time.sleep(rest)
        if time.process_time() - used < rest / 10:
            return


def compare(
    name: str, size: tuple[int, int], files: int, epochs: int, args: argparse.Namespace
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(path) for path in write_photographs(Path(folder), size, files)]
        mean = sum(map(os.path.getsize, paths)) / len(paths) / 1e3
        print(f"\n{name}: {size[1]} x {size[0]}, {mean:.0f} KB a file, {args.workers} workers")
        paths *= epochs
        contenders: dict[str, Callable[[], float]] = {}
        half = paths[: len(paths) // 2]
        epochs_of = {
            "lookalike": ours(paths, SIZE, BATCH, args.workers),
            "lookalike, scaled decode": ours(paths, SIZE, BATCH, args.workers, scaled=True),
            "its loader alone": ours(paths, SIZE, BATCH, args.workers, alone=True),
            "its loader alone, 1 thread": ours(half, SIZE, BATCH, 1, alone=True),
        }
        for contender, epoch in epochs_of.items():
            contenders[contender] = lambda epoch=epoch: rate(epoch)
        contenders["decode only"] = lambda: len(paths) / decode_all(paths, args.workers)
        contenders["decode only, 1 thread"] = lambda: len(half) / decode_all(half, 1)
        for peer, (modules, build) in PEERS.items():
            if lacking := missing(*modules):
                print(f"  {peer}: not run: {lacking}")
                continue
            epoch = build(paths, SIZE, BATCH, args.workers)
            contenders[peer] = lambda epoch=epoch: rate(epoch)
        for contender, measure in list(contenders.items()):  # starts workers, fills caches
            try:
                measure()
            except Exception as error:  # a peer that is installed but does not work here
                if contender not in PEERS:
                    raise
                print(f"  {contender}: not run: {str(error)[:120]}")
                del contenders[contender]
        print(f"  {'':45} times faster: {' | '.join(OURS)}")
        rates = in_turns(contenders, args.rounds)
        for contender, values in rates.items():
            line = f"  {contender:28} {statistics.median(values):6.0f} images/s"
            if contender in PEERS or contender == "decode only":
                line += "".join(f" | {shown(ratios(rates[base], values)):19}" for base in OURS)
            print(line, flush=True)
        alone = rates["its loader alone"]
        print(f"  loader / decode only: {shown(ratios(alone, rates['decode only']))}")
        for what, many in (("loader", alone), ("decode only", rates["decode only"])):
            one = "its loader alone, 1 thread" if many is alone else "decode only, 1 thread"
            print(f"  {what}, {args.workers} threads / 1: {shown(ratios(many, rates[one]))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.workers)
    for name, (files, epochs) in {"0.2 MP": (192, 6), "1.5 MP": (96, 4)}.items():
        compare(name, SIZES[name], files, epochs, args)


if __name__ == "__main__":
    main()
