"""Seconds of a training step: of published figures by arithmetic, of this machine by real steps.

The head's products are 8 B D R operations for R rows of weight (2 forward, and 2 more to make the
logits again where they were not kept, 2 for each gradient). Its bytes are passes over the rows:

- fused: read forward; read and written after the backward pass, with its optimizer state: 5
  passes with sgd (20 bytes a number in float32), 7 with adamw;
- not fused: read forward and backward, the gradient written once and read by its norm, then
  read with weight and state, both written: 9 passes with sgd, 11 with adamw.

A GPU computes while it moves bytes, so that the longer of the two counts; on a CPU they add up.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.image_size import height_width
from lookalike.data.loading.batch import Batch
from lookalike.distributed.machine import cores
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.model.frozen_features import pooled_width
from lookalike.model.training_network import TrainingNetwork
from lookalike.planning.communication import Communication
from lookalike.planning.gpus import Machine
from lookalike.planning.network_profile import NetworkProfile
from lookalike.planning.run_spec import RunSpec
from lookalike.training.build import create_embedder, create_sampling, create_step, create_trained
from lookalike.training.build_heads import create_comparisons, create_heads, metric_loss

DECODE = 965.0
"""Images a second and core from a JPEG of 375 x 500 to a crop of 224, measured."""

_SECONDS = 2.0  # of real steps, and their least and most number
_LEAST, _MOST = 3, 50

_OVERLAP = 0.5  # part of the network's time under which a GPU hides the gradients' all-reduce


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, on the slowest worker; its parts are None where whole steps were timed.

    Attributes:
        images_per_second: of all workers.
        epoch: seconds; None where the number of images is not known.
        run: seconds; None where the number of steps is not known.
        decoding_cores: cores of each worker that decoding at this speed takes.
        source: what was timed, or whose figures these are.
        network: forward and backward pass and update of backbone, neck and branch.
        head_products: of embeddings and class weights.
        head_bytes: moving class weights, gradients and optimizer state.
        head: all of the head but its collectives.
        exchange: collectives of the head.
        gradients: all-reduce of the network's gradients, as far as nothing hides it.
    """

    step: float
    images_per_second: float
    epoch: float | None
    run: float | None
    decoding_cores: float
    source: str
    network: float | None = None
    head_products: float | None = None
    head_bytes: float | None = None
    head: float | None = None
    exchange: float | None = None
    gradients: float | None = None


def speed_of(spec: RunSpec, step: float, source: str, **parts: float) -> Speed:
    """Speed from the seconds of a step."""
    epoch, steps = spec.steps_per_epoch, spec.steps
    images = spec.batch / step
    return Speed(
        step=step,
        images_per_second=images,
        epoch=None if epoch is None else epoch * step,
        run=None if steps is None else steps * step,
        decoding_cores=images / spec.workers / DECODE,
        source=source,
        **parts,
    )


def speed_on(
    spec: RunSpec, network: NetworkProfile, sent: Communication, machine: Machine
) -> Speed:
    """Seconds by the figures of a machine; `network` is that of a worker's micro-batch."""
    rows = sum(spec.seen_rows)
    rate = machine.narrow if spec.product_bytes == 2 else machine.wide
    operations = (8 * spec.head_batch * rows - 2 * sum(spec.kept_logits)) * spec.dim
    products = operations / rate
    if spec.compared == "images":  # in float32, as every such loss
        others = spec.batch + spec.remembered
        products += 6 * spec.local_batch * others * sum(spec.metric_dims) / machine.wide
    moved = _bytes_of_head(spec, rows * spec.dim) / machine.bandwidth
    gpu = machine.device == "cuda"
    head = max(products, moved) if gpu else products + moved
    wire = machine.link if spec.workers <= machine.workers else machine.network
    exchange = sent.head / wire + sent.head_collectives * machine.latency
    norms = sent.batch_norms / wire + sent.norm_collectives * machine.latency
    net = _network_seconds(spec, network, machine) + norms
    buckets = sent.collectives - sent.head_collectives - sent.norm_collectives
    gradients = sent.network_gradients / wire + buckets * machine.latency
    if gpu:
        gradients = max(0.0, gradients - _OVERLAP * net)
    return speed_of(
        spec,
        net + head + exchange + gradients,
        machine.name,
        network=net,
        head_products=products,
        head_bytes=moved,
        head=head,
        exchange=exchange,
        gradients=gradients,
    )


def _bytes_of_head(spec: RunSpec, numbers: int) -> float:
    """Of moving weight, gradient and state, `numbers` of each."""
    state = 2 * spec.moments  # read and written
    if spec.fused:
        return numbers * spec.weight_bytes * (3 + state)
    return numbers * 4 * (7 + state)


def _network_seconds(spec: RunSpec, network: NetworkProfile, machine: Machine) -> float:
    # Micro-batches go forward once more; a forward pass is a third of forward and backward.
    more = 1.0 if spec.accumulate == 1 else 4 / 3
    rate = machine.narrow if spec.narrow_network else machine.wide
    flops = network.flops * spec.local_batch / network.images
    return more * flops / (rate * machine.utilisation)


def time_steps(config: Config, spec: RunSpec) -> Speed:
    """Seconds of real steps of this run on this machine, on random images.

    As many processes as the run has workers take them together, since cores, memory and caches are
    shared.

    Raises:
        ConfigError: it has fewer CUDA devices than workers, or fewer than a quarter as many cores.
    """
    cuda, workers = spec.device == "cuda", spec.workers
    places = torch.cuda.device_count() if cuda else 4 * cores()  # several may share a core
    if workers > places:
        kind = "CUDA devices" if cuda else "places (four on each core)"
        raise ConfigError(
            f"{workers} workers cannot be timed on this machine, which has {places} {kind}; give "
            "--gpu NAME or --machine FILE, or --no-measure for bytes alone"
        )
    with tempfile.TemporaryDirectory(prefix="lookalike-plan-") as folder:
        arguments = (config, spec, folder)
        torch.multiprocessing.spawn(_time_worker, arguments, nprocs=workers)
        seconds = json.loads((Path(folder) / "seconds.json").read_text("utf-8"))
    device = torch.cuda.get_device_name() if cuda else (platform.processor() or platform.machine())
    shared = f"{places} devices" if cuda else f"{cores()} cores"
    source = f"{len(seconds)} real steps on this machine: {device}, {shared}"
    # The lower quartile: whatever else the machine does only adds.
    return speed_of(spec, float(np.quantile(seconds, 0.25)), source)


def _time_worker(rank: int, config: Config, spec: RunSpec, folder: str) -> None:
    """One worker; the first writes the seconds of each step of the slowest to a file."""
    cuda, workers = spec.device == "cuda", spec.workers
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, cores() // workers))
    world = World(rank=rank, size=workers, local_size=workers, device=device)
    if workers > 1:
        dist.init_process_group(
            "nccl" if cuda else "gloo", init_method=f"file://{folder}/store",
            rank=rank, world_size=workers, timeout=timedelta(minutes=5),
            device_id=device if cuda else None,
        )  # fmt: skip
    seconds = _seconds_of_steps(config, spec, world)
    if world.is_main:
        (Path(folder) / "seconds.json").write_text(json.dumps(seconds), "utf-8")
    world.barrier()
    if workers > 1:
        dist.destroy_process_group()
        # Without the interpreter's shutdown, in which a busy machine aborted workers ("terminate
        # called without an active exception") whose seconds were written.
        os._exit(0)


def _seconds_of_steps(config: Config, spec: RunSpec, world: World) -> list[float]:
    torch.manual_seed(0)
    names = tuple(map(str, range(spec.classes)))
    catalog = Catalog((), np.zeros(0, np.int64), Classes(names))
    loss = metric_loss(config)
    heads = create_heads(config, loss, catalog, world)
    comparisons = create_comparisons(config, loss, catalog, world)
    trained = create_trained(config, create_embedder(config, loss), heads, world, comparisons)
    step = create_step(config, trained, world)
    step.prepare(frozen=config.train.freeze_backbone)
    count = len(world.shard(spec.batch))
    images = torch.randint(0, 256, (count, 3, *height_width(spec.image_size)), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    if config.train.freeze_backbone and config.train.cache_features:
        network = trained.network
        assert isinstance(network, TrainingNetwork)
        width = pooled_width(network.embedder.backbone, network.poolings)
        images = torch.rand(count, len(network.poolings), width)
    labels = torch.randint(0, spec.classes, (count,))
    if loss.needs_positives:
        labels = torch.arange(count) // create_sampling(config).k % spec.classes
    batch = Batch(images, labels, labels)
    found: list[float] = []
    while len(found) < _LEAST + 1 or (sum(found[1:]) < _SECONDS and len(found) < _MOST):
        world.barrier()
        began = time.perf_counter()
        step(batch, len(found))
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        lasted = torch.tensor(time.perf_counter() - began, device=world.device)
        found.append(world.max(lasted).item())
    return found[1:]  # the first allocates
