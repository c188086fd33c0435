"""Images in object storage against the same files on the disk, side by side in one run.

    python benchmarks/storage.py [--rounds 5] [--latency 0.035] [--part loader|step|clients]

The server is `storage_server.py`, in a process of its own on loopback: it answers each request
after 35 ms (the median of OSS from the same region), and its own work is said beside what it
serves, since on a small machine it takes its share of the same cores. The clients are the real
ones, with the real signatures, which this server does not check.

- loader: our training loader alone, at its quickest: from the disk, s3://, oss://, and from both
  with a cache, cold and warm; and one image after the other through fsspec.
- step: the same with a training step behind it (resnet18).
- clients: nothing but GETs, of the same files: fsspec's s3fs, obstore, the vendor's oss2, ours.

The contenders take turns; a ratio is that of two neighbours in time, and the medians and ranges
of the ratios are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import torch

from requirements import require

require("obstore", "oss2", "s3fs")
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.loading.image_source import REQUESTS, Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.record import Record
from lookalike.storage.disk_cache import DiskCache
from lookalike.storage.event_loop import waited
from lookalike.storage.read import fetch_bytes
from lookalike.training.step import TrainStep
from our_step import our_step
from photographs import SIZES, write_photographs
from process_figures import processor_seconds
from turns import ratios, shown

BATCH = 64
CLASSES = 8
Work = Callable[[], int]
"""Does something with images, and says with how many."""


def photos(folder: Path, count: int) -> list[Path]:
    """`count` JPEG files, of which every 256th is the same."""
    files = write_photographs(folder, SIZES["0.2 MP"], min(count, 256))
    for number in range(256, count):
        files.append(folder / f"{number:05d}.jpg")
        files[-1].hardlink_to(files[number % 256])
    return files


class Server:
    def __init__(self, folder: Path, latency: float) -> None:
        script = Path(__file__).with_name("storage_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder), "--latency", str(latency)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"


@contextmanager
def serving(folder: Path, latency: float) -> Iterator[Server]:
    """A server of the files in `folder`, which the clients find through the environment."""
    server = Server(folder, latency)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": server.address,
        "OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "key",
        "OSS_ENDPOINT": server.address,
    }  # fmt: skip
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


def loader(base: str, names: list[str], args: argparse.Namespace, source: Source) -> TrainLoader:
    records = tuple(
        Record(f"{base}/{name}", str(n % CLASSES), "x", 1) for n, name in enumerate(names)
    )
    ids = np.arange(len(names), dtype=np.int64) % CLASSES
    return TrainLoader(
        Catalog(records, ids, Classes(tuple(map(str, range(CLASSES))))),
        batch_size=BATCH,
        augment=Augment(image_size=args.size),
        seed=0,
        source=source,
    )


def epochs(made: TrainLoader, use: Callable[[object], object] = lambda batch: None) -> Work:
    number = iter(range(10**9))

    def work() -> int:
        count = 0
        for batch in made.epoch(next(number)):
            use(batch)
            count += len(batch.rows)
        return count

    return work


def by_fsspec(names: list[str]) -> Work:
    """One image after the other through fsspec, as a Dataset without workers reads."""

    def work() -> int:
        filesystem, _ = fsspec.core.url_to_fs("s3://shop/x")
        for name in names:
            filesystem.cat_file(f"shop/{name}")
        return len(names)

    return work


def clients(names: list[str], address: str) -> dict[str, Work]:
    """GETs and nothing else, `REQUESTS` at a time where the client can."""
    import obstore
    import oss2
    from obstore.store import S3Store

    store = S3Store(
        "shop", region="us-east-1", endpoint=address, access_key_id="id",
        secret_access_key="key", client_options={"allow_http": True},
    )  # fmt: skip
    session = oss2.Session(pool_size=REQUESTS)
    bucket = oss2.Bucket(oss2.Auth("id", "key"), address, "shop", session=session)
    filesystem, _ = fsspec.core.url_to_fs("s3://shop/x")

    def s3fs_at_once() -> int:
        found = filesystem.cat([f"shop/{name}" for name in names], batch_size=REQUESTS)
        return len(found)

    def threads(get: Callable[[str], object]) -> Work:
        def work() -> int:
            with ThreadPoolExecutor(REQUESTS) as pool:
                return sum(1 for _ in pool.map(get, names))

        return work

    def many_coroutines(get: Callable[[str], object]) -> Callable[[], int]:
        async def all_of_them() -> int:
            waiting = iter(names)

            async def some() -> None:
                for name in waiting:
                    await get(name)  # type: ignore[misc]

            await asyncio.gather(*[some() for _ in range(REQUESTS)])
            return len(names)

        return lambda: waited(all_of_them())

    async def obstore_get(name: str) -> None:
        await (await obstore.get_async(store, name)).bytes_async()

    return {
        "ours, s3://": many_coroutines(lambda name: fetch_bytes(f"s3://shop/{name}")),
        "ours, oss://": many_coroutines(lambda name: fetch_bytes(f"oss://shop/{name}")),
        "s3fs, cat of many": s3fs_at_once,
        "obstore, threads": threads(lambda name: obstore.get(store, name).bytes()),
        "obstore, coroutines": many_coroutines(obstore_get),
        "oss2, threads": threads(lambda name: bucket.get_object(name).read()),
        "s3fs, one by one": by_fsspec(names[:32]),
    }


def compare(
    title: str, contenders: dict[str, Work], bases: list[str], server: Server, rounds: int
) -> None:
    """Let all take turns and print the rates, and the ratios to the first and to `bases`."""
    print(f"\n{title}", flush=True)
    for work in contenders.values():  # makes connections, fills caches
        work()
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    mine: dict[str, list[float]] = {name: [] for name in contenders}
    served: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            began, used = time.perf_counter(), time.process_time()
            theirs = processor_seconds(server.process.pid)
            count = work()
            rates[name].append(count / (time.perf_counter() - began))
            mine[name].append(1e6 * (time.process_time() - used) / count)
            served[name].append(1e6 * (processor_seconds(server.process.pid) - theirs) / count)
    for name, values in rates.items():
        line = f"  {name:24} {statistics.median(values):6.0f} images/s"
        line += f", {statistics.median(mine[name]):5.0f} us of a core each"
        line += f" (server {statistics.median(served[name]):3.0f})"
        for base in bases:
            if base != name:
                line += f" | of {base} {shown(ratios(values, rates[base]))}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["loader", "step", "clients"], action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.035)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    parts = args.part or ["loader", "step", "clients"]
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        files = photos(folder, args.images)
        mean = statistics.mean(path.stat().st_size for path in files) / 1e3
        print(
            f"{len(files)} files of 500 x 375, {mean:.0f} KB each; {1e3 * args.latency:.0f} ms, "
            f"{REQUESTS} requests in flight at most; {args.threads} threads, {args.size} px"
        )
        with serving(folder, args.latency) as server:
            if "loader" in parts:
                measure_loader(folder, files, args, server, None)
            if "step" in parts:
                measure_loader(
                    folder, files, args, server, our_step("resnet18", args.size, CLASSES)
                )
            if "clients" in parts:
                names = [path.name for path in files]
                compare(
                    "clients: GETs alone", clients(names, server.address), ["ours, s3://"],
                    server, args.rounds,
                )  # fmt: skip


def measure_loader(
    folder: Path,
    files: list[Path],
    args: argparse.Namespace,
    server: Server,
    training: TrainStep | None,
) -> None:
    """The loader, with a training step behind it or alone."""
    count = args.images if training is None else min(args.images, 4 * BATCH)
    names = [path.name for path in files[:count]]
    use = (lambda batch: None) if training is None else partial(training, step=1)
    kept, number = folder.parent / "warm", itertools.count(0 if training is None else 100)

    def with_cache(place: Path) -> TrainLoader:
        return loader(
            "s3://shop", names, args, Source(threads=args.threads, cache=DiskCache(place, 10**9))
        )

    def cold_epoch() -> int:
        return epochs(with_cache(folder.parent / f"cold{next(number)}"), use)()

    contenders = {
        "disk": epochs(loader(str(folder), names, args, Source(threads=args.threads)), use),
        "s3://": epochs(loader("s3://shop", names, args, Source(threads=args.threads)), use),
        "oss://": epochs(loader("oss://shop", names, args, Source(threads=args.threads)), use),
        "s3://, cache cold": cold_epoch,
        "s3://, cache warm": epochs(with_cache(kept), use),
    }
    if training is None:
        contenders["fsspec, one by one"] = by_fsspec(names[:32])
    what = "loader alone" if training is None else f"training, resnet18 at {args.size} px"
    bases = ["disk", *(["fsspec, one by one"] if training is None else [])]
    compare(what, contenders, bases, server, args.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
