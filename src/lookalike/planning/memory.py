"""Bytes of one worker in a training step, by purpose.

What is alive at the same time, and so adds up, follows from the step (`lookalike.training.step`):

- all the time: weights, optimizer state, the average, the batches that wait;
- in the forward pass: the gradients of the step before, which are dropped after it, and the
  activations, the most of them at its end, where the head adds its own;
- in the backward pass: first the head's gradient beside all activations, then the network's
  gradients grow while the activations shrink. With several workers the network's gradients are
  in DistributedDataParallel's buckets all the time.

Where workers share the network (`train.shard_backbone`), each has its part of weights, gradients,
optimizer state and average, and beside it the gathered weights of what lies outside of blocks, of
one block and of the next one; in the backward pass also the gradients of a block, twice, until they
are reduced. A measurement has all weights gathered, but no activations of a training step.

The head never has the B x C logits: a chunk of them, twice, is all there is
(`lookalike.losses.class_statistics`).
"""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.data.image_size import height_width
from lookalike.data.loading.pipeline import AHEAD
from lookalike.losses.head_update import WINDOW
from lookalike.planning.network_profile import NetworkProfile
from lookalike.planning.run_spec import RunSpec

_NOISE = 4 * 2**20  # random bits of stochastic rounding (lookalike.losses.stochastic_rounding)

# Bytes that pair losses and proxies keep of each cosine for the backward pass, at most, and that
# they make beside these for a moment.
_KEPT_OF_COSINE, _MADE_OF_COSINE = 12, 12


@dataclass(frozen=True)
class Memory:
    """Bytes of the worker that needs most.

    Attributes:
        network_weights: parameters and buffers, or this worker's part of them.
        gathered: weights of the network beside its part, at most.
        average: the moving average of the embedder.
        head_weights: class weights, and images a class where they are kept.
        head_gradients: zero with an update chunk by chunk.
        activations: what the network's forward pass keeps.
        transient: the most that a pass of the network needs beyond that, for a moment.
        memory: embeddings of earlier batches.
        head_saved: 1 / norms of the classes, copies of the embeddings, their gradient and a few
            logits, kept for the backward pass; comparisons of images with each other.
        chunks: buffers for one chunk of classes; these instead of B x C logits.
        logits: B x C logits beyond those: none.
        batches: uint8 images that wait or are in use.
        runtime: of the process before it has a model.
        peak: the most at one time, of all these.
    """

    network_weights: int
    network_gradients: int
    network_optimizer: int
    average: int
    memory: int
    head_weights: int
    head_gradients: int
    head_optimizer: int
    activations: int
    transient: int
    head_saved: int
    chunks: int
    logits: int
    batches: int
    runtime: int
    peak: int
    gathered: int = 0


def memory(spec: RunSpec, network: NetworkProfile, runtime: int = 0) -> Memory:
    """Bytes of a worker; `network` is that of its micro-batch, `runtime` bytes before the model."""
    shared = spec.shared_network and spec.workers > 1
    holders = spec.workers if shared else 1
    moments = 2 if spec.optimizer == "adamw" else int(spec.momentum)
    weights, learning = -(-network.weights // holders), -(-network.learning // holders)
    network_optimizer = learning * moments
    outside = network.weights - sum(network.blocks) if shared else 0
    block = max(network.blocks, default=0) if shared else 0
    rows, dim = sum(spec.head_rows), spec.dim
    head_weights = rows * dim * spec.weight_bytes + 4 * spec.counted
    head_optimizer = rows * dim * spec.weight_bytes * spec.moments
    if spec.sample_rate < 1:  # the step of each row, and the table of what missed steps do
        head_optimizer += 4 * rows + 8 * WINDOW * (4 if spec.optimizer == "sgd" else 1)
    head_gradients = 0 if spec.fused else rows * dim * 4
    if spec.fused and spec.compared == "proxies":  # the fused update is the branch's
        head_gradients = spec.share * sum(spec.metric_dims) * 4
    rows_seen = spec.head_batch * dim * 4
    # Of each row the embedding, and the derivatives of the sum and of the true logit by it.
    saved = 4 * (sum(spec.seen_rows) + 3 * rows_seen * spec.weighted_heads + sum(spec.kept_logits))
    comparisons, copies = _comparisons(spec)
    saved += _KEPT_OF_COSINE * comparisons * len(spec.metric_dims) + copies
    remembered = spec.remembered * (4 * sum(spec.metric_dims) + 8 * len(spec.metric_dims))
    forward, backward = (each + _MADE_OF_COSINE * comparisons for each in _chunk_buffers(spec))
    batches = _batches(spec)
    average = -(-network.averaged // holders) if spec.ema else 0
    kept = (
        weights + network_optimizer + average + remembered + head_weights
        + head_optimizer + batches + runtime
    )  # fmt: skip
    gradients = learning
    held = gradients if spec.workers > 1 and not shared else 0  # the buckets
    in_backward = held + network.backward_peak if held else network.backward_grown_peak
    if shared:
        in_backward = gradients + network.backward_peak + 2 * (outside + 2 * block)
    peak = kept + max(
        network.features_peak,
        gradients + head_gradients + network.forward_peak + outside + 2 * block,
        gradients + head_gradients + network.activations + saved + forward + outside,
        held + head_gradients + network.activations + saved + backward + outside,
        head_gradients + in_backward + (saved if spec.fused else 0),
        gradients + saved + backward if spec.fused else 0,
        gradients + network.weights if shared else 0,
    )
    return Memory(
        network_weights=weights,
        gathered=max(network.weights, outside + 2 * block) if shared else 0,
        network_gradients=gradients,
        network_optimizer=network_optimizer,
        average=average,
        memory=remembered,
        head_weights=head_weights,
        head_gradients=head_gradients,
        head_optimizer=head_optimizer,
        activations=network.activations,
        transient=max(network.forward_peak, network.backward_peak) - network.activations,
        head_saved=saved,
        chunks=max(forward, backward),
        logits=0,
        batches=batches,
        runtime=runtime,
        peak=peak,
    )


def _comparisons(spec: RunSpec) -> tuple[int, int]:
    """Cosines, or comparisons of them, of a loss over the images of a batch; bytes of embeddings.

    These cosines are alive at the same time; where there are more, they are made again block by
    block.
    """
    if spec.compared == "classes":
        return 0, 0
    if spec.compared == "proxies":
        return spec.head_batch * min(spec.head_chunk(1), spec.share), 0
    # Gathered, of unit length, with the memory, and their gradient.
    return spec.comparisons, 16 * (spec.batch + spec.remembered) * sum(spec.metric_dims)


def _chunk_buffers(spec: RunSpec) -> tuple[int, int]:
    """Transient bytes of the head, in its forward and in its backward pass."""
    batch, dim, k = spec.head_batch, spec.dim, spec.centres
    chunk = min(spec.head_chunk(k), max(spec.seen_rows))
    narrow, narrow_weight = spec.product_bytes == 2, spec.weight_bytes == 2
    sampled = spec.sample_rate < 1
    block, tile, rows = batch * chunk * 4, chunk * dim * 4, batch * dim * 4
    stored = chunk * dim * spec.weight_bytes if sampled else 0
    operand = chunk * dim * spec.product_bytes if narrow != narrow_weight else 0
    beside = block // 2 if narrow and spec.device == "cpu" else 0  # narrow products, widened
    forward = stored + operand + block + beside
    backward = stored + operand + 2 * block + beside + rows
    if k > 1:
        forward += block + 2 * block // k
        backward += block + 2 * block // k
    if narrow:
        forward += block // 2 + rows + rows // 2
        backward += block // 2
    if narrow or narrow_weight or spec.fused:
        backward += tile
    if narrow_weight:
        backward += tile
    if spec.fused and (narrow_weight or sampled):
        backward += (1 + spec.moments) * tile  # rows as float32, to be written back
    if spec.fused and narrow_weight:
        backward += _NOISE
    return forward, backward


def _batches(spec: RunSpec) -> int:
    """Bytes of images on the device: one batch on a GPU, all prefetched ones on a CPU."""
    height, width = height_width(spec.image_size)
    one = spec.local_batch * 3 * height * width
    return one * (AHEAD + 2) if spec.device == "cpu" else one
