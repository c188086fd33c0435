"""The nearest class of each embedding, over chunks of classes and workers."""

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.losses.class_chunks import Walk, default_chunk
from lookalike.losses.collectives import gather_equal
from lookalike.losses.fused_update import HeadUpdate
from lookalike.losses.normalization import inverse_norms


def nearest_class(
    unit: Tensor,
    weight: Tensor,
    rows: range,
    walk: Walk,
    update: HeadUpdate | None,
    peers: World,
) -> Tensor:
    """The class whose weight is nearest by cosine; of equally near ones, the lowest.

    Args:
        unit: (B, D) embeddings of unit length, the same on all peers.
        weight: (len(rows) * centres, D).
        rows: the classes held here.
        walk: centres a class, and classes at once.
        update: knows what rows are that have yet to catch up.
        peers: the workers that hold all classes together.

    Returns:
        (B,) int64 classes.
    """
    best = unit.new_full((len(unit),), -torch.inf)
    nearest = torch.full((len(unit),), rows.start, device=unit.device)
    size = walk.chunk or max(1, default_chunk(len(unit), weight) // walk.centres)
    for start in range(0, len(rows), size):
        span = slice(start * walk.centres, min(start + size, len(rows)) * walk.centres)
        if update is not None and update.lazy:
            index = torch.arange(span.start, span.stop, device=weight.device)
            block = update.read(weight, index)
        else:
            block = weight[span].to(unit.dtype)  # (n * centres, D)
        cos = unit @ block.t() * inverse_norms(block, block.new_empty(len(block)))
        cos = cos.view(len(unit), len(block) // walk.centres, walk.centres).amax(2)
        value, column = cos.max(dim=1)  # of equal values, the first
        nearer = value > best
        best = value.where(nearer, best)
        nearest = (column + (rows.start + start)).where(nearer, nearest)
    # Peers hold ascending classes: the first of equal values is the lowest class.
    winner = gather_equal(best, peers).argmax(0, keepdim=True)  # (1, B)
    return gather_equal(nearest, peers).gather(0, winner)[0]  # (B,)
