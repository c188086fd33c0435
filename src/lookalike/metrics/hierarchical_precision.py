"""Average precision of a ranking by several levels of classes: a mistake within the genus is less.

H-AP of Ramzi, Audebert, Thome, Rambour and Bitot, Hierarchical Average Precision Training for
Pertinent Image Retrieval (ECCV 2022, arXiv 2207.04873), with alpha = 1. With l the number of
levels, of L, at which a query and an image are of one class, and n_l the number of images with
this l,

    rel = (l / L) / n_l                                    (0 for l = 0)
    H-AP = sum over images k of sum over images j up to k of min(rel_j, rel_k) / rank of k
           / sum over images k of rel_k

It is 1 where images of more common levels always rank before those of fewer, and the average
precision where there is one level. Ties are decided against the query, as in `ranking`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.losses.shared_classes import share_class
from lookalike.metrics.exact_similarity import TIE, tree_sum
from lookalike.metrics.protocol import Roles
from lookalike.metrics.topk import ExactTiles

BLOCK = 2**22
"""Similarities that are ranked at a time."""


@torch.no_grad()
def hierarchical_precision(
    embeddings: Tensor,
    labels: Sequence[Tensor],
    queries: Tensor,
    *,
    roles: Roles | None = None,
    world: World,
    device: torch.device,
) -> Tensor:
    """H-AP of each query, (Q,) float64 on the CPU, the same on all workers.

    Args:
        embeddings: (N, D), finite.
        labels: of each level, the finest first: (N,), or (N, L) of images of several classes.
        queries: (Q,) rows, each of which has an image of its class to find.
        roles: queries, gallery and sequences.
        world: the workers, who divide the queries.
    """
    device = torch.device("cpu") if device.type == "mps" else device  # it has no float64
    exact = ExactTiles.of(embeddings, labels[0], roles, device)
    levels = [each.to(device) for each in labels]
    share = world.shard(len(queries))
    parts = [torch.empty(0, dtype=torch.float64, device=device)]
    size = max(1, BLOCK // len(embeddings))
    for rows in queries[share.start : share.stop].to(device).split(size):
        found = torch.cat([tile for _, tile, _ in exact.tiles(rows)], 1)  # (b, N)
        common = torch.zeros_like(found, dtype=torch.int64)
        for each in levels:
            common += share_class(each[rows], each)
        common.masked_fill_(found == -torch.inf, 0)  # not searched
        parts.append(_of_rankings(found, common, len(levels)))
    return torch.cat(world.gather(torch.cat(parts).to(world.device))).cpu()


def _of_rankings(found: Tensor, common: Tensor, levels: int) -> Tensor:
    """H-AP of b queries by similarities and numbers of common levels, (b, N) each."""
    # Stable, so that results do not depend on the device.
    order = found.sub_(common * float(TIE)).sort(dim=1, descending=True, stable=True).indices
    common = common.gather(1, order)
    by_level = torch.zeros(len(common), levels + 1, dtype=torch.float64, device=common.device)
    counts = torch.stack([(common == level).sum(1) for level in range(levels + 1)], 1)  # (b, L + 1)
    for level in range(1, levels + 1):
        by_level[:, level] = level / levels / counts[:, level].double().clamp_min(1)
    relevance = by_level.gather(1, common)  # (b, N)
    shared = torch.zeros_like(relevance)
    for level in range(1, levels + 1):
        before = (common == level).cumsum(1)
        shared += before * torch.minimum(relevance, by_level[:, level, None])
    ranks = torch.arange(1, common.shape[1] + 1, device=common.device)
    return tree_sum(shared / ranks) / tree_sum(relevance)
