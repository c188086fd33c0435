"""Files to batches: our image path against those that others use, side by side in one run.

    python benchmarks/image_path.py [--rounds 7] [--workers 2]

The contenders take turns, one epoch each, on the same files; a ratio is that of two neighbours in
time, and the medians and ranges of the ratios are printed. What is not installed is said. A turn
that other processes disturbed is taken again, and how many remain disturbed is said. All run
in a process that keeps freed memory, as a training on the CPU does; so do their own processes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from image_path_peers import MEAN, PEERS, SCALE, STD, Epoch
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.record import Record
from photographs import SIZES, write_photographs
from requirements import missing
from undisturbed import undisturbed

BATCH, SIZE = 64, 224


OURS = ("lookalike", "lookalike, scaled decode")


def ours(
    paths: list[str],
    workers: int,
    *,
    scaled: bool = False,
    alone: bool = False,
) -> Epoch:
    """Our loader, and unless `alone` the normalisation that training does on the device."""
    records = tuple(Record(path, "0", "list.txt", 1) for path in paths)
    catalog = Catalog(records, np.zeros(len(paths), np.int64), Classes(("0",)))
    augment = Augment(image_size=SIZE, crop_scale=SCALE, scaled_decode=scaled)
    loader = TrainLoader(
        catalog, batch_size=BATCH, augment=augment, seed=0, source=Source(threads=workers)
    )
    preprocess = Preprocess(SIZE, 1.0, MEAN, STD)
    number = iter(range(10**9))

    def epoch() -> Iterator[torch.Tensor]:
        for batch in loader.epoch(next(number)):
            yield batch.images if alone else preprocess.normalise(batch.images)

    return epoch


def decode_only(paths: list[str], workers: int) -> float:
    """Images a second of nothing but reading and simplejpeg."""

    def decode(path: str) -> None:
        simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(decode, paths):  # nothing is kept
            pass
    return len(paths) / (time.perf_counter() - began)


def rate(epoch: Epoch) -> float:
    """Images a second of one epoch."""
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
    """Measure all contenders on files of one size."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(path) for path in write_photographs(Path(folder), size, files)]
        mean = sum(map(os.path.getsize, paths)) / len(paths) / 1e3
        print(f"\n{name}: {size[1]} x {size[0]}, {mean:.0f} KB a file, {args.workers} workers")
        paths *= epochs
        contenders: dict[str, Callable[[], float]] = {}
        half = paths[: len(paths) // 2]
        epochs_of = {
            "lookalike": ours(paths, args.workers),
            "lookalike, scaled decode": ours(paths, args.workers, scaled=True),
            "its loader alone": ours(paths, args.workers, alone=True),
            "its loader alone, 1 thread": ours(half, 1, alone=True),
        }
        for contender, epoch in epochs_of.items():
            contenders[contender] = lambda epoch=epoch: rate(epoch)
        contenders["decode only"] = lambda: decode_only(paths, args.workers)
        contenders["decode only, 1 thread"] = lambda: decode_only(half, 1)
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
        rates: dict[str, list[float]] = {contender: [] for contender in contenders}
        disturbed = 0
        for _ in range(args.rounds):
            for contender, measure in contenders.items():
                value, clean = undisturbed(measure, tries=4)
                rates[contender].append(value)
                disturbed += not clean
        print(f"  {disturbed} of {args.rounds * len(contenders)} turns were disturbed by others")
        for contender, values in rates.items():
            line = f"  {contender:28} {statistics.median(values):6.0f} images/s"
            if contender in PEERS or contender == "decode only":
                line += "".join(f" | {_ratio(rates[base], values):19}" for base in OURS)
            print(line, flush=True)
        alone = rates["its loader alone"]
        print(f"  loader / decode only: {_ratio(alone, rates['decode only'])}")
        for what, many in (("loader", alone), ("decode only", rates["decode only"])):
            one = "its loader alone, 1 thread" if many is alone else "decode only, 1 thread"
            print(f"  {what}, {args.workers} threads / 1: {_ratio(many, rates[one])}")


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Run both sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.workers)
    for name, (files, epochs) in {"0.2 MP": (192, 6), "1.5 MP": (96, 4)}.items():
        compare(name, SIZES[name], files, epochs, args)


if __name__ == "__main__":
    main()
