"""Damaged lists, manifests, tables and shards: each must be read, or refused in one clear error.

    python benchmarks/fuzz.py --inputs 100000

Every reader gets its share of inputs: a sound file in which bytes, tokens and lines were changed,
repeated, cut out or swapped, or nonsense from its own vocabulary. Anything but records or a
LookalikeError (exit code 2 for the user) ends the run with the input that did it.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import random
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.data import read_records
from lookalike.data.catalog import build_catalog
from lookalike.data.classes import read_class_names
from lookalike.errors import LookalikeError

TOKENS = [
    *(b" ", b"\t", b"\n", b"\r\n", b"\r", b",", b";", b'"', b"'", b"{", b"}", b"[", b"]", b":"),
    *(b"\0", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x85", b"#", b"://"),
    *(b"http://[", b"oss://", b"file://", b"nan", b"-1", b"007", b"1e999", b"9" * 400, b"null"),
    *(b"true", b'"results"', b'"data"', b'"labels"', b"label-1-verify", b"path", b"split"),
]  # fmt: skip


def sound_files() -> dict[str, tuple[str, bytes]]:
    """A small good file for each reader: its suffix and content."""
    listed = "".join(f"photos/{i} x.jpg class-{i % 3}\n" for i in range(8))
    items = [
        {"data": {"source": f"{i}.jpg"}, "label-1": {"results": [{"data": f"c{i % 2}"}]},
         "label-1-verify": {"results": [{"data": {"labels": {"q": "c1"}}}]}}
        for i in range(5)
    ]  # fmt: skip
    table = "path,label,split,is_query,is_gallery,sequence,x_1,y_1,x_2,y_2\n" + "".join(
        f'"{i}.jpg",{i % 2},train,True,False,s{i},1,2,30,40\n' for i in range(5)
    )
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    embedded = pa.table(
        {
            "image": pa.array([{"bytes": bytes([i]) * 9, "path": "x"} for i in range(6)], image),
            "label": [i % 2 for i in range(6)],
        }
    )
    parquet, arrow, tar = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(embedded, parquet)
    with pa.ipc.new_stream(arrow, embedded.schema) as writer:
        writer.write_table(embedded)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for i in range(3):
            for end, content in ((".jpg", b"\xff\xd8pixels"), (".json", b'{"label": 3}')):
                entry = tarfile.TarInfo(f"{i:04d}{end}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return {
        "image_list": (".txt", listed.encode()),
        "itag": (".jsonl", "\n".join(map(json.dumps, items)).encode()),
        "csv": (".csv", table.encode()),
        "parquet": (".parquet", parquet.getvalue()),
        "arrow": (".arrow", arrow.getvalue()),
        "webdataset": (".tar", tar.getvalue()),
        "class names": (".names", b"cat\ndog\nowl\n"),
    }


def damaged(sound: bytes, dice: random.Random) -> bytes:
    """One to twelve changes of bytes, tokens or whole pieces."""
    if dice.random() < 0.05:
        return b"".join(dice.choices(TOKENS, k=dice.randrange(40)))
    data = bytearray(sound)
    for _ in range(dice.choice((1, 1, 2, 3, 12))):
        begin = dice.randrange(len(data) + 1)
        end = min(len(data), begin + dice.choice((0, 1, 2, 8, 64)))
        kind = dice.randrange(6)
        if kind == 0 and begin < len(data):
            data[begin] = dice.randrange(256)
        elif kind == 1:
            data[begin:begin] = dice.choice(TOKENS)
        elif kind == 2:
            del data[begin:end]
        elif kind == 3:
            data[begin:begin] = data[begin:end]
        elif kind == 4:
            place = dice.randrange(len(data) + 1)
            data[place:place] = data[begin:end]
        else:
            data[begin:end] = dice.choice(TOKENS)
    return bytes(data[: dice.randrange(len(data) + 1)] if dice.random() < 0.1 else data)


def main() -> int:
    """Run; 1 if a reader let anything else through."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="files in all")
    parser.add_argument("--seed", type=int, default=None, help="of the damage; fresh by default")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}")
    logging.disable(logging.WARNING)
    dice, files = random.Random(seed), sound_files()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOOKALIKE_CACHE"] = f"{folder}/cache"
        for name, (suffix, sound) in files.items():
            path, count = Path(folder, f"input{suffix}"), Counter[str]()
            began = time.monotonic()
            for _ in range(-(-options.inputs // len(files))):
                data = damaged(sound, dice)
                path.write_bytes(data)
                try:
                    if name == "class names":
                        read_class_names(str(path))
                    else:
                        known = name if name in ("image_list", "itag", "csv") else "auto"
                        build_catalog(read_records(str(path), known))
                    count["read"] += 1
                except LookalikeError as error:
                    if not str(error).strip():
                        raise
                    count["refused"] += 1
                except BaseException:
                    Path(f"fuzz-input{suffix}").write_bytes(data)
                    print(f"{name}: the input is in ./fuzz-input{suffix}", file=sys.stderr)
                    raise
            print(
                f"{name:12} {sum(count.values()):7,} inputs: {count['read']:6,} read, "
                f"{count['refused']:6,} refused, {time.monotonic() - began:5.1f} s"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
