"""The seconds of a training step, from what a machine can do.

The head's products are 8 B D R operations for R rows of weight (2 forward, and 2 more to make the
logits again where they were not kept, 2 for each gradient). Its bytes are passes over the rows:

- fused: read forward; read and written after the backward pass, with its optimizer state: 5
  passes with sgd (20 bytes a number in float32), 7 with adamw;
- not fused: read forward and backward, the gradient written once and read by its norm, then
  read with weight and state, both written: 9 passes with sgd, 11 with adamw.

A GPU computes while it moves bytes, so that the longer of the two counts; on a CPU they add up,
and so do the exponentials between the products.
"""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.planning.communication import Traffic
from lookalike.planning.gpus import Machine
from lookalike.planning.network_profile import Footprint
from lookalike.planning.run_spec import Setup

DECODE = 965.0
"""Images a second and core from a JPEG of 375 x 500 to a crop of 224, measured."""

_OVERLAP = 0.5  # part of the network's time under which a GPU hides the gradients' all-reduce


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, on the slowest worker.

    Attributes:
        network: forward and backward pass and update of backbone, neck and branch.
        head_products: of embeddings and class weights.
        head_bytes: moving class weights, gradients and optimizer state.
        head_epilogue: softmax, and rounding, between the products; 0 where it is hidden.
        head: all of the head but what it tells the other workers.
        exchange: collectives of the head.
        gradients: all-reduce of the network's gradients, as far as nothing hides it.
        step: all together.
        images_per_second: of all workers.
        epoch: seconds; None where the number of images is not known.
        run: seconds; None where the number of steps is not known.
        decoding_cores: cores of each worker that decoding at this speed takes.
    """

    network: float
    head_products: float
    head_bytes: float
    head_epilogue: float
    head: float
    exchange: float
    gradients: float
    step: float
    images_per_second: float
    epoch: float | None
    run: float | None
    decoding_cores: float


def speed(setup: Setup, network: Footprint, sent: Traffic, machine: Machine) -> Speed:
    """The seconds of a step.

    Args:
        setup: the run.
        network: measured with the micro-batch of one worker.
        sent: what a worker sends.
        machine: of each group of workers.
    """
    rows = sum(setup.seen_rows)
    rate = machine.narrow if setup.product_bytes == 2 else machine.wide
    logits = setup.head_batch * rows
    products = (8 * logits - 2 * sum(setup.kept_logits)) * setup.dim / rate
    moved = _seconds_of_bytes(setup, rows * setup.dim, machine)
    numbers = rows * setup.dim * (1 + setup.moments) if setup.weight_bytes == 2 else 0
    epilogue = logits * machine.epilogue + numbers * machine.rounding
    gpu = machine.device == "cuda"
    head = max(products, moved) if gpu else products + moved + epilogue

    wire = machine.link if setup.workers <= machine.workers else machine.network
    exchange = sent.head / wire + sent.head_collectives * machine.latency
    measured = machine.network_seconds is not None
    norms = 0.0 if measured else sent.batch_norms / wire + sent.norm_collectives * machine.latency
    net = _network_seconds(setup, network, machine) + norms
    buckets = sent.collectives - sent.head_collectives - sent.norm_collectives
    gradients = sent.network_gradients / wire + buckets * machine.latency
    if gpu:
        gradients = max(0.0, gradients - _OVERLAP * net)

    step = net + head + exchange + gradients
    epoch, steps = setup.steps_per_epoch, setup.steps
    images = setup.batch / step
    return Speed(
        network=net,
        head_products=products,
        head_bytes=moved,
        head_epilogue=epilogue,
        head=head,
        exchange=exchange,
        gradients=gradients,
        step=step,
        images_per_second=images,
        epoch=None if epoch is None else epoch * step,
        run=None if steps is None else steps * step,
        decoding_cores=images / setup.workers / DECODE,
    )


def _seconds_of_bytes(setup: Setup, numbers: int, machine: Machine) -> float:
    """Of moving the head's weight, gradient and state, `numbers` of each."""
    state = 2 * setup.moments  # read and written
    if setup.fused:
        return numbers * setup.weight_bytes * (3 + state) / machine.bandwidth
    fresh = machine.fresh or machine.bandwidth  # the gradient's memory is new in every step
    return numbers * 4 * ((6 + state) / machine.bandwidth + 1 / fresh)


def _network_seconds(setup: Setup, network: Footprint, machine: Machine) -> float:
    # Micro-batches go forward once more; a forward pass is a third of forward and backward.
    more = 1.0 if setup.accumulate == 1 else 4 / 3
    if machine.network_seconds is not None:  # of a micro-batch
        return machine.network_seconds * setup.accumulate * more
    rate = machine.narrow if setup.narrow_network else machine.wide
    flops = network.flops * setup.local_batch / network.images
    return more * flops / (rate * machine.utilisation)
