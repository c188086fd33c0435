"""Exact ranking of a set against itself, all or by roles, without its similarity matrix.

**Ties.** Two similarities that differ by at most 2^-23, float32's epsilon, are tied, and a tie is
decided against the query: an image of the query's class ranks behind every image of another class
whose similarity is higher, equal, or lower by up to 2^-23. So a collapsed model ranks every
positive last, in whatever order the images come, and a duplicate under another label never
flatters, even if its embedding comes from another batch and differs in its last bits.

**A fast product, a proved bound, an exact second look.** The rank of a positive is its number among
the positives plus the number of negatives before it, so nothing is sorted but the positives. Their
similarities are computed exactly. Those to all images come in tiles, in bf16 where that is fast,
and a negative is counted if it is above the error bound around a positive and ignored if it is
below (`fast_similarity`). Pairs within the bound are computed again exactly; a tile with too many
of them is computed again in float32, and then in float64. Where every image is a query and
searched, each tile serves both of its sides, and half of them is enough.

**Memory.** Images are sorted by the size of their class and by class, which makes positives
neighbours and gives queries of one block similar needs. The similarities of a block's positives
are held, and one tile. Where the set's vectors are too many to be kept rounded beside the
embeddings, the queries' are, and those that are searched are rounded tile by tile, each once for
all queries that are held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.losses.shared_classes import share_class
from lookalike.metrics import fast_similarity
from lookalike.metrics.class_members import ClassMembers
from lookalike.metrics.exact_similarity import TIE
from lookalike.metrics.fast_similarity import ErrorBound, UnitVectors, span
from lookalike.metrics.protocol import Roles, first_class, relevant_of
from lookalike.metrics.query_block import NegativeMask, QueryBlock
from lookalike.metrics.rank_metrics import RankMetrics

BLOCK = 2048
"""Rows, and columns, of a tile at most."""

POSITIVES = 4 * 2**20
"""Positives of a block at most."""

HELD_POSITIVES = 8 * 2**20
"""Positives that are held at a time."""

HELD_NUMBERS = 2**25
"""Numbers of the queries' vectors that are held at a time with them."""

CLASS_ROWS = 128
"""Queries at a time that are compared with their classes: these make a narrow band."""

CLASS_COLUMNS = 4096
"""Images at a time of a class that is larger."""


@torch.no_grad()
def rank(
    embeddings: Tensor,
    labels: Tensor,
    metrics: RankMetrics,
    *,
    world: World,
    device: torch.device,
    roles: Roles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rank, for every query, all images that it may find by cosine similarity.

    Args:
        embeddings: (N, D), finite; the same on all workers. A zero vector has similarity 0 to all.
        labels: (N,) integers, or (N, L) of images with up to L classes, -1 behind the last, of
            which a query finds the images with a class in common; the same on all workers.
        world: the workers, who divide the tiles and all get all results.
        device: where to compute; float64 must exist there.
        roles: queries, gallery and sequences; by default every image searches all others.

    Returns:
        The Q queries whose class has another image that they may find, in an order of their own:
        their rows, (Q,) int64, R, (Q,) int64, and the metrics, (Q, M) float64; all on the CPU.
    """
    images = SortedSet.of(labels, roles, device)
    table = torch.zeros(len(labels), len(metrics.names), dtype=torch.float64)  # of all places
    queries = images.relevant > 0
    classes = images.negatives.classes[images.searched]
    if classes.ndim == 1 and bool((classes == classes[:1]).all()):  # there is no negative
        for size in images.relevant[queries].unique().tolist():
            ranks = torch.arange(1, size + 1, device=device)[None]
            row = metrics.of_ranks(ranks, torch.tensor([size], device=device)).cpu()
            table[(queries & (images.relevant == size)).cpu()] = row
    else:
        for block in _RankedSearch(images, embeddings, metrics.depth, world, device).run(queries):
            found = block.relevant > 0
            values = metrics.of_ranks(block.ranks()[found], block.relevant[found])
            table[block.rows[found].cpu()] = values.cpu()
    places = queries.nonzero()[:, 0].cpu()
    return images.order[places], images.relevant[queries].cpu(), table[places]


@dataclass(frozen=True)
class SortedSet:
    """The set, sorted by the size of the class and by class; all but `order` on the device."""

    order: Tensor  # (N,) int64, place to row, on the CPU
    negatives: NegativeMask  # which images are negatives of each other
    sizes: Tensor  # (N,) int64, images of the class of each, itself included
    begins: Tensor  # (N,) int64, where the class of each begins; it ends `sizes` later
    relevant: Tensor  # (N,) int64, R of the queries, 0 for others
    searched: Tensor  # (G,) int64, the places that are searched, ascending
    hidden: Tensor | None  # (N,) bool, those that are not; None where all are
    everyone: bool  # whether all images are queries and all are searched
    members: ClassMembers | None = None  # where images may have several classes

    @classmethod
    def of(cls, labels: Tensor, roles: Roles | None, device: torch.device) -> SortedSet:
        """The set of images with these labels, (N,) or (N, L) integers, and roles."""
        labels = labels.cpu()
        _, classes, sizes = torch.unique(
            first_class(labels), return_inverse=True, return_counts=True
        )
        order = torch.argsort(sizes[classes] * len(sizes) + classes, stable=True)  # (N,)
        negative_classes, members = classes[order], None
        if labels.ndim == 1:
            relevant = relevant_of(classes, roles)
        else:
            negative_classes = labels[order]
            members = ClassMembers.of(negative_classes.to(device))
            relevant = torch.empty_like(order)
            relevant[order] = members.relevant(None if roles is None else roles[order]).cpu()
        gallery = torch.ones(len(order), dtype=torch.bool)
        sequences = None
        everyone = True
        if roles is not None:
            relevant = relevant * roles.query
            gallery = roles.gallery
            everyone = bool(roles.query.all() and gallery.all())
            if (roles.sequence >= 0).any():
                sequences = roles.sequence[order].to(device)
        classes = classes[order]
        is_first = torch.ones(len(order), dtype=torch.bool)
        is_first[1:] = classes[1:] != classes[:-1]
        return cls(
            order=order,
            negatives=NegativeMask(negative_classes.to(device), sequences),
            sizes=sizes[classes].to(device),
            begins=torch.where(is_first, torch.arange(len(order)), 0).cummax(0).values.to(device),
            relevant=relevant[order].to(device),
            searched=gallery[order].nonzero()[:, 0].to(device),
            hidden=None if bool(gallery.all()) else ~gallery[order].to(device),
            everyone=everyone,
            members=members,
        )

    def positives(self, vectors: UnitVectors, rows: Tensor, *, out: Tensor) -> None:
        """Write the exact similarities of all that the queries `rows` should find.

        Args:
            rows: (b,) int64 places, ascending.
            out: (b, W) float64, W the largest R of them: descending, and -inf behind R.
        """
        sizes = self.sizes[rows].tolist()
        begin = 0
        while begin < len(rows):
            # Sizes grow along the order: the last query of the longest possible part decides.
            end = min(begin + CLASS_ROWS, len(rows))
            end = begin + max(1, min(end - begin, POSITIVES // sizes[end - 1]))
            find = self._positives if self.members is None else self._shared_positives
            out[begin:end] = find(vectors, rows[begin:end], out.shape[1])
            begin = end

    def _positives(self, vectors: UnitVectors, rows: Tensor, width: int) -> Tensor:
        """Those of `rows`, (n,): (n, width), descending, padded."""
        begins, sizes = self.begins[rows, None], self.sizes[rows, None]  # (n, 1)
        query = vectors.exact(rows)  # (n, D)
        found = query.new_full((len(rows), max(width, int(sizes[-1]))), -torch.inf)
        for column in self._classmates(rows).split(CLASS_COLUMNS):  # (t,)
            band = query @ vectors.exact(span(column)).T  # (n, t)
            place = column - begins  # (n, t), in the class
            mine = (place >= 0) & (place < sizes) & self._may_find(rows, column)
            row, number = mine.nonzero(as_tuple=True)
            found[row, place[row, number]] = band[row, number]
        return found.sort(1, descending=True).values[:, :width]

    def _shared_positives(self, vectors: UnitVectors, rows: Tensor, width: int) -> Tensor:
        """The same where images may have several classes: the `width` highest are all there are."""
        assert self.members is not None
        query = vectors.exact(rows)  # (n, D)
        found = query.new_full((len(rows), width), -torch.inf)
        for column in self.members.of_classes(self.negatives.classes[rows]).split(CLASS_COLUMNS):
            band = query @ vectors.exact(span(column)).T  # (n, t)
            own = self.negatives.classes[rows]
            mine = share_class(own, self.negatives.classes[column]) & self._may_find(rows, column)
            band.masked_fill_(~mine, -torch.inf)
            found = torch.cat([found, band], 1).sort(1, descending=True).values[:, :width]
        return found

    def _may_find(self, rows: Tensor, column: Tensor) -> Tensor:
        """(n, t): images of the gallery but the query itself and those of its own sequence."""
        found = column != rows[:, None]
        if self.hidden is not None:
            found &= ~self.hidden[column]
        if self.negatives.sequences is not None:
            own = self.negatives.sequences[rows, None]  # (n, 1)
            found &= (self.negatives.sequences[column] != own) | (own < 0)
        return found

    def _classmates(self, rows: Tensor) -> Tensor:
        """The places of all images of the classes of `rows`, (t,) int64, ascending, each once."""
        begins = self.begins[rows].unique_consecutive()
        sizes = self.sizes[begins]
        ends = sizes.cumsum(0)
        within = torch.arange(int(ends[-1]), device=rows.device)
        return within + (begins - ends + sizes).repeat_interleave(sizes)


@dataclass(frozen=True)
class _Side:
    """One side of a tile: places, (n,), and their vectors by precision, with their rounding."""

    places: Tensor
    rounded: dict[int, tuple[Tensor, float]]

    def keep_fastest(self) -> None:
        """Free the vectors of slower precisions."""
        for number in [number for number in self.rounded if number]:
            del self.rounded[number]


class _RankedSearch:
    """Blocks of queries compared with all tiles of the gallery."""

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
        self._precisions = fast_similarity.precisions(device)
        self._vectors = UnitVectors(embeddings, images.order, device, self._precisions[0])
        self._buffers: dict[torch.dtype, Tensor] = {}

    def run(self, queries: Tensor) -> Iterator[QueryBlock]:
        """The blocks of the queries, (N,) bool, when their ranks are known on every worker."""
        images = self._images
        everything = torch.arange(len(queries), device=queries.device)
        widest = _largest(images.relevant)
        # As the main worker finds it: others may have another processor, or measure it otherwise.
        chosen = torch.tensor(int(self._vectors.keeps_fast), device=self._world.device)
        both = images.everyone and bool(self._world.broadcast(chosen))
        both = both and widest * min(len(queries), BLOCK) <= POSITIVES
        if both and widest * len(queries) <= HELD_POSITIVES:
            groups = [list(self._cut(everything))]
        else:
            both = False
            groups = list(self._group(self._cut(everything[queries])))
        for group in groups:
            blocks = self._begin(group)
            if both:
                self._compare_mutually(blocks)
            else:
                self._compare_with_gallery(blocks)
            for block in blocks:
                block.settle()
                self._world.sum(block.counts)
            yield from blocks

    def _cut(self, rows: Tensor) -> Iterator[Tensor]:
        """Cut places into blocks: fewer queries where they should find many."""
        relevant = self._images.relevant[rows].cpu()
        begin = 0
        while begin < len(rows):
            end = min(begin + BLOCK, len(rows))
            while end - begin > 1 and (end - begin) * _largest(relevant[begin:end]) > POSITIVES:
                most = POSITIVES // _largest(relevant[begin:end])
                end = begin + max(1, min((end - begin) // 2, most))
            yield rows[begin:end]
            begin = end

    def _group(self, blocks: Iterator[Tensor]) -> Iterator[list[Tensor]]:
        """Blocks that are held at the same time."""
        group: list[Tensor] = []
        held = queries = 0
        for rows in blocks:
            numbers = len(rows) * _largest(self._images.relevant[rows])
            most = max(1, HELD_NUMBERS // self._vectors.dim)
            if group and (held + numbers > HELD_POSITIVES or queries + len(rows) > most):
                yield group
                group, held, queries = [], 0, 0
            group.append(rows)
            held, queries = held + numbers, queries + len(rows)
        if group:
            yield group

    def _begin(self, group: list[Tensor]) -> list[QueryBlock]:
        """Blocks with the similarities of their positives, which the workers divide."""
        images, world = self._images, self._world
        blocks = []
        for number, rows in enumerate(group):
            relevant = images.relevant[rows]
            width = max(1, _largest(relevant))
            least = torch.zeros(len(rows), width, dtype=torch.float64, device=self._device)
            if number % world.size == world.rank:
                images.positives(self._vectors, rows, out=least)
                least.sub_(TIE * 2.0**-52)
            world.sum(least)
            depth = relevant.clamp_min(self._depth or 0)
            if self._depth is None:
                depth = torch.full_like(relevant, torch.iinfo(torch.int64).max)
            blocks.append(QueryBlock(rows, relevant, depth, least, self._vectors, images.negatives))
        return blocks

    def _compare_mutually(self, blocks: list[QueryBlock]) -> None:
        """All blocks with all, each tile for both of its sides."""
        sides = [self._side(block.rows) for block in blocks]
        pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
        for i, j in pairs[self._world.rank :: self._world.size]:
            self._tile(blocks[i], sides[i], sides[j], other=None if i == j else blocks[j])
            sides[i].keep_fastest()
            sides[j].keep_fastest()

    def _compare_with_gallery(self, blocks: list[QueryBlock]) -> None:
        sides = [self._side(block.rows) for block in blocks]
        tiles = self._images.searched.split(BLOCK)
        for columns in tiles[self._world.rank :: self._world.size]:
            searched = self._side(columns)
            for block, side in zip(blocks, sides, strict=True):
                self._tile(block, side, searched)
                side.keep_fastest()

    def _tile(
        self, block: QueryBlock, rows: _Side, columns: _Side, other: QueryBlock | None = None
    ) -> None:
        """Count a tile for `block`, of the rows, and for `other`, of the columns, if any."""
        sides = [(block, columns)] if other is None else [(block, columns), (other, rows)]
        sides = [(queries, searched) for queries, searched in sides if not queries.finished]
        number, made = max((queries.precision for queries, _ in sides), default=0), -1
        for queries, searched in sides:
            while True:
                if number != made:
                    tile, bound = self._product(rows, columns, number)
                    made = number
                if queries.add(tile if queries is block else tile.T, bound, searched.places):
                    break
                queries.refuse(number)
                number += 1

    def _side(self, places: Tensor) -> _Side:
        return _Side(places, {0: self._vectors.rounded(span(places), self._precisions[0])})

    def _rounded(self, side: _Side, number: int) -> tuple[Tensor, float]:
        """Vectors of a side in a precision, made once while the side is held."""
        if number not in side.rounded:
            precision = self._precisions[number]
            side.rounded[number] = self._vectors.rounded(span(side.places), precision)
        return side.rounded[number]

    def _product(self, rows: _Side, columns: _Side, number: int) -> tuple[Tensor, ErrorBound]:
        """Similarities, (b, T), in a precision, and their error bound."""
        precision = self._precisions[number]
        (x, lost_x), (y, lost_y) = self._rounded(rows, number), self._rounded(columns, number)
        bound = ErrorBound.of(precision, self._vectors.dim, lost_x, lost_y)
        if precision.dtype != precision.result:
            return torch.mm(x, y.T, out_dtype=precision.result), bound
        buffer = self._buffers.get(precision.result)
        if buffer is None or buffer.numel() < len(x) * len(y):
            buffer = torch.empty(len(x) * len(y), dtype=precision.result, device=self._device)
            self._buffers[precision.result] = buffer
        return torch.mm(x, y.T, out=buffer[: len(x) * len(y)].view(len(x), len(y))), bound


def _largest(counts: Tensor) -> int:
    return int(counts.max()) if len(counts) else 0
