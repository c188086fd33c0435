"""Ranking a set against itself, all or by roles, without its similarity matrix.

**Exact similarities.** See `lookalike.metrics.exact_similarity`.

**Ties.** Two similarities that differ by at most 2^-23, float32's epsilon, are tied, and a tie is
decided against the query: an image of the query's class ranks behind every image of another class
whose similarity is higher, equal, or lower by up to 2^-23. So a collapsed model ranks every
positive last, in whatever order the images come, and a duplicate under another label never
flatters, even if its embedding comes from another batch and differs in its last bits.

**Counting.** The rank of a positive is its number among the positives plus the number of negatives
before it, so nothing is sorted but the positives. Their similarities are computed exactly. Those
to all images come in tiles, in bf16 where that is fast, and a negative is counted if it is above
the margin of error around a positive and ignored if it is below (`rounding_bounds`).
Pairs inside the margin are computed again exactly; a tile with too many of them is computed again
in float32, and then in float64. So every rank is exact, however it was found. Where every image
asks for all others, each tile serves both of its sides, and half of them is enough.

**Memory.** Images are sorted by the size of their class and by class, which makes positives
neighbours and gives queries of one block similar needs. The similarities of a block's positives
are held, and one tile. Where the set's vectors are too many to be kept rounded beside the
embeddings, the queries' are, and those that are searched are rounded tile by tile, each once for
all queries that are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.metrics import rounding_bounds
from lookalike.metrics.exact_similarity import TIE
from lookalike.metrics.positives import positives
from lookalike.metrics.protocol import Roles
from lookalike.metrics.query_block import Block
from lookalike.metrics.rounding_bounds import Level, Margin
from lookalike.metrics.sorted_set import SortedSet
from lookalike.metrics.vector_blocks import Side, Vectors

_BLOCK = 2048  # rows, and columns, of a tile at most
_NUMBERS = 4 * 2**20  # positives of a block at most
_STATE = 8 * 2**20  # positives that are held at a time
_HELD = 2**25  # numbers of the queries' vectors that are held at a time with them


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
        world: the workers, who divide the tiles and all get all results.
        device: where to compute; it must know float64.
        roles: who asks, who is searched and who never meets; by default all others of everyone.

    Returns:
        The Q images that ask and whose class has another image that they may find, in an order of
        their own: their rows, (Q,) int64, how many images they should find, R, (Q,) int64, and
        what `measure` made of them, (Q, columns) float64; all on the CPU.
    """
    images = SortedSet.of(labels, roles, device)
    table = torch.zeros(len(labels), columns, dtype=torch.float64)  # of all places
    asks = images.relevant > 0
    # Where everything that is searched is of the query's class, there is nothing to compute.
    alone = asks & (images.searched_of_class == len(images.searched))
    for size in images.relevant[alone].unique().tolist():
        ranks = torch.arange(1, size + 1, device=device)[None]
        row = measure(ranks, torch.tensor([size], device=device)).cpu()
        table[(alone & (images.relevant == size)).cpu()] = row
    search = _Search(images, embeddings, depth, world, device)
    for block in search.run(asks & ~alone):
        found = block.relevant > 0
        values = measure(block.ranks()[found], block.relevant[found])
        table[block.rows[found].cpu()] = values.cpu()
    places = asks.nonzero()[:, 0].cpu()
    return images.order[places], images.relevant[asks].cpu(), table[places]


class _Search:
    """Blocks of queries that meet all tiles of what is searched."""

    def __init__(
        self,
        images: SortedSet,
        embeddings: Tensor,
        depth: int | None,
        world: World,
        device: torch.device,
    ) -> None:
        self._images = images
        self._depth = depth
        self._world = world
        self._device = device
        self._levels = rounding_bounds.levels(device)
        self._vectors = Vectors(embeddings, images.order, device, self._levels[0])
        self._buffers: dict[torch.dtype, Tensor] = {}

    def run(self, asks: Tensor) -> Iterator[Block]:
        """The blocks of those that ask, (N,) bool, when their ranks are known on every worker."""
        images = self._images
        everything = torch.arange(len(asks), device=asks.device)
        widest = _largest(images.relevant)
        # As the main worker finds it: others may have another processor, or measure it otherwise.
        chosen = torch.tensor(int(self._vectors.keeps_fast), device=self._world.device)
        both = images.everyone and bool(self._world.broadcast(chosen))
        if both and widest * min(len(asks), _BLOCK) <= _NUMBERS and widest * len(asks) <= _STATE:
            groups = [list(self._cut(everything))]
        else:
            both = False
            groups = list(self._group(self._cut(everything[asks])))
        for group in groups:
            blocks = self._begin(group)
            if both:
                self._meet_each_other(blocks)
            else:
                self._meet_the_searched(blocks)
            for block in blocks:
                block.settle(self._vectors)
                self._world.sum(block.counts)
            yield from blocks

    def _cut(self, rows: Tensor) -> Iterator[Tensor]:
        """Cut places into blocks: fewer queries where they should find many."""
        relevant = self._images.relevant[rows].cpu()
        begin = 0
        while begin < len(rows):
            end = min(begin + _BLOCK, len(rows))
            while end - begin > 1 and (end - begin) * _largest(relevant[begin:end]) > _NUMBERS:
                most = _NUMBERS // _largest(relevant[begin:end])
                end = begin + max(1, min((end - begin) // 2, most))
            yield rows[begin:end]
            begin = end

    def _group(self, blocks: Iterator[Tensor]) -> Iterator[list[Tensor]]:
        """Blocks that are held at the same time."""
        group: list[Tensor] = []
        held = queries = 0
        for rows in blocks:
            numbers = len(rows) * _largest(self._images.relevant[rows])
            most = max(1, _HELD // self._vectors.dim)
            if group and (held + numbers > _STATE or queries + len(rows) > most):
                yield group
                group, held, queries = [], 0, 0
            group.append(rows)
            held, queries = held + numbers, queries + len(rows)
        if group:
            yield group

    def _begin(self, group: list[Tensor]) -> list[Block]:
        """Blocks with the similarities of their positives, which the workers share out."""
        images, world = self._images, self._world
        blocks = []
        for number, rows in enumerate(group):
            relevant = images.relevant[rows]
            width = max(1, _largest(relevant))
            least = torch.zeros(len(rows), width, dtype=torch.float64, device=self._device)
            if number % world.size == world.rank:
                positives(images, self._vectors, rows, out=least)
                least.sub_(TIE * 2.0**-52)
            world.sum(least)
            depth = relevant.clamp_min(self._depth or 0)
            if self._depth is None:
                depth = torch.full_like(relevant, torch.iinfo(torch.int64).max)
            blocks.append(Block(rows, relevant, depth, least))
        return blocks

    def _meet_each_other(self, blocks: list[Block]) -> None:
        """All blocks against all, each tile for both of its sides."""
        sides = [Side(self._vectors, block.rows) for block in blocks]
        pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
        for i, j in pairs[self._world.rank :: self._world.size]:
            self._tile(blocks[i], sides[i], sides[j], other=None if i == j else blocks[j])
            sides[i].keep_only(self._levels[0])
            sides[j].keep_only(self._levels[0])

    def _meet_the_searched(self, blocks: list[Block]) -> None:
        """All blocks against everything that is searched."""
        sides = [Side(self._vectors, block.rows) for block in blocks]
        tiles = self._images.searched.split(_BLOCK)
        for columns in tiles[self._world.rank :: self._world.size]:
            searched = Side(self._vectors, columns)
            for block, side in zip(blocks, sides, strict=True):
                self._tile(block, side, searched)
                side.keep_only(self._levels[0])

    def _tile(
        self, block: Block, queries: Side, searched: Side, other: Block | None = None
    ) -> None:
        """One tile: what `searched` brings `block`, and what `block` brings `other`, if any.

        `queries` are the vectors of `block`; `other` is the block of the columns, `searched`.
        """
        sides = [block] if other is None else [block, other]
        sides = [side for side in sides if not side.finished]
        if not sides:
            return
        number = max(side.level for side in sides)
        while True:
            level = self._levels[number]
            tile, margin = self._product(queries, searched, level)
            found = []
            for side in sides:
                if side is block:
                    found.append(side.look(tile, margin, searched.places, self._images.kinds))
                else:
                    found.append(side.look(tile.T, margin, block.rows, self._images.kinds))
                if found[-1].hopeless or found[-1].open > level.bearable * tile.numel():
                    side.climb(number)
                    number += 1
                    break
            else:
                break
        for side, one in zip(sides, found, strict=True):
            side.keep(one, self._vectors)

    def _product(self, rows: Side, columns: Side, level: Level) -> tuple[Tensor, Margin]:
        """Similarities, (b, T), as this level computes them, and how far off they can be."""
        x, lost_x = rows.at(level)
        y, lost_y = columns.at(level)
        margin = Margin.of(level, self._vectors.dim, lost_x, lost_y)
        if level.dtype != level.result:
            return torch.mm(x, y.T, out_dtype=level.result), margin
        room = self._buffers.get(level.result)
        if room is None or room.numel() < len(x) * len(y):
            room = torch.empty(len(x) * len(y), dtype=level.result, device=self._device)
            self._buffers[level.result] = room
        return torch.mm(x, y.T, out=room[: len(x) * len(y)].view(len(x), len(y))), margin


def _largest(counts: Tensor) -> int:
    return int(counts.max()) if len(counts) else 0
