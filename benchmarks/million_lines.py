"""Time and memory of opening a list of a million images, in each form.

    python benchmarks/million_lines.py

Each form is read in a process of its own, or in several as the workers of a run. Bytes of an image
are those by which the memory of a process has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FORMS = ("image_list", "itag", "csv", "parquet")


def write(form: str, folder: Path, count: int) -> Path:
    """A file of `count` images of count / 10 classes."""
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
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    own = int(found["Private_Dirty"]) + int(found["Swap"])
    mapped = int(found["Rss"]) - int(found["Anonymous"])
    return own * 1024, mapped * 1024, int(peak[1]) * 1024


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
        # In one piece, as several workers write.
        sys.stdout.write(
            f"    worker {world.rank}: {len(catalog):,} images, {len(catalog.classes):,} classes: "
            f"{seconds:.2f} s, {cpu:.2f} s of a core; {own:.0f} bytes/image of its own, "
            f"{mapped:.0f} of mapped files, {peak:.0f} at most\n"
        )
        sys.stdout.flush()
        world.barrier()


def start_workers(path: Path, workers: int) -> None:
    """Run `measure` in this many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--measure", str(path)]
    started = []
    for rank in range(workers):
        of_worker = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port, "WORLD_SIZE": workers}
        values = {name: str(value) for name, value in of_worker.items()}
        environment = os.environ | values | {"MASTER_ADDR": "127.0.0.1"}
        started.append(subprocess.Popen(command, env=environment if workers > 1 else None))
    if any(process.wait() for process in started):
        raise SystemExit("a worker has failed")


def main() -> None:
    """Write and read each form."""
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
            start_workers(path, options.workers)
            path.unlink()


if __name__ == "__main__":
    main()
