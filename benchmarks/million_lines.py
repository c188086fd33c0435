"""Time and memory of opening a list of a million images, in each form.

    python benchmarks/million_lines.py
    python benchmarks/million_lines.py --command evaluate --workers 2

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
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

import process_figures
from worker_processes import run_workers

if TYPE_CHECKING:
    from lookalike.data.catalog import Catalog
    from lookalike.data.record_table import RecordTable
    from lookalike.distributed.world import World

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


def opened(command: str, path: str, world: World) -> Catalog | RecordTable:
    """The list as a command opens it."""
    from lookalike.config.config import Config
    from lookalike.data.inputs import read_places
    from lookalike.data.shared_records import read_once
    from lookalike.evaluation.testset import from_list
    from lookalike.training.request_lists import open_catalogs

    if command == "train":
        return open_catalogs(Config.of(None, {"train": path}), world=world)[0]
    if command == "evaluate":
        return from_list(path, world=world).catalog
    return read_once(lambda: read_places([path]), world)


def measure(path: str, command: str) -> None:
    """Open the list as a command does, and print a line with what it took of this worker."""
    import lookalike.data.inputs
    import lookalike.evaluation.testset
    import lookalike.training.build  # noqa: F401  # not counted
    from lookalike.distributed.world import World

    with World.from_env("cpu") as world:
        before = memory()
        began, cpu = time.monotonic(), time.process_time()
        found = opened(command, path, world)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        world.barrier()
        gc.collect()
        own, mapped, peak = (
            (after - start) / len(found) for after, start in zip(memory(), before, strict=True)
        )
        print(
            f"    worker {world.rank}: {len(found):,} images: {seconds:.2f} s, {cpu:.2f} s of "
            f"a core; {own:.0f} bytes/image of its own, {mapped:.0f} of mapped files, "
            f"{peak:.0f} at most"
        )
        world.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--command", default="train", choices=("train", "embed", "evaluate"))
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.command)
        return
    with tempfile.TemporaryDirectory() as folder:
        for form in options.forms:
            path = write(form, Path(folder), options.images)
            print(f"{form}, {path.stat().st_size / 1e6:.0f} MB:", flush=True)
            command = [sys.executable, __file__, "--measure", str(path)]
            command += ["--command", options.command]
            print(*run_workers(command, options.workers), sep="", end="", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
