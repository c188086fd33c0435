"""Throughput and latency of `lookalike serve` beside the model called in a loop.

    python benchmarks/serve.py                                    # some ten minutes on one core
    python benchmarks/serve.py --peer peers/bin/python            # and LitServe with the same ONNX
    python benchmarks/serve.py --only stop memory

One network of timm with drawn weights, JPEG photographs of several sizes. The loop calls
`embed` on the same bytes, with the best of several batch sizes; servers are processes of their
own, asked by 1, 16 and 64 clients on kept connections, an image a request. All take turns in each
round, so that a machine which is busy with other things slows all alike; the ratio is the median
of the rounds' ratios. `cpu` is of the server's process, in milliseconds an image, which does not
depend on other programs, and its ratio is the loop's over it. Server, clients and loop share the
cores that this process may use.

`stop`: SIGTERM in the midst of requests. `memory`: many requests to a very small network.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import lookalike
from lookalike.model.embedder import Embedder
from process_figures import processor_seconds
from serve_client import Asked, ask, request_of

CLIENTS = (1, 16, 64)
BATCHES = (1, 16, 64)


def photographs(count: int) -> list[bytes]:
    """JPEG images of three sizes, of smooth colours with noise."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        width, height = ((640, 480), (500, 375), (400, 600))[number % 3]
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        pixels = (pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


@dataclass
class Server:
    """A process that serves, and its port."""

    process: subprocess.Popen[str]
    port: int

    def cpu(self) -> float:
        return sum(processor_seconds(one) for one in _family(self.process.pid))

    def memory(self) -> int:
        return sum(_memory(one) for one in _family(self.process.pid))


def _family(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(one for child in children for one in _family(int(child)))]


def _memory(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(model: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "lookalike", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, int(process.stdout.readline().rpartition(":")[2]))
        finally:
            process.terminate()


@contextmanager
def litserve(python: str, model: Path, port: int, threads: int, wait: float) -> Iterator[Server]:
    """LitServe with an ONNX file, in batches of at most 64 within `wait` seconds."""
    script = Path(__file__).with_name("serve_litserve.py")
    command = [python, str(script), str(model), str(port), str(threads), "64", str(wait)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with subprocess.Popen(command, env=environment, text=True, start_new_session=True) as process:
        try:
            _await_port(port, process)
            yield Server(process, port)
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _await_port(port: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    probe = [b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"]
    while time.monotonic() < until and process.poll() is None:
        asked = asyncio.run(ask(port, probe, 1, 1))
        if asked.seconds:
            return
        time.sleep(0.2)
    raise SystemExit("error: LitServe did not start")


@dataclass
class Row:
    """Rounds of one way at one number of clients."""

    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, asked: Asked, cpu: float, loop: tuple[float, float]) -> None:
        """A round; `loop` is the loop's seconds and seconds of CPU for an image in it."""
        assert not asked.refused, asked.refused
        assert not asked.lost
        self.rates.append(asked.rate)
        self.ratios.append(asked.rate * loop[0])
        self.cpu_ratios.append(loop[1] * len(asked.seconds) / cpu)
        self.seconds += asked.seconds
        self.cpu.append(cpu / len(asked.seconds))

    def text(self) -> str:
        """Images a second, their ratio, p50 and p99 in ms, CPU in ms, its ratio."""
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1e3
        middle = statistics.median
        return (
            f"{middle(self.rates):8.1f} {middle(self.ratios):7.2f} {p50:9.1f} {p99:9.1f} "
            f"{middle(self.cpu) * 1e3:9.2f} {middle(self.cpu_ratios):7.2f}"
        )


def best_batch(embed: Callable[..., np.ndarray], images: list[bytes], threads: int) -> int:
    """The batch size with the best rate of CPU time."""
    embed(images[:16], batch_size=16, threads=threads)
    costs = {}
    for size in BATCHES:
        began = time.process_time()
        embed(images, batch_size=size, threads=threads)
        costs[size] = time.process_time() - began
    return min(costs, key=lambda size: costs[size])


def throughput(folder: Path, args: argparse.Namespace) -> None:
    """A table: each server beside the loop of its model."""
    torch.manual_seed(0)
    trained = folder / "trained"
    embedder = Embedder.create(
        args.backbone, pretrained=False, image_size=args.size, embedding_dim=512
    )
    embedder.eval().save(trained)
    exported = folder / "network.onnx"
    images = photographs(64)
    for number, image in enumerate(images[:8]):  # to certify the export on
        (folder / f"{number}.jpg").write_bytes(image)
    lines = [f"{number}.jpg {number // 2}\n" for number in range(8)]
    (folder / "list.txt").write_text("".join(lines))
    lookalike.export(
        trained, "onnx", output=exported, input="tensor", data=folder / "list.txt", device="cpu"
    )
    raw = [request_of("/v1/embeddings", "image/jpeg", one) for one in images]
    bodies = [json.dumps({"input": base64.b64encode(one).decode()}).encode() for one in images]
    ours = [request_of("/v1/embeddings", "application/json", one) for one in bodies]
    theirs = [request_of("/predict", "application/json", one) for one in bodies]
    threads = torch.get_num_threads()
    print(f"{args.backbone} at {args.size}, {threads} threads of the network, {args.rounds} rounds")
    with ExitStack() as stack:
        ways: list[tuple[str, Any, Server, list[bytes]]] = [
            ("serve, torch", lookalike.load(trained, device="cpu"),
             stack.enter_context(serving(trained, "--device", "cpu")), raw),
            ("serve, ONNX", lookalike.load(exported),
             stack.enter_context(serving(exported)), ours),
        ]  # fmt: skip
        if args.peer:
            server = litserve(args.peer, exported, args.port, threads, args.wait)
            ways.append(("LitServe, ONNX", ways[1][1], stack.enter_context(server), theirs))
        batches = {
            id(model): best_batch(model.embed, images, args.threads) for _, model, _, _ in ways
        }
        rows = {(name, clients): Row() for name, *_ in ways for clients in CLIENTS}
        try:
            for turn in range(args.rounds + 1):  # the first is for warming up
                for clients in CLIENTS:
                    count = args.images if clients > 1 else max(8, args.images // 4)
                    loops: dict[int, tuple[float, float]] = {}
                    for name, model, server, requests in ways:
                        if id(model) not in loops:
                            loops[id(model)] = _loop_cost(
                                model.embed, images, count, batches[id(model)], args.threads
                            )
                        before = server.cpu()
                        asked = asyncio.run(ask(server.port, requests, clients, count))
                        print(
                            f"  round {turn}, {clients} clients, {name}: "
                            f"{asked.rate:.1f} images/s, loop {1 / loops[id(model)][0]:.1f}",
                            file=sys.stderr,
                        )
                        if turn:
                            rows[name, clients].add(asked, server.cpu() - before, loops[id(model)])
        finally:  # also of a benchmark that is ended early
            print("way             clients images/s  / loop    p50 ms    p99 ms    cpu ms  / loop")
            for (name, clients), row in rows.items():
                if row.rates:
                    print(f"{name:16}{clients:6} {row.text()}")
        for name, model, server, _ in ways:
            memory = server.memory() / 2**20
            print(f"{name}: best batch of the loop {batches[id(model)]}, memory {memory:.0f} MiB")


def _loop_cost(
    embed: Callable[..., np.ndarray], images: list[bytes], count: int, batch: int, threads: int
) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for an image."""
    some = [images[at % len(images)] for at in range(count)]
    began, cpu = time.perf_counter(), time.process_time()
    embed(some, batch_size=batch, threads=threads)
    return (time.perf_counter() - began) / count, (time.process_time() - cpu) / count


def _tiny(folder: Path) -> Path:
    place = folder / "tiny"
    torch.manual_seed(0)
    Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=64).save(place)
    return place


def _small_images() -> list[bytes]:
    return [
        request_of(
            "/v1/embeddings", "image/jpeg", _jpeg(Image.open(io.BytesIO(one)).resize((48, 48)))
        )
        for one in photographs(16)
    ]


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def stop(folder: Path, args: argparse.Namespace) -> None:
    """SIGTERM while 64 clients ask; what was sent is answered."""
    requests, tiny = _small_images(), _tiny(folder)
    for number in range(args.stops):
        with serving(tiny, "--device", "cpu") as server:

            async def talk(server: Server = server) -> Asked:
                asking = asyncio.create_task(ask(server.port, requests, 64))
                await asyncio.sleep(1.0)
                server.process.terminate()
                return await asking

            began = time.perf_counter()
            asked = asyncio.run(talk())
            code = server.process.wait()
        print(
            f"stop {number + 1}: {len(asked.seconds):,} answered, {asked.lost} lost, "
            f"refused {asked.refused}, exit code {code}, {time.perf_counter() - began - 1:.1f} s "
            "from the signal to the end"
        )


def memory(folder: Path, args: argparse.Namespace) -> None:
    requests = _small_images()
    with serving(_tiny(folder), "--device", "cpu") as server:
        began = time.perf_counter()
        for part in range(11):
            count = args.requests // 10 if part else 2000  # the first is for warming up
            before = server.cpu()
            asked = asyncio.run(ask(server.port, requests, 32, count))
            cpu = (server.cpu() - before) / count
            print(
                f"{part * args.requests // 10:9,} requests: {server.memory() / 2**20:7.1f} MiB, "
                f"{asked.rate:6.0f} a second, {cpu * 1e3:.2f} ms of CPU each, {asked.lost} lost, "
                f"refused {asked.refused}",
                flush=True,
            )
        print(f"{time.perf_counter() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("throughput", "stop", "memory"))
    parser.add_argument("--backbone", default="resnet18", help="of timm")
    parser.add_argument("--size", type=int, default=224, help="of the network's images")
    parser.add_argument("--wait", type=float, default=0.02, help="seconds of LitServe for a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=128, help="of a round")
    parser.add_argument("--threads", type=int, default=2, help="that decode in the loop")
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100_000, help="of `memory`")
    parser.add_argument("--peer", help="Python of an environment with litserve and onnxruntime")
    parser.add_argument("--port", type=int, default=8765, help="of LitServe")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the servers too
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores for all of it")
    with tempfile.TemporaryDirectory() as folder:
        for part in (throughput, stop, memory):
            if not args.only or part.__name__ in args.only:
                part(Path(folder), args)


if __name__ == "__main__":
    main()
