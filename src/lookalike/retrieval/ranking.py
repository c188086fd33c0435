"""Ranking a set against itself, all or by roles, without its similarity matrix.

**Exact similarities.** See `lookalike.retrieval.fixed_point`.

**Ties.** Two similarities that differ by at most 2^-23, float32's epsilon, are tied, and a tie is
decided against the query: an image of the query's class ranks behind every image of another class
whose similarity is higher, equal, or lower by up to 2^-23. So a collapsed model ranks every
positive last, in whatever order the images come, and a duplicate under another label never
flatters, even if its embedding comes from another batch and differs in its last bits.

**Memory.** Images are sorted by the size of their class and by class, which makes positives
neighbours and gives queries of one chunk similar needs. Chunks of queries meet tiles of the
gallery. A query keeps the similarities of its R positives, and those of its max(R, k) closest
negatives: further ranks change no metric, unless all are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed import World
from lookalike.retrieval.fixed_point import TIE, unit_integers
from lookalike.retrieval.roles import Roles, relevant_of

_QUERIES = 1024  # rows of a similarity tile at most
_TILE = 4096  # columns of a similarity tile at most
_NUMBERS = 4 * 2**20  # float64 numbers in the largest array of a chunk of queries: 32 MiB


@torch.no_grad()
def rank(
    embeddings: Tensor,
    labels: Tensor,
    *,
    depth: int | None,
    measure: Callable[[Tensor, Tensor], Tensor],
    columns: int,
    world: World,
    device: torch.device,
    roles: Roles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rank, for every query, all images that it may find by cosine similarity.

    Args:
        embeddings: (N, D), finite; the same on all workers. A zero vector has similarity 0 to all.
        labels: (N,) integers; the same on all workers.
        depth: ranks up to this are needed, also where R is smaller; None: all ranks.
        measure: takes the ranks, (b, W) int64, of the images that b queries should find, padded
            behind R, and R, (b,); gives (b, columns) float64. Ranks are exact up to the larger of
            R and `depth`, and above it where they are not.
        columns: how many numbers a query has.
        world: the workers, who divide the queries and all get all results.
        device: where to compute; it must know float64.
        roles: who asks, who is searched and who never meets; by default all others of everyone.

    Returns:
        The Q images that ask and whose class has another image that they may find, in an order of
        their own: their rows, (Q,) int64, how many images they should find, R, (Q,) int64, and
        what `measure` made of them, (Q, columns) float64; all on the CPU.
    """
    _, classes, sizes = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    order = torch.argsort(sizes[classes] * len(sizes) + classes, stable=True)  # (N,)
    relevant = relevant_of(classes, roles)[order]  # (N,)
    asks = relevant > 0
    if roles is not None:
        asks &= roles.query[order]
    queries = asks.nonzero()[:, 0]  # (Q,), places in the sorted set
    images = _Sorted.of(embeddings, classes[order], sizes[classes[order]], order, device, roles)
    share = world.share(len(queries))
    mine = queries[share.start : share.stop].to(device)
    wanted = relevant.to(device)
    depth = len(labels) if depth is None else depth
    parts = [
        measure(_ranks(images, rows, int(wanted[rows].max()), depth), wanted[rows])
        for rows in _chunks(mine, images, depth)
    ]
    table = torch.cat([torch.empty(0, columns, dtype=torch.float64, device=device), *parts])
    table = torch.cat(world.gather(table.to(world.device))).cpu()  # (Q, columns)
    return order[queries], relevant[queries], table


@dataclass(frozen=True)
class _Sorted:
    """The set, sorted by the size of the class and by class.

    Attributes:
        vectors: (N, D) int32, unit vectors in steps of 2^-26.
        sizes: (N,) int64, how many images the class of each has, itself included.
        begins: (N,) int64, where the class of each begins; it ends `sizes` later.
        hidden: (N,) bool, images that are not searched; None where there are none.
        sequences: (N,) int64, -1 outside of any; None where there are none.
    """

    vectors: Tensor
    sizes: Tensor
    begins: Tensor
    hidden: Tensor | None
    sequences: Tensor | None

    @classmethod
    def of(
        cls,
        embeddings: Tensor,
        classes: Tensor,
        sizes: Tensor,
        order: Tensor,
        device: torch.device,
        roles: Roles | None,
    ) -> _Sorted:
        """Bring (N, D) embeddings in `order`; `classes` and `sizes`, (N,), are in it already."""
        index = torch.arange(len(order))
        is_first = torch.ones(len(order), dtype=torch.bool)
        is_first[1:] = classes[1:] != classes[:-1]
        begins = torch.where(is_first, index, 0).cummax(0).values
        hidden = sequences = None
        if roles is not None and not roles.gallery.all():
            hidden = ~roles.gallery[order].to(device)
        if roles is not None and (roles.sequence >= 0).any():
            sequences = roles.sequence[order].to(device)
        vectors = unit_integers(embeddings, order, device)
        return cls(vectors, sizes.to(device), begins.to(device), hidden, sequences)


def _chunks(mine: Tensor, images: _Sorted, depth: int) -> Iterator[Tensor]:
    """Cut `mine` so that a chunk's work fits in memory: fewer queries where classes are large."""
    sizes = images.sizes[mine].tolist()
    count = len(images.sizes)
    begin = 0
    while begin < len(mine):
        # Sizes grow along the order: the last query of the longest possible chunk decides.
        end = min(begin + _QUERIES, len(mine))
        width = min(max(sizes[end - 1], depth), count)
        end = min(end, begin + max(1, _NUMBERS // (min(_TILE, count) + 6 * width)))
        yield mine[begin:end]
        begin = end


def _ranks(images: _Sorted, rows: Tensor, most: int, depth: int) -> Tensor:
    """The ranks of the images that the queries `rows`, (b,), should find: (b, most) int64.

    `most` is the largest number of such images. Ascending from 1, padded behind.
    """
    positives, negatives = _similarities(images, rows, max(most, depth))
    # Those that are not searched are -inf and come last.
    positives = positives.sort(1, descending=True).values[:, :most].contiguous()  # (b, most)
    # How many negatives rank before a positive: those of similarity >= the positive's - tie.
    # searchsorted wants them ascending, so both sides change their sign.
    above = torch.searchsorted(
        negatives.neg_().sort(1).values, positives.neg_().add_(TIE), right=True
    )  # (b, most)
    return above + torch.arange(1, most + 1, device=above.device)  # the i-th has i - 1 before it


def _similarities(images: _Sorted, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Similarities of the queries `rows` in steps of 2^-52, float64, padded with -inf.

    Args:
        images: the set.
        rows: (b,), queries in ascending order.
        depth: how many negatives to keep.

    Returns:
        All of the positives, (b, size of the largest class), and the highest of the negatives,
        (b, up to depth), both in no order; -inf for what the query may not find.
    """
    count = len(images.sizes)
    query = images.vectors[rows].double()  # (b, D)
    begins, sizes = images.begins[rows, None], images.sizes[rows, None]  # (b, 1)
    low, high = int(begins[0]), int(begins[-1] + sizes[-1])  # the queries' classes are there
    positives = query.new_full((len(query), int(sizes.max())), -torch.inf)
    negatives = query.new_empty((len(query), 0))
    buffer = query.new_empty(len(query) * min(_TILE, count))
    for left in range(0, count, _TILE):
        right = min(left + _TILE, count)
        tile = buffer[: len(query) * (right - left)].view(len(query), -1)  # (b, T)
        torch.mm(query, images.vectors[left:right].double().T, out=tile)
        if images.hidden is not None:
            tile.masked_fill_(images.hidden[left:right], -torch.inf)
        if images.sequences is not None:
            own = images.sequences[rows, None]  # (b, 1)
            tile.masked_fill_((images.sequences[left:right] == own) & (own >= 0), -torch.inf)
        near, far = max(left, low), min(right, high)
        if near < far:
            band = tile[:, near - left : far - left]
            place = torch.arange(near, far, device=tile.device) - begins  # (b, t), in its class
            same = (place >= 0) & (place < sizes)
            row, column = same.nonzero(as_tuple=True)
            positives[row, place[row, column]] = band[row, column]
            band.masked_fill_(same, -torch.inf)
        highest = tile.topk(min(depth, right - left), sorted=False).values
        negatives = torch.cat([negatives, highest], 1)
        if negatives.shape[1] > depth:
            negatives = negatives.topk(depth, sorted=False).values
    # The query itself, found by its place and not by its similarity.
    positives.scatter_(1, rows[:, None] - begins, -torch.inf)
    return positives, negatives
