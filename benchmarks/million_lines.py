"""Time and memory of opening a list of a million images, in each form.

    python benchmarks/million_lines.py

Each form is read in a process of its own. `bytes/image` is the growth of the peak memory.
"""

from __future__ import annotations

import argparse
import json
import re
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


def peak_memory() -> int:
    """The most memory that this process had, in bytes; getrusage would know the parent's too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # Linux writes it
    return int(found[1]) * 1024


def measure(path: str) -> None:
    """Open the file in this process and print seconds and bytes."""
    from lookalike.data.catalog import open_catalog

    before = peak_memory()
    began = time.monotonic()
    catalog = open_catalog(path)
    seconds = time.monotonic() - began
    grown = peak_memory() - before
    print(f"{len(catalog)} {len(catalog.classes)} {seconds:.2f} {grown}")


def main() -> None:
    """Write and read each form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        for form in options.forms:
            path = write(form, Path(folder), options.images)
            command = [sys.executable, __file__, "--measure", str(path)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            images, classes, seconds, grown = out.split()
            print(
                f"{form:11} {int(images):,} images, {int(classes):,} classes, file "
                f"{path.stat().st_size / 1e6:.0f} MB: {seconds} s, "
                f"{int(grown) / int(images):.0f} bytes/image"
            )


if __name__ == "__main__":
    main()
