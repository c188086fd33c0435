"""Differentiable collectives of a sharded head.

Three a step: the embeddings (and their classes) are gathered, a few numbers a row are gathered,
and the gradient of the embeddings is reduced and scattered in the backward pass. All use the
default process group, in the same order on every worker.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from lookalike.distributed.world import World

# New names of torch 2.14, which warns of the old ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def gather_equal(tensor: Tensor, world: World) -> Tensor:
    """The workers' tensors, all of one shape, stacked in order of rank: (size, ...)."""
    if world.size == 1:
        return tensor[None]
    stacked = tensor.new_empty((world.size, *tensor.shape))
    _all_gather(stacked.flatten(0, 1), tensor.contiguous())
    return stacked


def gather_own_gradient(tensor: Tensor, world: World) -> Tensor:
    """`gather_equal` for a loss that every worker computes alike, in order of rank: (size, ...).

    The gradient goes to this worker's own part and needs no collective: each worker
    differentiates the one loss that all of them hold with respect to its own part of it.
    """
    if world.size == 1:
        return tensor[None]
    parts = list(gather_equal(tensor.detach(), world).unbind())
    parts[world.rank] = tensor
    return torch.stack(parts)


def gather_embeddings(embeddings: Tensor, counts: list[int], world: World) -> Tensor:
    """All workers' embeddings (b, D) in order of rank, (sum of counts, D); `counts` are their b.

    Backward: the gradient of the one loss with respect to this worker's rows, summed over the
    workers' classes and multiplied by the number of workers, so that the averaging of
    DistributedDataParallel over the workers yields the gradient of that loss.
    """
    if world.size == 1:
        return embeddings
    gathered: Tensor = _GatherEmbeddings.apply(embeddings, counts, world)
    return gathered


class _GatherEmbeddings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, counts: list[int], world: World) -> Tensor:
        ctx.counts, ctx.world = counts, world
        padded = embeddings.new_zeros((max(counts), embeddings.shape[1]))
        padded[: len(embeddings)] = embeddings
        parts = gather_equal(padded, world)  # (size, longest, D)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        counts, world = ctx.counts, ctx.world
        padded = gradient.new_zeros((world.size, max(counts), gradient.shape[1]))
        for part, rows in zip(padded, gradient.split(counts), strict=True):
            part[: len(rows)] = rows
        # NCCL reduces and scatters; gloo takes the same call as an all-reduce and a slice.
        own = torch.empty_like(padded[0])
        _reduce_scatter(own, padded.flatten(0, 1))
        return own[: counts[world.rank]].mul_(world.size), None, None
