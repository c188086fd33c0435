"""Bytes that a worker sends in the collectives of a step.

Ring algorithms (Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of
workstations, 2009): an all-gather or a reduce-scatter of P bytes in all sends P (N - 1) / N, an
all-reduce twice that.
"""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.planning.network_profile import NetworkProfile
from lookalike.planning.run_spec import RunSpec

_BUCKET = 25 * 2**20  # DistributedDataParallel's buckets, bytes


@dataclass(frozen=True)
class Communication:
    """Bytes that a worker sends in a step, and numbers of collectives.

    Attributes:
        embeddings: all-gather of embeddings and classes.
        statistics: three numbers a row, or two a proxy.
        embedding_gradients: reduce-scatter of the embeddings' gradient.
        network_gradients: all-reduce; of a shared network, its weights too, gathered twice.
        head_gradients: all-reduce, where every worker holds all classes.
    """

    embeddings: int = 0
    statistics: int = 0
    embedding_gradients: int = 0
    network_gradients: int = 0
    head_gradients: int = 0
    batch_norms: int = 0
    collectives: int = 0
    head_collectives: int = 0
    norm_collectives: int = 0

    @property
    def head(self) -> int:
        """Bytes of the head's collectives."""
        return self.embeddings + self.statistics + self.embedding_gradients + self.head_gradients

    @property
    def total(self) -> int:
        """All bytes."""
        return self.head + self.network_gradients + self.batch_norms


def communication(spec: RunSpec, network: NetworkProfile) -> Communication:
    """Bytes that a worker sends; nothing where it is alone."""
    n = spec.workers
    if n == 1:
        return Communication()
    part = (n - 1) / n
    rows, heads = spec.batch * spec.dim * 4, spec.weighted_heads
    exchanged, buckets = 2 * network.learning, -(-network.learning // _BUCKET)
    if spec.shared_network:
        gathered = 2 * sum(network.blocks) + network.weights - sum(network.blocks)
        exchanged, buckets = gathered + network.learning, 3 * len(network.blocks) + 2
    norms = 0
    if spec.shared_norms:  # sums and squares forward, their gradients backward
        norms = round(2 * part * 16 * sum(channels + 1 for channels in network.norm_channels))
    norm_calls = 4 * len(network.norm_channels) if spec.shared_norms else 0
    if spec.sharded:
        # Lengths of the parts and classes, embeddings, statistics, gradient.
        calls = 5 * heads
        head_gradients = 0
    else:
        # The count of the batch, and the gradient: at once, or chunk by chunk.
        head_gradients = round(2 * part * sum(spec.seen_rows) * spec.dim * 4)
        k = spec.centres
        centres = (k, *[1] * (spec.heads - 1), *[k] * len(spec.nested))
        chunks = sum(
            -(-rows // spec.head_chunk(each)) if spec.fused else 0
            for rows, each in zip(spec.seen_rows, centres, strict=True)
        )
        calls = heads + (chunks or heads)
    embeddings = round(part * (rows + 8 * spec.batch)) * heads if spec.sharded else 0
    embedding_gradients = round(part * rows) * heads if spec.sharded else 0
    statistics = 12 * spec.batch * (n - 1) * heads if spec.sharded else 0
    if spec.compared == "images":
        gathered = 4 * spec.batch * sum(spec.metric_dims)
        embeddings += round(part * (gathered + 8 * spec.batch * len(spec.metric_dims)))
        embedding_gradients += round(part * gathered)
        # Lengths of the parts and classes, embeddings, their number, losses, gradient.
        calls += 6 * len(spec.metric_dims)
    elif spec.compared == "proxies" and not spec.sharded:
        statistics += 8 * spec.classes * (n - 1) * len(spec.metric_dims)
    return Communication(
        embeddings=embeddings,
        statistics=statistics,
        embedding_gradients=embedding_gradients,
        network_gradients=round(part * exchanged),
        head_gradients=head_gradients,
        batch_norms=norms,
        collectives=calls + buckets + norm_calls + 1,
        head_collectives=calls,
        norm_collectives=norm_calls,
    )
