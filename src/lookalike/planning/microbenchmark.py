"""What this machine can do, measured in some seconds by as many processes as the run has workers.

They measure at the same time, because they will compute at the same time: cores, memory and
caches are shared. Nothing is kept for another time.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from lookalike.data.image_size import ImageSize, height_width
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.losses import create_margin
from lookalike.losses.head import Head, HeadOptions
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.stochastic_rounding import Noise, store
from lookalike.model.batchnorm import synchronise
from lookalike.model.classification_branch import ClassificationBranch, TrainingNetwork
from lookalike.model.embedder import Embedder
from lookalike.planning.gpus import Machine
from lookalike.training.optim import create_optimizer, squared_norm

_SECONDS = 0.25  # for each figure
_FLOATS = 2**24  # 64 MB: more than caches hold


@dataclass(frozen=True)
class Sample:
    """What to measure.

    Attributes:
        workers: processes.
        backbone: a name.
        image_size: side, or (height, width), in pixels.
        dim: D of the embedding.
        pooling: of the neck.
        branch: whether there is a classification branch.
        batch: images of one worker.
        precision: of the network.
        optimizer: sgd or adamw.
        frozen: the backbone does not learn.
        shared_norms: batch norms exchange their statistics.
        rows: embeddings that a head compares with its classes.
        chunk: classes that it takes at once.
        device: cpu or cuda.
    """

    workers: int
    backbone: str
    image_size: ImageSize
    dim: int
    pooling: str
    branch: bool
    batch: int
    precision: torch.dtype
    optimizer: str
    frozen: bool
    shared_norms: bool
    rows: int
    chunk: int
    device: str


def calibrate(sample: Sample) -> Machine:
    """This machine, as `sample.workers` workers find it.

    Raises:
        ConfigError: it has fewer CUDA devices than workers, or fewer than a quarter as many cores.
    """
    cuda = sample.device == "cuda"
    places = torch.cuda.device_count() if cuda else 4 * cores()  # several may share a core
    if sample.workers > places:
        kind = "CUDA devices" if cuda else "places (four on each core)"
        raise ConfigError(
            f"{sample.workers} workers cannot be measured on this machine, which has {places} "
            f"{kind}; give --gpu NAME or --machine FILE, or --no-measure for bytes alone"
        )
    with tempfile.TemporaryDirectory(prefix="lookalike-plan-") as folder:
        torch.multiprocessing.spawn(_measure, (sample, folder), nprocs=sample.workers)
        found = [
            json.loads((Path(folder) / f"{rank}.json").read_text("utf-8"))
            for rank in range(sample.workers)
        ]
    # The slowest worker sets the pace.
    slow = {key: max(figures[key] for figures in found) for key in found[0]}
    device = torch.cuda.get_device_name() if cuda else (platform.processor() or platform.machine())
    return Machine(
        name=f"this machine: {device}, " + (f"{places} devices" if cuda else f"{cores()} cores"),
        device="cuda" if cuda else "cpu",
        memory=torch.cuda.mem_get_info()[1] if cuda else installed() / sample.workers,
        wide=1 / slow["wide"],
        narrow=1 / slow["narrow"],
        bandwidth=1 / slow["copy"],
        link=1 / slow["link"] if sample.workers > 1 else float("inf"),
        network=1 / slow["link"] if sample.workers > 1 else float("inf"),
        latency=slow["latency"],
        workers=sample.workers,
        utilisation=1.0,
        bfloat16=True,
        source=f"measured now by {sample.workers} worker{'s' if sample.workers > 1 else ''}",
        fresh=1 / slow["fresh"],
        epilogue=slow["epilogue"],
        rounding=slow["rounding"],
        network_seconds=slow["network"],
    )


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed() -> int:
    """Bytes of memory of this machine, or of what its control group allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _measure(rank: int, sample: Sample, folder: str) -> None:
    """One worker: writes its seconds (a byte, a number, an operation, a step) to a file."""
    cuda = sample.device == "cuda"
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, cores() // sample.workers))
    world = World(rank=rank, size=sample.workers, local_size=sample.workers, device=device)
    if sample.workers > 1:
        dist.init_process_group(
            "nccl" if cuda else "gloo", init_method=f"file://{folder}/store",
            rank=rank, world_size=sample.workers, timeout=timedelta(minutes=5),
            device_id=device if cuda else None,
        )  # fmt: skip
    figures = {
        "wide": _products(sample, torch.float32, world),
        "narrow": _products(sample, torch.bfloat16, world),
        "epilogue": _epilogue(sample, world),
        "rounding": _rounding(sample, world),
        "copy": _copies(world),
        "fresh": _fresh(world),
        **_collectives(world),
        "network": _network(sample, world),
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(figures), "utf-8")
    world.barrier()
    if sample.workers > 1:
        dist.destroy_process_group()


def _time(work: Callable[[], object], world: World, least: int = 5) -> float:
    """Seconds of `work`, done as often by every worker, all together.

    The lower quartile, since what else the machine does only ever adds; of each time, that of the
    slowest worker.
    """

    def once() -> float:
        world.barrier()
        began = time.perf_counter()
        work()
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    first = world.max(torch.tensor(once(), device=world.device)).item()
    count = max(least, min(50, int(_SECONDS / first)))
    seconds = torch.tensor([once() for _ in range(count)], device=world.device)
    return world.max(seconds).quantile(0.25).item()


def _products(sample: Sample, dtype: torch.dtype, world: World) -> float:
    """Seconds an operation of the products of a chunk, with the shapes that the head has."""
    options = {"dtype": dtype, "device": world.device}
    rows = torch.randn(sample.rows, sample.dim, **options)  # type: ignore[call-overload]
    weight = torch.randn(8, sample.chunk, sample.dim, **options)  # type: ignore[call-overload]
    logits = rows.new_empty(sample.rows, sample.chunk)
    gradient, d_rows = torch.empty_like(weight[0]), torch.zeros_like(rows)

    def work() -> None:
        for block in weight:
            torch.mm(rows, block.t(), out=logits)
            torch.mm(rows, block.t(), out=logits)
            torch.mm(logits.t(), rows, out=gradient)
            d_rows.addmm_(logits, block)

    return _time(work, world) / (8 * len(weight) * sample.rows * sample.dim * sample.chunk)


def _epilogue(sample: Sample, world: World) -> float:
    """Seconds a logit of all that the head does beside products and moving weights.

    That of a whole head whose vectors are so short that products and bytes are next to nothing.
    """
    classes, rule = 8 * sample.chunk, UpdateRule("sgd")
    options = HeadOptions(chunk=sample.chunk, update=rule)
    head = Head(4, classes, create_margin("arcface"), options).to(world.device)
    embeddings = torch.randn(sample.rows, 4, device=world.device, requires_grad=True)
    labels = torch.arange(sample.rows, device=world.device) * classes // sample.rows

    def work() -> None:
        head.begin()
        head(embeddings, labels).backward()
        head.end()

    return _time(work, world) / (sample.rows * classes)


def _rounding(sample: Sample, world: World) -> float:
    """Seconds a number of reading bfloat16 and writing it back, rounded by chance."""
    stored = torch.randn(sample.chunk, sample.dim, device=world.device).bfloat16()
    noise = Noise(0)
    noise.renew(0, world.device)

    def work() -> None:
        for _ in range(8):
            store(stored, slice(0, sample.chunk), stored.float(), noise, "weight")

    return _time(work, world) / (8 * stored.numel())


def _copies(world: World) -> float:
    """Seconds a byte of memory that is read or written."""
    one, other = torch.ones(2, _FLOATS, device=world.device).unbind()
    return _time(lambda: one.add_(other), world) / (3 * one.nbytes)


def _fresh(world: World) -> float:
    """Seconds a byte of memory that was just given out, and is written once."""

    def work() -> None:
        torch.empty(_FLOATS, device=world.device).fill_(1.0)

    return _time(work, world) / (4 * _FLOATS)


def _collectives(world: World) -> dict[str, float]:
    """Seconds a byte sent in an all-reduce, and of one that sends next to nothing."""
    if world.size == 1:
        return {"link": 0.0, "latency": 0.0}
    small, large = torch.ones(8, device=world.device), torch.ones(2**22, device=world.device)
    latency = _time(lambda: [world.sum(small) for _ in range(10)], world) / 10
    sent = 2 * (world.size - 1) / world.size * large.nbytes
    link = max(_time(lambda: world.sum(large.fill_(1.0)), world) - latency, 1e-9) / sent
    return {"link": link, "latency": latency}


def _network(sample: Sample, world: World) -> float:
    """Seconds of the network's forward and backward pass and update, as the step does them."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        sample.backbone, pretrained=False, image_size=sample.image_size,
        embedding_dim=sample.dim, pooling=sample.pooling,
    )  # fmt: skip
    branch = ClassificationBranch(embedder.backbone.dim, sample.dim) if sample.branch else None
    network: nn.Module = TrainingNetwork(embedder, branch)
    if world.size > 1 and sample.shared_norms:
        synchronise(network, world.device)
    network.to(world.device).train()
    if embedder.backbone.is_convolutional:
        network.to(memory_format=torch.channels_last)
    if sample.frozen:
        embedder.backbone.requires_grad_(False).eval()
    optimizer = create_optimizer(
        "adamw" if sample.optimizer == "adamw" else "sgd",
        [{"params": [p for p in network.parameters() if p.requires_grad]}],
        momentum=0.9,
    )
    shape = (sample.batch, 3, *height_width(sample.image_size))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=world.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def work() -> None:
        narrow = sample.precision != torch.float32
        dtype = sample.precision if narrow else torch.bfloat16
        with torch.autocast(world.device.type, dtype=dtype, enabled=narrow):
            outputs = [output for output in network(images) if output is not None]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        squared_norm(network.parameters()).item()
        optimizer.step()

    return _time(work, world, least=5)
