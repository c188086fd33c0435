"""Time and memory of opening a list of a million images, in each form.

    python benchmarks/million_lines.py

Each form is read in a process of its own, or in several as the workers of a run. Bytes of an image
are those by which the memory of a process has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import process_figures
from worker_processes import run_workers

FORMS = ("image_list", "itag", "csv", "parquet")


def write(form: str, folder: Path, count: int) -> Path:
    pairs = ((f"photos/{i % 1000:03d}/{i:08d}.jpg", f"product-{i // 10}") for i in range(count))
    path = folder / f"data.{form}"
    if form == "parquet":
        paths, labels = zip(*pairs, strict=True)
        pq.write_table(pa.table({"path": paths, "label": labels}), path)
        return path
    with path.open("w") as stream:
        if form == "csv":
            stream.write("path,label\n")
        for image, label in pairs:
            if form == "itag":
                answer = {"results": [{"data": label}]}
                item = {"data": {"source": image}, "label-1": answer, "label-1-verify": answer}
                stream.write(json.dumps(item) + "\n")
            else:
                stream.write(f"{image},{label}\n" if form == "csv" else f"{image} {label}\n")
    return path


def memory() -> tuple[int, int, int]:
    """Bytes of this process: its own, those of mapped files, and the most that it had.

    Its own are those that it has written to (Linux; getrusage would know the parent's peak too).
    """
    rollup = Path("/proc/self/smaps_rollup").read_text()
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.MULTILINE))
    own = int(found["Private_Dirty"]) + int(found["Swap"])
    mapped = int(found["Rss"]) - int(found["Anonymous"])
    return own * 1024, mapped * 1024, process_figures.memory("VmHWM")


def measure(path: str) -> None:
    """Open the list as `train` does, and print a line with what it took of this worker."""
    from lookalike.config.config import Config
    from lookalike.distributed.world import World
    from lookalike.training.build import open_catalogs

    config = Config.of(None, {"train": path})
    with World.from_env("cpu") as world:
        before = memory()
        began, cpu = time.monotonic(), time.process_time()
        catalog, _ = open_catalogs(config, world=world)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        world.barrier()
        gc.collect()
        own, mapped, peak = (
            (after - start) / len(catalog) for after, start in zip(memory(), before, strict=True)
        )
        print(
            f"    worker {world.rank}: {len(catalog):,} images, {len(catalog.classes):,} classes: "
            f"{seconds:.2f} s, {cpu:.2f} s of a core; {own:.0f} bytes/image of its own, "
            f"{mapped:.0f} of mapped files, {peak:.0f} at most"
        )
        world.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        for form in options.forms:
            path = write(form, Path(folder), options.images)
            print(f"{form}, {path.stat().st_size / 1e6:.0f} MB:", flush=True)
            command = [sys.executable, __file__, "--measure", str(path)]
            print(*run_workers(command, options.workers), sep="", end="", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
