"""Ranking a set against itself, all or by roles, without its similarity matrix.

**Exact similarities.** Unit vectors are rounded to integers in steps of 2^-26, and similarities
are float64 matrix products of these integers. Every product is a multiple of 2^-52 and, by
Cauchy and Schwarz, every partial sum is at most 1 (plus rounding): float64 holds all of them
exactly. So a similarity depends on its two vectors only: not on the order of summation, the place
in a tile, the number of threads or workers, or the device. A vector that occurs twice gives equal
similarities, and the figures are the same to the last bit in any order of the images and on any
number of workers. The rounding moves a similarity by about 6e-9, less than float32's own
arithmetic does (about 1e-7).

**Ties.** Two similarities that differ by at most 2^-23, float32's epsilon, are tied, and a tie is
decided against the query: an image of the query's class ranks behind every image of another class
whose similarity is higher, equal, or lower by up to 2^-23. So a collapsed model ranks every
positive last, in whatever order the images come, and a duplicate under another label never
flatters, even if its embedding comes from another batch and differs in its last bits.

**Memory.** Images are sorted by the size of their class and by class, which makes positives
neighbours and gives queries of one chunk similar needs. Chunks of queries meet tiles of the
gallery. A query keeps the similarities of its R positives, and those of its max(R, k) closest
negatives: further ranks change no metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed import World
from lookalike.retrieval.roles import Roles, relevant_of

_STEPS = 2**26  # a unit vector's coordinates are integers of at most this size
_TIE = 2**29  # 2^-23 in units of a similarity, which are 2^-52

_QUERIES = 1024  # rows of a similarity tile at most
_TILE = 4096  # columns of a similarity tile at most
_NUMBERS = 4 * 2**20  # float64 numbers in the largest array of a chunk of queries: 32 MiB


@dataclass(frozen=True)
class Ranks:
    """What the metrics need to know of each query's ranking.

    Queries are the Q images that ask and whose class has another image that they may find, in an
    order of their own.

    Attributes:
        relevant: (Q,) int64, R: the other images of the query's class that it may find.
        first: (Q,) int64, the rank of the closest of them, from 1; exact up to max(R, depth).
        hits: (Q,) int64, how many of them are among the first R.
        precision: (Q,) float64, the sum of P(i) over their ranks i up to R.
    """

    relevant: Tensor
    first: Tensor
    hits: Tensor
    precision: Tensor


@torch.no_grad()
def rank(
    embeddings: Tensor,
    labels: Tensor,
    *,
    depth: int,
    world: World,
    device: torch.device,
    roles: Roles | None = None,
) -> Ranks:
    """Rank, for every query, all images that it may find by cosine similarity.

    Args:
        embeddings: (N, D), finite; the same on all workers. A zero vector has similarity 0 to all.
        labels: (N,) integers; the same on all workers.
        depth: ranks up to this are needed, also where R is smaller.
        world: the workers, who divide the queries and all get all results.
        device: where to compute; it must know float64.
        roles: who asks, who is searched and who never meets; by default all others of everyone.
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
    parts = [_rank(images, rows, wanted[rows], depth) for rows in _chunks(mine, images, depth)]
    # One table, as a gather is one collective: counts below 2^53 are exact in float64.
    table = torch.cat([torch.empty(0, 3, dtype=torch.float64, device=device), *parts])
    table = torch.cat(world.gather(table.to(world.device))).cpu()  # (Q, 3)
    return Ranks(relevant[queries], table[:, 0].long(), table[:, 1].long(), table[:, 2])


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
        vectors = _integers(embeddings, order, device)
        return cls(vectors, sizes.to(device), begins.to(device), hidden, sequences)


def _integers(embeddings: Tensor, order: Tensor, device: torch.device) -> Tensor:
    """Unit vectors in steps of 2^-26, (N, D) int32, in the given order."""
    result = torch.empty(embeddings.shape, dtype=torch.int32, device=device)
    step = max(1, _NUMBERS // (4 * max(1, embeddings.shape[1])))
    for begin in range(0, len(order), step):
        rows = order[begin : begin + step].to(embeddings.device)
        x = embeddings[rows].to(device=device, dtype=torch.float64)  # (b, D)
        peak = x.abs().amax(1, keepdim=True)  # (b, 1); divided by, so that no square overflows
        x /= peak.masked_fill_(peak == 0, 1)
        norm = _sum(x.square()).sqrt_()[:, None]  # (b, 1)
        x /= norm.masked_fill_(norm == 0, 1)
        result[begin : begin + step] = x.mul_(_STEPS).round_()
    return result


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


def _rank(images: _Sorted, rows: Tensor, relevant: Tensor, depth: int) -> Tensor:
    """The queries `rows`, (b,): (b, 3) float64, the columns `first`, `hits`, `precision`.

    `relevant`, (b,), is how many images each may find, at least 1.
    """
    most = int(relevant.max())
    positives, negatives = _similarities(images, rows, max(most, depth))
    # Those that are not searched are -inf and come last.
    positives = positives.sort(1, descending=True).values[:, :most].contiguous()  # (b, most)
    # How many negatives rank before a positive: those of similarity >= the positive's - tie.
    # searchsorted wants them ascending, so both sides change their sign.
    above = torch.searchsorted(
        negatives.neg_().sort(1).values, positives.neg_().add_(_TIE), right=True
    )  # (b, most)
    number = torch.arange(1, most + 1, device=above.device)  # (most,): the i-th positive ...
    place = above.add_(number)  # (b, most): ... and its rank
    hit = (place <= relevant[:, None]) & (number <= relevant[:, None])  # (b, most)
    precision = torch.where(hit, number.double() / place, 0.0)  # P(i) = i / rank of the i-th
    return torch.stack([place[:, 0].double(), hit.sum(1).double(), _sum(precision)], 1)


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


def _sum(x: Tensor) -> Tensor:
    """Sums of the rows, (b, W) -> (b,), in an order that depends on nothing else.

    Neighbours are added, then their sums, and so on: the same bits on any device, for any b, and
    for any number of zeros behind. torch.sum's order depends on shapes and threads.
    """
    while x.shape[1] > 1:
        if x.shape[1] % 2:
            x = torch.nn.functional.pad(x, (0, 1))
        x = x[:, 0::2] + x[:, 1::2]
    return x.sum(1)
